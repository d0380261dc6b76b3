//! Prompts: texts with places in braces, built in or read from a file.
//!
//! A file can hold several, each below a line `=== name ===`; what stands above the first is for whoever reads the file.
//! Knows nothing of what the places mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What can be wrong with a file of prompts.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    #[error("{path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{origin}: there is no part `=== {part} ===`; this stage needs {needed}")]
    Missing {
        origin: String,
        part: String,
        needed: String,
    },
    #[error("{origin}:{line}: part {part:?} is not known; known are {known}")]
    UnknownPart {
        origin: String,
        line: usize,
        part: String,
        known: String,
    },
    #[error("{origin}:{line}: part {part:?} is there twice")]
    Twice { origin: String, line: usize, part: String },
    #[error("{origin}: the prompt {part:?} lacks {{{place}}}, so it would be the same whatever is asked about")]
    NoPlace {
        origin: String,
        part: String,
        place: &'static str,
    },
}

/// A place for a value, such as `{problem}` or `{meta.level}`. LaTeX has braces too: only names with a value are places.
static PLACE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{([a-z_]+(?:\.[A-Za-z0-9_]+)?)\}").expect("the built-in pattern is a regular expression")
});

static HEADING: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^=== *([A-Za-z_]+) *===\s*$").expect("the built-in pattern is a regular expression"));

/// Puts values in their places, in one pass: a value that looks like a place stays as it is.
pub fn fill(prompt: &str, values: &[(&str, &str)]) -> String {
    fill_with(prompt, |place| {
        let named = values.iter().find(|(name, _)| *name == place);
        named.map(|(_, value)| (*value).to_owned())
    })
}

/// Puts what `value` returns for their names in places; where that is nothing, the braces are text and stay.
pub fn fill_with(prompt: &str, mut value: impl FnMut(&str) -> Option<String>) -> String {
    let replace = |found: &Captures<'_>| value(&found[1]).unwrap_or_else(|| found[0].to_owned());
    PLACE.replace_all(prompt, replace).into_owned()
}

/// A text and where it came from, for messages.
#[derive(Debug, Clone)]
pub struct PromptFile {
    pub origin: String,
    pub text: String,
}

impl PromptFile {
    /// Reads `path`, or takes the built-in text.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open(path: Option<&Path>, built_in: &str) -> Result<Self, PromptError> {
        let Some(path) = path else {
            return Ok(Self {
                origin: "the built-in prompt".to_owned(),
                text: built_in.to_owned(),
            });
        };
        let text = std::fs::read_to_string(path).map_err(|source| PromptError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            origin: path.display().to_string(),
            text,
        })
    }

    /// Returns the whole text as one prompt.
    ///
    /// # Errors
    /// It lacks one of the places.
    pub fn whole(&self, places: &[&'static str]) -> Result<String, PromptError> {
        let prompt = self.text.trim().to_owned();
        self.check("prompt", &prompt, places)?;
        Ok(prompt)
    }

    /// Returns the prompts by the names of their parts.
    ///
    /// # Errors
    /// A part is not `known`, or is there twice.
    pub fn parts(&self, known: &[&str]) -> Result<BTreeMap<String, String>, PromptError> {
        let mut parts: BTreeMap<String, String> = BTreeMap::new();
        let mut current: Option<String> = None;
        for (idx, line) in self.text.lines().enumerate() {
            if let Some(heading) = HEADING.captures(line) {
                let (origin, line, part) = (self.origin.clone(), idx + 1, heading[1].to_owned());
                if !known.contains(&part.as_str()) {
                    let known = known.join(", ");
                    return Err(PromptError::UnknownPart {
                        origin,
                        line,
                        part,
                        known,
                    });
                }
                if parts.insert(part.clone(), String::new()).is_some() {
                    return Err(PromptError::Twice { origin, line, part });
                }
                current = Some(part);
            } else if let Some(text) = current.as_ref().and_then(|part| parts.get_mut(part)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        parts.values_mut().for_each(|text| *text = text.trim().to_owned());
        Ok(parts)
    }

    /// Returns an error where a prompt lacks a place.
    ///
    /// # Errors
    /// It does.
    pub fn check(&self, part: &str, prompt: &str, places: &[&'static str]) -> Result<(), PromptError> {
        for &place in places {
            if !prompt.contains(&format!("{{{place}}}")) {
                return Err(PromptError::NoPlace {
                    origin: self.origin.clone(),
                    part: part.to_owned(),
                    place,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> PromptFile {
        PromptFile {
            origin: "p.txt".into(),
            text: text.into(),
        }
    }

    #[test]
    fn places_are_filled_once_and_braces_of_formulas_stay() {
        let filled = fill(
            "{problem} in \\boxed{5} and {step}: {unknown}",
            &[("problem", "Is {step} \\frac{a}{b}?"), ("step", "$1$")],
        );
        assert_eq!(filled, "Is {step} \\frac{a}{b}? in \\boxed{5} and $1$: {unknown}");
    }

    #[test]
    fn parts_begin_at_their_headings() {
        let parts = file("For readers.\n=== step ===\n\nDo {step}\n\nnow.\n=== go_back ===\nBack.\n");
        let parts = parts.parts(&["step", "go_back"]).unwrap();
        assert_eq!(parts["step"], "Do {step}\n\nnow.");
        assert_eq!(parts["go_back"], "Back.");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_line() {
        let error = |text: &str| file(text).parts(&["step"]).unwrap_err().to_string();
        assert_eq!(
            error("x\n=== stop ===\n"),
            "p.txt:2: part \"stop\" is not known; known are step"
        );
        assert_eq!(
            error("=== step ===\n=== step ===\n"),
            "p.txt:2: part \"step\" is there twice"
        );
        let error = file("Judge {problem}")
            .whole(&["problem", "solution"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("lacks {solution}"), "{error}");
        let error = PromptFile::open(Some(Path::new("no/such.txt")), "")
            .unwrap_err()
            .to_string();
        assert_eq!(error, "no/such.txt");
    }
}
