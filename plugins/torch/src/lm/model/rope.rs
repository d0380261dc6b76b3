//! Rotary position embeddings.

use tch::{Device, Kind, Tensor};

use crate::lm::config::{Config, RopeScaling};

/// The frequencies of the rotary embedding.
///
/// Cosines and sines are computed for the positions at hand, once for all layers of a pass: a table over all positions
/// that a model allows would cost 67 MB for a context of 131072, and be read in a few places.
#[derive(Debug)]
pub struct Rope {
    /// `[D / 2]`, float32.
    frequencies: Tensor,
    kind: Kind,
}

impl Rope {
    pub(super) fn new(config: &Config, device: Device, kind: Kind) -> Self {
        Self {
            frequencies: frequencies(config).to_device(device),
            kind,
        }
    }

    /// Returns cos and sin `[N, 1, D]` at `positions` `[N]`, both halves of `D` equal.
    pub fn at(&self, positions: &Tensor) -> (Tensor, Tensor) {
        let angles = positions.to_kind(Kind::Float).outer(&self.frequencies);
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(1);
        (angles.cos().to_kind(self.kind), angles.sin().to_kind(self.kind))
    }

    pub(super) fn share(&self) -> Self {
        Self {
            frequencies: self.frequencies.shallow_clone(),
            kind: self.kind,
        }
    }
}

/// Applies the rotary embedding to `x` `[N, heads, D]`, halves rotated against each other as transformers does.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let halves = x.chunk(2, -1);
    let turned = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
    x * cos + turned * sin
}

/// Returns the `D / 2` rotary frequencies in radians per position.
pub fn inverse_frequencies(config: &Config) -> Vec<f32> {
    Vec::try_from(frequencies(config)).expect("a vector of the tensor's own kind")
}

/// The frequencies `[D / 2]`, in the order of operations and the precision of transformers: at position 100000 the last
/// bit of a frequency is a hundredth of a radian.
/// Source: transformers, `modeling_rope_utils.py`.
fn frequencies(config: &Config) -> Tensor {
    let exponents = Tensor::arange_start_step(0, config.head_dim, 2, (Kind::Float, Device::Cpu));
    let powers = Tensor::pow_scalar(config.rope_theta, &(exponents / config.head_dim as f64));
    let frequencies = powers.reciprocal();
    match config.rope_scaling {
        RopeScaling::None => frequencies,
        RopeScaling::Linear { factor } => frequencies / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => {
            let wavelengths = frequencies.reciprocal() * (2.0 * std::f64::consts::PI);
            let smooth = (wavelengths.reciprocal() * original - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let slowed = &frequencies / factor;
            // As in the source: between the two lengths, a mixture of both.
            let mixed = (1.0 - &smooth) * &frequencies / factor + smooth * &frequencies;
            let is_long = wavelengths.gt(original / low_freq_factor);
            let is_short = wavelengths.lt(original / high_freq_factor);
            slowed.where_self(&is_long, &frequencies.where_self(&is_short, &mixed))
        }
    }
}
