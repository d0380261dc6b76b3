//! A model with its adapters put on, taken off, or in training.

use tch::Tensor;

use super::linear::{Adapter, Dropout, Linear};
use super::{CausalLm, Layer};
use crate::lm::LmError;

impl CausalLm {
    /// Returns the model as it is without its adapters, over the same weights: the reference of a policy that trains
    /// adapters alone costs no memory.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        self.map_linears(|_, linear| linear.without_adapter())
    }

    /// Returns the model over the same weights and adapters, each of which drops a share, in (0, 1), of its inputs when the
    /// tokens that `token_keys` `[N]` are of ([`token_keys`](super::linear::token_keys)) are computed.
    #[must_use]
    pub fn with_dropout(&self, probability: f64, token_keys: &Tensor) -> Self {
        let mut adapter_idx = 0;
        self.map_linears(|_, linear| {
            let mut linear = linear.map(&Tensor::shallow_clone);
            if let Some(adapter) = &mut linear.adapter {
                adapter.dropout = Some(Dropout {
                    probability,
                    token_keys: token_keys.shallow_clone(),
                    adapter_idx,
                });
                adapter_idx += 1;
            }
            linear
        })
    }

    /// Returns the model with the adapters that `adapter` gives for its matrices, named as `model.layers.0.mlp.up_proj`;
    /// the weights are shared.
    pub(in crate::lm) fn with_adapters(
        &self,
        mut adapter: impl FnMut(&str, &Linear) -> Result<Option<Adapter>, LmError>,
    ) -> Result<Self, LmError> {
        let mut failure = None;
        let model = self.map_linears(|name, linear| {
            let mut linear = linear.without_adapter();
            match adapter(name, &linear) {
                Ok(adapter) => linear.adapter = adapter,
                Err(error) => drop(failure.get_or_insert(error)),
            }
            linear
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(model),
        }
    }

    /// Returns the model with its matrices replaced, each called by its name; everything else is shared.
    pub(in crate::lm) fn map_linears(&self, mut replace: impl FnMut(&str, &Linear) -> Linear) -> Self {
        let mut model = self.share();
        for (layer_idx, layer) in model.layers.iter_mut().enumerate() {
            for (name, linear) in layer.linears_mut() {
                *linear = replace(&format!("model.layers.{layer_idx}.{name}"), linear);
            }
        }
        model
    }
}

impl Layer {
    /// [`Layer::linears`], to change them.
    fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 7] {
        let names = self.linears().map(|(name, _)| name);
        let linears = [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
            &mut self.gate_proj,
            &mut self.up_proj,
            &mut self.down_proj,
        ];
        let mut linears = linears.into_iter();
        names.map(|name| (name, linears.next().expect("as many matrices as names")))
    }
}
