//! Monte Carlo tree search over reasoning steps, for many problems in lock-step.
//!
//! ASTRO's search (arXiv:2507.00417, section 2): PUCT selection with the policy's own probability of a step as the
//! prior, expansion with several sampled candidates, rollouts to the end scored by the verifier, and a backup that
//! counts a state's own rollout value as one more visit. Knows no tensors: a [`Policy`] proposes and rolls out. All
//! problems advance one simulation at a time together, so that the policy sees large batches. Between two simulations a
//! search is its trees and nothing else, so that one that was stopped can go on from there.

mod puct;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::formats::{Problem, Tree, TreeNode, VERSION};
use crate::verify;
pub use puct::Prior;
use puct::{Growing, priors};

/// What proposes steps and plays solutions to their end.
pub trait Policy {
    /// Returns `k` sampled next steps for each state.
    ///
    /// # Errors
    /// The policy's own; the search stops with it.
    fn propose(&mut self, states: &[State<'_>], k: usize) -> Result<Vec<Vec<Candidate>>>;

    /// Returns `m` sampled completions of each state.
    ///
    /// # Errors
    /// The policy's own; the search stops with it.
    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>>;
}

/// A problem and the steps taken so far.
#[derive(Debug, Clone, PartialEq)]
pub struct State<'a> {
    pub problem: &'a Problem,
    pub steps: Vec<String>,
}

/// A sampled next step.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub text: String,
    /// Natural logarithm of the step's probability, summed over its tokens.
    pub sum_logprob: f64,
    pub num_tokens: usize,
    /// The policy ended its turn with this step, so that no other can follow.
    pub ended: bool,
}

/// A sampled completion: everything after the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    pub text: String,
    pub num_tokens: usize,
}

/// How to search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchConfig {
    /// Simulations per problem; ASTRO: 32.
    pub num_simulations: u32,
    /// Candidates sampled at each expansion; ASTRO: 8.
    pub num_candidates: usize,
    /// Rollouts for each new state that is not terminal; ASTRO: 16.
    pub num_rollouts: usize,
    /// Steps after which a state is terminal; ASTRO: 50.
    pub max_depth: usize,
    /// Weight of exploration; not published, 1.0.
    pub c_puct: f64,
    /// How a step's probability becomes its prior.
    pub prior: Prior,
    /// Whether selection may end at a terminal again and again, as in the paper. Otherwise it passes over branches in
    /// which nothing is left to expand, so that each simulation adds states.
    pub revisit_terminals: bool,
    /// Stop a problem's search once its tree has that many terminals of each sort.
    pub stop_when: Option<StopWhen>,
}

/// Enough terminals to stop at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopWhen {
    pub num_correct: usize,
    pub num_wrong: usize,
}

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Finished simulations of each problem that is still active.
    pub simulation: u32,
    pub num_simulations: u32,
    /// Problems whose search goes on.
    pub num_active: usize,
    /// Problems with a correct terminal.
    pub num_solved: usize,
}

/// A tree in the making, as data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedTree {
    pub nodes: Vec<TreeNode>,
    /// For each node whether nothing is left to expand at or below it.
    pub exhausted: Vec<bool>,
    pub num_simulations: u32,
    pub num_tokens: u64,
}

/// All trees after some simulations.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedSearch {
    pub num_simulations: u32,
    /// In the order of the problems.
    pub trees: Vec<SavedTree>,
}

/// What follows a search.
pub trait Observer {
    /// Is told of each simulation that all active problems have finished; `save` returns the search as it is now.
    ///
    /// # Errors
    /// The observer's own; the search stops with it.
    fn simulated(&mut self, progress: Progress, save: &dyn Fn() -> SavedSearch) -> Result<()>;

    /// Is told that a simulation could not be finished, and why; `save` returns the search as it was before. Returns the
    /// error that the search ends with.
    fn interrupted(&mut self, error: anyhow::Error, _save: &dyn Fn() -> SavedSearch) -> anyhow::Error {
        error
    }
}

