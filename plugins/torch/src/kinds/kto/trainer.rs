//! The loop, and what it tells of each step.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rand::Rng;
use tch::Kind;

use super::data::{Batch, Batches};
use super::reference::{self, Scored};
use crate::formats::MetricsLine;
use crate::kinds::meter::Meter;
use crate::kinds::saver::Saver;
use crate::kinds::train_state::TrainState;
use crate::kinds::training::{Order, SupervisedParams, TrainingParams, warn_of_memory};
use crate::lm::kto::{LossSettings, Objective, Update, update};
use crate::lm::train::{AdapterDropout, Compute, fitting, largest_joint};
use crate::lm::{self, CausalLm, LmError, device};
use crate::random;
use crate::worker::Job;

/// Everything that stays the same over the steps.
pub struct Training<'a> {
    pub job: &'a Job,
    pub model: &'a CausalLm,
    /// The reference policy, where it is not the starting model.
    pub reference_dir: Option<PathBuf>,
    pub settings: LossSettings,
    pub lora_dropout: f64,
    pub training: TrainingParams,
    pub supervised: SupervisedParams,
}

/// Trains the model in place, from where an earlier attempt stopped, and returns the metrics of each step.
///
/// # Errors
/// A step fails, or the worker was asked to stop.
pub fn train(run: &Training<'_>, mut batches: Batches) -> Result<Vec<MetricsLine>> {
    if batches.0.is_empty() {
        bail!("there is nothing to train on");
    }
    let (job, params) = (run.job, &run.training);
    let num_steps = match params.max_steps {
        0 => (run.supervised.num_train_epochs * batches.0.len() as f64).ceil() as usize,
        steps => steps,
    };
    let schedule = params.schedule(num_steps);
    let mut saver: Saver<'_, Scored> = params.saver_keeping(job, run.model.device())?;
    let begin = |num_threads| {
        let order = Order::new(batches.0.len(), params.seed);
        TrainState::new(params.learner(run.model, num_threads), order, 1)
    };
    let resumed = saver.resume(|folder, step, num_threads| {
        let scored = reference::read(folder, &batches)?;
        Ok((begin(num_threads).read(folder, step)?, scored))
    });
    device::set_num_threads(saver.num_threads());
    let mut compute = params.compute();
    let (mut state, scored) = match resumed {
        Some(resumed) => resumed,
        None => {
            let state = begin(saver.num_threads());
            let policy = run.reference(state.learner.model())?;
            let scored = reference::compute(job, &policy, &batches, &mut compute, &mut saver, num_steps)?;
            (state, scored)
        }
    };
    reference::note(&mut batches, &scored);
    state.report(job, |_| true);
    job.progress(saver.step(), num_steps, "step", "");
    let mut meter = Meter::new(job, run.model, params.peak_tflops);
    for step_idx in saver.step()..num_steps {
        let step = step_idx + 1;
        let batch = &batches.0[state.order.next()];
        let learning_rate = schedule.learning_rate(step_idx);
        let write = |state: &TrainState, folder: &Path| {
            state.write(folder)?;
            reference::write(&scored, folder)
        };
        let done = match run.step(&mut state, batch, &mut compute, step_idx, learning_rate) {
            Err(LmError::Stopped) => return Err(saver.stopped(|folder| write(&state, folder))),
            done => done.with_context(|| format!("step {step}"))?,
        };
        let line = describe(step, &done, batch, learning_rate);
        state.push(job, line).with_context(|| format!("step {step}"))?;
        job.progress(step, num_steps, "step", &format!("loss {:.4}", done.loss));
        state.report(job, |_| true);
        let lengths: Vec<usize> = batch.items.iter().map(|item| item.sequence.num_tokens()).collect();
        meter.step_done(step, &lengths);
        saver.step_done(step, num_steps, |folder| write(&state, folder))?;
        meter.go_on();
    }
    saver.finish();
    Ok(state.metrics)
}

impl Training<'_> {
    /// The reference policy; by default the one that is trained, before it is, as it is computed.
    fn reference(&self, policy: &CausalLm) -> Result<CausalLm, LmError> {
        let kind = if self.training.bf16 {
            Kind::BFloat16
        } else {
            Kind::Float
        };
        match &self.reference_dir {
            Some(dir) => lm::load(dir, policy.device(), kind),
            None => Ok(policy.without_adapters()),
        }
    }

    fn step(
        &self,
        state: &mut TrainState,
        batch: &Batch,
        compute: &mut Compute,
        step_idx: usize,
        learning_rate: f64,
    ) -> Result<Update, LmError> {
        let objective = Objective {
            settings: self.settings,
            dropout: AdapterDropout {
                probability: self.lora_dropout,
                seed: random::stream(self.training.seed, "lora dropout", step_idx as u64).random(),
            },
        };
        let items = batch.items.iter().map(|item| item.sequence.num_tokens());
        let pairs = batch.mismatched.iter().map(|pair| pair.sequence.num_tokens());
        let (items, pairs): (Vec<usize>, Vec<usize>) = (items.collect(), pairs.collect());
        let plain = *compute;
        fitting(
            &mut compute.micro_batch_tokens,
            items.iter().chain(&pairs).copied().max().unwrap_or(0),
            |tokens| largest_joint(&items, tokens).max(largest_joint(&pairs, tokens)),
            |tokens| warn_of_memory(self.job, tokens),
            |micro_batch_tokens| {
                let compute = Compute {
                    micro_batch_tokens,
                    ..plain
                };
                let (items, pairs) = (&batch.items, &batch.mismatched);
                update(&mut state.learner, &objective, items, pairs, &compute, learning_rate)
            },
        )
    }
}

/// Describes a step; names are TRL's where it has them. What has no value, as the reward of right solutions in a batch of
/// wrong ones, is left out.
fn describe(step: usize, update: &Update, batch: &Batch, learning_rate: f64) -> MetricsLine {
    let sums = &update.sums;
    let count = batch.items.len() as f64;
    let (chosen, rejected) = (
        sums.chosen_rewards / sums.num_chosen,
        sums.rejected_rewards / sums.num_rejected,
    );
    let num_tokens: usize = batch.items.iter().map(|item| item.sequence.num_labels()).sum();
    let values = [
        ("loss", update.loss),
        ("outcome_loss", sums.outcome_loss / count),
        ("step_loss", sums.step_loss / count),
        ("rewards/chosen", chosen),
        ("rewards/rejected", rejected),
        ("rewards/margins", chosen - rejected),
        ("logps/chosen", sums.chosen_logprobs / sums.num_chosen),
        ("logps/rejected", sums.rejected_logprobs / sums.num_rejected),
        ("kl", update.points.kl),
        ("step_kl", update.points.step_kl),
        ("step_accuracy", sums.num_steps_right / sums.num_steps),
        ("grad_norm", update.grad_norm),
        ("learning_rate", learning_rate),
        ("num_tokens", num_tokens as f64),
    ];
    MetricsLine {
        step,
        values: values.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}
