//! The schema of a stage, and what each kind makes of its parameters, inputs and outputs.

use serde_json::{Map, Value, json};

use super::{NAME, or_reference, value};
use crate::spec::kind::{InputSpec, Kind};

/// `stage.output` with what may stand around it: another pipeline's file, coordinates, a path inside.
const ARTIFACT: &str = r"^([^#]+#)?[A-Za-z_][A-Za-z0-9_-]*(\[.*\])?\.[^/]+(/.+)?$";

/// Returns the schema of a stage, or of a template, which may leave out anything.
pub(super) fn stage(kinds: &[&Kind], is_template: bool) -> Value {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    let summaries: Vec<&str> = kinds.iter().map(|kind| kind.summary.as_str()).collect();
    let mut out = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "uses": { "description": "The kind: what the stage does.", "enum": names, "enumDescriptions": summaries },
            "description": { "description": "What the stage is for.", "type": ["string", "null"] },
            "extends": {
                "description": "The template or the stage, or several, from which this takes over what it doesn't say \
                                itself; null takes away a part.",
                "anyOf": [{ "type": "string" }, { "$ref": "#/$defs/names" }],
            },
            "when": when(),
            "tags": { "description": "Words to choose stages by.", "$ref": "#/$defs/names" },
            "with": { "description": "The parameters.", "type": ["object", "null"] },
            "needs": { "description": "The inputs: `NAME: stage.output`.", "type": ["object", "null"] },
            "matrix": { "description": "The axes that the stage adds; a node for each point.", "$ref": "#/$defs/matrix" },
            "gather": {
                "description": "The axes that the stage collapses into lists; `\"*\"` for all of its inputs'.",
                "anyOf": [{ "const": "*" }, { "$ref": "#/$defs/names" }],
            },
            "resources": { "$ref": "#/$defs/resources" },
            "outputs": {
                "description": "The outputs of a `command`: `NAME: TYPE`.",
                "type": ["object", "null"],
                "propertyNames": { "pattern": NAME },
                "additionalProperties": { "type": ["string", "null"] },
            },
        },
        "allOf": [{ "$ref": "#/$defs/allowed" }],
    });
    if is_template {
        out["type"] = json!(["object", "null"]);
        out["properties"]["uses"] = json!({ "anyOf": [out["properties"]["uses"].take(), { "type": "null" }] });
    } else {
        out["allOf"] = json!([{ "$ref": "#/$defs/allowed" }, { "$ref": "#/$defs/required" }]);
        out["anyOf"] = json!([{ "required": ["uses"] }, { "required": ["extends"] }]);
    }
    out
}

fn when() -> Value {
    let value = json!({ "type": ["string", "number", "boolean", "null"] });
    let condition = json!({
        "description": "Values, of which this must have one.",
        "anyOf": [value, { "type": "array", "items": value }],
    });
    let conditions = json!({
        "type": "object",
        "propertyNames": { "pattern": "^(params\\..+|env\\..+|profile)$" },
        "additionalProperties": condition,
    });
    or_reference(
        "The stage exists only where this holds: true, or all of `params.NAME: VALUE`, `profile: [A, B]`.",
        vec![json!({ "type": ["boolean", "null"] }), conditions],
    )
}

/// Returns the schema of a list of names, each once.
pub(super) fn names() -> Value {
    json!({ "type": ["array", "null"], "items": { "type": "string" }, "uniqueItems": true })
}

/// Returns what each kind lets a stage have under `with`, `needs` and `outputs`.
pub(super) fn allowed(kinds: &[&Kind]) -> Value {
    let by_kind = |kind: &&Kind| {
        json!({
            "if": { "properties": { "uses": { "const": kind.name } }, "required": ["uses"] },
            "then": {
                "description": kind.summary,
                "properties": sections(kind),
                // What a stage takes over may be of another kind, of which it then takes something away by its name.
                "if": { "not": { "required": ["extends"] } },
                "then": { "properties": names_in_sections(kind) },
            },
        })
    };
    json!({ "allOf": kinds.iter().map(by_kind).collect::<Vec<_>>() })
}

