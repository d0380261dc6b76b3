//! What happens to one row or tile at a time: norms, activation, rotation, sums.

use super::simd::{Kernel, Simd, exp, load_up_to, store_up_to};

/// `to = from / rms(from) * weight`; transformers' `LlamaRMSNorm`. `to` may be `from`.
pub struct RmsNorm {
    pub from: *const f32,
    pub weight: *const f32,
    pub to: *mut f32,
    pub len: usize,
    pub epsilon: f32,
}

impl Kernel for RmsNorm {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut squares = S::splat(0.0);
            for at in (0..self.len).step_by(S::LANES) {
                let v = load_up_to::<S>(self.from.add(at), self.len - at);
                squares = S::mul_add(v, v, squares);
            }
            let mean = S::sum(squares) / self.len as f32;
            let scale = S::splat(1.0 / (mean + self.epsilon).sqrt());
            for at in (0..self.len).step_by(S::LANES) {
                let left = self.len - at;
                let v = load_up_to::<S>(self.from.add(at), left);
                let weight = load_up_to::<S>(self.weight.add(at), left);
                store_up_to::<S>(self.to.add(at), S::mul(S::mul(v, scale), weight), left);
            }
        }
    }
}

/// `to = silu(gate) * up`, the inside of the SwiGLU MLP.
pub struct SwiGlu {
    pub gate: *const f32,
    pub up: *const f32,
    pub to: *mut f32,
    pub len: usize,
}

impl Kernel for SwiGlu {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            for at in (0..self.len).step_by(S::LANES) {
                let left = self.len - at;
                let gate = load_up_to::<S>(self.gate.add(at), left);
                let up = load_up_to::<S>(self.up.add(at), left);
                let e = exp::<S>(S::sub(S::splat(0.0), gate));
                let silu = S::div(gate, S::add(S::splat(1.0), e));
                store_up_to::<S>(self.to.add(at), S::mul(silu, up), left);
            }
        }
    }
}

/// `to += scale * from`
pub struct AddScaled {
    pub from: *const f32,
    pub scale: f32,
    pub to: *mut f32,
    pub len: usize,
}

impl Kernel for AddScaled {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            for at in (0..self.len).step_by(S::LANES) {
                let left = self.len - at;
                let from = load_up_to::<S>(self.from.add(at), left);
                let to = load_up_to::<S>(self.to.add(at), left);
                store_up_to::<S>(self.to.add(at), S::mul_add(from, S::splat(self.scale), to), left);
            }
        }
    }
}

/// Turns the first half of a head against the second, as transformers' `apply_rotary_pos_emb`; `cos` and `sin` have
/// half the length of the head, as both of their halves are equal.
pub struct Rotate {
    pub head: *mut f32,
    pub cos: *const f32,
    pub sin: *const f32,
    pub half: usize,
}

impl Kernel for Rotate {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            for at in (0..self.half).step_by(S::LANES) {
                let left = self.half - at;
                let (first, second) = (self.head.add(at), self.head.add(self.half + at));
                let (a, b) = (load_up_to::<S>(first, left), load_up_to::<S>(second, left));
                let cos = load_up_to::<S>(self.cos.add(at), left);
                let sin = load_up_to::<S>(self.sin.add(at), left);
                store_up_to::<S>(first, S::sub(S::mul(a, cos), S::mul(b, sin)), left);
                store_up_to::<S>(second, S::mul_add(b, cos, S::mul(a, sin)), left);
            }
        }
    }
}
