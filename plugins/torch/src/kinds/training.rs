//! What every training kind shares: the optimizer's parameters, and the supervised loop with its metrics.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng;
use rand::seq::SliceRandom;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::checkpoints::Checkpoints;
use super::meter::Meter;
use super::saver::Saver;
use super::train_state::TrainState;
use crate::formats::MetricsLine;
use crate::lm::learner::Learner;
use crate::lm::lora::{self, AdapterConfig};
use crate::lm::optimizer::{AdamwSettings, Decay};
use crate::lm::schedule::{Schedule, SchedulerType};
use crate::lm::train::{AdapterDropout, Compute, Example, fitting, largest_joint, supervised_step_with_dropout};
use crate::lm::{self, CausalLm, LmError, Tokenizer, device};
use crate::policy;
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
    /// Steps over which it rises; where positive, `warmup_ratio` does not count.
    pub warmup_steps: usize,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Decoupled decay of matrices; norms and biases don't decay.
    pub weight_decay: f64,
    /// Global L2 norm to which gradients are clipped; 0 turns it off.
    pub max_grad_norm: f64,
    /// Optimizer steps.
    pub max_steps: usize,
    /// Tokens computed at once; changes the result by rounding only.
    pub micro_batch_tokens: usize,
    /// Keeps the inputs of layers only and computes the rest twice; changes the result by rounding at most.
    pub gradient_checkpointing: bool,
    /// Computes in bf16 with copies of f32 weights, which the optimizer changes.
    pub bf16: bool,
    /// On a GPU, products of f32 matrices may round their inputs to TF32.
    pub tf32: bool,
    /// What the device can do at most, in 10^12 floating-point operations a second; none: `mfu` is not reported.
    pub peak_tflops: Option<f64>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
}

impl TrainingParams {
    /// Returns the device, and gives libtorch the threads of the job.
    pub fn device(&self, job: &Job) -> Result<Device> {
        device::set_num_threads(job.resources().cpu);
        device::allow_tf32(self.tf32);
        device::parse(&self.device).map_err(anyhow::Error::msg)
    }

    pub fn schedule(&self, num_steps: usize) -> Schedule {
        Schedule {
            kind: self.lr_scheduler_type,
            learning_rate: self.learning_rate,
            num_warmup_steps: match self.warmup_steps {
                0 => (self.warmup_ratio * num_steps as f64).ceil() as usize,
                steps => steps,
            },
            num_steps,
        }
    }

    /// Returns what saves the training of a job, and finds what was saved.
    pub fn saver<'a>(&self, job: &'a Job, device: Device) -> Result<Saver<'a>> {
        Saver::new(job, device, &self.equivalent_settings())
    }

    /// As [`Self::saver`], where something else than completions is kept between checkpoints.
    pub fn saver_keeping<'a, C>(&self, job: &'a Job, device: Device) -> Result<Saver<'a, C>>
    where
        C: Serialize + DeserializeOwned,
    {
        Saver::keeping(job, device, &self.equivalent_settings())
    }

    /// The parameters that change a result by rounding only.
    fn equivalent_settings(&self) -> [(&'static str, usize); 2] {
        [
            ("micro_batch_tokens", self.micro_batch_tokens),
            ("gradient_checkpointing", usize::from(self.gradient_checkpointing)),
        ]
    }

    /// Returns how gradients are computed.
    pub fn compute(&self) -> Compute {
        Compute {
            gradient_checkpointing: self.gradient_checkpointing,
            ..Compute::new(self.micro_batch_tokens)
        }
    }

    /// Takes a model into training with so many threads.
    pub fn learner(&self, model: &CausalLm, num_threads: usize) -> Learner {
        let settings = AdamwSettings {
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
            decay: Decay::Matrices,
            max_grad_norm: self.max_grad_norm,
        };
        // Weights that were loaded in another kind than f32 are computed in that.
        let kind = if self.bf16 { Kind::BFloat16 } else { model.kind() };
        Learner::computing_in(kind, model, settings, num_threads)
    }
}

/// Prompts that are tokenized by both models to see whether they agree.
const NUM_COMPARED: usize = 50;

/// Checks that a second model can be the reference of one with this vocabulary and tokenizer: its probabilities must be of
/// the same tokens.
///
/// # Errors
/// It has no weights here, another vocabulary, or makes other tokens of a prompt.
pub fn check_reference<'a>(
    dir: &Path,
    vocab_size: i64,
    tokenizer: &Tokenizer,
    prompts: impl Iterator<Item = &'a str>,
) -> Result<()> {
    policy::require_weights(dir)?;
    let other_size = lm::Config::read(dir)?.vocab_size;
    ensure!(
        other_size == vocab_size,
        "the reference has a vocabulary of {other_size} tokens and the model one of {vocab_size}: they must share it"
    );
    let other = Tokenizer::load(dir).context("reference")?;
    for prompt in prompts.take(NUM_COMPARED) {
        ensure!(
            other.encode_prompt(prompt)? == tokenizer.encode_prompt(prompt)?,
            "the reference and the model make different tokens of the prompt {prompt:?}: they must share tokenizer and chat \
             template"
        );
    }
    Ok(())
}

/// How long a supervised run is, as in transformers: `max_steps` where it is positive, else whole epochs.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct SupervisedParams {
    /// Times [`Self::gradient_accumulation_steps`] the sequences in one optimizer step.
    pub per_device_train_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub num_train_epochs: f64,
}

