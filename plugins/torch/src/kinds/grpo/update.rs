//! One optimizer step of GRPO: judged rollouts to gradients.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::kinds::sampling::Rollout;
use crate::lm::grpo::{BatchSize, LossSettings, LossSums, Rollouts, loss};
use crate::lm::learner::Learner;
use crate::lm::train::{Batch, Example, IGNORE, label_logprobs, micro_batches};
use crate::lm::{CausalLm, LmError, Tokenizer};

/// A rollout ready for the loss.
pub struct Item {
    example: Example,
    advantage: f64,
}

impl Item {
    /// `masked` leaves the rollout's tokens out of the loss.
    pub fn new(tokenizer: &Tokenizer, rollout: &Rollout, advantage: f64, masked: bool) -> Result<Self> {
        let mut ids = tokenizer.encode_prompt(&rollout.sample.prompt)?;
        let mut labels = vec![IGNORE; ids.len()];
        ids.extend(&rollout.completion.ids);
        if masked {
            labels.resize(ids.len(), IGNORE);
        } else {
            labels.extend(&rollout.completion.ids);
        }
        Ok(Self {
            example: Example { ids, labels },
            advantage,
        })
    }
}

/// What is minimized.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// Of the sampling: log-probabilities are those of the distribution that was sampled from.
    pub temperature: f64,
    pub settings: LossSettings,
}

/// What one optimizer step did.
#[derive(Debug, Default)]
pub struct Update {
    pub loss: f64,
    pub grad_norm: f64,
    /// Sum of -log p over the sampled tokens: an estimate of the entropy, times the tokens.
    pub neg_logprob: f64,
    pub sums: LossSums,
}

/// Takes one optimizer step on all rollouts, micro-batch by micro-batch.
pub fn update(
    learner: &mut Learner,
    objective: &Objective,
    reference: Option<&CausalLm>,
    items: &[Item],
    micro_batch_tokens: usize,
    learning_rate: f64,
) -> Result<Update, LmError> {
    let whole = BatchSize {
        num_rollouts: items.len(),
        num_tokens: items.iter().map(|item| item.example.num_labels()).sum(),
    };
    // Without a KL term a rollout whose advantage is 0 has no gradient, only a cost; `whole` still counts it.
    let needs_all = objective.settings.beta != 0.0;
    let active: Vec<&Item> = items.iter().filter(|item| item.advantage != 0.0 || needs_all).collect();
    if active.is_empty() {
        return Ok(Update::default());
    }
    let runs: Vec<(Vec<usize>, Option<CausalLm>)> =
        micro_batches(&active, |item| item.example.ids.len(), micro_batch_tokens)
            .into_iter()
            .map(|run| (run, reference.map(CausalLm::share)))
            .collect();
    let (parts, grad_norm) = learner.step(runs, learning_rate, |model, (run, reference)| {
        let run: Vec<&Item> = run.iter().map(|&idx| active[idx]).collect();
        backward(model, reference.as_ref(), objective, &run, whole)
    })?;
    let mut total = Update {
        grad_norm,
        ..Update::default()
    };
    for part in parts {
        total.loss += part.loss;
        total.neg_logprob += part.neg_logprob;
        total.sums.add(&part.sums);
    }
    Ok(total)
}

/// Leaves the gradient of one micro-batch in the model's parameters.
fn backward(
    model: &CausalLm,
    reference: Option<&CausalLm>,
    objective: &Objective,
    items: &[&Item],
    whole: BatchSize,
) -> Result<Update, LmError> {
    let device = model.device();
    let examples: Vec<&Example> = items.iter().map(|item| &item.example).collect();
    let batch = Batch::new(&examples, device);
    if batch.targets.numel() == 0 {
        return Ok(Update::default());
    }
    let cells = Cells::new(&examples, device);
    let logprobs = cells.spread(&label_logprobs(model, &batch, objective.temperature));
    let ref_logprobs = reference.map(|reference| {
        let _no_grad = tch::no_grad_guard();
        cells.spread(&label_logprobs(reference, &batch, objective.temperature))
    });
    let advantages: Vec<f32> = items.iter().map(|item| item.advantage as f32).collect();
    let rollouts = Rollouts {
        logprobs: &logprobs,
        // On policy: the policy that sampled is the one being trained.
        old_logprobs: &logprobs.detach(),
        ref_logprobs: ref_logprobs.as_ref(),
        advantages: &Tensor::from_slice(&advantages).to_device(device),
        mask: &cells.mask,
    };
    let (loss, sums) = loss(&rollouts, &objective.settings, whole);
    loss.f_backward()?;
    Ok(Update {
        loss: loss.double_value(&[]),
        grad_norm: 0.0,
        neg_logprob: -(logprobs.detach() * &cells.mask).sum(Kind::Double).double_value(&[]),
        sums,
    })
}

/// Where the labels of a batch stand in a dense `[B, T]` of completion tokens.
struct Cells {
    /// `[N]`: row * T + column, in the order of [`label_logprobs`].
    index: Tensor,
    /// `[B, T]`
    mask: Tensor,
}

impl Cells {
    fn new(examples: &[&Example], device: Device) -> Self {
        let width = examples.iter().map(|example| example.num_labels()).max().unwrap_or(0);
        let index: Vec<i64> = examples
            .iter()
            .enumerate()
            .flat_map(|(row, example)| (0..example.num_labels()).map(move |column| (row * width + column) as i64))
            .collect();
        let index = Tensor::from_slice(&index).to_device(device);
        let shape = [examples.len() as i64, width as i64];
        let mask = Tensor::zeros([shape[0] * shape[1]], (Kind::Float, device))
            .index_fill(0, &index, 1.0)
            .view(shape);
        Self { index, mask }
    }

    /// Returns `[B, T]` with the values `[N]` in their cells and 0 elsewhere.
    fn spread(&self, values: &Tensor) -> Tensor {
        let shape = self.mask.size();
        let empty = Tensor::zeros([shape[0] * shape[1]], (values.kind(), values.device()));
        empty.index_copy(0, &self.index, values).view(shape.as_slice())
    }
}
