//! Sampling of completions in batches with a KV cache.
//!
//! Prompts are sorted by length and cut into batches; the completions of one prompt share its prefill; rows that have
//! ended leave the batch. Batches are spread over the CPU threads, each computing alone: for small models that is
//! worth more than several threads in one matrix product. What a batch gives depends on its own prompts and seeds and on
//! the number of threads alone, so that a generation that was interrupted can go on batch by batch.

pub mod backend;

use std::collections::VecDeque;
use std::sync::{Mutex, mpsc};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::lm::kv_cache::KvCache;
use crate::lm::model::attention::Attend;
use crate::lm::sampler::{Sampling, sample};
use crate::lm::{CausalLm, LmError, Tokenizer, device};
use crate::stop;

/// A batch is compacted when less than this share of its rows is still running.
const COMPACT_BELOW: f64 = 0.75;

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
    /// Rows in a batch, at most.
    pub max_batch_size: usize,
    pub num_threads: usize,
    /// Bytes that keys and values may take; by default what the device has left, within reason.
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

    /// Gets a finished batch: the indices of its requests and their completions.
    fn finished(&mut self, _batch: &[usize], _completions: &[Vec<Completion>]) {}

    /// Is told how many completions are done and how many tokens they have.
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
/// The worker was asked to stop; `follower` has what was finished.
pub fn generate(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    requests: &[Request],
    options: &Options,
    follower: &mut impl Follower,
) -> Result<Vec<Vec<Completion>>, LmError> {
    let mut done = Done::recalled(requests, follower);
    let batches = batches(requests, options);
    let num_workers = options.num_threads.clamp(1, batches.len().max(1));
    let threads_each = (options.num_threads / num_workers).max(1);
    let missing = |mut batch: Vec<usize>| {
        batch.retain(|&idx| done.lists[idx].is_none());
        (!batch.is_empty()).then_some(batch)
    };
    let queue = Mutex::new(batches.into_iter().filter_map(missing).collect::<VecDeque<_>>());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..num_workers {
            let (model, queue, sender) = (model.share(), &queue, sender.clone());
            scope.spawn(move || {
                let _no_grad = tch::no_grad_guard();
                device::set_num_threads(threads_each);
                loop {
                    let batch = queue
                        .lock()
                        .expect("no worker panics while it holds the queue")
                        .pop_front();
                    let Some(batch) = batch else { break };
                    let batch_requests: Vec<&Request> = batch.iter().map(|&idx| &requests[idx]).collect();
                    let Some(completions) = generate_batch(&model, tokenizer, &batch_requests, options) else {
                        break;
                    };
                    if sender.send((batch, completions)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (batch, completions) in receiver {
            follower.finished(&batch, &completions);
            for (idx, list) in batch.into_iter().zip(completions) {
                done.add(idx, list);
            }
            follower.progress(done.num_completions, done.num_tokens);
        }
    });
    device::set_num_threads(options.num_threads);
    done.all().ok_or(LmError::Stopped)
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
            lists: vec![None; requests.len()],
            num_completions: 0,
            num_tokens: 0,
        };
        for (idx, request) in requests.iter().enumerate() {
            if request.seeds.is_empty() {
                done.add(idx, Vec::new());
            } else if let Some(list) = follower.recall(idx).filter(|list| list.len() == request.seeds.len()) {
                done.add(idx, list);
            }
        }
        // Where a generation goes on, the rate must come from new work: this is where it begins.
        follower.progress(done.num_completions, done.num_tokens);
        done
    }

    fn add(&mut self, idx: usize, list: Vec<Completion>) {
        self.num_completions += list.len();
        self.num_tokens += list.iter().map(|completion| completion.ids.len()).sum::<usize>();
        self.lists[idx] = Some(list);
    }

    /// Returns all of them, unless one is missing.
    fn all(self) -> Option<Vec<Vec<Completion>>> {
        self.lists.into_iter().collect()
    }
}

/// Cuts the requests, sorted by length, into batches of at most `max_batch_size` rows, enough of them for all threads.
fn batches(requests: &[Request], options: &Options) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..requests.len())
        .filter(|&idx| !requests[idx].seeds.is_empty())
        .collect();
    order.sort_by_key(|&idx| requests[idx].ids.len());
    let num_rows: usize = requests.iter().map(|request| request.seeds.len()).sum();
    let max_rows = num_rows
        .div_ceil(options.num_threads.max(1))
        .clamp(1, options.max_batch_size.max(1));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut rows = usize::MAX;
    for idx in order {
        let more = requests[idx].seeds.len();
        if rows.saturating_add(more) > max_rows {
            batches.push(Vec::new());
            rows = 0;
        }
        rows += more;
        batches.last_mut().expect("pushed above").push(idx);
    }
    batches
}

/// A row of the batch that is still generating.
struct Row {
    request_idx: usize,
    rng: ChaCha8Rng,
    completion: Completion,
}

