//! Reading back what was written: does it still say what the trace does?
//!
//! A model that writes may drop a result, answer something else, reflect where it was not asked to, or box an answer that
//! is wrong. A text is checked part by part as it comes, and once more as a whole. What is told apart here are words and
//! numbers: whether prose is good prose is not judged.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::plan::Part;
use super::{RewriteConfig, template};
use crate::formats::{Trace, TraceNode, VerifierName};
use crate::verify::math::end_of_last_box;
use crate::verify::{
    BacktrackPatterns, Wording, count_backtracks, paragraphs, same_answer, squeezed, stated_answer, verify_with,
};

/// Of the numbers of a step that are neither results nor answers, so many must survive: prose may say "half" or "squared".
const MIN_NUMBERS_KEPT: f64 = 0.7;

/// A number, perhaps with thousands separators, also as LaTeX sets them.
const NUMBER: &str = r"\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?";

/// A return sentence is one sentence.
const MAX_RETURN_WORDS: usize = 60;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the built-in pattern is a regular expression")
}

/// Returns why the claims of a whole text are not those of its trace: the verdict, the number of boxes, and that of returns.
pub fn claims_objection(trace: &Trace, config: &RewriteConfig, text: &str) -> Option<String> {
    let verdict = verify_with(&trace.problem, text, &config.wording);
    if let Some(failure) = verdict.failure {
        return Some(format!("not_verified: {failure}"));
    }
    let num_boxes = count_boxes(text);
    if trace.problem.verifier == VerifierName::Math && num_boxes > 1 {
        return Some(format!("boxes: {num_boxes} in the text"));
    }
    let counted = count_backtracks(text, &config.patterns);
    (counted != trace.k).then(|| format!("backtracks: {counted} in the text, {} in the trace", trace.k))
}

/// Returns whether a paragraph repeats the one before it.
pub fn repeats(paragraphs: &[&str]) -> bool {
    paragraphs.windows(2).any(|pair| pair[0] == pair[1])
}

/// Returns why a text that a model had a part in is not the planned one: its paragraphs are read as the parts, in order.
pub fn order_objection(trace: &Trace, config: &RewriteConfig, parts: &[Part], text: &str) -> Option<String> {
    let paragraphs = paragraphs(text);
    if paragraphs.len() != parts.len() {
        return Some(format!(
            "order: {} paragraphs for {} parts",
            paragraphs.len(),
            parts.len()
        ));
    }
    if repeats(&paragraphs) {
        return Some("repeated_paragraph".to_owned());
    }
    for (part, paragraph) in parts.iter().zip(paragraphs) {
        let objection = match part {
            Part::Step { visit_idx } => step_objection(trace, config, &trace.nodes[*visit_idx], paragraph),
            // The template's own sentence may be worded in any way.
            Part::Return { .. } if paragraph == template::paragraph(trace, config, part) => None,
            Part::Return { to_idx, .. } => {
                let begins = format!("{} {} ", config.wording.reflection, config.wording.negative);
                match paragraph.strip_prefix(&begins) {
                    Some(sentence) => return_objection(config, sentence, to_idx.is_none(), &[]),
                    None => Some("reflection_lost"),
                }
            }
            Part::Approval => (paragraph != config.wording.approval()).then_some("reflection_lost"),
        };
        if let Some(reason) = objection {
            return Some(format!("order: {reason}"));
        }
    }
    None
}

/// Returns why a paragraph does not say what a step does.
pub fn step_objection(trace: &Trace, config: &RewriteConfig, node: &TraceNode, text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        return Some("empty");
    }
    let verifier = trace.problem.verifier;
    if verifier == VerifierName::Countdown {
        // Its verifier replays the equations and knows no prose.
        return (squeezed(text) != squeezed(&node.text)).then_some("not_the_step");
    }
    if paragraphs(text).len() != 1 {
        return Some("several_paragraphs");
    }
    let reflects = |text: &str| reflects(&config.wording, &config.patterns, text);
    if reflects(text) && !reflects(&node.text) {
        return Some("unasked_reflection");
    }
    let is_right = node.terminal && node.correct == Some(true);
    match (is_right, count_boxes(text)) {
        (true, 1) | (false, 0) => {}
        (true, 0) if stated_by_box(node) => return Some("box_lost"),
        (true, 0) => {}
        (true, _) => return Some("several_boxes"),
        (false, _) => return Some("boxed_early"),
    }
    if let (true, Some(answer)) = (node.terminal, node.answer.as_deref()) {
        let stated = stated_answer(verifier, text);
        let is_stated = stated.is_some_and(|stated| same_answer(verifier, &stated, answer));
        if is_right && !is_stated {
            return Some("other_answer");
        }
        if !is_right && !is_stated && !mentions(text, answer) {
            return Some("answer_lost");
        }
    }
    if num_headings(text) > num_headings(&node.text) {
        return Some("several_steps");
    }
    if !keeps_numbers(&node.text, text) {
        return Some("numbers_lost");
    }
    // A model that goes on by itself computes what the notes don't have.
    let known = &numbers(&node.text) | &numbers(&trace.problem.problem);
    (!results(text).is_subset(&known)).then_some("results_added")
}

