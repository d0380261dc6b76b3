//! Examples, and how they are computed together.

use tch::{Device, Tensor};

use crate::lm::model::attention::Packed;

/// A label that is left out of the loss, as in transformers.
pub const IGNORE: i64 = -100;

/// A sequence to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub ids: Vec<i64>,
    /// Aligned with `ids` (the shift by one happens in the loss); [`IGNORE`] where a token does not count.
    pub labels: Vec<i64>,
}

impl Example {
    /// Number of tokens that the loss looks at: the first has no predecessor.
    pub fn num_labels(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label != IGNORE).count()
    }
}

/// Examples one behind the other, without padding; no token sees another example.
#[derive(Debug)]
pub struct Batch {
    /// `[N]`
    pub input_ids: Tensor,
    /// Position of each token in its own example, `[N]`.
    pub positions: Tensor,
    /// Tokens of each example.
    pub lengths: Vec<usize>,
    /// Flat indices of the positions whose next token is a label, `[L]`.
    pub predictors: Tensor,
    /// Those next tokens, `[L]`.
    pub targets: Tensor,
}

impl Batch {
    /// Joins examples.
    pub fn new(examples: &[&Example], device: Device) -> Self {
        let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
        let mut ids = Vec::with_capacity(lengths.iter().sum());
        let (mut predictors, mut targets) = (Vec::new(), Vec::new());
        for example in examples {
            for (position, &label) in example.labels.iter().enumerate().skip(1) {
                if label != IGNORE {
                    predictors.push((ids.len() + position - 1) as i64);
                    targets.push(label);
                }
            }
            ids.extend(&example.ids);
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Self {
            input_ids: tensor(&ids),
            positions: Packed::positions(&lengths, device),
            lengths,
            predictors: tensor(&predictors),
            targets: tensor(&targets),
        }
    }

    /// Returns the attention of whole examples, each for itself.
    pub fn attend(&self) -> Packed {
        Packed::new(&self.lengths, self.input_ids.device())
    }
}

/// Cuts items, sorted by length, into runs whose padded size is at most `max_tokens` (or a single item); the indices
/// of each run.
pub fn micro_batches<T>(items: &[T], length: impl Fn(&T) -> usize, max_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&idx| length(&items[idx]));
    let mut runs: Vec<Vec<usize>> = Vec::new();
    for idx in order {
        let width = length(&items[idx]);
        match runs.last_mut() {
            Some(run) if (run.len() + 1) * width <= max_tokens => run.push(idx),
            _ => runs.push(vec![idx]),
        }
    }
    runs
}

/// Returns the padded size of the largest run of several items that [`micro_batches`] makes; none where there is none.
pub fn largest_joint(lengths: &[usize], max_tokens: usize) -> Option<usize> {
    let runs = micro_batches(lengths, |&length| length, max_tokens);
    let joint = runs.iter().filter(|run| run.len() > 1);
    // Sorted: the last is the longest.
    joint
        .map(|run| run.len() * run.last().map_or(0, |&idx| lengths[idx]))
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_hold_every_item_once_and_respect_the_limit() {
        let lengths = [5_usize, 1, 9, 3, 3, 20, 7];
        let runs = micro_batches(&lengths, |&length| length, 12);
        let mut seen: Vec<usize> = runs.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        for run in &runs {
            let width = run.iter().map(|&idx| lengths[idx]).max().unwrap();
            assert!(run.len() == 1 || width * run.len() <= 12, "{run:?}");
        }
        assert_eq!(runs[0], [1, 3, 4], "similar lengths go together");
    }

    #[test]
    fn a_batch_joins_examples_and_shifts_labels_by_one() {
        let a = Example {
            ids: vec![1, 2, 3],
            labels: vec![IGNORE, 2, 3],
        };
        let b = Example {
            ids: vec![4, 5],
            labels: vec![4, IGNORE],
        };
        let batch = Batch::new(&[&a, &b], Device::Cpu);
        assert_eq!(Vec::<i64>::try_from(&batch.input_ids).unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(Vec::<i64>::try_from(&batch.positions).unwrap(), [0, 1, 2, 0, 1]);
        assert_eq!(Vec::<i64>::try_from(&batch.predictors).unwrap(), [0, 1]);
        assert_eq!(Vec::<i64>::try_from(&batch.targets).unwrap(), [2, 3]);
        assert_eq!(
            (a.num_labels(), b.num_labels()),
            (2, 0),
            "a first token has no predecessor"
        );
    }
}
