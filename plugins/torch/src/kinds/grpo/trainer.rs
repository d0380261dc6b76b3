//! The loop: roll out, judge, learn.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rand::Rng;

use super::Params;
use super::drawing::{Drawing, Filling};
use super::metrics::describe;
use super::round::{RolledOut, Round};
use crate::formats::{MetricsLine, Problem, Sample, read_json, write_json};
use crate::kinds::checkpoints::Checkpoints;
use crate::kinds::meter::Meter;
use crate::kinds::sampling::sample_solutions;
use crate::kinds::saver::{Saver, is_stop};
use crate::kinds::train_state::TrainState;
use crate::kinds::training::{Order, TrainingParams, warn_of_memory};
use crate::lm::generate::Options;
use crate::lm::grpo::{Group, Objective, Reference, Update, largest_joint, score_old, update};
use crate::lm::learner::Learner;
use crate::lm::sampler::Sampling;
use crate::lm::train::{AdapterDropout, Compute, fitting};
use crate::lm::{CausalLm, LmError, Tokenizer, lora};
use crate::random;
use crate::worker::Job;

/// Everything that stays the same over the steps.
pub struct Trainer<'a> {
    pub job: &'a Job,
    pub params: Params,
    pub training: TrainingParams,
    pub tokenizer: Tokenizer,
    pub policy: Policy,
    pub problems: Vec<Problem>,
}

/// The model in training, in f32, and what belongs to it.
pub struct Policy {
    pub model: CausalLm,
    /// What it is compared with, where that is not the policy without its adapter.
    pub reference: Option<CausalLm>,
    pub lora_dropout: f64,
}

/// What training made.
pub struct Trained {
    pub training: TrainState,
    /// The rollouts of the last step.
    pub samples: Vec<Sample>,
}

/// GRPO between two steps.
struct State {
    training: TrainState,
    /// The rollouts of the last step, with tokens as long as steps will learn from them.
    round: Round,
    /// Lowered where memory runs out.
    micro_batch_tokens: usize,
}

impl State {
    fn write(&self, folder: &Path) -> Result<()> {
        self.training.write(folder)?;
        Ok(write_json(&folder.join("round.json"), &self.round)?)
    }

    /// `num_prompts` and `num_steps` are those of a round.
    fn read(self, folder: &Path, step: usize, num_prompts: usize, num_steps: usize) -> Result<Self> {
        let round: Round = read_json(&folder.join("round.json"), "round of rollouts")?;
        let num_groups = if step.is_multiple_of(num_steps) { 0 } else { num_prompts };
        ensure!(
            round.groups.len() == num_groups && round.samples.len() == num_prompts,
            "its round has {} prompts, {} of them to learn from, expected {num_prompts} and {num_groups}",
            round.samples.len(),
            round.groups.len()
        );
        ensure!(
            round.rewards.len() == num_prompts,
            "its round has rewards of {} prompts, expected {num_prompts}",
            round.rewards.len()
        );
        Ok(Self {
            training: self.training.read(folder, step)?,
            round,
            ..self
        })
    }
}