/// Returns why a sentence does not return to where it should; `names` are texts of the step that it returns to, of which
/// it must take up a number or a word; none: any will do.
pub fn return_objection(config: &RewriteConfig, sentence: &str, at_root: bool, names: &[&str]) -> Option<&'static str> {
    static GO_BACK: LazyLock<Regex> = LazyLock::new(|| regex("(?i)^let['’]s go back to"));
    static RESTART: LazyLock<Regex> = LazyLock::new(|| regex("(?i)^let['’]s restart"));
    let sentence = sentence.trim();
    let begins = if at_root { &RESTART } else { &GO_BACK };
    if !begins.is_match(sentence) || !config.patterns.matches(sentence) {
        return Some("no_return");
    }
    if paragraphs(sentence).len() != 1 || sentence.split_whitespace().count() > MAX_RETURN_WORDS {
        return Some("return_too_long");
    }
    if count_boxes(sentence) > 0 {
        return Some("boxed_early");
    }
    if sentence.contains(&config.wording.reflection) || sentence.contains(&config.wording.positive) {
        return Some("unasked_reflection");
    }
    let said = key_words(sentence);
    let is_named = names.is_empty() || names.iter().any(|name| !key_words(name).is_disjoint(&said));
    (!is_named).then_some("return_names_nothing")
}

/// Returns whether a text reflects, judges or returns.
pub fn reflects(wording: &Wording, patterns: &BacktrackPatterns, text: &str) -> bool {
    static DOUBT: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)\b(?:but wait|hmm+)\b"));
    let sentences = [&wording.reflection, &wording.negative, &wording.positive];
    patterns.matches(text) || DOUBT.is_match(text) || sentences.iter().any(|sentence| text.contains(*sentence))
}

fn stated_by_box(node: &TraceNode) -> bool {
    count_boxes(&node.text) > 0
}

/// Returns the number of boxes.
pub fn count_boxes(text: &str) -> usize {
    text.matches("\\boxed").count() + text.matches("\\fbox").count()
}

/// Where the last box is: its start, the length of its name, and its end.
fn last_box(text: &str) -> Option<(usize, usize, usize)> {
    let end = end_of_last_box(text)?;
    let names = ["\\boxed", "\\fbox"];
    let starts = (names.iter()).filter_map(|name| Some((text[..end].rfind(name)?, name.len(), end)));
    starts.max()
}

/// Returns the text whose last box alone is one.
pub fn boxed_once(text: &str) -> String {
    match last_box(text) {
        Some((start, ..)) => unboxed(&text[..start]) + &text[start..],
        None => text.to_owned(),
    }
}

/// Returns the text with the content of boxes in their place.
pub fn unboxed(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some((start, name_len, end)) = last_box(&text) {
        let framed = text[start + name_len..end].trim();
        let content = framed
            .strip_prefix('{')
            .map_or(framed, |inner| inner.strip_suffix('}').unwrap_or(inner));
        let content = content.trim().to_owned();
        text.replace_range(start..end, &content);
    }
    text
}

/// Returns whether an answer is somewhere in a text.
pub fn mentions(text: &str, answer: &str) -> bool {
    match value(answer.trim_start_matches('-')) {
        Some(number) => numbers(text).contains(&number),
        None => bare(text).contains(&bare(answer)),
    }
}

/// A text without what only sets it: white space, dollar signs, braces and the like.
fn bare(text: &str) -> String {
    let text = text
        .replace("\\left", "")
        .replace("\\right", "")
        .replace("\\dfrac", "\\frac");
    text.chars()
        .filter(|c| !c.is_whitespace() && !"${}\\,!;".contains(*c))
        .collect::<String>()
        .to_lowercase()
}

/// Returns whether the results of a step are all there in its rewritten text, and most of its other numbers.
fn keeps_numbers(step: &str, text: &str) -> bool {
    let step = without_numbering(step);
    let kept = numbers(text);
    if !results(&step).is_subset(&kept) {
        return false;
    }
    let all = numbers(&step);
    let num_kept = all.intersection(&kept).count();
    num_kept as f64 >= MIN_NUMBERS_KEPT * all.len() as f64
}

