//! A sweep as a table: a row for each point, or for each group of points that differ only in axes such as the seed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::points::{in_parallel, look_up_all};
use super::query::{check, unknown, value_of};
use super::{CompareError, Datum, Direction, Listing, Point, PointState, Query, Sort, Spread, names_at, points};
use crate::graph::{Axes, NodeId};
use crate::store::{RunState, Store};

/// A sweep as a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The axes that are columns.
    pub axes: Vec<String>,
    /// The axes that are collapsed.
    pub over: Vec<String>,
    /// The metrics: the columns of each row's cells.
    pub metrics: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// What the best rows are best in; none where no metric is a number.
    pub best: Option<Best>,
    /// How many rows there were before the best or first ones were kept.
    pub num_rows: usize,
    /// How many results were made again after the run that is compared.
    pub num_remade: usize,
    /// How many points there are in each state, those of dropped rows among them.
    pub states: BTreeMap<PointState, usize>,
}

/// What is best.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Best {
    /// The metric.
    pub metric: String,
    /// Whether large or small is good.
    pub direction: Direction,
}

/// A point, or a group of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The coordinates that all its points share.
    pub axes: Axes,
    /// Its points.
    pub nodes: Vec<NodeId>,
    /// How many of its points are in which state.
    pub states: BTreeMap<PointState, usize>,
    /// Why the first one that failed did.
    pub message: Option<String>,
    /// Its values, one for each metric of the table.
    pub cells: Vec<Cell>,
    /// Whether no row is better.
    pub is_best: bool,
}

impl Row {
    /// Returns how many of its points have a result.
    pub fn num_done(&self) -> usize {
        self.states.get(&PointState::Done).copied().unwrap_or(0)
    }
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No point has it.
    Absent,
    /// Numbers: their mean, and how well it is known.
    Numbers(Spread),
    /// Texts that differ are separated by commas.
    Text(String),
}

impl Cell {
    /// Returns the mean, if there are numbers.
    pub fn mean(&self) -> Option<f64> {
        match self {
            Cell::Numbers(spread) => Some(spread.mean),
            _ => None,
        }
    }
}

/// Compares the points of a stage.
///
/// `run` is the run whose words count about points without a result; see [`points`].
///
/// # Errors
/// A name names nothing, or no point has a result.
pub fn compare(
    store: &Store,
    listing: Listing,
    run: Option<&RunState>,
    as_it_was: bool,
    query: &Query,
) -> Result<Table, CompareError> {
    let Query { stage, .. } = query;
    let stages = listing.stages();
    if !stages.contains(&stage.as_str()) {
        return Err(unknown("stage", stage, stages.into_iter().map(str::to_owned)));
    }
    let mut nodes = listing.nodes;
    nodes.retain(|node| node.stage == *stage);
    let axes: BTreeSet<String> = nodes.iter().flat_map(|node| node.axes.keys().cloned()).collect();
    check(&nodes, &axes, query)?;
    nodes.retain(|node| {
        query
            .wanted
            .iter()
            .all(|wanted| value_of(node, &wanted.name).is_some_and(|value| wanted.accepts(value)))
    });
    if nodes.is_empty() {
        return Err(CompareError::NoPoint { stage: stage.clone() });
    }
    let mut points = points(store, nodes, run, as_it_was);
    let states = count(points.iter().map(|point| point.state));
    let num_remade = points.iter().filter(|point| point.is_remade).count();
    if !states.contains_key(&PointState::Done) {
        let stage = stage.clone();
        return Err(CompareError::NothingRun { stage, states });
    }
    let metrics = metrics(store, &points, &axes, query);
    look_up_all(store, &mut points, &metrics);
    check_metrics(store, &points, &metrics, &axes)?;
    let over: Vec<String> = axes.iter().filter(|axis| query.over.collapses(axis)).cloned().collect();
    let mut table = Table {
        rows: rows(points, &over, metrics.len()),
        axes: axes.into_iter().filter(|axis| !over.contains(axis)).collect(),
        over,
        metrics,
        best: None,
        num_rows: 0,
        num_remade,
        states,
    };
    table.num_rows = table.rows.len();
    table.mark_best(query);
    table.arrange(query);
    Ok(table)
}

/// Returns the metrics to look up: those that were asked for, or all that the points have.
fn metrics(store: &Store, points: &[Point], axes: &BTreeSet<String>, query: &Query) -> Vec<String> {
    let mut metrics = query.metrics.clone();
    if metrics.is_empty() {
        metrics = union(in_parallel(points, |point| names_at(store, point, false)));
        // Only where the workers told nothing are their outputs searched for numbers.
        if metrics.is_empty() {
            metrics = union(in_parallel(points, |point| names_at(store, point, true)));
        }
        metrics.push("seconds".to_owned());
    }
    let also = query.also.iter().chain(query.sort.iter().map(|sort| &sort.name));
    metrics.extend(also.filter(|name| !axes.contains(*name)).cloned());
    union([metrics])
}

