//! Why a node has the key it has: its preimage against that of the nearest earlier record.
//!
//! It reads records and compares values; it doesn't decide what runs. Everything it says is taken from the preimages
//! that the keys were made from, so it can't differ from what the keys did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::digest::{Change, RecipeKey, diff, leaves};
use crate::graph::{Graph, Node};
use crate::store::{Record, RecordHistory, Store};

/// How many earlier records of the node itself it is compared with at most.
const MAX_OWN: usize = 16;

/// How many records of its neighbours, or of its kind where it has none.
const MAX_OTHERS: usize = 24;

/// The same for a node that has records of its own.
const MAX_OTHERS_BESIDE_OWN: usize = 4;

/// How many records are kept in memory.
const MAX_KEPT: usize = 512;

/// What was run before, asked for once.
pub struct History<'a> {
    store: &'a Store,
    pipeline: &'a str,
    /// Absent before it is asked for the first time.
    known: Option<RecordHistory<'a>>,
    /// How long nodes of a stage take that were never run themselves.
    seconds_of_stage: HashMap<String, Option<f64>>,
    records: HashMap<RecipeKey, Option<Arc<Record>>>,
}

/// The record that differs least from a node.
#[derive(Debug, Clone)]
pub struct Nearest {
    /// The record.
    pub record: Arc<Record>,
    /// What differs in the node itself, with paths as the pipeline writes them.
    pub own: Vec<Change>,
    /// What differs in the inputs, with paths as the pipeline writes them.
    pub inputs: Vec<Change>,
    /// The same, with paths as in the preimage.
    raw: Vec<Change>,
}

impl Nearest {
    fn new(record: Arc<Record>, node: &Node, raw: Vec<Change>, store: &Store) -> Nearest {
        let shown = |wanted: bool| {
            let changes = raw.iter().filter(move |change| is_input(change) == wanted);
            let shown = changes.flat_map(|change| match change.path.as_str() {
                "code" => code_changes(change, node, store),
                _ => vec![shown(change, &record.recipe, node)],
            });
            shown.collect()
        };
        Nearest {
            own: shown(false),
            inputs: shown(true),
            record,
            raw,
        }
    }
}

impl<'a> History<'a> {
    /// Returns the history of a pipeline in a store.
    pub fn new(store: &'a Store, pipeline: &'a str) -> History<'a> {
        History {
            store,
            pipeline,
            known: None,
            seconds_of_stage: HashMap::new(),
            records: HashMap::new(),
        }
    }

    /// Returns how long a node is expected to take, if its kind was ever run: as long as the last time, else as its
    /// neighbours, else as the latest of its kind.
    pub fn seconds(&mut self, graph: &Graph, idx: usize) -> Option<f64> {
        let pipeline = self.pipeline;
        let (kind, stage, id) = (graph.kind(idx), graph.stage(idx), graph.id(idx));
        let own = self.known().of_node(kind, pipeline, &stage.0, &id.0, 1);
        if let [own] = own[..] {
            return Some(own.seconds);
        }
        if let Some(seconds) = self.seconds_of_stage.get(&stage.0) {
            return *seconds;
        }
        let near = self.known().near(kind, pipeline, &stage.0, &id.0, 1);
        let other = near.into_iter().chain(self.known().of_kind(kind, 1)).next();
        let seconds = other.map(|earlier| earlier.seconds);
        self.seconds_of_stage.insert(stage.0.clone(), seconds);
        seconds
    }

    /// Returns the record of the same kind with the fewest differences in the node itself; among equals that of the
    /// same node, then the one with the fewest differences in inputs, then the latest. A record of the very same
    /// recipe, and what came after it, is left out.
    pub fn nearest(&mut self, node: &Node) -> Option<Nearest> {
        let own = self.record(node.recipe_key);
        let is_earlier = |record: &Record| {
            record.recipe_key != node.recipe_key && own.as_ref().is_none_or(|own| record.started < own.started)
        };
        let keys = self.candidates(node).0;
        let candidates: Vec<Arc<Record>> = keys.into_iter().filter_map(|key| self.record(key)).collect();
        let found = candidates
            .into_iter()
            .enumerate()
            .filter(|(_, record)| is_earlier(record));
        let ranked = found.map(|(age, record)| {
            let changes = diff(&record.recipe, &node.recipe);
            let num_inputs = changes.iter().filter(|change| is_input(change)).count();
            let is_other = record.node != node.id.0 || record.pipeline != self.pipeline;
            ((changes.len() - num_inputs, is_other, num_inputs, age), record, changes)
        });
        ranked
            .min_by_key(|(rank, ..)| *rank)
            .map(|(_, record, changes)| Nearest::new(record, node, changes, self.store))
    }

    /// Tells whether some record could turn out to be this node's, once its inputs are known: one that differs in
    /// nothing but inputs.
    pub fn may_be_known(&mut self, node: &Node) -> bool {
        let (keys, is_complete) = self.candidates(node);
        let is_same = |record: Arc<Record>| diff(&record.recipe, &node.recipe).iter().all(is_input);
        !is_complete || keys.into_iter().any(|key| self.record(key).is_some_and(is_same))
    }

    /// Returns records to compare a node with, of itself first, and whether those are all of its kind.
    fn candidates(&mut self, node: &Node) -> (Vec<RecipeKey>, bool) {
        let pipeline = self.pipeline;
        let known = self.known();
        let mut found = known.of_node(&node.kind, pipeline, &node.stage.0, &node.id.0, MAX_OWN);
        let others = if found.is_empty() {
            MAX_OTHERS
        } else {
            MAX_OTHERS_BESIDE_OWN
        };
        found.extend(known.near(&node.kind, pipeline, &node.stage.0, &node.id.0, others));
        let of_kind = known.of_kind(&node.kind, MAX_OTHERS);
        let is_all = of_kind.len() < MAX_OTHERS;
        if is_all || found.is_empty() {
            found.extend(of_kind);
        }
        let mut seen = HashSet::new();
        let keys = found.into_iter().map(|earlier| earlier.recipe_key);
        (keys.filter(|key| seen.insert(*key)).collect(), is_all)
    }

    fn known(&mut self) -> &RecordHistory<'a> {
        let store = self.store;
        self.known.get_or_insert_with(|| store.history())
    }

    fn record(&mut self, key: RecipeKey) -> Option<Arc<Record>> {
        // A plan of a large sweep looks at as many records as there are nodes, but at few of them twice.
        if self.records.len() >= MAX_KEPT {
            self.records.clear();
        }
        let store = self.store;
        self.records
            .entry(key)
            .or_insert_with(|| store.record(key).map(Arc::new))
            .clone()
    }
}

