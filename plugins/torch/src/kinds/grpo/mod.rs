//! `astro.grpo`: reinforcement learning with verifiable rewards (ASTRO, arXiv:2507.00417, sec. 3.2).
//!
//! The paper does not give its modified objective. This is GRPO on policy: one update for each batch of rollouts, so
//! that the importance ratio is 1 when the gradient is taken, with the variants of `lm::grpo`. Problems are drawn
//! without replacement, epoch after epoch.
//!
//! A run that was stopped goes on (`saver`). Between steps there is no rollout that is still to be learned from and no
//! policy but the one being trained; the reference is the input model. Within a step, rollouts that are finished are kept.

mod update;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tch::Kind;

use self::update::{Item, Objective, Update, update};
use super::sampling::{Rollout, sample_solutions};
use super::saver::{Saver, is_stop};
use super::train_state::TrainState;
use super::training::{Order, TrainingParams};
use crate::formats::{MetricsLine, Problem, Sample, read_jsonl, write_jsonl};
use crate::lm::generate::Options;
use crate::lm::grpo::{LossSettings, LossType, ScaleRewards, advantages};
use crate::lm::learner::Learner;
use crate::lm::sampler::Sampling;
use crate::lm::{self, CausalLm, Tokenizer};
use crate::worker::Job;

/// What GRPO adds to [`TrainingParams`]; names are TRL's where it has them.
#[derive(Debug, Clone, Deserialize)]
struct Params {
    /// Rollouts of one prompt: the group.
    num_generations: usize,
    prompts_per_step: usize,
    /// In tokens; a longer rollout is truncated and counts as wrong.
    max_completion_length: usize,
    temperature: f64,
    top_p: f64,
    /// Weight of the KL term towards the starting model; 0 leaves that model out altogether.
    beta: f64,
    epsilon: f64,
    epsilon_high: f64,
    loss_type: LossType,
    scale_rewards: ScaleRewards,
    /// Leaves truncated rollouts out of the loss (not out of the advantages).
    mask_truncated_completions: bool,
    reward: Reward,
    /// Rows generated at once.
    generation_batch_size: usize,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reward {
    correct: f64,
    wrong: f64,
}

/// Everything that stays the same over the steps.
struct Trainer<'a> {
    job: &'a Job,
    params: Params,
    training: TrainingParams,
    tokenizer: Tokenizer,
    reference: Option<CausalLm>,
    problems: Vec<Problem>,
}

/// Reads `model` and `problems`, writes `model`, `metrics` and `samples` (the rollouts of the last step).
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let training: TrainingParams = job.params()?;
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
    let model = lm::load(&model_dir, device, Kind::Float)?;
    let saver = training.saver(job, device)?;
    let trainer = Trainer {
        job,
        tokenizer: Tokenizer::load(&model_dir)?,
        reference: (params.beta != 0.0)
            .then(|| lm::load(&model_dir, device, Kind::Float))
            .transpose()?,
        params,
        training,
        problems,
    };
    let state = trainer.train(&model, saver)?;
    lm::save(state.training.learner.model(), &job.output("model")?, &model_dir)?;
    write_jsonl(&job.output("metrics")?, state.training.metrics)?;
    write_jsonl(&job.output("samples")?, state.samples)?;
    Ok(())
}

/// GRPO between two steps.
struct State {
    training: TrainState,
    /// The rollouts of the last step.
    samples: Vec<Sample>,
}

impl State {
    fn write(&self, folder: &Path) -> Result<()> {
        self.training.write(folder)?;
        Ok(write_jsonl(&folder.join("samples.jsonl"), &self.samples)?)
    }

    fn read(self, folder: &Path, step: usize) -> Result<Self> {
        Ok(Self {
            training: self.training.read(folder, step)?,
            samples: read_jsonl(&folder.join("samples.jsonl"), "sample")?,
        })
    }
}

