//! Which leaves of a tree a round expands: one rule for each strategy. A choice depends on the tree alone.

use std::cmp::Ordering;

use super::growing::Growing;
use super::puct::score;
use super::{SearchConfig, Strategy};

impl Growing<'_> {
    /// Returns the nodes that the next simulations end at, all different: none where the search is over.
    ///
    /// A best-of-n search expands nothing.
    pub(super) fn select(&self, config: &SearchConfig) -> Vec<usize> {
        let left = config.num_simulations.saturating_sub(self.num_simulations) as usize;
        match config.strategy {
            Strategy::Mcts => self.select_by_puct(config, config.leaves_per_round.max(1).min(left)),
            Strategy::BestOfN => Vec::new(),
            Strategy::Beam => self.select_beam(config.beam_width.min(left)),
            Strategy::Dfs => self
                .select_depth_first(config.min_value)
                .into_iter()
                .take(left)
                .collect(),
        }
    }

    /// Descends from the root by the PUCT score, ties to the lowest index, `count` times or until nothing is left.
    ///
    /// Leaves that were chosen are not chosen again, and lead the next choice elsewhere by their virtual losses.
    fn select_by_puct(&self, config: &SearchConfig, count: usize) -> Vec<usize> {
        if self.exhausted[0] {
            return Vec::new();
        }
        let mut chosen = Vec::with_capacity(count);
        let mut num_pending = vec![0_u32; self.nodes.len()];
        // Nothing is left to choose at or below the node.
        let mut is_taken: Vec<bool> = match config.revisit_terminals {
            true => vec![false; self.nodes.len()],
            false => self.exhausted.clone(),
        };
        while chosen.len() < count && !is_taken[0] {
            let leaf = self.descend(config, &num_pending, &is_taken);
            chosen.push(leaf);
            is_taken[leaf] = true;
            num_pending[leaf] += 1;
            let mut at = leaf;
            while let Some(parent) = self.nodes[at].parent {
                num_pending[parent] += 1;
                is_taken[parent] = self.children[parent].iter().all(|&child| is_taken[child]);
                at = parent;
            }
        }
        chosen
    }

    fn descend(&self, config: &SearchConfig, num_pending: &[u32], is_taken: &[bool]) -> usize {
        let mut at = 0;
        loop {
            let virtual_visits = |node: usize| config.virtual_loss * f64::from(num_pending[node]);
            let state_visits = f64::from(self.nodes[at].visit_count) + virtual_visits(at);
            let mut best: Option<(usize, f64)> = None;
            for &child in self.children[at].iter().filter(|&&child| !is_taken[child]) {
                let score = score(&self.nodes[child], virtual_visits(child), state_visits, config.c_puct);
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

    /// Returns the best open states at the greatest depth that the tree has.
    fn select_beam(&self, width: usize) -> Vec<usize> {
        let deepest = self.depth.iter().copied().max().unwrap_or(0);
        let is_open = |&node: &usize| self.depth[node] == deepest && self.can_expand(node);
        let mut open: Vec<usize> = (0..self.nodes.len()).filter(is_open).collect();
        open.sort_by(|&a, &b| self.by_promise(a, b));
        open.truncate(width);
        open
    }

    /// Returns the state that a depth-first search comes to next.
    fn select_depth_first(&self, min_value: f64) -> Option<usize> {
        let mut stack = vec![0];
        while let Some(at) = stack.pop() {
            if self.can_expand(at) {
                return Some(at);
            }
            let is_worth_it = |&&child: &&usize| !self.exhausted[child] && self.nodes[child].rollout_value >= min_value;
            let mut children: Vec<usize> = self.children[at].iter().filter(is_worth_it).copied().collect();
            // The most promising one comes last, so that it is the first to be taken.
            children.sort_by(|&a, &b| self.by_promise(b, a));
            stack.append(&mut children);
        }
        None
    }

    /// Orders states: the higher rollout value first, then the higher prior, then the lower index. None of them changes
    /// while the tree grows.
    fn by_promise(&self, a: usize, b: usize) -> Ordering {
        let (left, right) = (&self.nodes[a], &self.nodes[b]);
        (right.rollout_value.total_cmp(&left.rollout_value))
            .then(right.prior.total_cmp(&left.prior))
            .then(a.cmp(&b))
    }
}
