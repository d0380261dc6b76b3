//! Weights written as transformers writes them: one safetensors file, or shards and an index.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::View;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::{INDEX, SINGLE};
use crate::lm::LmError;
use crate::lm::files::{invalid, partial, write_json};

/// Writes the parameters of a model in `kind`: as one file, or in shards of at most `max_shard_bytes` where they are more.
/// Weights that were in the folder before are replaced once all of the new ones are written; the model may be mapped from
/// them.
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
    let shards = named(cut(views, max_shard_bytes));
    let index = (shards.len() > 1).then(|| index_of(&shards));
    let mut kept: Vec<String> = shards.keys().cloned().collect();
    for (name, shard) in shards {
        write_partial(shard, &dir.join(name))?;
    }
    for name in &kept {
        take_place(&dir.join(name))?;
    }
    if let Some(index) = index {
        write_json(&dir.join(INDEX), &index)?;
        kept.push(INDEX.to_owned());
    }
    remove_weights(dir, &kept)
}

/// The shards with the names of their files.
fn named(shards: Vec<Vec<(String, Written)>>) -> BTreeMap<String, Vec<(String, Written)>> {
    let count = shards.len();
    let name = |idx: usize| match count {
        1 => SINGLE.to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", idx + 1),
    };
    shards
        .into_iter()
        .enumerate()
        .map(|(idx, shard)| (name(idx), shard))
        .collect()
}

fn index_of(shards: &BTreeMap<String, Vec<(String, Written)>>) -> serde_json::Value {
    let (mut weight_map, mut total_size) = (serde_json::Map::new(), 0);
    for (file_name, shard) in shards {
        for (name, view) in shard {
            weight_map.insert(name.clone(), file_name.clone().into());
            total_size += view.data_len();
        }
    }
    json!({"metadata": {"total_size": total_size}, "weight_map": weight_map})
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
    write_partial(views.collect(), path)?;
    take_place(path)
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
fn write_partial(views: Vec<(String, Written)>, path: &Path) -> Result<(), LmError> {
    // transformers refuses weights that do not say which framework wrote them.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), &partial(path))
        .map_err(|error| invalid(path, format!("can't be written: {error}")))
}

fn take_place(path: &Path) -> Result<(), LmError> {
    std::fs::rename(partial(path), path).map_err(|source| LmError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Removes weights of an earlier model, which would be taken for a part of this one.
fn remove_weights(dir: &Path, kept: &[String]) -> Result<(), LmError> {
    let io = |path: &Path, source| LmError::Io {
        path: path.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(dir).map_err(|source| io(dir, source))? {
        let entry = entry.map_err(|source| io(dir, source))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_shard = name.starts_with("model-") && name.ends_with(".safetensors");
        let is_old = !kept.iter().any(|kept| *kept == name);
        if is_old && (is_shard || name == SINGLE || name == INDEX) {
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
