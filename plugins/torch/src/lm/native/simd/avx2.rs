//! AVX2 with FMA: 8 lanes, 16 registers.

use std::arch::x86_64::*;

use super::Simd;

#[derive(Clone, Copy)]
pub struct Avx2;

/// All ones in the first `len` lanes.
#[inline(always)]
unsafe fn mask(len: usize) -> __m256i {
    // SAFETY: the processor has AVX2, the promise of everything here.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(len as i32), lanes)
    }
}

/// Adds the upper half of the lanes to the lower one.
#[inline(always)]
unsafe fn half(v: __m256) -> __m128 {
    // SAFETY: as above.
    unsafe { _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)) }
}

// SAFETY of every body: the processor has AVX2 and FMA and pointers are valid, which the callers promise.
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const PANEL: usize = 2;
    const KEY_PAGES: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, len: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(from, mask(len)) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, v: __m256, len: usize) {
        unsafe { _mm256_maskstore_ps(to, mask(len), v) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn round(v: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }

    #[inline(always)]
    unsafe fn scale_by_power(v: __m256, n: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            let normal = _mm256_cmpgt_epi32(exponent, _mm256_setzero_si256());
            let power = _mm256_and_si256(_mm256_slli_epi32::<23>(exponent), normal);
            _mm256_mul_ps(v, _mm256_castsi256_ps(power))
        }
    }

    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        unsafe {
            let v = half(v);
            let v = _mm_hadd_ps(v, v);
            _mm_cvtss_f32(_mm_hadd_ps(v, v))
        }
    }

    #[inline(always)]
    unsafe fn sums(v: [__m256; 4]) -> [f32; 4] {
        unsafe {
            let low = _mm_hadd_ps(half(v[0]), half(v[1]));
            let high = _mm_hadd_ps(half(v[2]), half(v[3]));
            let mut sums = [0.0; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm_hadd_ps(low, high));
            sums
        }
    }

    #[inline(always)]
    unsafe fn max_lane(v: __m256) -> f32 {
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}
