//! One growing tree: new nodes, and the backup of values.
//!
//! The statistics of the edge into a node stand in the node (`TreeNode`): `visit_count` is N, `q_value` is Q,
//! `rollout_value` is R. Knows nothing of policies and batches; which leaves are chosen is in `select`.

use anyhow::{Context as _, Result, ensure};

use super::{Candidate, SavedTree, SearchConfig, State, Strategy, Tally};
use crate::formats::{Problem, Tree, TreeNode, VERSION};
use crate::verify::{self, Verdict};

/// Whether a solution ends with a step, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It goes on.
    Open,
    /// The step states an answer, or the policy had no more to say: the verifier judges what there is.
    Finished,
    /// No other step may follow, or none was there in time: it states no answer and is wrong, whatever its last words are.
    Cut,
}

/// A tree in the making.
#[derive(Clone)]
pub(super) struct Growing<'a> {
    pub(super) problem: &'a Problem,
    pub(super) problem_idx: usize,
    pub(super) nodes: Vec<TreeNode>,
    pub(super) children: Vec<Vec<usize>>,
    pub(super) depth: Vec<usize>,
    /// Nothing is left to expand at or below the node.
    pub(super) exhausted: Vec<bool>,
    pub(super) num_simulations: u32,
    pub(super) num_tokens: u64,
}

impl<'a> Growing<'a> {
    pub(super) fn new(problem: &'a Problem, problem_idx: usize) -> Self {
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
            problem_idx,
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
            problem_idx: self.problem_idx,
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
            problem_idx: saved.problem_idx,
            nodes: saved.nodes,
            children,
            depth,
            exhausted: saved.exhausted,
            num_simulations: saved.num_simulations,
            num_tokens: saved.num_tokens,
        })
    }

    /// Returns the tree as it is.
    pub(super) fn finish(self) -> Tree {
        Tree {
            version: VERSION,
            problem: self.problem.clone(),
            nodes: self.nodes,
            num_simulations: self.num_simulations,
            num_tokens: self.num_tokens,
        }
    }

    pub(super) fn tally(&self) -> Tally {
        Tally::count(&self.nodes, self.num_simulations, self.num_tokens)
    }

    /// Returns the state that a node stands for.
    pub(super) fn state(&self, node: usize) -> State<'a> {
        State {
            problem: self.problem,
            problem_idx: self.problem_idx,
            steps: super::steps_to(&self.nodes, node),
            draw: node,
        }
    }

    /// Returns whether another round could change the tree, and is wanted and within its budgets.
    pub(super) fn is_active(&self, config: &SearchConfig) -> bool {
        let is_enough = config.stop_when().is_some_and(|stop| {
            self.num_terminals(true) >= stop.num_correct && self.num_terminals(false) >= stop.num_wrong
        });
        let is_within = self.num_simulations < config.num_simulations
            && (config.max_tokens == 0 || self.num_tokens < config.max_tokens);
        is_within && !is_enough && (config.strategy == Strategy::BestOfN || !self.select(config).is_empty())
    }

    pub(super) fn num_terminals(&self, correct: bool) -> usize {
        self.nodes.iter().filter(|node| node.correct == Some(correct)).count()
    }

    pub(super) fn can_expand(&self, node: usize) -> bool {
        self.children[node].is_empty() && !self.exhausted[node]
    }

    /// Adds a step below `parent`. A terminal gets its verdict at once; others wait for [`Self::evaluate`].
    ///
    /// A step at the depth limit is a terminal as well. Where it states no answer it has none, since a verifier that takes
    /// the last number of an unfinished solution for its answer would call some of them right.
    pub(super) fn add_child(&mut self, parent: usize, candidate: &Candidate, prior: f64, max_depth: usize) -> usize {
        let text = candidate.text.trim();
        let end = match candidate.ended || self.states_answer(text) {
            true => End::Finished,
            false if self.is_last(parent, max_depth) => End::Cut,
            false => End::Open,
        };
        let verdict = self.verdict(parent, text, end);
        self.add_node(parent, text, prior, verdict)
    }

    /// Returns whether a step states an answer, so that nothing follows it.
    pub(super) fn states_answer(&self, text: &str) -> bool {
        verify::is_terminal(self.problem.verifier, text)
    }

    /// Returns whether a step below `parent` is at the depth limit.
    pub(super) fn is_last(&self, parent: usize, max_depth: usize) -> bool {
        self.depth[parent] + 1 >= max_depth
    }

    /// Returns the answer and the verdict of a terminal below `parent`; nothing where the step is none.
    pub(super) fn verdict(&self, parent: usize, text: &str, end: End) -> Option<(Option<String>, bool)> {
        match end {
            End::Open => None,
            End::Cut => Some((None, false)),
            End::Finished => {
                let mut steps = super::steps_to(&self.nodes, parent);
                steps.push(text.to_owned());
                let whole = verify::join_steps(self.problem.verifier, &steps);
                let Verdict { answer, correct, .. } = verify::verify(self.problem, &whole);
                Some((answer, correct))
            }
        }
    }

    /// Adds a node with one visit: a terminal if there is a verdict.
    pub(super) fn add_node(
        &mut self,
        parent: usize,
        text: &str,
        prior: f64,
        verdict: Option<(Option<String>, bool)>,
    ) -> usize {
        let id = self.nodes.len();
        let terminal = verdict.is_some();
        let mut node = TreeNode {
            id,
            parent: Some(parent),
            text: text.to_owned(),
            prior,
            visit_count: 1,
            q_value: 0.0,
            rollout_value: 0.0,
            terminal,
            answer: None,
            correct: None,
            self_eval: None,
        };
        if let Some((answer, correct)) = verdict {
            let value = f64::from(u8::from(correct));
            (node.answer, node.correct) = (answer, Some(correct));
            (node.rollout_value, node.q_value) = (value, value);
        }
        self.nodes.push(node);
        self.children.push(Vec::new());
        self.children[parent].push(id);
        self.depth.push(self.depth[parent] + 1);
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
