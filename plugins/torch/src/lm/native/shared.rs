//! Buffers that the threads of a team write at the same time, each its own part.

/// A matrix `[rows, width]` of f32 in a buffer that outlives it.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    start: *mut f32,
    num_rows: usize,
    width: usize,
}

// SAFETY: access goes through unsafe functions whose callers see to it that threads don't meet.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}

impl Rows {
    /// Makes `buffer` large enough and returns it as a matrix; what is in it is left as it is.
    pub fn within(buffer: &mut Vec<f32>, num_rows: usize, width: usize) -> Self {
        if buffer.len() < num_rows * width {
            buffer.resize(num_rows * width, 0.0);
        }
        Self {
            start: buffer.as_mut_ptr(),
            num_rows,
            width,
        }
    }

    pub fn width(self) -> usize {
        self.width
    }

    /// The address of a row; reading or writing it is up to the caller.
    pub fn row(self, idx: usize) -> *mut f32 {
        assert!(idx < self.num_rows, "row {idx} of {}", self.num_rows);
        // SAFETY: within the buffer, as checked.
        unsafe { self.start.add(idx * self.width) }
    }
}
