//! The loop of a generation: which sequences run, which of their tokens are computed next, and where these lie.
//!
//! Sequences join and leave the running batch at every step. A step computes the next token of each sequence that has
//! its prompt behind it, and chunks of prompts up to a budget, so that a long prompt does not hold up the others. Those
//! that expect most tokens, prompt and completion together, begin first: what is long and begins last runs alone at the
//! end, while short ones fill the places that fall free (the rule of longest processing time, Graham 1969). A prompt whose
//! next page is just being computed for another one waits for that page.
//!
//! When the pages run out, the youngest sequence gives its pages back and is computed again when another one is done. A
//! sequence draws from random numbers of its own, so its tokens do not depend on any of this.

use std::collections::{HashMap, VecDeque};

use super::Completion;
use super::backend::{Backend, Chunk, Drawn, PAGE_SIZE, PageId};
use super::pages::{Pages, pages_for};
use super::sequence::{Branch, Sequence, draws};
use super::stops::Stops;
use crate::lm::sampler::Sampling;
use crate::lm::{LmError, device};
use crate::stop;

/// Sequences that wait are looked at up to so many beyond those that can't join yet.
const LOOKAHEAD: usize = 64;

/// Pages that are asked for at once, at least.
const GROWTH: usize = 64;

/// Up to this share of the limit, what was computed is kept rather than given away.
const KEPT_SHARE: usize = 8;

/// A prompt and the completions wanted for it.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// At least one token.
    pub ids: &'a [i64],
    /// One completion for each.
    pub seeds: &'a [u64],
    pub max_new_tokens: usize,
}

/// How the prompts of one run are continued.
pub struct Rules<'a> {
    pub sampling: Sampling,
    pub stops: Stops<'a>,
    /// Completions that grow at once, at most.
    pub max_batch_size: usize,
    /// Tokens that the model can look back on; completions end there.
    pub context: usize,
}

/// What a step has brought.
#[derive(Debug, Default)]
pub struct Progress {
    /// Tokens that were drawn, of any completion.
    pub tokens: Vec<Token>,
    /// Completions that were finished.
    pub num_completions: usize,
    /// Prompts whose completions are all finished now, and these.
    pub finished: Vec<(usize, Vec<Completion>)>,
}

/// A drawn token, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub prompt_idx: usize,
    pub sample_idx: usize,
    pub id: i64,
}

/// A backend with its pages, which are kept from one run to the next.
pub struct Engine {
    backend: Box<dyn Backend>,
    pages: Pages,
    max_pages: usize,
    /// Tokens of a step.
    step_tokens: usize,
    /// Tokens that one call of the backend computes, at most: lowered where memory runs out.
    call_tokens: usize,
    /// Tokens of prompts so far, counted for every completion, and those that were computed.
    pub prompt_tokens: (u64, u64),
}

impl Engine {
    /// Returns an engine that keeps keys and values in `cache_memory` bytes and computes about `step_tokens` tokens at once.
    pub fn new(backend: Box<dyn Backend>, cache_memory: usize, step_tokens: usize) -> Self {
        let max_pages = cache_memory / backend.page_bytes().max(1);
        Self {
            backend,
            pages: Pages::default(),
            max_pages: max_pages.min(PageId::MAX as usize),
            step_tokens: step_tokens.max(1),
            call_tokens: usize::MAX,
            prompt_tokens: (0, 0),
        }
    }

    /// Forgets what was computed: the weights have changed.
    pub fn forget(&mut self) {
        self.pages.forget();
    }

