//! Recipe and content keys: what enters them and under which tags.
//!
//! A preimage is `{"format", "kind", "version", "code", "params", "outputs", "inputs"}`; `code` only for kinds of a
//! plugin, `outputs` only where the pipeline chooses them. Names of stages and pipelines, paths, resources and
//! parameters that don't change the result have no way in. What is stored, shown and hashed is the same value.

use serde_json::{Map, Value, json};

use crate::digest::{CanonicalError, ContentKey, Digest, RecipeKey, canonical};

use super::model::{InputItem, NodeInput};

/// The version of the preimages; raising it re-keys everything.
const FORMAT: u64 = 1;
const RECIPE_TAG: &str = "volvelle recipe v1";
const CONTENT_TAG: &str = "volvelle content v1";
const SEED_TAG: &str = "volvelle seed v1";

/// What a node's kind and parameters contribute to its keys.
pub(super) struct Identity<'a> {
    pub kind: &'a str,
    pub version: u64,
    /// Identity parameters that are not at their default, in canonical form.
    pub params: Map<String, Value>,
    /// The digest of the plugin's code.
    pub code: Option<Digest>,
    /// The outputs, where the pipeline and not the kind names them.
    pub outputs: Option<Value>,
}

/// Returns the seed of a node: 63 bits from kind, version and identity parameters.
///
/// Inputs and code are left out, so that a better upstream stage is judged under the same randomness.
pub(super) fn seed(identity: &Identity<'_>) -> Result<u64, CanonicalError> {
    let value = json!({"kind": identity.kind, "version": identity.version, "params": identity.params});
    let digest = Digest::of_value(SEED_TAG, &value)?;
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest.0[..8]);
    Ok(u64::from_be_bytes(first) >> 1)
}

/// Returns the recipe key and its preimage.
pub(super) fn recipe(
    identity: Identity<'_>,
    inputs: &[NodeInput],
    recipe_of: impl Fn(&InputItem) -> RecipeKey,
) -> Result<(RecipeKey, Value), CanonicalError> {
    let mut preimage = Map::new();
    preimage.insert("format".into(), FORMAT.into());
    preimage.insert("kind".into(), identity.kind.into());
    preimage.insert("version".into(), identity.version.into());
    if let Some(code) = identity.code {
        preimage.insert("code".into(), code.to_string().into());
    }
    preimage.insert("params".into(), Value::Object(identity.params));
    if let Some(outputs) = identity.outputs {
        preimage.insert("outputs".into(), outputs);
    }
    let origin = |item: &InputItem, entry: &mut Map<String, Value>| {
        entry.insert("recipe".into(), recipe_of(item).to_string().into());
        entry.insert("output".into(), item.output.clone().into());
    };
    preimage.insert("inputs".into(), input_values(inputs, origin));
    let preimage = Value::Object(preimage);
    Ok((RecipeKey(Digest::of_value(RECIPE_TAG, &preimage)?), preimage))
}

/// Returns the content key and its preimage, from the recipe of the same node.
pub(super) fn content(
    recipe: &Value,
    inputs: &[NodeInput],
    digest_of: impl Fn(&InputItem) -> Digest,
) -> (ContentKey, Value) {
    let mut preimage = recipe.clone();
    let origin = |item: &InputItem, entry: &mut Map<String, Value>| {
        entry.insert("digest".into(), digest_of(item).to_string().into());
    };
    preimage["inputs"] = input_values(inputs, origin);
    let key = Digest::of_value(CONTENT_TAG, &preimage).expect("the recipe, with the same names, has a canonical text");
    (ContentKey(key), preimage)
}

