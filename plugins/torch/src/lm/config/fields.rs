//! Values out of a JSON object, checked as they are taken: whoever reads a config says what it expects of each key, and
//! a user reads which key held what instead.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// The keys of one JSON object; `null` is as good as absent, as in transformers.
#[derive(Debug, Clone, Copy)]
pub(in crate::lm) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// What stands before a key in messages: where the object lies, with a dot.
    place: &'a str,
}

impl<'a> Fields<'a> {
    pub(in crate::lm) fn new(map: &'a Map<String, Value>, place: &'a str) -> Self {
        Self { map, place }
    }

    pub(in crate::lm) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it with `null`.
    pub(in crate::lm) fn names(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(in crate::lm) fn integer(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, String> {
        let wanted = format!("an integer from {} to {}", range.start(), range.end());
        let valid = |value: &Value| value.as_i64().filter(|value| range.contains(value));
        self.typed(key, &wanted, valid)
    }

    pub(in crate::lm) fn required_integer(&self, key: &str, range: RangeInclusive<i64>) -> Result<i64, String> {
        self.integer(key, range)?
            .ok_or_else(|| format!("{}{key} is missing, expected a positive integer", self.place))
    }

    /// A finite number that satisfies `holds`, which `wanted` puts into words.
    pub(in crate::lm) fn number(&self, key: &str, wanted: &str, holds: fn(f64) -> bool) -> Result<Option<f64>, String> {
        let valid = |value: &Value| value.as_f64().filter(|&value| value.is_finite() && holds(value));
        self.typed(key, wanted, valid)
    }

    pub(in crate::lm) fn positive_number(&self, key: &str) -> Result<Option<f64>, String> {
        self.number(key, "a positive number", |value| value > 0.0)
    }

    /// Absent is false.
    pub(in crate::lm) fn flag(&self, key: &str) -> Result<bool, String> {
        let value = self.typed(key, "true or false", Value::as_bool)?;
        Ok(value.unwrap_or(false))
    }

    pub(in crate::lm) fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(in crate::lm) fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, String> {
        self.typed(key, "an object", Value::as_object)
    }

    pub(in crate::lm) fn list(&self, key: &str) -> Result<Option<&'a Vec<Value>>, String> {
        self.typed(key, "a list", Value::as_array)
    }

    /// A token id, or several, or none.
    pub(in crate::lm) fn token_ids(&self, key: &str) -> Result<Vec<i64>, String> {
        let ids = |value: &Value| match value {
            Value::Array(list) => list.iter().map(Value::as_i64).collect(),
            value => value.as_i64().map(|id| vec![id]),
        };
        let value = self.typed(key, "a token id or a list of them", ids)?;
        Ok(value.unwrap_or_default())
    }

    /// What is wrong with a key: its value and what was expected instead.
    pub(in crate::lm) fn wrong(&self, key: &str, wanted: &str) -> String {
        match self.map.get(key) {
            Some(value) => format!("{}{key} is {}, expected {wanted}", self.place, shown(value)),
            None => format!("{}{key} is missing, expected {wanted}", self.place),
        }
    }

    /// A value that `valid` accepts, which `wanted` puts into words.
    pub(in crate::lm) fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        valid: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.get(key).map(valid) {
            Some(None) => Err(self.wrong(key, wanted)),
            value => Ok(value.flatten()),
        }
    }
}

/// A value in a message, not longer than a line.
fn shown(value: &Value) -> String {
    const LIMIT: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
