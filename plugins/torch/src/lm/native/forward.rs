//! One step: all new tokens of all chunks through the decoder, as one flat list.
//!
//! Every thread of the team runs the same code; what stands in `each` is shared out among them. `N` tokens, `H` hidden
//! size, `I` intermediate size, `D` head size as in [`crate::lm::model`].

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Rotations;
use super::attention::{self, Attention, Row};
use super::matmul::Product;
use super::pages::{PageAddress, Pages};
use super::rows::{AddScaled, RmsNorm, Rotate, SwiGlu};
use super::sample::{self, Sampler};
use super::shared::Rows;
use super::simd::Isa;
use super::team::{Member, Team};
use super::weights::{Array, Layer, Linear, Weights};
use crate::lm::config::Config;
use crate::lm::generate::backend::{Chunk, Drawn, PAGE_SIZE};

/// Outputs of a product in a task.
const OUTPUTS_AT_ONCE: usize = 64;

/// Logits in a task.
const LOGITS_AT_ONCE: usize = 256;

/// Inputs of a product in a task, in floats: they stay in the second cache while panels of weights pass by.
const INPUTS_AT_ONCE: usize = 96 * 1024;

/// Rows of a product in a task, at most.
const MAX_ROWS_AT_ONCE: usize = 128;

/// Rows that are normalized in a task.
const NORMS_AT_ONCE: usize = 8;

/// Tokens of a chunk whose attention is one task for each head.
const TOKENS_AT_ONCE: usize = 16;

/// What a step reads.
pub struct Step<'a> {
    pub isa: Isa,
    pub config: &'a Config,
    pub weights: &'a Weights,
    pub pages: &'a Pages,
    pub rotations: &'a Rotations,
    pub chunks: &'a [Chunk<'a>],
}

