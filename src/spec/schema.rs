//! Schemas of parameters: which values are right, and what of a value enters a key.
//!
//! The words are those of JSON Schema that the worker contract lists, read from `plugin.yaml`. A schema knows one
//! value and nothing of kinds, stages or references.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Number, Value, json};

use super::mistake::{At, Mistake, listed};
use super::paths;
use super::yaml::{Item, Key, Tree, same};
use crate::digest::{Digest, FileError, canonical};

/// Whether a parameter changes the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It does; it enters the key.
    #[default]
    Identity,
    /// Only up to rounding; it stays out.
    Equivalent,
    /// It doesn't; it stays out.
    Runtime,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Class::Identity => "identity",
            Class::Equivalent => "equivalent",
            Class::Runtime => "runtime",
        })
    }
}

/// A type of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number; it is always kept as a float.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    Array,
    /// A mapping.
    Object,
    /// Nothing.
    Null,
}

/// What a string means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A file or folder, of which the content counts.
    Path,
}

/// The schema of a parameter or of a part of one.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Schema {
    /// The types that are allowed; none means all.
    #[serde(rename = "type", deserialize_with = "one_or_many")]
    pub types: Vec<Type>,
    /// The only values that are allowed, if there are any.
    #[serde(rename = "enum")]
    pub values: Vec<Value>,
    /// The least number.
    pub minimum: Option<f64>,
    /// The largest number.
    pub maximum: Option<f64>,
    /// What every number must be greater than.
    pub exclusive_minimum: Option<f64>,
    /// What every number must be less than.
    pub exclusive_maximum: Option<f64>,
    /// The schema of the items of a list.
    pub items: Option<Box<Schema>>,
    /// The schemas of the members of a mapping.
    pub properties: Ordered<Schema>,
    /// What other members may be.
    pub additional_properties: Additional,
    /// The value of a parameter that is not given; a parameter without is required.
    #[serde(deserialize_with = "present")]
    pub default: Option<Value>,
    /// What it is for.
    pub description: String,
    /// Whether it enters the key.
    pub class: Class,
    /// What a string means.
    pub format: Option<Format>,
    /// Whether references to inputs and outputs stay in the text until the worker starts; for the engine's own kinds.
    #[serde(skip)]
    pub deferred: bool,
}

/// The members of a mapping that `properties` does not name.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    /// Anything.
    #[default]
    Any,
    /// None.
    None,
    /// Values of a schema.
    Of(Box<Schema>),
}

/// A mapping that keeps its order.
#[derive(Debug, Clone)]
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Ordered(Vec::new())
    }
}

impl<T> Ordered<T> {
    /// Returns the value of a name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }
}

impl Schema {
    /// Returns the value as the worker gets it, or `None` after telling `out` what is wrong with it.
    ///
    /// Numbers become floats where a `number` is asked for and integers where an `integer` is, so that `1` and `1.0`
    /// are the same parameter. Paths become absolute, relative to `base`, and must exist.
    pub fn check(&self, tree: &Tree, what: &str, base: &Path, out: &mut Vec<Mistake>) -> Option<Value> {
        let before = out.len();
        let value = self.typed(tree, what, base, out)?;
        if !self.values.is_empty() && !self.values.iter().any(|valid| same(valid, &value)) {
            let valid: Vec<String> = self.values.iter().map(text_of).collect();
            let message = format!("{what} can't be {}", tree.described());
            out.push(Mistake::unknown(
                &tree.at,
                message,
                &text_of(&value),
                valid.iter().map(String::as_str),
            ));
        }
        if let Some(number) = value.as_f64() {
            self.check_range(number, tree, what, out);
        }
        (out.len() == before).then_some(value)
    }

