//! Vectors of f32 on whatever instructions the processor has.
//!
//! Kernels are written once over [`Simd`] and compiled for each instruction set; which one runs is decided when the
//! program does ([`Isa::best`]). Instruction sets may round differently from each other. On one of them the value of an
//! element never depends on the lane that it is in, nor on whether a vector is full.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
use self::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use self::avx512::Avx512;
use self::portable::Portable;

/// An instruction set that there are kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// Returns those that this processor has, the fastest first.
    pub fn available() -> Vec<Self> {
        let mut list = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
                list.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                list.push(Self::Avx2);
            }
        }
        list.push(Self::Portable);
        list
    }

    /// Returns the fastest one.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Runs a kernel with these instructions.
    ///
    /// # Safety
    /// The processor has them ([`Isa::available`]), and what the kernel's pointers need holds.
    #[inline]
    pub unsafe fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => run_avx512(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => run_avx2(kernel),
                Self::Portable => kernel.run::<Portable>(),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<Avx2>() }
}

/// Code over any instruction set. Everything it calls with vectors must be `#[inline(always)]`, or it is compiled
/// without the instructions that it needs.
pub trait Kernel {
    /// # Safety
    /// The processor has the instructions of `S`, and the kernel's pointers are valid for what it does with them.
    unsafe fn run<S: Simd>(self);
}

/// The vectors of an instruction set.
///
/// # Safety of all functions
/// The processor has the instructions; pointers are valid for the lanes that are read or written.
pub trait Simd: Copy {
    type V: Copy;
    /// Floats in a vector: a divisor of 16.
    const LANES: usize;
    /// Weight rows that a matrix product takes at once, as many as the registers hold with four rows of input.
    const PANEL: usize;
    /// Key pages that attention takes at once, likewise.
    const KEY_PAGES: usize;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    /// Reads the first `len` lanes, less than all; the others are 0.
    unsafe fn load_part(from: *const f32, len: usize) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn store_part(to: *mut f32, v: Self::V, len: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the instruction exists.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater one; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The lesser one; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integers.
    unsafe fn round(v: Self::V) -> Self::V;
    /// `v * 2^n` for integers `n` from -160 to 127; 0 where that is below the normal numbers, or nearly so.
    unsafe fn scale_by_power(v: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes, in an order of its own that is always the same.
    unsafe fn sum(v: Self::V) -> f32;
    /// The sums of four vectors, each in the order of [`Simd::sum`].
    unsafe fn sums(v: [Self::V; 4]) -> [f32; 4];
    unsafe fn max_lane(v: Self::V) -> f32;
    /// Asks for a line of memory that will be needed soon; any address may be asked for.
    unsafe fn prefetch(at: *const f32);
}

/// `e^v` within a few units in the last place; 0 for what is below the normal numbers, NaN for NaN. Results above e^88
/// are cut off there.
///
/// Cephes' `expf`: the argument is reduced to half a power of two around 0, where a polynomial of degree 6 does.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub unsafe fn exp<S: Simd>(v: S::V) -> S::V {
    /// The first bits of ln 2, few enough that their product with a small integer is exact; then the rest.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    // SAFETY: the caller's promise.
    unsafe {
        let v = S::min(S::splat(88.0), S::max(S::splat(-110.0), v));
        let n = S::round(S::mul(v, S::splat(std::f32::consts::LOG2_E)));
        let r = S::mul_add(n, S::splat(-LN2[0]), v);
        let r = S::mul_add(n, S::splat(-LN2[1]), r);
        let mut p = S::splat(POLYNOMIAL[0]);
        for coefficient in &POLYNOMIAL[1..] {
            p = S::mul_add(p, r, S::splat(*coefficient));
        }
        let p = S::mul_add(p, S::mul(r, r), S::add(r, S::splat(1.0)));
        S::scale_by_power(p, n)
    }
}

/// Loads the first `len` lanes, or all if there are fewer; the others are 0.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub unsafe fn load_up_to<S: Simd>(from: *const f32, len: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        if len >= S::LANES {
            S::load(from)
        } else {
            S::load_part(from, len)
        }
    }
}

/// Stores the first `len` lanes, or all if there are fewer.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub unsafe fn store_up_to<S: Simd>(to: *mut f32, v: S::V, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if len >= S::LANES {
            S::store(to, v);
        } else {
            S::store_part(to, v, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Exp<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for (from, to) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
                // SAFETY: both chunks have this length.
                unsafe {
                    let v = exp::<S>(load_up_to::<S>(from.as_ptr(), from.len()));
                    store_up_to::<S>(to.as_mut_ptr(), v, to.len());
                }
            }
        }
    }

    #[test]
    fn exp_is_right_to_a_few_units_in_the_last_place() {
        let inputs: Vec<f32> = (-8_700..8_799).map(|i| i as f32 * 0.01 + 0.003).collect();
        for isa in Isa::available() {
            let mut got = vec![0.0; inputs.len()];
            // SAFETY: available, and the slices have one length.
            unsafe { isa.run(Exp(&inputs, &mut got)) };
            for (&x, &y) in inputs.iter().zip(&got) {
                let expected = f64::from(x).exp();
                let error = ((f64::from(y) - expected) / expected).abs();
                assert!(error < 3e-7, "{isa:?}: exp({x}) = {y}, expected {expected}");
            }
        }
    }

    #[test]
    fn exp_of_what_has_no_number() {
        let inputs = [f32::NEG_INFINITY, -1e30, -200.0, f32::NAN, 0.0, f32::INFINITY];
        for isa in Isa::available() {
            let mut got = [0.0; 6];
            // SAFETY: as above.
            unsafe { isa.run(Exp(&inputs, &mut got)) };
            assert_eq!(got[..3], [0.0; 3], "{isa:?}");
            assert!(got[3].is_nan(), "{isa:?}");
            assert_eq!(got[4], 1.0, "{isa:?}");
            assert!(got[5] > 1e38, "{isa:?}");
        }
    }

    struct Sums<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Sums<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            // SAFETY: the test gives four vectors of 16 and room for eight sums and four maxima.
            unsafe {
                let v = [0, 16, 32, 48].map(|at| S::load(self.0.as_ptr().add(at)));
                let sums = S::sums(v);
                for idx in 0..4 {
                    self.1[idx] = sums[idx];
                    self.1[4 + idx] = S::sum(v[idx]);
                    self.1[8 + idx] = S::max_lane(v[idx]);
                }
            }
        }
    }

    #[test]
    fn four_sums_at_once_are_the_sums_one_by_one() {
        let inputs: Vec<f32> = (0..64).map(|i| ((i * 37) % 61) as f32 * 0.1 - 2.7).collect();
        for isa in Isa::available() {
            let mut got = [0.0; 12];
            // SAFETY: sizes as the kernel says.
            unsafe { isa.run(Sums(&inputs, &mut got)) };
            assert_eq!(got[..4], got[4..8], "{isa:?}");
            let lanes = match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => 16,
                _ => 8,
            };
            for idx in 0..4 {
                let vector = &inputs[16 * idx..][..lanes];
                assert!((vector.iter().sum::<f32>() - got[idx]).abs() < 1e-5, "{isa:?}");
                assert_eq!(vector.iter().copied().fold(f32::MIN, f32::max), got[8 + idx], "{isa:?}");
            }
        }
    }
}