impl Trainer<'_> {
    fn train(&self, model: &CausalLm, mut saver: Saver<'_>) -> Result<State> {
        let num_steps = self.training.max_steps;
        let schedule = self.training.schedule(num_steps);
        let begin = |num_threads| {
            let order = Order::new(self.problems.len(), self.training.seed);
            let learner = self.training.learner(model, num_threads);
            State {
                training: TrainState::new(learner, order, self.params.prompts_per_step),
                samples: Vec::new(),
            }
        };
        let mut state = saver
            .resume(|folder, step, num_threads| begin(num_threads).read(folder, step))
            .unwrap_or_else(|| begin(saver.num_threads()));
        state.training.report(self.job, |_| true);
        self.job.progress(saver.step(), num_steps, "step", "");
        for step_idx in saver.step()..num_steps {
            let line = match self.step(&mut state, &mut saver, step_idx, schedule.learning_rate(step_idx)) {
                Err(error) if is_stop(&error) => return Err(saver.stopped(|folder| state.write(folder))),
                line => line.with_context(|| format!("step {}", step_idx + 1))?,
            };
            self.job.progress(
                step_idx + 1,
                num_steps,
                "step",
                &format!(
                    "reward {:+.3}, {:.0} tokens",
                    line.values["reward"], line.values["completion_length"]
                ),
            );
            state.training.metrics.push(line);
            state.training.report(self.job, |_| true);
            saver.step_done(step_idx + 1, num_steps, |folder| state.write(folder))?;
        }
        saver.finish();
        Ok(state)
    }

    /// Rolls out, judges and learns: one optimizer step.
    fn step(
        &self,
        state: &mut State,
        saver: &mut Saver<'_>,
        step_idx: usize,
        learning_rate: f64,
    ) -> Result<MetricsLine> {
        let TrainState { learner, order, .. } = &mut state.training;
        let prompts: Vec<&Problem> = (0..self.params.prompts_per_step)
            .map(|_| &self.problems[order.next()])
            .collect();
        let groups = self.roll_out(learner.model(), &prompts, step_idx, saver)?;
        let rewards: Vec<Vec<f64>> = groups
            .iter()
            .map(|group| group.iter().map(|rollout| self.reward(rollout)).collect())
            .collect();
        let advantages = advantages(&rewards, self.params.scale_rewards);
        let update = self.update(learner, &groups, &advantages, learning_rate)?;
        let line = describe(step_idx + 1, &groups, &rewards, &update, learning_rate);
        state.samples = groups.into_iter().flatten().map(|rollout| rollout.sample).collect();
        Ok(line)
    }

    fn roll_out(
        &self,
        model: &CausalLm,
        prompts: &[&Problem],
        step_idx: usize,
        saver: &mut Saver<'_>,
    ) -> Result<Vec<Vec<Rollout>>> {
        let options = Options {
            max_new_tokens: self.params.max_completion_length,
            sampling: Sampling {
                temperature: self.params.temperature,
                top_k: 0,
                top_p: self.params.top_p,
                ..Sampling::PLAIN
            },
            eos_token_ids: self.tokenizer.eos_token_ids.clone(),
            stop: Vec::new(),
            max_batch_size: self.params.generation_batch_size,
            num_threads: saver.num_threads(),
            cache_memory: None,
        };
        let purpose = format!("rollouts of step {step_idx}");
        let seed = (self.training.seed, purpose.as_str());
        sample_solutions(
            model,
            &self.tokenizer,
            prompts,
            self.params.num_generations,
            &options,
            seed,
            &mut saver.follow(step_idx as u64, |_, _| ()),
        )
    }

    fn reward(&self, rollout: &Rollout) -> f64 {
        if rollout.sample.correct {
            self.params.reward.correct
        } else {
            self.params.reward.wrong
        }
    }

    /// Takes one optimizer step on all rollouts of the groups.
    fn update(
        &self,
        learner: &mut Learner,
        groups: &[Vec<Rollout>],
        advantages: &[f64],
        learning_rate: f64,
    ) -> Result<Update> {
        let items = groups
            .iter()
            .flatten()
            .zip(advantages)
            .map(|(rollout, &advantage)| {
                let masked = self.params.mask_truncated_completions && rollout.sample.truncated;
                Item::new(&self.tokenizer, rollout, advantage, masked)
            })
            .collect::<Result<Vec<_>>>()?;
        let objective = Objective {
            temperature: self.params.temperature,
            settings: LossSettings {
                loss_type: self.params.loss_type,
                epsilon: self.params.epsilon,
                epsilon_high: self.params.epsilon_high,
                beta: self.params.beta,
                max_completion_length: self.params.max_completion_length,
            },
        };
        let reference = self.reference.as_ref();
        Ok(update(
            learner,
            &objective,
            reference,
            &items,
            self.training.micro_batch_tokens,
            learning_rate,
        )?)
    }
}

fn describe(
    step: usize,
    groups: &[Vec<Rollout>],
    rewards: &[Vec<f64>],
    update: &Update,
    learning_rate: f64,
) -> MetricsLine {
    let count = groups.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    let mean = |value: &dyn Fn(&Rollout) -> f64| groups.iter().flatten().map(value).sum::<f64>() / count;
    let flat = rewards
        .iter()
        .filter(|group| group.windows(2).all(|pair| pair[0] == pair[1]))
        .count();
    let tokens = update.sums.num_tokens.max(1.0);
    MetricsLine {
        step,
        values: [
            ("reward".to_owned(), rewards.iter().flatten().sum::<f64>() / count),
            (
                "pass_rate".to_owned(),
                mean(&|rollout| f64::from(rollout.sample.correct)),
            ),
            (
                "completion_length".to_owned(),
                mean(&|rollout| rollout.sample.num_tokens as f64),
            ),
            (
                "backtracks".to_owned(),
                mean(&|rollout| rollout.sample.num_backtracks as f64),
            ),
            (
                "truncated".to_owned(),
                mean(&|rollout| f64::from(rollout.sample.truncated)),
            ),
            (
                "zero_variance_groups".to_owned(),
                flat as f64 / groups.len().max(1) as f64,
            ),
            ("entropy".to_owned(), update.neg_logprob / tokens),
            ("kl".to_owned(), update.sums.kl / tokens),
            ("loss".to_owned(), update.loss),
            ("grad_norm".to_owned(), update.grad_norm),
            ("learning_rate".to_owned(), learning_rate),
        ]
        .into(),
    }
}
