//! What is written for a trace, part by part, whoever writes it.

use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::RewriteConfig;
use crate::formats::{Relation, Style, Trace, TraceNode};
use crate::verify::state_after;

/// A paragraph to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The step of this visit.
    Step { visit_idx: usize },
    /// The return to an earlier state.
    Return {
        /// The visit that the state was reached by; none: the problem itself.
        to_idx: Option<usize>,
        /// The words by which a template names it.
        state: String,
    },
    /// A reflection with a positive verdict.
    Approval,
}

/// Returns the parts of a trace in order; `None` if a node's parent was never visited.
pub fn plan(trace: &Trace, config: &RewriteConfig, rng: &mut ChaCha8Rng) -> Option<Vec<Part>> {
    let praised = praised(trace, config, rng);
    let mut visited: BTreeMap<usize, (usize, &TraceNode)> = BTreeMap::new();
    let mut parts = Vec::new();
    for (visit_idx, node) in trace.nodes.iter().enumerate() {
        // A return leads to the visit that the state was first reached by.
        let reached_idx = match node.relation {
            Relation::Backtrack => visited.get(&node.id)?.0,
            _ => visit_idx,
        };
        visited.insert(node.id, (reached_idx, node));
        match node.relation {
            Relation::Root => {}
            Relation::Child => parts.push(Part::Step { visit_idx }),
            Relation::Backtrack | Relation::Restart => {
                let to_idx = (node.relation == Relation::Backtrack).then_some(reached_idx);
                let state = state_after(&trace.problem, &steps_to(&visited, node.id)?);
                parts.push(Part::Return { to_idx, state });
            }
        }
        if praised.contains(&visit_idx) {
            parts.push(Part::Approval);
        }
    }
    if trace.style == Style::Search && config.final_reflection {
        parts.push(Part::Approval);
    }
    Some(parts)
}

fn steps_to<'a>(visited: &BTreeMap<usize, (usize, &'a TraceNode)>, node: usize) -> Option<Vec<&'a str>> {
    let mut steps = Vec::new();
    let (_, mut node) = *visited.get(&node)?;
    while let Some(parent) = node.parent {
        steps.push(node.text.trim());
        // A cycle of parents would never end.
        let (_, next) = *visited.get(&parent).filter(|(_, next)| next.id < node.id)?;
        node = next;
    }
    steps.reverse();
    Some(steps)
}

/// Chooses the steps that a positive reflection follows, uniformly among the promising ones.
///
/// Terminals are left out: the one verdict after the final step is `final_reflection`'s, and after a wrong one comes
/// the return.
fn praised(trace: &Trace, config: &RewriteConfig, rng: &mut ChaCha8Rng) -> Vec<usize> {
    if trace.style == Style::Direct {
        return Vec::new();
    }
    let is_promising = |&idx: &usize| {
        let node = &trace.nodes[idx];
        let goes_on = trace
            .nodes
            .get(idx + 1)
            .is_some_and(|next| next.relation == Relation::Child);
        node.relation == Relation::Child && !node.terminal && node.q_value >= config.high_q && goes_on
    };
    let promising: Vec<usize> = (0..trace.nodes.len()).filter(is_promising).collect();
    promising
        .choose_multiple(rng, config.positive_reflections)
        .copied()
        .collect()
}
