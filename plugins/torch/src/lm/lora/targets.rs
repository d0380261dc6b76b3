//! Which modules an adapter's config means: PEFT's `check_target_module_exists` and `get_pattern_key`
//! (tuners/tuners_utils.py, utils/other.py).

use regex::Regex;
use serde_json::{Value, json};

/// `target_modules`, or `exclude_modules`.
#[derive(Debug, Clone)]
pub enum Targets {
    /// Names, or ends of names from a dot on: `q_proj`, `self_attn.q_proj`.
    List(Vec<String>),
    /// A regular expression that the whole name must match.
    Pattern { text: String, regex: Regex },
    /// Every matrix of the layers: `all-linear`.
    AllLinear,
}

impl Targets {
    /// Reads the form that is one string.
    ///
    /// # Errors
    /// It is not a regular expression; those of the Rust crate `regex` have no look-around and no back-references.
    pub fn from_text(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all-linear") {
            return Ok(Self::AllLinear);
        }
        Ok(Self::Pattern {
            text: text.to_owned(),
            regex: compile(&format!("^(?:{text})$"), text)?,
        })
    }

    /// Whether a module of this full name is meant.
    pub fn matches(&self, module: &str) -> bool {
        match self {
            Self::List(list) => list.iter().any(|name| is_end_of(module, name)),
            Self::Pattern { regex, .. } => regex.is_match(module),
            Self::AllLinear => true,
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::AllLinear)
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::List(list) => json!(list),
            Self::Pattern { text, .. } => json!(text),
            Self::AllLinear => json!("all-linear"),
        }
    }
}

impl PartialEq for Targets {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }
}

/// Whether `end` is the name, or its end from a dot on.
fn is_end_of(name: &str, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

/// A key of `rank_pattern` or `alpha_pattern`: a regular expression for the end of a name, from a dot on.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// # Errors
    /// It is not a regular expression.
    pub fn new(text: &str) -> Result<Self, String> {
        Ok(Self {
            text: text.to_owned(),
            regex: compile(&format!(r"^(?:.*\.)?(?:{text})$"), text)?,
        })
    }

    pub fn matches(&self, module: &str) -> bool {
        self.regex.is_match(module)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

fn compile(anchored: &str, text: &str) -> Result<Regex, String> {
    Regex::new(anchored).map_err(|error| {
        let reason = error.to_string();
        let last = reason.lines().last().unwrap_or_default();
        format!("{text:?} is not a regular expression that is supported: {last}")
    })
}

/// `layers_to_transform` and `layers_pattern`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layers {
    /// Absent or empty: all.
    pub indices: Option<Vec<u64>>,
    /// Names of the list of layers; empty: any.
    pub patterns: Vec<String>,
}

impl Layers {
    /// Whether a module is in one of the layers. The models here have one list of layers, `model.layers`.
    pub(super) fn contain(&self, module: &str) -> bool {
        let Some(indices) = self.indices.as_ref().filter(|indices| !indices.is_empty()) else {
            return true;
        };
        let idx = module
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split('.').next()?.parse().ok());
        let is_the_list = self.patterns.is_empty() || self.patterns.iter().any(|name| name == "layers");
        is_the_list && idx.is_some_and(|idx| indices.contains(&idx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q0: &str = "model.layers.0.self_attn.q_proj";

    #[test]
    fn names_match_from_a_dot_on() {
        let list = |names: &[&str]| Targets::List(names.iter().map(|&name| name.to_owned()).collect());
        assert!(list(&["q_proj"]).matches(Q0));
        assert!(list(&["self_attn.q_proj"]).matches(Q0));
        assert!(list(&[Q0]).matches(Q0));
        assert!(!list(&["proj"]).matches(Q0));
        assert!(!list(&["k_proj", "layers.0"]).matches(Q0));
    }

    #[test]
    fn expressions_match_the_whole_name() {
        let matches = |text: &str| Targets::from_text(text).unwrap().matches(Q0);
        assert!(matches(r".*\.[qv]_proj"));
        assert!(matches(r"model\.layers\.(0|3)\.self_attn\..*|x"));
        assert!(!matches("q_proj"));
        assert!(matches("all-linear"));
        assert!(Targets::from_text("(").is_err());
        assert!(Targets::from_text("(?!x)q").is_err());
    }

    #[test]
    fn patterns_match_from_a_dot_on() {
        let matches = |text: &str| Pattern::new(text).unwrap().matches(Q0);
        assert!(matches("q_proj"));
        assert!(matches(r"layers\.0\..*"));
        assert!(matches("[qk]_proj"));
        assert!(!matches("proj"));
    }

    #[test]
    fn layers_narrow_down() {
        let layers = |indices: &[u64], patterns: &[&str]| Layers {
            indices: Some(indices.to_vec()),
            patterns: patterns.iter().map(|&name| name.to_owned()).collect(),
        };
        assert!(layers(&[], &[]).contain(Q0));
        assert!(layers(&[1, 0], &["layers"]).contain(Q0));
        assert!(!layers(&[1], &[]).contain(Q0));
        assert!(!layers(&[0], &["h"]).contain(Q0));
    }
}
