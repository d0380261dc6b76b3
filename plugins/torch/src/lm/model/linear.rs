//! A matrix product with its bias, and perhaps a low-rank adapter beside it.

use rand::Rng;
use tch::{Device, Kind, Tensor};

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

/// Dropout of an adapter's input. Whether an input is dropped follows from which token of which sequence it is of, which
/// adapter and which feature: from nothing that is computed beside it, so not from how a step is cut into micro-batches,
/// and a layer that is computed again for its gradient (activation checkpointing) drops the same.
#[derive(Debug)]
pub struct Dropout {
    /// In (0, 1).
    pub probability: f64,
    /// `[N]` in i32: the [`token_keys`] of the tokens that are computed.
    pub token_keys: Tensor,
    /// Tells the adapters of a model apart.
    pub adapter_idx: u64,
}

/// Returns what tells the tokens of a flat list apart, `[N]` in i32, for sequences that lie one behind the other, each given
/// by a number of its own and its length.
pub fn token_keys(seed: u64, sequences: &[(u64, usize)], device: Device) -> Tensor {
    let keys: Vec<i32> = sequences
        .iter()
        .flat_map(|&(sequence, length)| {
            let mut rng = random::stream(seed, "lora dropout", sequence);
            (0..length).map(move |_| rng.random::<i32>())
        })
        .collect();
    Tensor::from_slice(&keys).to_device(device)
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
                (y + adapter.raised(&low)).to_kind(kind)
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
                scaling: adapter.scaling,
                dropout: adapter.dropout.as_ref().map(Dropout::share),
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
        self.raised(&x.linear(&self.a, None::<Tensor>))
    }

    /// Returns what is added to the output, for inputs `[.., r]` that were multiplied by `A^T`.
    fn raised(&self, low: &Tensor) -> Tensor {
        low.linear(&self.b, None::<Tensor>) * self.scaling
    }

    /// Returns what the adapter adds to the weight, `[out, in]` in the adapter's kind: `scaling * B A`.
    pub fn delta(&self) -> Tensor {
        self.b.matmul(&self.a) * self.scaling
    }
}

impl Dropout {
    fn share(&self) -> Self {
        Self {
            token_keys: self.token_keys.shallow_clone(),
            ..*self
        }
    }

    /// Returns the factors for `x` `[N, in]`, of its shape: 0 where it is dropped, `1 / (1 - probability)` elsewhere.
    ///
    /// They are a hash of token, adapter and feature, made on the device of `x`.
    fn mask(&self, x: &Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let first = i64::from(random::stream(0, "lora dropout of an adapter", self.adapter_idx).random::<i32>());
        let features = mixed(Tensor::arange(x.size()[1], (Kind::Int, x.device())) + first); // [in]
        let hash = mixed(self.token_keys.unsqueeze(-1).bitwise_xor_tensor(&features)); // [N, in]
        // One of the 2^32 numbers of i32, any as likely.
        let first_kept = f64::from(i32::MIN) + self.probability * 2_f64.powi(32);
        hash.ge(first_kept as i64).to_kind(x.kind()) * (1.0 / (1.0 - self.probability))
    }
}

/// Mixes the bits of numbers in i32, so that neighbours have nothing in common: lowbias32 of Wellons' hash-prospector.
fn mixed(mut x: Tensor) -> Tensor {
    // A shift of i32 repeats the sign, which has no place in an unsigned hash.
    let shifted = |x: &Tensor, bits: i64| {
        let mut shifted = x.bitwise_right_shift_tensor_scalar(bits);
        shifted.bitwise_and_((1_i64 << (32 - bits)) - 1)
    };
    x = x.bitwise_xor_tensor_(&shifted(&x, 16));
    for (factor, bits) in [(0x7feb_352d_u32, 15), (0x846c_a68b, 16)] {
        x = x.g_mul_scalar_(i64::from(factor.cast_signed()));
        x = x.bitwise_xor_tensor_(&shifted(&x, bits));
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropout(probability: f64, token_keys: Tensor, adapter_idx: u64) -> Dropout {
        Dropout {
            probability,
            token_keys,
            adapter_idx,
        }
    }

    fn share_of(mask: &Tensor) -> f64 {
        mask.to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
    }

    #[test]
    fn dropout_keeps_the_mean_and_differs_by_seed_token_and_adapter() {
        let keys = |seed| token_keys(seed, &[(0, 100), (1, 100)], Device::Cpu);
        let x = Tensor::ones([200, 300], (Kind::Float, Device::Cpu));
        for probability in [0.05, 0.25, 0.9] {
            let of = |seed, adapter_idx| dropout(probability, keys(seed), adapter_idx).mask(&x);
            let mask = of(7, 3);
            let mean = mask.mean(Kind::Double).double_value(&[]);
            let dropped = mask.eq(0.0);
            assert!((mean - 1.0).abs() < 0.05, "{probability}: {mean}");
            assert!((share_of(&dropped) - probability).abs() < 0.01, "{probability}");
            // No row and no column is like the others, and another seed, adapter or sequence has a mask of its own.
            for dim in [0, 1] {
                let shares = dropped.to_kind(Kind::Float).mean_dim(dim, false, Kind::Float);
                let off = (shares - probability).abs().max().double_value(&[]);
                assert!(off < 0.2, "{probability}: {off}");
            }
            let others = [
                of(8, 3),
                of(7, 4),
                Tensor::cat(&[mask.narrow(0, 100, 100), mask.narrow(0, 0, 100)], 0),
                mask.roll([1], [1]),
            ];
            let expected = probability * probability + (1.0 - probability) * (1.0 - probability);
            for other in others {
                let same = share_of(&dropped.eq_tensor(&other.eq(0.0)));
                assert!((same - expected).abs() < 0.02, "{probability}: {same} are the same");
            }
            assert_eq!(mask, of(7, 3));
        }
    }

    #[test]
    fn what_a_sequence_drops_does_not_depend_on_what_is_beside_it() {
        let x = |length| Tensor::ones([length, 50], (Kind::Float, Device::Cpu));
        let mask = |sequences: &[(u64, usize)], length| {
            dropout(0.5, token_keys(5, sequences, Device::Cpu), 1).mask(&x(length))
        };
        let alone = mask(&[(9, 20)], 20);
        assert_eq!(mask(&[(2, 7), (9, 20), (1, 3)], 30).narrow(0, 7, 20), alone);
        assert_eq!(mask(&[(9, 12)], 12), alone.narrow(0, 0, 12));
    }

    /// lowbias32 in plain arithmetic.
    #[test]
    fn the_hash_is_the_one_it_is_called() {
        let plain = |x: u32| {
            let x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
            let x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
            x ^ x >> 16
        };
        let numbers = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xdead_beef_u32];
        let tensor = Tensor::from_slice(&numbers.map(u32::cast_signed));
        assert_eq!(
            Vec::<i32>::try_from(mixed(tensor)).unwrap(),
            numbers.map(|x| plain(x).cast_signed())
        );
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
