//! Search over reasoning steps, for many problems at once.
//!
//! ASTRO's search (arXiv:2507.00417, section 2) is Monte Carlo tree search: PUCT selection with the policy's own
//! probability of a step as the prior, expansion with several sampled candidates, rollouts to the end scored by the
//! verifier, and a backup that counts a state's own rollout value as one more visit. Three plainer searches stand beside
//! it as baselines; all make the same kind of tree. Knows no tensors, no files and no clock: a [`Policy`] proposes and
//! rolls out, an [`Observer`] gets the trees and may end the search.
//!
//! The problems advance in rounds, so that the policy sees large batches: in a round each active tree chooses its leaves,
//! all leaves are expanded together, and all new states are rolled out together. When a tree is done, the next problem
//! takes its place. What is drawn for a state depends on its problem and its number alone, so a tree does not depend on
//! what is searched beside it. Between two rounds a search is its trees and nothing else, so that one that was stopped can
//! go on from there.

mod best_of_n;
mod config;
mod growing;
mod puct;
mod round;
mod select;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::formats::{Problem, Tree, TreeNode, VerifierName};
use crate::verify::Wording;
pub use config::{SearchConfig, StopWhen, Strategy};
use growing::Growing;
pub use puct::Prior;

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
    /// The problem's place among those that are searched.
    pub problem_idx: usize,
    pub steps: Vec<String>,
    /// Tells apart what is drawn for one problem: among its proposals no two states have the same number, and among its
    /// rollouts neither. It does not depend on the order in which things are computed.
    pub draw: usize,
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
    /// It was cut at its length limit, and is not to become a state.
    pub truncated: bool,
}

/// A sampled completion: everything after the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    pub text: String,
    pub num_tokens: usize,
    /// It was cut at its length limit.
    pub truncated: bool,
}

/// A tree in the making, as data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTree {
    pub problem_idx: usize,
    pub nodes: Vec<TreeNode>,
    /// For each node whether nothing is left to expand at or below it.
    pub exhausted: Vec<bool>,
    pub num_simulations: u32,
    pub num_tokens: u64,
}

/// A search between two rounds: the trees that are not done. What is neither here nor done has not begun.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SavedSearch {
    pub num_rounds: usize,
    pub trees: Vec<SavedTree>,
}

/// What earlier attempts left of a search.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    pub search: SavedSearch,
    /// Places of the problems whose trees are done.
    pub done: BTreeSet<usize>,
}

/// What some trees amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub num_trees: usize,
    pub num_simulations: u64,
    pub num_nodes: u64,
    /// Trees with a correct terminal.
    pub num_solved: usize,
    pub num_tokens: u64,
}

impl Tally {
    /// Returns what one tree amounts to.
    pub fn of(tree: &Tree) -> Self {
        Self::count(&tree.nodes, tree.num_simulations, tree.num_tokens)
    }

    /// Returns what saved trees amount to.
    pub fn of_saved(trees: &[SavedTree]) -> Self {
        let count = |tree: &SavedTree| Self::count(&tree.nodes, tree.num_simulations, tree.num_tokens);
        trees.iter().map(count).fold(Self::default(), Self::plus)
    }

    fn count(nodes: &[TreeNode], num_simulations: u32, num_tokens: u64) -> Self {
        Self {
            num_trees: 1,
            num_simulations: u64::from(num_simulations),
            num_nodes: nodes.len() as u64,
            num_solved: usize::from(nodes.iter().any(|node| node.correct == Some(true))),
            num_tokens,
        }
    }

    /// Returns what both amount to.
    pub fn plus(self, other: Self) -> Self {
        Self {
            num_trees: self.num_trees + other.num_trees,
            num_simulations: self.num_simulations + other.num_simulations,
            num_nodes: self.num_nodes + other.num_nodes,
            num_solved: self.num_solved + other.num_solved,
            num_tokens: self.num_tokens + other.num_tokens,
        }
    }
}

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub num_rounds: usize,
    /// The trees that grow.
    pub active: Tally,
    /// Problems that have not begun.
    pub num_waiting: usize,
}

