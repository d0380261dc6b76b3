//! The engine against each sequence computed by itself, and its promises one by one.

mod fake;
mod mixes;
mod promises;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::backend::{Backend, Chunk, Draw, PageId};
use super::engine::{Engine, Prompt, Rules};
use super::pages::pages_for;
use super::stops::Decode;
use super::{Completion, Finish};
use crate::lm::LmError;
use crate::lm::sampler::Sampling;

/// What a test says of a run.
#[derive(Debug, Clone)]
struct Setting {
    sampling: Sampling,
    eos_token_ids: Vec<i64>,
    stop: Vec<String>,
    max_batch_size: usize,
    context: usize,
}

impl Setting {
    fn plain() -> Self {
        Self {
            sampling: Sampling::PLAIN,
            eos_token_ids: Vec::new(),
            stop: Vec::new(),
            max_batch_size: 64,
            context: 1000,
        }
    }

    fn rules<'a>(&'a self, decode: &'a Decode<'a>) -> Rules<'a> {
        Rules {
            sampling: self.sampling,
            stops: super::stops::Stops::new(&self.eos_token_ids, &self.stop, decode),
            max_batch_size: self.max_batch_size,
            context: self.context,
        }
    }
}

/// A prompt with its seeds and its limit.
#[derive(Debug, Clone)]
struct Item {
    ids: Vec<i64>,
    seeds: Vec<u64>,
    max_new_tokens: usize,
}

impl Item {
    fn new(ids: impl IntoIterator<Item = i64>, num_samples: u64, max_new_tokens: usize) -> Self {
        Self {
            ids: ids.into_iter().collect(),
            seeds: (0..num_samples).collect(),
            max_new_tokens,
        }
    }
}

/// Texts of tokens: parts of words and of characters, and one without a text.
const TEXTS: [&[u8]; 8] = [b"a", b"b", b"", b" ab", b"\xc3", b"\xa9", b"E", b"ND"];

fn text_of(ids: &[i64]) -> Option<String> {
    let bytes: Vec<u8> = ids
        .iter()
        .flat_map(|&id| TEXTS[id as usize % TEXTS.len()].to_vec())
        .collect();
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs the engine; returns the completions of the prompts that were finished, and how it ended.
fn run(engine: &mut Engine, items: &[Item], setting: &Setting) -> (Vec<Option<Vec<Completion>>>, Result<(), LmError>) {
    let prompts: Vec<Prompt<'_>> = items
        .iter()
        .map(|item| Prompt {
            ids: &item.ids,
            seeds: &item.seeds,
            max_new_tokens: item.max_new_tokens,
        })
        .collect();
    let mut lists = vec![None; items.len()];
    let result = engine.run(&prompts, &setting.rules(&text_of), &mut |progress| {
        for (prompt_idx, list) in progress.finished {
            assert!(lists[prompt_idx].replace(list).is_none(), "a prompt is finished once");
        }
    });
    (lists, result)
}

/// Runs the engine to its end.
fn complete(engine: &mut Engine, items: &[Item], setting: &Setting) -> Vec<Vec<Completion>> {
    let (lists, result) = run(engine, items, setting);
    result.expect("there is memory for it");
    let list_of = |(list, item): (Option<Vec<Completion>>, &Item)| match list {
        Some(list) => list,
        None => {
            assert!(item.seeds.is_empty(), "every prompt is finished");
            Vec::new()
        }
    };
    lists.into_iter().zip(items).map(list_of).collect()
}

/// Generates one completion with nothing beside it and without a cache: every token from the whole sequence before it.
fn alone(backend: &mut dyn Backend, item: &Item, seed: u64, setting: &Setting) -> Completion {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ids = item.ids.clone();
    let mut completion = Completion::empty();
    while completion.ids.len() < item.max_new_tokens && ids.len() < setting.context {
        let num_pages = pages_for(ids.len());
        backend.reserve(num_pages).expect("there is memory for one sequence");
        let pages: Vec<PageId> = (0..num_pages as PageId).collect();
        let draw = Draw {
            sampling: setting.sampling,
            uniform: rng.random(),
            seen: if setting.sampling.repetition_penalty == 1.0 {
                &[]
            } else {
                &ids
            },
        };
        let chunk = Chunk {
            pages: &pages,
            start: 0,
            ids: &ids,
            draws: vec![draw],
        };
        let drawn = backend.step(&[chunk]).expect("it is computed")[0][0];
        ids.push(drawn.id);
        completion.ids.push(drawn.id);
        completion.logprobs.push(drawn.logprob);
        if setting.eos_token_ids.contains(&drawn.id) {
            completion.finish = Finish::Eos;
            break;
        }
        let text = text_of(&completion.ids).expect("every token has a text");
        if setting.stop.iter().any(|stop| !stop.is_empty() && text.contains(stop)) {
            completion.finish = Finish::Stop;
            break;
        }
    }
    completion
}
