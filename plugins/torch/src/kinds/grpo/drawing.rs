//! Which prompts a round learns from: those that it drew, or, with dynamic sampling, only those that teach something.
//!
//! Dynamic sampling (DAPO, arXiv:2503.14476, sec. 3.2): a group whose rollouts are all right or all wrong has no advantages,
//! so others are drawn until the round is full. How many are drawn next depends on what came of those before and on nothing
//! else, so that a run that goes on draws what one that was never stopped draws.

use serde::{Deserialize, Serialize};

/// What filling a round took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawing {
    /// Times that prompts were drawn and rolled out.
    pub num_batches: usize,
    /// Prompts that were drawn.
    pub num_drawn: usize,
    /// Of these, groups that were all right or all wrong and thrown away.
    pub num_discarded: usize,
    /// Groups that would have taught something, when the round was full.
    pub num_surplus: usize,
    /// Groups of the round that teach nothing, because enough others were not found in time.
    pub num_fillers: usize,
    /// Share of right rollouts among all that were drawn: those that are left are chosen.
    pub pass_rate: f64,
}

/// A round that is being filled with groups `G`.
pub struct Filling<G> {
    /// Groups of a full round.
    wanted: usize,
    kept: Vec<G>,
    /// Groups that teach nothing, as many as may be needed.
    flat: Vec<G>,
    num_flat: usize,
    num_rollouts: usize,
    num_correct: usize,
    drawing: Drawing,
}

impl<G> Filling<G> {
    pub fn new(wanted: usize) -> Self {
        Self {
            wanted,
            kept: Vec::new(),
            flat: Vec::new(),
            num_flat: 0,
            num_rollouts: 0,
            num_correct: 0,
            drawing: Drawing::default(),
        }
    }

    /// Returns how many prompts to draw next, if any: first a whole round, then as many as should bring the groups that are
    /// missing, by the share that was kept so far; never more than a round at once, nor more often than `max_batches`.
    pub fn next_draw(&self, max_batches: usize) -> Option<usize> {
        let missing = self.wanted.saturating_sub(self.kept.len());
        if missing == 0 || self.drawing.num_batches >= max_batches {
            return None;
        }
        let num_kept = self.kept.len();
        let likely = (missing * self.drawing.num_drawn).div_ceil(num_kept.max(1));
        Some(likely.clamp(missing, self.wanted))
    }

    /// Returns which draw comes next, from 0.
    pub fn batch_idx(&self) -> usize {
        self.drawing.num_batches
    }

    /// Takes what came of a draw: groups, each with its rollouts, how many of them are right, and whether it is kept.
    pub fn add(&mut self, groups: impl IntoIterator<Item = (G, usize, usize, bool)>) {
        self.drawing.num_batches += 1;
        for (group, num_rollouts, num_correct, is_kept) in groups {
            self.drawing.num_drawn += 1;
            self.num_rollouts += num_rollouts;
            self.num_correct += num_correct;
            if !is_kept {
                self.num_flat += 1;
                if self.flat.len() < self.wanted {
                    self.flat.push(group);
                }
            } else if self.kept.len() < self.wanted {
                self.kept.push(group);
            } else {
                self.drawing.num_surplus += 1;
            }
        }
    }

    /// Returns the groups of the round. Where too few were kept, groups that teach nothing fill it up: each step divides by as
    /// many rollouts as every other.
    pub fn finish(self) -> (Vec<G>, Drawing) {
        let missing = self.wanted - self.kept.len();
        let num_fillers = missing.min(self.flat.len());
        let drawing = Drawing {
            num_fillers,
            num_discarded: self.num_flat - num_fillers,
            pass_rate: self.num_correct as f64 / self.num_rollouts.max(1) as f64,
            ..self.drawing
        };
        let groups = self.kept.into_iter().chain(self.flat.into_iter().take(num_fillers));
        (groups.collect(), drawing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws numbers, of which one in `every` is kept, until the round of `wanted` is full.
    fn fill(wanted: usize, every: usize, max_batches: usize) -> (Vec<usize>, Drawing, Vec<usize>) {
        let mut filling = Filling::new(wanted);
        let (mut next, mut draws) = (0, Vec::new());
        while let Some(count) = filling.next_draw(max_batches) {
            assert_eq!(filling.batch_idx(), draws.len());
            draws.push(count);
            filling.add((next..next + count).map(|number| {
                let is_kept = number % every == every - 1;
                (number, 4, if is_kept { 2 } else { 0 }, is_kept)
            }));
            next += count;
        }
        let (groups, drawing) = filling.finish();
        (groups, drawing, draws)
    }

    #[test]
    fn where_all_are_kept_there_is_one_draw() {
        let (groups, drawing, draws) = fill(5, 1, 10);
        assert_eq!((groups, draws), ((0..5).collect(), vec![5]));
        let expected = Drawing {
            num_batches: 1,
            num_drawn: 5,
            pass_rate: 0.5,
            ..Drawing::default()
        };
        assert_eq!(drawing, expected);
    }

    #[test]
    fn others_are_drawn_until_the_round_is_full() {
        for (wanted, every) in [(8, 2), (8, 3), (32, 5), (1, 7)] {
            let (groups, drawing, draws) = fill(wanted, every, 100);
            let expected: Vec<usize> = (1..=wanted).map(|count| count * every - 1).collect();
            assert_eq!(groups, expected, "the first ones that are kept, in order");
            assert!(draws.iter().all(|count| (1..=wanted).contains(count)));
            assert_eq!(drawing.num_drawn, draws.iter().sum::<usize>());
            let num_kept = wanted + drawing.num_surplus;
            assert_eq!(drawing.num_discarded, drawing.num_drawn - num_kept);
            assert_eq!(drawing.num_fillers, 0);
            assert!(
                draws.len() <= 2 * every + 2,
                "the number of draws follows the share that is kept: {draws:?}"
            );
        }
    }

    #[test]
    fn at_the_limit_the_round_is_filled_with_what_there_is() {
        let (groups, drawing, draws) = fill(4, 6, 3);
        assert_eq!(draws, [4, 4, 4]);
        assert_eq!(groups, [5, 11, 0, 1]);
        assert_eq!((drawing.num_fillers, drawing.num_discarded), (2, 8));
        assert_eq!(drawing.pass_rate, 2.0 * 2.0 / (12.0 * 4.0));
    }
}
