//! Training on token sequences: batches, losses of the labels' log-probabilities, and steps of the optimizer.

mod backward;
mod batch;
mod flops;
mod head;
mod memory;

use tch::{Kind, Tensor};

pub use self::backward::{backward_from_hidden, backward_through_logprobs, backward_with_entropies};
pub use self::batch::{Batch, Example, IGNORE, largest_joint, micro_batches};
pub use self::flops::Flops;
pub use self::head::{Head, LOGITS_BYTES};
pub use self::memory::{fitting, memory_errors};
use super::learner::Learner;
use super::model::linear::token_keys;
use super::{CausalLm, LmError};

/// How gradients are computed: what memory it takes and how long. Changes a result by rounding only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// Tokens computed at once: the longest sequence of a micro-batch times their number.
    pub micro_batch_tokens: usize,
    /// Keeps the inputs of layers only and computes the rest twice.
    pub gradient_checkpointing: bool,
    /// Logits alive at once; [`LOGITS_BYTES`] unless there is a reason.
    pub logits_bytes: usize,
}

impl Compute {
    /// Everything kept that the backward pass needs.
    pub const fn new(micro_batch_tokens: usize) -> Self {
        Self {
            micro_batch_tokens,
            gradient_checkpointing: false,
            logits_bytes: LOGITS_BYTES,
        }
    }
}

/// Returns the logits that predict each label of a batch, `[L, V]` in f32.
///
/// Only these positions go through the output matrix: masked prompts cost no logits.
pub fn label_logits(model: &CausalLm, batch: &Batch) -> Tensor {
    model.logits(&predictors(model, batch)).to_kind(Kind::Float)
}

/// Returns log p of each label of a batch, `[L]` in f32, in the order of rows and positions.
///
/// With gradients turned on the graph holds all logits; [`backward_through_logprobs`] does not.
pub fn label_logprobs(model: &CausalLm, batch: &Batch, temperature: f64) -> Tensor {
    let logprobs = (label_logits(model, batch) / temperature).log_softmax(-1, Kind::Float);
    logprobs.gather(-1, &batch.targets.unsqueeze(-1), false).squeeze_dim(-1)
}

/// Returns what [`label_logprobs`] does, without gradients and with at most `logits_bytes` of logits alive.
///
/// # Errors
/// Memory runs out.
pub fn score(model: &CausalLm, batch: &Batch, temperature: f64, logits_bytes: usize) -> Result<Tensor, LmError> {
    let _no_grad = tch::no_grad_guard();
    Head::new(model, &batch.targets, temperature, logits_bytes).logprobs(&predictors(model, batch))
}

/// The hidden states `[L, H]` whose next tokens are labels.
fn predictors(model: &CausalLm, batch: &Batch) -> Tensor {
    let hidden = model.hidden_states(&batch.input_ids, &batch.positions, &mut batch.attend());
    hidden.index_select(0, &batch.predictors)
}

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepStats {
    /// Mean over the label tokens of -log p.
    pub loss: f64,
    /// Global L2 norm of the gradient before clipping. Where it is not finite the step changed nothing.
    pub grad_norm: f64,
    pub num_label_tokens: usize,
}

/// What an adapter drops of its inputs in one step (`lora_dropout`): each token of each sequence has masks of its own, which
/// do not depend on the micro-batch that it is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterDropout {
    /// In [0, 1).
    pub probability: f64,
    pub seed: u64,
}

impl AdapterDropout {
    /// Returns the model as it drops inputs of sequences that lie one behind the other, each given by its number within the
    /// step and its length in tokens; none where nothing is dropped.
    pub fn on(&self, model: &CausalLm, sequences: &[(u64, usize)]) -> Option<CausalLm> {
        (self.probability > 0.0).then(|| {
            let keys = token_keys(self.seed, sequences, model.device());
            model.with_dropout(self.probability, &keys)
        })
    }
}