/// Buffers that are kept from step to step.
#[derive(Debug, Default)]
pub struct Scratch {
    x: Vec<f32>,
    selected: Vec<f32>,
    normed: Vec<f32>,
    query: Vec<f32>,
    attended: Vec<f32>,
    activated: Vec<f32>,
    low_rank: [Vec<f32>; 3],
    logits: Vec<f32>,
    locals: Vec<Mutex<Local>>,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
struct Local {
    tile: Vec<f32>,
    second_tile: Vec<f32>,
    third_tile: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    sampler: Sampler,
}

/// The shared buffers of a step as matrices.
struct Buffers {
    /// `[N, H]`, the residual stream.
    x: Rows,
    /// `[S, H]`, the same for the tokens that something is drawn after.
    selected: Rows,
    /// `[N, H]`
    normed: Rows,
    /// `[N, Q * D]`
    query: Rows,
    /// `[N, Q * D]`
    attended: Rows,
    /// `[N, I]`
    activated: Rows,
    /// `[N, r]` for each of the up to three matrices that read the same input.
    low_rank: [Rows; 3],
    /// `[S, V]`
    logits: Rows,
}

/// A new token.
struct Token {
    id: usize,
    chunk_idx: usize,
    position: usize,
}

/// Tokens of one chunk whose attention is computed together.
struct Block {
    /// Indices of the tokens.
    tokens: Range<usize>,
    /// The row that the first one's result goes to.
    row: usize,
}

/// The step's tokens and what is computed of which.
struct Plan {
    tokens: Vec<Token>,
    blocks: Vec<Block>,
    /// The tokens that something is drawn after: all that the last layer computes.
    selected: Vec<usize>,
    selected_blocks: Vec<Block>,
    /// For each chunk the addresses of its pages.
    pages: Vec<Vec<PageAddress>>,
    /// For each draw its chunk, its index there and the row of the logits.
    draws: Vec<(usize, usize, usize)>,
}

impl Plan {
    fn new(step: &Step<'_>) -> Self {
        let mut plan = Self {
            tokens: Vec::new(),
            blocks: Vec::new(),
            selected: Vec::new(),
            selected_blocks: Vec::new(),
            pages: Vec::with_capacity(step.chunks.len()),
            draws: Vec::new(),
        };
        for (chunk_idx, chunk) in step.chunks.iter().enumerate() {
            let start = plan.tokens.len();
            plan.tokens.extend(chunk.ids.iter().enumerate().map(|(idx, &id)| Token {
                id: id as usize,
                chunk_idx,
                position: chunk.start + idx,
            }));
            let end = plan.tokens.len();
            plan.blocks
                .extend((start..end).step_by(TOKENS_AT_ONCE).map(|first| Block {
                    tokens: first..(first + TOKENS_AT_ONCE).min(end),
                    row: first,
                }));
            let num_pages = (chunk.start + chunk.ids.len()).div_ceil(PAGE_SIZE);
            let addresses = chunk.pages[..num_pages].iter().map(|&id| step.pages.page(id));
            plan.pages.push(addresses.collect());
            if !chunk.draws.is_empty() {
                let row = plan.selected.len();
                plan.selected.push(end - 1);
                plan.selected_blocks.push(Block {
                    tokens: end - 1..end,
                    row,
                });
                plan.draws
                    .extend((0..chunk.draws.len()).map(|draw_idx| (chunk_idx, draw_idx, row)));
            }
        }
        plan
    }
}

impl Scratch {
    /// The logits `[S, V]` of the last step, for each chunk with draws.
    #[cfg(test)]
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    fn buffers(&mut self, step: &Step<'_>, plan: &Plan) -> Buffers {
        let (config, num_tokens) = (step.config, plan.tokens.len());
        let hidden = config.hidden_size as usize;
        let heads = (config.num_attention_heads * config.head_dim) as usize;
        let rank = step.weights.max_rank();
        Buffers {
            x: Rows::within(&mut self.x, num_tokens, hidden),
            selected: Rows::within(&mut self.selected, plan.selected.len(), hidden),
            normed: Rows::within(&mut self.normed, num_tokens, hidden),
            query: Rows::within(&mut self.query, num_tokens, heads),
            attended: Rows::within(&mut self.attended, num_tokens, heads),
            activated: Rows::within(&mut self.activated, num_tokens, config.intermediate_size as usize),
            low_rank: self
                .low_rank
                .each_mut()
                .map(|buffer| Rows::within(buffer, num_tokens, rank)),
            logits: Rows::within(&mut self.logits, plan.selected.len(), config.vocab_size as usize),
        }
    }
}

impl Step<'_> {
    /// Computes the step and returns what was drawn for each chunk.
    pub fn run(&self, team: &mut Team, scratch: &mut Scratch) -> Vec<Vec<Drawn>> {
        let plan = Plan::new(self);
        let buffers = scratch.buffers(self, &plan);
        scratch.locals.resize_with(team.size(), Mutex::default);
        let locals = &scratch.locals;
        let drawn = Mutex::new(Vec::with_capacity(plan.draws.len()));
        team.run(|member| {
            let mut local = lock(&locals[member.idx]);
            let work = Work {
                step: self,
                member,
                plan: &plan,
                buffers: &buffers,
            };
            work.decoder(&mut local);
            work.draw(&mut local, &drawn);
        });
        let mut drawn = drawn.into_inner().unwrap_or_else(PoisonError::into_inner);
        drawn.sort_by_key(|(idx, _)| *idx);
        let mut lists: Vec<Vec<Drawn>> = vec![Vec::new(); self.chunks.len()];
        for (idx, token) in drawn {
            lists[plan.draws[idx].0].push(token);
        }
        lists
    }
}

/// Locks what no other thread holds. What a panic left in a buffer is overwritten before it is read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rows and outputs of one task of a product.
struct Part {
    rows: Range<usize>,
    outputs: Range<usize>,
}

/// One thread's view of a step.
///
/// SAFETY of the kernels' calls: the instructions are there, as `Step::isa` is one of [`Isa::available`]; the buffers
/// have the shapes that the comments say, [`Rows::row`] and [`Array::row`] check the first index, and the config agrees
/// with the weights' shapes; a task writes only rows and columns of its own, and what it reads was written in an
/// earlier phase.
struct Work<'a> {
    step: &'a Step<'a>,
    member: &'a Member<'a>,
    plan: &'a Plan,
    buffers: &'a Buffers,
}

