//! The math verifier: finds the answer that a text states, and compares it with the reference.
//!
//! `extract` finds the answer (in `prose` where nothing marks it), `lex` cuts it into tokens, `parse` and `answer` read
//! them, `compare` decides. Values are compared and not forms: exactly where arithmetic allows it (`rational`,
//! `residue`, `surd`), otherwise in floating point with a bound of the error (`numeric`). What it can't read it calls
//! different, because a false "right" teaches a wrong answer and a false "wrong" only wastes a sample. All work is
//! bounded.

mod answer;
mod compare;
mod expr;
mod extract;
mod lex;
mod numeric;
mod parse;
mod prose;
mod rational;
mod reals;
mod residue;
mod surd;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
mod units;
mod words;

use std::borrow::Cow;

use super::backtracks::first_attempt;
use super::{BacktrackPatterns, Verdict, count_backtracks, failure};
pub use compare::{Comparison, compare, equal};
pub use extract::{end_of_last_box, extract, without_thought};

/// Words of a step's first sentence that name it where it has no heading.
const MAX_NAME_WORDS: usize = 12;

/// Judges a completion against the reference answer.
pub fn judge(reference: &str, completion: &str) -> Verdict {
    let correct = compare_texts(reference, completion).equal;
    // A right answer in a word or two has no mark to find it by.
    let answer = extract(completion).or_else(|| correct.then(|| completion.trim().to_owned()));
    let failure = match (&answer, correct) {
        (_, true) => None,
        (Some(_), false) => Some(failure::WRONG_ANSWER),
        (None, false) => Some(failure::UNFINISHED),
    };
    Verdict {
        correct,
        answer,
        num_backtracks: count_backtracks(completion, BacktrackPatterns::usual()),
        failure,
    }
}

/// Compares a reference answer, perhaps with text around it, with a model's answer or its whole response.
pub fn compare_texts(reference: &str, response: &str) -> Comparison {
    let reference = extract::reference_answer(reference);
    let found = extract(response).map(|stated| compare(&reference, &stated));
    if let Some(found) = found
        && (found.equal || !is_short(response))
    {
        return found;
    }
    // A few words without a mark are the answer themselves, even with a number among them.
    let whole = extract::without_thought(response).filter(|text| is_short(text));
    let whole = whole.map(|text| compare(&reference, &text));
    whole.filter(|whole| whole.equal).or(found).unwrap_or(Comparison {
        equal: false,
        how: "unparsed",
    })
}

/// Returns whether a response can be nothing but an answer in words.
fn is_short(response: &str) -> bool {
    let response = response.trim();
    !response.contains(['\n', '#'])
        && end_of_last_box(response).is_none()
        && response.split_whitespace().count() <= MAX_NAME_WORDS
}

/// Returns the first answer that a text states: what it declares before its first return sentence, else its first box, or
/// what it states at all where it has none.
///
/// A value before a return that nothing declares to be the answer is a step that was given up.
pub fn first_answer(text: &str) -> Option<String> {
    declared_answer(first_attempt(text))
        .or_else(|| extract::first_box(text))
        .or_else(|| extract(text))
}

/// Returns the answer that a text declares by a box, `####` or "answer is".
pub fn declared_answer(text: &str) -> Option<String> {
    extract::declared(text)
}

/// Returns whether a step states a final answer, as a box or in the manner of GSM8K.
pub fn states_final_answer(step: &str) -> bool {
    end_of_last_box(step).is_some() || step.lines().any(|line| line.starts_with("####"))
}

/// Names a step: its heading (`Step 2: Simplify`), or what it begins with.
pub fn name_of_step(step: &str) -> String {
    let first = step
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    if let Some(heading) = first.strip_prefix('#') {
        return heading
            .trim_start_matches('#')
            .trim()
            .trim_end_matches(['.', ':'])
            .to_owned();
    }
    let sentence = first.split_inclusive(['.', '!', '?']).next().unwrap_or_default();
    // A decimal point is no full stop.
    let sentence: Cow<str> = if sentence.len() < first.len() && !first[sentence.len()..].starts_with(' ') {
        first.into()
    } else {
        sentence.trim_end_matches(['.', ':']).into()
    };
    let words: Vec<&str> = sentence.split_whitespace().collect();
    let more = if words.len() > MAX_NAME_WORDS { " ..." } else { "" };
    format!(
        "where we wrote \"{}{more}\"",
        words[..words.len().min(MAX_NAME_WORDS)].join(" ")
    )
}