/// Returns the completions of a batch; nothing where the worker was asked to stop before they were done.
fn generate_batch(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    requests: &[&Request],
    options: &Options,
) -> Option<Vec<Vec<Completion>>> {
    let mut finished: Vec<Vec<(usize, Completion)>> = vec![Vec::new(); requests.len()];
    let prefill = Prefill::run(model, requests, tokenizer.pad_token_id);
    let longest = prefill.longest;
    let max_new_tokens = options
        .max_new_tokens
        .min((model.config.max_position_embeddings - longest).max(0) as usize);
    let mut rows: Vec<Option<Row>> = Vec::new();
    let mut prompt_of_row = Vec::new();
    for (request_idx, request) in requests.iter().enumerate() {
        for &seed in &request.seeds {
            let completion = Completion {
                ids: Vec::new(),
                logprobs: Vec::new(),
                finish: Finish::Length,
            };
            rows.push(Some(Row {
                request_idx,
                rng: ChaCha8Rng::seed_from_u64(seed),
                completion,
            }));
            prompt_of_row.push(request_idx as i64);
        }
    }
    let Prefill {
        mut cache,
        mut logits,
        mut padding,
        ..
    } = prefill;
    if rows.len() != requests.len() {
        let index = Tensor::from_slice(&prompt_of_row).to_device(model.device());
        cache.select_rows(&index);
        logits = logits.index_select(0, &index);
        padding = padding.map(|padding| padding.select_rows(&index));
    }
    let order: Vec<usize> = (0..rows.len()).collect();
    let mut slots = order;
    for token_idx in 0..max_new_tokens {
        if stop::is_asked() {
            return None;
        }
        let uniforms: Vec<f64> = rows
            .iter_mut()
            .map(|row| row.as_mut().map_or(0.0, |row| row.rng.random::<f64>()))
            .collect();
        let (ids, logprobs) = sample(&logits, options.sampling, &uniforms);
        for (row_idx, row) in rows.iter_mut().enumerate() {
            let Some(running) = row else { continue };
            running.completion.ids.push(ids[row_idx]);
            running.completion.logprobs.push(logprobs[row_idx]);
            if let Some(finish) = ended(&running.completion.ids, tokenizer, options) {
                running.completion.finish = finish;
                let row = row.take().expect("matched as running above");
                finished[row.request_idx].push((slots[row_idx], row.completion));
            }
        }
        let running: Vec<i64> = (0..rows.len())
            .filter(|&idx| rows[idx].is_some())
            .map(|idx| idx as i64)
            .collect();
        if running.is_empty() || token_idx + 1 == max_new_tokens {
            break;
        }
        let mut next: Vec<i64> = ids;
        if (running.len() as f64) < COMPACT_BELOW * rows.len() as f64 {
            let index = Tensor::from_slice(&running).to_device(model.device());
            cache.select_rows(&index);
            padding = padding.map(|padding| padding.select_rows(&index));
            next = running.iter().map(|&idx| next[idx as usize]).collect();
            slots = running.iter().map(|&idx| slots[idx as usize]).collect();
            rows = rows.into_iter().filter(Option::is_some).collect();
        }
        let input = Tensor::from_slice(&next).to_device(model.device()).unsqueeze(-1); // [B, 1]
        let (positions, mask) = match &padding {
            Some(padding) => (padding.positions(cache.len()), Some(padding.mask(cache.len() + 1))),
            None => (input.full_like(cache.len()), None),
        };
        logits = model.logits(&Rows::run(model, &mut cache, &input, &positions, mask).squeeze_dim(1)); // [B, V]
    }
    for (row_idx, row) in rows.into_iter().enumerate() {
        if let Some(row) = row {
            finished[row.request_idx].push((slots[row_idx], row.completion));
        }
    }
    let in_order = |mut list: Vec<(usize, Completion)>| {
        list.sort_by_key(|(slot, _)| *slot);
        list.into_iter().map(|(_, completion)| completion).collect()
    };
    Some(finished.into_iter().map(in_order).collect())
}

fn ended(ids: &[i64], tokenizer: &Tokenizer, options: &Options) -> Option<Finish> {
    let last = ids.last()?;
    if options.eos_token_ids.contains(last) {
        return Some(Finish::Eos);
    }
    if options.stop.is_empty() {
        return None;
    }
    // A stop text may begin inside an earlier token; it can't reach further back than its own length in tokens.
    let reach = options.stop.iter().map(String::len).max().unwrap_or(0);
    let tail = &ids[ids.len().saturating_sub(reach + 1)..];
    let text = tokenizer.decode(tail, true).ok()?;
    options
        .stop
        .iter()
        .any(|stop| text.contains(stop.as_str()))
        .then_some(Finish::Stop)
}

/// The prompts of a batch, computed: one row for each prompt.
struct Prefill {
    cache: KvCache,
    /// Of each prompt's last token, `[P, V]`.
    logits: Tensor,
    /// Absent where all prompts have the same length.
    padding: Option<Padding>,
    /// Length of the longest prompt in tokens.
    longest: i64,
}

