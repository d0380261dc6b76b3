//! AdamW over a model's parameters, with clipping of the global gradient norm.

use tch::{Kind, Tensor};

use super::LmError;
use super::shim::{self, AdamwStep};

/// Hyperparameters, as in `torch.optim.AdamW`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwSettings {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    pub decay: Decay,
    /// Gradients are scaled down to this global L2 norm; 0 turns it off.
    pub max_grad_norm: f64,
}

/// Which parameters decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// Every parameter, as plain `torch.optim.AdamW` does.
    All,
    /// Those of two or more dimensions: no norms and no biases, as in transformers' `Trainer`.
    Matrices,
}

/// The optimizer and its state: one entry in each list for each parameter.
pub struct AdamW {
    settings: AdamwSettings,
    params: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl AdamW {
    /// Starts an optimizer that will change `params` in place.
    pub fn new(params: &[Tensor], settings: AdamwSettings) -> Self {
        let zeros = || params.iter().map(|param| param.detach().zeros_like()).collect();
        let (exp_avgs, exp_avg_sqs) = (zeros(), zeros());
        let steps = params
            .iter()
            .map(|param| Tensor::zeros([], (Kind::Float, param.device())))
            .collect();
        let params = params.iter().map(Tensor::shallow_clone).collect();
        Self {
            settings,
            params,
            exp_avgs,
            exp_avg_sqs,
            steps,
        }
    }

    /// Returns what a step changes first of all.
    pub(super) fn params(&self) -> &[Tensor] {
        &self.params
    }

    /// Returns what a step changes: names as in PyTorch, and for each a tensor for each parameter.
    pub(super) fn state(&self) -> [(&'static str, &[Tensor]); 4] {
        [
            ("weight", &self.params),
            ("exp_avg", &self.exp_avgs),
            ("exp_avg_sq", &self.exp_avg_sqs),
            ("step", &self.steps),
        ]
    }

    /// Clips the gradients (in place), takes one step, and returns their norm before clipping.
    ///
    /// Where that norm is not finite nothing changes: such a step would make all weights no numbers.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn step(&mut self, grads: &[Tensor], learning_rate: f64) -> Result<f64, LmError> {
        let _no_grad = tch::no_grad_guard();
        let all: Vec<&Tensor> = grads.iter().collect();
        let norm = shim::global_norm(&all)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        let limit = self.settings.max_grad_norm;
        if limit > 0.0 {
            // As torch.nn.utils.clip_grad_norm_.
            let factor = limit / (norm + 1e-6);
            if factor < 1.0 {
                shim::scale(&all, factor)?;
            }
        }
        for step in &mut self.steps {
            let _ = step.g_add_scalar_(1.0);
        }
        for decays in [true, false] {
            self.step_group(grads, learning_rate, decays)?;
        }
        Ok(norm)
    }

    /// Steps the parameters that decay, or those that don't.
    fn step_group(&self, grads: &[Tensor], learning_rate: f64, decays: bool) -> Result<(), LmError> {
        let decayed = |param: &Tensor| self.settings.decay == Decay::All || param.dim() >= 2;
        let group: Vec<usize> = (0..self.params.len())
            .filter(|&idx| decayed(&self.params[idx]) == decays)
            .collect();
        if group.is_empty() {
            return Ok(());
        }
        let pick = |list: &[Tensor]| group.iter().map(|&idx| list[idx].shallow_clone()).collect::<Vec<_>>();
        let lists = [&self.params, grads, &self.exp_avgs, &self.exp_avg_sqs, &self.steps].map(pick);
        let [params, grads, exp_avgs, exp_avg_sqs, steps] =
            lists.each_ref().map(|list| list.iter().collect::<Vec<_>>());
        let step = AdamwStep {
            learning_rate,
            beta1: self.settings.beta1,
            beta2: self.settings.beta2,
            weight_decay: if decays { self.settings.weight_decay } else { 0.0 },
            epsilon: self.settings.epsilon,
        };
        shim::adamw(&params, &grads, &exp_avgs, &exp_avg_sqs, &steps, step)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_gradient_that_is_no_number_changes_nothing() {
        let settings = AdamwSettings {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            decay: Decay::All,
            max_grad_norm: 1.0,
        };
        let weight = Tensor::ones([3], (Kind::Float, Device::Cpu));
        let mut optimizer = AdamW::new(&[weight.shallow_clone()], settings);
        let gradient = |values: [f32; 3]| [Tensor::from_slice(&values)];
        optimizer.step(&gradient([1.0, 2.0, 3.0]), 0.1).unwrap();
        let state = |optimizer: &AdamW| {
            let all = optimizer.state().into_iter().flat_map(|(_, tensors)| tensors);
            all.map(|tensor| tensor.detach().copy()).collect::<Vec<_>>()
        };
        let before = state(&optimizer);
        for broken in [f32::NAN, f32::INFINITY] {
            let norm = optimizer.step(&gradient([1.0, broken, 3.0]), 0.1).unwrap();
            assert!(!norm.is_finite());
            assert_eq!(state(&optimizer), before);
        }
    }
}
