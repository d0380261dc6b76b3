//! The state of one sequence: its tokens, how far they are computed, and the completions that grow at its end.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::backend::{Draw, Drawn, PAGE_SIZE, PageId};
use super::stops::{Stops, Watch};
use super::{Completion, Finish};
use crate::lm::sampler::Sampling;

/// Tokens that are being computed, or wait for it.
#[derive(Debug)]
pub struct Sequence {
    /// The prompt, and the completion as far as it is drawn.
    pub ids: Vec<i64>,
    pub prompt_len: usize,
    /// Tokens whose keys and values lie in the pages.
    pub num_computed: usize,
    /// Empty while the sequence waits.
    pub pages: Vec<PageId>,
    /// Pages, the first so many, that others can find.
    pub num_known_pages: usize,
    /// The completions that begin here: several until the prompt is computed, then each gets a sequence of its own.
    pub branches: Vec<Branch>,
}

/// A completion that is not finished.
#[derive(Debug)]
pub struct Branch {
    pub prompt_idx: usize,
    pub sample_idx: usize,
    /// At least 1.
    pub max_new_tokens: usize,
    rng: ChaCha8Rng,
    logprobs: Vec<f32>,
    watch: Watch,
}

impl Sequence {
    /// Returns a prompt from which `branches` grow.
    pub fn new(ids: &[i64], branches: Vec<Branch>) -> Self {
        Self {
            ids: ids.to_vec(),
            prompt_len: ids.len(),
            num_computed: 0,
            pages: Vec::new(),
            num_known_pages: 0,
            branches,
        }
    }

    /// Tokens that are still to be computed before the next one can be drawn.
    pub fn num_missing(&self) -> usize {
        self.ids.len() - self.num_computed
    }

    /// Tokens at the end of which the sequence's work is done, at most.
    pub fn expected_len(&self) -> usize {
        let longest = self.branches.iter().map(|branch| branch.max_new_tokens).max();
        self.prompt_len + longest.unwrap_or(0)
    }

    /// Returns the tokens of full page `page_idx`.
    pub fn tokens_of_page(&self, page_idx: usize) -> &[i64; PAGE_SIZE] {
        &self.ids.as_chunks().0[page_idx]
    }

    /// Returns whether the first pages of both, `num_pages` of them, hold the same tokens.
    pub fn shares_pages(&self, other: &Self, num_pages: usize) -> bool {
        let num_tokens = num_pages * PAGE_SIZE;
        matches!((self.ids.get(..num_tokens), other.ids.get(..num_tokens)), (Some(a), Some(b)) if a == b)
    }

    /// Splits a sequence, given one token for each branch, into a sequence without pages for each of them that goes on,
    /// and the completions that are finished.
    pub fn split(self, drawn: &[Drawn], stops: &Stops<'_>) -> (Vec<Self>, Vec<(Branch, Completion)>) {
        let (mut going_on, mut finished) = (Vec::new(), Vec::new());
        let Self {
            ids,
            prompt_len,
            branches,
            ..
        } = self;
        let lists = std::iter::repeat_n(ids, branches.len());
        for ((mut branch, mut ids), drawn) in branches.into_iter().zip(lists).zip(drawn) {
            ids.push(drawn.id);
            branch.logprobs.push(drawn.logprob);
            let completion = &ids[prompt_len..];
            let is_full = completion.len() >= branch.max_new_tokens;
            let finish = branch
                .watch
                .finish(completion, stops)
                .or(is_full.then_some(Finish::Length));
            if let Some(finish) = finish {
                let completion = Completion {
                    ids: completion.to_vec(),
                    logprobs: std::mem::take(&mut branch.logprobs),
                    finish,
                };
                finished.push((branch, completion));
            } else {
                going_on.push(Self {
                    ids,
                    prompt_len,
                    num_computed: 0,
                    pages: Vec::new(),
                    num_known_pages: 0,
                    branches: vec![branch],
                });
            }
        }
        (going_on, finished)
    }
}

impl Branch {
    /// Returns the completion `sample_idx` of prompt `prompt_idx` before its first token.
    pub fn new(prompt_idx: usize, sample_idx: usize, seed: u64, max_new_tokens: usize) -> Self {
        Self {
            prompt_idx,
            sample_idx,
            max_new_tokens,
            rng: ChaCha8Rng::seed_from_u64(seed),
            logprobs: Vec::new(),
            watch: Watch::default(),
        }
    }
}

/// Returns how the next token of each branch is drawn after `ids`, from the branch's own random numbers.
pub fn draws<'a>(branches: &mut [Branch], ids: &'a [i64], sampling: Sampling) -> Vec<Draw<'a>> {
    let seen: &[i64] = if sampling.repetition_penalty == 1.0 { &[] } else { ids };
    let draw = |branch: &mut Branch| Draw {
        sampling,
        uniform: branch.rng.random(),
        seen,
    };
    branches.iter_mut().map(draw).collect()
}