/// Trains on examples and returns the metrics of each step.
///
/// Adapters drop the share `lora_dropout` of their inputs. Each epoch goes through the examples in a new order that
/// depends on the seed and the epoch alone. Goes on where an earlier attempt stopped (`saver`). Models on the way are kept
/// as `checkpoints` says.
///
/// # Errors
/// There is nothing to train on, a step fails, or the worker was asked to stop.
pub fn train_supervised(
    job: &Job,
    model: &CausalLm,
    examples: &[Example],
    params: &TrainingParams,
    supervised: &SupervisedParams,
    lora_dropout: f64,
    checkpoints: &mut Checkpoints,
) -> Result<Vec<MetricsLine>> {
    if examples.is_empty() {
        bail!("there is nothing to train on");
    }
    let batch_size = supervised
        .per_device_train_batch_size
        .saturating_mul(supervised.gradient_accumulation_steps)
        .clamp(1, examples.len());
    let num_steps = if params.max_steps > 0 {
        params.max_steps
    } else {
        (supervised.num_train_epochs * examples.len() as f64 / batch_size as f64).ceil() as usize
    };
    let schedule = params.schedule(num_steps);
    let mut saver = params.saver(job, model.device())?;
    let begin = |num_threads| {
        let order = Order::new(examples.len(), params.seed);
        TrainState::new(params.learner(model, num_threads), order, batch_size)
    };
    checkpoints.stage_in(saver.kept());
    let mut state = saver
        .resume(|folder, step, num_threads| {
            checkpoints.recall(folder, step)?;
            begin(num_threads).read(folder, step)
        })
        .unwrap_or_else(|| begin(saver.num_threads()));
    state.report(job, |_| true);
    job.progress(saver.step(), num_steps, "step", "");
    let mut compute = params.compute();
    let mut meter = Meter::new(job, model, params.peak_tflops);
    for step_idx in saver.step()..num_steps {
        let batch: Vec<&Example> = (0..batch_size).map(|_| &examples[state.order.next()]).collect();
        let lengths: Vec<usize> = batch.iter().map(|example| example.ids.len()).collect();
        let learning_rate = schedule.learning_rate(step_idx);
        let dropout = AdapterDropout {
            probability: lora_dropout,
            seed: random::stream(params.seed, "lora dropout", step_idx as u64).random(),
        };
        let done = fitting(
            &mut compute.micro_batch_tokens,
            lengths.iter().copied().max().unwrap_or(0),
            |tokens| largest_joint(&lengths, tokens),
            |tokens| warn_of_memory(job, tokens),
            |micro_batch_tokens| {
                let compute = Compute {
                    micro_batch_tokens,
                    ..params.compute()
                };
                supervised_step_with_dropout(&mut state.learner, &batch, &compute, dropout, learning_rate)
            },
        );
        let stats = match done {
            Err(LmError::Stopped) => {
                return Err(saver.stopped(|folder| {
                    checkpoints.note(folder)?;
                    state.write(folder)
                }));
            }
            done => done.with_context(|| format!("step {}", step_idx + 1))?,
        };
        let step = step_idx + 1;
        let values = [
            ("loss", stats.loss),
            ("grad_norm", stats.grad_norm),
            ("learning_rate", learning_rate),
            ("num_tokens", stats.num_label_tokens as f64),
        ];
        let line = MetricsLine {
            step,
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
        };
        state.push(job, line).with_context(|| format!("step {step}"))?;
        job.progress(step, num_steps, "step", &format!("loss {:.4}", stats.loss));
        state.report(job, |_| true);
        meter.step_done(step, &lengths);
        checkpoints.keep(step, model)?;
        saver.step_done(step, num_steps, |folder| {
            checkpoints.note(folder)?;
            state.write(folder)
        })?;
        meter.go_on();
    }
    saver.finish();
    Ok(state.metrics)
}

/// The folder of a trained adapter within the output `model`.
const ADAPTER: &str = "adapter";

/// Writes a trained model; one with an adapter has it merged into the weights, and as it is in a folder of its own.
///
/// # Errors
/// A file can't be written.
pub fn save_trained(
    model: &CausalLm,
    adapter: Option<&AdapterConfig>,
    out: &Path,
    model_dir: &Path,
) -> Result<(), LmError> {
    match adapter {
        Some(config) => {
            lm::save(&lora::merge(model), out, model_dir)?;
            lora::save(model, config, &out.join(ADAPTER))
        }
        None => lm::save(model, out, model_dir),
    }
}

/// Tells the user that less is computed at once from here on.
pub fn warn_of_memory(job: &Job, micro_batch_tokens: usize) {
    job.warning(&format!(
        "memory ran out, so the step is taken again and the stage goes on with micro_batch_tokens {micro_batch_tokens}; the \
         result is the same up to rounding"
    ));
}

/// An endless walk over `0..len`: epoch after epoch, each in its own random order.
#[derive(Clone)]
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

    /// Returns the walk as it is after so many indices.
    pub fn at(self, num_drawn: usize) -> Self {
        let len = self.indices.len();
        let mut order = Self {
            epoch: (num_drawn / len) as u64,
            ..self
        };
        order.shuffle();
        order.position = num_drawn % len;
        order
    }

    /// Returns how many indices were drawn.
    pub fn num_drawn(&self) -> usize {
        self.epoch as usize * self.indices.len() + self.position
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

    #[test]
    fn a_walk_that_goes_on_is_the_walk() {
        let mut whole = Order::new(5, 7);
        for num_drawn in 0..23 {
            let mut resumed = Order::new(5, 7).at(num_drawn);
            let mut rest = whole.clone();
            let next = |order: &mut Order| (0..12).map(|_| order.next()).collect::<Vec<_>>();
            assert_eq!(whole.num_drawn(), num_drawn);
            assert_eq!(next(&mut resumed), next(&mut rest), "after {num_drawn}");
            whole.next();
        }
    }
}
