//! Products of a few rows with a weight matrix, `y = x W^T`.
//!
//! Both `x` `[M, K]` and `W` `[N, K]` lie row by row, and so an element of `y` is a dot product along memory. It is
//! summed in the lanes of one vector, from the first element to the last, and then across the lanes: the same additions
//! whatever the number of rows and wherever in a tile the element is. Nothing is repacked; a panel of weight rows is read
//! from memory once for all rows of `x`.

#![expect(
    clippy::needless_range_loop,
    reason = "loops of constant length over several arrays of registers at once read best by index"
)]

use std::ops::Range;

use super::simd::{Kernel, Simd, load_up_to};

/// What a product reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    pub x: *const f32,
    pub x_stride: usize,
    pub num_rows: usize,
    /// The first weight row wanted.
    pub w: *const f32,
    /// `K`, and the distance of weight rows.
    pub depth: usize,
    /// `N`
    pub num_outputs: usize,
    pub y: *mut f32,
    pub y_stride: usize,
}

impl Kernel for Product {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.all::<S>() }
    }
}

impl Product {
    #[inline(always)]
    unsafe fn all<S: Simd>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut at = 0;
            if self.num_rows == 1 {
                at = self.panels::<S, 8>(at);
            }
            // A constant: only one of these is compiled.
            at = match S::PANEL {
                4 => self.panels::<S, 4>(at),
                _ => self.panels::<S, 2>(at),
            };
            self.panels::<S, 1>(at);
        }
    }

    /// Computes outputs from `at` on, `N` at a time, and returns where it had to stop.
    #[inline(always)]
    unsafe fn panels<S: Simd, const N: usize>(&self, mut at: usize) -> usize {
        // SAFETY: the caller's promise; tiles stay within rows and outputs.
        unsafe {
            while at + N <= self.num_outputs {
                // Tiles take turns in asking for a later panel, so that memory is busy all the time.
                match self.num_rows {
                    0 => {}
                    1 => self.tile::<S, 1, N>(0, at, 0..N),
                    2 => self.tile::<S, 2, N>(0, at, 0..N),
                    3 => self.tile::<S, 3, N>(0, at, 0..N),
                    _ => {
                        let num_tiles = self.num_rows / 4;
                        let share = N.div_ceil(num_tiles);
                        for tile in 0..num_tiles {
                            let ahead = (tile * share).min(N)..((tile + 1) * share).min(N);
                            self.tile::<S, 4, N>(4 * tile, at, ahead);
                        }
                        let row = 4 * num_tiles;
                        match self.num_rows - row {
                            1 => self.tile::<S, 1, N>(row, at, 0..0),
                            2 => self.tile::<S, 2, N>(row, at, 0..0),
                            3 => self.tile::<S, 3, N>(row, at, 0..0),
                            _ => {}
                        }
                    }
                }
                at += N;
            }
            at
        }
    }

    /// `M` rows times `N` weight rows, kept in registers; asks for the rows `ahead` of a later panel.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(&self, row: usize, output: usize, ahead: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe {
            match ahead.len() {
                0 => self.tile_and_ask::<S, M, N, 0>(row, output, 0),
                1 => self.tile_and_ask::<S, M, N, 1>(row, output, ahead.start),
                2 => self.tile_and_ask::<S, M, N, 2>(row, output, ahead.start),
                _ => self.tile_and_ask::<S, M, N, N>(row, output, 0),
            }
        }
    }

    #[inline(always)]
    unsafe fn tile_and_ask<S: Simd, const M: usize, const N: usize, const P: usize>(
        &self,
        row: usize,
        output: usize,
        ahead: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = [self.x; M];
            for (m, x) in x.iter_mut().enumerate() {
                *x = self.x.add((row + m) * self.x_stride);
            }
            let mut w = [self.w; N];
            for (n, w) in w.iter_mut().enumerate() {
                *w = self.w.add((output + n) * self.depth);
            }
            let mut acc = [[S::splat(0.0); M]; N];
            // One tile that asks for all of a panel does so for the next one; many that share it, for the one after.
            let distance = if P == N { N } else { 2 * N };
            let later = w[0].wrapping_add((distance + ahead) * self.depth);
            let mut k = 0;
            while k + S::LANES <= self.depth {
                let mut rows = [S::splat(0.0); M];
                for m in 0..M {
                    rows[m] = S::load(x[m].add(k));
                }
                for n in 0..N {
                    let weight = S::load(w[n].add(k));
                    if n < P {
                        S::prefetch(later.wrapping_add(n * self.depth + k));
                    }
                    for m in 0..M {
                        acc[n][m] = S::mul_add(rows[m], weight, acc[n][m]);
                    }
                }
                k += S::LANES;
            }
            if k < self.depth {
                let left = self.depth - k;
                let mut rows = [S::splat(0.0); M];
                for m in 0..M {
                    rows[m] = load_up_to::<S>(x[m].add(k), left);
                }
                for n in 0..N {
                    let weight = load_up_to::<S>(w[n].add(k), left);
                    for m in 0..M {
                        acc[n][m] = S::mul_add(rows[m], weight, acc[n][m]);
                    }
                }
            }
            for n in 0..N {
                let y = self.y.add(row * self.y_stride + output + n);
                if M == 4 {
                    let sums = S::sums([acc[n][0], acc[n][1 % M], acc[n][2 % M], acc[n][3 % M]]);
                    for (m, sum) in sums.into_iter().enumerate() {
                        *y.add(m * self.y_stride) = sum;
                    }
                } else {
                    for m in 0..M {
                        *y.add(m * self.y_stride) = S::sum(acc[n][m]);
                    }
                }
            }
        }
    }
}