    /// Continues all prompts and tells `report` of every step.
    ///
    /// # Errors
    /// A sequence by itself needs more memory than there is, the backend fails, or the worker was asked to stop. What
    /// was finished before has been reported.
    pub fn run(
        &mut self,
        prompts: &[Prompt<'_>],
        rules: &Rules<'_>,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), LmError> {
        let mut run = Run::new(self, prompts, rules);
        let result = run.complete(report);
        run.give_all_back();
        result
    }

    /// Takes a page: a free one, a new one, or the one that was given back longest ago.
    fn take_page(&mut self) -> Option<PageId> {
        if let Some(page) = self.pages.take_free() {
            return Some(page);
        }
        // What nobody holds is worth as much memory as what is in use, and a share of all in any case.
        let len = self.pages.len();
        let is_worth_keeping = len < self.max_pages / KEPT_SHARE || self.pages.num_idle() <= len / 2;
        if is_worth_keeping {
            self.grow();
        }
        self.pages
            .take_free()
            .or_else(|| self.pages.take_evicted())
            .or_else(|| {
                self.grow();
                self.pages.take_free()
            })
    }

    /// Asks for half as many pages again as there are; where the device has no memory left, that is the limit from now on.
    fn grow(&mut self) {
        let len = self.pages.len();
        let wanted = (len + (len / 2).max(GROWTH)).min(self.max_pages);
        if wanted == len {
            return;
        }
        match self.backend.reserve(wanted) {
            Ok(()) => self.pages.grow(wanted),
            Err(error) => {
                tracing::warn!("the cache stays at {len} pages: {error}");
                self.max_pages = len;
            }
        }
    }

    /// Computes chunks in one call of the backend or, where the device has no memory for that, in several smaller ones, and
    /// goes on with calls of that size.
    ///
    /// # Errors
    /// The backend fails, or not even one token fits.
    fn compute(&mut self, chunks: Vec<Chunk<'_>>) -> Result<Vec<Vec<Drawn>>, LmError> {
        let mut drawn = Vec::with_capacity(chunks.len());
        let mut waiting = VecDeque::from(chunks);
        while let Some(first) = waiting.front() {
            // A chunk that is too long by itself is computed in parts; nothing is drawn before its end.
            let part = (first.ids.len() > self.call_tokens).then(|| first.beginning(self.call_tokens));
            let call = match &part {
                Some(part) => std::slice::from_ref(part),
                None => within(waiting.make_contiguous(), self.call_tokens),
            };
            let (num_chunks, num_tokens) = (call.len(), call.iter().map(|chunk| chunk.ids.len()).sum());
            match (self.backend.step(call), part) {
                (Ok(_), Some(_)) => waiting[0].skip(num_tokens),
                (Ok(answers), None) => {
                    drawn.extend(answers);
                    waiting.drain(..num_chunks);
                }
                (Err(LmError::OutOfMemory(message)), _) => self.lower(num_tokens, &message)?,
                (Err(error), _) => return Err(error),
            }
        }
        Ok(drawn)
    }

    /// Halves what a call computes, after one of `num_tokens` tokens did not fit.
    fn lower(&mut self, num_tokens: usize, message: &str) -> Result<(), LmError> {
        if num_tokens <= 1 {
            return Err(LmError::OutOfMemory(format!(
                "{message}; generation computes one token at a time already. Compute in bf16, give the cache less memory, or                  shorten prompts and completions"
            )));
        }
        device::empty_cache();
        self.call_tokens = num_tokens / 2;
        self.step_tokens = self.step_tokens.min(self.call_tokens);
        tracing::warn!(
            "generation goes on with {} tokens at a time: {message}",
            self.call_tokens
        );
        Ok(())
    }

    /// Pages that could be taken.
    fn num_available(&self) -> usize {
        self.pages.num_available() + self.max_pages.saturating_sub(self.pages.len())
    }

    fn too_small(&self, num_tokens: usize) -> LmError {
        let page_bytes = self.backend.page_bytes();
        LmError::Generation(format!(
            "a sequence of {num_tokens} tokens needs {:.1} MiB for its keys and values, but there is room for {:.1} MiB, {} \
             tokens; shorten the prompt or max_new_tokens, or give the cache more memory",
            mebibytes(pages_for(num_tokens) * page_bytes),
            mebibytes(self.max_pages * page_bytes),
            self.max_pages * PAGE_SIZE,
        ))
    }
}

/// Returns the first chunks that have at most `num_tokens` tokens together: one at least.
fn within<'s, 'c>(chunks: &'s [Chunk<'c>], num_tokens: usize) -> &'s [Chunk<'c>] {
    let mut total = 0;
    let fits = |chunk: &&Chunk<'_>| {
        total += chunk.ids.len();
        total <= num_tokens
    };
    let count = chunks.iter().take_while(fits).count();
    &chunks[..count.max(1)]
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// One run of the engine.
struct Run<'e, 'r> {
    engine: &'e mut Engine,
    rules: &'r Rules<'r>,
    waiting: VecDeque<Sequence>,
    /// From the oldest to the youngest.
    running: Vec<Sequence>,
    /// The completions of each prompt that are finished.
    completions: Vec<Vec<Option<Completion>>>,
    /// A sequence had to give its pages back: until one is done, none joins.
    is_crowded: bool,
    progress: Progress,
}

