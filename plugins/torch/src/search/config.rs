//! How to search. Defaults are the kind's (`plugin.yaml`); those of ASTRO are said here.

use serde::{Deserialize, Serialize};

use super::Prior;

/// Which search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Monte Carlo tree search with PUCT: the paper's.
    Mcts,
    /// Whole solutions of the problem, cut into steps; those that begin alike share their nodes. A simulation is
    /// `num_candidates` solutions, so that the same budget gives as many samples as MCTS gives candidates.
    BestOfN,
    /// At each depth the `beam_width` open states with the highest rollout value are expanded.
    Beam,
    /// Depth first with backtracking, to the first correct terminal if `stop_when` says nothing else: into the child with
    /// the highest rollout value, and back up where nothing is left below a state, or nothing that is worth `min_value`.
    Dfs,
}

/// How to search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchConfig {
    pub strategy: Strategy,
    /// Simulations per problem, at most; ASTRO: 32. Each expands one leaf, or visits a terminal again.
    pub num_simulations: u32,
    /// Candidates sampled at each expansion; ASTRO: 8.
    pub num_candidates: usize,
    /// Rollouts for each new state that is not terminal; ASTRO: 16.
    pub num_rollouts: usize,
    /// Steps after which a state is terminal; ASTRO: 50. At least 1.
    pub max_depth: usize,
    /// Weight of exploration; not published, 1.0.
    pub c_puct: f64,
    /// How a step's probability becomes its prior.
    pub prior: Prior,
    /// Whether selection may end at a terminal again and again, as in the paper. Otherwise it passes over branches in
    /// which nothing is left to expand, so that each simulation adds states.
    pub revisit_terminals: bool,
    /// Simulations of a tree in one round of MCTS or best-of-n. With 1, as in the paper, each sees the results of all
    /// before it.
    pub leaves_per_round: usize,
    /// Visits without success that a leaf of MCTS counts as while it is chosen and not evaluated yet: it leads the other
    /// choices of the round elsewhere.
    pub virtual_loss: f64,
    /// States that a beam search expands at each depth.
    pub beam_width: usize,
    /// States with a lower rollout value are not expanded by a depth-first search; in [0, 1].
    pub min_value: f64,
    /// Tokens generated for a problem after which no other round of it begins; 0: any number.
    pub max_tokens: u64,
    /// Stop a problem's search once its tree has that many terminals of each sort.
    pub stop_when: Option<StopWhen>,
    /// Problems whose trees grow at the same time. The trees do not depend on it.
    pub max_active_problems: usize,
}

/// Enough terminals to stop at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopWhen {
    pub num_correct: usize,
    pub num_wrong: usize,
}

impl SearchConfig {
    /// Returns the terminals to stop at.
    pub(super) fn stop_when(&self) -> Option<StopWhen> {
        let first = StopWhen {
            num_correct: 1,
            num_wrong: 0,
        };
        match self.strategy {
            Strategy::Dfs => self.stop_when.or(Some(first)),
            _ => self.stop_when,
        }
    }
}
