//! A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp) as a policy.
//!
//! Calls run on threads of their own, a fixed number at once; their results come back in order. The key is in one place,
//! the header of a call: what a server sends back goes through its redaction before it is shown or kept.

mod api;
mod client;
mod config;
mod secret;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Result, bail};

use self::api::{Call, Input};
use self::client::{Backoff, Calls, Cancelled, Server};
use self::config::KEY_HOSTS;
use self::secret::Secret;
use super::{Completion, Follower, Options, Policy, Request, Usage};
use crate::lm::{LmError, Tokenizer};
use crate::stop;
pub use config::{Api, ENDPOINT_FILE, EndpointConfig, Limits, tokenizer_files};

/// What can go wrong with a server.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("{path}: {message}")]
    Config { path: PathBuf, message: String },
    #[error("environment variable {name}: {message}")]
    Variable { name: String, message: String },
    #[error(
        "the key in {name} would be sent to {host}, which {ENDPOINT_FILE} names; if that is meant, set \
         {KEY_HOSTS}={host}, or use base_url_env"
    )]
    KeyHost { name: String, host: String },
    #[error("the key in the variable that api_key_env names has characters that can't be sent")]
    Key,
    #[error("{url}: {message}")]
    Unreachable { url: String, message: String },
    /// A status that is not success, with the server's own words.
    #[error("{url} answered {status}: {message}")]
    Refused { url: String, status: u16, message: String },
    #[error("{url} answered with what is no completion: {message}")]
    Response { url: String, message: String },
    #[error("given up after {tries} tries: {last}")]
    GivenUp { tries: u64, last: Box<EndpointError> },
}

/// How often to look whether the work was stopped, while calls are in flight.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// A served model.
#[derive(Debug)]
pub struct Endpoint {
    config: EndpointConfig,
    server: Server,
    max_concurrency: usize,
    /// Writes the prompts of `/completions`.
    tokenizer: Option<Prompter>,
    usage: Usage,
    is_stopped: fn() -> bool,
}

/// A tokenizer folder's chat template.
struct Prompter(Tokenizer);

impl std::fmt::Debug for Prompter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prompter")
    }
}

impl Endpoint {
    /// Opens a folder with `endpoint.json`, and a tokenizer where `/completions` is used.
    ///
    /// # Errors
    /// A file is broken, or an environment variable that it names is not set.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self> {
        let config = EndpointConfig::read(dir)?;
        let tokenizer = match config.api {
            Api::Chat => None,
            Api::Completions => Some(Tokenizer::load(dir)?),
        };
        let (url, key) = (config.url()?, config.key()?);
        Ok(Self::new(config, &url, key, tokenizer, limits, Backoff::default())?)
    }

    fn new(
        config: EndpointConfig,
        base_url: &str,
        key: Option<Secret>,
        tokenizer: Option<Tokenizer>,
        limits: Limits,
        backoff: Backoff,
    ) -> Result<Self, EndpointError> {
        let path = match config.api {
            Api::Chat => "chat/completions",
            Api::Completions => "completions",
        };
        let server = Server::new(format!("{base_url}/{path}"), key, &limits, backoff)?;
        Ok(Self {
            config,
            server,
            max_concurrency: limits.max_concurrency.max(1),
            tokenizer: tokenizer.map(Prompter),
            usage: Usage::default(),
            is_stopped: stop::is_asked,
        })
    }

    fn input(&self, request: &Request) -> Result<Input, LmError> {
        Ok(match &self.tokenizer {
            None => Input::Chat {
                prompt: request.prompt.clone(),
                partial: request.partial.clone(),
            },
            Some(Prompter(tokenizer)) => Input::Text(tokenizer.render_prompt(&request.prompt)? + &request.partial),
        })
    }

    fn call(&self, input: Input, options: &Options) -> Call {
        Call {
            model: self.config.model.clone(),
            input,
            options: options.clone(),
            logprobs: self.config.logprobs,
        }
    }

    /// Starts the calls of `work` on threads; each sends its result as it comes.
    fn start(&self, work: Vec<Work>) -> InFlight {
        let num_threads = self.max_concurrency.min(work.len());
        let (work, next) = (Arc::new(work), Arc::new(AtomicUsize::new(0)));
        let calls = Arc::new(Calls::default());
        let (sender, results) = channel();
        for _ in 0..num_threads {
            let (server, work, next) = (self.server.clone(), work.clone(), next.clone());
            let (sender, calls) = (sender.clone(), calls.clone());
            // Not scoped: a call that hangs must not keep a stopped worker from ending.
            std::thread::spawn(move || {
                while let Some(item) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Ok(result) = item.run(&server, &calls) else { break };
                    if sender.send((item.request_idx, result)).is_err() {
                        break;
                    }
                }
            });
        }
        InFlight { results, calls }
    }
}

