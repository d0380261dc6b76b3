//! The traces of many trees: the same trees for both styles, and as many traces of each.
//!
//! The searching traces are drawn whatever the style, then evened out; the control takes as many of each tree as are left.
//! A searching trace holds the solution that it ends with, so where one fits into `max_length`, a direct one does too.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;

use super::card::{Card, Group, SourceCounts};
use super::{
    LinearizeConfig, Measured, Terminals, TreeTraces, defect, direct_traces, dropped, num_distinct, path_to,
    search_traces,
};
use crate::card::{Histogram, tally};
use crate::formats::{Relation, Style, Trace, Tree, VERSION};
use crate::random::stream;
use crate::verify::squeezed;

/// Fields of `Problem::meta` by which the card counts.
const GROUP_FIELDS: [&str; 3] = ["source", "subject", "level"];

/// Values of such a field that are shown; a field with more tells problems apart rather than kinds of them.
const MAX_GROUPS: usize = 30;

/// A file of trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As the pipeline calls it: its axes and label.
    pub name: String,
    pub path: std::path::PathBuf,
}

/// A tree and where it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced {
    pub tree: Tree,
    pub source_idx: usize,
    /// From 1.
    pub line: usize,
}

impl Sourced {
    fn place(&self, sources: &[Source]) -> String {
        let source = &sources[self.source_idx];
        format!("{}:{} ({})", source.path.display(), self.line, source.name)
    }
}

/// A tree on its way to traces.
struct Used {
    tree_idx: usize,
    terminals: Terminals,
    lengths: Vec<usize>,
    made: TreeTraces,
}

/// Makes the traces of all trees and the card; `measure` returns the length of a text in `unit`s.
///
/// # Errors
/// A tree is broken, a problem has two trees, or a text can't be measured.
pub fn linearize_all(
    sources: &[Source],
    trees: &[Sourced],
    config: &LinearizeConfig,
    unit: &str,
    measure: &mut dyn FnMut(&str) -> Result<usize>,
) -> Result<(Vec<Trace>, Card)> {
    ensure!(!config.num_backtracks.is_empty(), "num_backtracks is empty");
    ensure!(config.traces_per_problem >= 1, "traces_per_problem must be at least 1");
    ensure!(
        config.min_traces_per_problem <= config.traces_per_problem,
        "min_traces_per_problem is {}, but no problem gives more than {} (traces_per_problem)",
        config.min_traces_per_problem,
        config.traces_per_problem
    );
    check(sources, trees)?;
    let mut card = Card {
        version: VERSION,
        style: Some(config.style),
        num_trees: trees.len(),
        num_backtracks_wanted: config.num_backtracks.clone(),
        ..Card::default()
    };
    let mut used = Vec::new();
    let mut questions = BTreeSet::new();
    for (tree_idx, Sourced { tree, .. }) in trees.iter().enumerate() {
        // Where nothing depends on lengths, those of the traces that are made are enough: trees can be large.
        let lengths = match config.max_length {
            Some(_) => lengths_of(tree, terminal_paths(tree), measure)?,
            None => vec![0; tree.nodes.len()],
        };
        let measured = Measured {
            tree,
            lengths: &lengths,
        };
        let terminals = Terminals::of(measured, config);
        card.num_unsound_terminals += terminals.num_unsound;
        card.num_voted_down += terminals.num_voted_down;
        card.num_without_votes += terminals.num_without_votes;
        card.num_too_long_terminals += terminals.num_too_long;
        let question = squeezed(&tree.problem.problem).to_lowercase();
        let objection = match config.dedupe && questions.contains(&question) {
            true => Some("repeated_problem"),
            false => terminals.objection(),
        };
        if let Some(reason) = objection {
            *card.dropped.entry(reason.to_owned()).or_default() += 1;
            continue;
        }
        let made = search_traces(measured, &terminals, config);
        // A tree that gives nothing must not stand in the way of the next one of its question.
        if made.traces.len() >= config.min_traces_per_problem.max(1) {
            questions.insert(question);
        }
        card.num_asked += config.traces_per_problem;
        used.push(Used {
            tree_idx,
            terminals,
            lengths,
            made,
        });
    }
    if config.even_backtracks {
        even_out(&mut used, config);
    }
    for tree in &mut used {
        let count = tree.made.traces.len();
        if count < config.min_traces_per_problem {
            tree.made.traces.clear();
            *tree.made.dropped.entry(dropped::TOO_FEW).or_default() += count;
        }
        for (reason, count) in &tree.made.dropped {
            *card.dropped_traces.entry((*reason).to_owned()).or_default() += count;
        }
    }
    used.retain(|tree| {
        let has_traces = !tree.made.traces.is_empty();
        if !has_traces {
            *card.dropped.entry("without_traces".to_owned()).or_default() += 1;
        }
        has_traces
    });
    if config.style == Style::Direct {
        for tree in &mut used {
            let count = tree.made.traces.len();
            tree.made = direct_traces(&trees[tree.tree_idx].tree, &tree.terminals, count, config);
        }
    }
    if config.max_length.is_none() {
        for tree in &mut used {
            let visited = tree
                .made
                .traces
                .iter()
                .flat_map(|trace| &trace.nodes)
                .map(|node| node.id);
            tree.lengths = lengths_of(&trees[tree.tree_idx].tree, visited.collect(), measure)?;
        }
    }
    fill(&mut card, sources, trees, &used, config, unit);
    Ok((used.into_iter().flat_map(|tree| tree.made.traces).collect(), card))
}

