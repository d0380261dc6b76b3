//! One growing tree: selection by PUCT, new nodes, and the backup of values.
//!
//! The statistics of the edge into a node stand in the node (`TreeNode`): `visit_count` is N, `q_value` is Q,
//! `rollout_value` is R. Knows nothing of policies and batches.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Candidate, SavedTree, SearchConfig};
use crate::formats::{Problem, TreeNode};
use crate::verify;

/// How the probability of a step of several tokens becomes its prior among the siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prior {
    /// Softmax of the mean log-probability per token: long steps aren't punished.
    MeanLogprob,
    /// Softmax of the summed log-probability: the policy's own probability, up to what was not sampled.
    SumLogprob,
    /// All candidates alike, so that only how often each was sampled counts.
    Uniform,
}

/// A tree in the making.
#[derive(Clone)]
pub(super) struct Growing<'a> {
    pub(super) problem: &'a Problem,
    pub(super) nodes: Vec<TreeNode>,
    children: Vec<Vec<usize>>,
    depth: Vec<usize>,
    /// Nothing is left to expand at or below the node.
    exhausted: Vec<bool>,
    pub(super) num_simulations: u32,
    pub(super) num_tokens: u64,
}

impl<'a> Growing<'a> {
    pub(super) fn new(problem: &'a Problem) -> Self {
        let root = TreeNode {
            id: 0,
            parent: None,
            text: String::new(),
            prior: 1.0,
            visit_count: 0,
            q_value: 0.0,
            rollout_value: 0.0,
            terminal: false,
            answer: None,
            correct: None,
            self_eval: None,
        };
        Self {
            problem,
            nodes: vec![root],
            children: vec![Vec::new()],
            depth: vec![0],
            exhausted: vec![false],
            num_simulations: 0,
            num_tokens: 0,
        }
    }

    /// Returns what the tree can be made of again; children and depths follow from the parents.
    pub(super) fn save(&self) -> SavedTree {
        SavedTree {
            nodes: self.nodes.clone(),
            exhausted: self.exhausted.clone(),
            num_simulations: self.num_simulations,
            num_tokens: self.num_tokens,
        }
    }

    /// Returns the tree that was saved.
    ///
    /// # Errors
    /// It is not a tree: a node's parent does not come before it.
    pub(super) fn restore(problem: &'a Problem, saved: SavedTree) -> Result<Self> {
        let num_nodes = saved.nodes.len();
        ensure!(
            num_nodes > 0 && saved.exhausted.len() == num_nodes,
            "problem {}: a saved tree has {num_nodes} nodes and {} marks",
            problem.id,
            saved.exhausted.len()
        );
        let (mut children, mut depth) = (vec![Vec::new(); num_nodes], vec![0; num_nodes]);
        for (id, node) in saved.nodes.iter().enumerate().skip(1) {
            let parent = node.parent.filter(|&parent| parent < id);
            let parent =
                parent.with_context(|| format!("problem {}: node {id} of a saved tree has no parent", problem.id))?;
            children[parent].push(id);
            depth[id] = depth[parent] + 1;
        }
        Ok(Self {
            problem,
            nodes: saved.nodes,
            children,
            depth,
            exhausted: saved.exhausted,
            num_simulations: saved.num_simulations,
            num_tokens: saved.num_tokens,
        })
    }

    /// Returns whether another simulation could change the tree, and is wanted.
    pub(super) fn is_active(&self, config: &SearchConfig) -> bool {
        let enough = config.stop_when.is_some_and(|stop| {
            self.num_terminals(true) >= stop.num_correct && self.num_terminals(false) >= stop.num_wrong
        });
        !self.exhausted[0] && !enough && self.depth[0] < config.max_depth
    }

    pub(super) fn num_terminals(&self, correct: bool) -> usize {
        self.nodes.iter().filter(|node| node.correct == Some(correct)).count()
    }

    pub(super) fn can_expand(&self, node: usize) -> bool {
        self.children[node].is_empty() && !self.exhausted[node]
    }

    /// Descends from the root by Q + c * P * sqrt(N(state)) / (1 + N(edge)), ties to the lowest index.
    pub(super) fn select(&self, config: &SearchConfig) -> usize {
        let mut at = 0;
        loop {
            let allowed = |child: &&usize| config.revisit_terminals || !self.exhausted[**child];
            let exploration = config.c_puct * f64::from(self.nodes[at].visit_count).sqrt();
            let mut best: Option<(usize, f64)> = None;
            for &child in self.children[at].iter().filter(allowed) {
                let node = &self.nodes[child];
                let score = node.q_value + exploration * node.prior / f64::from(1 + node.visit_count);
                if best.is_none_or(|(_, highest)| score > highest) {
                    best = Some((child, score));
                }
            }
            match best {
                Some((child, _)) => at = child,
                None => return at,
            }
        }
    }

