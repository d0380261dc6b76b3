//! Low-rank adapters (LoRA, arXiv:2106.09685) in PEFT's folders: read, begun, written, and merged into a model.
//!
//! An adapter stands beside a matrix of a [`CausalLm`] (`Linear::adapter`). Training a model that has adapters changes
//! these alone (`CausalLm::trainable_parameters`).

mod config;
mod folder;
mod params;
mod targets;

pub use config::AdapterConfig;
pub use folder::{load, save};
pub use params::LoraParams;
pub use targets::{Layers, Pattern, Targets};

use rand::Rng;
use tch::{Kind, Tensor};

use super::model::linear::{Adapter, Linear};
use super::{CausalLm, LmError};
use crate::random;

/// Returns the model with new adapters, which change nothing yet: A is drawn, B is zero.
///
/// A is uniform within `1 / sqrt(in)` of 0, which is `kaiming_uniform_(a=sqrt(5))`: PEFT's default
/// (`LoraLayer.reset_lora_parameters`). The adapters are in f32, whatever kind the model is in.
///
/// # Errors
/// No matrix is a target, or a number of the config makes no sense.
pub fn begin(model: &CausalLm, config: &AdapterConfig, seed: u64) -> Result<CausalLm, LmError> {
    config.check().map_err(LmError::Adapter)?;
    let device = model.device();
    let mut adapter_idx = 0;
    let adapted = model.with_adapters(|name, linear| {
        if !config.is_target(name) {
            return Ok(None);
        }
        let (out, input) = linear.weight.size2()?;
        let rank = config.rank(name);
        // A rank over the matrix's own is legal and useless; it must only not ask for endless memory.
        if rank as i64 > out.max(input) {
            return Err(LmError::Adapter(format!(
                "the rank of {name} is {rank}, but the matrix is [{out}, {input}]; lower lora_r"
            )));
        }
        let mut rng = random::stream(seed, "lora", adapter_idx);
        adapter_idx += 1;
        let bound = 1.0 / (input as f32).sqrt();
        let values: Vec<f32> = (0..rank * input as usize)
            .map(|_| (2.0 * rng.random::<f32>() - 1.0) * bound)
            .collect();
        Ok(Some(Adapter {
            a: Tensor::from_slice(&values).view([rank as i64, input]).to_device(device),
            b: Tensor::zeros([out, rank as i64], (Kind::Float, device)),
            scaling: config.scaling(name),
            dropout: None,
        }))
    })?;
    if adapter_idx == 0 {
        return Err(LmError::Adapter(format!(
            "target_modules {} matches no matrix of the model; expected names as q_proj, k_proj, v_proj, o_proj, \
             gate_proj, up_proj or down_proj",
            config.target_modules.to_json()
        )));
    }
    Ok(adapted)
}

/// Returns a model without adapters that computes the same up to rounding: `W + scaling * B A`.
///
/// Matrices without an adapter are shared. The sum is computed in f32 and rounded once to the weights' kind.
#[must_use]
pub fn merge(model: &CausalLm) -> CausalLm {
    let _no_grad = tch::no_grad_guard();
    model.map_linears(|_, linear| match &linear.adapter {
        Some(adapter) => {
            let kind = linear.weight.kind();
            let delta = adapter.delta().to_kind(Kind::Float);
            Linear {
                weight: (linear.weight.to_kind(Kind::Float) + delta).to_kind(kind),
                ..linear.without_adapter()
            }
        }
        None => linear.without_adapter(),
    })
}

#[cfg(test)]
mod tests;