impl Trainer<'_> {
    /// Trains the policy in place, from where an earlier attempt stopped.
    ///
    /// # Errors
    /// A step fails, or the worker was asked to stop.
    pub fn train(&self, mut saver: Saver<'_>, checkpoints: &mut Checkpoints) -> Result<Trained> {
        let num_steps = self.training.max_steps;
        let schedule = self.training.schedule(num_steps);
        let begin_training = |num_threads| {
            let training = TrainState::new(
                self.training.learner(&self.policy.model, num_threads),
                Order::new(self.problems.len(), self.training.seed),
                self.prompts_per_round(),
            )
            .drawing_every(self.params.steps_per_round());
            match self.params.dynamic_sampling {
                true => training.drawing_at_least(),
                false => training,
            }
        };
        let begin = |num_threads| State {
            training: begin_training(num_threads),
            round: Round::default(),
            micro_batch_tokens: self.training.micro_batch_tokens,
        };
        checkpoints.stage_in(saver.kept());
        let mut state = saver
            .resume(|folder, step, num_threads| {
                checkpoints.recall(folder, step)?;
                let (num_prompts, num_steps) = (self.prompts_per_round(), self.params.steps_per_round());
                begin(num_threads).read(folder, step, num_prompts, num_steps)
            })
            .unwrap_or_else(|| begin(saver.num_threads()));
        state.training.report(self.job, |_| true);
        self.job.progress(saver.step(), num_steps, "step", "");
        let mut meter = Meter::new(self.job, &self.policy.model, self.training.peak_tflops);
        for step_idx in saver.step()..num_steps {
            let rate = schedule.learning_rate(step_idx);
            let line = match self.step(&mut state, &mut saver, &mut meter, step_idx, rate) {
                Err(error) if is_stop(&error) => {
                    return Err(saver.stopped(|folder| {
                        checkpoints.note(folder)?;
                        state.write(folder)
                    }));
                }
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
            let pushed = state.training.push(self.job, line);
            pushed.with_context(|| format!("step {}", step_idx + 1))?;
            state.training.report(self.job, |_| true);
            checkpoints.keep(step_idx + 1, &self.policy.model)?;
            saver.step_done(step_idx + 1, num_steps, |folder| {
                checkpoints.note(folder)?;
                state.write(folder)
            })?;
        }
        saver.finish();
        Ok(Trained {
            training: state.training,
            samples: state.round.samples.into_iter().flatten().collect(),
        })
    }

    fn prompts_per_round(&self) -> usize {
        self.params.prompts_per_step * self.params.steps_per_generation
    }

    /// Takes one optimizer step; the first of a round rolls out and judges before.
    fn step(
        &self,
        state: &mut State,
        saver: &mut Saver<'_>,
        meter: &mut Meter<'_>,
        step_idx: usize,
        learning_rate: f64,
    ) -> Result<MetricsLine> {
        let place = step_idx % self.params.steps_per_round();
        let mut fresh = match place {
            0 => Some(self.begin_round(state, saver, step_idx)?),
            _ => None,
        };
        let slice_idx = place % self.params.steps_per_generation;
        let slice = slice_idx * self.params.prompts_per_step..(slice_idx + 1) * self.params.prompts_per_step;
        let State {
            training,
            round,
            micro_batch_tokens,
        } = state;
        let groups = &mut fresh.as_mut().unwrap_or(round).groups[slice.clone()];
        // What was generated has a rate of its own.
        meter.go_on();
        let update = self.update(
            &mut training.learner,
            groups,
            micro_batch_tokens,
            step_idx,
            learning_rate,
        )?;
        meter.step_done(step_idx + 1, &self.objective(step_idx).lengths(groups));
        // Not before: what is saved when an update is given up is the state before it, which knows no new rollouts.
        if let Some(fresh) = fresh {
            *round = fresh;
        }
        if place + 1 == self.params.steps_per_round() {
            round.groups.clear();
        }
        Ok(describe(
            step_idx + 1,
            round,
            slice,
            &self.params,
            &update,
            learning_rate,
        ))
    }

    /// Rolls out and judges what the steps of a round learn from.
    fn begin_round(&self, state: &mut State, saver: &mut Saver<'_>, step_idx: usize) -> Result<Round> {
        let (prompts, drawing) = self.draw(&mut state.training, step_idx, saver)?;
        if drawing.num_fillers > 0 {
            self.job.warning(&format!(
                "step {}: {} of {} prompts have rollouts that are all right or all wrong; no others were found in {} draws \
                 (max_num_gen_batches)",
                step_idx + 1,
                drawing.num_fillers,
                self.prompts_per_round(),
                drawing.num_batches
            ));
        }
        let learner = &state.training.learner;
        let mut round = Round::new(&self.tokenizer, prompts, drawing, &self.params)?;
        self.job
            .progress(step_idx, self.training.max_steps, "step", "learns from its rollouts");
        let num_at_once = self.params.prompts_learned_at_once(self.policy.lora_dropout);
        if let Some(later) = round.groups.get_mut(num_at_once..) {
            let objective = self.objective(step_idx);
            self.fitting(later, &objective, &mut state.micro_batch_tokens, |groups, compute| {
                score_old(learner.model(), &objective, groups, compute)
            })?;
        }
        Ok(round)
    }

    /// Draws prompts and rolls them out, until there are enough.
    fn draw(
        &self,
        training: &mut TrainState,
        step_idx: usize,
        saver: &mut Saver<'_>,
    ) -> Result<(Vec<RolledOut<'_>>, Drawing)> {
        let mut filling = Filling::new(self.prompts_per_round());
        let began = Instant::now();
        let mut num_tokens = 0;
        while let Some(count) = filling.next_draw(self.params.max_num_gen_batches) {
            let order = &mut training.order;
            let prompts: Vec<&Problem> = (0..count).map(|_| &self.problems[order.next()]).collect();
            let batch_idx = filling.batch_idx();
            let rolled_out = self.roll_out(training.learner.model(), &prompts, step_idx, batch_idx, saver)?;
            let rollouts = rolled_out.iter().flat_map(|prompt| &prompt.rollouts);
            num_tokens += rollouts.map(|rollout| rollout.sample.num_tokens).sum::<usize>();
            filling.add(rolled_out.into_iter().map(|prompt| {
                let (num_rollouts, num_correct) = (prompt.rollouts.len(), prompt.num_correct());
                let is_kept = !self.params.dynamic_sampling || prompt.is_mixed();
                (prompt, num_rollouts, num_correct, is_kept)
            }));
        }
        let seconds = began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        self.job.metric(
            "generated_tokens_per_second",
            num_tokens as f64 / seconds,
            Some(step_idx + 1),
        );
        Ok(filling.finish())
    }

    fn roll_out<'p>(
        &self,
        model: &CausalLm,
        prompts: &[&'p Problem],
        step_idx: usize,
        batch_idx: usize,
        saver: &mut Saver<'_>,
    ) -> Result<Vec<RolledOut<'p>>> {
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
        // For many tokens, two more products beside a matrix cost more than adding them to it once.
        let merged = (!model.adapter_parameters().is_empty()).then(|| lora::merge(model));
        let purpose = match batch_idx {
            0 => format!("rollouts of step {step_idx}"),
            _ => format!("rollouts of step {step_idx}, draw {batch_idx}"),
        };
        // What is recalled must be of the same step and draw.
        let call = ((step_idx as u64) << 32) | batch_idx as u64;
        let seed = (self.training.seed, purpose.as_str());
        let rollouts = sample_solutions(
            merged.as_ref().unwrap_or(model),
            &self.tokenizer,
            prompts,
            self.params.num_generations,
            &options,
            seed,
            &mut saver.follow(call, |_, _| ()),
        )?;
        let prompts = prompts.iter().zip(rollouts);
        Ok(prompts
            .map(|(&problem, rollouts)| RolledOut { problem, rollouts })
            .collect())
    }

    /// Takes one optimizer step on all rollouts of the groups.
    fn update(
        &self,
        learner: &mut Learner,
        groups: &mut [Group],
        micro_batch_tokens: &mut usize,
        step_idx: usize,
        learning_rate: f64,
    ) -> Result<Update, LmError> {
        let objective = self.objective(step_idx);
        self.fitting(groups, &objective, micro_batch_tokens, |groups, compute| {
            update(learner, &objective, self.reference(), groups, compute, learning_rate)
        })
    }

    /// Does `work` on groups with as many tokens at once as fit into memory.
    fn fitting<R>(
        &self,
        groups: &mut [Group],
        objective: &Objective,
        micro_batch_tokens: &mut usize,
        mut work: impl FnMut(&mut [Group], &Compute) -> Result<R, LmError>,
    ) -> Result<R, LmError> {
        let length = |group: &Group| {
            let completions = group.completions.iter().map(|it| it.ids.len());
            group.prompt.len() + completions.max().unwrap_or(0)
        };
        let longest = groups.iter().map(length).max().unwrap_or(0);
        // A failed attempt may have noted log-probabilities, but cuts nothing and adds nothing.
        let cut = groups.to_vec();
        fitting(
            micro_batch_tokens,
            longest,
            |tokens| largest_joint(&cut, objective, tokens),
            |tokens| warn_of_memory(self.job, tokens),
            |tokens| work(groups, &self.compute(tokens)),
        )
    }

    fn compute(&self, micro_batch_tokens: usize) -> Compute {
        Compute {
            micro_batch_tokens,
            ..self.training.compute()
        }
    }

    fn objective(&self, step_idx: usize) -> Objective {
        let seed = random::stream(self.training.seed, "lora dropout", step_idx as u64).random();
        Objective {
            temperature: self.params.temperature,
            settings: self.params.loss_settings(),
            dropout: AdapterDropout {
                probability: self.policy.lora_dropout,
                seed,
            },
            log_kl: self.params.log_kl,
        }
    }

    fn reference(&self) -> Option<Reference<'_>> {
        self.params.has_reference().then_some(match &self.policy.reference {
            Some(model) => Reference::Model(model),
            None => Reference::WithoutAdapters,
        })
    }
}
