//! Counting backtracks in free text.
//!
//! A backtrack is a return sentence, at most one per paragraph, and none after the final answer: there a model that
//! rambles on would be counted as one that searches. How the paper counts was not published; this is the definition
//! that its figures are compared under, and the patterns are a parameter.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

use super::{Wording, math, paragraphs};

const USUAL_PATTERNS: [&str; 2] = ["(?i)let['’]s go back to", "(?i)let['’]s restart"];

/// The regular expressions that make a sentence a return sentence.
#[derive(Debug, Clone)]
pub struct BacktrackPatterns(RegexSet);

impl BacktrackPatterns {
    /// Compiles patterns; they match anywhere in a paragraph and say themselves whether case counts.
    ///
    /// # Errors
    /// One of them is not a regular expression.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, regex::Error> {
        RegexSet::new(patterns).map(Self)
    }

    /// Returns ASTRO's return sentences.
    pub fn usual() -> &'static Self {
        static USUAL: LazyLock<BacktrackPatterns> = LazyLock::new(|| {
            BacktrackPatterns::new(&USUAL_PATTERNS).expect("the built-in patterns are regular expressions")
        });
        &USUAL
    }

    /// Returns ASTRO's return sentences and those of a wording.
    pub fn of(wording: &Wording) -> Self {
        let own = [&wording.go_back, &wording.restart].map(|sentence| {
            let words = sentence
                .split("{state}")
                .max_by_key(|part| part.trim().len())
                .unwrap_or_default();
            regex::escape(words.trim())
        });
        let own = own.iter().map(String::as_str).filter(|pattern| !pattern.is_empty());
        let patterns: Vec<&str> = USUAL_PATTERNS.into_iter().chain(own).collect();
        Self::new(&patterns).expect("escaped text is a regular expression")
    }

    /// Returns whether a paragraph holds a return sentence.
    pub fn matches(&self, paragraph: &str) -> bool {
        self.0.is_match(paragraph)
    }
}

/// Returns the number of backtracks in a text.
pub fn count_backtracks(text: &str, patterns: &BacktrackPatterns) -> usize {
    let end = math::end_of_last_box(text).unwrap_or(text.len());
    paragraphs(&text[..end])
        .into_iter()
        .filter(|paragraph| patterns.matches(paragraph))
        .count()
}

/// Returns what stands before the first return sentence; the whole text where there is none.
pub fn first_attempt(text: &str) -> &str {
    static ANY: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(&USUAL_PATTERNS.join("|")).expect("the built-in patterns are regular expressions"));
    ANY.find(text).map_or(text, |found| &text[..found.start()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        count_backtracks(text, BacktrackPatterns::usual())
    }

    #[test]
    fn one_backtrack_per_paragraph_with_a_return_sentence() {
        assert_eq!(count("step ; But wait. Let's go back to where we had 4 10 ; step"), 1);
        assert_eq!(
            count("a\n\nLet’s restart our solution. Let's go back to the start.\n\nb"),
            1
        );
        assert_eq!(count("a\n\nlet's go back to x\n\nLET'S RESTART\n\nb"), 2);
        assert_eq!(count("we go back to school"), 0);
    }

    #[test]
    fn a_wording_adds_its_own_return_sentence() {
        let wording = Wording {
            go_back: "Back to {state}, then".into(),
            ..Wording::of(crate::formats::VerifierName::Math)
        };
        assert_eq!(
            count_backtracks("a\n\nHmm. Back to 4 10, then", &BacktrackPatterns::of(&wording)),
            1
        );
    }

    #[test]
    fn text_after_the_final_answer_does_not_count() {
        assert_eq!(
            count("\\boxed{1}\n\nLet's go back to x.\n\n\\boxed{2}\n\nLet's go back to y."),
            1
        );
    }
}