    /// Returns what of a checked value enters a key: the value with the content of files in place of their paths.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn identity(
        &self,
        value: &Value,
        digest_of: &mut dyn FnMut(&Path) -> Result<Digest, FileError>,
    ) -> Result<Value, FileError> {
        match value {
            Value::String(path) if self.format.is_some() => {
                Ok(json!({"content": digest_of(Path::new(path))?.to_string()}))
            }
            Value::Array(items) => match &self.items {
                Some(schema) => items.iter().map(|item| schema.identity(item, digest_of)).collect(),
                None => Ok(value.clone()),
            },
            Value::Object(members) => {
                let part = |(name, member): (&String, &Value)| match self.member(name) {
                    Some(schema) => Ok((name.clone(), schema.identity(member, digest_of)?)),
                    None => Ok((name.clone(), member.clone())),
                };
                members.iter().map(part).collect::<Result<_, _>>().map(Value::Object)
            }
            _ => Ok(value.clone()),
        }
    }

    /// Brings the default of a parameter into the form that [`Schema::check`] gives, so that the two can be compared.
    ///
    /// # Errors
    /// What makes no sense in the schema of the parameter `name`.
    pub fn settle(&mut self, name: &str) -> Result<(), String> {
        if self.format.is_some() && !self.allows(Type::String) {
            return Err(format!("`{name}` has `format: path` but is no string"));
        }
        if !self.values.is_empty() && self.types.contains(&Type::Array) {
            return Err(format!("`{name}` has an `enum` of lists; put it into `items`"));
        }
        // A default path may be missing where the plugin is read; it is checked where a pipeline uses it.
        let Some(default) = self.default.as_ref().filter(|_| !self.has_paths()) else {
            return Ok(());
        };
        let mut out = Vec::new();
        let tree = Tree::from_value(default, &At::whole("default", &default.to_string()));
        let settled = self.check(&tree, &format!("the default of `{name}`"), Path::new("."), &mut out);
        match out.into_iter().next() {
            Some(mistake) => Err(mistake.message),
            None => {
                self.default = settled;
                Ok(())
            }
        }
    }

    /// Tells whether a value may hold paths.
    fn has_paths(&self) -> bool {
        let additional = match &self.additional_properties {
            Additional::Of(schema) => schema.has_paths(),
            Additional::Any | Additional::None => false,
        };
        self.format.is_some()
            || additional
            || self.items.as_ref().is_some_and(|items| items.has_paths())
            || self.properties.0.iter().any(|(_, schema)| schema.has_paths())
    }

    /// Returns the types as people write them: "a number", "a string or null".
    pub fn described(&self) -> String {
        let name = |t: &Type| match t {
            Type::String if self.format.is_some() => "a path",
            Type::String => "a string",
            Type::Integer => "an integer",
            Type::Number => "a number",
            Type::Boolean => "a boolean",
            Type::Array => "a list",
            Type::Object => "a mapping",
            Type::Null => "null",
        };
        let names: Vec<&str> = self.types.iter().map(name).collect();
        if names.is_empty() {
            "anything".to_owned()
        } else {
            names.join(" or ")
        }
    }

    fn allows(&self, t: Type) -> bool {
        self.types.is_empty() || self.types.contains(&t)
    }

    fn member(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional_properties {
            Additional::Of(schema) => Some(schema),
            Additional::Any | Additional::None => None,
        })
    }

    fn typed(&self, tree: &Tree, what: &str, base: &Path, out: &mut Vec<Mistake>) -> Option<Value> {
        let value = match &tree.item {
            Item::Plain(Value::Number(number)) => self.number(number).map(Value::Number),
            Item::Plain(value @ Value::Bool(_)) => self.allows(Type::Boolean).then(|| value.clone()),
            Item::Plain(value) => self.allows(Type::Null).then(|| value.clone()),
            Item::Text(text) if self.allows(Type::String) => match self.format {
                Some(Format::Path) => return existing(text, &tree.at, what, base, out),
                None => Some(Value::String(text.clone())),
            },
            Item::List(items) if self.allows(Type::Array) => return self.list(items, what, base, out),
            Item::Map(entries) if self.allows(Type::Object) => return self.map(entries, what, base, out),
            Item::Text(_) | Item::List(_) | Item::Map(_) => None,
        };
        if value.is_none() {
            let message = format!("{what} must be {}, not {}", self.described(), tree.described());
            let mistake = Mistake::new(&tree.at, message);
            out.push(match self.type_help(tree) {
                Some(help) => mistake.help(help),
                None => mistake,
            });
        }
        value
    }

    /// Returns the number in the type that is asked for.
    fn number(&self, number: &Number) -> Option<Number> {
        if self.types.is_empty() {
            return Some(number.clone());
        }
        if self.allows(Type::Number) {
            return number.as_f64().and_then(Number::from_f64);
        }
        if !self.allows(Type::Integer) {
            return None;
        }
        match number.as_f64() {
            // Up to 2^53 a float is exactly the integer that it looks like, as in `1e6`.
            Some(float) if number.is_f64() => {
                (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then(|| Number::from(float as i64))
            }
            _ => Some(number.clone()),
        }
    }

    fn type_help(&self, tree: &Tree) -> Option<String> {
        match &tree.item {
            Item::Plain(value) if self.allows(Type::String) && !value.is_null() => {
                Some(format!("put it in quotes: `\"{}\"`", tree.at.text().trim()))
            }
            Item::Text(text) if self.allows(Type::Boolean) => match text.to_lowercase().as_str() {
                "yes" | "on" | "true" => Some("write `true`, without quotes".to_owned()),
                "no" | "off" | "false" => Some("write `false`, without quotes".to_owned()),
                _ => None,
            },
            Item::Text(text)
                if (self.allows(Type::Number) || self.allows(Type::Integer)) && is_list_of_numbers(text) =>
            {
                Some("this takes one value; `matrix` or `--sweep` tries several".to_owned())
            }
            Item::Text(text) if self.allows(Type::Number) || self.allows(Type::Integer) => {
                let plain = text.replace(['_', ',', ' '], "");
                plain.parse::<f64>().ok().filter(|n| n.is_finite()).map(|_| {
                    match tree.at.text().starts_with(['"', '\'']) {
                        true => format!("write `{plain}`, without quotes"),
                        false => format!("write `{plain}`"),
                    }
                })
            }
            _ if self.types == [Type::Array] => Some("write it as a list: `[...]`".to_owned()),
            _ => None,
        }
    }

    fn list(&self, items: &[Tree], what: &str, base: &Path, out: &mut Vec<Mistake>) -> Option<Value> {
        let check = |(idx, item): (usize, &Tree)| match &self.items {
            Some(schema) => schema.check(item, &format!("item {} of {what}", idx + 1), base, out),
            None => Some(item.to_value()),
        };
        let values: Vec<Option<Value>> = items.iter().enumerate().map(check).collect();
        values.into_iter().collect::<Option<Vec<Value>>>().map(Value::Array)
    }

    fn map(&self, entries: &[(Key, Tree)], what: &str, base: &Path, out: &mut Vec<Mistake>) -> Option<Value> {
        let mut members = Vec::new();
        for (key, tree) in entries {
            let value = match self.member(&key.text) {
                Some(schema) => schema.check(tree, &format!("`{}` of {what}", key.text), base, out),
                None if matches!(self.additional_properties, Additional::Any) => Some(tree.to_value()),
                None => {
                    let valid = self.properties.0.iter().map(|(name, _)| name.as_str());
                    let message = format!("{what} has no `{}`", key.text);
                    out.push(Mistake::unknown(&key.at, message, &key.text, valid));
                    None
                }
            };
            members.push(value.map(|value| (key.text.clone(), value)));
        }
        members.into_iter().collect::<Option<_>>().map(Value::Object)
    }

    fn check_range(&self, number: f64, tree: &Tree, what: &str, out: &mut Vec<Mistake>) {
        let bounds = [
            (self.minimum, "at least", number < self.minimum.unwrap_or(number)),
            (self.maximum, "at most", number > self.maximum.unwrap_or(number)),
            (
                self.exclusive_minimum,
                "greater than",
                self.exclusive_minimum.is_some_and(|bound| number <= bound),
            ),
            (
                self.exclusive_maximum,
                "less than",
                self.exclusive_maximum.is_some_and(|bound| number >= bound),
            ),
        ];
        for (bound, relation, _) in bounds.iter().filter(|(.., wrong)| *wrong) {
            let bound = bound.unwrap_or_default();
            let message = format!("{what} must be {relation} {bound}, not {}", text_of(&tree.to_value()));
            out.push(Mistake::new(&tree.at, message));
        }
    }
}