    /// Adds a step below `parent`. A terminal gets its verdict at once; others wait for [`Self::evaluate`].
    pub(super) fn add_child(&mut self, parent: usize, candidate: Candidate, prior: f64, max_depth: usize) -> usize {
        let id = self.nodes.len();
        let verifier = self.problem.verifier;
        let text = candidate.text.trim().to_owned();
        let depth = self.depth[parent] + 1;
        let terminal = candidate.ended || depth >= max_depth || verify::is_terminal(verifier, &text);
        let mut node = TreeNode {
            id,
            parent: Some(parent),
            text,
            prior,
            visit_count: 1,
            q_value: 0.0,
            rollout_value: 0.0,
            terminal,
            answer: None,
            correct: None,
            self_eval: None,
        };
        if terminal {
            let mut steps = super::steps_to(&self.nodes, parent);
            steps.push(node.text.clone());
            let verdict = verify::verify(self.problem, &verify::join_steps(verifier, &steps));
            let value = f64::from(u8::from(verdict.correct));
            node.answer = verdict.answer;
            node.correct = Some(verdict.correct);
            (node.rollout_value, node.q_value) = (value, value);
        }
        self.nodes.push(node);
        self.children.push(Vec::new());
        self.children[parent].push(id);
        self.depth.push(depth);
        self.exhausted.push(terminal);
        id
    }

    /// Sets the rollout value of a new state.
    pub(super) fn evaluate(&mut self, node: usize, value: f64) {
        (self.nodes[node].rollout_value, self.nodes[node].q_value) = (value, value);
    }

    /// Notes that a node was expanded: where nothing can follow, up to the root, nothing is left to expand.
    pub(super) fn close(&mut self, node: usize) {
        let mut at = Some(node);
        while let Some(node) = at {
            if !self.children[node].iter().all(|&child| self.exhausted[child]) {
                return;
            }
            self.exhausted[node] = true;
            at = self.nodes[node].parent;
        }
    }

    /// Counts a simulation through `node` and recomputes the values on its way to the root.
    pub(super) fn back_up(&mut self, node: usize) {
        self.num_simulations += 1;
        let mut at = Some(node);
        while let Some(node) = at {
            self.nodes[node].visit_count += 1;
            self.nodes[node].q_value = self.value(node);
            at = self.nodes[node].parent;
        }
    }

    /// The visit-weighted mean of a state's outgoing edges, its own rollout value counted as one more visit.
    ///
    /// The root has no rollouts of its own: its value is the mean of its edges.
    fn value(&self, node: usize) -> f64 {
        let own = u32::from(node != 0);
        let mut sum = self.nodes[node].rollout_value * f64::from(own);
        let mut visits = own;
        for &child in &self.children[node] {
            let child = &self.nodes[child];
            sum += child.q_value * f64::from(child.visit_count);
            visits += child.visit_count;
        }
        // Rounding may leave a mean of ones just above one.
        if visits == 0 {
            0.0
        } else {
            (sum / f64::from(visits)).clamp(0.0, 1.0)
        }
    }
}

/// Returns each candidate's share of the probability among its siblings, duplicates still apart.
pub(super) fn priors(candidates: &[Candidate], prior: Prior) -> Vec<f64> {
    let score = |candidate: &Candidate| match prior {
        Prior::MeanLogprob => candidate.sum_logprob / candidate.num_tokens.max(1) as f64,
        Prior::SumLogprob => candidate.sum_logprob,
        Prior::Uniform => 0.0,
    };
    let scores: Vec<f64> = candidates.iter().map(score).collect();
    let highest = scores
        .iter()
        .copied()
        .filter(|score| score.is_finite())
        .fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores
        .iter()
        .map(|score| {
            if score.is_finite() {
                (score - highest).exp()
            } else {
                0.0
            }
        })
        .collect();
    let total: f64 = weights.iter().sum();
    if total > 0.0 {
        weights.iter().map(|weight| weight / total).collect()
    } else {
        vec![1.0 / candidates.len().max(1) as f64; candidates.len()]
    }
}
