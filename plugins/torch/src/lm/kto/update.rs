//! One optimizer step on judged completions.

use super::sequence::{Joined, Sequence, score};
use super::{Feedback, LossSettings, LossSums, LossType, ReferencePoints, loss};
use crate::lm::learner::Learner;
use crate::lm::train::{AdapterDropout, Compute, backward_through_logprobs, micro_batches};
use crate::lm::{CausalLm, LmError};

/// A completion with its verdicts.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub sequence: Sequence,
    pub label: bool,
    /// Of each step, where it was judged.
    pub steps: Vec<Option<bool>>,
    /// What [`score`] gave for the sequence under the reference policy.
    pub reference: Vec<f64>,
}

/// A prompt with a completion of another, for the KL estimate.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatched {
    pub sequence: Sequence,
    /// As in [`Item`].
    pub reference: Vec<f64>,
}

/// What is minimized, and how.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    pub settings: LossSettings,
    pub dropout: AdapterDropout,
}

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    pub loss: f64,
    /// Where it is not finite the step changed nothing.
    pub grad_norm: f64,
    pub points: ReferencePoints,
    pub sums: LossSums,
}

/// Takes one optimizer step on the mean loss over the items; how it is cut into micro-batches changes it by rounding only.
///
/// The KL divergence is estimated over all mismatched pairs of the step. Adapters drop nothing while it is.
///
/// # Errors
/// Memory runs out, the step fails, or the worker is asked to stop: the weights are then as before.
pub fn update(
    learner: &mut Learner,
    objective: &Objective,
    items: &[Item],
    mismatched: &[Mismatched],
    compute: &Compute,
    learning_rate: f64,
) -> Result<Update, LmError> {
    let settings = &objective.settings;
    let points = match settings.loss_type {
        LossType::Kto => reference_points(learner.model(), mismatched, compute)?,
        LossType::ApoZeroUnpaired => ReferencePoints::default(),
    };
    let runs = micro_batches(items, |item| item.sequence.num_tokens(), compute.micro_batch_tokens);
    let (outcomes, grad_norm) = learner.step(runs, learning_rate, |model, run| {
        let sequences: Vec<&Sequence> = run.iter().map(|&idx| &items[idx].sequence).collect();
        let numbered: Vec<(u64, usize)> = run
            .iter()
            .map(|&idx| (idx as u64, items[idx].sequence.num_tokens()))
            .collect();
        let dropping = objective.dropout.on(model, &numbered);
        let model = dropping.as_ref().unwrap_or(model);
        let joined = Joined::new(&sequences, model.device());
        if joined.batch.targets.numel() == 0 {
            return Ok((0.0, LossSums::default()));
        }
        let feedback: Vec<Feedback<'_>> = run.iter().map(|&idx| items[idx].feedback()).collect();
        let mut attend = joined.batch.attend();
        backward_through_logprobs(model, &joined.batch, &mut attend, 1.0, compute, |logprobs| {
            let (loss, sums) = loss(&joined.sums(logprobs), &feedback, points, settings, items.len());
            let value = loss.double_value(&[]);
            Ok((loss, (value, sums)))
        })
    })?;
    let mut update = Update {
        loss: 0.0,
        grad_norm,
        points,
        sums: LossSums::default(),
    };
    for (loss, sums) in &outcomes {
        update.loss += loss;
        update.sums.add(sums);
    }
    Ok(update)
}

impl Item {
    fn feedback(&self) -> Feedback<'_> {
        Feedback {
            label: self.label,
            steps: &self.steps,
            reference: &self.reference,
        }
    }
}

/// Returns the means over pairs of log p - log p of the reference, at least 0: of the whole completion, and of one of its
/// steps on average.
fn reference_points(
    model: &CausalLm,
    mismatched: &[Mismatched],
    compute: &Compute,
) -> Result<ReferencePoints, LmError> {
    let sequences: Vec<&Sequence> = mismatched.iter().map(|pair| &pair.sequence).collect();
    let scores = score(model, &sequences, compute)?;
    let (mut of_whole, mut of_step) = (0.0, 0.0);
    for (pair, score) in mismatched.iter().zip(&scores) {
        let gain = score.iter().sum::<f64>() - pair.reference.iter().sum::<f64>();
        of_whole += gain;
        of_step += gain / pair.sequence.num_steps().max(1) as f64;
    }
    let mean = |sum: f64| (sum / mismatched.len().max(1) as f64).max(0.0);
    Ok(ReferencePoints {
        kl: mean(of_whole),
        step_kl: mean(of_step),
    })
}
