//! The difference of two sides, node by node: pipelines, revisions of one, or runs.
//!
//! A node is the same where its recipe key is. Of one that is not, it is told what differs in itself; one that differs
//! only because something upstream does is told with the nodes that it comes from, its roots. All of it is read from
//! the preimages of the keys, so it can't say anything else than the keys do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::reads::{Read, reads};
use super::{Changed, Difference, Known, Listed, Listing, MetricChange, Outside, Renamed};
use crate::digest::{Change, RecipeKey, diff};
use crate::exec::shown_path;
use crate::graph::NodeId;
use crate::store::{Record, Store};

/// Compares two sides. Preimages and metrics that the listings lack come from the records.
pub fn difference(store: &Store, old: &Listing, new: &Listing) -> Difference {
    let (old, new) = (Side::new(store, old), Side::new(store, new));
    let mut result = Difference {
        added: new.without(&old),
        gone: old.without(&new),
        ..Difference::default()
    };
    result.find_renamed();
    let order: HashMap<&NodeId, usize> = (0..)
        .zip(&new.listing.nodes)
        .map(|(idx, node)| (&node.id, idx))
        .collect();
    result.added.sort_by_key(|node| order[&node.id]);
    let mut roots: HashMap<&NodeId, Vec<NodeId>> = HashMap::new();
    for b in &new.listing.nodes {
        let Some(a) = old.by_id.get(&b.id) else { continue };
        if a.recipe_key == b.recipe_key {
            result.num_same += 1;
            let changes = param_changes(&a.params, &b.params, |_| true);
            if !changes.is_empty() {
                let (id, stage) = (b.id.clone(), b.stage.clone());
                result.outside.push(Outside { id, stage, changes });
            }
            continue;
        }
        let changed = changed(&old, &new, a, b, &roots);
        roots.insert(&b.id, changed.roots.clone());
        result.changed.push(changed);
    }
    result
}

impl Difference {
    /// Returns whether both sides are the same.
    pub fn is_empty(&self) -> bool {
        *self
            == Difference {
                num_same: self.num_same,
                ..Difference::default()
            }
    }

    /// Leaves only what is about a stage, and the roots of that.
    pub fn retain_stage(&mut self, stage: &str) {
        let kept = self.changed.iter().filter(|node| node.stage == stage);
        let roots: HashSet<NodeId> = kept.flat_map(|node| node.roots.iter().cloned()).collect();
        self.added.retain(|node| node.stage == stage);
        self.gone.retain(|node| node.stage == stage);
        self.renamed.retain(|node| node.stages.iter().any(|name| name == stage));
        self.changed
            .retain(|node| node.stage == stage || roots.contains(&node.id));
        self.outside.retain(|node| node.stage == stage);
    }

    /// Takes what is gone under one name and added under another, with the same key, for renamed.
    fn find_renamed(&mut self) {
        let mut by_key: HashMap<RecipeKey, Vec<Known>> = HashMap::new();
        for node in self.added.drain(..).rev() {
            by_key.entry(node.recipe_key).or_default().push(node);
        }
        let mut gone = std::mem::take(&mut self.gone);
        gone.retain(|old| {
            let Some(new) = by_key.get_mut(&old.recipe_key).and_then(Vec::pop) else {
                return true;
            };
            let stages = [old.stage.clone(), new.stage];
            let (old, new) = (old.id.clone(), new.id);
            self.renamed.push(Renamed { old, new, stages });
            false
        });
        self.gone = gone;
        self.added = by_key.into_values().flatten().collect();
    }
}

/// The nodes of one side, found by name and by key.
struct Side<'a> {
    store: &'a Store,
    listing: &'a Listing,
    by_id: HashMap<&'a NodeId, &'a Listed>,
    by_key: HashMap<RecipeKey, Vec<&'a NodeId>>,
}