/// A function follows the progress alone.
impl<F: FnMut(Progress)> Observer for F {
    fn simulated(&mut self, progress: Progress, _save: &dyn Fn() -> SavedSearch) -> Result<()> {
        self(progress);
        Ok(())
    }
}

/// Searches all problems and returns their trees in the same order; goes on from `saved` if there is one.
///
/// # Errors
/// The policy or the observer fails, the policy returns another number of lists than it was asked for, or what was saved
/// is not a search of these problems.
pub fn search(
    problems: &[Problem],
    config: &SearchConfig,
    policy: &mut dyn Policy,
    saved: Option<SavedSearch>,
    observer: &mut dyn Observer,
) -> Result<Vec<Tree>> {
    let (mut growing, first) = match saved {
        None => (problems.iter().map(Growing::new).collect(), 0),
        Some(saved) => (restore(problems, saved.trees)?, saved.num_simulations),
    };
    let is_active = |growing: &[Growing<'_>]| growing.iter().any(|tree| tree.is_active(config));
    // The first simulation is run even where nothing can grow, so that the observer hears of the end.
    let mut simulation = first;
    while simulation < config.num_simulations && (simulation == 0 || is_active(&growing)) {
        let before = growing.clone();
        if let Err(error) = simulate(&mut growing, config, policy) {
            return Err(observer.interrupted(error, &|| save(&before, simulation)));
        }
        simulation += 1;
        let progress = Progress {
            simulation,
            num_simulations: config.num_simulations,
            num_active: growing.iter().filter(|tree| tree.is_active(config)).count(),
            num_solved: growing.iter().filter(|tree| tree.num_terminals(true) > 0).count(),
        };
        observer.simulated(progress, &|| save(&growing, simulation))?;
    }
    Ok(growing.into_iter().map(Growing::finish).collect())
}

fn save(growing: &[Growing<'_>], num_simulations: u32) -> SavedSearch {
    SavedSearch {
        num_simulations,
        trees: growing.iter().map(Growing::save).collect(),
    }
}

fn restore(problems: &[Problem], trees: Vec<SavedTree>) -> Result<Vec<Growing<'_>>> {
    ensure!(
        trees.len() == problems.len(),
        "{} trees were saved for {} problems",
        trees.len(),
        problems.len()
    );
    problems
        .iter()
        .zip(trees)
        .map(|(problem, saved)| Growing::restore(problem, saved))
        .collect()
}

/// Runs one simulation of every active tree: select, expand, evaluate, back up.
fn simulate(growing: &mut [Growing<'_>], config: &SearchConfig, policy: &mut dyn Policy) -> Result<()> {
    let mut selected: Vec<(usize, usize)> = Vec::new();
    for (tree_idx, tree) in growing.iter().enumerate() {
        if tree.is_active(config) {
            selected.push((tree_idx, tree.select(config)));
        }
    }
    let leaves: Vec<(usize, usize)> = selected
        .iter()
        .copied()
        .filter(|&(tree, node)| growing[tree].can_expand(node))
        .collect();
    let children = expand(growing, &leaves, config, policy)?;
    evaluate(growing, &children, config, policy)?;
    for (tree, node) in selected {
        growing[tree].back_up(node);
    }
    Ok(())
}

/// Adds the policy's candidates below each leaf and returns the new nodes.
fn expand(
    growing: &mut [Growing<'_>],
    leaves: &[(usize, usize)],
    config: &SearchConfig,
    policy: &mut dyn Policy,
) -> Result<Vec<(usize, usize)>> {
    if leaves.is_empty() {
        return Ok(Vec::new());
    }
    let states: Vec<State<'_>> = leaves.iter().map(|&(tree, node)| growing[tree].state(node)).collect();
    let proposed = policy.propose(&states, config.num_candidates)?;
    ensure!(
        proposed.len() == states.len(),
        "the policy proposed for {} of {} states",
        proposed.len(),
        states.len()
    );
    let mut children = Vec::new();
    for (&(tree_idx, leaf), candidates) in leaves.iter().zip(proposed) {
        let tree = &mut growing[tree_idx];
        tree.num_tokens += candidates
            .iter()
            .map(|candidate| candidate.num_tokens as u64)
            .sum::<u64>();
        let weights = priors(&candidates, config.prior);
        for (candidate, prior) in merge(candidates, &weights) {
            children.push((tree_idx, tree.add_child(leaf, candidate, prior, config.max_depth)));
        }
        tree.close(leaf);
    }
    Ok(children)
}

/// Merges candidates that differ in white space alone: the first stands for all, with the sum of their priors.
///
/// Empty candidates are dropped; their share goes to the others.
fn merge(candidates: Vec<Candidate>, weights: &[f64]) -> Vec<(Candidate, f64)> {
    let mut merged: Vec<(Candidate, f64)> = Vec::with_capacity(candidates.len());
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (candidate, weight) in candidates.into_iter().zip(weights) {
        let normalized = candidate.text.split_whitespace().collect::<Vec<_>>().join(" ");
        if normalized.is_empty() {
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
        // Only empty candidates had any weight.
        let share = 1.0 / merged.len() as f64;
        merged.iter_mut().for_each(|(_, prior)| *prior = share);
    }
    merged
}

/// Gives each new state that is not terminal the share of its rollouts that the verifier accepts.
fn evaluate(
    growing: &mut [Growing<'_>],
    children: &[(usize, usize)],
    config: &SearchConfig,
    policy: &mut dyn Policy,
) -> Result<()> {
    let open: Vec<(usize, usize)> = children
        .iter()
        .copied()
        .filter(|&(tree, node)| !growing[tree].nodes[node].terminal)
        .collect();
    if open.is_empty() || config.num_rollouts == 0 {
        return Ok(());
    }
    let states: Vec<State<'_>> = open.iter().map(|&(tree, node)| growing[tree].state(node)).collect();
    let rollouts = policy.rollout(&states, config.num_rollouts)?;
    ensure!(
        rollouts.len() == states.len(),
        "the policy rolled out {} of {} states",
        rollouts.len(),
        states.len()
    );
    for ((&(tree_idx, node), state), rollouts) in open.iter().zip(states).zip(rollouts) {
        let num_correct = rollouts
            .iter()
            .filter(|rollout| is_correct(&state, &rollout.text))
            .count();
        let tree = &mut growing[tree_idx];
        tree.num_tokens += rollouts.iter().map(|rollout| rollout.num_tokens as u64).sum::<u64>();
        if !rollouts.is_empty() {
            tree.evaluate(node, num_correct as f64 / rollouts.len() as f64);
        }
    }
    Ok(())
}

fn is_correct(state: &State<'_>, rest: &str) -> bool {
    let mut steps: Vec<&str> = state.steps.iter().map(String::as_str).collect();
    steps.push(rest.trim());
    verify::verify(state.problem, &verify::join_steps(state.problem.verifier, &steps)).correct
}

impl<'a> Growing<'a> {
    fn finish(self) -> Tree {
        Tree {
            version: VERSION,
            problem: self.problem.clone(),
            nodes: self.nodes,
            num_simulations: self.num_simulations,
            num_tokens: self.num_tokens,
        }
    }

    /// Returns the state that a node stands for.
    fn state(&self, node: usize) -> State<'a> {
        State {
            problem: self.problem,
            steps: steps_to(&self.nodes, node),
        }
    }
}

/// Returns the texts of the steps from the root's child to `node`.
pub fn steps_to(nodes: &[TreeNode], node: usize) -> Vec<String> {
    let mut steps = Vec::new();
    let mut at = node;
    while let Some(parent) = nodes[at].parent {
        steps.push(nodes[at].text.clone());
        at = parent;
    }
    steps.reverse();
    steps
}