/// Returns the part of a preimage that is about inputs; `origin` writes what an item is made of.
fn input_values(inputs: &[NodeInput], origin: impl Fn(&InputItem, &mut Map<String, Value>)) -> Value {
    let item_value = |item: &InputItem, in_list: bool| {
        let mut entry = Map::new();
        origin(item, &mut entry);
        if let Some(path) = &item.subpath {
            entry.insert("path".into(), path.clone().into());
        }
        // In a list the coordinates and labels tell the items apart, and kinds put them into what they make.
        if in_list && !item.axes.is_empty() {
            entry.insert(
                "axes".into(),
                item.axes
                    .iter()
                    .map(|(axis, value)| (axis.clone(), value.clone()))
                    .collect(),
            );
        }
        if let (true, Some(label)) = (in_list, &item.label) {
            entry.insert("label".into(), label.clone().into());
        }
        Value::Object(entry)
    };
    let input_value = |input: &NodeInput| match &input.items[..] {
        [item] if !input.gathered => item_value(item, false),
        items => Value::Array(items.iter().map(|item| item_value(item, true)).collect()),
    };
    inputs
        .iter()
        .map(|input| (input.name.clone(), input_value(input)))
        .collect()
}

/// Returns how an axis value is written in the name of a node.
pub(super) fn axis_text(value: &Value) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-+/:@ ".contains(c);
    match value {
        Value::String(text) if !text.is_empty() && text.chars().all(plain) && !reads_as_other(text) => text.clone(),
        other => canonical::to_string(other).unwrap_or_else(|_| other.to_string()),
    }
}

/// Tells whether a string looks like a number or boolean, which could be another value of the same axis.
fn reads_as_other(text: &str) -> bool {
    text.parse::<f64>().is_ok() || text == "true" || text == "false"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(params: Value) -> Identity<'static> {
        let params = params.as_object().cloned().expect("an object");
        Identity {
            kind: "astro.sft",
            version: 1,
            params,
            code: None,
            outputs: None,
        }
    }

    fn input(gathered: bool, labels: &[&str]) -> NodeInput {
        let item = |(node, label): (usize, &&str)| InputItem {
            node,
            output: "model".into(),
            subpath: None,
            axes: [("style".to_owned(), json!(*label))].into(),
            label: Some((*label).to_owned()),
        };
        NodeInput {
            name: "model".into(),
            gathered,
            items: labels.iter().enumerate().map(item).collect(),
        }
    }

    #[test]
    fn the_seed_is_63_bits_of_kind_version_and_parameters() {
        let a = seed(&identity(json!({"x": 1}))).expect("a plain value");
        assert_eq!(a, seed(&identity(json!({"x": 1}))).expect("a plain value"));
        assert_ne!(a, seed(&identity(json!({"x": 2}))).expect("a plain value"));
        assert!(a < 1 << 63);
    }

    #[test]
    fn coordinates_and_labels_count_only_in_a_list() {
        let key = |inputs: &[NodeInput]| {
            recipe(identity(json!({})), inputs, |_| RecipeKey(Digest::of(b"x")))
                .expect("a plain value")
                .0
        };
        assert_eq!(key(&[input(false, &["a"])]), key(&[input(false, &["b"])]));
        assert_ne!(key(&[input(true, &["a"])]), key(&[input(true, &["b"])]));
        assert_ne!(key(&[input(true, &["a"])]), key(&[input(false, &["a"])]));
    }

    #[test]
    fn the_content_preimage_names_digests_and_no_recipes() {
        let inputs = [input(false, &["a"])];
        let (_, preimage) =
            recipe(identity(json!({"x": 0.5})), &inputs, |_| RecipeKey(Digest::of(b"r"))).expect("plain");
        let (key, content) = content(&preimage, &inputs, |_| Digest::of(b"c"));
        let digest = Digest::of(b"c").to_string();
        assert_eq!(content["inputs"], json!({"model": {"digest": digest}}));
        assert_eq!(content["params"], preimage["params"]);
        assert_eq!(key.0, Digest::of_value(CONTENT_TAG, &content).expect("plain"));
    }

    #[test]
    fn axis_values_are_quoted_only_where_a_name_would_be_unclear() {
        assert_eq!(axis_text(&json!("search")), "search");
        assert_eq!(axis_text(&json!(1e-4)), "0.0001");
        assert_eq!(axis_text(&json!("a,b")), "\"a,b\"");
        assert_eq!(axis_text(&json!("")), "\"\"");
        assert_eq!(axis_text(&json!("1")), "\"1\"");
    }
}
