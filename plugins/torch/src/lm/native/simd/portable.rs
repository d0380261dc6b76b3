//! Plain Rust in groups of eight, which the compiler turns into whatever vectors its target has.

use super::Simd;

#[derive(Clone, Copy)]
pub struct Portable;

type V = [f32; 8];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    let mut out = [0.0; 8];
    for lane in 0..8 {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

// SAFETY of every body: pointers are valid, which the callers promise.
impl Simd for Portable {
    type V = V;
    const LANES: usize = 8;
    const PANEL: usize = 2;
    const KEY_PAGES: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> V {
        [value; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        unsafe { from.cast::<V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, len: usize) -> V {
        let mut v = [0.0; 8];
        unsafe { std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), len) };
        v
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: V) {
        unsafe { to.cast::<V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, v: V, len: usize) {
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), to, len) }
    }

    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }

    /// Rounds twice: without the instruction, one rounding would cost a call.
    #[inline(always)]
    unsafe fn mul_add(a: V, b: V, c: V) -> V {
        let mut out = [0.0; 8];
        for lane in 0..8 {
            out[lane] = a[lane] * b[lane] + c[lane];
        }
        out
    }

    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    /// Adds and takes away 1.5 * 2^23, where floats are integers; right for the small numbers that it gets.
    #[inline(always)]
    unsafe fn round(v: V) -> V {
        const SHIFT: f32 = 12_582_912.0;
        let mut out = [0.0; 8];
        for lane in 0..8 {
            out[lane] = (v[lane] + SHIFT) - SHIFT;
        }
        out
    }

    #[inline(always)]
    unsafe fn scale_by_power(v: V, n: V) -> V {
        let mut out = [0.0; 8];
        for lane in 0..8 {
            let exponent = (n[lane] as i32 + 127).max(0) as u32;
            out[lane] = v[lane] * f32::from_bits(exponent << 23);
        }
        out
    }

    #[inline(always)]
    unsafe fn sum(v: V) -> f32 {
        ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]))
    }

    #[inline(always)]
    unsafe fn sums(v: [V; 4]) -> [f32; 4] {
        unsafe { [Self::sum(v[0]), Self::sum(v[1]), Self::sum(v[2]), Self::sum(v[3])] }
    }

    #[inline(always)]
    unsafe fn max_lane(v: V) -> f32 {
        let pair = |a: f32, b: f32| if a > b { a } else { b };
        pair(
            pair(pair(v[0], v[4]), pair(v[1], v[5])),
            pair(pair(v[2], v[6]), pair(v[3], v[7])),
        )
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const f32) {}
}
