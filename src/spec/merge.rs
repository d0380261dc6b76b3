//! Laying one tree over another: mappings key by key, everything else replaced.
//!
//! Included files, profiles and templates all win over what they change by this one rule. It knows of the language only
//! which values are a whole, however they are written: the values of an axis.

use std::collections::HashMap;

use super::yaml::{Item, Key, Tree};

/// What a tree is in a pipeline, as far as it matters to a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// A pipeline file.
    File,
    /// `env`: a list of names, or a mapping of names to defaults.
    Env,
    /// `stages` or `templates`.
    Stages,
    /// A stage or template.
    Stage,
    /// A `matrix`: its axes are replaced as a whole, because `{range: ...}` and `{choice: ...}` don't mix.
    Matrix,
    /// Anything that is replaced as a whole.
    Whole,
    /// Anything else.
    Other,
}

impl Level {
    fn inner(self, key: &str) -> Level {
        match (self, key) {
            (Level::File, "stages" | "templates") => Level::Stages,
            (Level::File, "env") => Level::Env,
            (Level::Stages, _) => Level::Stage,
            (Level::Stage, "matrix") => Level::Matrix,
            (Level::Matrix, _) => Level::Whole,
            _ => Level::Other,
        }
    }
}

/// Lays `over` over `base`.
///
/// A section of a file of which nothing is left but its name (`params:`) changes nothing.
pub(super) fn lay(base: &mut Tree, over: &Tree, level: Level) {
    if level == Level::Env {
        base.item = env_mapping(base);
        let over = Tree {
            item: env_mapping(over),
            at: over.at.clone(),
        };
        return lay(base, &over, Level::Other);
    }
    let (Item::Map(entries), Item::Map(changes)) = (&mut base.item, &over.item) else {
        *base = over.clone();
        return;
    };
    if level == Level::Whole {
        *base = over.clone();
        return;
    }
    let index: HashMap<String, usize> = entries
        .iter()
        .enumerate()
        .map(|(idx, (key, _))| (key.text.clone(), idx))
        .collect();
    for (key, change) in changes {
        match index.get(&key.text) {
            Some(_) if level == Level::File && change.is_null() => {}
            Some(&idx) => {
                lay(&mut entries[idx].1, change, level.inner(&key.text));
                entries[idx].0 = key.clone();
            }
            None => entries.push((key.clone(), change.clone())),
        }
    }
}

/// Returns a list of names as the mapping of names to nothing that it means.
fn env_mapping(tree: &Tree) -> Item {
    let Item::List(items) = &tree.item else {
        return tree.item.clone();
    };
    let entry = |item: &Tree| {
        let key = Key {
            text: item.as_text()?.to_owned(),
            at: item.at.clone(),
        };
        let value = Tree {
            item: Item::Plain(serde_json::Value::Null),
            at: item.at.clone(),
        };
        Some((key, value))
    };
    // What is no list of names stays as it is, to be told where it is read.
    match items.iter().map(entry).collect() {
        Some(entries) => Item::Map(entries),
        None => tree.item.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::mistake::At;
    use crate::spec::yaml;

    fn laid(base: &str, over: &str) -> serde_json::Value {
        let mut out = Vec::new();
        let mut base = yaml::parse(&At::whole("base", base), &mut out).expect("YAML");
        let over = yaml::parse(&At::whole("over", over), &mut out).expect("YAML");
        lay(&mut base, &over, Level::File);
        base.to_value()
    }

    #[test]
    fn mappings_are_merged_and_all_else_is_replaced() {
        assert_eq!(
            laid("params: {a: {b: 1, c: [1, 2]}}", "params: {a: {c: [3], d: null}}"),
            json!({"params": {"a": {"b": 1, "c": [3], "d": null}}})
        );
        assert_eq!(laid("params: {a: 1}", "params:"), json!({"params": {"a": 1}}));
    }

    #[test]
    fn an_axis_is_a_whole() {
        let base = "stages: {s: {matrix: {x: {range: {from: 1, to: 5}}, y: [1]}}}";
        let over = "stages: {s: {matrix: {x: {choice: {of: [a]}}}}}";
        let matrix = json!({"x": {"choice": {"of": ["a"]}}, "y": [1]});
        assert_eq!(laid(base, over), json!({"stages": {"s": {"matrix": matrix}}}));
    }

    #[test]
    fn environment_variables_add_up() {
        assert_eq!(
            laid("env: [A, B]", "env: {B: x}"),
            json!({"env": {"A": null, "B": "x"}})
        );
    }
}
