//! An adapter's folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT reads and writes them.

use std::collections::HashMap;
use std::path::Path;

use tch::{Kind, Tensor};

use super::AdapterConfig;
use crate::lm::checkpoint::{read_tensors, write_tensors};
use crate::lm::model::linear::Adapter;
use crate::lm::{CausalLm, LmError};

const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What PEFT puts in front of the name of a module of a causal language model.
const PREFIX: &str = "base_model.model.";

/// Returns the model with the adapters of a folder beside its matrices, in f32 as PEFT keeps them, and their config.
///
/// # Errors
/// A file is missing or broken; the config asks for what is not supported or targets no matrix; a matrix is missing,
/// has another shape than the model and the config say, is not finite, or belongs to no target.
pub fn load(model: &CausalLm, dir: &Path) -> Result<(CausalLm, AdapterConfig), LmError> {
    let config = AdapterConfig::read(dir)?;
    let path = dir.join(WEIGHTS_FILE);
    if !path.exists() && dir.join("adapter_model.bin").exists() {
        return Err(LmError::Invalid {
            path: dir.join("adapter_model.bin"),
            message: "pickled weights are not read; save the adapter with safe_serialization=True".to_owned(),
        });
    }
    let invalid = |message: String| LmError::Invalid {
        path: path.clone(),
        message,
    };
    let mut tensors = HashMap::new();
    read_tensors(&path, &mut tensors)?;
    let device = model.device();
    let mut take = |module: &str, matrix: &str, shape: [i64; 2]| -> Result<Tensor, LmError> {
        let name = format!("{PREFIX}{module}.{matrix}.weight");
        let tensor = tensors
            .remove(&name)
            .ok_or_else(|| invalid(format!("no tensor {name}, but the config targets {module}")))?;
        if tensor.size() != shape {
            return Err(invalid(format!(
                "tensor {name} has shape {:?}, the model and r in the config ask for {shape:?}",
                tensor.size()
            )));
        }
        if !is_finite(&tensor) {
            return Err(invalid(format!("tensor {name} has a value that is not finite")));
        }
        Ok(tensor.to_kind(Kind::Float).to_device(device))
    };
    let adapted = model.with_adapters(|module, linear| {
        if !config.is_target(module) {
            return Ok(None);
        }
        let (out, input) = linear.weight.size2()?;
        let rank = i64::try_from(config.rank(module)).unwrap_or(i64::MAX);
        Ok(Some(Adapter {
            a: take(module, "lora_A", [rank, input])?,
            b: take(module, "lora_B", [out, rank])?,
            scaling: config.scaling(module),
            dropout: None,
        }))
    })?;
    if let Some(name) = tensors.keys().min() {
        return Err(invalid(format!(
            "tensor {name} belongs to no module that the config targets and the model has ({} such tensors)",
            tensors.len()
        )));
    }
    if adapted.adapter_parameters().is_empty() {
        return Err(LmError::Invalid {
            path: dir.join(super::config::CONFIG_FILE),
            message: "target_modules matches no matrix of the model".to_owned(),
        });
    }
    Ok((adapted, config))
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) != 0
}

/// Writes the adapters of a model into a folder, which is made if need be.
///
/// # Errors
/// A file can't be written.
pub fn save(model: &CausalLm, config: &AdapterConfig, dir: &Path) -> Result<(), LmError> {
    std::fs::create_dir_all(dir).map_err(|source| LmError::Io {
        path: dir.to_owned(),
        source,
    })?;
    config.write(dir)?;
    let tensors = model
        .adapter_parameters()
        .into_iter()
        .map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.detach()))
        .collect();
    write_tensors(tensors, &dir.join(WEIGHTS_FILE))
}