/// The nodes on the way to a terminal.
fn terminal_paths(tree: &Tree) -> BTreeSet<usize> {
    let terminals = tree.nodes.iter().filter(|node| node.terminal);
    terminals.flat_map(|node| path_to(tree, node.id)).collect()
}

/// Returns the lengths of some nodes' texts, by node; 0 for the others.
fn lengths_of(
    tree: &Tree,
    nodes: BTreeSet<usize>,
    measure: &mut dyn FnMut(&str) -> Result<usize>,
) -> Result<Vec<usize>> {
    let mut lengths = vec![0; tree.nodes.len()];
    for id in nodes {
        let length = measure(&tree.nodes[id].text);
        lengths[id] = length.with_context(|| format!("the tree of problem {:?}", tree.problem.id))?;
    }
    Ok(lengths)
}

fn check(sources: &[Source], trees: &[Sourced]) -> Result<()> {
    let mut seen: HashMap<&str, &Sourced> = HashMap::new();
    for sourced in trees {
        let id = sourced.tree.problem.id.as_str();
        if let Some(defect) = defect(&sourced.tree) {
            bail!(
                "{}: the tree of problem {id:?} is broken: {defect}",
                sourced.place(sources)
            );
        }
        if let Some(first) = seen.insert(id, sourced) {
            bail!(
                "problem {id:?} has two trees, in {} and in {}; search each problem once (shard_index of shards that \
                 belong together must differ), or give problems of different sets different ids",
                first.place(sources),
                sourced.place(sources)
            );
        }
    }
    Ok(())
}

/// Leaves as many traces with each number of backtracks that was asked for.
///
/// A trace with a number that was not asked for, because it was capped or shortened, counts for the next lower one that
/// was, and for the lowest where there is none. Which ones stay is drawn, each trace's lot by its problem's id, so that
/// another order of the trees keeps the same ones.
fn even_out(used: &mut [Used], config: &LinearizeConfig) {
    let mut asked = config.num_backtracks.clone();
    asked.sort_unstable();
    let lower = |k: usize| asked.iter().rev().find(|&&asked| asked <= k);
    let group_of = |k: usize| lower(k).or(asked.first()).copied().unwrap_or(k);
    let mut groups: BTreeMap<usize, Vec<(u64, usize, usize)>> = BTreeMap::new();
    for (used_idx, tree) in used.iter().enumerate() {
        for (trace_idx, trace) in tree.made.traces.iter().enumerate() {
            let purpose = format!("even backtracks {}", trace.problem.id);
            let lot = stream(config.seed, &purpose, trace_idx as u64).random();
            let group = groups.entry(group_of(trace.k)).or_default();
            group.push((lot, used_idx, trace_idx));
        }
    }
    let target = groups.values().map(Vec::len).min().unwrap_or(0);
    let mut left: BTreeSet<(usize, usize)> = BTreeSet::new();
    for mut members in groups.into_values() {
        members.sort_unstable();
        let kept = members.into_iter().take(target);
        left.extend(kept.map(|(_, used_idx, trace_idx)| (used_idx, trace_idx)));
    }
    for (used_idx, tree) in used.iter_mut().enumerate() {
        let traces = std::mem::take(&mut tree.made.traces);
        let count = traces.len();
        tree.made.traces = traces
            .into_iter()
            .enumerate()
            .filter(|(trace_idx, _)| left.contains(&(used_idx, *trace_idx)))
            .map(|(_, trace)| trace)
            .collect();
        let num_dropped = count - tree.made.traces.len();
        if num_dropped > 0 {
            *tree.made.dropped.entry(dropped::EVEN_BACKTRACKS).or_default() += num_dropped;
        }
    }
}