/// Returns all names, each once, in the order in which they appear.
fn union(names: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut all = names.into_iter().flatten().collect::<Vec<_>>();
    all.retain(|name| seen.insert(name.clone()));
    all
}

/// A metric that no point has is a wrong name.
fn check_metrics(
    store: &Store,
    points: &[Point],
    metrics: &[String],
    axes: &BTreeSet<String>,
) -> Result<(), CompareError> {
    let is_absent = |idx: usize| points.iter().all(|point| point.values[idx].is_none());
    let Some(name) = (0..metrics.len()).find(|&idx| is_absent(idx)).map(|idx| &metrics[idx]) else {
        return Ok(());
    };
    let done = points.iter().find(|point| point.state == PointState::Done);
    let mut valid = done.map(|point| names_at(store, point, true)).unwrap_or_default();
    valid.push("seconds".to_owned());
    valid.extend(axes.iter().cloned());
    let params = points.iter().take(1).flat_map(|point| point.node.params.keys());
    valid.extend(params.map(|param| format!("with.{param}")));
    Err(unknown("metric", name, valid))
}

fn count(states: impl Iterator<Item = PointState>) -> BTreeMap<PointState, usize> {
    let mut counts = BTreeMap::new();
    states.for_each(|state| *counts.entry(state).or_default() += 1);
    counts
}

