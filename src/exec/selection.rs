//! Which nodes a run is about, which may run, and which have to.

use super::RunOptions;
use crate::graph::{Graph, SelectError};

/// What `--until`, `--only` and `--rerun` say about each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
/// # Errors
/// An option names no stage or node.
pub(crate) fn select(graph: &Graph, options: &RunOptions) -> Result<Vec<Choice>, SelectError> {
    let everything = options.until.is_empty() && options.only.is_empty();
    let mut choices = vec![
        Choice {
            wanted: everything,
            may_run: everything,
            forced: false
        };
        graph.nodes.len()
    ];
    for idx in all(graph, &options.until)? {
        choices[idx] = Choice {
            wanted: true,
            may_run: true,
            ..choices[idx]
        };
    }
    let only = all(graph, &options.only)?;
    for &idx in &only {
        choices[idx] = Choice {
            wanted: true,
            may_run: true,
            ..choices[idx]
        };
    }
    // Nodes stand after what they depend on, so one pass backwards reaches every ancestor.
    for idx in (0..graph.nodes.len()).rev() {
        if !choices[idx].wanted {
            continue;
        }
        // What `--only` names brings its ancestors in, but not to run.
        let ancestors_may_run = choices[idx].may_run && !only.contains(&idx);
        for item in graph.nodes[idx].inputs.iter().flat_map(|input| &input.items) {
            choices[item.node].wanted = true;
            choices[item.node].may_run |= ancestors_may_run;
        }
    }
    for idx in all(graph, &options.rerun)? {
        choices[idx].forced = true;
    }
    Ok(choices)
}

fn all(graph: &Graph, names: &[String]) -> Result<Vec<usize>, SelectError> {
    let mut found = Vec::new();
    for name in names {
        found.extend(graph.select_all(name)?);
    }
    Ok(found)
}
