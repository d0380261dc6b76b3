//! A learner on disk: weights, AdamW's moments and its step counts, as one safetensors file.
//!
//! Bits as they are in memory: training goes on from f32 weights, whatever kind the model is computed or written in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::LmError;
use super::checkpoint::{read_tensors, write_tensors};
use super::learner::Learner;

/// Writes the state into a folder.
///
/// # Errors
/// The file can't be written.
pub fn write(learner: &Learner, folder: &Path) -> Result<(), LmError> {
    write_tensors(learner.state(), &file(folder))
}

/// Gives a learner the state that [`write`] left in a folder.
///
/// # Errors
/// The file can't be read, or has other tensors than the learner: nothing of the learner is changed then.
pub fn read(learner: &Learner, folder: &Path) -> Result<(), LmError> {
    let path = file(folder);
    let mut saved = HashMap::new();
    read_tensors(&path, &mut saved)?;
    let state = learner.state();
    let invalid = |message: String| LmError::Invalid {
        path: path.clone(),
        message,
    };
    let mut pairs = Vec::with_capacity(state.len());
    for (name, tensor) in state {
        let from: Tensor = saved
            .remove(&name)
            .ok_or_else(|| invalid(format!("no tensor {name}")))?;
        if from.size() != tensor.size() || from.kind() != tensor.kind() {
            return Err(invalid(format!(
                "tensor {name} is {:?} of {:?}, expected {:?} of {:?}",
                from.kind(),
                from.size(),
                tensor.kind(),
                tensor.size()
            )));
        }
        pairs.push((tensor, from));
    }
    if !saved.is_empty() {
        return Err(invalid(format!("{} tensors too many", saved.len())));
    }
    let _no_grad = tch::no_grad_guard();
    for (mut tensor, from) in pairs {
        tensor.f_copy_(&from)?;
    }
    learner.publish()
}

fn file(folder: &Path) -> PathBuf {
    folder.join("learner.safetensors")
}
