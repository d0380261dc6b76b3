//! Which earlier step a return sentence names: "let's go back to where we had 4 10".
//!
//! Compares words, and knows nothing of how steps were found or what a return does.

use std::collections::BTreeMap;

use super::solution::Step;

/// Below this cosine of words a return sentence names no step.
const MIN_OVERLAP: f64 = 0.2;
/// A runner-up with this share of the best overlap makes the choice uncertain.
const AMBIGUOUS_SHARE: f64 = 0.8;

/// Returns the step on a path that a sentence names, and whether that is a guess; `None` if it names none.
///
/// In order: a step's number; the state that an earlier step left (the text after its `|`), word for word, then in
/// any order; the step with the most similar words.
pub fn named_step(sentence: &str, path: &[usize], steps: &[Step]) -> Option<(usize, bool)> {
    let named = numbered(sentence, path, steps).or_else(|| by_state(sentence, path, steps));
    named.map(|id| (id, false)).or_else(|| by_words(sentence, path, steps))
}

fn words(text: &str) -> Vec<String> {
    let trimmed = |word: &str| word.trim_matches(|c: char| ".,;:!?\"'()[]".contains(c)).to_lowercase();
    text.split_whitespace()
        .map(trimmed)
        .filter(|word| !word.is_empty())
        .collect()
}

/// Returns the words of the state that a step left: after its last `|`; of a problem, what comes before `->`.
fn state_words(step: &Step) -> Vec<String> {
    let state = match step.parent {
        None => step.text.split_once("->").map(|(numbers, _)| numbers),
        Some(_) => step
            .text
            .rsplit_once('|')
            .map(|(_, state)| state.split(',').next().unwrap_or(state)),
    };
    state.map(words).unwrap_or_default()
}

/// Finds the step on the path whose heading bears the number that the sentence names.
fn numbered(sentence: &str, path: &[usize], steps: &[Step]) -> Option<usize> {
    let number_after_step = |text: &str| {
        let words = words(text);
        words
            .windows(2)
            .find(|w| w[0] == "step")
            .and_then(|w| w[1].parse::<usize>().ok())
    };
    let number = number_after_step(sentence)?;
    let heading = |id: &&usize| number_after_step(steps[**id].text.lines().next().unwrap_or("")) == Some(number);
    path.iter().rev().find(heading).copied()
}

/// Finds the step on the path whose state ends the sentence: the longest one, exactly or else in any order.
fn by_state(sentence: &str, path: &[usize], steps: &[Step]) -> Option<usize> {
    let said = words(sentence);
    let ends_with = |state: &[String], in_order: bool| {
        if state.is_empty() || state.len() > said.len() {
            return false;
        }
        let (mut tail, mut state) = (said[said.len() - state.len()..].to_vec(), state.to_vec());
        if !in_order {
            tail.sort();
            state.sort();
        }
        tail == state
    };
    [true, false].into_iter().find_map(|in_order| {
        let states = path.iter().map(|id| (*id, state_words(&steps[*id])));
        let named = states.filter(|(_, state)| ends_with(state, in_order));
        // `max_by_key` keeps the last of equals, which is the deepest.
        named.max_by_key(|(_, state)| state.len()).map(|(id, _)| id)
    })
}

/// Finds the step on the path whose words are most like the sentence's: the cosine of TF-IDF vectors.
fn by_words(sentence: &str, path: &[usize], steps: &[Step]) -> Option<(usize, bool)> {
    let documents: Vec<Vec<String>> = path.iter().map(|id| words(&steps[*id].text)).collect();
    let rarity = |word: &str| {
        let holding = documents.iter().filter(|words| words.iter().any(|w| w == word)).count();
        ((1.0 + documents.len() as f64) / (1.0 + holding as f64)).ln() + 0.1
    };
    let vector = |words: &[String]| {
        let mut vector: BTreeMap<String, f64> = BTreeMap::new();
        words
            .iter()
            .for_each(|word| *vector.entry(word.clone()).or_default() += rarity(word));
        vector
    };
    let said = vector(&words(sentence));
    let scores: Vec<f64> = documents.iter().map(|words| cosine(&said, &vector(words))).collect();
    let (best, score) = scores.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let runner_up = scores
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != best)
        .map(|(_, s)| *s)
        .fold(0.0, f64::max);
    (score >= MIN_OVERLAP).then_some((path[best], runner_up > score * AMBIGUOUS_SHARE))
}

fn cosine(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> f64 {
    let dot: f64 = a.iter().filter_map(|(word, x)| b.get(word).map(|y| x * y)).sum();
    let length = |v: &BTreeMap<String, f64>| v.values().map(|x| x * x).sum::<f64>().sqrt();
    let lengths = length(a) * length(b);
    if lengths > 0.0 { dot / lengths } else { 0.0 }
}