fn sections(kind: &Kind) -> Value {
    let params = kind
        .params
        .0
        .iter()
        .map(|(name, schema)| (name.clone(), value::value(schema)));
    let with = json!({ "properties": params.collect::<Map<_, _>>() });
    if kind.is_open() {
        return json!({ "with": with, "needs": { "additionalProperties": { "$ref": "#/$defs/artifacts" } } });
    }
    let inputs = kind.inputs.iter().map(|spec| (spec.name.clone(), input_of(spec)));
    json!({ "with": with, "needs": { "properties": inputs.collect::<Map<_, _>>() } })
}

fn names_in_sections(kind: &Kind) -> Value {
    let only = |names: Vec<&str>| match names.is_empty() {
        true => json!({ "maxProperties": 0 }),
        false => json!({ "propertyNames": { "enum": names } }),
    };
    let with = only(kind.params.0.iter().map(|(name, _)| name.as_str()).collect());
    if kind.is_open() {
        return json!({ "with": with });
    }
    let needs = only(kind.inputs.iter().map(|input| input.name.as_str()).collect());
    json!({ "with": with, "needs": needs, "outputs": { "maxProperties": 0 } })
}

/// Returns what a stage must have that takes nothing over from a template.
pub(super) fn required(kinds: &[&Kind]) -> Value {
    let by_kind = kinds.iter().filter_map(|kind| {
        let params = kind.params.0.iter().filter(|(_, schema)| schema.default.is_none());
        let inputs = kind.inputs.iter().filter(|input| !input.optional);
        let names: [(&str, Vec<&str>); 2] = [
            ("with", params.map(|(name, _)| name.as_str()).collect()),
            ("needs", inputs.map(|input| input.name.as_str()).collect()),
        ];
        let sections = names.iter().filter(|(_, names)| !names.is_empty());
        let (mut wanted, mut properties) = (Vec::new(), Map::new());
        for (section, names) in sections {
            wanted.push(*section);
            properties.insert((*section).to_owned(), json!({ "type": "object", "required": names }));
        }
        (!wanted.is_empty()).then(|| {
            json!({
                "if": {
                    "properties": { "uses": { "const": kind.name } },
                    "required": ["uses"],
                    "not": { "required": ["extends"] },
                },
                "then": { "required": wanted, "properties": properties },
            })
        })
    });
    json!({ "allOf": by_kind.collect::<Vec<_>>() })
}

fn input_of(spec: &InputSpec) -> Value {
    let how = match (spec.optional, spec.gathered) {
        (true, true) => ", optional, a list",
        (true, false) => ", optional",
        (false, true) => ", a list",
        (false, false) => "",
    };
    let description = format!("{} (type {}{how})", spec.description, spec.type_name);
    let definition = if spec.gathered { "artifacts" } else { "one_artifact" };
    json!({ "description": description.trim_start(), "$ref": format!("#/$defs/{definition}") })
}

/// Returns the schema of the name of an artifact.
pub(super) fn artifact() -> Value {
    json!({
        "description": "`stage.output`, `stage.output/path/inside`, `stage[axis=value].output` or \
                        `other.yaml#stage.output`.",
        "type": "string",
        "pattern": ARTIFACT,
    })
}

/// Returns the schema of an input: an artifact, or a list or a mapping of labels of at most `most`.
pub(super) fn input(most: usize) -> Value {
    let artifact = json!({ "$ref": "#/$defs/artifact" });
    let labelled =
        json!({ "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": artifact });
    let mut list = json!({ "type": "array", "minItems": 1, "items": { "anyOf": [artifact, labelled] } });
    let mut mapping = json!({ "type": "object", "additionalProperties": artifact });
    if most < usize::MAX {
        list["maxItems"] = most.into();
        mapping["maxProperties"] = most.into();
    }
    json!({ "anyOf": [artifact, list, mapping, { "type": "null" }] })
}
