//! The sentences around steps: reflections, verdicts and returns, and how paragraphs are told apart.
//!
//! Knows nothing of whether a step is right. The sentences are ASTRO's (arXiv:2507.00417); they are data, because a
//! small model has each of them as one token, and a pipeline may word them differently.

use crate::formats::VerifierName;

/// The place of the state in a return sentence.
const STATE: &str = "{state}";

/// The sentences that make a step sequence a solution that searches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wording {
    /// Between paragraphs.
    pub separator: String,
    /// The question before each verdict.
    pub reflection: String,
    /// The verdict that something is wrong.
    pub negative: String,
    /// The verdict that all is well.
    pub positive: String,
    /// The return to an earlier state, with `{state}` for its name.
    pub go_back: String,
    /// The return to the problem itself, with or without `{state}`.
    pub restart: String,
}

impl Wording {
    /// Returns the usual wording for a verifier's problems.
    pub fn of(verifier: VerifierName) -> Self {
        let (separator, go_back, restart) = match verifier {
            VerifierName::Countdown => (
                " ; ",
                "Let's go back to where we had {state}",
                "Let's restart our solution from the beginning with {state}",
            ),
            VerifierName::Math => (
                "\n\n",
                "Let's go back to {state}.",
                "Let's restart our solution from the beginning.",
            ),
        };
        Self {
            separator: separator.to_owned(),
            reflection: "But wait, are we solving the problem correctly so far? Hmm...".to_owned(),
            negative: "I'm not sure if we're solving the problem correctly so far.".to_owned(),
            positive: "Our solution seems to be correct so far.".to_owned(),
            go_back: go_back.to_owned(),
            restart: restart.to_owned(),
        }
    }

    /// Writes the paragraph that approves of what stands before it.
    pub fn approval(&self) -> String {
        format!("{} {}", self.reflection, self.positive)
    }

    /// Writes the paragraph that leaves a wrong attempt for `state`; `at_root` where that is the problem itself.
    pub fn backtrack(&self, state: &str, at_root: bool) -> String {
        let sentence = if at_root { &self.restart } else { &self.go_back };
        format!(
            "{} {} {}",
            self.reflection,
            self.negative,
            sentence.replace(STATE, state)
        )
    }

    /// Reads a paragraph as one of this wording's sentences.
    pub(crate) fn read<'a>(&self, paragraph: &'a str) -> Sentence<'a> {
        let Some(rest) = after(paragraph, &self.reflection) else {
            return Sentence::Step(paragraph);
        };
        if after(rest, &self.positive).is_some_and(str::is_empty) {
            return Sentence::Approval;
        }
        let Some(rest) = after(rest, &self.negative) else {
            return Sentence::Unreadable;
        };
        for (sentence, at_root) in [(&self.restart, true), (&self.go_back, false)] {
            let (before, behind) = sentence.split_once(STATE).unwrap_or((sentence, ""));
            if let Some(state) = after(rest, before.trim_end()) {
                let state = state.strip_suffix(behind.trim()).unwrap_or(state).trim();
                return Sentence::Return { state, at_root };
            }
        }
        Sentence::Unreadable
    }
}

/// A paragraph, as far as the wording tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sentence<'a> {
    /// No reflection: the text of a step.
    Step(&'a str),
    /// Reflection and positive verdict.
    Approval,
    /// Reflection, negative verdict and a return to the named state.
    Return { state: &'a str, at_root: bool },
    /// A reflection that leads nowhere.
    Unreadable,
}

/// Returns what follows `prefix`, without the white space between.
fn after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix).map(str::trim_start)
}

/// Returns the paragraphs of a text: parts between blank lines or free-standing semicolons, trimmed, none empty.
pub fn paragraphs(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut pos = 0;
    let bytes = text.as_bytes();
    while pos < bytes.len() {
        let end = match bytes[pos] {
            b';' if is_space(bytes, pos.checked_sub(1)) && is_space(bytes, Some(pos + 1)) => Some(pos + 1),
            b'\n' => blank_line(text, pos),
            _ => None,
        };
        if let Some(end) = end {
            found.push(text[start..pos].trim());
            (start, pos) = (end, end);
        } else {
            pos += 1;
        }
    }
    found.push(text[start..].trim());
    found.retain(|paragraph| !paragraph.is_empty());
    found
}

/// Returns a text with single spaces, to compare texts that differ in white space alone.
pub fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns whether there is white space, or no text, at `pos`.
fn is_space(bytes: &[u8], pos: Option<usize>) -> bool {
    pos.and_then(|pos| bytes.get(pos)).is_none_or(u8::is_ascii_whitespace)
}

/// Returns where the text goes on if only white space stands between the newline at `pos` and another one.
fn blank_line(text: &str, pos: usize) -> Option<usize> {
    let rest = &text[pos + 1..];
    let line = rest.find('\n')?;
    rest[..line].trim().is_empty().then_some(pos + 1 + line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_end_at_semicolons_and_blank_lines() {
        assert_eq!(paragraphs("a b ; c\nd\n \n\ne ;"), ["a b", "c\nd", "e"]);
        assert_eq!(paragraphs("f(x; y) ;z\n"), ["f(x; y) ;z"]);
        assert_eq!(paragraphs(" ; \n\n"), Vec::<&str>::new());
        assert_eq!(paragraphs("é ; ü\n\nß"), ["é", "ü", "ß"]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for verifier in [VerifierName::Countdown, VerifierName::Math] {
            let wording = Wording::of(verifier);
            assert_eq!(wording.read(&wording.approval()), Sentence::Approval);
            let text = wording.backtrack("4 10", false);
            assert_eq!(
                wording.read(&text),
                Sentence::Return {
                    state: "4 10",
                    at_root: false
                }
            );
            let restart = wording.backtrack("7 3 4", true);
            assert!(matches!(wording.read(&restart), Sentence::Return { at_root: true, .. }));
        }
        let wording = Wording::of(VerifierName::Countdown);
        assert_eq!(wording.read("7 + 3 = 10 | 4 10"), Sentence::Step("7 + 3 = 10 | 4 10"));
        assert_eq!(
            wording.read(&format!("{} maybe", wording.reflection)),
            Sentence::Unreadable
        );
    }
}