/// Returns the absolute path of a file or folder that must exist, relative to the file it was written in or to `base`.
fn existing(text: &str, at: &At, what: &str, base: &Path, out: &mut Vec<Mistake>) -> Option<Value> {
    let path = std::path::absolute(at.dir().unwrap_or(base).join(text)).unwrap_or_else(|_| PathBuf::from(text));
    let mistake = match path.try_exists() {
        Ok(true) if !text.is_empty() => match path.to_str() {
            Some(path) => return Some(path.into()),
            None => Mistake::new(at, format!("{what}: the path of `{text}` is not UTF-8")),
        },
        Ok(_) => Mistake::new(at, format!("{what}: there is no file or folder `{text}`")),
        Err(error) => Mistake::new(at, format!("{what}: can't look at `{text}`: {error}")),
    };
    out.push(paths::missing(mistake, &path, text));
    None
}

/// Tells whether a text is several numbers and not one with commas between its thousands.
fn is_list_of_numbers(text: &str) -> bool {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let is_grouped = parts[1..]
        .iter()
        .all(|part| part.split('.').next().is_some_and(|digits| digits.len() == 3));
    parts.len() > 1 && !is_grouped && parts.iter().all(|part| part.parse::<f64>().is_ok())
}

/// Returns a value as a user would write it.
pub fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => canonical::to_string(other).unwrap_or_else(|_| other.to_string()),
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Type>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let names = match value {
        Value::Array(names) => names,
        one => vec![one],
    };
    names
        .into_iter()
        .map(|name| serde_json::from_value(name).map_err(de::Error::custom))
        .collect()
}

