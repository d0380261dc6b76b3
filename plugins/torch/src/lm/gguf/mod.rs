//! GGUF files, llama.cpp's way to keep a model: read, and made into a model folder in the Hugging Face layout.
//!
//! Everything is in one file: sizes, weights (often quantized to blocks of few bits), vocabulary and chat template. Weights
//! become plain numbers again, in bfloat16 where the file has blocks, else in the file's own kind.

mod blocks;
mod config;
mod names;
mod reader;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::path::Path;

use memmap2::Mmap;
use serde_json::json;
use tch::{Device, Kind, Tensor};

use self::blocks::{Format, SUPPORTED};
use self::reader::{Gguf, TensorInfo};
use super::files::{self, invalid, write_json};
use super::{CausalLm, Config, LmError, checkpoint};

/// Elements that are decoded at once.
const STRIDE: usize = 1 << 20;

/// More elements than a tensor of one number for each rotary frequency has.
const MAX_SMALL: usize = 1 << 12;

/// A mapped GGUF file.
struct File<'a> {
    path: &'a Path,
    bytes: Mmap,
    gguf: Gguf,
}

/// Loads the model of a GGUF file on the CPU, in the kind that [`import`] writes it in.
///
/// # Errors
/// The file can't be read, is no GGUF file, or holds an architecture or a number format that is not supported.
pub fn load(path: &Path) -> Result<CausalLm, LmError> {
    File::open(path)?.model()
}

/// Makes a model folder of a GGUF file: config, weights, tokenizer. Tokenizer files that lie beside the GGUF file come before
/// the tokenizer in it.
///
/// # Errors
/// As [`load`]; the file has no tokenizer that can be converted and none lies beside it; a file can't be written.
pub fn import(path: &Path, dir: &Path) -> Result<CausalLm, LmError> {
    let file = File::open(path)?;
    let beside = path.parent().unwrap_or(Path::new(""));
    let tokenizer = match beside.join("tokenizer.json").is_file() {
        true => None,
        false => Some(tokenizer::tokenizer_files(&file.gguf).map_err(|message| invalid(path, message))?),
    };
    let model = file.model()?;
    match tokenizer {
        None => checkpoint::save(&model, dir, beside)?,
        Some(files) => {
            checkpoint::write_weights(&model, dir)?;
            write_json(&dir.join("tokenizer.json"), &files.tokenizer)?;
            write_json(&dir.join("tokenizer_config.json"), &files.settings)?;
        }
    }
    let generation = dir.join("generation_config.json");
    if !generation.exists() {
        let config = &model.config;
        let settings = json!({"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_ids,
                              "pad_token_id": config.pad_token_id});
        write_json(&generation, &settings)?;
    }
    Ok(model)
}

impl<'a> File<'a> {
    fn open(path: &'a Path) -> Result<Self, LmError> {
        let file = files::open(path)?;
        let io = |source| LmError::Io {
            path: path.to_owned(),
            source,
        };
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(invalid(path, "is empty"));
        }
        // SAFETY: an input is read-only and does not change while it is read.
        let bytes = unsafe { Mmap::map(&file) }.map_err(io)?;
        let gguf = Gguf::parse(&bytes).map_err(|message| invalid(path, message))?;
        Ok(Self { path, bytes, gguf })
    }

    fn model(&self) -> Result<CausalLm, LmError> {
        let wrong = |message| invalid(self.path, message);
        let kind = self.kind()?;
        let dtype = match kind {
            Kind::Float => "float32",
            Kind::Half => "float16",
            _ => "bfloat16",
        };
        let factors = match self.gguf.tensors.get(config::ROPE_FACTORS) {
            Some(info) => Some(self.numbers(config::ROPE_FACTORS, info)?),
            None => None,
        };
        let raw = config::config_json(&self.gguf, dtype, factors.as_deref()).map_err(wrong)?;
        let config = Config::of(raw, self.path)?;
        let is_llama = self.gguf.architecture().map_err(wrong)? == "llama";
        let (num_heads, num_kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        CausalLm::build(config, Device::Cpu, kind, |name, shape| {
            let tensor = self.tensor(name, shape, kind)?;
            // Only this architecture's rows are interleaved: for the others llama.cpp turns halves too.
            let heads = match is_llama {
                true if name.contains("self_attn.q_proj") => num_heads,
                true if name.contains("self_attn.k_proj") => num_kv_heads,
                _ => return Ok(tensor),
            };
            Ok(names::deinterleave(&tensor, heads)?)
        })
    }

    /// The kind to keep the weights in: that of the largest tensor, or bfloat16 for quantized ones.
    fn kind(&self) -> Result<Kind, LmError> {
        let largest = self.gguf.tensors.iter().max_by_key(|(_, info)| info.len);
        let (name, info) = largest.ok_or_else(|| invalid(self.path, "has no tensors"))?;
        Ok(match self.format(name, info)? {
            Format::F32 => Kind::Float,
            Format::F16 => Kind::Half,
            _ => Kind::BFloat16,
        })
    }

    fn format(&self, name: &str, info: &TensorInfo) -> Result<Format, LmError> {
        Format::of(info.type_id).ok_or_else(|| {
            let type_id = info.type_id;
            let message =
                format!("tensor {name} is of ggml's type {type_id}, which is not supported; supported: {SUPPORTED}");
            invalid(self.path, message)
        })
    }

    /// The blocks of a tensor.
    fn blocks(&self, name: &str, info: &TensorInfo) -> Result<(Format, &[u8]), LmError> {
        let format = self.format(name, info)?;
        let range = info
            .range(format.block_len(), format.block_bytes(), self.bytes.len())
            .map_err(|message| invalid(self.path, format!("tensor {name} {message}")))?;
        Ok((format, &self.bytes[range]))
    }

    /// All numbers of a small tensor.
    fn numbers(&self, name: &str, info: &TensorInfo) -> Result<Vec<f32>, LmError> {
        if info.len > MAX_SMALL {
            let message = format!("tensor {name} has {} elements, expected at most {MAX_SMALL}", info.len);
            return Err(invalid(self.path, message));
        }
        let (format, bytes) = self.blocks(name, info)?;
        let mut numbers = Vec::new();
        format.decode(bytes, &mut numbers);
        Ok(numbers)
    }

    /// A parameter by Hugging Face's name, decoded piece by piece.
    fn tensor(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, LmError> {
        let gguf_name = names::gguf_name(name);
        let info = self
            .gguf
            .tensors
            .get(&gguf_name)
            .ok_or_else(|| invalid(self.path, format!("lacks the tensor {gguf_name}")))?;
        if info.shape != shape {
            let message = format!(
                "tensor {gguf_name} has shape {:?}, the metadata ask for {shape:?}",
                info.shape
            );
            return Err(invalid(self.path, message));
        }
        let (format, bytes) = self.blocks(&gguf_name, info)?;
        let tensor = Tensor::f_empty(shape, (kind, Device::Cpu))?;
        let flat = tensor.f_view([-1])?;
        let mut numbers = Vec::with_capacity(STRIDE.min(info.len));
        let mut start = 0;
        for piece in bytes.chunks(STRIDE / format.block_len() * format.block_bytes()) {
            numbers.clear();
            format.decode(piece, &mut numbers);
            if numbers.iter().any(|number| !number.is_finite()) {
                let message = format!("tensor {gguf_name} holds NaN or infinite values; the file is damaged");
                return Err(invalid(self.path, message));
            }
            let length = numbers.len() as i64;
            flat.f_narrow(0, start, length)?
                .f_copy_(&Tensor::from_slice(&numbers))?;
            start += length;
        }
        Ok(tensor)
    }
}
