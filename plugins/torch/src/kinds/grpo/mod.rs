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

use anyhow::{Result, bail};
use serde::Deserialize;
use tch::Kind;

use self::reward::{Overlong, RewardParams, Rewarding};
use self::trainer::{Policy, Trainer};
use super::checkpoints::Checkpoints;
use super::problems;
use super::training::{TrainingParams, check_reference, save_trained};
use crate::formats::write_jsonl;
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

    /// Prompts of a round whose rollouts are learned from before their log-probabilities under the policy that sampled them
    /// are computed by themselves: those of the first step, which finds them on its way. Those of later steps must be known
    /// before it changes the policy. With dropout the first step does not find them, since its pass drops other values than
    /// the sampling, which drops none: where it is not the last on its prompts, these are computed before as well.
    fn prompts_learned_at_once(&self, lora_dropout: f64) -> usize {
        if lora_dropout > 0.0 && self.num_iterations > 1 {
            0
        } else {
            self.prompts_per_step
        }
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
    let problems = problems::read(&job.input("problems")?, 0)?;
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
            let prompts = problems.iter().map(|problem| problem.problem.as_str());
            check_reference(&dir, model.config.vocab_size, &tokenizer, prompts)?;
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn with_dropout_ratios_of_later_iterations_are_to_a_pass_that_drops_nothing() {
        let at_once = |num_iterations: usize, lora_dropout| {
            let params: Params = serde_json::from_value(json!({
                "num_generations": 4, "prompts_per_step": 8, "steps_per_generation": 2, "num_iterations": num_iterations,
                "max_completion_length": 16, "temperature": 1.0, "top_p": 1.0, "dynamic_sampling": false,
                "max_num_gen_batches": 1, "beta": 0.0, "log_kl": false, "use_bias_correction_kl": false, "epsilon": 0.2,
                "epsilon_high": 0.2, "delta": null, "importance_sampling_level": "token", "loss_type": "dapo",
                "scale_rewards": "group", "mask_truncated_completions": false, "reward": {"correct": 1.0, "wrong": 0.0},
                "overlong": null, "generation_batch_size": 8,
            }))
            .expect("parameters");
            params.prompts_learned_at_once(lora_dropout)
        };
        assert_eq!([at_once(1, 0.0), at_once(2, 0.0), at_once(1, 0.1)], [8, 8, 8]);
        assert_eq!(at_once(2, 0.1), 0, "all prompts are scored before");
    }
}
