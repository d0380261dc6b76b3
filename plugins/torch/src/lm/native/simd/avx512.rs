//! AVX-512F: 16 lanes, 32 registers.

use std::arch::x86_64::*;

use super::Simd;

#[derive(Clone, Copy)]
pub struct Avx512;

#[inline(always)]
fn mask(len: usize) -> __mmask16 {
    ((1u32 << len) - 1) as __mmask16
}

/// Adds the upper half of the lanes to the lower one, twice: the first half of the order of a sum.
#[inline(always)]
unsafe fn quarter(v: __m512) -> __m128 {
    // SAFETY: the processor has AVX-512F, the promise of everything here.
    unsafe {
        let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
        let half = _mm256_add_ps(_mm512_castps512_ps256(v), high);
        _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half))
    }
}

// SAFETY of every body: the processor has AVX-512F and pointers are valid, which the callers promise.
impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const PANEL: usize = 4;
    const KEY_PAGES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, len: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask(len), from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, v: __m512, len: usize) {
        unsafe { _mm512_mask_storeu_ps(to, mask(len), v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn round(v: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }

    #[inline(always)]
    unsafe fn scale_by_power(v: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(v, n) }
    }

    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        unsafe {
            let v = quarter(v);
            let v = _mm_hadd_ps(v, v);
            _mm_cvtss_f32(_mm_hadd_ps(v, v))
        }
    }

    #[inline(always)]
    unsafe fn sums(v: [__m512; 4]) -> [f32; 4] {
        unsafe {
            let low = _mm_hadd_ps(quarter(v[0]), quarter(v[1]));
            let high = _mm_hadd_ps(quarter(v[2]), quarter(v[3]));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm_hadd_ps(low, high));
            sums
        }
    }

    #[inline(always)]
    unsafe fn max_lane(v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}
