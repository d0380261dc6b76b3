//! The backend on libtorch: any device and kind of number.
//!
//! A step is one forward pass over a flat list of tokens. Attention gathers the pages of its rows, padded to the longest,
//! for as many rows at once as that wastes little. Shapes use `R` rows, `T` new tokens of a row, `S` tokens in its pages,
//! and the letters of [`crate::lm::model`]: `N` tokens, `Q` and `K` heads, `D` head size, `G = Q / K`.
//!
//! Nothing in a step waits for the device but the end, where all drawn tokens come back in one transfer.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::backend::{Backend, Chunk, Draw, Drawn, PAGE_SIZE, PageId};
use super::pages::pages_for;
use crate::lm::model::attention::Attend;
use crate::lm::sampler::sample;
use crate::lm::train::memory_errors;
use crate::lm::{CausalLm, LmError, device};

/// Cells of padded attention that cost less than another call.
const FREE_PADDING: usize = 1 << 14;

/// Tokens whose keys and values are gathered at once, at most: they are copies, one layer at a time.
const MAX_GATHERED: usize = 1 << 17;

/// A model with keys and values of its own.
pub struct TorchBackend {
    model: CausalLm,
    /// Of each layer, `[num_pages * PAGE_SIZE, K, D]`.
    pools: Vec<(Tensor, Tensor)>,
    /// Pages to copy before the next step, from and to.
    copies: Vec<(PageId, PageId)>,
    num_threads: usize,
    /// Cells of padded attention that are not counted.
    free_padding: usize,
}

impl TorchBackend {
    /// Returns a backend that has no pages yet.
    pub fn new(model: CausalLm, num_threads: usize) -> Self {
        let config = &model.config;
        let shape = [0, config.num_key_value_heads, config.head_dim];
        let empty = || Tensor::zeros(shape, (model.kind(), model.device()));
        let pools = (0..config.num_hidden_layers).map(|_| (empty(), empty())).collect();
        Self {
            model,
            pools,
            copies: Vec::new(),
            num_threads,
            free_padding: FREE_PADDING,
        }
    }

    fn copy_pages(&mut self) {
        if self.copies.is_empty() {
            return;
        }
        let _no_grad = tch::no_grad_guard();
        let list = |pages: Vec<PageId>| {
            let pages: Vec<i64> = pages.into_iter().map(i64::from).collect();
            Tensor::from_slice(&pages).to_device(self.model.device())
        };
        let (from, to) = self.copies.iter().copied().unzip();
        let (from, to) = (list(from), list(to));
        for pool in self.pools.iter().flat_map(|(keys, values)| [keys, values]) {
            let mut pages = in_pages(pool);
            let _ = pages.index_copy_(0, &to, &pages.index_select(0, &from));
        }
        // Not before: what ran out of memory on the way is done again.
        self.copies.clear();
    }

    fn compute(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<Vec<Drawn>>, LmError> {
        let _no_grad = tch::no_grad_guard();
        device::set_num_threads(self.num_threads);
        self.copy_pages();
        let model = &self.model;
        let mut upload = Upload::default();
        let ids = upload.add(chunks.iter().flat_map(|chunk| chunk.ids).copied());
        let positions = upload.add(chunks.iter().flat_map(positions_of));
        let slots = upload.add(
            chunks
                .iter()
                .flat_map(|chunk| positions_of(chunk).map(|at| slot(chunk.pages, at))),
        );
        let plan = Plan::new(chunks, self.free_padding, &mut upload);
        let draws: Vec<&Draw<'_>> = chunks.iter().flat_map(|chunk| &chunk.draws).collect();
        let drawn_after = upload.add(tokens_drawn_after(chunks));
        let rows = upload.add(rows_drawn_from(chunks));

        let uploaded = upload.to_device(model.device());
        let mut paged = Paged {
            pools: &mut self.pools,
            slots: uploaded.get(slots),
            buckets: plan.attention(&uploaded, model),
            spread: plan.spread.map(|range| uploaded.get(range)),
            gather: plan.gather.map(|range| uploaded.get(range)),
        };
        let hidden = model.hidden_states(&uploaded.get(ids), &uploaded.get(positions), &mut paged); // [N, H]
        if draws.is_empty() {
            return Ok(vec![Vec::new(); chunks.len()]);
        }
        let logits = model.logits(&hidden.index_select(0, &uploaded.get(drawn_after))); // one row for each chunk that draws
        let mut drawn = sample(&logits, &uploaded.get(rows), &draws)?.into_iter();
        Ok(chunks
            .iter()
            .map(|chunk| drawn.by_ref().take(chunk.draws.len()).collect())
            .collect())
    }
}

impl Backend for TorchBackend {
    fn page_bytes(&self) -> usize {
        let config = &self.model.config;
        let numbers_per_token = 2 * config.num_hidden_layers * (config.num_key_value_heads * config.head_dim) as usize;
        PAGE_SIZE * numbers_per_token * self.model.kind().elt_size_in_bytes()
    }

