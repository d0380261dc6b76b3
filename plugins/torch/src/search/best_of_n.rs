//! Best-of-n as a tree: whole solutions cut into steps, those that begin alike on common nodes.
//!
//! N of a node is the number of samples through it, Q the share of them that was right, and its prior the share of its
//! parent's samples that it got. Every sample ends at a terminal: at the first step that states an answer, where the
//! sample ended, or at the depth limit. One that was cut before it stated an answer, at its length limit or the depth
//! limit, is wrong, and so is one without a word, whose terminal has an empty text. A terminal and a state that goes on
//! are two nodes, even where their texts are one, and so are terminals with other verdicts.

use anyhow::Result;

use super::growing::{End, Growing};
use super::round::roll_out;
use super::{Policy, Rollout, SearchConfig, State, step_end};
use crate::verify::squeezed;

/// Samples the solutions of the next simulations of each tree and adds them.
pub(super) fn run(trees: &mut [Growing<'_>], config: &SearchConfig, policy: &mut dyn Policy) -> Result<()> {
    let mut states: Vec<State<'_>> = Vec::new();
    let mut counts = Vec::with_capacity(trees.len());
    for tree in trees.iter() {
        let left = config.num_simulations.saturating_sub(tree.num_simulations) as usize;
        let count = config.leaves_per_round.max(1).min(left);
        // One draw for each simulation, so that what is drawn does not depend on how many make a round.
        states.extend((0..count).map(|more| State {
            draw: tree.num_simulations as usize + more,
            ..tree.state(0)
        }));
        counts.push(count);
    }
    let mut rollouts = roll_out(&states, config.num_candidates, policy)?.into_iter();
    for (tree, count) in trees.iter_mut().zip(counts) {
        for solution in rollouts.by_ref().take(count).flatten() {
            tree.num_tokens += solution.num_tokens as u64;
            tree.add_solution(&solution, config.max_depth);
        }
        tree.num_simulations += count as u32;
        tree.count_again();
    }
    Ok(())
}

impl Growing<'_> {
    /// Adds the steps of a solution that the tree does not have, and counts it on all of them.
    fn add_solution(&mut self, solution: &Rollout, max_depth: usize) {
        self.nodes[0].visit_count += 1;
        let separator = step_end(self.problem.verifier);
        let steps: Vec<&str> = (solution.text.split(&separator).map(str::trim))
            .filter(|step| !step.is_empty())
            .collect();
        if steps.is_empty() {
            self.count_step(0, "", End::Cut);
        }
        let mut at = 0;
        for (idx, step) in steps.iter().enumerate() {
            let is_last_written = idx + 1 == steps.len();
            let end = if self.states_answer(step) || (is_last_written && !solution.truncated) {
                End::Finished
            } else if is_last_written || self.is_last(at, max_depth) {
                End::Cut
            } else {
                End::Open
            };
            at = self.count_step(at, step, end);
            if end != End::Open {
                return;
            }
        }
    }

    /// Counts a visit of the node that a step below `parent` stands for, which is added where there is none.
    fn count_step(&mut self, parent: usize, step: &str, end: End) -> usize {
        let (text, verdict) = (squeezed(step), self.verdict(parent, step, end));
        let same = self.children[parent].iter().copied().find(|&child| {
            let node = &self.nodes[child];
            let other = node.correct.map(|correct| (node.answer.clone(), correct));
            other == verdict && squeezed(&node.text) == text
        });
        match same {
            Some(child) => {
                self.nodes[child].visit_count += 1;
                child
            }
            None => self.add_node(parent, step, 0.0, verdict),
        }
    }

    /// Computes priors and values from the visits and the terminals.
    fn count_again(&mut self) {
        for node in (0..self.nodes.len()).rev() {
            let children = std::mem::take(&mut self.children[node]);
            let visits: u32 = children.iter().map(|&child| self.nodes[child].visit_count).sum();
            let mut num_right = 0.0;
            for &child in &children {
                let share = f64::from(self.nodes[child].visit_count) / f64::from(visits);
                self.nodes[child].prior = share;
                num_right += self.nodes[child].q_value * f64::from(self.nodes[child].visit_count);
            }
            if !children.is_empty() {
                let value = (num_right / f64::from(visits)).clamp(0.0, 1.0);
                self.nodes[node].q_value = value;
                self.nodes[node].rollout_value = if node == 0 { 0.0 } else { value };
            }
            self.children[node] = children;
        }
    }
}
