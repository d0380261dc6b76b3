//! Generation of completions: continuous batching over a paged cache of keys and values.
//!
//! The [`engine`] decides what is computed when and where it lies, a [`backend`] computes it. What a request gives depends
//! on its tokens and seeds alone, up to the rounding of the backend: neither on what runs beside it nor on what is in the
//! cache. So a generation that was interrupted can go on request by request.

pub mod backend;
mod engine;
mod memory;
mod pages;
mod sequence;
mod stops;
#[cfg(test)]
mod tests;
mod torch;

use serde::{Deserialize, Serialize};
use tch::Device;

use self::backend::Backend;
use self::engine::{Engine, Rules};
pub use self::engine::{Progress, Prompt};
use self::stops::Stops;
use self::torch::TorchBackend;
use crate::lm::native::NativeBackend;
use crate::lm::sampler::Sampling;
use crate::lm::{CausalLm, LmError, Tokenizer};

/// Tokens of one step: enough to fill the device, few enough that completions do not wait long for a prompt.
const STEP_TOKENS_CPU: usize = 512;
const STEP_TOKENS_GPU: usize = 2048;

/// A prompt, and the random seeds of the completions wanted for it.
#[derive(Debug, Clone)]
pub struct Request {
    pub ids: Vec<i64>,
    /// One completion for each.
    pub seeds: Vec<u64>,
}

/// How to generate.
#[derive(Debug, Clone)]
pub struct Options {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    /// Token ids that end a completion (and are part of it).
    pub eos_token_ids: Vec<i64>,
    /// Texts that end a completion; what was generated up to and with them is kept.
    pub stop: Vec<String>,
    /// Completions that grow at once, at most.
    pub max_batch_size: usize,
    pub num_threads: usize,
    /// Bytes that keys and values may take; by default half of what the device has left. They are taken as needed.
    pub cache_memory: Option<usize>,
}

/// A generated continuation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Without the prompt; with the end token where one ended it.
    pub ids: Vec<i64>,
    /// Natural log-probability of each token in the distribution it was sampled from.
    pub logprobs: Vec<f32>,
    pub finish: Finish,
}

impl Completion {
    /// What there is where no token may be generated.
    fn empty() -> Self {
        Self {
            ids: Vec::new(),
            logprobs: Vec::new(),
            finish: Finish::Length,
        }
    }
}

/// What ended a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    Eos,
    Stop,
    /// `max_new_tokens`, or the model's context.
    Length,
}

/// Who follows a generation: is told how far it is, and may keep what is finished.
pub trait Follower {
    /// Returns the completions of a request where they are known from before.
    fn recall(&mut self, _request_idx: usize) -> Option<Vec<Completion>> {
        None
    }

    /// Gets the requests that were finished at the same time: their indices and their completions.
    fn finished(&mut self, _requests: &[usize], _completions: &[Vec<Completion>]) {}

    /// Is told after every step how many completions are done, and how many tokens there are, those of completions that are
    /// not done among them.
    fn progress(&mut self, num_done: usize, num_tokens: usize);
}

/// A function follows the progress and keeps nothing.
impl<F: FnMut(usize, usize)> Follower for F {
    fn progress(&mut self, num_done: usize, num_tokens: usize) {
        self(num_done, num_tokens);
    }
}

/// Generates the completions of all requests, in their order.
///
/// # Errors
/// A request has no tokens or foreign ones, `cache_memory` is too small for one sequence, or the worker was asked to stop;
/// `follower` has what was finished.
pub fn generate(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    requests: &[Request],
    options: &Options,
    follower: &mut impl Follower,
) -> Result<Vec<Vec<Completion>>, LmError> {
    Generator::new(model, options.num_threads, options.cache_memory)?.generate(tokenizer, requests, options, follower)
}

/// Returns what computes a model for the engine.
///
/// # Errors
/// The backend can't be made.
pub fn backend_for(model: &CausalLm, num_threads: usize) -> Result<Box<dyn Backend>, LmError> {
    if let Some(native) = NativeBackend::new(model, num_threads)? {
        return Ok(Box::new(native));
    }
    Ok(Box::new(TorchBackend::new(model.share(), num_threads)))
}

/// A model with a cache that outlives a call: prompts that begin like earlier ones begin with what was computed then.
pub struct Generator {
    engine: Engine,
    vocab_size: i64,
    context: usize,
}

impl Generator {
    /// Returns a generator of a model whose weights do not change, or whose changes [`Generator::forget`] is told of.
    ///
    /// # Errors
    /// As [`backend_for`].
    pub fn new(model: &CausalLm, num_threads: usize, cache_memory: Option<usize>) -> Result<Self, LmError> {
        let device = model.device();
        let step_tokens = if device == Device::Cpu {
            STEP_TOKENS_CPU
        } else {
            STEP_TOKENS_GPU
        };
        let cache_memory = cache_memory.unwrap_or_else(|| memory::default_for_cache(device));
        Ok(Self {
            engine: Engine::new(backend_for(model, num_threads)?, cache_memory, step_tokens),
            vocab_size: model.config.vocab_size,
            context: usize::try_from(model.config.max_position_embeddings).unwrap_or(0),
        })
    }

