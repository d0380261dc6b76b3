//! What a preimage says of the artifacts that a node reads.

use std::collections::HashSet;

use serde_json::Value;

use crate::spec::text_of;

/// An artifact that is read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Read<'a> {
    /// The input with, in a list, the label and coordinates of the item: `scores[sft,seed=1]`. No other has the same.
    pub slot: String,
    /// The input.
    pub input: &'a str,
    /// The item as the preimage has it: `recipe`, `output` or `digest`, and perhaps `path`, `axes` and `label`.
    pub item: &'a Value,
}

/// Returns all artifacts that a preimage names, in its order: that of a recipe and of a content are the same.
pub(super) fn reads(preimage: &Value) -> Vec<Read<'_>> {
    let mut reads = Vec::new();
    let mut taken = HashSet::new();
    for (input, value) in preimage["inputs"].as_object().into_iter().flatten() {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        for item in items {
            let mut place: Vec<String> = item["label"].as_str().map(str::to_owned).into_iter().collect();
            let axes = item["axes"].as_object().into_iter().flatten();
            place.extend(axes.map(|(axis, value)| format!("{axis}={}", text_of(value))));
            let mut slot = match place.is_empty() {
                true => input.clone(),
                false => format!("{input}[{}]", place.join(",")),
            };
            // Items of a list that nothing tells apart are told apart by their number.
            if !taken.insert(slot.clone()) {
                let numbered = (2usize..).map(|num| format!("{slot}#{num}"));
                slot = numbered
                    .into_iter()
                    .find(|slot| taken.insert(slot.clone()))
                    .unwrap_or_default();
            }
            reads.push(Read { slot, input, item });
        }
    }
    reads
}
