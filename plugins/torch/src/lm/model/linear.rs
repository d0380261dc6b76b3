//! A matrix product with its bias, and perhaps a low-rank adapter beside it.

use rand::Rng;
use tch::Tensor;

use crate::lm::shim;
use crate::random;

/// `y = x W^T + b`, plus `scaling * (x A^T) B^T` where there is an adapter.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
    pub adapter: Option<Adapter>,
}

/// A low-rank adapter (LoRA, arXiv:2106.09685, sec. 4.1), in a kind of its own: PEFT keeps it in f32 beside a model in
/// bf16.
#[derive(Debug)]
pub struct Adapter {
    /// `[r, in]`
    pub a: Tensor,
    /// `[out, r]`
    pub b: Tensor,
    pub scaling: f64,
    /// In training only.
    pub dropout: Option<Dropout>,
}

/// Dropout of an adapter's input whose mask follows from the seed alone, so that a layer that is computed again for its
/// gradient (activation checkpointing) drops the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// In (0, 1).
    pub probability: f64,
    pub seed: u64,
    /// Tells the adapters of a model apart.
    pub adapter_idx: u64,
}

impl Linear {
    /// Returns `[.., out]` for `x` `[.., in]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let y = x.linear(&self.weight, self.bias.as_ref());
        match &self.adapter {
            Some(adapter) => {
                let kind = y.kind();
                (y + adapter.forward(x)).to_kind(kind)
            }
            None => y,
        }
    }

    /// Returns what [`Linear::forward`] does for `silu(gate) * up`, of which the backward pass keeps `gate` and `up` `[N, in]`
    /// alone where neither the weight nor what an adapter drops needs the product itself.
    ///
    /// # Panics
    /// libtorch refuses, as for any operator of the model.
    pub fn forward_gated(&self, gate: &Tensor, up: &Tensor) -> Tensor {
        let swiglu = |a| shim::swiglu(gate, up, a).unwrap_or_else(|error| panic!("{error}"));
        match &self.adapter {
            Some(adapter) if adapter.dropout.is_none() => {
                let (x, low) = swiglu(Some(&adapter.a));
                let low = low.expect("there is one with a matrix for it");
                let y = x.linear(&self.weight, self.bias.as_ref());
                let kind = y.kind();
                (y + adapter.from_low(&low)).to_kind(kind)
            }
            _ => self.forward(&swiglu(None).0),
        }
    }

    /// Returns the same weights, shared, without the adapter.
    pub(in crate::lm) fn without_adapter(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            adapter: None,
        }
    }

    /// Returns the same with every tensor replaced.
    pub(super) fn map(&self, replace: &impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            weight: replace(&self.weight),
            bias: self.bias.as_ref().map(replace),
            adapter: self.adapter.as_ref().map(|adapter| Adapter {
                a: replace(&adapter.a),
                b: replace(&adapter.b),
                ..*adapter
            }),
        }
    }
}

impl Adapter {
    /// Returns what is added to the output, `[.., out]` in the adapter's kind, for `x` `[.., in]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        let x = x.to_kind(self.a.kind());
        let x = match &self.dropout {
            Some(dropout) => &x * dropout.mask(&x),
            None => x,
        };
        self.from_low(&x.linear(&self.a, None::<Tensor>))
    }

    /// Returns what is added to the output, for inputs `[.., r]` that were multiplied by `A^T`.
    fn from_low(&self, low: &Tensor) -> Tensor {
        low.linear(&self.b, None::<Tensor>) * self.scaling
    }

    /// Returns what the adapter adds to the weight, `[out, in]` in the adapter's kind: `scaling * B A`.
    pub fn delta(&self) -> Tensor {
        self.b.matmul(&self.a) * self.scaling
    }
}

impl Dropout {
    /// Returns the factors for `x`, of its shape: 0 where it is dropped, `1 / (1 - probability)` elsewhere.
    fn mask(&self, x: &Tensor) -> Tensor {
        let mut rng = random::stream(self.seed, "lora dropout", self.adapter_idx);
        let kept = 1.0 / (1.0 - self.probability) as f32;
        let factors: Vec<f32> = (0..x.numel())
            .map(|_| {
                if rng.random::<f64>() < self.probability {
                    0.0
                } else {
                    kept
                }
            })
            .collect();
        let mask = Tensor::from_slice(&factors).view(x.size().as_slice());
        mask.to_device(x.device()).to_kind(x.kind())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn dropout_keeps_the_mean_and_repeats_for_a_seed() {
        let dropout = |seed| Dropout {
            probability: 0.25,
            seed,
            adapter_idx: 3,
        };
        let x = Tensor::ones([100, 100], (Kind::Float, Device::Cpu));
        let mask = dropout(7).mask(&x);
        let mean = mask.mean(Kind::Double).double_value(&[]);
        let zeros = mask.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!(
            (mean - 1.0).abs() < 0.03 && (zeros - 0.25).abs() < 0.02,
            "{mean} {zeros}"
        );
        assert_eq!(mask, dropout(7).mask(&x));
        assert_ne!(mask, dropout(8).mask(&x));
    }

    #[test]
    fn a_gated_input_that_is_computed_again_gives_the_gradients_of_one_that_is_kept() {
        tch::manual_seed(5);
        let options = (Kind::Double, Device::Cpu);
        let leaf = |shape: [i64; 2]| Tensor::randn(shape, options).set_requires_grad(true);
        let (gate, up, weight) = (leaf([5, 6]), leaf([5, 6]), leaf([4, 6]));
        let (a, b) = (leaf([2, 6]), leaf([4, 2]));
        let adapter = || Adapter {
            a: a.shallow_clone(),
            b: b.shallow_clone(),
            scaling: 0.5,
            dropout: None,
        };
        for has_adapter in [false, true] {
            let linear = Linear {
                weight: weight.shallow_clone(),
                bias: None,
                adapter: has_adapter.then(adapter),
            };
            let mut inputs = vec![&gate, &up, &weight];
            if has_adapter {
                inputs.extend([&a, &b]);
            }
            let gradients = |y: &Tensor| Tensor::run_backward(&[(y * y).sum(Kind::Double)], &inputs, false, false);
            let kept = linear.forward(&(gate.silu() * &up));
            let again = linear.forward_gated(&gate, &up);
            assert_eq!(kept, again);
            for (kept, again) in gradients(&kept).iter().zip(&gradients(&again)) {
                assert!(kept.allclose(again, 1e-12, 1e-12, false), "{kept} {again}");
            }
        }
    }
}
