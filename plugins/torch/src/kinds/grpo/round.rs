//! Rollouts on their way through the steps that learn from them.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Params;
use crate::formats::Sample;
use crate::kinds::sampling::Rollout;
use crate::lm::Tokenizer;
use crate::lm::grpo::{Completion, Group, advantages};

/// The judged rollouts of one generation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Of each prompt.
    pub samples: Vec<Vec<Sample>>,
    /// The same as token ids, with advantages.
    pub groups: Vec<Group>,
}

impl Round {
    /// Judges rollouts, one list for each prompt.
    ///
    /// # Errors
    /// A prompt can't be tokenized.
    pub fn new(tokenizer: &Tokenizer, rollouts: Vec<Vec<Rollout>>, params: &Params) -> Result<Self> {
        let rewards: Vec<Vec<f64>> = rollouts
            .iter()
            .map(|group| group.iter().map(|rollout| params.reward(&rollout.sample)).collect())
            .collect();
        let mut advantages = advantages(&rewards, params.scale_rewards).into_iter();
        let mut round = Self::default();
        for group in rollouts {
            let prompt = match group.first() {
                Some(rollout) => tokenizer.encode_prompt(&rollout.sample.prompt)?,
                None => Vec::new(),
            };
            let (mut samples, mut completions) = (Vec::new(), Vec::new());
            for (rollout, advantage) in group.into_iter().zip(&mut advantages) {
                let is_masked = params.mask_truncated_completions && rollout.sample.truncated;
                completions.push(Completion::new(rollout.completion.ids, advantage, is_masked));
                samples.push(rollout.sample);
            }
            round.groups.push(Group { prompt, completions });
            round.samples.push(samples);
        }
        Ok(round)
    }
}

impl Params {
    pub fn reward(&self, sample: &Sample) -> f64 {
        if sample.correct {
            self.reward.correct
        } else {
            self.reward.wrong
        }
    }
}