impl<'e, 'r> Run<'e, 'r> {
    fn new(engine: &'e mut Engine, prompts: &[Prompt<'_>], rules: &'r Rules<'r>) -> Self {
        let mut run = Self {
            engine,
            rules,
            waiting: VecDeque::new(),
            running: Vec::new(),
            completions: prompts.iter().map(|prompt| vec![None; prompt.seeds.len()]).collect(),
            is_crowded: false,
            progress: Progress::default(),
        };
        // Equal prompts are one sequence.
        let mut same: HashMap<&[i64], usize> = HashMap::new();
        for (prompt_idx, prompt) in prompts.iter().enumerate() {
            let room = rules.context.saturating_sub(prompt.ids.len());
            let max_new_tokens = prompt.max_new_tokens.min(room);
            run.engine.prompt_tokens.0 += (prompt.ids.len() * prompt.seeds.len()) as u64;
            let branches: Vec<Branch> = (prompt.seeds.iter().enumerate())
                .map(|(sample_idx, &seed)| Branch::new(prompt_idx, sample_idx, seed, max_new_tokens))
                .collect();
            if max_new_tokens == 0 {
                let finished = branches.into_iter().map(|branch| (branch, Completion::empty()));
                run.finish(finished.collect());
            } else if let Some(&at) = same.get(prompt.ids) {
                run.waiting[at].branches.extend(branches);
            } else if !branches.is_empty() {
                same.insert(prompt.ids, run.waiting.len());
                run.waiting.push_back(Sequence::new(prompt.ids, branches));
            }
        }
        let by_length = |sequence: &Sequence| std::cmp::Reverse(sequence.expected_len());
        run.waiting.make_contiguous().sort_by_key(by_length);
        run
    }

    fn complete(&mut self, report: &mut dyn FnMut(Progress)) -> Result<(), LmError> {
        loop {
            if !self.progress.finished.is_empty() || !self.progress.tokens.is_empty() {
                report(std::mem::take(&mut self.progress));
            }
            if stop::is_asked() {
                return Err(LmError::Stopped);
            }
            self.admit()?;
            if self.running.is_empty() {
                return Ok(());
            }
            self.make_room()?;
            let lengths = self.chunk_lengths();
            let drawn = self.step(&lengths)?;
            self.take_in(&lengths, drawn);
        }
    }

    /// Lets sequences join while there are places and pages.
    fn admit(&mut self) -> Result<(), LmError> {
        if self.is_crowded && !self.running.is_empty() {
            return Ok(());
        }
        self.is_crowded = false;
        let (mut idx, mut num_passed) = (0, 0);
        while idx < self.waiting.len() && num_passed < LOOKAHEAD && self.num_places() > 0 {
            let sequence = &self.waiting[idx];
            let num_tokens = sequence.ids.len();
            // The last token is always computed: the next one is drawn after it.
            let found = self.engine.pages.find(&sequence.ids[..num_tokens - 1]);
            if self.is_being_computed(sequence, found.len()) {
                self.release(found);
                idx += 1;
                num_passed += 1;
                continue;
            }
            let num_new = pages_for(num_tokens) - found.len();
            // Each running sequence may need a page soon.
            if num_new + self.running.len() > self.engine.num_available() {
                self.release(found);
                break;
            }
            let mut sequence = self.waiting.remove(idx).expect("the index is below the length");
            sequence.num_computed = found.len() * PAGE_SIZE;
            sequence.num_known_pages = found.len();
            self.engine.prompt_tokens.1 += (num_tokens - sequence.num_computed) as u64;
            sequence.pages = found;
            self.running.push(sequence);
            if !self.has_room(self.running.len() - 1) {
                // The device has less memory than it was said to have.
                let sequence = self.running.pop().expect("pushed above");
                self.put_back(sequence);
                break;
            }
        }
        match self.waiting.front() {
            Some(first) if self.running.is_empty() => Err(self.engine.too_small(first.ids.len())),
            _ => Ok(()),
        }
    }

    /// Completions that could join.
    fn num_places(&self) -> usize {
        let num_growing: usize = self.running.iter().map(|sequence| sequence.branches.len()).sum();
        self.rules.max_batch_size.max(1).saturating_sub(num_growing)
    }

    /// Returns whether page `page_idx` of a sequence is full and just being computed as part of another one.
    fn is_being_computed(&self, sequence: &Sequence, page_idx: usize) -> bool {
        let end = (page_idx + 1) * PAGE_SIZE;
        end < sequence.ids.len()
            && (self.running.iter()).any(|other| other.num_computed < end && other.shares_pages(sequence, page_idx + 1))
    }

    /// Gives every running sequence the pages that its tokens need, the oldest first; where there are none, the youngest
    /// gives its own back.
    fn make_room(&mut self) -> Result<(), LmError> {
        let mut idx = 0;
        while idx < self.running.len() {
            if self.has_room(idx) {
                idx += 1;
                continue;
            }
            if self.running.len() == 1 {
                return Err(self.engine.too_small(self.running[0].ids.len()));
            }
            let youngest = self.running.pop().expect("there are at least two");
            self.put_back(youngest);
            self.is_crowded = true;
        }
        Ok(())
    }

    /// Tries to give a running sequence the pages that its tokens need, and a copy of the one it will write to where
    /// others hold that too.
    fn has_room(&mut self, idx: usize) -> bool {
        let (engine, sequence) = (&mut *self.engine, &mut self.running[idx]);
        while sequence.pages.len() < pages_for(sequence.ids.len()) {
            let Some(page) = engine.take_page() else { return false };
            sequence.pages.push(page);
        }
        let written = &mut sequence.pages[sequence.num_computed / PAGE_SIZE];
        if !engine.pages.is_exclusive(*written) {
            let Some(copy) = engine.take_page() else { return false };
            engine.backend.copy_page(*written, copy);
            engine.pages.release(std::mem::replace(written, copy));
        }
        true
    }

    /// Makes a running sequence the first of those that wait.
    fn put_back(&mut self, mut sequence: Sequence) {
        self.release(std::mem::take(&mut sequence.pages));
        sequence.num_computed = 0;
        sequence.num_known_pages = 0;
        self.waiting.push_front(sequence);
    }

    fn release(&mut self, pages: Vec<PageId>) {
        for page in pages {
            self.engine.pages.release(page);
        }
    }

    /// Returns how many tokens of each running sequence the next step computes: the one that a completion ends with, and
    /// of prompts as many as the budget leaves.
    fn chunk_lengths(&self) -> Vec<usize> {
        let num_decoding = (self.running.iter())
            .filter(|sequence| sequence.num_missing() == 1)
            .count();
        let mut budget = self.engine.step_tokens.saturating_sub(num_decoding).max(PAGE_SIZE);
        let length = |sequence: &Sequence| match sequence.num_missing() {
            1 => 1,
            num_missing => {
                let length = num_missing.min(budget);
                budget -= length;
                length
            }
        };
        self.running.iter().map(length).collect()
    }

    /// Computes so many tokens of each running sequence; returns what was drawn after them, in the same order.
    fn step(&mut self, lengths: &[usize]) -> Result<Vec<Vec<Drawn>>, LmError> {
        let sampling = self.rules.sampling;
        let mut chunks = Vec::with_capacity(lengths.len());
        for (sequence, &length) in self.running.iter_mut().zip(lengths).filter(|(_, length)| **length > 0) {
            let start = sequence.num_computed;
            let is_last = length == sequence.num_missing();
            let Sequence {
                ids, pages, branches, ..
            } = sequence;
            chunks.push(Chunk {
                pages,
                start,
                ids: &ids[start..start + length],
                draws: if is_last {
                    draws(branches, ids, sampling)
                } else {
                    Vec::new()
                },
            });
        }
        let computed = self.engine.compute(chunks)?;
        if computed.iter().flatten().any(|drawn| drawn.logprob.is_nan()) {
            return Err(LmError::Generation("the model's logits are not numbers".to_owned()));
        }
        let mut computed = computed.into_iter();
        let answer = |&length: &usize| match length {
            0 => Vec::new(),
            _ => computed.next().expect("a backend answers every chunk"),
        };
        Ok(lengths.iter().map(answer).collect())
    }

    /// Takes in what a step has computed and drawn.
    fn take_in(&mut self, lengths: &[usize], drawn: Vec<Vec<Drawn>>) {
        let mut num_free = self.rules.max_batch_size.saturating_sub(self.running.len());
        let mut without_place = Vec::new();
        let steps = lengths.iter().zip(drawn);
        for (mut sequence, (length, drawn)) in std::mem::take(&mut self.running).into_iter().zip(steps) {
            sequence.num_computed += length;
            self.make_known(&mut sequence);
            if drawn.is_empty() {
                self.running.push(sequence);
                continue;
            }
            let tokens = sequence.branches.iter().zip(&drawn).map(|(branch, drawn)| Token {
                prompt_idx: branch.prompt_idx,
                sample_idx: branch.sample_idx,
                id: drawn.id,
            });
            self.progress.tokens.extend(tokens);
            let pages = std::mem::take(&mut sequence.pages);
            let (num_computed, num_known_pages) = (sequence.num_computed, sequence.num_known_pages);
            let (going_on, finished) = sequence.split(&drawn, &self.rules.stops);
            self.finish(finished);
            // The first takes the place of the sequence they come from, the others need places of their own.
            let num_staying = going_on.len().min(1 + num_free);
            num_free -= num_staying.saturating_sub(1);
            for (idx, mut sequence) in going_on.into_iter().enumerate() {
                if idx >= num_staying {
                    without_place.push(sequence);
                    continue;
                }
                pages.iter().for_each(|&page| self.engine.pages.hold(page));
                sequence.pages.clone_from(&pages);
                sequence.num_computed = num_computed;
                sequence.num_known_pages = num_known_pages;
                self.running.push(sequence);
            }
            self.release(pages);
        }
        for sequence in without_place.into_iter().rev() {
            self.waiting.push_front(sequence);
        }
    }

    /// Lets others find the pages that are full now.
    fn make_known(&mut self, sequence: &mut Sequence) {
        for page_idx in sequence.num_known_pages..sequence.num_computed / PAGE_SIZE {
            let before = page_idx.checked_sub(1).map(|before| sequence.pages[before]);
            let (page, tokens) = (sequence.pages[page_idx], sequence.tokens_of_page(page_idx));
            sequence.pages[page_idx] = self.engine.pages.make_known(page, before, tokens);
            sequence.num_known_pages = page_idx + 1;
        }
    }

    /// Keeps finished completions, and notes the prompts that are done with them.
    fn finish(&mut self, finished: Vec<(Branch, Completion)>) {
        for (branch, completion) in finished {
            self.is_crowded = false;
            self.progress.num_completions += 1;
            let list = &mut self.completions[branch.prompt_idx];
            list[branch.sample_idx] = Some(completion);
            if list.iter().all(Option::is_some) {
                let list = std::mem::take(list).into_iter().flatten().collect();
                self.progress.finished.push((branch.prompt_idx, list));
            }
        }
    }

    fn give_all_back(&mut self) {
        for sequence in std::mem::take(&mut self.running) {
            self.release(sequence.pages);
        }
    }
}

#[cfg(test)]
impl Engine {
    pub fn assert_all_given_back(&self) {
        self.pages.assert_all_given_back();
        assert!(self.pages.len() <= self.max_pages);
    }

    pub fn num_pages(&self) -> usize {
        self.pages.len()
    }
}
