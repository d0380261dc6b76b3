//! The difference of two preimages, leaf by leaf: what `why` and `plan` show.
//!
//! It knows JSON only. A list of plain values is one leaf, because `[1, 2] -> [1, 2, 3]` says more than
//! `[2]: absent -> 3`; a list with objects in it is walked.

use serde::Serialize;
use serde_json::Value;

/// One leaf that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Where it is: `params.learning_rate`, `inputs.scores[2].recipe`.
    pub path: String,
    /// The earlier value, if there was one.
    pub old: Option<Value>,
    /// The present value, if there is one.
    pub new: Option<Value>,
}

/// Returns the leaves in which `new` differs from `old`, in the order of their paths.
pub fn diff(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    walk(String::new(), Some(old), Some(new), &mut changes);
    changes
}

/// Returns all leaves of a value with their paths, in the order of paths.
pub fn leaves(value: &Value) -> Vec<(String, Value)> {
    let mut changes = Vec::new();
    walk(String::new(), None, Some(value), &mut changes);
    changes
        .into_iter()
        .filter_map(|change| Some((change.path, change.new?)))
        .collect()
}

fn walk(path: String, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    let sides = || [old, new].into_iter().flatten();
    // An absent side goes along with the other, and so does an empty one.
    if sides().all(Value::is_object) && sides().filter_map(Value::as_object).any(|members| !members.is_empty()) {
        let mut names: Vec<&String> = sides()
            .filter_map(Value::as_object)
            .flat_map(|members| members.keys())
            .collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let inner = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            walk(
                inner,
                old.and_then(|o| o.get(name)),
                new.and_then(|n| n.get(name)),
                changes,
            );
        }
        return;
    }
    if sides().all(Value::is_array) && sides().any(is_nested) {
        let len = |side: Option<&Value>| side.and_then(Value::as_array).map_or(0, Vec::len);
        for idx in 0..len(old).max(len(new)) {
            let inner = format!("{path}[{idx}]");
            walk(
                inner,
                old.and_then(|o| o.get(idx)),
                new.and_then(|n| n.get(idx)),
                changes,
            );
        }
        return;
    }
    changes.push(Change {
        path,
        old: old.cloned(),
        new: new.cloned(),
    });
}

fn is_nested(list: &Value) -> bool {
    list.as_array()
        .is_some_and(|items| items.iter().any(|item| item.is_object() || item.is_array()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(old: Value, new: Value) -> Vec<String> {
        let text = |side: Option<Value>| side.map_or("-".to_owned(), |v| v.to_string());
        diff(&old, &new)
            .into_iter()
            .map(|c| format!("{} {} {}", c.path, text(c.old), text(c.new)))
            .collect()
    }

    #[test]
    fn leaves_are_named_by_dotted_paths() {
        let old = json!({"kind": "sft", "params": {"lr": 0.1, "epochs": 1, "gone": true}});
        let new = json!({"kind": "sft", "params": {"lr": 0.2, "epochs": 1, "added": {"x": 1}}});
        assert_eq!(
            texts(old, new),
            ["params.added.x - 1", "params.gone true -", "params.lr 0.1 0.2"]
        );
    }

    #[test]
    fn a_list_of_plain_values_is_one_leaf_and_one_of_objects_is_walked() {
        assert_eq!(texts(json!({"a": [1, 2]}), json!({"a": [1, 3]})), ["a [1,2] [1,3]"]);
        let old = json!([{"recipe": "x"}, {"recipe": "y"}]);
        let new = json!([{"recipe": "x"}, {"recipe": "z"}, {"recipe": "w"}]);
        assert_eq!(texts(old, new), ["[1].recipe \"y\" \"z\"", "[2].recipe - \"w\""]);
    }

    #[test]
    fn a_value_is_listed_by_its_leaves() {
        let leaves = leaves(&json!({"kind": "sft", "params": {"a": [1, 2]}, "inputs": {"x": [{"recipe": "y"}]}}));
        let paths: Vec<&str> = leaves.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["inputs.x[0].recipe", "kind", "params.a"]);
    }

    #[test]
    fn a_change_of_shape_is_one_change() {
        assert_eq!(texts(json!({"a": {"b": 1}}), json!({"a": 1})), ["a {\"b\":1} 1"]);
        assert_eq!(texts(json!({"a": {}}), json!({"a": {"b": 1}})), ["a.b - 1"]);
        assert!(texts(json!({"a": {}}), json!({"a": {}})).is_empty());
    }
}