impl Prefill {
    fn run(model: &CausalLm, requests: &[&Request], pad_token_id: i64) -> Self {
        let (device, kind) = (model.device(), model.kind());
        let longest = requests.iter().map(|request| request.ids.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(requests.len() * longest);
        let mut pads = Vec::with_capacity(requests.len());
        for request in requests {
            let pad = longest - request.ids.len();
            ids.extend(std::iter::repeat_n(pad_token_id, pad));
            ids.extend(&request.ids);
            pads.push(pad as i64);
        }
        let (num_rows, longest) = (requests.len() as i64, longest as i64);
        let ids = Tensor::from_slice(&ids).to_device(device).view([num_rows, longest]);
        let padding = pads.iter().any(|&pad| pad > 0).then(|| Padding::new(&pads, device));
        let mut cache = KvCache::new(&model.config, num_rows, longest + 32, kind, device);
        let (positions, mask) = match &padding {
            Some(padding) => (padding.prompt_positions(longest), Some(padding.prompt_mask(longest))),
            None => (
                Tensor::arange(longest, (Kind::Int64, device)).expand([num_rows, longest], false),
                None,
            ),
        };
        let hidden = Rows::run(model, &mut cache, &ids, &positions, mask); // [P, T, H]
        let logits = model.logits(&hidden.narrow(1, longest - 1, 1).squeeze_dim(1));
        Self {
            cache,
            logits,
            padding,
            longest,
        }
    }
}

/// Attention of rows of equal length to a cache and themselves.
struct Rows<'a> {
    cache: &'a mut KvCache,
    num_rows: i64,
    /// Boolean `[B, 1, T, S]`, true where attention may look; without it, attention is causal.
    mask: Option<Tensor>,
}

impl Rows<'_> {
    /// Returns hidden states `[B, T, H]` of `ids` `[B, T]` at `positions` `[B, T]`, and stores them in the cache.
    fn run(model: &CausalLm, cache: &mut KvCache, ids: &Tensor, positions: &Tensor, mask: Option<Tensor>) -> Tensor {
        let (num_rows, num_tokens) = (ids.size()[0], ids.size()[1]);
        let mut attend = Rows { cache, num_rows, mask };
        let hidden = model.hidden_states(&ids.reshape([-1]), &positions.reshape([-1]), &mut attend);
        cache.advance(num_tokens);
        hidden.view([num_rows, num_tokens, -1])
    }
}

impl Attend for Rows<'_> {
    fn attend(&mut self, layer_idx: usize, query: Tensor, key: Tensor, value: Tensor, _window: Option<i64>) -> Tensor {
        let shape = query.size();
        let grouped = shape[1] != key.size()[1];
        let rows = |x: &Tensor| x.view([self.num_rows, -1, x.size()[1], x.size()[2]]).transpose(1, 2);
        let [q, k, v] = [&query, &key, &value].map(rows);
        let is_causal = self.mask.is_none() && q.size()[2] > 1;
        let (k, v) = self.cache.append(layer_idx, &k, &v); // [B, K, S, D]
        let out = Tensor::scaled_dot_product_attention(&q, &k, &v, self.mask.as_ref(), 0.0, is_causal, None, grouped);
        out.transpose(1, 2).reshape(&shape)
    }
}

/// Left padding: how many columns of each row hold no token.
struct Padding {
    /// `[B, 1]`
    counts: Tensor,
}

impl Padding {
    fn new(counts: &[i64], device: Device) -> Self {
        Self {
            counts: Tensor::from_slice(counts).to_device(device).unsqueeze(-1),
        }
    }

    fn select_rows(&self, rows: &Tensor) -> Self {
        Self {
            counts: self.counts.index_select(0, rows),
        }
    }

    fn columns(&self, count: i64) -> Tensor {
        Tensor::arange(count, (Kind::Int64, self.counts.device()))
    }

    /// Positions `[B, 1]` of the token in column `column`.
    fn positions(&self, column: i64) -> Tensor {
        -&self.counts + column
    }

    /// Where one new token may look, `[B, 1, 1, S]`.
    fn mask(&self, num_columns: i64) -> Tensor {
        self.columns(num_columns)
            .ge_tensor(&self.counts)
            .unsqueeze(1)
            .unsqueeze(1)
    }

    /// Positions `[B, T]` of a whole prompt; 0 on padding.
    fn prompt_positions(&self, num_columns: i64) -> Tensor {
        (self.columns(num_columns) - &self.counts).clamp_min(0)
    }

    /// Where each token of a prompt may look, `[B, 1, T, T]`.
    fn prompt_mask(&self, num_columns: i64) -> Tensor {
        let columns = self.columns(num_columns);
        let causal = columns.unsqueeze(0).le_tensor(&columns.unsqueeze(1)); // [T, T]
        let real = columns.ge_tensor(&self.counts).unsqueeze(1); // [B, 1, T]
        // Padding looks at itself: a row of attention with nothing to see would be NaN and spread.
        let itself = columns.unsqueeze(0).eq_tensor(&columns.unsqueeze(1));
        causal.logical_and(&real).logical_or(&itself).unsqueeze(1)
    }
}
