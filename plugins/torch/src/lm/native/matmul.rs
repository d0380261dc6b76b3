//! Products of a few rows with a weight matrix, `y = x W^T`.
//!
//! Both `x` `[M, K]` and `W` `[N, K]` lie row by row, and so an element of `y` is a dot product along memory. It is
//! summed in the lanes of one vector, from the first element to the last, and then across the lanes: the same additions
//! whatever the number of rows and wherever in a tile the element is. Nothing is repacked; a panel of weight rows is read
//! from memory once for all rows of `x`.

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
    pub unsafe fn all<S: Simd>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut at = 0;
            if self.num_rows == 1 {
                while at + 8 <= self.num_outputs {
                    self.tile::<S, 1, 8, true>(0, at);
                    at += 8;
                }
            }
            // A constant: only one of these is compiled.
            at = match S::PANEL {
                6 => self.panels::<S, 6>(at),
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
                // The first tile reads the panel from memory, and asks for the next one.
                match self.num_rows {
                    0 => return self.num_outputs,
                    1 => self.tile::<S, 1, N, true>(0, at),
                    2 => self.tile::<S, 2, N, true>(0, at),
                    3 => self.tile::<S, 3, N, true>(0, at),
                    _ => {
                        self.tile::<S, 4, N, true>(0, at);
                        let mut row = 4;
                        while row + 4 <= self.num_rows {
                            self.tile::<S, 4, N, false>(row, at);
                            row += 4;
                        }
                        match self.num_rows - row {
                            1 => self.tile::<S, 1, N, false>(row, at),
                            2 => self.tile::<S, 2, N, false>(row, at),
                            3 => self.tile::<S, 3, N, false>(row, at),
                            _ => {}
                        }
                    }
                }
                at += N;
            }
            at
        }
    }

    /// `M` rows times `N` weight rows, kept in registers.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize, const PREFETCH: bool>(&self, row: usize, output: usize) {
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
            let mut k = 0;
            while k + S::LANES <= self.depth {
                let mut rows = [S::splat(0.0); M];
                for m in 0..M {
                    rows[m] = S::load(x[m].add(k));
                }
                for n in 0..N {
                    let weight = S::load(w[n].add(k));
                    if PREFETCH {
                        S::prefetch(w[n].wrapping_add(k + N * self.depth));
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
