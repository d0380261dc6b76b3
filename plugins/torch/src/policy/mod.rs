//! A policy: what is asked for answers, be it a model of ours or a server of somebody else's.
//!
//! Text in, completions out. A `model` artifact is a Hugging Face folder, or a folder with `endpoint.json` that says where
//! the model is served; [`open`] makes a policy of either, so that a stage that only generates takes both.

pub mod endpoint;
mod local;

use std::path::Path;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tch::Device;

pub use crate::lm::generate::Finish;
use crate::lm::sampler::Sampling;
pub use endpoint::{ENDPOINT_FILE, Endpoint, EndpointConfig, Limits};
pub use local::LocalPolicy;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The user's message.
    pub prompt: String,
    /// How the answer begins; the completions go on from here.
    pub partial: String,
    /// One completion for each: what is drawn depends on the seed, as far as the policy can promise that.
    pub seeds: Vec<u64>,
}

/// How completions are sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    /// Texts that end a completion. The text up to one is kept; the stop itself may be.
    pub stop: Vec<String>,
}

/// An answer, or the rest of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completion {
    /// Without special tokens.
    pub text: String,
    /// With the end token where one ended it.
    pub num_tokens: usize,
    /// Natural log-probability of the whole, summed over its tokens; none where a server does not tell.
    pub sum_logprob: Option<f64>,
    pub finish: Finish,
}

/// Who follows a call: is told how far it is, and may keep what is finished.
pub trait Follower {
    /// Returns the completions of a request where they are known from before.
    fn recall(&mut self, request_idx: usize) -> Option<Vec<Completion>>;

    /// Gets finished requests: their indices and their completions.
    fn finished(&mut self, requests: &[usize], completions: &[Vec<Completion>]);

    /// Is told how many completions are done and how many tokens there are.
    fn progress(&mut self, num_done: usize, num_tokens: usize);
}

/// Tokens that a server counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl Usage {
    /// Adds what another call took; a server's numbers can be any.
    pub fn add(&mut self, more: Self) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(more.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(more.completion_tokens);
    }
}

/// How much of the prompts was computed, and how much was found in what had been computed before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Tokens of the prompts, counted for every completion.
    pub prompt_tokens: u64,
    /// Those that were computed.
    pub computed_tokens: u64,
}

impl Reuse {
    /// Returns the share of the prompt tokens that were not computed, in [0, 1].
    pub fn share(self) -> f64 {
        1.0 - (self.computed_tokens as f64 / self.prompt_tokens.max(1) as f64).min(1.0)
    }
}

/// What answers.
pub trait Policy {
    /// Returns the completions of all requests, in their order.
    ///
    /// # Errors
    /// The policy's own, or the worker was asked to stop (`LmError::Stopped`); `follower` has what was finished.
    fn complete(
        &mut self,
        requests: &[Request],
        options: &Options,
        follower: &mut dyn Follower,
    ) -> Result<Vec<Vec<Completion>>>;

    /// Returns what a server counted so far; a model of ours counts nothing.
    fn usage(&self) -> Option<Usage> {
        None
    }

    /// Returns how much a model of ours computed of its prompts; of a server's nobody knows.
    fn reuse(&self) -> Option<Reuse> {
        None
    }
}

/// What a policy may use.
#[derive(Debug, Clone)]
pub struct Means {
    pub device: Device,
    /// Whether a local model is loaded and computed in bfloat16 instead of float32.
    pub bf16: bool,
    pub num_threads: usize,
    /// Completions of a local model that grow at once.
    pub generation_batch_size: usize,
    pub limits: Limits,
}

/// Opens the policy of a `model` artifact.
///
/// # Errors
/// The folder is neither a model nor an endpoint, or is not usable as such.
pub fn open(dir: &Path, means: &Means) -> Result<Box<dyn Policy>> {
    if is_endpoint(dir) {
        return Ok(Box::new(Endpoint::open(dir, means.limits)?));
    }
    Ok(Box::new(LocalPolicy::open(dir, means)?))
}

/// Refuses an endpoint where a stage needs weights.
///
/// # Errors
/// The folder is an endpoint.
pub fn require_weights(dir: &Path) -> Result<()> {
    if is_endpoint(dir) {
        bail!(
            "the model is served elsewhere (lm.endpoint), so its weights can't be trained; give this stage the output of \
             lm.load, lm.pretrain or a training stage"
        );
    }
    Ok(())
}

fn is_endpoint(dir: &Path) -> bool {
    dir.join(ENDPOINT_FILE).exists()
}
