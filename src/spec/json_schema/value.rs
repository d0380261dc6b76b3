//! The schema of a parameter, from the schema that its kind declares.

use serde_json::{Map, Value, json};

use super::or_reference;
use crate::spec::schema::{Additional, Class, Format, Schema, Type};

/// Returns the schema of a value of a parameter: one that is right, a text with `${...}`, or nothing.
pub(super) fn value(schema: &Schema) -> Value {
    let description = description(schema);
    let mut out = match typed(schema) {
        anything if schema.types.is_empty() && schema.values.is_empty() => Value::Object(anything),
        // A stage takes away with null what it would take over from a template.
        typed if schema.types.contains(&Type::Null) => or_reference("", vec![Value::Object(typed)]),
        typed => or_reference("", vec![Value::Object(typed), json!({ "type": "null" })]),
    };
    if !description.is_empty() {
        out["description"] = description.into();
    }
    if let Some(default) = &schema.default {
        out["default"] = default.clone();
    }
    out
}

/// Returns what a value has to be.
fn typed(schema: &Schema) -> Map<String, Value> {
    let mut out = Map::new();
    let mut add = |word: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(word.to_owned(), value);
        }
    };
    let types = match &schema.types[..] {
        [] => None,
        [one] => Some(json!(one)),
        many => Some(json!(many)),
    };
    add("type", types);
    add(
        "enum",
        (!schema.values.is_empty()).then(|| schema.values.clone().into()),
    );
    add("minimum", schema.minimum.map(number));
    add("maximum", schema.maximum.map(number));
    add("exclusiveMinimum", schema.exclusive_minimum.map(number));
    add("exclusiveMaximum", schema.exclusive_maximum.map(number));
    add("items", schema.items.as_deref().map(value));
    let members = schema
        .properties
        .0
        .iter()
        .map(|(name, schema)| (name.clone(), value(schema)));
    let members: Map<String, Value> = members.collect();
    add("properties", (!members.is_empty()).then_some(Value::Object(members)));
    add(
        "additionalProperties",
        match &schema.additional_properties {
            Additional::Any => None,
            Additional::None => Some(Value::Bool(false)),
            Additional::Of(schema) => Some(value(schema)),
        },
    );
    out
}

/// Returns a bound as people write it: `1`, not `1.0`.
fn number(bound: f64) -> Value {
    let whole = bound as i64;
    if whole as f64 == bound {
        json!(whole)
    } else {
        json!(bound)
    }
}

fn description(schema: &Schema) -> String {
    let class = match schema.class {
        Class::Identity => "",
        Class::Equivalent => "Changes the result only up to rounding: not in the key.",
        Class::Runtime => "Does not change the result: not in the key.",
    };
    let path = match schema.format {
        Some(Format::Path) => "A path, relative to this file; its content enters the key.",
        None => "",
    };
    let sentences = [schema.description.as_str(), path, class];
    let sentences = sentences.into_iter().filter(|sentence| !sentence.is_empty());
    sentences.collect::<Vec<_>>().join(" ")
}
