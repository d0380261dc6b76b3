//! The text around a problem that a policy is shown, from a file or built in.
//!
//! `{problem}` is the problem's text and `{meta.NAME}` a field of its meta; all other braces are text, since prompts
//! are full of LaTeX. Filled in one pass, so that a problem may hold such words itself.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::formats::Problem;
use crate::prompts::fill_with;

/// A prompt with places for a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// The problem's text and nothing else.
    pub fn bare() -> Self {
        Self("{problem}".to_owned())
    }

    /// Reads a template; without a path it is [`Template::bare`].
    ///
    /// # Errors
    /// The file can't be read or has no place for a problem's text.
    pub fn of(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::bare()) };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::new(&text).with_context(|| path.display().to_string())
    }

    /// Takes a text; the line break that ends a file is no part of it.
    ///
    /// # Errors
    /// The text has no place for a problem's text: its level alone would make problems look the same.
    pub fn new(text: &str) -> Result<Self> {
        ensure!(
            ["{problem}", "{meta.statement}"]
                .iter()
                .any(|place| text.contains(place)),
            "the prompt has neither {{problem}} nor {{meta.statement}} in it, so that the policy would not see the problem"
        );
        let text = text.strip_suffix('\n').unwrap_or(text);
        Ok(Self(text.strip_suffix('\r').unwrap_or(text).to_owned()))
    }

    /// Returns the text with a problem in it.
    ///
    /// # Errors
    /// The problem lacks a field that the template names.
    pub fn fill(&self, problem: &Problem) -> Result<String> {
        let mut failure = None;
        let filled = fill_with(&self.0, |place| {
            if place == "problem" {
                return Some(problem.problem.clone());
            }
            match meta_text(problem, place.strip_prefix("meta.")?) {
                Ok(text) => Some(text),
                Err(error) => {
                    failure.get_or_insert(error);
                    None
                }
            }
        });
        failure.map_or(Ok(filled), Err)
    }
}

fn meta_text(problem: &Problem, field: &str) -> Result<String> {
    match problem.meta.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(_) => bail!("problem {:?}: meta.{field} is no text, number or boolean", problem.id),
        None => {
            let known: Vec<&str> = problem.meta.keys().map(String::as_str).collect();
            Err(anyhow!(
                "problem {:?} has no meta.{field}, which the prompt names; its fields are {known:?}",
                problem.id
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        let line =
            r#"{"id": "a", "problem": "What is {meta.level}?", "answer": "5", "meta": {"level": 5, "list": []}}"#;
        serde_json::from_str(line).expect("a problem")
    }

    #[test]
    fn places_are_filled_once_and_other_braces_stay() {
        let template =
            Template::new("Level {meta.level}: {problem} Answer in $\\boxed{}$, {not} {this}.\n").expect("good");
        let filled = template.fill(&problem()).expect("all fields are there");
        assert_eq!(
            filled,
            "Level 5: What is {meta.level}? Answer in $\\boxed{}$, {not} {this}."
        );
        assert_eq!(
            Template::bare().fill(&problem()).expect("the text"),
            "What is {meta.level}?"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |text: &str| {
            Template::new(text)
                .and_then(|t| t.fill(&problem()))
                .expect_err("bad")
                .to_string()
        };
        assert!(error("no place").contains("{problem}"));
        assert!(error("Level {meta.level}").contains("neither {problem} nor {meta.statement}"));
        let subject = error("{problem} {meta.subject}");
        assert!(subject.contains("meta.subject") && subject.contains("level"));
        assert!(error("{problem} {meta.list}").contains("no text"));
    }
}
