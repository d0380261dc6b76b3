//! Rotary position embeddings.

use tch::{Device, Kind, Tensor};

use crate::lm::config::{Config, RopeScaling};

/// Tables of the rotary embedding, `[max_position_embeddings, D]` each, both halves of `D` equal.
#[derive(Debug)]
pub struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    pub(super) fn new(config: &Config, device: Device, kind: Kind) -> Self {
        let options = (Kind::Float, device);
        let positions = Tensor::arange(config.max_position_embeddings, options);
        let angles = positions.outer(&Tensor::from_slice(&inverse_frequencies(config)).to_device(device));
        let angles = Tensor::cat(&[&angles, &angles], -1);
        Self {
            cos: angles.cos().to_kind(kind),
            sin: angles.sin().to_kind(kind),
        }
    }

    /// Returns cos and sin `[N, 1, D]` at `positions` `[N]`.
    pub fn at(&self, positions: &Tensor) -> (Tensor, Tensor) {
        let pick = |table: &Tensor| table.index_select(0, positions).unsqueeze(1);
        (pick(&self.cos), pick(&self.sin))
    }

    pub(super) fn share(&self) -> Self {
        Self {
            cos: self.cos.shallow_clone(),
            sin: self.sin.shallow_clone(),
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
    (0..config.head_dim / 2)
        .map(|idx| {
            let frequency = 1.0 / config.rope_theta.powf(2.0 * idx as f64 / config.head_dim as f64);
            scale_frequency(frequency, config.rope_scaling) as f32
        })
        .collect()
}

fn scale_frequency(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => {
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < original / high_freq_factor {
                frequency
            } else if wavelength > original / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}
