//! Supervised training on token sequences: batches, the cross-entropy loss, and steps of the optimizer.

use tch::{Device, Kind, Tensor};

use super::learner::Learner;
use super::model::attention::Packed;
use super::{CausalLm, LmError};

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

/// Examples one behind the other, without padding.
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
}

/// Returns the logits that predict each label of a batch, `[L, V]` in f32.
///
/// Only these positions go through the output matrix: masked prompts cost no logits.
pub fn label_logits(model: &CausalLm, batch: &Batch) -> Tensor {
    let mut attend = Packed::new(&batch.lengths, model.device());
    let hidden = model.hidden_states(&batch.input_ids, &batch.positions, &mut attend);
    model
        .logits(&hidden.index_select(0, &batch.predictors))
        .to_kind(Kind::Float)
}

/// Returns log p of each label of a batch, `[N]` in f32, in the order of rows and positions.
pub fn label_logprobs(model: &CausalLm, batch: &Batch, temperature: f64) -> Tensor {
    let logprobs = (label_logits(model, batch) / temperature).log_softmax(-1, Kind::Float);
    logprobs.gather(-1, &batch.targets.unsqueeze(-1), false).squeeze_dim(-1)
}

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepStats {
    /// Mean over the label tokens of -log p.
    pub loss: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    pub num_label_tokens: usize,
}

/// Takes one step on the mean loss over all label tokens of `examples`.
///
/// The examples are cut into micro-batches of similar length with at most `micro_batch_tokens` padded tokens; gradients
/// add up, so the cut changes the result by rounding only.
///
/// # Errors
/// No token counts in the loss, or the optimizer fails.
pub fn supervised_step(
    learner: &mut Learner,
    examples: &[&Example],
    micro_batch_tokens: usize,
    learning_rate: f64,
) -> Result<StepStats, LmError> {
    let num_label_tokens: usize = examples.iter().map(|example| example.num_labels()).sum();
    if num_label_tokens == 0 {
        return Err(LmError::Torch("no token of the batch counts in the loss".to_owned()));
    }
    let runs = micro_batches(examples, |example| example.ids.len(), micro_batch_tokens);
    let (losses, grad_norm) = learner.step(runs, learning_rate, |model, run| {
        let run: Vec<&Example> = run.iter().map(|&idx| examples[idx]).collect();
        let batch = Batch::new(&run, model.device());
        if batch.targets.numel() == 0 {
            return Ok(0.0);
        }
        let loss = cross_entropy_sum(model, &batch) / num_label_tokens as f64;
        loss.f_backward()?;
        Ok(loss.double_value(&[]))
    })?;
    Ok(StepStats {
        loss: losses.iter().sum(),
        grad_norm,
        num_label_tokens,
    })
}

/// Returns the sum over the labels of -log p, a scalar.
pub fn cross_entropy_sum(model: &CausalLm, batch: &Batch) -> Tensor {
    label_logits(model, batch).cross_entropy_loss(&batch.targets, None::<Tensor>, tch::Reduction::Sum, IGNORE, 0.0)
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
