//! The language as a JSON Schema (draft 2020-12) for editors, made from the kinds that were found.
//!
//! A schema sees one file and no values behind `${...}`: it refuses misspelt keys, wrong types and values out of
//! range, and leaves names of stages, axes and parameters, paths and circles to [`super::load`]. It must never refuse
//! what `load` takes.

mod matrix;
mod stage;
mod value;

use serde_json::{Map, Value, json};

use super::kind::{Catalog, Kind};

/// A name of the language: of a stage, an axis, a parameter or an output.
const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]*$";

/// A text with `${...}` in it.
const REFERENCE: &str = r"\$\{";

/// Returns the JSON Schema of pipeline files that use these kinds.
pub fn json_schema(catalog: &Catalog) -> Value {
    let kinds: Vec<&Kind> = catalog.iter().map(|kind| &**kind).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Volvelle pipeline",
        "description": "Stages with parameters, inputs and sweeps, of which only what changed runs.",
        "type": "object",
        "required": ["volvelle"],
        "additionalProperties": false,
        "properties": top(),
        "$defs": definitions(&kinds),
    })
}

fn top() -> Value {
    json!({
        "volvelle": { "description": "The version of the language.", "const": 1 },
        "name": { "description": "The name of the pipeline; that of the file if it is left out.", "type": "string" },
        "description": { "description": "What the pipeline is for.", "type": "string" },
        "include": {
            "description": "Pipeline files that are merged first, relative to this one; this file wins.",
            "type": ["array", "null"],
            "items": { "type": "string", "minLength": 1 },
        },
        "params": {
            "description": "Values to say once and use as `${params.NAME}`; `--set NAME=VALUE` changes one.",
            "$ref": "#/$defs/params",
        },
        "profiles": {
            "description": "Sets of changes, of which `--profile NAME` applies one.",
            "type": ["object", "null"],
            "additionalProperties": { "$ref": "#/$defs/profile" },
        },
        "defaults": { "description": "What holds for every stage that says nothing else.", "$ref": "#/$defs/defaults" },
        "env": {
            "description": "Environment variables that may be used as `${env.NAME}`, and then enter the key; a \
                            mapping gives each the value that it has where it is not set.",
            "anyOf": [
                { "type": "array", "items": { "type": "string" }, "uniqueItems": true },
                { "type": "object", "additionalProperties": { "type": ["string", "number", "boolean", "null"] } },
                { "type": "null" },
            ],
        },
        "templates": {
            "description": "Stages that are not run but taken over by others with `extends`.",
            "type": ["object", "null"],
            "propertyNames": { "pattern": NAME },
            "additionalProperties": { "$ref": "#/$defs/template" },
        },
        "stages": {
            "description": "The steps of the pipeline, in any order.",
            "type": ["object", "null"],
            "propertyNames": { "pattern": NAME },
            "additionalProperties": { "$ref": "#/$defs/stage" },
        },
    })
}

fn definitions(kinds: &[&Kind]) -> Value {
    let mut definitions = Map::new();
    let mut add = |name: &str, schema: Value| definitions.insert(name.to_owned(), schema);
    add(
        "reference",
        json!({
            "description": "A text with `${params.NAME}`, `${matrix.AXIS}`, `${env.NAME}` or `${profile}` in it.",
            "type": "string",
            "pattern": REFERENCE,
        }),
    );
    add(
        "params",
        json!({ "type": ["object", "null"], "propertyNames": { "pattern": NAME } }),
    );
    add("profile", profile());
    add(
        "defaults",
        json!({
            "type": ["object", "null"],
            "additionalProperties": false,
            "properties": { "resources": { "$ref": "#/$defs/resources" } },
        }),
    );
    add("resources", resources());
    add("matrix", matrix::matrix());
    add("axis", matrix::axis());
    add("coordinate", json!({ "type": ["string", "number", "boolean"] }));
    add(
        "coordinates",
        json!({ "type": ["string", "number", "boolean", "array"], "items": { "$ref": "#/$defs/coordinate" } }),
    );
    add("names", stage::names());
    add("artifact", stage::artifact());
    add("one_artifact", stage::input(1));
    add("artifacts", stage::input(usize::MAX));
    add("template", stage::stage(kinds, true));
    add("stage", stage::stage(kinds, false));
    add("allowed", stage::allowed(kinds));
    add("required", stage::required(kinds));
    Value::Object(definitions)
}