    fn reserve(&mut self, num_pages: usize) -> Result<(), LmError> {
        let _no_grad = tch::no_grad_guard();
        let num_cells = (num_pages * PAGE_SIZE) as i64;
        // One after the other, so that no more than one pool is there twice.
        for pool in self.pools.iter_mut().flat_map(|(keys, values)| [keys, values]) {
            let mut shape = pool.size();
            let num_old = std::mem::replace(&mut shape[0], num_cells);
            if num_old < num_cells {
                // Zeros, because what a mask hides is still multiplied: by 0, which makes NaN of a NaN.
                let grown = Tensor::f_zeros(&shape, (pool.kind(), pool.device()))?;
                grown.narrow(0, 0, num_old).f_copy_(pool)?;
                *pool = grown;
            }
        }
        Ok(())
    }

    /// Copies are collected: all pages that sequences part in are copied in one call for each pool.
    fn copy_page(&mut self, from: PageId, to: PageId) {
        if self.copies.iter().any(|&(_, copied)| copied == from) {
            self.copy_pages();
        }
        self.copies.retain(|&(_, copied)| copied != to);
        self.copies.push((from, to));
    }

    fn step(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<Vec<Drawn>>, LmError> {
        memory_errors(|| self.compute(chunks))
    }
}

fn positions_of(chunk: &Chunk<'_>) -> impl Iterator<Item = i64> {
    (chunk.start..chunk.start + chunk.ids.len()).map(|at| at as i64)
}

/// Where token `at` of a sequence lies in a pool.
fn slot(pages: &[PageId], at: i64) -> i64 {
    let at = at as usize;
    (pages[at / PAGE_SIZE] as usize * PAGE_SIZE + at % PAGE_SIZE) as i64
}

/// Returns a pool as `[num_pages, PAGE_SIZE, K, D]`.
fn in_pages(pool: &Tensor) -> Tensor {
    let size = pool.size();
    pool.view([-1, PAGE_SIZE as i64, size[1], size[2]])
}

/// The flat index of the last token of each chunk that draws.
fn tokens_drawn_after(chunks: &[Chunk<'_>]) -> Vec<i64> {
    let mut end = 0;
    let last = |chunk: &Chunk<'_>| {
        end += chunk.ids.len();
        (!chunk.draws.is_empty()).then_some(end as i64 - 1)
    };
    chunks.iter().filter_map(last).collect()
}

/// For each draw which of the chunks that draw it belongs to.
fn rows_drawn_from(chunks: &[Chunk<'_>]) -> Vec<i64> {
    let drawing = chunks.iter().filter(|chunk| !chunk.draws.is_empty());
    drawing
        .enumerate()
        .flat_map(|(row, chunk)| std::iter::repeat_n(row as i64, chunk.draws.len()))
        .collect()
}

/// Whole numbers on their way to the device, in one transfer for a step.
#[derive(Default)]
struct Upload {
    numbers: Vec<i64>,
}

/// A part of an [`Upload`].
#[derive(Debug, Clone, Copy)]
struct Part {
    start: i64,
    length: i64,
}

impl Upload {
    fn add(&mut self, numbers: impl IntoIterator<Item = i64>) -> Part {
        let start = self.numbers.len() as i64;
        self.numbers.extend(numbers);
        Part {
            start,
            length: self.numbers.len() as i64 - start,
        }
    }

    fn to_device(&self, device: Device) -> Uploaded {
        Uploaded(Tensor::from_slice(&self.numbers).to_device(device))
    }
}

struct Uploaded(Tensor);

impl Uploaded {
    fn get(&self, part: Part) -> Tensor {
        self.0.narrow(0, part.start, part.length)
    }
}

/// How the attention of a step is cut into calls.
struct Plan {
    buckets: Vec<Bucket>,
    /// The flat token in each cell of all buckets, one behind the other; absent where each is in its place.
    spread: Option<Part>,
    /// The cell of each flat token; absent with `spread`.
    gather: Option<Part>,
}

/// Rows that are computed in one call.
struct Bucket {
    num_rows: i64,
    /// `T` and `S` of the longest.
    num_new: i64,
    num_keys: i64,
    /// `[R * S / PAGE_SIZE]`: where the keys lie.
    pages: Part,
    /// `[R * T]`: positions of the new tokens.
    positions: Part,
}

impl Plan {
    fn new(chunks: &[Chunk<'_>], free_padding: usize, upload: &mut Upload) -> Self {
        let mut starts = Vec::with_capacity(chunks.len());
        let mut num_tokens = 0;
        for chunk in chunks {
            starts.push(num_tokens);
            num_tokens += chunk.ids.len();
        }
        let groups = grouped(chunks, free_padding);
        let (mut buckets, mut spread) = (Vec::with_capacity(groups.len()), Vec::new());
        let mut gather = vec![0; num_tokens];
        for group in groups {
            let num_new = group.iter().map(|&row| chunks[row].ids.len()).max().unwrap_or(0);
            let num_keys = group.iter().map(|&row| num_keys(&chunks[row])).max().unwrap_or(0);
            let (mut pages, mut positions) = (Vec::new(), Vec::new());
            for &row in &group {
                let chunk = &chunks[row];
                // Padding repeats the last token and, behind the last page, the first one; nothing looks there.
                for at in 0..num_new {
                    let at = at.min(chunk.ids.len() - 1);
                    spread.push((starts[row] + at) as i64);
                    positions.push((chunk.start + at) as i64);
                }
                let first_cell = spread.len() - num_new;
                for at in 0..chunk.ids.len() {
                    gather[starts[row] + at] = (first_cell + at) as i64;
                }
                let own = chunk.pages.iter().take(num_keys / PAGE_SIZE);
                let padded = own.chain(std::iter::repeat(&chunk.pages[0]));
                pages.extend(padded.take(num_keys / PAGE_SIZE).map(|&page| i64::from(page)));
            }
            buckets.push(Bucket {
                num_rows: group.len() as i64,
                num_new: num_new as i64,
                num_keys: num_keys as i64,
                pages: upload.add(pages),
                positions: upload.add(positions),
            });
        }
        let is_in_place = spread.len() == num_tokens && spread.is_sorted();
        Self {
            buckets,
            spread: (!is_in_place).then(|| upload.add(spread)),
            gather: (!is_in_place).then(|| upload.add(gather)),
        }
    }

    /// Makes the masks of each bucket, which all layers share.
    fn attention(&self, uploaded: &Uploaded, model: &CausalLm) -> Vec<Attention> {
        let config = &model.config;
        let num_groups = config.num_attention_heads / config.num_key_value_heads;
        let mut windows = config.sliding_windows.clone();
        windows.sort_unstable();
        windows.dedup();
        let attention = |bucket: &Bucket| {
            let positions = uploaded
                .get(bucket.positions)
                .view([bucket.num_rows, bucket.num_new, 1]);
            let keys = Tensor::arange(bucket.num_keys, (Kind::Int64, model.device())); // [S]
            let mask = |window: Option<i64>| {
                let mut hidden = keys.gt_tensor(&positions); // [R, T, S]
                if let Some(window) = window {
                    hidden = hidden.logical_or(&keys.le_tensor(&(&positions - window)));
                }
                let mask = hidden
                    .zeros_like()
                    .to_kind(model.kind())
                    .masked_fill(&hidden, f64::NEG_INFINITY);
                // The queries of one head of keys stand below each other: [R, 1, G * T, S].
                let (rows, new) = (bucket.num_rows, bucket.num_new);
                mask.unsqueeze(1)
                    .expand([rows, num_groups, new, bucket.num_keys], false)
                    .reshape([rows, 1, num_groups * new, bucket.num_keys])
            };
            Attention {
                num_rows: bucket.num_rows,
                num_new: bucket.num_new,
                pages: uploaded.get(bucket.pages),
                masks: windows.iter().map(|&window| (window, mask(window))).collect(),
            }
        };
        self.buckets.iter().map(attention).collect()
    }
}

/// Tokens in the pages that a chunk looks at.
fn num_keys(chunk: &Chunk<'_>) -> usize {
    pages_for(chunk.start + chunk.ids.len()) * PAGE_SIZE
}

/// Puts chunks of similar lengths together: padding may be as much as what is computed, and a little in any case.
fn grouped(chunks: &[Chunk<'_>], free_padding: usize) -> Vec<Vec<usize>> {
    let padded = |count: usize, new: usize, keys: usize| count * new * keys;
    let shape = |row: usize| (chunks[row].ids.len(), num_keys(&chunks[row]));
    let longest = |rows: &[usize]| {
        let keys = rows.iter().map(|&row| shape(row).1).max().unwrap_or(0);
        (rows.iter().map(|&row| shape(row).0).max().unwrap_or(0), keys)
    };
    let is_cheap = |real: usize, count: usize, new: usize, keys: usize| {
        padded(count, new, keys) <= (2 * real).max(real + free_padding) && (count * keys <= MAX_GATHERED || count == 1)
    };
    let area = |row: usize| shape(row).0 * shape(row).1;
    let all: Vec<usize> = (0..chunks.len()).collect();
    let (new, keys) = longest(&all);
    if is_cheap(all.iter().map(|&row| area(row)).sum(), all.len(), new, keys) {
        // In their own order, which spares moving the tokens.
        return vec![all];
    }
    let mut order = all;
    order.sort_by_key(|&row| std::cmp::Reverse(shape(row)));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let (mut real, mut new, mut keys) = (0, 0, 0);
    for row in order {
        let (row_new, row_keys) = shape(row);
        match groups.last_mut() {
            Some(group) if is_cheap(real + area(row), group.len() + 1, new, keys.max(row_keys)) => {
                group.push(row);
                real += area(row);
                keys = keys.max(row_keys);
            }
            _ => {
                groups.push(vec![row]);
                (real, new, keys) = (area(row), row_new, row_keys);
            }
        }
    }
    groups
}

/// One call of attention.
struct Attention {
    num_rows: i64,
    num_new: i64,
    /// `[R * S / PAGE_SIZE]`
    pages: Tensor,
    /// What is added to the scores, `[R, 1, G * T, S]`, for each window that a layer may have.
    masks: BTreeMap<Option<i64>, Tensor>,
}

/// Attention to the pages of each token's sequence, and storage of the new keys and values in them.
struct Paged<'a> {
    pools: &'a mut [(Tensor, Tensor)],
    /// `[N]`: where the new tokens lie in a pool.
    slots: Tensor,
    buckets: Vec<Attention>,
    spread: Option<Tensor>,
    gather: Option<Tensor>,
}

impl Attend for Paged<'_> {
    fn attend(&mut self, layer_idx: usize, query: Tensor, key: Tensor, value: Tensor, window: Option<i64>) -> Tensor {
        let (keys, values) = &mut self.pools[layer_idx];
        let _ = keys.index_copy_(0, &self.slots, &key);
        let _ = values.index_copy_(0, &self.slots, &value);
        let (num_queries, num_keys, size) = (query.size()[1], key.size()[1], key.size()[2]);
        let num_groups = num_queries / num_keys;
        let query = match &self.spread {
            Some(spread) => query.index_select(0, spread),
            None => query,
        };
        let mut first = 0;
        let mut outputs = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            let (rows, new) = (bucket.num_rows, bucket.num_new);
            // Queries of one head of keys as further rows: the fused kernels with a mask know no grouped queries.
            let q = query
                .narrow(0, first, rows * new)
                .view([rows, new, num_keys, num_groups, size])
                .permute([0, 2, 3, 1, 4])
                .reshape([rows, num_keys, num_groups * new, size]);
            let gathered = |pool: &Tensor| {
                let pages = in_pages(pool).index_select(0, &bucket.pages);
                pages.view([rows, -1, num_keys, size]).transpose(1, 2)
            };
            let (k, v) = (gathered(keys), gathered(values)); // [R, K, S, D]
            let mask = Some(&bucket.masks[&window]);
            let out = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, false, None, false);
            let cells = out
                .view([rows, num_keys, num_groups, new, size])
                .permute([0, 3, 1, 2, 4])
                .reshape([rows * new, num_queries, size]);
            outputs.push(cells);
            first += rows * new;
        }
        let cells = match outputs.len() {
            1 => outputs.pop().expect("there is one"),
            _ => Tensor::cat(&outputs, 0),
        };
        match &self.gather {
            Some(gather) => cells.index_select(0, gather),
            None => cells,
        }
    }
}

#[cfg(test)]
impl TorchBackend {
    /// Counts all padding, so that small models show what large ones do.
    pub fn without_free_padding(mut self) -> Self {
        self.free_padding = 0;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::config::{Config, NewModel};
    use crate::lm::model::attention::Packed;
    use crate::lm::sampler::Sampling;

    /// A model of grouped queries whose second layer sees nine tokens.
    fn model(kind: Kind) -> CausalLm {
        let new = NewModel {
            hidden_size: 48,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 6,
            num_key_value_heads: 2,
            max_position_embeddings: 128,
            rope_theta: 10_000.0,
            tie_word_embeddings: false,
            initializer_range: 0.2,
        };
        let mut config = Config::new(&new, 64, 0, 0).expect("the shape is sound");
        config.sliding_windows = vec![None, Some(9)];
        let model = CausalLm::random(config.clone(), 5, Device::Cpu).expect("it is made");
        let tensors = model.named_parameters().into_iter().collect();
        CausalLm::from_tensors(config, &tensors, Device::Cpu, kind).expect("they are all there")
    }

    fn chunk<'a>(pages: &'a [PageId], start: usize, ids: &'a [i64]) -> Chunk<'a> {
        Chunk {
            pages,
            start,
            ids,
            draws: Vec::new(),
        }
    }

    #[test]
    fn chunks_of_similar_lengths_share_a_call() {
        let pages: Vec<PageId> = (0..20).collect();
        let ids = vec![0; 300];
        let lengths = [(0, 16), (300, 1), (15, 1), (310, 1), (0, 1), (0, 200)];
        let chunks: Vec<Chunk<'_>> = lengths
            .iter()
            .map(|&(start, len)| chunk(&pages, start, &ids[..len]))
            .collect();
        assert_eq!(grouped(&chunks, usize::MAX / 2), [vec![0, 1, 2, 3, 4, 5]]);
        // As long as padding is no more than what is computed.
        assert_eq!(grouped(&chunks, 0), [vec![5, 0], vec![3, 1, 2, 4]]);
        assert_eq!(grouped(&chunks[2..5], 0), [vec![1, 0], vec![2]]);
    }

    #[test]
    fn chunked_paged_steps_give_what_whole_sequences_give_in_each_kind() {
        let _no_grad = tch::no_grad_guard();
        // bfloat16 has 8 bits, float16 11; logits are of the order of 1.
        for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::Half, 2e-2), (Kind::BFloat16, 1e-1)] {
            let model = model(kind);
            let mut backend = TorchBackend::new(model.share(), 1).without_free_padding();
            backend.reserve(3).expect("it is little");
            let sequences: [Vec<i64>; 3] = [40, 3, 21].map(|len| (0..len).map(|at| at * 7 % 64).collect());
            // What lies in the pages is kept as the room grows.
            let pages: [&[PageId]; 3] = [&[4, 0, 2], &[1], &[5, 3]];
            let cuts = [[0, 18, 39, 40], [0, 0, 1, 3], [0, 1, 16, 21]];
            let mut got = vec![Vec::new(); 3];
            for step in 0..3 {
                backend.reserve(3 + 3 * step).expect("it is little");
                let pages: Vec<Vec<PageId>> = match step {
                    0 => vec![vec![0, 2], vec![], vec![1]],
                    _ => pages.iter().map(|pages| pages.to_vec()).collect(),
                };
                if step == 1 {
                    // As if one after the other: over a page that was copied, from a copy, and twice to the same one.
                    for (from, to) in [(1, 5), (2, 4), (0, 4), (2, 0), (0, 3), (3, 0)] {
                        backend.copy_page(from, to);
                    }
                }
                let rows: Vec<usize> = (0..3).filter(|&row| cuts[row][step] < cuts[row][step + 1]).collect();
                let chunks: Vec<Chunk<'_>> = rows
                    .iter()
                    .map(|&row| Chunk {
                        pages: &pages[row],
                        start: cuts[row][step],
                        ids: &sequences[row][cuts[row][step]..cuts[row][step + 1]],
                        draws: vec![
                            Draw {
                                sampling: Sampling::GREEDY,
                                uniform: 0.0,
                                seen: &[],
                            };
                            row + 1
                        ],
                    })
                    .collect();
                let drawn = backend.step(&chunks).expect("it is computed");
                for (&row, drawn) in rows.iter().zip(drawn) {
                    assert_eq!(drawn.len(), row + 1);
                    assert!(drawn.iter().all(|other| *other == drawn[0]));
                    got[row].push((cuts[row][step + 1] - 1, drawn[0]));
                }
            }
            for (sequence, got) in sequences.iter().zip(got) {
                let lengths = [sequence.len()];
                let positions = Packed::positions(&lengths, Device::Cpu);
                let mut attend = Packed::new(&lengths, Device::Cpu);
                let hidden = model.hidden_states(&Tensor::from_slice(sequence), &positions, &mut attend);
                let logprobs = model.logits(&hidden).log_softmax(-1, Kind::Float);
                for (at, drawn) in got {
                    let expected = logprobs.double_value(&[at as i64, drawn.id]);
                    let best = logprobs.get(at as i64).max().double_value(&[]);
                    let logprob = f64::from(drawn.logprob);
                    assert!(
                        (logprob - expected).abs() <= tolerance,
                        "{kind:?} at {at}: {logprob}, {expected}"
                    );
                    assert!(
                        best - expected <= tolerance,
                        "{kind:?} at {at}: another token is likelier"
                    );
                }
            }
        }
    }
}