/// The numbers behind equals signs, without their own signs.
fn results(text: &str) -> BTreeSet<String> {
    static RESULT: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"=[\s$\\]*-?({NUMBER})")));
    RESULT
        .captures_iter(text)
        .filter_map(|found| value(&found[1]))
        .collect()
}

fn num_headings(text: &str) -> usize {
    text.lines().filter(|line| line.trim_start().starts_with('#')).count()
}

/// Removes the numbers of headings and list items, which count steps and say nothing.
fn without_numbering(step: &str) -> String {
    static NUMBERING: LazyLock<Regex> =
        LazyLock::new(|| regex(r"(?m)^\s*(?:#+\s*)?(?:\*\*)?(?:(?i:step)\s+\d+\s*[:.)]?|\d+[.)]\s)"));
    NUMBERING.replace_all(step, "").into_owned()
}

/// The numbers of a text, without signs: a minus may have become a word.
fn numbers(text: &str) -> BTreeSet<String> {
    static NUMBERS: LazyLock<Regex> = LazyLock::new(|| regex(NUMBER));
    NUMBERS
        .find_iter(text)
        .filter_map(|found| value(found.as_str()))
        .collect()
}

/// A number in one form, whatever its separators and last zeros.
fn value(number: &str) -> Option<String> {
    let plain: String = number.chars().filter(|c| !matches!(c, ',' | '{' | '}')).collect();
    plain.parse::<f64>().ok().map(|value| value.to_string())
}

/// The numbers and longer words of a text.
fn key_words(text: &str) -> BTreeSet<String> {
    const COMMON: [&str; 16] = [
        "back",
        "beginning",
        "each",
        "from",
        "have",
        "let's",
        "solution",
        "step",
        "that",
        "then",
        "there",
        "they",
        "this",
        "what",
        "where",
        "with",
    ];
    let words = without_numbering(text).to_lowercase();
    let words = words
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .map(str::to_owned);
    let longer = words.filter(|word| word.chars().count() >= 4 && !COMMON.contains(&word.as_str()));
    longer.chain(numbers(&without_numbering(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_opened_from_the_inside_and_the_outside() {
        assert_eq!(
            unboxed("So $\\boxed{\\frac{1}{2}}$, not \\boxed 5."),
            "So $\\frac{1}{2}$, not 5."
        );
        assert_eq!(
            unboxed("\\fbox{\\boxed{7}} \\boxed{8"),
            "7 \\boxed{8",
            "one that is never closed stays"
        );
        assert_eq!(unboxed("\\fbox{\\boxed{7}}"), "7");
        assert_eq!(boxed_once("$\\boxed{1}$ and \\boxed{2}."), "$1$ and \\boxed{2}.");
        assert_eq!(unboxed("nothing"), "nothing");
    }

    #[test]
    fn results_must_survive_and_most_other_numbers() {
        let step = "## Step 12: Area\n1. 3 * 4 = 12\n2. 12 / 2 = 6.0, and x^2 stays";
        assert!(keeps_numbers(
            step,
            "With 3 and 4 we get 12; half of it is 6, and 2 stays."
        ));
        assert!(
            keeps_numbers(step, "With 3 and 4 we get 12, half of it is 6."),
            "a 2 in words"
        );
        assert!(
            !keeps_numbers(step, "With 3 and 4 we get 12, and half of it."),
            "a result is missing"
        );
        assert!(!keeps_numbers(step, "We get 12 and 6."), "too few");
        assert!(keeps_numbers(
            "It costs 1,200 = 1200.50",
            "That is $1{,}200$, or 1,200.5."
        ));
        assert!(keeps_numbers("We think.", "We think about it."));
        assert_eq!(
            results("$x = 1{,}200$, y=-3 and = \\$4.50."),
            ["1200", "3", "4.5"].map(str::to_owned).into()
        );
    }

    #[test]
    fn answers_are_found_however_they_are_set() {
        assert!(mentions(
            "so it would be $\\left(3, \\frac{1}{2}\\right)$",
            "(3,\\dfrac{1}{2})"
        ));
        assert!(mentions("so it would be 1,000 or so", "1000") && mentions("minus 5", "-5"));
        assert!(!mentions("so it is 15", "5") && !mentions("we think", "x + 1"));
    }

    #[test]
    fn a_return_names_what_it_returns_to() {
        let named = |sentence: &str, name: &str| !key_words(sentence).is_disjoint(&key_words(name));
        assert!(named(
            "Let's go back to where we factored it.",
            "## Step 2: Factor\nIt is factored."
        ));
        assert!(named(
            "Let's go back to where we had 60.",
            "## Step 2: Speed\n150 / 2.5 = 60"
        ));
        assert!(!named(
            "Let's go back to where we have this step.",
            "## Step 2: Where this step is\nx"
        ));
    }
}