impl<'a> Side<'a> {
    fn new(store: &'a Store, listing: &'a Listing) -> Side<'a> {
        let mut by_key: HashMap<RecipeKey, Vec<&NodeId>> = HashMap::new();
        for node in &listing.nodes {
            by_key.entry(node.recipe_key).or_default().push(&node.id);
        }
        Side {
            by_id: listing.nodes.iter().map(|node| (&node.id, node)).collect(),
            store,
            listing,
            by_key,
        }
    }

    fn without(&self, other: &Side<'_>) -> Vec<Known> {
        let nodes = self
            .listing
            .nodes
            .iter()
            .filter(|node| !other.by_id.contains_key(&node.id));
        let known = |node: &Listed| Known {
            id: node.id.clone(),
            stage: node.stage.clone(),
            kind: node.kind.clone(),
            recipe_key: node.recipe_key,
        };
        nodes.map(known).collect()
    }

    /// Returns the names of the nodes with a key; several stages may say the same.
    fn names(&self, key: &Value) -> &[&'a NodeId] {
        let key: Option<RecipeKey> = key.as_str().and_then(|key| key.parse().ok());
        key.and_then(|key| self.by_key.get(&key)).map_or(&[], Vec::as_slice)
    }
}

fn changed<'a>(
    old: &Side<'a>,
    new: &Side<'a>,
    a: &Listed,
    b: &Listed,
    known_roots: &HashMap<&NodeId, Vec<NodeId>>,
) -> Changed {
    let records = [old.store.record(a.recipe_key), new.store.record(b.recipe_key)];
    let recipe = |node: &Listed, record: &Option<Record>| {
        let recorded = || record.as_ref().map(|record| record.recipe.clone());
        node.recipe.clone().or_else(recorded)
    };
    let recipes = [recipe(a, &records[0]), recipe(b, &records[1])];
    let is_identity = |name: &str| {
        let mut known = recipes.iter().flatten();
        known.any(|recipe| recipe["params"].get(name).is_some())
    };
    let (mut changes, mut after, mut outside) = (Vec::new(), Vec::new(), Vec::new());
    let is_incomplete = match &recipes {
        [Some(one), Some(two)] => {
            changes = own_changes(a, one, b, two);
            (after, outside) = (
                input_changes(old, one, new, two, &mut changes),
                param_changes(&a.params, &b.params, |name| !is_identity(name)),
            );
            false
        }
        _ => {
            changes.extend(head_change("kind", json!(a.kind), json!(b.kind)));
            changes.extend(head_change("version", json!(a.kind_version), json!(b.kind_version)));
            changes.extend(param_changes(&a.params, &b.params, |_| true));
            true
        }
    };
    let mut roots: Vec<NodeId> = Vec::new();
    if changes.is_empty() {
        let above = after.iter().filter_map(|id| known_roots.get(id)).flatten();
        let above: BTreeSet<&NodeId> = above.collect();
        roots = above.into_iter().cloned().collect();
    }
    if roots.is_empty() {
        roots.push(b.id.clone());
    }
    Changed {
        id: b.id.clone(),
        stage: b.stage.clone(),
        old_key: a.recipe_key,
        new_key: b.recipe_key,
        metrics: metric_changes(&records),
        has_result: [records[0].is_some(), records[1].is_some()],
        changes,
        outside,
        after,
        roots,
        is_incomplete,
    }
}

fn head_change(path: &str, old: Value, new: Value) -> Option<Change> {
    (old != new).then(|| Change {
        path: path.to_owned(),
        old: Some(old),
        new: Some(new),
    })
}

/// Returns the changes of parameters with certain names.
fn param_changes(old: &Map<String, Value>, new: &Map<String, Value>, is_meant: impl Fn(&str) -> bool) -> Vec<Change> {
    let meant = |params: &Map<String, Value>| {
        let mut params = params.clone();
        params.retain(|name, _| is_meant(name));
        json!({"with": params})
    };
    diff(&meant(old), &meant(new))
}