    /// Forgets what was computed: the weights have changed.
    pub fn forget(&mut self) {
        self.engine.forget();
    }

    /// Returns the tokens of all prompts so far, counted for every completion, and how many of them were computed: what
    /// completions of one prompt share, and what an earlier one began with, is computed once.
    pub fn prompt_tokens(&self) -> (u64, u64) {
        self.engine.prompt_tokens
    }

    /// Generates the completions of all requests, in their order. Of the options, `num_threads` and `cache_memory` are
    /// those that the generator was made with.
    ///
    /// # Errors
    /// As [`generate`].
    pub fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        requests: &[Request],
        options: &Options,
        follower: &mut impl Follower,
    ) -> Result<Vec<Vec<Completion>>, LmError> {
        let mut done = Done::recalled(requests, follower);
        let missing: Vec<usize> = (0..requests.len()).filter(|&idx| done.lists[idx].is_none()).collect();
        let prompts: Vec<Prompt<'_>> = missing
            .iter()
            .map(|&idx| Prompt {
                ids: &requests[idx].ids,
                seeds: &requests[idx].seeds,
                max_new_tokens: options.max_new_tokens,
            })
            .collect();
        self.run(tokenizer, &prompts, options, &mut |progress| {
            if !progress.finished.is_empty() {
                let (indices, lists): (Vec<usize>, Vec<_>) = (progress.finished.into_iter())
                    .map(|(prompt_idx, list)| (missing[prompt_idx], list))
                    .unzip();
                follower.finished(&indices, &lists);
                for (idx, list) in indices.into_iter().zip(lists) {
                    done.lists[idx] = Some(list);
                }
            }
            done.num_completions += progress.num_completions;
            done.num_tokens += progress.tokens.len();
            follower.progress(done.num_completions, done.num_tokens);
        })?;
        Ok(done.all())
    }

    /// Continues prompts that have limits of their own, which take the place of `options.max_new_tokens`, and tells
    /// `report` of every step. Only stop texts need a tokenizer.
    ///
    /// # Errors
    /// As [`generate`], or there are stop texts and no tokenizer; `report` got what was finished.
    pub fn run<'a>(
        &mut self,
        tokenizer: impl Into<Option<&'a Tokenizer>>,
        prompts: &[Prompt<'_>],
        options: &Options,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), LmError> {
        for (idx, prompt) in prompts.iter().enumerate() {
            self.check(prompt)
                .map_err(|message| LmError::Generation(format!("prompt {}: {message}", idx + 1)))?;
        }
        let tokenizer = tokenizer.into();
        if tokenizer.is_none() && !options.stop.is_empty() {
            return Err(LmError::Generation("stop texts need a tokenizer".to_owned()));
        }
        let decode = |ids: &[i64]| tokenizer?.decode(ids, true).ok();
        let rules = Rules {
            sampling: options.sampling,
            stops: Stops::new(&options.eos_token_ids, &options.stop, &decode),
            max_batch_size: options.max_batch_size,
            context: self.context,
        };
        self.engine.run(prompts, &rules, report)
    }

    fn check(&self, prompt: &Prompt<'_>) -> Result<(), String> {
        if prompt.ids.is_empty() {
            return Err("it has no tokens".to_owned());
        }
        match prompt.ids.iter().find(|id| !(0..self.vocab_size).contains(id)) {
            Some(id) => Err(format!("token id {id} is not in 0..{}", self.vocab_size)),
            None => Ok(()),
        }
    }
}

/// The completions that there are, of each request.
struct Done {
    lists: Vec<Option<Vec<Completion>>>,
    num_completions: usize,
    num_tokens: usize,
}

impl Done {
    /// What is known from before, and that there is nothing to do where nothing is asked for.
    fn recalled(requests: &[Request], follower: &mut impl Follower) -> Self {
        let mut done = Self {
            lists: Vec::with_capacity(requests.len()),
            num_completions: 0,
            num_tokens: 0,
        };
        for (idx, request) in requests.iter().enumerate() {
            let list = if request.seeds.is_empty() {
                Some(Vec::new())
            } else {
                follower.recall(idx).filter(|list| list.len() == request.seeds.len())
            };
            for completion in list.iter().flatten() {
                done.num_completions += 1;
                done.num_tokens += completion.ids.len();
            }
            done.lists.push(list);
        }
        // Where a generation goes on, the rate must come from new work: this is where it begins.
        follower.progress(done.num_completions, done.num_tokens);
        done
    }

    fn all(self) -> Vec<Vec<Completion>> {
        self.lists
            .into_iter()
            .map(|list| list.expect("a run that ends well has finished every request"))
            .collect()
    }
}
