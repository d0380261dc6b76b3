//! A model of ours as a policy.

use std::path::Path;

use anyhow::Result;

use super::{Completion, Follower, Means, Options, Policy, Request};
use crate::lm::generate::{self, generate};
use crate::lm::{self, CausalLm, Tokenizer};

/// A model folder, loaded.
pub struct LocalPolicy {
    model: CausalLm,
    tokenizer: Tokenizer,
    num_threads: usize,
    generation_batch_size: usize,
}

impl LocalPolicy {
    /// Loads a model folder.
    ///
    /// # Errors
    /// It is not one, or a model that can't be computed.
    pub fn open(dir: &Path, means: &Means) -> Result<Self> {
        Ok(Self {
            model: lm::load(dir, means.device, tch::Kind::Float)?,
            tokenizer: Tokenizer::load(dir)?,
            num_threads: means.num_threads,
            generation_batch_size: means.generation_batch_size,
        })
    }

    /// The prompt with the beginning of the answer.
    fn encode(&self, request: &Request) -> Result<generate::Request> {
        let mut ids = self.tokenizer.encode_prompt(&request.prompt)?;
        if !request.partial.is_empty() {
            ids.extend(self.tokenizer.encode(&request.partial, false)?);
        }
        Ok(generate::Request {
            ids,
            seeds: request.seeds.clone(),
        })
    }
}

impl Policy for LocalPolicy {
    fn complete(
        &mut self,
        requests: &[Request],
        options: &Options,
        follower: &mut dyn Follower,
    ) -> Result<Vec<Vec<Completion>>> {
        let encoded = requests
            .iter()
            .map(|request| self.encode(request))
            .collect::<Result<Vec<_>>>()?;
        let options = generate::Options {
            max_new_tokens: options.max_new_tokens,
            sampling: options.sampling,
            eos_token_ids: self.tokenizer.eos_token_ids.clone(),
            stop: options.stop.clone(),
            max_batch_size: self.generation_batch_size,
            num_threads: self.num_threads,
            cache_memory: None,
        };
        let mut reader = Reader {
            tokenizer: &self.tokenizer,
            follower,
            read: vec![None; requests.len()],
            error: None,
        };
        let generated = generate(&self.model, &self.tokenizer, &encoded, &options, &mut reader)?;
        if let Some(error) = reader.error {
            return Err(error.into());
        }
        let read = reader.read;
        read.into_iter()
            .zip(generated)
            .map(|(read, generated)| read.map_or_else(|| read_all(&self.tokenizer, &generated), Ok))
            .collect::<Result<_, _>>()
            .map_err(anyhow::Error::from)
    }
}

/// Between the generation, whose completions are tokens, and a follower of texts.
struct Reader<'a> {
    tokenizer: &'a Tokenizer,
    follower: &'a mut dyn Follower,
    /// What was recalled or read, of each request.
    read: Vec<Option<Vec<Completion>>>,
    error: Option<lm::LmError>,
}

impl generate::Follower for Reader<'_> {
    fn recall(&mut self, request_idx: usize) -> Option<Vec<generate::Completion>> {
        let known = self.follower.recall(request_idx)?;
        // The generation counts these tokens and passes them on; their text is known already.
        let counted = |completion: &Completion| generate::Completion {
            ids: vec![0; completion.num_tokens],
            logprobs: Vec::new(),
            finish: completion.finish,
        };
        let tokens = known.iter().map(counted).collect();
        self.read[request_idx] = Some(known);
        Some(tokens)
    }

    fn finished(&mut self, requests: &[usize], completions: &[Vec<generate::Completion>]) {
        let texts: Result<Vec<_>, _> = completions.iter().map(|list| read_all(self.tokenizer, list)).collect();
        match texts {
            Ok(texts) => {
                self.follower.finished(requests, &texts);
                for (&idx, list) in requests.iter().zip(texts) {
                    self.read[idx] = Some(list);
                }
            }
            Err(error) => self.error = Some(error),
        }
    }

    fn progress(&mut self, num_done: usize, num_tokens: usize) {
        self.follower.progress(num_done, num_tokens);
    }
}

fn read_all(tokenizer: &Tokenizer, completions: &[generate::Completion]) -> Result<Vec<Completion>, lm::LmError> {
    completions
        .iter()
        .map(|completion| {
            Ok(Completion {
                text: tokenizer.decode(&completion.ids, true)?,
                num_tokens: completion.ids.len(),
                sum_logprob: Some(completion.logprobs.iter().map(|&logprob| f64::from(logprob)).sum()),
                finish: completion.finish,
            })
        })
        .collect()
}