/// Takes one step on the mean loss over all label tokens of `examples`.
///
/// The examples are cut into micro-batches of similar length; gradients add up, so the cut changes the result by
/// rounding only. Sequences lie one behind the other and none sees another.
///
/// # Errors
/// No token counts in the loss, memory runs out, or the optimizer fails; the weights are then as before.
pub fn supervised_step(
    learner: &mut Learner,
    examples: &[&Example],
    compute: &Compute,
    learning_rate: f64,
) -> Result<StepStats, LmError> {
    let nothing = AdapterDropout {
        probability: 0.0,
        seed: 0,
    };
    supervised_step_with_dropout(learner, examples, compute, nothing, learning_rate)
}

/// Takes the step of [`supervised_step`] with adapters that drop some of their inputs.
///
/// # Errors
/// As [`supervised_step`].
pub fn supervised_step_with_dropout(
    learner: &mut Learner,
    examples: &[&Example],
    compute: &Compute,
    dropout: AdapterDropout,
    learning_rate: f64,
) -> Result<StepStats, LmError> {
    let num_label_tokens: usize = examples.iter().map(|example| example.num_labels()).sum();
    if num_label_tokens == 0 {
        return Err(LmError::Torch("no token of the batch counts in the loss".to_owned()));
    }
    let runs = micro_batches(examples, |example| example.ids.len(), compute.micro_batch_tokens);
    let (losses, grad_norm) = learner.step(runs, learning_rate, |model, run| {
        let sequences: Vec<(u64, usize)> = run.iter().map(|&idx| (idx as u64, examples[idx].ids.len())).collect();
        let dropping = dropout.on(model, &sequences);
        let run: Vec<&Example> = run.iter().map(|&idx| examples[idx]).collect();
        let batch = Batch::new(&run, model.device());
        backward_cross_entropy(dropping.as_ref().unwrap_or(model), &batch, num_label_tokens, compute)
    })?;
    Ok(StepStats {
        loss: losses.iter().sum(),
        grad_norm,
        num_label_tokens,
    })
}

/// Leaves the gradient of `sum(-log p) / num_label_tokens` over a batch's labels in the model; returns that value.
///
/// # Errors
/// Memory runs out.
pub fn backward_cross_entropy(
    model: &CausalLm,
    batch: &Batch,
    num_label_tokens: usize,
    compute: &Compute,
) -> Result<f64, LmError> {
    if batch.targets.numel() == 0 {
        return Ok(0.0);
    }
    let head = Head::new(model, &batch.targets, 1.0, compute.logits_bytes);
    let weight = -1.0 / num_label_tokens as f64;
    let mut attend = batch.attend();
    backward_from_hidden(model, batch, &mut attend, compute.gradient_checkpointing, |hidden| {
        let (sum, grad) = head.weighted_sum(hidden, weight)?;
        Ok((grad, sum * weight))
    })
}

/// Returns the mean loss over all label tokens, as [`supervised_step`] would report it; changes nothing.
///
/// # Errors
/// No token counts in the loss, or memory runs out.
pub fn evaluate(model: &CausalLm, examples: &[&Example], compute: &Compute) -> Result<f64, LmError> {
    let num_label_tokens: usize = examples.iter().map(|example| example.num_labels()).sum();
    if num_label_tokens == 0 {
        return Err(LmError::Torch("no token of the batch counts in the loss".to_owned()));
    }
    let mut sum = 0.0;
    for run in micro_batches(examples, |example| example.ids.len(), compute.micro_batch_tokens) {
        let run: Vec<&Example> = run.iter().map(|&idx| examples[idx]).collect();
        let batch = Batch::new(&run, model.device());
        if batch.targets.numel() > 0 {
            let logprobs = score(model, &batch, 1.0, compute.logits_bytes)?;
            sum -= logprobs.sum(Kind::Double).double_value(&[]);
        }
    }
    Ok(sum / num_label_tokens as f64)
}
