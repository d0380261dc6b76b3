//! Rollouts on their way through the steps that learn from them.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Params;
use super::drawing::Drawing;
use super::reward::Reward;
use crate::formats::{Problem, Sample};
use crate::kinds::sampling::Rollout;
use crate::lm::Tokenizer;
use crate::lm::grpo::{Completion, Group, advantages};

/// The rollouts of one prompt.
pub struct RolledOut<'a> {
    pub problem: &'a Problem,
    pub rollouts: Vec<Rollout>,
}

impl RolledOut<'_> {
    pub fn num_correct(&self) -> usize {
        self.rollouts.iter().filter(|rollout| rollout.sample.correct).count()
    }

    /// Whether some are right and some are wrong.
    pub fn is_mixed(&self) -> bool {
        (1..self.rollouts.len()).contains(&self.num_correct())
    }
}

/// The judged rollouts of one generation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Of each prompt.
    pub samples: Vec<Vec<Sample>>,
    /// The same in numbers.
    pub rewards: Vec<Vec<Reward>>,
    /// The same as token ids, with advantages.
    pub groups: Vec<Group>,
    pub drawing: Drawing,
}

impl Round {
    /// Rewards rollouts.
    ///
    /// # Errors
    /// A prompt can't be tokenized.
    pub fn new(tokenizer: &Tokenizer, prompts: Vec<RolledOut<'_>>, drawing: Drawing, params: &Params) -> Result<Self> {
        let rewarding = params.rewarding();
        let rewards: Vec<Vec<Reward>> = prompts
            .iter()
            .map(|RolledOut { problem, rollouts }| {
                let samples = rollouts.iter().map(|rollout| &rollout.sample);
                samples.map(|sample| rewarding.of(sample, problem.verifier)).collect()
            })
            .collect();
        let totals: Vec<Vec<f64>> = rewards
            .iter()
            .map(|group| group.iter().map(Reward::total).collect())
            .collect();
        let mut advantages = advantages(&totals, params.scale_rewards).into_iter();
        let mut round = Self {
            rewards,
            drawing,
            ..Self::default()
        };
        for RolledOut { problem, rollouts } in prompts {
            let (mut samples, mut completions) = (Vec::new(), Vec::new());
            for (rollout, advantage) in rollouts.into_iter().zip(&mut advantages) {
                let is_masked = params.mask_truncated_completions && rollout.sample.truncated;
                completions.push(Completion::new(rollout.completion.ids, advantage, is_masked));
                samples.push(rollout.sample);
            }
            round.groups.push(Group {
                prompt: tokenizer.encode_prompt(&problem.problem)?,
                completions,
            });
            round.samples.push(samples);
        }
        Ok(round)
    }
}
