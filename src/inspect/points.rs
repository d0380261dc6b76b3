//! The points of a sweep with what is known of each: its state, its record, and any value asked for by name.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZero;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Listed, last_words};
use crate::exec::NodeState;
use crate::graph::NodeId;
use crate::spec::text_of;
use crate::store::{Record, RunState, RunStatus, Store};

/// An output that is larger than this is not looked into for numbers.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Up to this size an output is looked into although nobody named it.
const MAX_UNASKED_BYTES: u64 = 4 << 20;

/// How a point stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PointState {
    /// It has a result.
    Done,
    /// It runs just now.
    Running,
    /// The last run failed at it.
    Failed,
    /// The last run did not get to it, because something that it depends on failed.
    Skipped,
    /// No run has executed it.
    NotRun,
}

impl fmt::Display for PointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PointState::Done => "done",
            PointState::Running => "running",
            PointState::Failed => "failed",
            PointState::Skipped => "skipped",
            PointState::NotRun => "not run",
        })
    }
}

/// A node of a sweep with its result.
#[derive(Debug, Clone)]
pub struct Point {
    /// The node.
    pub node: Listed,
    /// How it stands.
    pub state: PointState,
    /// Why it failed.
    pub message: Option<String>,
    /// Its record, if it is done.
    pub record: Option<Record>,
    /// Whether the record is from after the run that the question is about, so that the run had another.
    pub is_remade: bool,
    /// The named values, in the order in which they were asked for.
    pub values: Vec<Option<Datum>>,
}

/// A value in a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Datum {
    /// A number.
    Number(f64),
    /// Anything else, as text.
    Text(String),
}

impl Datum {
    /// Returns a number or a text; lists and objects are neither.
    pub fn of(value: &Value) -> Option<Datum> {
        match value {
            Value::Number(number) => number.as_f64().map(Datum::Number),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
            other => Some(Datum::Text(text_of(other))),
        }
    }

    /// Returns the number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Datum::Number(number) => Some(*number),
            Datum::Text(_) => None,
        }
    }
}

/// Returns the points with their states and records, in the order of `nodes`.
///
/// `run` is the run whose words count about nodes without a record. With `as_it_was`, they also count where a later
/// run has made the record since.
pub fn points(store: &Store, nodes: Vec<Listed>, run: Option<&RunState>, as_it_was: bool) -> Vec<Point> {
    let records = in_parallel(&nodes, |node| store.record(node.recipe_key));
    let is_silent = !as_it_was && records.iter().all(Option::is_some);
    let said = match run {
        Some(run) if !is_silent => last_words(store, run),
        _ => HashMap::new(),
    };
    let is_alive = run.is_some_and(|run| run.status == RunStatus::Running);
    let ended = run.filter(|_| as_it_was).and_then(|run| run.ended);
    let point = |(node, record): (Listed, Option<Record>)| {
        let is_newer = |record: &Record| ended.is_some_and(|ended| record.started > ended);
        let is_newer = record.as_ref().is_some_and(is_newer);
        let (mut state, message) = state(&node.id, record.is_some(), &said, is_alive, as_it_was);
        // A run that says nothing of a node did not get to it; what is there now is of a later one.
        if is_newer && !said.is_empty() && !said.contains_key(&node.id) {
            state = PointState::NotRun;
        }
        Point {
            is_remade: is_newer && state == PointState::Done,
            node,
            state,
            message,
            record: record.filter(|_| state == PointState::Done),
            values: Vec::new(),
        }
    };
    nodes.into_iter().zip(records).map(point).collect()
}

fn state(
    id: &NodeId,
    has_record: bool,
    said: &HashMap<NodeId, (NodeState, Option<String>)>,
    is_alive: bool,
    as_it_was: bool,
) -> (PointState, Option<String>) {
    let told = match said.get(id) {
        Some((NodeState::Failed, message)) => Some((PointState::Failed, message.clone())),
        Some((NodeState::Skipped, _)) => Some((PointState::Skipped, None)),
        Some((NodeState::Running, _)) if is_alive => Some((PointState::Running, None)),
        Some((NodeState::Cancelled | NodeState::Running, _)) => Some((PointState::NotRun, None)),
        _ => None,
    };
    match told {
        Some(told) if as_it_was || !has_record => told,
        _ if has_record => (PointState::Done, None),
        _ => (PointState::NotRun, None),
    }
}

/// Fills in the named values of all points; see [`value_at`].
pub(super) fn look_up_all(store: &Store, points: &mut [Point], names: &[String]) {
    let look_up = |point: &Point| {
        let mut outputs = Outputs::new();
        let values = names.iter().map(|name| value_at(store, point, name, &mut outputs));
        values.collect()
    };
    let found: Vec<Vec<Option<Datum>>> = in_parallel(points, look_up);
    for (point, values) in points.iter_mut().zip(found) {
        point.values = values;
    }
}

/// The JSON outputs of one point that were read, by name.
pub type Outputs = HashMap<String, Option<Value>>;

