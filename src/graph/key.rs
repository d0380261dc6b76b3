//! Recipe and content keys: what enters them and under which tags.
//!
//! A preimage is `{"format", "kind", "version", "code", "params", "outputs", "inputs"}`; `code` only for kinds of a
//! plugin, `outputs` only where the pipeline chooses them. Names of stages and pipelines, paths, resources and
//! parameters that don't change the result have no way in. It is written once, as the canonical text that is hashed;
//! what is stored and shown is that text read back, so an explanation can't drift from the key.

use serde_json::{Value, json};

use crate::digest::{CanonicalError, ContentKey, Digest, RecipeKey, canonical};

/// The version of the preimages; raising it re-keys everything.
const FORMAT: u64 = 1;
const SEED_TAG: &str = "volvelle seed v1";

/// Returns the seed of a node: 63 bits from kind, version and identity parameters.
///
/// Inputs and code are left out, so that a better upstream stage is judged under the same randomness.
pub(super) fn seed(kind: &str, version: u64, params: &Value) -> Result<u64, CanonicalError> {
    let value = json!({"kind": kind, "version": version, "params": params});
    let digest = Digest::of_value(SEED_TAG, &value)?;
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest.0[..8]);
    Ok(u64::from_be_bytes(first) >> 1)
}

/// Returns the recipe key of a preimage.
pub(super) fn recipe_key(preimage: &str) -> RecipeKey {
    RecipeKey::of_text(preimage)
}

/// Returns the content key of a preimage.
pub(super) fn content_key(preimage: &str) -> ContentKey {
    ContentKey::of_text(preimage)
}

/// What the preimages of all nodes of a stage have in common, in canonical form.
#[derive(Debug)]
pub(super) struct Frame {
    /// Up to the inputs.
    head: String,
    /// From the inputs to the parameters.
    middle: String,
    /// After the parameters.
    tail: String,
}

impl Frame {
    /// `code` is the digest of the plugin's code, `outputs` the names that the pipeline and not the kind gives.
    pub fn new(kind: &str, version: u64, code: Option<Digest>, outputs: Option<&[&str]>) -> Frame {
        let mut head = String::from("{");
        if let Some(code) = code {
            head.push_str(&format!("\"code\":\"{code}\","));
        }
        head.push_str(&format!("\"format\":{FORMAT},\"inputs\":"));
        let mut middle = String::from(",\"kind\":");
        canonical::push_string(&mut middle, kind);
        if let Some(outputs) = outputs {
            middle.push_str(",\"outputs\":");
            push_list(&mut middle, outputs.iter(), |out, name| {
                canonical::push_string(out, name)
            });
        }
        middle.push_str(",\"params\":");
        Frame {
            head,
            middle,
            tail: format!(",\"version\":{version}}}"),
        }
    }

    /// Writes a preimage; `inputs` and `params` write theirs.
    pub fn write(&self, out: &mut String, inputs: impl FnOnce(&mut String), params: impl FnOnce(&mut String)) {
        out.push_str(&self.head);
        inputs(out);
        out.push_str(&self.middle);
        params(out);
        out.push_str(&self.tail);
    }
}

/// What a preimage says of where an item comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// How it is made: in a recipe.
    Recipe(RecipeKey),
    /// What is in it: in a content preimage.
    Content(Digest),
}

/// What a preimage says of a reference, in canonical form.
#[derive(Debug)]
pub(super) struct ItemTexts {
    label: String,
    output: String,
    path: String,
}

impl ItemTexts {
    pub fn new(label: Option<&str>, output: &str, subpath: Option<&str>) -> ItemTexts {
        let member = |name: &str, text: &str| {
            let mut out = format!("\"{name}\":");
            canonical::push_string(&mut out, text);
            out
        };
        ItemTexts {
            label: label.map(|label| member("label", label)).unwrap_or_default(),
            output: member("output", output),
            path: subpath.map(|path| member("path", path)).unwrap_or_default(),
        }
    }

    /// Writes an item. In a list, coordinates and labels tell the items apart, and kinds put them into what they make;
    /// `axes` writes the coordinates, if there are any.
    pub fn write(&self, out: &mut String, origin: Origin, axes: Option<impl FnOnce(&mut String)>, in_list: bool) {
        let label = if in_list { self.label.as_str() } else { "" };
        out.push('{');
        if let Some(axes) = axes.filter(|_| in_list) {
            out.push_str("\"axes\":");
            axes(out);
            out.push(',');
        }
        // Names of members are in order of their bytes, as everywhere in a canonical text.
        match origin {
            Origin::Recipe(key) => {
                push_members(out, [label, &self.output, &self.path]);
                out.push_str("\"recipe\":\"");
                key.0.push_to(out);
                out.push_str("\"}");
            }
            Origin::Content(digest) => {
                out.push_str("\"digest\":\"");
                digest.push_to(out);
                out.push_str("\",");
                push_members(out, [label, &self.path]);
                // The last comma goes.
                out.pop();
                out.push('}');
            }
        }
    }
}

fn push_members<'a>(out: &mut String, members: impl IntoIterator<Item = &'a str>) {
    for member in members.into_iter().filter(|member| !member.is_empty()) {
        out.push_str(member);
        out.push(',');
    }
}

/// Writes a list of JSON.
pub(super) fn push_list<T>(out: &mut String, items: impl Iterator<Item = T>, mut push: impl FnMut(&mut String, T)) {
    out.push('[');
    for (idx, item) in items.enumerate() {
        if idx > 0 {
            out.push(',');
        }
        push(out, item);
    }
    out.push(']');
}

/// Reads a preimage back, for whoever explains or stores it.
pub(super) fn parse(preimage: &str) -> Value {
    serde_json::from_str(preimage).expect("a preimage is written as JSON")
}

/// Returns how an axis value is written in the name of a node.
pub fn axis_text(value: &Value) -> String {
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
    use super::*;

    #[test]
    fn a_preimage_is_its_own_canonical_text() {
        let frame = Frame::new("a.b", 2, Some(Digest::of(b"code")), Some(&["x", "\u{e9}\n"]));
        let item = ItemTexts::new(Some("l"), "model", Some("a/b"));
        let recipe = Origin::Recipe(RecipeKey(Digest::of(b"r")));
        for (origin, in_list) in [recipe, Origin::Content(Digest::of(b"c"))]
            .into_iter()
            .flat_map(|o| [(o, true), (o, false)])
        {
            let mut text = String::new();
            let axes = |out: &mut String| out.push_str("{\"s\":1}");
            frame.write(
                &mut text,
                |out| {
                    out.push_str("{\"i\":");
                    item.write(out, origin, Some(axes), in_list);
                    out.push('}');
                },
                |out| out.push_str("{\"p\":0.5}"),
            );
            let value = parse(&text);
            assert_eq!(canonical::to_string(&value).as_deref(), Ok(text.as_str()));
            assert_eq!(value["inputs"]["i"].get("label").is_some(), in_list);
            assert_eq!(value["inputs"]["i"].get("axes").is_some(), in_list);
        }
    }

    #[test]
    fn the_seed_depends_on_parameters_and_is_positive() {
        let a = seed("astro.sft", 1, &json!({"x": 1})).expect("a plain value");
        assert_eq!(a, seed("astro.sft", 1, &json!({"x": 1})).expect("a plain value"));
        assert_ne!(a, seed("astro.sft", 1, &json!({"x": 2})).expect("a plain value"));
        assert!(a < 1 << 63);
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