/// Counts what was made.
fn fill(card: &mut Card, sources: &[Source], trees: &[Sourced], used: &[Used], config: &LinearizeConfig, unit: &str) {
    let mean = |sum: usize, count: usize| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
    let traces = || used.iter().flat_map(|tree| &tree.made.traces);
    let tree_of = |used: &Used| &trees[used.tree_idx].tree;
    card.num_used = used.len();
    card.num_traces = traces().count();
    card.num_backtracks = tally(traces().map(|trace| trace.k));
    card.traces_per_problem = tally(used.iter().map(|tree| tree.made.traces.len()));
    card.num_capped = used.iter().map(|tree| tree.made.num_capped).sum();
    card.num_shortened = used.iter().map(|tree| tree.made.num_shortened).sum();
    card.num_resampled = used.iter().map(|tree| tree.made.num_resampled).sum();
    card.mean_correct_terminals = mean(used.iter().map(|tree| tree.terminals.right.len()).sum(), used.len());
    let num_wrong = |tree: &Used| num_distinct(tree_of(tree), &tree.terminals.wrong, config.distinct);
    card.mean_distinct_wrong = mean(used.iter().map(num_wrong).sum(), used.len());
    card.mean_nodes = mean(traces().map(|trace| trace.nodes.len()).sum(), card.num_traces);
    card.num_restarts = traces()
        .flat_map(|trace| &trace.nodes)
        .filter(|node| node.relation == Relation::Restart)
        .count();
    let mut lengths = Vec::new();
    for tree in used {
        let measured = Measured {
            tree: tree_of(tree),
            lengths: &tree.lengths,
        };
        lengths.extend(tree.made.traces.iter().map(|trace| measured.length(&trace.nodes)));
    }
    card.length = Histogram::of(unit, &lengths);
    card.sources = sources
        .iter()
        .enumerate()
        .map(|(idx, source)| {
            let is_of = |tree_idx: usize| trees[tree_idx].source_idx == idx;
            let own = || used.iter().filter(|tree| is_of(tree.tree_idx));
            SourceCounts {
                name: source.name.clone(),
                num_trees: (0..trees.len()).filter(|&tree_idx| is_of(tree_idx)).count(),
                num_used: own().count(),
                num_traces: own().map(|tree| tree.made.traces.len()).sum(),
            }
        })
        .collect();
    card.groups = groups(trees, used);
}

/// Counts by the fields of the problems that say where they come from.
fn groups(trees: &[Sourced], used: &[Used]) -> BTreeMap<String, BTreeMap<String, Group>> {
    let mut groups = BTreeMap::new();
    for field in GROUP_FIELDS {
        let value = |tree_idx: usize| match trees[tree_idx].tree.problem.meta.get(field) {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        };
        let mut counts: BTreeMap<String, Group> = BTreeMap::new();
        for name in (0..trees.len()).filter_map(value) {
            counts.entry(name).or_default().num_trees += 1;
        }
        for tree in used {
            if let Some(group) = value(tree.tree_idx).and_then(|name| counts.get_mut(&name)) {
                group.num_used += 1;
                group.num_traces += tree.made.traces.len();
            }
        }
        if (1..=MAX_GROUPS).contains(&counts.len()) {
            groups.insert(field.to_owned(), counts);
        }
    }
    groups
}