/// Returns what differs in the preimages apart from the inputs, with the value that a default has.
fn own_changes(a: &Listed, one: &Value, b: &Listed, two: &Value) -> Vec<Change> {
    let names = |recipe: &Value| {
        recipe["params"]
            .as_object()
            .map(|params| params.keys().cloned().collect::<Vec<_>>())
    };
    let named: BTreeSet<String> = [one, two].into_iter().filter_map(names).flatten().collect();
    let filled = |node: &Listed, recipe: &Value| {
        let mut filled = recipe.clone();
        let Some(parts) = filled.as_object_mut() else {
            return filled;
        };
        parts.remove("inputs");
        for name in &named {
            // A preimage leaves a parameter out where it is at its default.
            if let (None, Some(value)) = (recipe["params"].get(name), node.params.get(name)) {
                parts["params"][name.as_str()] = value.clone();
            }
        }
        filled
    };
    let mut changes = diff(&filled(a, one), &filled(b, two));
    for change in &mut changes {
        change.path = shown_path(&change.path);
    }
    changes
}

/// Adds what differs in which artifacts are read, and returns the nodes that are read on both sides and have changed.
fn input_changes(old: &Side<'_>, one: &Value, new: &Side<'_>, two: &Value, changes: &mut Vec<Change>) -> Vec<NodeId> {
    let by_slot = |recipe| -> BTreeMap<String, Read<'_>> {
        let reads = reads(recipe).into_iter();
        reads.map(|read| (read.slot.clone(), read)).collect()
    };
    let (was, is) = (by_slot(one), by_slot(two));
    let text = |side: &Side<'_>, read: &Read<'_>| -> Value {
        let name = side.names(&read.item["recipe"]).first().map(|id| id.0.clone());
        let name = name.unwrap_or_else(|| read.item["recipe"].as_str().unwrap_or_default().to_owned());
        let path = read.item["path"]
            .as_str()
            .map(|path| format!("/{path}"))
            .unwrap_or_default();
        format!("{name}.{}{path}", read.item["output"].as_str().unwrap_or_default()).into()
    };
    let is_same_place = |a: &Read<'_>, b: &Read<'_>| ["output", "path"].iter().all(|part| a.item[part] == b.item[part]);
    let num_before = changes.len();
    let mut after: Vec<NodeId> = Vec::new();
    let slots: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for slot in slots {
        let (a, b) = (was.get(slot), is.get(slot));
        let common = |a: &Read<'_>, b: &Read<'_>| {
            let olds = old.names(&a.item["recipe"]);
            new.names(&b.item["recipe"])
                .iter()
                .find(|id| olds.contains(id))
                .map(|id| (*id).clone())
        };
        match (a, b) {
            (Some(a), Some(b)) if a.item == b.item => continue,
            (Some(a), Some(b)) if is_same_place(a, b) && common(a, b).is_some() => {
                after.extend(common(a, b));
                continue;
            }
            _ => {}
        }
        changes.push(Change {
            path: format!("needs.{slot}"),
            old: a.map(|read| text(old, read)),
            new: b.map(|read| text(new, read)),
        });
    }
    if changes.len() == num_before && after.is_empty() && one["inputs"] != two["inputs"] {
        changes.push(Change {
            path: "needs: the order of a list".to_owned(),
            old: None,
            new: None,
        });
    }
    let mut seen = HashSet::new();
    after.retain(|id| seen.insert(id.clone()));
    after
}

