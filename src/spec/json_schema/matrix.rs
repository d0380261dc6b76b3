//! The schema of a `matrix`: its axes, what makes their values, and points that are added or left out.

use serde_json::{Map, Value, json};

use super::{NAME, or_reference};

/// Returns the schema of `matrix`.
pub(super) fn matrix() -> Value {
    // A stage takes away with null what it would take over from a template.
    let nothing = || json!({ "type": "null" });
    let points = |description: &str, value: &str| {
        let point = json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": { "$ref": format!("#/$defs/{value}") },
        });
        or_reference(description, vec![json!({ "type": "array", "items": point }), nothing()])
    };
    let zip = json!({
        "type": "object",
        "minProperties": 1,
        "propertyNames": { "pattern": NAME },
        "additionalProperties": { "$ref": "#/$defs/axis" },
    });
    let zips = json!({ "type": "array", "items": zip });
    let axes = json!({
        "type": "object",
        "propertyNames": { "pattern": NAME },
        "properties": {
            "include": points("Points to add, each with all axes.", "coordinate"),
            "exclude": points(
                "Points to leave out: those that agree with one of these, in which a list is one of its values.",
                "coordinates",
            ),
            "zip": or_reference("Axes that vary together: first with first, second with second.", vec![zip, zips, nothing()]),
        },
        "additionalProperties": { "$ref": "#/$defs/axis" },
    });
    or_reference("", vec![axes, nothing()])
}

/// Returns the schema of an axis: its values, or what makes them.
pub(super) fn axis() -> Value {
    let list = json!({
        "type": "array",
        "minItems": 1,
        "items": { "$ref": "#/$defs/coordinate" },
    });
    or_reference(
        "The values of the axis.",
        vec![list, forms(), json!({ "type": "null" })],
    )
}

/// Returns the schema of what makes the values of an axis.
fn forms() -> Value {
    let number = |description: &str| or_reference(description, vec![json!({ "type": "number" })]);
    let positive =
        |description: &str| or_reference(description, vec![json!({ "type": "number", "exclusiveMinimum": 0 })]);
    let count = |least: u64| or_reference("How many values.", vec![json!({ "type": "integer", "minimum": least })]);
    let integer = |description: &str| or_reference(description, vec![json!({ "type": "integer" })]);
    let seed = || integer("Another seed draws other values; 0 if it is left out.");
    let choices = json!({ "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/coordinate" } });
    let options = |required: &[&str], properties: Value| json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties });
    let range = options(
        &["from", "to"],
        json!({
            "from": number("The first value."),
            "to": number("The last value, if a step leads to it."),
            "step": number("From one value to the next; 1 between integers."),
            "num": count(2),
        }),
    );
    let short_range = json!({ "type": "array", "minItems": 2, "maxItems": 3, "items": number("FROM, TO and STEP.") });
    let log_range = options(
        &["from", "to", "num"],
        json!({ "from": positive("The first value."), "to": positive("The last value."), "num": count(2) }),
    );
    let draws = |low: Value, high: Value| {
        options(
            &["low", "high", "num"],
            json!({ "low": low, "high": high, "num": count(1), "seed": seed() }),
        )
    };
    let choice = options(
        &["of", "num"],
        json!({ "of": or_reference("The values to draw from.", vec![choices]), "num": count(1), "seed": seed() }),
    );
    let (low, high) = ("The lower bound.", "The upper bound.");
    let forms = [
        (
            "range",
            "Evenly spaced numbers: `[FROM, TO]`, `[FROM, TO, STEP]` or with names.",
            vec![range, short_range],
        ),
        ("log_range", "Numbers with an even ratio.", vec![log_range]),
        (
            "uniform",
            "Numbers drawn evenly between two bounds.",
            vec![draws(number(low), number(high))],
        ),
        (
            "log_uniform",
            "Numbers drawn evenly on a logarithmic scale.",
            vec![draws(positive(low), positive(high))],
        ),
        (
            "int_uniform",
            "Integers drawn evenly, both bounds among them.",
            vec![draws(integer(low), integer(high))],
        ),
        ("choice", "Values drawn from a list.", vec![choice]),
    ];
    let forms = forms.map(|(name, description, choices)| (name.to_owned(), or_reference(description, choices)));
    let forms: Map<String, Value> = forms.into_iter().collect();
    json!({ "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": false, "properties": forms })
}