impl Work<'_> {
    /// Computes the logits after the selected tokens, and the keys and values of all.
    fn decoder(&self, local: &mut Local) {
        let Buffers {
            mut x,
            normed,
            attended,
            activated,
            ..
        } = *self.buffers;
        let weights = self.step.weights;
        let (mut num_rows, mut blocks) = (self.plan.tokens.len(), &self.plan.blocks);
        self.embed();
        for (layer_idx, layer) in weights.layers.iter().enumerate() {
            self.norm(x, num_rows, layer.input_layernorm);
            self.heads(layer_idx, layer, local);
            if layer_idx + 1 == weights.layers.len() {
                // Nobody looks at the other tokens any more.
                self.select();
                (x, num_rows, blocks) = (
                    self.buffers.selected,
                    self.plan.selected.len(),
                    &self.plan.selected_blocks,
                );
            }
            self.attention(layer_idx, blocks, local);
            self.project(attended, num_rows, &layer.o_proj, x, local);
            self.norm(x, num_rows, layer.post_attention_layernorm);
            self.gate(layer, num_rows, local);
            self.project(activated, num_rows, &layer.down_proj, x, local);
        }
        self.norm(x, num_rows, weights.norm);
        self.logits(normed, num_rows);
    }

    fn embed(&self) {
        let (x, embeddings) = (self.buffers.x, self.step.weights.embed_tokens);
        self.member
            .each(self.plan.tokens.len().div_ceil(NORMS_AT_ONCE), |task| {
                for idx in block(task, NORMS_AT_ONCE, self.plan.tokens.len()) {
                    let from = embeddings.row(self.plan.tokens[idx].id);
                    // SAFETY: see `Work`.
                    unsafe { std::ptr::copy_nonoverlapping(from, x.row(idx), x.width()) };
                }
            });
    }

    /// Takes the selected rows out of the residual stream.
    fn select(&self) {
        let (x, selected) = (self.buffers.x, self.buffers.selected);
        self.member.each(self.plan.selected.len(), |row| {
            // SAFETY: see `Work`.
            unsafe { std::ptr::copy_nonoverlapping(x.row(self.plan.selected[row]), selected.row(row), x.width()) };
        });
    }

    /// `normed = norm(x)`
    fn norm(&self, x: Rows, num_rows: usize, weight: Array) {
        self.member.each(num_rows.div_ceil(NORMS_AT_ONCE), |task| {
            for row in block(task, NORMS_AT_ONCE, num_rows) {
                self.norm_row(x.row(row), weight, self.buffers.normed.row(row));
            }
        });
    }

    fn norm_row(&self, from: *const f32, weight: Array, to: *mut f32) {
        let norm = RmsNorm {
            from,
            weight: weight.start,
            to,
            len: weight.num_rows,
            epsilon: self.step.config.rms_norm_eps as f32,
        };
        // SAFETY: see `Work`.
        unsafe { self.step.isa.run(norm) };
    }

    /// Computes queries, and keys and values into the pages.
    fn heads(&self, layer_idx: usize, layer: &Layer, local: &mut Local) {
        let config = self.step.config;
        let (num_queries, num_keys) = (config.num_attention_heads as usize, config.num_key_value_heads as usize);
        let (normed, num_rows) = (self.buffers.normed, self.plan.tokens.len());
        self.shrink(normed, num_rows, &[&layer.q_proj, &layer.k_proj, &layer.v_proj]);
        let dim = config.head_dim as usize;
        self.parts(num_rows, num_queries + 2 * num_keys, 1, normed.width(), |part| {
            let head = part.outputs.start;
            let (linear, head, low_rank) = if head < num_queries {
                (&layer.q_proj, head, 0)
            } else if head < num_queries + num_keys {
                (&layer.k_proj, head - num_queries, 1)
            } else {
                (&layer.v_proj, head - num_queries - num_keys, 2)
            };
            let outputs = head * dim..(head + 1) * dim;
            let Local { tile, second_tile, .. } = local;
            let of_head = Part {
                rows: part.rows.clone(),
                outputs,
            };
            let tile = self.product(normed, linear, low_rank, &of_head, tile, second_tile);
            for (tile_row, token_idx) in part.rows.enumerate() {
                let values = tile.row(tile_row);
                match low_rank {
                    0 => self.keep_query(token_idx, head, layer, values),
                    1 => self.keep_key(token_idx, layer_idx, head, layer, values),
                    _ => self.keep_value(token_idx, layer_idx, head, values),
                }
            }
        });
    }

    fn keep_query(&self, token_idx: usize, head: usize, layer: &Layer, values: *mut f32) {
        self.norm_and_rotate(token_idx, layer.q_norm, values);
        let dim = self.step.config.head_dim as usize;
        // SAFETY: see `Work`.
        unsafe {
            let to = self.buffers.query.row(token_idx).add(head * dim);
            std::ptr::copy_nonoverlapping(values, to, dim);
        }
    }

    fn keep_key(&self, token_idx: usize, layer_idx: usize, head: usize, layer: &Layer, values: *mut f32) {
        self.norm_and_rotate(token_idx, layer.k_norm, values);
        let (page, slot) = self.slot(token_idx);
        // SAFETY: see `Work`; no other token has this slot.
        unsafe {
            let to = page.add(self.step.pages.shape.keys_at(layer_idx, head) + slot);
            for d in 0..self.step.config.head_dim as usize {
                *to.add(d * PAGE_SIZE) = *values.add(d);
            }
        }
    }

    fn keep_value(&self, token_idx: usize, layer_idx: usize, head: usize, values: *mut f32) {
        let shape = self.step.pages.shape;
        let (page, slot) = self.slot(token_idx);
        // SAFETY: see `Work`; no other token has this slot.
        unsafe {
            let to = page.add(shape.values_at(layer_idx, head) + slot * shape.padded_dim());
            std::ptr::copy_nonoverlapping(values, to, shape.head_dim);
        }
    }

    /// Where a token's key and value go: the page and the index in it.
    fn slot(&self, token_idx: usize) -> (*mut f32, usize) {
        let Token {
            chunk_idx, position, ..
        } = self.plan.tokens[token_idx];
        let PageAddress(page) = self.plan.pages[chunk_idx][position / PAGE_SIZE];
        (page, position % PAGE_SIZE)
    }

    fn norm_and_rotate(&self, token_idx: usize, norm: Option<Array>, values: *mut f32) {
        if let Some(weight) = norm {
            self.norm_row(values, weight, values);
        }
        let half = self.step.config.head_dim as usize / 2;
        let table = self.plan.tokens[token_idx].position * half;
        let rotate = Rotate {
            head: values,
            cos: self.step.rotations.cos[table..table + half].as_ptr(),
            sin: self.step.rotations.sin[table..table + half].as_ptr(),
            half,
        };
        // SAFETY: see `Work`.
        unsafe { self.step.isa.run(rotate) };
    }

    /// Computes what the tokens of `blocks` gather, into their rows of `attended`.
    fn attention(&self, layer_idx: usize, blocks: &[Block], local: &mut Local) {
        let num_heads = self.step.config.num_key_value_heads as usize;
        self.member.each(blocks.len() * num_heads, |task| {
            self.attend(layer_idx, task % num_heads, &blocks[task / num_heads], local);
        });
    }

    /// Computes a block for all query heads that share a key/value head.
    fn attend(&self, layer_idx: usize, head: usize, block: &Block, local: &mut Local) {
        let (config, shape) = (self.step.config, self.step.pages.shape);
        let (dim, group) = (shape.head_dim, config.num_attention_heads as usize / shape.num_heads);
        let window = config.sliding_windows[layer_idx].map(|window| window.max(1) as usize);
        let pages = &self.plan.pages[self.plan.tokens[block.tokens.start].chunk_idx];
        local
            .scores
            .resize(local.scores.len().max(attention::scores_len(pages.len())), 0.0);
        local.sums.resize(attention::MAX_ROWS * shape.padded_dim(), 0.0);
        let row = |idx: usize| {
            let (token, query_head) = (idx / group, head * group + idx % group);
            let token_idx = block.tokens.start + token;
            let last = self.plan.tokens[token_idx].position;
            // SAFETY: heads lie one behind the other in a row.
            unsafe {
                Row {
                    query: self.buffers.query.row(token_idx).add(query_head * dim),
                    out: self.buffers.attended.row(block.row + token).add(query_head * dim),
                    first: window.map_or(0, |window| (last + 1).saturating_sub(window)),
                    last,
                }
            }
        };
        let num_rows = block.tokens.len() * group;
        for start in (0..num_rows).step_by(attention::MAX_ROWS) {
            let count = attention::MAX_ROWS.min(num_rows - start);
            let mut rows = [row(start); attention::MAX_ROWS];
            for (idx, slot) in rows[..count].iter_mut().enumerate() {
                *slot = row(start + idx);
            }
            let attention = Attention {
                rows: &rows[..count],
                pages,
                keys_at: shape.keys_at(layer_idx, head),
                values_at: shape.values_at(layer_idx, head),
                head_dim: dim,
                padded_dim: shape.padded_dim(),
                scale: (1.0 / (dim as f64).sqrt()) as f32,
                scores: &mut local.scores,
                sums: &mut local.sums,
            };
            // SAFETY: see `Work`; the pages up to the last position were written in this step or before.
            unsafe { self.step.isa.run(attention) };
        }
    }

    /// `x += linear(input)`
    fn project(&self, input: Rows, num_rows: usize, linear: &Linear, x: Rows, local: &mut Local) {
        self.shrink(input, num_rows, &[linear]);
        self.parts(
            num_rows,
            linear.weight.num_rows,
            OUTPUTS_AT_ONCE,
            input.width(),
            |part| {
                let Local { tile, second_tile, .. } = local;
                let tile = self.product(input, linear, 0, &part, tile, second_tile);
                for (tile_row, row) in part.rows.clone().enumerate() {
                    // SAFETY: see `Work`.
                    unsafe {
                        let to = x.row(row).add(part.outputs.start);
                        self.add(tile.row(tile_row), 1.0, to, part.outputs.len());
                    }
                }
            },
        );
    }

    /// `activated = silu(gate(normed)) * up(normed)`
    fn gate(&self, layer: &Layer, num_rows: usize, local: &mut Local) {
        let Buffers { normed, activated, .. } = *self.buffers;
        self.shrink(normed, num_rows, &[&layer.gate_proj, &layer.up_proj]);
        self.parts(num_rows, activated.width(), OUTPUTS_AT_ONCE, normed.width(), |part| {
            let Local {
                tile,
                second_tile,
                third_tile,
                ..
            } = local;
            let gate = self.product(normed, &layer.gate_proj, 0, &part, tile, third_tile);
            let up = self.product(normed, &layer.up_proj, 1, &part, second_tile, third_tile);
            for (tile_row, row) in part.rows.clone().enumerate() {
                // SAFETY: see `Work`.
                unsafe {
                    self.step.isa.run(SwiGlu {
                        gate: gate.row(tile_row),
                        up: up.row(tile_row),
                        to: activated.row(row).add(part.outputs.start),
                        len: part.outputs.len(),
                    });
                }
            }
        });
    }

    fn logits(&self, input: Rows, num_rows: usize) {
        let (output, logits) = (self.step.weights.output, self.buffers.logits);
        self.parts(num_rows, output.num_rows, LOGITS_AT_ONCE, input.width(), |part| {
            // SAFETY: see `Work`.
            unsafe {
                self.step.isa.run(Product {
                    x: input.row(part.rows.start),
                    x_stride: input.width(),
                    num_rows: part.rows.len(),
                    w: output.row(part.outputs.start),
                    depth: output.width,
                    num_outputs: part.outputs.len(),
                    y: logits.row(part.rows.start).add(part.outputs.start),
                    y_stride: logits.width(),
                });
            }
        });
    }

    fn draw(&self, local: &mut Local, drawn: &Mutex<Vec<(usize, Drawn)>>) {
        let logits = self.buffers.logits;
        self.member.each(self.plan.draws.len(), |idx| {
            let (chunk_idx, draw_idx, row) = self.plan.draws[idx];
            // SAFETY: see `Work`; nobody writes logits any more.
            let row = unsafe { std::slice::from_raw_parts(logits.row(row), logits.width()) };
            let draw = &self.step.chunks[chunk_idx].draws[draw_idx];
            let token = sample::draw(self.step.isa, row, draw, &mut local.sampler);
            lock(drawn).push((idx, token));
        });
    }

    /// Shares out a product of `num_rows` rows and `num_outputs` outputs. Tasks with the same weights follow each other.
    fn parts(
        &self,
        num_rows: usize,
        num_outputs: usize,
        outputs_at_once: usize,
        depth: usize,
        mut task: impl FnMut(Part),
    ) {
        let rows_at_once = (INPUTS_AT_ONCE / depth / 4 * 4).clamp(16, MAX_ROWS_AT_ONCE);
        let row_blocks = num_rows.div_ceil(rows_at_once);
        let output_blocks = num_outputs.div_ceil(outputs_at_once);
        self.member.each(row_blocks * output_blocks, |idx| {
            task(Part {
                rows: block(idx % row_blocks, rows_at_once, num_rows),
                outputs: block(idx / row_blocks, outputs_at_once, num_outputs),
            });
        });
    }

    /// Computes a part of `linear(input)` into `tile`. What an adapter needs of `input` is in `low_rank`.
    fn product(
        &self,
        input: Rows,
        linear: &Linear,
        low_rank: usize,
        part: &Part,
        tile: &mut Vec<f32>,
        adapter_tile: &mut Vec<f32>,
    ) -> Rows {
        let (num_rows, num_outputs) = (part.rows.len(), part.outputs.len());
        let multiply = |input: Rows, weight: Array, to: &mut Vec<f32>| {
            let to = Rows::within(to, num_rows, num_outputs);
            // SAFETY: see `Work`.
            unsafe {
                self.step.isa.run(Product {
                    x: input.row(part.rows.start),
                    x_stride: input.width(),
                    num_rows,
                    w: weight.row(part.outputs.start),
                    depth: weight.width,
                    num_outputs,
                    y: to.row(0),
                    y_stride: num_outputs,
                });
            }
            to
        };
        let tile = multiply(input, linear.weight, tile);
        let adapted = linear.adapter.map(|adapter| {
            let low_rank = multiply(self.buffers.low_rank[low_rank], adapter.b, adapter_tile);
            (low_rank, adapter.scaling)
        });
        for row in 0..num_rows {
            let to = tile.row(row);
            if let Some(bias) = linear.bias {
                self.add(bias.row(part.outputs.start), 1.0, to, num_outputs);
            }
            if let Some((low_rank, scaling)) = adapted {
                self.add(low_rank.row(row), scaling, to, num_outputs);
            }
        }
        tile
    }

    /// Computes `input A^T` for the adapters of matrices that read the same input.
    fn shrink(&self, input: Rows, num_rows: usize, linears: &[&Linear]) {
        if linears.iter().all(|linear| linear.adapter.is_none()) {
            return;
        }
        let num_blocks = num_rows.div_ceil(NORMS_AT_ONCE);
        self.member.each(num_blocks * linears.len(), |task| {
            let idx = task / num_blocks;
            let Some(adapter) = linears[idx].adapter else { return };
            let (to, rows) = (
                self.buffers.low_rank[idx],
                block(task % num_blocks, NORMS_AT_ONCE, num_rows),
            );
            // SAFETY: see `Work`.
            unsafe {
                self.step.isa.run(Product {
                    x: input.row(rows.start),
                    x_stride: input.width(),
                    num_rows: rows.len(),
                    w: adapter.a.start,
                    depth: adapter.a.width,
                    num_outputs: adapter.a.num_rows,
                    y: to.row(rows.start),
                    y_stride: to.width(),
                });
            }
        });
    }

    fn add(&self, from: *const f32, scale: f32, to: *mut f32, len: usize) {
        // SAFETY: see `Work`.
        unsafe { self.step.isa.run(AddScaled { from, scale, to, len }) };
    }
}

/// The `idx`-th of the blocks of `size` that `0..end` is cut into.
fn block(idx: usize, size: usize, end: usize) -> Range<usize> {
    idx * size..((idx + 1) * size).min(end)
}
