//! Model folders in the Hugging Face layout: read, and written so that transformers opens them.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{CausalLm, Config, LmError};

/// Files beside the weights that travel from a model to the ones trained from it.
const COMPANIONS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// Loads a model folder; weights are converted to `kind`.
///
/// # Errors
/// A file is missing or broken, the architecture is unknown, or a tensor does not fit the config.
pub fn load(dir: &Path, device: Device, kind: Kind) -> Result<CausalLm, LmError> {
    let config = Config::read(dir)?;
    let mut tensors = HashMap::new();
    for path in weight_files(dir)? {
        read_tensors(&path, &mut tensors)?;
    }
    CausalLm::from_tensors(config, &tensors, device, kind).map_err(|error| match error {
        LmError::Torch(message) => LmError::Invalid {
            path: dir.to_owned(),
            message,
        },
        other => other,
    })
}

/// Writes a model folder: config and weights of `model`, tokenizer and the like as in the folder `like`.
///
/// # Errors
/// A file can't be read or written.
pub fn save(model: &CausalLm, dir: &Path, like: &Path) -> Result<(), LmError> {
    write_weights(model, dir)?;
    for name in COMPANIONS {
        let from = like.join(name);
        if from.exists() {
            let to = dir.join(name);
            std::fs::copy(&from, &to).map_err(|source| LmError::Io { path: from, source })?;
            make_writable(&to)?;
        }
    }
    Ok(())
}

/// Writes `config.json` and `model.safetensors`, in the kind that the config names.
///
/// # Errors
/// A file can't be written.
pub fn write_weights(model: &CausalLm, dir: &Path) -> Result<(), LmError> {
    std::fs::create_dir_all(dir).map_err(|source| LmError::Io {
        path: dir.to_owned(),
        source,
    })?;
    let config = dir.join("config.json");
    let text = serde_json::to_string_pretty(&Value::Object(model.config.raw.clone())).expect("a JSON value is JSON");
    std::fs::write(&config, text + "\n").map_err(|source| LmError::Io { path: config, source })?;

    let kind = model.config.dtype;
    let tensors = model
        .named_parameters()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.detach().to_kind(kind)))
        .collect();
    write_tensors(tensors, &dir.join("model.safetensors"))
}

/// Writes tensors into a safetensors file, each in its own kind.
///
/// # Errors
/// The file can't be written.
pub(super) fn write_tensors(tensors: Vec<(String, Tensor)>, path: &Path) -> Result<(), LmError> {
    let views = tensors.into_iter().map(|(name, tensor)| {
        let shape = tensor.size().iter().map(|&size| size as usize).collect();
        (name, Written { shape, tensor })
    });
    // transformers refuses weights that do not say which framework wrote them.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| LmError::Invalid {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// A tensor that is fetched when its turn comes, so that no second copy of a model is in memory.
struct Written {
    shape: Vec<usize>,
    tensor: Tensor,
}

impl View for Written {
    fn dtype(&self) -> Dtype {
        dtype_of(self.tensor.kind())
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.tensor.detach().to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; self.data_len()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

/// The safetensors files of a folder: the one, or the shards that its index lists.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, LmError> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = dir.join("model.safetensors.index.json");
    let missing = |source| LmError::Io {
        path: single.clone(),
        source,
    };
    let text = std::fs::read(&index).map_err(missing)?;
    let invalid = |message: String| LmError::Invalid {
        path: index.clone(),
        message,
    };
    let value: Value = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    let map = value
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| invalid("no weight_map".to_owned()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    names
        .into_iter()
        .map(|name| {
            // A name from outside: it must stay in this folder.
            if name.contains(['/', '\\']) {
                return Err(invalid(format!("shard {name:?} is not a plain file name")));
            }
            Ok(dir.join(name))
        })
        .collect()
}

/// Reads the tensors of a safetensors file into a map.
///
/// # Errors
/// The file can't be read, or holds something else than floating-point tensors.
pub(super) fn read_tensors(path: &Path, tensors: &mut HashMap<String, Tensor>) -> Result<(), LmError> {
    let io = |source| LmError::Io {
        path: path.to_owned(),
        source,
    };
    let invalid = |message: String| LmError::Invalid {
        path: path.to_owned(),
        message,
    };
    let file = File::open(path).map_err(io)?;
    // SAFETY: an input of a node is read-only and does not change while the node runs.
    let bytes = unsafe { Mmap::map(&file) }.map_err(io)?;
    let parsed = SafeTensors::deserialize(&bytes).map_err(|error| invalid(error.to_string()))?;
    for (name, view) in parsed.iter() {
        let kind = kind_of(view.dtype()).ok_or_else(|| invalid(format!("tensor {name} is of {:?}", view.dtype())))?;
        let dims: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        // The length of the data was checked against the shape by `deserialize`.
        tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &dims, kind)?);
    }
    Ok(())
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F16 => Some(Kind::Half),
        _ => None,
    }
}

fn dtype_of(kind: Kind) -> Dtype {
    match kind {
        Kind::BFloat16 => Dtype::BF16,
        Kind::Half => Dtype::F16,
        _ => Dtype::F32,
    }
}

/// A copy of a read-only input would be read-only too.
fn make_writable(path: &Path) -> Result<(), LmError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).map_err(|source| LmError::Io {
        path: path.to_owned(),
        source,
    })
}