/// Groups points that differ only in the axes that are collapsed, in the order of the first of each group.
fn rows(points: Vec<Point>, over: &[String], num_metrics: usize) -> Vec<Row> {
    let mut groups: Vec<(Axes, Vec<Point>)> = Vec::new();
    let mut by_axes: HashMap<String, usize> = HashMap::new();
    for point in points {
        let mut axes = point.node.axes.clone();
        axes.retain(|axis, _| !over.contains(axis));
        let key = serde_json::to_string(&axes).expect("coordinates are plain data");
        let group = *by_axes.entry(key).or_insert_with(|| {
            groups.push((axes, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(point);
    }
    let row = |(axes, points): (Axes, Vec<Point>)| Row {
        axes,
        cells: (0..num_metrics).map(|idx| cell(&points, idx)).collect(),
        states: count(points.iter().map(|point| point.state)),
        message: points.iter().find_map(|point| point.message.clone()),
        nodes: points.into_iter().map(|point| point.node.id).collect(),
        is_best: false,
    };
    groups.into_iter().map(row).collect()
}

fn cell(points: &[Point], idx: usize) -> Cell {
    let values = || points.iter().filter_map(|point| point.values[idx].as_ref());
    let numbers: Vec<f64> = values().filter_map(Datum::number).collect();
    if let Some(spread) = Spread::of(&numbers) {
        return Cell::Numbers(spread);
    }
    let texts = values().filter_map(|value| match value {
        Datum::Text(text) => Some(text.clone()),
        Datum::Number(_) => None,
    });
    match union([texts.collect()]).join(", ") {
        text if text.is_empty() => Cell::Absent,
        text => Cell::Text(text),
    }
}

impl Table {
    fn mark_best(&mut self, query: &Query) {
        let is_number = |idx: &usize| self.rows.iter().any(|row| row.cells[*idx].mean().is_some());
        // A parameter is what was tried, not how it went.
        let is_result = |idx: &usize| is_number(idx) && !self.metrics[*idx].starts_with("with.");
        let by_name = |name: &String| self.metrics.iter().position(|metric| metric == name);
        let sorted = query
            .sort
            .as_ref()
            .and_then(|sort| by_name(&sort.name))
            .filter(is_result);
        let Some(idx) = sorted.or_else(|| (0..self.metrics.len()).find(is_result)) else {
            return;
        };
        let metric = self.metrics[idx].clone();
        let direction = query.best.unwrap_or_else(|| Direction::of(&metric));
        let means = self.rows.iter().filter_map(|row| row.cells[idx].mean());
        let best = means.filter(|mean| !mean.is_nan()).reduce(|a, b| match direction {
            Direction::Max => a.max(b),
            Direction::Min => a.min(b),
        });
        for row in &mut self.rows {
            row.is_best = best.is_some() && row.cells[idx].mean() == best;
        }
        self.best = best.map(|_| Best { metric, direction });
    }

    fn arrange(&mut self, query: &Query) {
        let by_best = || {
            let best = self.best.as_ref().filter(|_| query.top.is_some())?;
            let (name, descending) = (best.metric.clone(), best.direction == Direction::Max);
            Some(Sort { name, descending })
        };
        if let Some(Sort { name, descending }) = query.sort.clone().or_else(by_best) {
            let idx = self.metrics.iter().position(|metric| *metric == name);
            let key = |row: &Row| match idx {
                Some(idx) => match &row.cells[idx] {
                    Cell::Absent => None,
                    Cell::Numbers(spread) => Some(Datum::Number(spread.mean)),
                    Cell::Text(text) => Some(Datum::Text(text.clone())),
                },
                None => row.axes.get(&name).and_then(Datum::of),
            };
            self.rows.sort_by(|a, b| order(key(a), key(b), descending));
        }
        self.rows.truncate(query.top.unwrap_or(usize::MAX));
    }
}

/// Orders values; what is absent comes last either way.
fn order(a: Option<Datum>, b: Option<Datum>, descending: bool) -> Ordering {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (a, b) => return a.is_none().cmp(&b.is_none()),
    };
    let order = match (&a, &b) {
        (Datum::Number(a), Datum::Number(b)) => a.total_cmp(b),
        (Datum::Text(a), Datum::Text(b)) => a.cmp(b),
        (Datum::Number(_), Datum::Text(_)) => Ordering::Less,
        (Datum::Text(_), Datum::Number(_)) => Ordering::Greater,
    };
    if descending { order.reverse() } else { order }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digest::{Digest, RecipeKey};
    use crate::inspect::Listed;
    use crate::spec::text_of;

    fn point(style: &str, seed: u64, loss: Option<f64>) -> Point {
        let axes: Axes = [("style".to_owned(), json!(style)), ("seed".to_owned(), json!(seed))].into();
        let id = format!("sft[seed={seed},style={style}]");
        Point {
            node: Listed {
                recipe_key: RecipeKey(Digest::of(id.as_bytes())),
                id: NodeId(id),
                stage: "sft".into(),
                kind: "astro.sft".into(),
                kind_version: 1,
                axes,
                params: serde_json::Map::new(),
                recipe: None,
            },
            state: if loss.is_some() {
                PointState::Done
            } else {
                PointState::NotRun
            },
            message: None,
            record: None,
            is_remade: false,
            values: vec![loss.map(Datum::Number)],
        }
    }

    fn table(points: Vec<Point>, over: &[&str], query: &Query) -> Table {
        let over: Vec<String> = over.iter().map(|axis| (*axis).to_owned()).collect();
        let mut table = Table {
            rows: rows(points, &over, 1),
            axes: vec!["style".into()],
            over,
            metrics: vec!["loss".into()],
            best: None,
            num_rows: 0,
            num_remade: 0,
            states: BTreeMap::new(),
        };
        table.mark_best(query);
        table.arrange(query);
        table
    }

    fn styles(table: &Table) -> Vec<String> {
        let style = |row: &Row| format!("{}{}", text_of(&row.axes["style"]), if row.is_best { "*" } else { "" });
        table.rows.iter().map(style).collect()
    }

    #[test]
    fn groups_keep_points_without_a_result() {
        let points = vec![
            point("a", 1, Some(0.5)),
            point("b", 1, Some(0.25)),
            point("a", 2, Some(0.7)),
            point("b", 2, None),
            point("c", 1, None),
        ];
        let table = table(points, &["seed"], &Query::default());
        assert_eq!(styles(&table), ["a", "b*", "c"]);
        let done: Vec<(usize, usize)> = table.rows.iter().map(|row| (row.num_done(), row.nodes.len())).collect();
        assert_eq!(done, [(2, 2), (1, 2), (0, 1)]);
        let Cell::Numbers(a) = &table.rows[0].cells[0] else {
            panic!("numbers")
        };
        assert_eq!((a.n, a.mean), (2, 0.6));
        assert_eq!(table.rows[2].cells[0], Cell::Absent);
    }

    #[test]
    fn the_order_is_asked_for_or_the_best_come_first() {
        let points = || {
            vec![
                point("a", 1, Some(3.0)),
                point("b", 1, None),
                point("c", 1, Some(1.0)),
                point("d", 1, Some(2.0)),
            ]
        };
        let sorted = |sort: &str| Query {
            sort: sort.parse().ok(),
            ..Query::default()
        };
        assert_eq!(styles(&table(points(), &[], &sorted("loss"))), ["c*", "d", "a", "b"]);
        assert_eq!(styles(&table(points(), &[], &sorted("-loss"))), ["a", "d", "c*", "b"]);
        assert_eq!(styles(&table(points(), &[], &sorted("-style"))), ["d", "c*", "b", "a"]);
        let top = Query {
            top: Some(2),
            ..Query::default()
        };
        assert_eq!(styles(&table(points(), &[], &top)), ["c*", "d"]);
        let max = Query {
            best: Some(Direction::Max),
            top: Some(1),
            ..Query::default()
        };
        assert_eq!(styles(&table(points(), &[], &max)), ["a*"]);
    }

    #[test]
    fn what_is_good_goes_by_the_name() {
        for (metric, direction) in [
            ("loss", Direction::Min),
            ("eval.perplexity", Direction::Min),
            ("seconds", Direction::Min),
            ("pass@1", Direction::Max),
            ("reward", Direction::Max),
        ] {
            assert_eq!(Direction::of(metric), direction, "{metric}");
        }
    }
}
