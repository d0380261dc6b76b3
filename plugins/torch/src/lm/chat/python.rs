//! Values as Python shows them: what a template prints, and `json.dumps`.
//!
//! Templates are written for Jinja, where `{{ none }}` is `None` and dictionaries keep their order. minijinja's own
//! maps don't, so what comes from outside is wrapped into [`Dict`].

use std::fmt::{self, Write as _};
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use serde_json::Value as Json;

/// A Python `dict` with text keys, in the order of insertion.
#[derive(Debug)]
struct Dict(Vec<(String, Value)>);

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(name, _)| Value::from(name.as_str())).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

/// A Python `list`.
#[derive(Debug)]
struct List(Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr(&Value::from_dyn_object(self.clone())))
    }
}

/// Returns a JSON value as a template sees it.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Array(items) => Value::from_object(List(items.iter().map(from_json).collect())),
        Json::Object(map) => Value::from_object(Dict(
            map.iter()
                .map(|(name, value)| (name.clone(), from_json(value)))
                .collect(),
        )),
        scalar => Value::from_serialize(scalar),
    }
}

/// Returns `str(value)`; nothing for an undefined value, as Jinja prints it.
pub fn str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

/// Returns `repr(value)`.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => format!("[{}]", joined(items(value).iter().map(repr))),
        ValueKind::Map => format!(
            "{{{}}}",
            joined(
                entries(value)
                    .iter()
                    .map(|(key, value)| format!("{}: {}", repr(key), repr(value)))
            )
        ),
        _ => value.to_string(),
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn items(value: &Value) -> Vec<Value> {
    value.try_iter().map(Iterator::collect).unwrap_or_default()
}

fn entries(value: &Value) -> Vec<(Value, Value)> {
    items(value)
        .into_iter()
        .map(|key| {
            let item = value.get_item(&key).unwrap_or_default();
            (key, item)
        })
        .collect()
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// Returns `repr` of a Python `float`: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Returns `repr` of a Python `str`.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            ' ' => out.push(' '),
            c if c.is_control() || c.is_whitespace() => {
                let code = u32::from(c);
                // Writing into a string can't fail.
                let _ = if code < 0x100 {
                    write!(out, "\\x{code:02x}")
                } else {
                    write!(out, "\\u{code:04x}")
                };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// The arguments of `json.dumps` that transformers' `tojson` passes on.
#[derive(Debug, Clone)]
pub struct Dumps {
    pub ensure_ascii: bool,
    /// What one level is indented by; without it all is one line.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

impl Dumps {
    /// Returns `json.dumps(value)`, or what can't be written as JSON.
    pub fn dump(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        self.write(value, 0, &mut out)?;
        Ok(out)
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), String> {
        /// Deeper values are no data of a conversation, and would end the program instead of the template.
        const MAX_DEPTH: usize = 200;

        if depth > MAX_DEPTH {
            return Err(format!("a value is nested more than {MAX_DEPTH} levels deep"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&json_number(value)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = items(value);
                self.write_all(['[', ']'], items.len(), depth, out, |idx, out| {
                    self.write(&items[idx], depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut entries = entries(value);
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| str(key));
                }
                self.write_all(['{', '}'], entries.len(), depth, out, |idx, out| {
                    let (key, value) = &entries[idx];
                    match key.as_str() {
                        Some(name) => self.write_string(name, out),
                        // json.dumps turns the other scalars into text first.
                        None => self.write_string(&self.dump(key)?, out),
                    }
                    out.push_str(&self.key_separator);
                    self.write(value, depth + 1, out)
                })?;
            }
            kind => return Err(format!("a value of type {kind} is not JSON serializable")),
        }
        Ok(())
    }

    fn write_all(
        &self,
        [open, close]: [char; 2],
        count: usize,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(usize, &mut String) -> Result<(), String>,
    ) -> Result<(), String> {
        out.push(open);
        for idx in 0..count {
            if idx > 0 {
                out.push_str(&self.item_separator);
            }
            self.break_line(depth + 1, out);
            write(idx, out)?;
        }
        if count > 0 {
            self.break_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn break_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        let quoted = Json::from(text).to_string();
        if !self.ensure_ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing into a string can't fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        // Made with CPython 3.11: [repr(x) for x in ...].
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (123_456_789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(number), expected);
        }
    }

    #[test]
    fn text_is_quoted_as_python_quotes_it() {
        // Made with CPython 3.11.
        for (text, expected) in [
            ("plain", "'plain'"),
            ("it's", "\"it's\""),
            ("both ' and \"", "'both \\' and \"'"),
            ("a\n\t\\", "'a\\n\\t\\\\'"),
            ("\u{7f}\u{a0}é", "'\\x7f\\xa0é'"),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
