//! A model of ours as a policy.

use std::path::Path;

use anyhow::Result;
use tch::Kind;

use super::{Completion, Follower, Means, Options, Policy, Request, Reuse};
use crate::lm::generate::{self, Generator};
use crate::lm::{self, Tokenizer};

/// A model folder, loaded; what was computed for one call is there for those that begin alike.
pub struct LocalPolicy {
    generator: Generator,
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
        let kind = if means.bf16 { Kind::BFloat16 } else { Kind::Float };
        let model = lm::load(dir, means.device, kind)?;
        Ok(Self {
            generator: Generator::new(&model, means.num_threads, None)?,
            tokenizer: Tokenizer::load(dir)?,
            num_threads: means.num_threads,
            generation_batch_size: means.generation_batch_size,
        })
    }
}

/// The prompt with the beginning of the answer, as one text: some tokenizers put a space before every text.
fn encode(tokenizer: &Tokenizer, request: &Request) -> Result<generate::Request, lm::LmError> {
    let text = tokenizer.render_prompt(&request.prompt)? + &request.partial;
    Ok(generate::Request {
        ids: tokenizer.encode(&text, false)?,
        seeds: request.seeds.clone(),
    })
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
            .map(|request| encode(&self.tokenizer, request))
            .collect::<Result<Vec<_>, lm::LmError>>()?;
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
        let generated = self
            .generator
            .generate(&self.tokenizer, &encoded, &options, &mut reader)?;
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

    fn reuse(&self) -> Option<Reuse> {
        let (prompt_tokens, computed_tokens) = self.generator.prompt_tokens();
        Some(Reuse {
            prompt_tokens,
            computed_tokens,
        })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use tch::Device;

    use super::*;
    use crate::lm::generate::backend::PAGE_SIZE;
    use crate::lm::sampler::Sampling;
    use crate::policy::Limits;

    /// Knows some answers, and keeps the others.
    #[derive(Default)]
    struct Notes {
        known: BTreeMap<usize, Vec<Completion>>,
        finished: BTreeMap<usize, Vec<Completion>>,
        last: (usize, usize),
    }

    impl Follower for Notes {
        fn recall(&mut self, request_idx: usize) -> Option<Vec<Completion>> {
            self.known.get(&request_idx).cloned()
        }

        fn finished(&mut self, requests: &[usize], completions: &[Vec<Completion>]) {
            self.finished
                .extend(requests.iter().copied().zip(completions.iter().cloned()));
        }

        fn progress(&mut self, num_done: usize, num_tokens: usize) {
            self.last = (num_done, num_tokens);
        }
    }

    #[test]
    fn the_beginning_of_an_answer_follows_the_prompt_without_a_space_of_the_tokenizers() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/llama");
        let dir = tempfile::tempdir().expect("a temporary folder");
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(from.join(name), dir.path().join(name)).expect("it is copied");
        }
        let template = "Q: {{ messages[0].content }} A:";
        std::fs::write(dir.path().join("chat_template.jinja"), template).expect("it is written");
        let tokenizer = Tokenizer::load(dir.path()).expect("a tokenizer");
        let request = Request {
            prompt: "new?".to_owned(),
            partial: "lower".to_owned(),
            seeds: vec![1],
        };
        let ids = encode(&tokenizer, &request).expect("it is encoded").ids;
        assert_eq!(tokenizer.decode(&ids, false).expect("it is decoded"), "Q: new? A:lower");
    }

    /// A search asks for a state's children first and for what follows each child later, in calls of their own.
    #[test]
    fn a_longer_beginning_of_an_answer_goes_on_from_a_shorter_one_of_an_earlier_call() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/smollm-tied");
        let means = Means {
            device: Device::Cpu,
            bf16: false,
            num_threads: 1,
            generation_batch_size: 8,
            limits: Limits {
                max_concurrency: 1,
                request_timeout: 1.0,
                max_retries: 0,
            },
        };
        let mut policy = LocalPolicy::open(&dir, &means).expect("a model");
        let options = Options {
            max_new_tokens: 2,
            sampling: Sampling::PLAIN,
            stop: Vec::new(),
        };
        // The length of a prompt, and how much of it is computed.
        let mut ask = |partial: String| {
            let request = Request {
                prompt: "A train has 12 cars, and 30 people sit in each of them. How many is that?".to_owned(),
                partial,
                seeds: vec![1],
            };
            let before = policy.reuse().expect("it is counted");
            policy
                .complete(&[request], &options, &mut Notes::default())
                .expect("answers");
            let after = policy.reuse().expect("it is counted");
            let (num_tokens, num_computed) = (
                after.prompt_tokens - before.prompt_tokens,
                after.computed_tokens - before.computed_tokens,
            );
            (num_tokens as usize, num_computed as usize)
        };
        let steps = [
            "## Step 1: Each car has 30 people.\n\n",
            "## Step 2: There are 12 cars.\n\n",
        ];
        let (num_known, num_computed) = ask(String::new());
        assert!(num_known > 2 * PAGE_SIZE);
        assert_eq!(num_computed, num_known);
        let mut num_known = num_known;
        for depth in 1..=steps.len() {
            let (num_tokens, num_computed) = ask(steps[..depth].concat());
            // Whole pages are found again, and a token or two at the border may be others beside a new text.
            let at_most = num_tokens - num_known + PAGE_SIZE + 2;
            assert!(
                num_computed <= at_most,
                "{num_computed} of {num_tokens} at depth {depth}, {num_known} were known"
            );
            num_known = num_tokens;
        }
    }

    #[test]
    fn what_is_known_is_passed_on_and_the_rest_is_as_if_nothing_was() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/smollm-tied");
        let means = Means {
            device: Device::Cpu,
            bf16: false,
            num_threads: 1,
            generation_batch_size: 8,
            limits: Limits {
                max_concurrency: 1,
                request_timeout: 1.0,
                max_retries: 0,
            },
        };
        let request = |partial: &str, seed| Request {
            prompt: "What is 12 + 30?".to_owned(),
            partial: partial.to_owned(),
            seeds: vec![seed, seed + 1],
        };
        let requests = [request("", 1), request("It is", 2), request("", 3)];
        let options = Options {
            max_new_tokens: 8,
            sampling: Sampling::PLAIN,
            stop: Vec::new(),
        };
        let complete = |notes: &mut Notes| {
            let mut policy = LocalPolicy::open(&dir, &means).expect("a model");
            policy.complete(&requests, &options, notes).expect("answers")
        };
        let mut all = Notes::default();
        let whole = complete(&mut all);
        assert_eq!(all.finished.values().cloned().collect::<Vec<_>>(), whole);
        let num_tokens = whole.iter().flatten().map(|completion| completion.num_tokens).sum();
        assert_eq!(all.last, (6, num_tokens));
        assert!(
            whole
                .iter()
                .flatten()
                .all(|completion| completion.sum_logprob.is_some_and(|sum| sum < 0.0))
        );

        let mut some = Notes {
            known: BTreeMap::from([(1, whole[1].clone())]),
            ..Notes::default()
        };
        // Which prompts are computed together may round otherwise.
        for (got, expected) in complete(&mut some).iter().flatten().zip(whole.iter().flatten()) {
            assert_eq!(
                (&got.text, got.num_tokens, got.finish),
                (&expected.text, expected.num_tokens, expected.finish)
            );
            let difference = got.sum_logprob.zip(expected.sum_logprob).map(|(a, b)| (a - b).abs());
            assert!(difference.is_some_and(|difference| difference < 1e-3), "{difference:?}");
        }
        assert_eq!(some.finished.keys().copied().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(some.last, (6, num_tokens));
    }
}