fn profile() -> Value {
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": {
            "params": { "description": "Other values of parameters that the pipeline has.", "$ref": "#/$defs/params" },
            "defaults": { "description": "Other defaults.", "$ref": "#/$defs/defaults" },
        },
    })
}

fn resources() -> Value {
    let or_reference = |description: &str, mut choices: Vec<Value>| {
        // A stage takes away with null what it would take over from a template.
        choices.push(json!({ "type": "null" }));
        or_reference(description, choices)
    };
    json!({
        "description": "What a node needs while it runs; never part of a key.",
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": {
            "cpu": or_reference("Threads.", vec![json!({ "type": "integer", "minimum": 1, "maximum": 4096 })]),
            "gpu": or_reference("GPUs.", vec![json!({ "type": "integer", "minimum": 0, "maximum": 1024 })]),
            "mem": or_reference(
                "Memory, as `8GiB` or `500MB`; a number is in bytes.",
                vec![
                    json!({ "type": "integer", "minimum": 0 }),
                    json!({ "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]*)?\s*([bB]|[kKmMgGtT]([iI]?[bB]|[iI])?)\s*$" }),
                ],
            ),
            "timeout": or_reference(
                "The longest that an attempt may take, as `90s`, `30m`, `2h` or `1d`; a number is in seconds.",
                vec![
                    json!({ "type": "number", "exclusiveMinimum": 0 }),
                    json!({ "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]*)?\s*(s|m|min|h|d)\s*$" }),
                ],
            ),
            "retries": or_reference(
                "Further attempts after a failed one.",
                vec![json!({ "type": "integer", "minimum": 0, "maximum": 1000 })],
            ),
            "priority": or_reference("Among ready nodes the higher goes first.", vec![json!({ "type": "integer" })]),
        },
    })
}

/// Returns the schema of a value that is one of `choices`, or a text with `${...}`.
///
/// Choices of different types become one schema, as each of its words concerns one type only: then an editor can say
/// what is wrong with a value, and not just that it is none of several.
fn or_reference(description: &str, choices: Vec<Value>) -> Value {
    let mut out = merged(&choices).unwrap_or_else(|| {
        let reference = json!({ "$ref": "#/$defs/reference" });
        Map::from_iter([("anyOf".to_owned(), choices.into_iter().chain([reference]).collect())])
    });
    if !description.is_empty() {
        out.insert("description".to_owned(), description.into());
    }
    Value::Object(out)
}

/// Returns choices of different types, none of them a string, as one schema that takes a text with `${...}` as well.
fn merged(choices: &[Value]) -> Option<Map<String, Value>> {
    let mut out = Map::new();
    let mut types: Vec<Value> = Vec::new();
    for choice in choices {
        for (word, value) in choice.as_object()? {
            match (word.as_str(), value) {
                ("type", Value::Array(several)) => types.extend(several.iter().cloned()),
                ("type", one) => types.push(one.clone()),
                ("enum" | "const" | "anyOf" | "allOf" | "oneOf" | "not" | "$ref", _) => return None,
                _ if out.insert(word.clone(), value.clone()).is_some() => return None,
                _ => {}
            }
        }
    }
    let is_twice = |(idx, name): (usize, &Value)| types[..idx].contains(name);
    if types.is_empty() || types.contains(&"string".into()) || types.iter().enumerate().any(is_twice) {
        return None;
    }
    let names: Vec<&str> = types
        .iter()
        .filter_map(Value::as_str)
        .filter(|name| *name != "null")
        .collect();
    let message = format!("must be {} or a text with `${{...}}`", names.join(", "));
    types.push("string".into());
    out.insert("type".to_owned(), types.into());
    out.insert("pattern".to_owned(), REFERENCE.into());
    out.insert("patternErrorMessage".to_owned(), message.into());
    Some(out)
}

#[cfg(test)]
mod tests;
