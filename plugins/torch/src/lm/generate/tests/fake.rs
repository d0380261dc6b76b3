//! A backend without a model: what it draws is a function of the tokens that it finds in the pages.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use crate::lm::LmError;
use crate::lm::generate::backend::{Backend, Chunk, Draw, Drawn, PAGE_SIZE, PageId};

/// Bytes that a page of this backend is said to take.
pub const PAGE_BYTES: usize = 1000;

/// What a backend was asked for.
#[derive(Debug, Default)]
pub struct Log {
    /// Lengths of the chunks of each step.
    pub steps: Vec<Vec<usize>>,
}

impl Log {
    pub fn num_tokens(&self) -> usize {
        self.steps.iter().flatten().sum()
    }
}

pub struct Fake {
    vocab_size: i64,
    /// Pages that there is memory for.
    max_pages: usize,
    /// Tokens of a step that there is memory for.
    max_tokens: usize,
    cells: Vec<Option<i64>>,
    log: Rc<RefCell<Log>>,
}

impl Fake {
    pub fn new(vocab_size: i64) -> (Self, Rc<RefCell<Log>>) {
        let log = Rc::new(RefCell::new(Log::default()));
        let fake = Self {
            vocab_size,
            max_pages: usize::MAX,
            max_tokens: usize::MAX,
            cells: Vec::new(),
            log: Rc::clone(&log),
        };
        (fake, log)
    }

    pub fn with_memory_for(mut self, max_pages: usize) -> Self {
        self.max_pages = max_pages;
        self
    }

    pub fn with_memory_for_steps_of(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    fn history(&self, chunk: &Chunk<'_>) -> Vec<i64> {
        (0..chunk.start + chunk.ids.len())
            .map(|at| self.cells[cell(chunk.pages, at)].expect("what a token looks at is computed"))
            .collect()
    }

    fn draw(&self, history: &[i64], draw: &Draw<'_>) -> Drawn {
        if draw.sampling.repetition_penalty != 1.0 {
            assert_eq!(draw.seen, history);
        }
        let mut hasher = DefaultHasher::new();
        history.hash(&mut hasher);
        let hash = hasher.finish();
        let uniform = if draw.sampling.temperature == 0.0 {
            0.0
        } else {
            draw.uniform
        };
        let shift = (uniform * self.vocab_size as f64) as u64;
        Drawn {
            id: (hash % self.vocab_size as u64 + shift) as i64 % self.vocab_size,
            logprob: -((hash >> 40) as f32),
        }
    }
}

fn cell(pages: &[PageId], at: usize) -> usize {
    pages[at / PAGE_SIZE] as usize * PAGE_SIZE + at % PAGE_SIZE
}

impl Backend for Fake {
    fn page_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn reserve(&mut self, num_pages: usize) -> Result<(), LmError> {
        if num_pages > self.max_pages {
            return Err(LmError::Torch("out of memory".to_owned()));
        }
        self.cells.resize(self.cells.len().max(num_pages * PAGE_SIZE), None);
        Ok(())
    }

    fn copy_page(&mut self, from: PageId, to: PageId) {
        assert_ne!(from, to);
        let from = from as usize * PAGE_SIZE;
        self.cells.copy_within(from..from + PAGE_SIZE, to as usize * PAGE_SIZE);
    }

    fn step(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<Vec<Drawn>>, LmError> {
        assert!(!chunks.is_empty(), "a step computes something");
        if chunks.iter().map(|chunk| chunk.ids.len()).sum::<usize>() > self.max_tokens {
            return Err(LmError::OutOfMemory("out of memory".to_owned()));
        }
        let mut written = HashSet::new();
        for chunk in chunks {
            assert!(!chunk.ids.is_empty());
            for (at, &id) in (chunk.start..).zip(chunk.ids) {
                let cell = cell(chunk.pages, at);
                assert!(written.insert(cell), "two sequences write to the same place");
                self.cells[cell] = Some(id);
            }
        }
        for chunk in chunks {
            let earlier = (0..chunk.start).map(|at| cell(chunk.pages, at));
            assert!(
                earlier.into_iter().all(|cell| !written.contains(&cell)),
                "what is computed stays"
            );
        }
        self.log
            .borrow_mut()
            .steps
            .push(chunks.iter().map(|chunk| chunk.ids.len()).collect());
        Ok(chunks
            .iter()
            .map(|chunk| {
                let history = self.history(chunk);
                chunk.draws.iter().map(|draw| self.draw(&history, draw)).collect()
            })
            .collect())
    }
}