impl Policy for Endpoint {
    fn complete(
        &mut self,
        requests: &[Request],
        options: &Options,
        follower: &mut dyn Follower,
    ) -> Result<Vec<Vec<Completion>>> {
        let mut lists: Vec<Option<Vec<Completion>>> = Vec::with_capacity(requests.len());
        let mut work = Vec::new();
        for (request_idx, request) in requests.iter().enumerate() {
            let known = if request.seeds.is_empty() {
                Some(Vec::new())
            } else {
                follower.recall(request_idx)
            };
            let known = known.filter(|list| list.len() == request.seeds.len());
            if known.is_none() {
                work.push(Work {
                    request_idx,
                    call: self.call(self.input(request)?, options),
                    seeds: request.seeds.clone(),
                });
            }
            lists.push(known);
        }
        let (mut num_done, mut num_tokens) = (0, 0);
        let mut count = |list: &[Completion], follower: &mut dyn Follower| {
            num_done += list.len();
            num_tokens += list.iter().map(|completion| completion.num_tokens).sum::<usize>();
            follower.progress(num_done, num_tokens);
        };
        // Where a call goes on, the rate must come from new work: this is where it begins.
        count(&lists.iter().flatten().flatten().cloned().collect::<Vec<_>>(), follower);
        let num_calls = work.len();
        let in_flight = self.start(work);
        for _ in 0..num_calls {
            let (request_idx, result) = in_flight.next(self.is_stopped)?;
            let (list, usage) = result?;
            self.usage.add(usage);
            follower.finished(&[request_idx], std::slice::from_ref(&list));
            count(&list, follower);
            lists[request_idx] = Some(list);
        }
        Ok(lists.into_iter().flatten().collect())
    }

    fn usage(&self) -> Option<Usage> {
        Some(self.usage)
    }
}

/// A request's place, and its calls.
struct Work {
    request_idx: usize,
    call: Call,
    seeds: Vec<u64>,
}

type Outcome = Result<(Vec<Completion>, Usage), EndpointError>;

impl Work {
    /// Calls until there is a completion for each seed: some servers give one at a time, whatever is asked for.
    fn run(&self, server: &Server, calls: &Calls) -> Result<Outcome, Cancelled> {
        let mut list = Vec::with_capacity(self.seeds.len());
        let mut usage = Usage::default();
        while list.len() < self.seeds.len() {
            let count = self.seeds.len() - list.len();
            let body = self.call.body(count, self.seeds[list.len()]);
            let place = self.seeds[list.len()];
            match server.post(&body, place, calls, |text| self.call.read(text, count))? {
                Ok((mut more, counted)) => {
                    for completion in &mut more {
                        completion.text = server.redact_answer(std::mem::take(&mut completion.text));
                    }
                    list.append(&mut more);
                    usage.add(counted);
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok((list, usage)))
    }
}

/// Calls that run; when this is dropped no other begins, and nobody waits any longer.
struct InFlight {
    results: Receiver<(usize, Outcome)>,
    calls: Arc<Calls>,
}

impl InFlight {
    /// Returns the next result. What came before the work was stopped is given first: it is paid for.
    ///
    /// # Errors
    /// The work was stopped.
    fn next(&self, is_stopped: fn() -> bool) -> Result<(usize, Outcome)> {
        loop {
            if is_stopped() {
                self.calls.end();
                let came = self.results.try_iter().find(|(_, outcome)| outcome.is_ok());
                return came.ok_or_else(|| LmError::Stopped.into());
            }
            match self.results.recv_timeout(STOP_INTERVAL) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("a thread of the calls ended without a result, which is a bug")
                }
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.calls.end();
    }
}
