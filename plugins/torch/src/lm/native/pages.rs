//! Where keys and values lie.
//!
//! A page has room for 16 tokens in all layers. In it the keys of a head lie transposed, `[D, 16]`, so that the scores of
//! a page's tokens are computed in the lanes of vectors; values lie token by token, `[16, padded D]`, padded so that
//! their vectors are always full.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use crate::lm::LmError;
use crate::lm::generate::backend::{PAGE_SIZE, PageId};

/// Pages allocated at once: they never move.
const PAGES_PER_SLAB: usize = 16;

/// Cache lines; vectors must not straddle them.
const ALIGNMENT: usize = 64;

/// The sizes of a page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    pub num_layers: usize,
    pub num_heads: usize,
    pub head_dim: usize,
}

impl Shape {
    /// `D`, rounded up to whole vectors.
    pub fn padded_dim(self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    fn keys_len(self) -> usize {
        self.head_dim * PAGE_SIZE
    }

    fn values_len(self) -> usize {
        self.padded_dim() * PAGE_SIZE
    }

    fn head_len(self) -> usize {
        self.keys_len() + self.values_len()
    }

    fn page_len(self) -> usize {
        self.num_layers * self.num_heads * self.head_len()
    }

    pub fn page_bytes(self) -> usize {
        self.page_len() * size_of::<f32>()
    }

    /// Where a head's keys begin in a page, in floats; its values follow.
    pub fn keys_at(self, layer: usize, head: usize) -> usize {
        (layer * self.num_heads + head) * self.head_len()
    }

    /// Where a head's values begin in a page, in floats.
    pub fn values_at(self, layer: usize, head: usize) -> usize {
        self.keys_at(layer, head) + self.keys_len()
    }
}

/// The address of a page, of [`Shape::page_bytes`]; reading or writing it is up to those who have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PageAddress(pub *mut f32);

// SAFETY: an address alone does nothing.
unsafe impl Send for PageAddress {}
// SAFETY: as above.
unsafe impl Sync for PageAddress {}

/// The pages there are.
#[derive(Debug)]
pub struct Pages {
    pub shape: Shape,
    slabs: Vec<Slab>,
}

impl Pages {
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            slabs: Vec::new(),
        }
    }

    /// Makes room for pages `0..num_pages`.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn reserve(&mut self, num_pages: usize) -> Result<(), LmError> {
        while self.slabs.len() * PAGES_PER_SLAB < num_pages {
            let slab = Slab::new(self.shape.page_len() * PAGES_PER_SLAB).ok_or_else(|| {
                LmError::Torch(format!(
                    "not enough memory for {num_pages} pages of {} bytes of the key/value cache",
                    self.shape.page_bytes()
                ))
            })?;
            self.slabs.push(slab);
        }
        Ok(())
    }

    /// Returns where a page is, of those that there is room for.
    pub fn page(&self, id: PageId) -> PageAddress {
        let (slab, idx) = (id as usize / PAGES_PER_SLAB, id as usize % PAGES_PER_SLAB);
        // SAFETY: the slab has room for all its pages.
        PageAddress(unsafe { self.slabs[slab].start.add(idx * self.shape.page_len()) })
    }

    pub fn copy(&mut self, from: PageId, to: PageId) {
        let (PageAddress(from), PageAddress(to)) = (self.page(from), self.page(to));
        // SAFETY: both are pages, and who has addresses of them does not use them while this runs.
        unsafe { std::ptr::copy(from, to, self.shape.page_len()) };
    }
}

/// Zeros that the system hands out page by page as they are written.
#[derive(Debug)]
struct Slab {
    /// Aligned, and so somewhat behind where the memory begins.
    start: *mut f32,
    memory: *mut u8,
    layout: Layout,
}

// SAFETY: owned memory; who writes where is decided by those who take addresses from it.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn new(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<f32>())?.checked_add(ALIGNMENT)?;
        // An allocator that is asked for more than the usual alignment writes the zeros itself, and so takes the memory.
        let layout = Layout::from_size_align(bytes, align_of::<f32>()).ok()?;
        // SAFETY: not of size 0.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            return None;
        }
        // SAFETY: there is room for that much more.
        let start = unsafe { memory.add(memory.align_offset(ALIGNMENT)) }.cast();
        Some(Self { start, memory, layout })
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.memory, self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_stay_when_there_are_more_and_can_be_copied() {
        let shape = Shape {
            num_layers: 2,
            num_heads: 3,
            head_dim: 12,
        };
        assert_eq!(shape.page_bytes(), 2 * 3 * (12 + 16) * 16 * 4);
        let mut pages = Pages::new(shape);
        pages.reserve(3).unwrap();
        let PageAddress(first) = pages.page(1);
        // SAFETY: a page of this length that nobody else uses.
        let view = unsafe { std::slice::from_raw_parts_mut(first, shape.page_len()) };
        assert!(view.iter().all(|&value| value == 0.0));
        view.fill(7.0);
        pages.reserve(100).unwrap();
        assert_eq!(pages.page(1), PageAddress(first));
        pages.copy(1, 99);
        // SAFETY: as above.
        let copy = unsafe { std::slice::from_raw_parts(pages.page(99).0, shape.page_len()) };
        assert!(copy.iter().all(|&value| value == 7.0));
    }

    #[test]
    fn too_many_pages_are_an_error() {
        let shape = Shape {
            num_layers: 1 << 44,
            num_heads: 1,
            head_dim: 16,
        };
        assert!(Pages::new(shape).reserve(1).is_err());
    }
}
