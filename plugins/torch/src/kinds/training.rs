//! What every training kind shares: the optimizer's parameters, and the supervised loop with its metrics.

use anyhow::{Context as _, Result, bail};
use rand::seq::SliceRandom;
use serde::Deserialize;
use tch::Device;

use crate::formats::MetricsLine;
use crate::lm::learner::Learner;
use crate::lm::optimizer::{AdamwSettings, Decay};
use crate::lm::schedule::{Schedule, SchedulerType};
use crate::lm::train::{Example, supervised_step};
use crate::lm::{Llama, device};
use crate::random;
use crate::worker::Job;

/// The optimizer's parameters, named as in transformers' `TrainingArguments`.
///
/// Read from the same object as a kind's own parameters; the engine has checked the names against `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
pub struct TrainingParams {
    /// Seed of the data order.
    pub seed: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    pub lr_scheduler_type: SchedulerType,
    /// Share of the steps over which the learning rate rises, in [0, 1].
    pub warmup_ratio: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Decoupled decay of matrices; norms and biases don't decay.
    pub weight_decay: f64,
    /// Global L2 norm to which gradients are clipped; 0 turns it off.
    pub max_grad_norm: f64,
    /// Optimizer steps.
    pub max_steps: usize,
    /// Padded tokens computed at once; changes the result by rounding only.
    pub micro_batch_tokens: usize,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
}

impl TrainingParams {
    /// Returns the device, and gives libtorch the threads of the job.
    pub fn device(&self, job: &Job) -> Result<Device> {
        device::set_num_threads(job.resources().cpu);
        device::parse(&self.device).map_err(anyhow::Error::msg)
    }

    pub fn schedule(&self, num_steps: usize) -> Schedule {
        Schedule {
            kind: self.lr_scheduler_type,
            learning_rate: self.learning_rate,
            num_warmup_steps: (self.warmup_ratio * num_steps as f64).ceil() as usize,
            num_steps,
        }
    }

    /// Takes a model into training, with the threads of the job.
    pub fn learner(&self, job: &Job, model: &Llama) -> Learner {
        let settings = AdamwSettings {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
            decay: Decay::Matrices,
            max_grad_norm: self.max_grad_norm,
        };
        Learner::new(model, settings, job.resources().cpu)
    }
}

/// How long a supervised run is, as in transformers: `max_steps` where it is positive, else whole epochs.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct SupervisedParams {
    /// Sequences in one optimizer step.
    pub per_device_train_batch_size: usize,
    pub num_train_epochs: f64,
}

/// Trains on examples and returns the metrics of each step.
///
/// Each epoch goes through the examples in a new order that depends on the seed and the epoch alone.
pub fn train_supervised(
    job: &Job,
    model: &Llama,
    examples: &[Example],
    pad_token_id: i64,
    params: &TrainingParams,
    supervised: &SupervisedParams,
) -> Result<Vec<MetricsLine>> {
    if examples.is_empty() {
        bail!("there is nothing to train on");
    }
    let batch_size = supervised.per_device_train_batch_size.clamp(1, examples.len());
    let num_steps = if params.max_steps > 0 {
        params.max_steps
    } else {
        (supervised.num_train_epochs * examples.len() as f64 / batch_size as f64).ceil() as usize
    };
    let schedule = params.schedule(num_steps);
    let mut learner = params.learner(job, model);
    let mut order = Order::new(examples.len(), params.seed);
    let mut metrics = Vec::with_capacity(num_steps);
    for step_idx in 0..num_steps {
        let batch: Vec<&Example> = (0..batch_size).map(|_| &examples[order.next()]).collect();
        let learning_rate = schedule.learning_rate(step_idx);
        let stats = supervised_step(
            &mut learner,
            &batch,
            pad_token_id,
            params.micro_batch_tokens,
            learning_rate,
        )
        .with_context(|| format!("step {}", step_idx + 1))?;
        let step = step_idx + 1;
        job.progress(step, num_steps, "step", &format!("loss {:.4}", stats.loss));
        job.metric("loss", stats.loss, Some(step));
        metrics.push(MetricsLine {
            step,
            values: [
                ("loss".to_owned(), stats.loss),
                ("grad_norm".to_owned(), stats.grad_norm),
                ("learning_rate".to_owned(), learning_rate),
                ("num_tokens".to_owned(), stats.num_label_tokens as f64),
            ]
            .into(),
        });
    }
    Ok(metrics)
}

/// An endless walk over `0..len`: epoch after epoch, each in its own random order.
pub struct Order {
    seed: u64,
    epoch: u64,
    indices: Vec<usize>,
    position: usize,
}

impl Order {
    /// `len` must not be 0.
    pub fn new(len: usize, seed: u64) -> Self {
        assert!(len > 0, "an order of nothing has no next");
        let mut order = Self {
            seed,
            epoch: 0,
            indices: (0..len).collect(),
            position: 0,
        };
        order.shuffle();
        order
    }

    /// Returns the next index; there always is one.
    pub fn next(&mut self) -> usize {
        if self.position == self.indices.len() {
            self.epoch += 1;
            self.shuffle();
        }
        self.position += 1;
        self.indices[self.position - 1]
    }

    fn shuffle(&mut self) {
        self.indices.sort_unstable();
        self.indices
            .shuffle(&mut random::stream(self.seed, "data order", self.epoch));
        self.position = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_holds_every_index_once_in_another_order() {
        let mut order = Order::new(50, 3);
        let mut epoch = || (0..50).map(|_| order.next()).collect::<Vec<_>>();
        let (first, second) = (epoch(), epoch());
        assert_ne!(first, second);
        for mut list in [first, second] {
            list.sort_unstable();
            assert_eq!(list, (0..50).collect::<Vec<_>>());
        }
    }
}
