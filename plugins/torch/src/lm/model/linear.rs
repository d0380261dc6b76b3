//! A matrix product with its bias, and perhaps a low-rank adapter beside it.

use tch::Tensor;

/// `y = x W^T + b`, plus `scaling * (x A^T) B^T` where there is an adapter.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Tensor,
    /// `[out]`
    pub bias: Option<Tensor>,
    pub adapter: Option<Adapter>,
}

/// A low-rank adapter (LoRA, arXiv:2106.09685, sec. 4.1).
#[derive(Debug)]
pub struct Adapter {
    /// `[r, in]`
    pub a: Tensor,
    /// `[out, r]`
    pub b: Tensor,
    pub scaling: f64,
}

impl Linear {
    /// Returns `[.., out]` for `x` `[.., in]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let y = x.linear(&self.weight, self.bias.as_ref());
        match &self.adapter {
            Some(Adapter { a, b, scaling }) => y + x.linear(a, None::<Tensor>).linear(b, None::<Tensor>) * *scaling,
            None => y,
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
            }),
        }
    }
}
