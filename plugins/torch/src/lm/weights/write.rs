//! Weights written as transformers writes them: one safetensors file, or shards and an index.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::View;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::{INDEX, SINGLE};
use crate::lm::LmError;
use crate::lm::files::invalid;

/// Writes the parameters of a model in `kind`: as one file, or in shards of at most `max_shard_bytes` where they are more.
/// Weights that were in the folder before are replaced.
///
/// # Errors
/// A file can't be written.
pub(in crate::lm) fn write_model(
    parameters: Vec<(String, Tensor)>,
    dir: &Path,
    kind: Kind,
    max_shard_bytes: usize,
) -> Result<(), LmError> {
    let views: Vec<(String, Written)> = parameters
        .into_iter()
        .map(|(name, tensor)| (name, Written::of(tensor, kind)))
        .collect();
    remove_weights(dir)?;
    let mut shards = cut(views, max_shard_bytes);
    if shards.len() == 1 {
        return write(shards.remove(0), &dir.join(SINGLE));
    }
    let count = shards.len();
    let (mut weight_map, mut total_size) = (serde_json::Map::new(), 0);
    for (idx, shard) in shards.into_iter().enumerate() {
        let file_name = format!("model-{:05}-of-{count:05}.safetensors", idx + 1);
        for (name, view) in &shard {
            weight_map.insert(name.clone(), file_name.clone().into());
            total_size += view.data_len();
        }
        write(shard, &dir.join(file_name))?;
    }
    let path = dir.join(INDEX);
    let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
    let text = serde_json::to_string_pretty(&index).expect("a JSON value is JSON");
    std::fs::write(&path, text + "\n").map_err(|source| LmError::Io { path, source })
}

/// Writes tensors into a safetensors file, each in its own kind.
///
/// # Errors
/// The file can't be written.
pub(in crate::lm) fn write_tensors(tensors: Vec<(String, Tensor)>, path: &Path) -> Result<(), LmError> {
    let views = tensors.into_iter().map(|(name, tensor)| {
        let kind = tensor.kind();
        (name, Written::of(tensor, kind))
    });
    write(views.collect(), path)
}

/// Cuts a list where a shard would become too large; a tensor is never cut.
fn cut(views: Vec<(String, Written)>, max_shard_bytes: usize) -> Vec<Vec<(String, Written)>> {
    let mut shards = vec![Vec::new()];
    let mut size = 0;
    for (name, view) in views {
        let length = view.data_len();
        if size > 0 && size + length > max_shard_bytes {
            shards.push(Vec::new());
            size = 0;
        }
        size += length;
        shards.last_mut().expect("never empty").push((name, view));
    }
    shards
}

/// Writes under another name first: the tensors may be the memory of the very file that is replaced.
fn write(views: Vec<(String, Written)>, path: &Path) -> Result<(), LmError> {
    // transformers refuses weights that do not say which framework wrote them.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let partial = path.with_extension("safetensors.partial");
    safetensors::serialize_to_file(views, Some(metadata), &partial)
        .map_err(|error| invalid(path, format!("can't be written: {error}")))?;
    std::fs::rename(&partial, path).map_err(|source| LmError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Removes weights of an earlier model, which would be taken for a part of this one.
fn remove_weights(dir: &Path) -> Result<(), LmError> {
    let io = |path: &Path, source| LmError::Io {
        path: path.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(dir).map_err(|source| io(dir, source))? {
        let entry = entry.map_err(|source| io(dir, source))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_shard = name.starts_with("model-") && name.ends_with(".safetensors");
        if is_shard || name == SINGLE || name == INDEX {
            std::fs::remove_file(entry.path()).map_err(|source| io(&entry.path(), source))?;
        }
    }
    Ok(())
}

/// A tensor that is fetched and converted when its turn comes, so that no second copy of a model is in memory.
struct Written {
    tensor: Tensor,
    shape: Vec<usize>,
    kind: Kind,
}

impl Written {
    fn of(tensor: Tensor, kind: Kind) -> Self {
        Self {
            shape: tensor.size().iter().map(|&size| size as usize).collect(),
            tensor: tensor.detach(),
            kind,
        }
    }
}

impl View for Written {
    fn dtype(&self) -> Dtype {
        match self.kind {
            Kind::BFloat16 => Dtype::BF16,
            Kind::Half => Dtype::F16,
            Kind::Double => Dtype::F64,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.tensor.to_kind(self.kind).to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; self.data_len()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.kind.elt_size_in_bytes()
    }
}
