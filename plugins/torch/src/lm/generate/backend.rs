//! What computes a model for the generation engine.
//!
//! The engine decides which tokens of which sequences are computed next and where their keys and values lie; a backend
//! computes them and draws the next tokens. Two backends agree on what a page is and on nothing else.

use crate::lm::LmError;
use crate::lm::sampler::Sampling;

/// A page of the key/value cache: room for [`PAGE_SIZE`] tokens in every layer.
pub type PageId = u32;

/// Tokens in a page.
pub const PAGE_SIZE: usize = 16;

/// New tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Chunk<'a> {
    /// The sequence's pages in order, with room for the new tokens: token `t` lies in `pages[t / PAGE_SIZE]`.
    pub pages: &'a [PageId],
    /// Tokens of the sequence that were computed before.
    pub start: usize,
    /// The new tokens, at positions `start..`; their keys and values are written to the pages.
    pub ids: &'a [i64],
    /// Tokens to draw from the distribution after the last of `ids`: none while a prompt is not complete, several where
    /// several completions begin at this prompt.
    pub draws: Vec<Draw<'a>>,
}

impl Chunk<'_> {
    /// Returns the first `num_tokens` tokens as a chunk of their own, after which nothing is drawn.
    pub fn beginning(&self, num_tokens: usize) -> Self {
        Self {
            ids: &self.ids[..num_tokens],
            draws: Vec::new(),
            ..*self
        }
    }

    /// Leaves out the first `num_tokens` tokens: they are computed.
    pub fn skip(&mut self, num_tokens: usize) {
        self.start += num_tokens;
        self.ids = &self.ids[num_tokens..];
    }
}

/// How one token is drawn.
#[derive(Debug, Clone)]
pub struct Draw<'a> {
    pub sampling: Sampling,
    /// In [0, 1): where the cumulative distribution is inverted.
    pub uniform: f64,
    /// Tokens of prompt and completion so far, which the repetition penalty looks at; empty where there is none.
    pub seen: &'a [i64],
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    pub id: i64,
    /// Natural log-probability in the distribution that it was drawn from.
    pub logprob: f32,
}

/// A model with a paged cache.
pub trait Backend {
    /// Bytes of one page over all layers.
    fn page_bytes(&self) -> usize;

    /// Makes room for pages `0..num_pages`; what is in the pages so far stays.
    ///
    /// # Errors
    /// There is not enough memory.
    fn reserve(&mut self, num_pages: usize) -> Result<(), LmError>;

    /// Copies a page: two sequences part in the middle of it.
    fn copy_page(&mut self, from: PageId, to: PageId);

    /// Computes all chunks as one batch and returns what was drawn for each.
    ///
    /// # Errors
    /// The device fails, or is out of memory (`LmError::OutOfMemory`): the same chunks may then be computed again, in any
    /// smaller batches.
    fn step(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<Vec<Drawn>>, LmError>;
}
