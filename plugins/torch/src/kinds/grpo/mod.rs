//! `astro.grpo`: reinforcement learning with verifiable rewards (ASTRO, arXiv:2507.00417, sec. 3.2).
//!
//! The paper does not give its modified objective. This is GRPO with the variants of `lm::grpo`; by default on policy:
//! one update for each batch of rollouts, so that the importance ratio is 1 when the gradient is taken. Problems are
//! drawn without replacement, epoch after epoch. All weights are trained, or an adapter alone (`lm::lora`).
//!
//! A run that was stopped goes on (`saver`). What a step needs is saved between any two: the policy being trained, and
//! in the middle of a round the rollouts that are still to be learned from, with their log-probabilities under the policy
//! that sampled them. The reference is the input model. Within a step, rollouts that are finished are kept.

mod metrics;
mod round;
mod trainer;

use anyhow::{Result, bail};
use serde::Deserialize;
use tch::Kind;

use self::trainer::{Policy, Trainer};
use super::training::{TrainingParams, save_trained};
use crate::formats::{Problem, read_jsonl, write_jsonl};
use crate::lm::grpo::{ImportanceSamplingLevel, LossSettings, LossType, ScaleRewards};
use crate::lm::lora::LoraParams;
use crate::lm::{self, Tokenizer};
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
    /// Weight of the KL term towards the starting model; 0 leaves that model out altogether.
    beta: f64,
    use_bias_correction_kl: bool,
    epsilon: f64,
    epsilon_high: f64,
    importance_sampling_level: ImportanceSamplingLevel,
    loss_type: LossType,
    scale_rewards: ScaleRewards,
    /// Leaves truncated rollouts out of the loss (not out of the advantages).
    mask_truncated_completions: bool,
    reward: Reward,
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
            beta: self.beta,
            use_bias_correction_kl: self.use_bias_correction_kl,
            max_completion_length: self.max_completion_length,
        }
    }

    /// Optimizer steps on the rollouts of one generation.
    fn steps_per_round(&self) -> usize {
        self.steps_per_generation.saturating_mul(self.num_iterations).max(1)
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reward {
    correct: f64,
    wrong: f64,
}

/// Reads `model` and `problems`, writes `model`, `metrics` and `samples` (the rollouts of the last step). With an adapter,
/// `model` has it merged into the weights, and as it is in a folder of its own.
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
    let base = lm::load(&model_dir, device, lora.base_kind(&model_dir, training.bf16)?)?;
    let (model, adapter) = lora.begin(base, training.seed)?;
    let reference_kind = if training.bf16 { Kind::BFloat16 } else { Kind::Float };
    let policy = Policy {
        // Without its adapter the policy is the starting model, which needs no copy then.
        reference: (params.beta != 0.0 && adapter.is_none())
            .then(|| lm::load(&model_dir, device, reference_kind))
            .transpose()?,
        lora_dropout: adapter.as_ref().map_or(0.0, |config| config.lora_dropout),
        model,
    };
    let saver = training.saver(job, device)?;
    let trainer = Trainer {
        job,
        tokenizer: Tokenizer::load(&model_dir)?,
        policy,
        params,
        training,
        problems,
    };
    let state = trainer.train(saver)?;
    save_trained(
        &trainer.policy.model,
        adapter.as_ref(),
        &job.output("model")?,
        &model_dir,
    )?;
    write_jsonl(&job.output("metrics")?, state.training.metrics)?;
    write_jsonl(&job.output("samples")?, state.samples)?;
    Ok(())
}