/// One value that a key is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Where it is, as the pipeline writes it: `with.learning_rate`, `needs.model.recipe`.
    pub path: String,
    /// The value in the nearest earlier record; absent where that has none, or where there is no such record.
    pub old: Option<Value>,
    /// The value now; absent where only the earlier record has one.
    pub new: Option<Value>,
    /// Whether the two differ.
    pub changed: bool,
}

/// Returns all parts of a node's recipe key, each beside that of the nearest earlier record.
pub fn parts(node: &Node, nearest: Option<&Nearest>) -> Vec<Part> {
    let changes = nearest.map(|nearest| nearest.raw.as_slice()).unwrap_or_default();
    let is_under = |path: &str, change: &Change| {
        path.strip_prefix(change.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let changed = nearest
        .into_iter()
        .flat_map(|nearest| nearest.own.iter().chain(&nearest.inputs))
        .cloned();
    let mut parts: Vec<Part> = changed
        .map(|change| Part {
            path: change.path,
            old: change.old,
            new: change.new,
            changed: true,
        })
        .collect();
    for (path, value) in leaves(&node.recipe) {
        // A node without inputs or parameters has nothing to say about them.
        let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        if !is_empty && !changes.iter().any(|change| is_under(&path, change)) {
            let old = nearest.map(|_| value.clone());
            parts.push(Part {
                path: shown_path(&path),
                old,
                new: Some(value),
                changed: false,
            });
        }
    }
    parts.sort_by(|a, b| order(&a.path).cmp(&order(&b.path)).then_with(|| a.path.cmp(&b.path)));
    parts
}

/// Orders parts as a stage is written: the kind first, then parameters, then inputs.
fn order(path: &str) -> usize {
    let head = path.split(['.', '[']).next().unwrap_or_default();
    ["format", "kind", "version", "code", "with", "outputs", "needs"]
        .iter()
        .position(|h| *h == head)
        .unwrap_or(7)
}

fn is_input(change: &Change) -> bool {
    change.path == "inputs" || change.path.starts_with("inputs.")
}

/// Returns a change of a plugin's code file by file, where it is known which there were.
fn code_changes(change: &Change, node: &Node, store: &Store) -> Vec<Change> {
    let old = change.old.as_ref().and_then(|old| old.as_str()?.parse().ok());
    let old = old.and_then(|digest| store.code_files(digest));
    let files = old.zip(node.code.as_ref()).map(|(old, code)| diff(&old, &code.files));
    match files {
        Some(files) if !files.is_empty() => {
            let named = |file: Change| Change {
                path: format!("code.{}", file.path),
                ..file
            };
            files.into_iter().map(named).collect()
        }
        _ => vec![change.clone()],
    }
}

/// Returns a change in the words of the pipeline, with the default where a recipe leaves a parameter out.
fn shown(change: &Change, recorded: &Value, node: &Node) -> Change {
    // A recipe leaves a parameter out where it is at its default.
    let name = change.path.strip_prefix("params.").unwrap_or_default();
    let default = |recipe: &Value| {
        node.defaults
            .get(name)
            .filter(|_| recipe["params"].get(name).is_none())
            .cloned()
    };
    let old = change.old.clone().or_else(|| default(recorded));
    let new = change.new.clone().or_else(|| default(&node.recipe));
    Change {
        path: shown_path(&change.path),
        old,
        new,
    }
}

/// Returns a path of a preimage in the words of the pipeline.
pub fn shown_path(path: &str) -> String {
    for (inside, outside) in [("params", "with"), ("inputs", "needs")] {
        if let Some(rest) = path.strip_prefix(inside)
            && (rest.is_empty() || rest.starts_with('.'))
        {
            return format!("{outside}{rest}");
        }
    }
    path.to_owned()
}
