//! Attention of a few query rows over the pages of their sequence.
//!
//! Each row's result is a function of its query and of the keys and values that it sees, taken in the order of their
//! positions in blocks that begin at multiples of the page size: chunking, neighbours in the batch and the pages'
//! numbers change nothing in it.

#![expect(
    clippy::needless_range_loop,
    reason = "loops of constant length over several arrays of registers at once read best by index"
)]

use super::pages::PageAddress;
use super::simd::{Kernel, Simd, exp};
use crate::lm::generate::backend::PAGE_SIZE;

/// Rows that are computed at once.
pub const MAX_ROWS: usize = 4;

/// One query head of one token.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub query: *const f32,
    pub out: *mut f32,
    /// The positions that it sees, `first..=last`.
    pub first: usize,
    pub last: usize,
}

/// Rows that look at the same keys and values.
pub struct Attention<'a> {
    /// 1 to [`MAX_ROWS`].
    pub rows: &'a [Row],
    /// The pages of the sequence.
    pub pages: &'a [PageAddress],
    /// Where in a page the keys `[D, 16]` lie; see [`super::pages`].
    pub keys_at: usize,
    /// Where in a page the values `[16, padded D]` lie.
    pub values_at: usize,
    pub head_dim: usize,
    pub padded_dim: usize,
    /// By which scores are multiplied before the softmax.
    pub scale: f32,
    /// Room for the scores of all rows: [`scores_len`] floats.
    pub scores: &'a mut [f32],
    /// Room for the results of all rows, padded.
    pub sums: &'a mut [f32],
}

/// Floats that the scores of rows over so many pages take.
pub fn scores_len(num_pages: usize) -> usize {
    MAX_ROWS * num_pages * PAGE_SIZE
}

impl Kernel for Attention<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.rows.len() {
                1 => self.rows::<S, 1>(),
                2 => self.rows::<S, 2>(),
                3 => self.rows::<S, 3>(),
                _ => self.rows::<S, 4>(),
            }
        }
    }
}

