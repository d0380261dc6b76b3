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
use crate::store::{Earlier, Record, RecordHistory, Store};

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
    /// The latest records of each kind.
    latest: HashMap<String, Arc<[Earlier]>>,
    records: HashMap<RecipeKey, Option<Arc<Record>>>,
}

/// How far a record is from a node; the least is the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Differences in the node itself.
    num_own: usize,
    /// It is another node's.
    is_other: bool,
    /// How much of texts differs.
    size: usize,
    /// Differences in inputs.
    num_inputs: usize,
    /// How many are later.
    age: usize,
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

/// A node by the names under which its records are found.
#[derive(Clone, Copy)]
struct Named<'a> {
    kind: &'a str,
    stage: &'a str,
    id: &'a str,
}

impl<'a> History<'a> {
    /// Returns the history of a pipeline in a store.
    pub fn new(store: &'a Store, pipeline: &'a str) -> History<'a> {
        History {
            store,
            pipeline,
            known: None,
            seconds_of_stage: HashMap::new(),
            latest: HashMap::new(),
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
        let other = near.into_iter().chain(self.of_kind(kind).first().copied()).next();
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
        let mut best: Option<(Rank, Arc<Record>, Vec<Change>)> = None;
        let mut rank_all = |history: &mut Self, keys: Vec<RecipeKey>| {
            for (age, key) in keys.into_iter().enumerate() {
                let Some(record) = history.record(key).filter(|record| is_earlier(record)) else {
                    continue;
                };
                let changes = diff(&record.recipe, &node.recipe);
                let rank = history.rank(node, &record, &changes, age);
                if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                    best = Some((rank, record, changes));
                }
            }
            best.as_ref().map(|(rank, ..)| *rank)
        };
        let name = Named {
            kind: &node.kind,
            stage: &node.stage.0,
            id: &node.id.0,
        };
        let own = self.own(name);
        let is_new = own.is_empty();
        let least = rank_all(self, own);
        // Nothing comes before a record of this node with other inputs and nothing else: no other has to be read.
        if least.is_none_or(|rank| rank.num_own > 0) {
            let others = self.others(name, is_new);
            rank_all(self, others);
        }
        best.map(|(_, record, changes)| Nearest::new(record, node, changes, self.store))
    }

    fn rank(&self, node: &Node, record: &Record, changes: &[Change], age: usize) -> Rank {
        let num_inputs = changes.iter().filter(|change| is_input(change)).count();
        Rank {
            num_own: changes.len() - num_inputs,
            is_other: record.node != node.id.0 || record.pipeline != self.pipeline,
            size: changes.iter().filter(|change| !is_input(change)).map(size).sum(),
            num_inputs,
            age,
        }
    }

    /// Returns what differs in a node itself from the record that differs least in that; none without any record of its
    /// kind. Nothing differs where a record could turn out to be this node's once its inputs are known.
    ///
    /// It looks at no inputs, of which there may be tens of thousands.
    pub fn own_changes(&mut self, graph: &Graph, idx: usize) -> Option<Vec<Change>> {
        let (stage, id) = (graph.stage(idx), graph.id(idx));
        let name = Named {
            kind: graph.kind(idx),
            stage: &stage.0,
            id: &id.0,
        };
        let own = self.own(name);
        let others = self.others(name, own.is_empty());
        let recipe = graph.own_recipe(idx);
        let mut least: Option<Vec<Change>> = None;
        for key in own
            .into_iter()
            .chain(others)
            .filter(|key| *key != graph.recipe_key(idx))
        {
            let Some(earlier) = self.store.own_recipe(key) else {
                continue;
            };
            let changes = diff(&earlier, &recipe);
            if least.as_ref().is_none_or(|least| changes.len() < least.len()) {
                least = Some(changes);
            }
            if least.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
        }
        let shown = |change: Change| Change {
            path: shown_path(&change.path),
            ..change
        };
        least.map(|changes| changes.into_iter().map(shown).collect())
    }

    /// Tells whether some record could turn out to be this node's, once its inputs are known: one that differs in
    /// nothing but inputs.
    pub fn may_be_known(&mut self, graph: &Graph, idx: usize) -> bool {
        let (stage, id) = (graph.stage(idx), graph.id(idx));
        let name = Named {
            kind: graph.kind(idx),
            stage: &stage.0,
            id: &id.0,
        };
        // There are more records than can be looked at; one of them may be it.
        if self.of_kind(name.kind).len() == MAX_OTHERS {
            return true;
        }
        let recipe = graph.own_recipe(idx);
        let own = self.own(name);
        let others = self.others(name, own.is_empty());
        let is_same = |key: RecipeKey| self.store.own_recipe(key).is_some_and(|earlier| earlier == recipe);
        own.into_iter().chain(others).any(is_same)
    }

    /// Returns the records of a node itself.
    fn own(&mut self, name: Named<'_>) -> Vec<RecipeKey> {
        let pipeline = self.pipeline;
        let found = self.known().of_node(name.kind, pipeline, name.stage, name.id, MAX_OWN);
        found.into_iter().map(|earlier| earlier.recipe_key).collect()
    }

    /// Returns other records to compare a node with: of its neighbours and, if they are few or there are no others, of
    /// its kind.
    fn others(&mut self, name: Named<'_>, is_new: bool) -> Vec<RecipeKey> {
        let pipeline = self.pipeline;
        let limit = if is_new { MAX_OTHERS } else { MAX_OTHERS_BESIDE_OWN };
        let mut found = self.known().near(name.kind, pipeline, name.stage, name.id, limit);
        let of_kind = self.of_kind(name.kind);
        if of_kind.len() < MAX_OTHERS || (is_new && found.is_empty()) {
            found.extend_from_slice(&of_kind);
        }
        let mut seen = HashSet::new();
        let keys = found.into_iter().map(|earlier| earlier.recipe_key);
        keys.filter(|key| seen.insert(*key)).collect()
    }

    /// Returns the latest records of a kind.
    fn of_kind(&mut self, kind: &str) -> Arc<[Earlier]> {
        if let Some(found) = self.latest.get(kind) {
            return Arc::clone(found);
        }
        let found: Arc<[Earlier]> = self.known().of_kind(kind, MAX_OTHERS).into();
        self.latest.insert(kind.to_owned(), Arc::clone(&found));
        found
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

/// Returns how much of a text differs, in bytes: among points of a sweep, that with the nearest coordinates has least.
fn size(change: &Change) -> usize {
    let (Some(Value::String(old)), Some(Value::String(new))) = (&change.old, &change.new) else {
        return 0;
    };
    let before = old.bytes().zip(new.bytes()).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - before;
    let after = old
        .bytes()
        .rev()
        .zip(new.bytes().rev())
        .take(rest)
        .take_while(|(a, b)| a == b);
    old.len().max(new.len()) - before - after.count()
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