fn metric_changes(records: &[Option<Record>; 2]) -> Vec<MetricChange> {
    let [Some(old), Some(new)] = records else {
        return Vec::new();
    };
    let names: BTreeSet<&String> = old.metrics.keys().chain(new.metrics.keys()).collect();
    let change = |name: &String| {
        let (old, new) = (old.metrics.get(name).copied(), new.metrics.get(name).copied());
        let difference = old.zip(new).map(|(old, new)| new - old);
        (old != new).then(|| MetricChange {
            name: name.clone(),
            old,
            new,
            difference,
        })
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn key(text: &str) -> RecipeKey {
        RecipeKey(Digest::of(text.as_bytes()))
    }

    fn node(id: &str, params: Value, inputs: Value) -> Listed {
        let recipe = json!({"format": 1, "kind": "k", "version": 1, "params": params, "inputs": inputs});
        Listed {
            id: NodeId(id.into()),
            stage: id.split('[').next().unwrap_or_default().into(),
            kind: "k".into(),
            kind_version: 1,
            axes: BTreeMap::new(),
            params: params.as_object().cloned().unwrap_or_default(),
            recipe_key: key(&recipe.to_string()),
            recipe: Some(recipe),
        }
    }

    fn read(node: &Listed) -> Value {
        json!({"recipe": node.recipe_key, "output": "out"})
    }

    fn listing(nodes: &[&Listed]) -> Listing {
        Listing {
            pipeline: "p".into(),
            nodes: nodes.iter().map(|node| (*node).clone()).collect(),
        }
    }

    fn compare(old: &[&Listed], new: &[&Listed]) -> Difference {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(folder.path()).expect("a store");
        difference(&store, &listing(old), &listing(new))
    }

    fn ids(ids: &[NodeId]) -> Vec<&str> {
        ids.iter().map(|id| id.0.as_str()).collect()
    }

    #[test]
    fn what_is_below_a_change_is_told_apart_from_it() {
        let chain = |rate: f64| {
            let data = node("data", json!({}), json!({}));
            let sft = node("sft", json!({"learning_rate": rate}), json!({"data": read(&data)}));
            let eval = node("eval", json!({}), json!({"model": read(&sft)}));
            let table = node("table", json!({}), json!({"scores": [read(&eval)]}));
            [data, sft, eval, table]
        };
        let (old, new) = (chain(0.1), chain(0.2));
        let found = compare(&old.iter().collect::<Vec<_>>(), &new.iter().collect::<Vec<_>>());
        assert_eq!(found.num_same, 1);
        let told: Vec<(&str, usize, Vec<&str>)> = found
            .changed
            .iter()
            .map(|node| (node.id.0.as_str(), node.changes.len(), ids(&node.roots)))
            .collect();
        assert_eq!(
            told,
            [
                ("sft", 1, vec!["sft"]),
                ("eval", 0, vec!["sft"]),
                ("table", 0, vec!["sft"])
            ]
        );
        let rate = Change {
            path: "with.learning_rate".into(),
            old: Some(json!(0.1)),
            new: Some(json!(0.2)),
        };
        assert_eq!(found.changed[0].changes, [rate]);
        assert_eq!(ids(&found.changed[2].after), ["eval"]);
    }

    #[test]
    fn a_node_that_reads_something_else_has_a_change_of_its_own() {
        let (a, b) = (
            node("a", json!({"x": 1}), json!({})),
            node("b", json!({"x": 2}), json!({})),
        );
        let old = node("c", json!({}), json!({"in": read(&a)}));
        let new = node("c", json!({}), json!({"in": read(&b)}));
        let found = compare(&[&a, &b, &old], &[&a, &b, &new]);
        assert_eq!(found.changed[0].changes[0].path, "needs.in");
        assert_eq!(found.changed[0].changes[0].new, Some(json!("b.out")));
        let list = |items: &[&Listed]| items.iter().map(|node| read(node)).collect::<Vec<_>>();
        let old = node("c", json!({}), json!({"in": list(&[&a])}));
        let new = node("c", json!({}), json!({"in": list(&[&a, &b])}));
        let found = compare(&[&a, &b, &old], &[&a, &b, &new]);
        assert_eq!(
            (
                found.changed[0].changes[0].path.as_str(),
                &found.changed[0].changes[0].old
            ),
            ("needs.in#2", &None)
        );
    }

    #[test]
    fn a_new_name_is_neither_added_nor_gone() {
        let (old, new) = (
            node("sft", json!({"x": 1}), json!({})),
            node("tuned", json!({"x": 1}), json!({})),
        );
        let other = node("other", json!({"x": 3}), json!({}));
        let found = compare(&[&old], &[&new, &other]);
        assert_eq!((found.renamed.len(), found.added.len(), found.gone.len()), (1, 1, 0));
        assert_eq!(found.renamed[0].new.0, "tuned");
    }

    #[test]
    fn a_default_has_a_value_and_a_parameter_outside_of_the_key_is_no_change() {
        let mut old = node("a", json!({}), json!({}));
        let mut new = node("a", json!({"epochs": 2}), json!({}));
        old.params = json!({"epochs": 1, "num_workers": 2})
            .as_object()
            .cloned()
            .unwrap_or_default();
        new.params = json!({"epochs": 2, "num_workers": 7})
            .as_object()
            .cloned()
            .unwrap_or_default();
        let found = compare(&[&old], &[&new]);
        let epochs = Change {
            path: "with.epochs".into(),
            old: Some(json!(1)),
            new: Some(json!(2)),
        };
        assert_eq!(found.changed[0].changes, [epochs]);
        assert_eq!(found.changed[0].outside[0].path, "with.num_workers");
        let mut same = old.clone();
        same.params = new.params.clone();
        same.params["epochs"] = json!(1);
        let found = compare(&[&old], &[&same]);
        assert_eq!((found.num_same, found.changed.len(), found.outside.len()), (1, 0, 1));
    }

    #[test]
    fn without_a_preimage_the_listed_values_are_compared() {
        let (old, mut new) = (
            node("a", json!({"x": 1}), json!({})),
            node("a", json!({"x": 2}), json!({})),
        );
        new.recipe = None;
        let found = compare(&[&old], &[&new]);
        assert!(found.changed[0].is_incomplete && found.changed[0].is_root());
        assert_eq!(found.changed[0].changes[0].path, "with.x");
    }

    /// Returns a chain of nodes with these names and parameters, each reading the one before it.
    fn chain(nodes: &[(u8, u8)]) -> Vec<Listed> {
        let mut names = HashSet::new();
        let mut chain: Vec<Listed> = Vec::new();
        for (name, x) in nodes.iter().filter(|(name, _)| names.insert(*name)) {
            let inputs = chain
                .last()
                .map_or_else(|| json!({}), |before| json!({"in": read(before)}));
            chain.push(node(&format!("n{name}"), json!({"x": x}), inputs));
        }
        chain
    }

    proptest::proptest! {
        // Each case opens stores on disk.
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

        #[test]
        fn every_node_is_told_once_and_every_change_has_a_root(
            old in proptest::collection::vec((0u8..6, 0u8..3), 0..6),
            new in proptest::collection::vec((0u8..6, 0u8..3), 0..6),
        ) {
            let (old, new) = (chain(&old), chain(&new));
            let (old, new): (Vec<&Listed>, Vec<&Listed>) = (old.iter().collect(), new.iter().collect());
            let found = compare(&old, &new);
            let common = found.num_same + found.changed.len() + found.renamed.len();
            proptest::prop_assert_eq!(common + found.added.len(), new.len());
            proptest::prop_assert_eq!(common + found.gone.len(), old.len());
            for node in &found.changed {
                let is_root = |id: &NodeId| found.changed.iter().any(|node| node.id == *id && node.is_root());
                proptest::prop_assert!(!node.roots.is_empty() && node.roots.iter().all(is_root), "{:?}", node);
                proptest::prop_assert_eq!(node.is_root(), !node.changes.is_empty(), "{:?}", node);
            }
            proptest::prop_assert!(compare(&new, &new).is_empty());
        }
    }
}