impl Attention<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            let (mut first, mut last) = (self.rows[0].first, self.rows[0].last);
            for row in self.rows {
                (first, last) = (first.min(row.first), last.max(row.last));
            }
            let end = last / PAGE_SIZE + 1;
            let mut page = first / PAGE_SIZE;
            if S::KEY_PAGES == 4 {
                while page + 4 <= end {
                    self.score_pages::<S, R, 4>(page);
                    page += 4;
                }
            }
            while page < end {
                self.score_pages::<S, R, 1>(page);
                page += 1;
            }
            let mut shares = [0.0; R];
            for (r, share) in shares.iter_mut().enumerate() {
                *share = 1.0 / self.softmax::<S>(r);
            }
            self.gather::<S, R>();
            for (r, share) in shares.into_iter().enumerate() {
                for d in 0..self.head_dim {
                    *self.rows[r].out.add(d) = self.sums[r * self.padded_dim + d] * share;
                }
            }
        }
    }

    /// Where the scores of a row begin.
    #[inline(always)]
    fn scores_of(&mut self, row: usize) -> *mut f32 {
        self.scores[row * self.pages.len() * PAGE_SIZE..].as_mut_ptr()
    }

    /// Computes the scores of `R` rows and `P` pages from `page` on; keys that a row doesn't see get one, too.
    #[inline(always)]
    unsafe fn score_pages<S: Simd, const R: usize, const P: usize>(&mut self, page: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut keys = [std::ptr::null_mut(); P];
            for (p, keys) in keys.iter_mut().enumerate() {
                *keys = self.pages[page + p].0.add(self.keys_at);
            }
            // Vectors of less than a page take it in parts, each for itself.
            for part in (0..PAGE_SIZE).step_by(S::LANES) {
                let mut acc = [[S::splat(0.0); P]; R];
                for d in 0..self.head_dim {
                    let mut key = [S::splat(0.0); P];
                    for p in 0..P {
                        key[p] = S::load(keys[p].add(d * PAGE_SIZE + part));
                    }
                    for r in 0..R {
                        let query = S::splat(*self.rows[r].query.add(d));
                        for p in 0..P {
                            acc[r][p] = S::mul_add(query, key[p], acc[r][p]);
                        }
                    }
                }
                let scale = S::splat(self.scale);
                for r in 0..R {
                    let to = self.scores_of(r);
                    for p in 0..P {
                        S::store(to.add((page + p) * PAGE_SIZE + part), S::mul(acc[r][p], scale));
                    }
                }
            }
        }
    }

    /// Turns the scores of a row into weights of which the greatest is 1, and returns their sum.
    #[inline(always)]
    unsafe fn softmax<S: Simd>(&mut self, r: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe {
            let Row { first, last, .. } = self.rows[r];
            let scores = self.scores_of(r);
            let (begin, end) = (first / PAGE_SIZE * PAGE_SIZE, (last / PAGE_SIZE + 1) * PAGE_SIZE);
            for hidden in (begin..first).chain(last + 1..end) {
                *scores.add(hidden) = f32::NEG_INFINITY;
            }
            let mut greatest = S::splat(f32::NEG_INFINITY);
            for at in (begin..end).step_by(S::LANES) {
                greatest = S::max(greatest, S::load(scores.add(at)));
            }
            let greatest = S::splat(S::max_lane(greatest));
            let mut sum = S::splat(0.0);
            for at in (begin..end).step_by(S::LANES) {
                let weight = exp::<S>(S::sub(S::load(scores.add(at)), greatest));
                sum = S::add(sum, weight);
                S::store(scores.add(at), weight);
            }
            S::sum(sum)
        }
    }

    /// Adds up the values by their weights, into `sums`.
    #[inline(always)]
    unsafe fn gather<S: Simd, const R: usize>(&mut self) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut at = 0;
            while at + 4 * S::LANES <= self.padded_dim {
                self.gather_part::<S, R, 4>(at);
                at += 4 * S::LANES;
            }
            while at < self.padded_dim {
                self.gather_part::<S, R, 1>(at);
                at += S::LANES;
            }
        }
    }

    /// Adds up `D` vectors of the values, from `at` on.
    #[inline(always)]
    unsafe fn gather_part<S: Simd, const R: usize, const D: usize>(&mut self, at: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            // What all rows see they take together; before and after that each goes on alone.
            let (mut common, mut end) = (self.rows[0].first, self.rows[0].last + 1);
            for row in self.rows {
                (common, end) = (common.max(row.first), end.min(row.last + 1));
            }
            let end = end.max(common);
            let mut acc = [[S::splat(0.0); D]; R];
            for r in 0..R {
                let Row { first, last, .. } = self.rows[r];
                let mut alone = [acc[r]];
                self.add_values::<S, 1, D>(r, first, common.min(last + 1), at, &mut alone);
                acc[r] = alone[0];
            }
            self.add_values::<S, R, D>(0, common, end, at, &mut acc);
            for r in 0..R {
                let Row { first, last, .. } = self.rows[r];
                let mut alone = [acc[r]];
                self.add_values::<S, 1, D>(r, end.max(first), last + 1, at, &mut alone);
                for (d, v) in alone[0].into_iter().enumerate() {
                    S::store(self.sums[r * self.padded_dim + at + d * S::LANES..].as_mut_ptr(), v);
                }
            }
        }
    }

    /// Adds the values of positions `from..to` to `R` rows from row `r` on, in their order.
    #[inline(always)]
    unsafe fn add_values<S: Simd, const R: usize, const D: usize>(
        &mut self,
        r: usize,
        from: usize,
        to: usize,
        at: usize,
        acc: &mut [[S::V; D]; R],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut weights = [std::ptr::null_mut(); R];
            for (idx, weights) in weights.iter_mut().enumerate() {
                *weights = self.scores_of(r + idx);
            }
            let mut position = from;
            while position < to {
                let page_end = (position / PAGE_SIZE + 1) * PAGE_SIZE;
                let values = self.pages[position / PAGE_SIZE].0.add(self.values_at + at);
                while position < to.min(page_end) {
                    let from = values.add(position % PAGE_SIZE * self.padded_dim);
                    let mut value = [S::splat(0.0); D];
                    for d in 0..D {
                        value[d] = S::load(from.add(d * S::LANES));
                    }
                    for idx in 0..R {
                        let weight = S::splat(*weights[idx].add(position));
                        for d in 0..D {
                            acc[idx][d] = S::mul_add(weight, value[d], acc[idx][d]);
                        }
                    }
                    position += 1;
                }
            }
        }
    }
}
