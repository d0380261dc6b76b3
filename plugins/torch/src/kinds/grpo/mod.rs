//! `astro.grpo`: reinforcement learning with verifiable rewards (ASTRO, arXiv:2507.00417, sec. 3.2).
//!
//! The paper does not give its modified objective. This is GRPO with the variants of `lm::grpo`; by default on policy:
//! one update for each batch of rollouts, so that the importance ratio is 1 when the gradient is taken. Problems are
//! drawn without replacement, epoch after epoch. All weights are trained, or an adapter alone (`lm::lora`).
//!
//! A run that was stopped goes on (`saver`). What a step needs is saved between any two: the policy being trained, and
//! in the middle of a round the rollouts that are still to be learned from, with their log-probabilities under the policy
//! that sampled them. The reference is the input model, or another. Within a step, rollouts that are finished are kept.

mod drawing;
mod metrics;
mod reward;
mod round;
mod trainer;

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tch::Kind;

use self::reward::{Overlong, RewardParams, Rewarding};
use self::trainer::{Policy, Trainer};
use super::checkpoints::Checkpoints;
use super::training::{TrainingParams, save_trained};
use crate::formats::{Problem, read_jsonl, write_jsonl};
use crate::lm::grpo::{ImportanceSamplingLevel, LossSettings, LossType, ScaleRewards};
use crate::lm::lora::LoraParams;
use crate::lm::{self, CausalLm, Tokenizer};
use crate::policy;
use crate::worker::Job;

/// What GRPO adds to [`TrainingParams`] and [`LoraParams`]; names are TRL's where it has them.
#[derive(Debug, Clone, Deserialize)]
struct Params {
    /// Rollouts of one prompt: the group.
    num_generations: usize,
    prompts_per_step: usize,
    /// Steps whose prompts are rolled out together, by the policy before the first of them.
    steps_per_generation: usize,
    /// Times that the rollouts of a generation are learned from.
    num_iterations: usize,
    /// In tokens; a longer rollout is truncated and counts as wrong.
    max_completion_length: usize,
    temperature: f64,
    top_p: f64,
    /// Draws other prompts instead of those whose rollouts are all right or all wrong.
    dynamic_sampling: bool,
    /// Times that it draws for one generation.
    max_num_gen_batches: usize,
    /// Weight of the KL term towards the reference; at 0 there is none, unless `log_kl` asks for it.
    beta: f64,
    log_kl: bool,
    use_bias_correction_kl: bool,
    epsilon: f64,
    epsilon_high: f64,
    delta: Option<f64>,
    importance_sampling_level: ImportanceSamplingLevel,
    loss_type: LossType,
    scale_rewards: ScaleRewards,
    /// Leaves truncated rollouts out of the loss (not out of the advantages).
    mask_truncated_completions: bool,
    reward: RewardParams,
    overlong: Option<Overlong>,
    /// Rows generated at once.
    generation_batch_size: usize,
}

impl Params {
    fn loss_settings(&self) -> LossSettings {
        LossSettings {
            loss_type: self.loss_type,
            importance_sampling_level: self.importance_sampling_level,
            epsilon: self.epsilon,
            epsilon_high: self.epsilon_high,
            delta: self.delta,
            beta: self.beta,
            use_bias_correction_kl: self.use_bias_correction_kl,
            max_completion_length: self.max_completion_length,
        }
    }

    fn rewarding(&self) -> Rewarding {
        Rewarding {
            reward: self.reward,
            overlong: self.overlong,
            max_completion_length: self.max_completion_length,
        }
    }

    /// Whether the policy is compared with a reference.
    fn has_reference(&self) -> bool {
        self.beta != 0.0 || self.log_kl
    }

    /// Optimizer steps on the rollouts of one generation.
    fn steps_per_round(&self) -> usize {
        self.steps_per_generation.saturating_mul(self.num_iterations).max(1)
    }
}

/// Reads `model`, `problems` and perhaps `reference`, writes `model`, `metrics`, `samples` (the rollouts of the last step) and
/// `checkpoints`. With an adapter, `model` has it merged into the weights, and as it is in a folder of its own.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let training: TrainingParams = job.params()?;
    let lora: LoraParams = job.params()?;
    let model_dir = job.input("model")?;
    let device = training.device(job)?;
    let problems: Vec<Problem> = read_jsonl(&job.input("problems")?, "problem")?;
    if problems.is_empty() {
        bail!("there are no problems to train on");
    }
    if params.num_generations < 2 {
        bail!(
            "num_generations is {}; an advantage needs at least 2 rollouts of a prompt",
            params.num_generations
        );
    }
    params.rewarding().check()?;
    let base = lm::load(&model_dir, device, lora.base_kind(&model_dir, training.bf16)?)?;
    let (model, adapter) = lora.begin(base, training.seed)?;
    let tokenizer = Tokenizer::load(&model_dir)?;
    let reference_kind = if training.bf16 { Kind::BFloat16 } else { Kind::Float };
    let reference_dir = match (job.input_opt("reference")?, params.has_reference()) {
        (Some(dir), true) => {
            check_reference(&dir, &model, &tokenizer, &problems)?;
            Some(dir)
        }
        (Some(_), false) => {
            job.warning("beta is 0 and log_kl is false, so the input reference is not used");
            None
        }
        // Without its adapter the policy is the starting model, which needs no copy then.
        (None, true) => adapter.is_none().then(|| model_dir.clone()),
        (None, false) => None,
    };
    let policy = Policy {
        reference: reference_dir
            .map(|dir| lm::load(&dir, device, reference_kind))
            .transpose()?,
        lora_dropout: adapter.as_ref().map_or(0.0, |config| config.lora_dropout),
        model,
    };
    let saver = training.saver(job, device)?;
    let trainer = Trainer {
        job,
        tokenizer,
        policy,
        params,
        training,
        problems,
    };
    let mut checkpoints = Checkpoints::of_job(job, adapter.clone(), &model_dir)?;
    let state = trainer.train(saver, &mut checkpoints)?;
    save_trained(
        &trainer.policy.model,
        adapter.as_ref(),
        &job.output("model")?,
        &model_dir,
    )?;
    let metrics = &state.training.metrics;
    write_jsonl(&job.output("metrics")?, metrics)?;
    write_jsonl(&job.output("samples")?, state.samples)?;
    checkpoints.finish(metrics)
}

/// Prompts that are tokenized by both models to see whether they agree.
const NUM_COMPARED: usize = 50;

/// Checks that a second model can be a reference: its probabilities must be of the same tokens.
fn check_reference(dir: &Path, model: &CausalLm, tokenizer: &Tokenizer, problems: &[Problem]) -> Result<()> {
    policy::require_weights(dir)?;
    let vocab_size = lm::Config::read(dir)?.vocab_size;
    ensure!(
        vocab_size == model.config.vocab_size,
        "the reference has a vocabulary of {vocab_size} tokens and the model one of {}: they must share it",
        model.config.vocab_size
    );
    let other = Tokenizer::load(dir).context("reference")?;
    for problem in problems.iter().take(NUM_COMPARED) {
        ensure!(
            other.encode_prompt(&problem.problem)? == tokenizer.encode_prompt(&problem.problem)?,
            "the reference and the model make different tokens of problem {:?}: they must share tokenizer and chat template",
            problem.id
        );
    }
    Ok(())
}
