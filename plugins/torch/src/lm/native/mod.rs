//! Generation in f32 on the CPU with kernels of our own.
//!
//! libtorch's products round differently for different numbers of rows, and so what a sequence gets would depend on its
//! neighbours. Here every number of a token is computed by a sequence of operations that depends on that token's own
//! inputs alone: not on the batch, the chunks that a prompt is cut into, the pages, or the number of threads. It is also
//! faster: weights are read where they are, once per step, and nothing is allocated on the way.

mod attention;
mod forward;
mod huge_pages;
mod matmul;
mod pages;
mod rows;
mod sample;
mod shared;
mod simd;
mod team;
mod weights;

#[cfg(test)]
mod tests;

use tch::{Kind, Tensor};

use self::forward::{Scratch, Step};
use self::pages::{Pages, Shape};
use self::simd::Isa;
use self::team::Team;
use self::weights::Weights;
use crate::lm::generate::backend::{Backend, Chunk, Drawn, PageId};
use crate::lm::{CausalLm, LmError};

/// Positions whose rotations are looked up at once.
const ROTATIONS_AT_ONCE: usize = 256;

/// The CPU backend for f32 weights.
#[derive(Debug)]
pub struct NativeBackend {
    isa: Isa,
    /// Keeps the weights' memory.
    model: CausalLm,
    weights: Weights,
    pages: Pages,
    team: Team,
    rotations: Rotations,
    scratch: Scratch,
}

impl NativeBackend {
    /// Returns a backend over the model's own weights; nothing unless they are contiguous f32 on the CPU.
    ///
    /// Weights may be changed in place between steps, and the next step sees it; a page computed before stays as it was.
    ///
    /// # Errors
    /// The threads can't be started.
    pub fn new(model: &CausalLm, num_threads: usize) -> Result<Option<Self>, LmError> {
        Self::with_isa(model, num_threads, Isa::best())
    }

    fn with_isa(model: &CausalLm, num_threads: usize, isa: Isa) -> Result<Option<Self>, LmError> {
        let model = model.share();
        let Some(weights) = Weights::borrow(&model) else {
            return Ok(None);
        };
        huge_pages::ask_for(
            weights
                .arrays()
                .map(|array| (array.start, array.num_rows * array.width)),
        );
        let config = &model.config;
        Ok(Some(Self {
            isa,
            weights,
            pages: Pages::new(Shape {
                num_layers: config.num_hidden_layers,
                num_heads: config.num_key_value_heads as usize,
                head_dim: config.head_dim as usize,
            }),
            team: Team::new(num_threads)?,
            rotations: Rotations::default(),
            scratch: Scratch::default(),
            model,
        }))
    }

    /// Ids must be rows of the embeddings, positions such as the model was made for.
    fn check(&self, chunks: &[Chunk<'_>]) -> Result<(), LmError> {
        let vocab_size = self.model.config.vocab_size;
        let context = self.model.config.max_position_embeddings as usize;
        for chunk in chunks {
            if chunk.ids.is_empty() && !chunk.draws.is_empty() {
                return Err(LmError::Torch("nothing can be drawn after no tokens".to_owned()));
            }
            if let Some(id) = chunk.ids.iter().find(|id| !(0..vocab_size).contains(id)) {
                return Err(LmError::Torch(format!(
                    "token id {id} is not in the model's vocabulary of {vocab_size}"
                )));
            }
            if chunk.start + chunk.ids.len() > context {
                return Err(LmError::Torch(format!(
                    "a sequence of {} tokens is longer than the model's context of {context}",
                    chunk.start + chunk.ids.len()
                )));
            }
        }
        Ok(())
    }
}

impl Backend for NativeBackend {
    fn page_bytes(&self) -> usize {
        self.pages.shape.page_bytes()
    }

    fn reserve(&mut self, num_pages: usize) -> Result<(), LmError> {
        self.pages.reserve(num_pages)
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        self.pages.copy(from, to);
    }

    fn step(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<Vec<Drawn>>, LmError> {
        self.check(chunks)?;
        let longest = chunks
            .iter()
            .map(|chunk| chunk.start + chunk.ids.len())
            .max()
            .unwrap_or(0);
        self.rotations.extend_to(&self.model, longest)?;
        let step = Step {
            isa: self.isa,
            config: &self.model.config,
            weights: &self.weights,
            pages: &self.pages,
            rotations: &self.rotations,
            chunks,
        };
        Ok(step.run(&mut self.team, &mut self.scratch))
    }
}

/// Cosines and sines of the rotary embedding, `[position, D / 2]` each, as far as sequences have come.
#[derive(Debug, Default)]
struct Rotations {
    cos: Vec<f32>,
    sin: Vec<f32>,
    num_positions: usize,
}

impl Rotations {
    /// Looks up what the model itself rotates by, for positions below `num_positions` and some more.
    fn extend_to(&mut self, model: &CausalLm, num_positions: usize) -> Result<(), LmError> {
        if num_positions <= self.num_positions {
            return Ok(());
        }
        let context = model.config.max_position_embeddings as usize;
        let end = num_positions.next_multiple_of(ROTATIONS_AT_ONCE).min(context);
        let positions = Tensor::arange_start(self.num_positions as i64, end as i64, (Kind::Int64, model.device()));
        let (cos, sin) = model.rotation(&positions); // [P, 1, D]
        for (table, to) in [(cos, &mut self.cos), (sin, &mut self.sin)] {
            let half = table.narrow(-1, 0, model.config.head_dim / 2).contiguous().view([-1]);
            to.extend(Vec::<f32>::try_from(half)?);
        }
        self.num_positions = end;
        Ok(())
    }
}
