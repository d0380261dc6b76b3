//! One round of all active trees: select, expand, evaluate, back up.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::growing::Growing;
use super::puct::priors;
use super::{Candidate, Policy, Rollout, SearchConfig, State, Strategy, best_of_n};
use crate::verify;

/// A node of one of the trees: the tree's place, and the node.
type Place = (usize, usize);

/// Advances every tree by the simulations of a round.
pub(super) fn run(trees: &mut [Growing<'_>], config: &SearchConfig, policy: &mut dyn Policy) -> Result<()> {
    if config.strategy == Strategy::BestOfN {
        return best_of_n::run(trees, config, policy);
    }
    let selected: Vec<Place> = (trees.iter().enumerate())
        .flat_map(|(tree_idx, tree)| tree.select(config).into_iter().map(move |node| (tree_idx, node)))
        .collect();
    let mut leaves = selected.clone();
    leaves.retain(|&(tree, node)| trees[tree].can_expand(node));
    let children = expand(trees, &leaves, config, policy)?;
    evaluate(trees, &children, config, policy)?;
    for (tree, node) in selected {
        trees[tree].back_up(node);
    }
    Ok(())
}

/// Adds the policy's candidates below each leaf and returns the new nodes.
fn expand(
    trees: &mut [Growing<'_>],
    leaves: &[Place],
    config: &SearchConfig,
    policy: &mut dyn Policy,
) -> Result<Vec<Place>> {
    if leaves.is_empty() {
        return Ok(Vec::new());
    }
    let states: Vec<State<'_>> = leaves.iter().map(|&(tree, node)| trees[tree].state(node)).collect();
    let proposed = policy.propose(&states, config.num_candidates)?;
    ensure!(
        proposed.len() == states.len(),
        "the policy proposed for {} of {} states",
        proposed.len(),
        states.len()
    );
    let mut children = Vec::new();
    for (&(tree_idx, leaf), candidates) in leaves.iter().zip(proposed) {
        let tree = &mut trees[tree_idx];
        tree.num_tokens += candidates
            .iter()
            .map(|candidate| candidate.num_tokens as u64)
            .sum::<u64>();
        let weights = priors(&candidates, config.prior);
        for (candidate, prior) in merge(candidates, &weights) {
            let child = tree.add_child(leaf, &candidate, prior, config.max_depth);
            children.push((tree_idx, child));
        }
        tree.close(leaf);
    }
    Ok(children)
}

/// Merges candidates that differ in white space alone: the first stands for all, with the sum of their priors.
///
/// Empty candidates are dropped, and so are those that were cut off, which are no whole steps; their share goes to the
/// others.
pub(super) fn merge(candidates: Vec<Candidate>, weights: &[f64]) -> Vec<(Candidate, f64)> {
    let mut merged: Vec<(Candidate, f64)> = Vec::with_capacity(candidates.len());
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (candidate, weight) in candidates.into_iter().zip(weights) {
        let normalized = verify::squeezed(&candidate.text);
        if normalized.is_empty() || candidate.truncated {
            continue;
        }
        let idx = *seen.entry(normalized).or_insert(merged.len());
        match merged.get_mut(idx) {
            Some((_, sum)) => *sum += weight,
            None => merged.push((candidate, *weight)),
        }
    }
    let total: f64 = merged.iter().map(|(_, prior)| prior).sum();
    if total > 0.0 {
        merged.iter_mut().for_each(|(_, prior)| *prior /= total);
    } else {
        // Only candidates that were dropped had any weight.
        let share = 1.0 / merged.len() as f64;
        merged.iter_mut().for_each(|(_, prior)| *prior = share);
    }
    merged
}

/// Gives each new state that is not terminal the share of its rollouts that the verifier accepts. One that was cut off is
/// wrong, whatever its last words are: as in evaluation and training (`scoring::judge`).
fn evaluate(
    trees: &mut [Growing<'_>],
    children: &[Place],
    config: &SearchConfig,
    policy: &mut dyn Policy,
) -> Result<()> {
    let mut open = children.to_vec();
    open.retain(|&(tree, node)| !trees[tree].nodes[node].terminal);
    let states: Vec<State<'_>> = open.iter().map(|&(tree, node)| trees[tree].state(node)).collect();
    let rollouts = roll_out(&states, config.num_rollouts, policy)?;
    for ((&(tree_idx, node), state), rollouts) in open.iter().zip(states).zip(rollouts) {
        let num_correct = rollouts
            .iter()
            .filter(|rollout| !rollout.truncated && is_correct(&state, &rollout.text))
            .count();
        let tree = &mut trees[tree_idx];
        tree.num_tokens += rollouts.iter().map(|rollout| rollout.num_tokens as u64).sum::<u64>();
        if !rollouts.is_empty() {
            tree.evaluate(node, num_correct as f64 / rollouts.len() as f64);
        }
    }
    Ok(())
}

/// Asks the policy for `count` rollouts of each state.
pub(super) fn roll_out(states: &[State<'_>], count: usize, policy: &mut dyn Policy) -> Result<Vec<Vec<Rollout>>> {
    if states.is_empty() || count == 0 {
        return Ok(vec![Vec::new(); states.len()]);
    }
    let rollouts = policy.rollout(states, count)?;
    ensure!(
        rollouts.len() == states.len(),
        "the policy rolled out {} of {} states",
        rollouts.len(),
        states.len()
    );
    Ok(rollouts)
}

fn is_correct(state: &State<'_>, rest: &str) -> bool {
    let mut steps: Vec<&str> = state.steps.iter().map(String::as_str).collect();
    steps.push(rest.trim());
    verify::verify(state.problem, &verify::join_steps(state.problem.verifier, &steps)).correct
}
