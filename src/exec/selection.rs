//! Which nodes a run is about, which may run, and which have to.

use super::RunOptions;
use crate::graph::{Graph, SelectError};

/// What `--until`, `--from`, `--only` and `--rerun` say about each node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The run is about it.
    pub(crate) wanted: bool,
    /// It may run.
    pub(crate) may_run: bool,
    /// It runs even if its result is there.
    pub(crate) forced: bool,
}

/// Applies the options to a graph.
///
/// `--until` leaves what is named and what that depends on, `--from` of that what is named and what depends on it;
/// `--only` names nodes one by one. What else they depend on is wanted, but may not run.
///
/// # Errors
/// An option names no stage or node.
pub(crate) fn select(graph: &Graph, options: &RunOptions) -> Result<Vec<Choice>, SelectError> {
    let is_bounded = !options.until.is_empty() || !options.from.is_empty();
    let everything = !is_bounded && options.only.is_empty();
    let mut may_run = vec![everything || (options.until.is_empty() && is_bounded); graph.len()];
    mark(graph, &options.until, &mut may_run)?;
    if !options.until.is_empty() {
        with_ancestors(graph, &mut may_run);
    }
    if !options.from.is_empty() {
        let mut below = vec![false; graph.len()];
        mark(graph, &options.from, &mut below)?;
        with_descendants(graph, &mut below);
        may_run
            .iter_mut()
            .zip(below)
            .for_each(|(may_run, below)| *may_run &= below);
    }
    mark(graph, &options.only, &mut may_run)?;
    let mut wanted = may_run.clone();
    with_ancestors(graph, &mut wanted);
    let mut forced = vec![false; graph.len()];
    mark(graph, &options.rerun, &mut forced)?;
    let choice = |((wanted, may_run), forced)| Choice {
        wanted,
        may_run,
        // What the other options leave out stays as it is.
        forced: forced && may_run,
    };
    Ok(wanted.into_iter().zip(may_run).zip(forced).map(choice).collect())
}

fn mark(graph: &Graph, names: &[String], marks: &mut [bool]) -> Result<(), SelectError> {
    for name in names {
        graph.select_all(name)?.into_iter().for_each(|idx| marks[idx] = true);
    }
    Ok(())
}

/// Marks what marked nodes depend on. Nodes stand after it, so one pass backwards reaches all of it.
fn with_ancestors(graph: &Graph, marks: &mut [bool]) {
    for idx in (0..graph.len()).rev() {
        if marks[idx] {
            graph.producers(idx).for_each(|producer| marks[producer] = true);
        }
    }
}

/// Marks what depends on marked nodes.
fn with_descendants(graph: &Graph, marks: &mut [bool]) {
    for idx in 0..graph.len() {
        if graph.producers(idx).any(|producer| marks[producer]) {
            marks[idx] = true;
        }
    }
}