/// Whether a search goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    GoOn,
    /// Trees are given out as they are, those of problems that have not begun with their root alone.
    End,
}

/// What follows a search.
pub trait Observer {
    /// Gets a tree that is done, with its problem's place. Trees come as they are done, not in the problems' order.
    ///
    /// # Errors
    /// The observer's own; the search stops with it.
    fn finished(&mut self, problem_idx: usize, tree: Tree) -> Result<()>;

    /// Is told of each round, after the trees that it finished; `save` returns the search as it is now.
    ///
    /// # Errors
    /// The observer's own; the search stops with it.
    fn advanced(&mut self, _progress: Progress, _save: &dyn Fn() -> SavedSearch) -> Result<Flow> {
        Ok(Flow::GoOn)
    }

    /// Is told that a round could not be finished, and why; `save` returns the search as it was before. Returns the
    /// error that the search ends with.
    fn interrupted(&mut self, error: anyhow::Error, _save: &dyn Fn() -> SavedSearch) -> anyhow::Error {
        error
    }
}

/// Searches all problems but those that are done, going on from what earlier attempts left.
///
/// # Errors
/// The policy or the observer fails, the policy returns another number of lists than it was asked for, or what was saved
/// is not a search of these problems.
pub fn search(
    problems: &[Problem],
    config: &SearchConfig,
    policy: &mut dyn Policy,
    earlier: Earlier,
    observer: &mut dyn Observer,
) -> Result<()> {
    let (mut begun, mut num_rounds) = (earlier.done, earlier.search.num_rounds);
    let mut active: Vec<Growing<'_>> = Vec::new();
    for saved in earlier.search.trees {
        let problem_idx = saved.problem_idx;
        let problem = problems.get(problem_idx).with_context(|| {
            format!(
                "a tree was saved for problem {problem_idx}, but there are {} problems",
                problems.len()
            )
        })?;
        if begun.insert(problem_idx) {
            active.push(Growing::restore(problem, saved)?);
        }
    }
    let mut waiting: std::collections::VecDeque<usize> =
        (0..problems.len()).filter(|idx| !begun.contains(idx)).collect();
    loop {
        while active.len() < config.max_active_problems.max(1)
            && let Some(idx) = waiting.pop_front()
        {
            active.push(Growing::new(&problems[idx], idx));
        }
        if active.is_empty() {
            return Ok(());
        }
        let before = active.clone();
        if let Err(error) = round::run(&mut active, config, policy) {
            return Err(observer.interrupted(error, &|| save(&before, num_rounds)));
        }
        num_rounds += 1;
        let (going_on, done) = active.into_iter().partition(|tree| tree.is_active(config));
        active = going_on;
        give_out(done, observer)?;
        let progress = Progress {
            num_rounds,
            active: active.iter().map(Growing::tally).fold(Tally::default(), Tally::plus),
            num_waiting: waiting.len(),
        };
        if observer.advanced(progress, &|| save(&active, num_rounds))? == Flow::End {
            let rest = waiting.into_iter().map(|idx| Growing::new(&problems[idx], idx));
            return give_out(active.into_iter().chain(rest), observer);
        }
    }
}

fn give_out<'a>(trees: impl IntoIterator<Item = Growing<'a>>, observer: &mut dyn Observer) -> Result<()> {
    for tree in trees {
        observer.finished(tree.problem_idx, tree.finish())?;
    }
    Ok(())
}

fn save(active: &[Growing<'_>], num_rounds: usize) -> SavedSearch {
    SavedSearch {
        num_rounds,
        trees: active.iter().map(Growing::save).collect(),
    }
}

/// Returns the text that ends a step of a verifier's problems.
pub fn step_end(verifier: VerifierName) -> String {
    Wording::of(verifier).separator.trim_end_matches(' ').to_owned()
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