/// Reads a value so that an explicit null is something.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Additional {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Additional, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(true) => Ok(Additional::Any),
            Value::Bool(false) => Ok(Additional::None),
            schema => serde_json::from_value(schema)
                .map(|s| Additional::Of(Box::new(s)))
                .map_err(de::Error::custom),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ordered<T>, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries: Vec<(String, T)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if entries.iter().any(|(n, _)| *n == name) {
                        return Err(de::Error::custom(format!("duplicate key `{name}`")));
                    }
                    entries.push((name, value));
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// Returns the values of an `enum` as people list them.
pub fn choices(schema: &Schema) -> Option<String> {
    let names: Vec<String> = schema.values.iter().map(text_of).collect();
    (!names.is_empty()).then(|| listed(&names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::yaml;

    fn check(schema: &str, value: &str) -> Result<Value, String> {
        let schema: Schema = serde_yaml::from_str(schema).expect("a schema");
        let mut out = Vec::new();
        let tree = yaml::parse(&At::whole("p", value), &mut out).expect("YAML");
        let value = schema.check(&tree, "`x`", Path::new("/"), &mut out);
        match out.into_iter().next() {
            None => Ok(value.expect("a value, as nothing is wrong")),
            Some(m) => Err(format!("{} | {}", m.message, m.help.unwrap_or_default())),
        }
    }

    #[test]
    fn numbers_take_the_type_that_is_asked_for() {
        assert_eq!(check("{type: number}", "1").map(|v| v.is_f64()), Ok(true));
        assert_eq!(check("{type: integer}", "1e3"), Ok(json!(1000)));
        assert_eq!(check("{type: [integer, 'null']}", "null"), Ok(Value::Null));
        assert_eq!(
            check("{type: integer}", "1.5"),
            Err("`x` must be an integer, not the number `1.5` | ".into())
        );
    }

    #[test]
    fn what_is_wrong_comes_with_what_to_write() {
        let cases = [
            (
                "{type: number}",
                "'0.1'",
                "`x` must be a number, not the string `0.1` | write `0.1`, without quotes",
            ),
            (
                "{type: number}",
                "'1_000.5'",
                "`x` must be a number, not the string `1_000.5` | write `1000.5`, without quotes",
            ),
            (
                "{type: string}",
                "1",
                "`x` must be a string, not the number `1` | put it in quotes: `\"1\"`",
            ),
            (
                "{type: boolean}",
                "'yes'",
                "`x` must be a boolean, not the string `yes` | write `true`, without quotes",
            ),
            ("{type: integer, minimum: 1}", "0", "`x` must be at least 1, not 0 | "),
            (
                "{type: number, exclusiveMaximum: 1}",
                "1",
                "`x` must be less than 1, not 1 | ",
            ),
            (
                "{enum: [search, direct]}",
                "serach",
                "`x` can't be the string `serach` | did you mean `search`?",
            ),
            (
                "{type: array, items: {type: integer}}",
                "[1, a]",
                "item 2 of `x` must be an integer, not the string `a` | ",
            ),
            (
                "{properties: {ab: {}}, additionalProperties: false}",
                "{ac: 1}",
                "`x` has no `ac` | did you mean `ab`?",
            ),
        ];
        for (schema, value, message) in cases {
            assert_eq!(check(schema, value), Err(message.to_owned()), "{schema} {value}");
        }
    }

    #[test]
    fn a_path_is_absolute_for_the_worker_and_its_content_for_the_key() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("data.jsonl"), "{}\n").expect("a file");
        let schema: Schema =
            serde_yaml::from_str("{type: array, items: {type: string, format: path}}").expect("a schema");
        let mut out = Vec::new();
        let tree = yaml::parse(&At::whole("p", "[data.jsonl]"), &mut out).expect("YAML");
        let value = schema
            .check(&tree, "`x`", dir.path(), &mut out)
            .expect("the file exists");
        assert_eq!(value, json!([dir.path().join("data.jsonl").to_str()]));
        let identity = schema
            .identity(&value, &mut |path| crate::digest::path_digest(path, None))
            .expect("readable");
        assert_eq!(identity, json!([{"content": Digest::of(b"{}\n").to_string()}]));
        let wrong = yaml::parse(&At::whole("p", "[data.json]"), &mut out).expect("YAML");
        assert_eq!(schema.check(&wrong, "`x`", dir.path(), &mut out), None);
        assert!(
            out[0]
                .help
                .as_ref()
                .is_some_and(|help| help.starts_with("did you mean `data.jsonl`"))
        );
    }

    #[test]
    fn a_default_is_kept_in_the_form_of_a_checked_value() {
        let mut schema: Schema = serde_yaml::from_str("{type: number, default: 1}").expect("a schema");
        assert_eq!(schema.settle("x"), Ok(()));
        assert_eq!(schema.default, Some(json!(1.0)));
    }

    #[test]
    fn schemas_that_make_no_sense_are_found() {
        let flawed = |text: &str| {
            serde_yaml::from_str::<Schema>(text)
                .expect("a schema")
                .settle("x")
                .err()
        };
        assert_eq!(
            flawed("{type: integer, default: a}").as_deref(),
            Some("the default of `x` must be an integer, not the string `a`")
        );
        assert_eq!(flawed("{type: [integer, 'null'], default: null}"), None);
        assert!(serde_yaml::from_str::<Schema>("{type: integer, maxLength: 3}").is_err());
    }
}