/// Returns a value of a point by its name: `seconds`, a parameter (`with.learning_rate`), a metric of its record
/// (`loss`), or a number inside a JSON output (`scores.pass_at_1`, `scores.pass_at_k.4`, `scores.ci.0`).
///
/// Of an output of JSON Lines the last line counts.
pub fn value_at(store: &Store, point: &Point, name: &str, outputs: &mut Outputs) -> Option<Datum> {
    if let Some(path) = name.strip_prefix("with.") {
        return in_members(&point.node.params, path).and_then(Datum::of);
    }
    let record = point.record.as_ref()?;
    if name == "seconds" {
        return Some(Datum::Number(record.seconds));
    }
    if let Some(number) = record.metrics.get(name) {
        return Some(Datum::Number(*number));
    }
    let (output, path) = name.split_once('.')?;
    let json = outputs
        .entry(output.to_owned())
        .or_insert_with(|| json_output(store, record, output, MAX_JSON_BYTES));
    within(json.as_ref()?, path).and_then(Datum::of)
}

/// Returns the names of all values of a point, metrics first; `with_outputs` reads its JSON outputs for numbers.
pub fn names_at(store: &Store, point: &Point, with_outputs: bool) -> Vec<String> {
    let Some(record) = &point.record else { return Vec::new() };
    let mut names: Vec<String> = record.metrics.keys().cloned().collect();
    for output in record.artifacts.keys().filter(|_| with_outputs) {
        let json = json_output(store, record, output, MAX_UNASKED_BYTES);
        if let Some(members) = json.as_ref().and_then(Value::as_object) {
            let numbers = members.iter().filter(|(_, value)| value.is_number());
            names.extend(numbers.map(|(member, _)| format!("{output}.{member}")));
        }
    }
    names
}

/// Reads an output that is a JSON value, or the last line of JSON Lines; none if it is neither, or too large.
fn json_output(store: &Store, record: &Record, output: &str, max_bytes: u64) -> Option<Value> {
    let artifact = record.artifacts.get(output)?;
    if artifact.manifest.is_some() || artifact.size_bytes > max_bytes {
        return None;
    }
    let bytes = store
        .read_blob(artifact.digest)
        .inspect_err(|error| tracing::warn!(node = record.node, output, %error, "an output can't be read"))
        .ok()?;
    let last_line = || bytes.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
    serde_json::from_slice(&bytes)
        .ok()
        .or_else(|| serde_json::from_slice(last_line()?).ok())
}

/// Returns what lies at a dotted path.
fn within<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => in_members(members, path),
        Value::Array(items) => {
            let (idx, rest) = path.split_once('.').unwrap_or((path, ""));
            let item = items.get(idx.parse::<usize>().ok()?)?;
            if rest.is_empty() {
                Some(item)
            } else {
                within(item, rest)
            }
        }
        _ => None,
    }
}

/// Returns what lies at a dotted path below an object. Names of members may have dots themselves.
fn in_members<'a>(members: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let below = |(dot, _): (usize, &str)| within(members.get(&path[..dot])?, &path[dot + 1..]);
    members.get(path).or_else(|| path.rmatch_indices('.').find_map(below))
}

/// Applies something to all items, with the threads that there are.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let num_threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let chunks = items.chunks(items.len().div_ceil(num_threads).max(1));
        let threads: Vec<_> = chunks
            .map(|chunk| scope.spawn(move || chunk.iter().map(work).collect::<Vec<R>>()))
            .collect();
        let joined = threads.into_iter().flat_map(|thread| match thread.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_through_members_and_positions() {
        let value = json!({"a": {"b": [1, 2.5]}, "pass@0.5": 7, "c.d": {"e": "x"}});
        let at = |path: &str| within(&value, path).and_then(Datum::of);
        assert_eq!(at("a.b.1"), Some(Datum::Number(2.5)));
        assert_eq!(at("pass@0.5"), Some(Datum::Number(7.0)));
        assert_eq!(at("c.d.e"), Some(Datum::Text("x".into())));
        for absent in ["a", "a.b", "a.b.2", "a.x", "", "a."] {
            assert_eq!(at(absent), None, "{absent}");
        }
    }

    #[test]
    fn the_words_of_a_run_count_where_there_is_no_record() {
        let id = NodeId("a".into());
        let said = HashMap::from([(id.clone(), (NodeState::Failed, Some("boom".to_owned())))]);
        let failed = (PointState::Failed, Some("boom".to_owned()));
        assert_eq!(state(&id, false, &said, false, false), failed);
        assert_eq!(state(&id, true, &said, false, false), (PointState::Done, None));
        assert_eq!(state(&id, true, &said, false, true), failed);
        assert_eq!(
            state(&NodeId("b".into()), false, &said, false, false),
            (PointState::NotRun, None)
        );
    }

    #[test]
    fn work_in_parallel_keeps_the_order() {
        let items: Vec<usize> = (0..101).collect();
        assert_eq!(
            in_parallel(&items, |item| item * 2),
            (0..101).map(|item| item * 2).collect::<Vec<_>>()
        );
        assert!(in_parallel(&[] as &[usize], |item| *item).is_empty());
    }
}
