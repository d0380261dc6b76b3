//! The metadata of a GGUF file as the `config.json` that the model had before it was converted.
//!
//! Source: llama.cpp, `convert_hf_to_gguf.py` and `gguf-py/gguf/constants.py`, read backwards.

use std::f64::consts::PI;

use serde_json::{Map, Value as Json, json};

use super::reader::{Gguf, Value};

/// Architectures of GGUF files that are read. Mistral's are "llama" there.
const SUPPORTED: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// The name of the tensor of factors that stands for Llama 3's scaling of the rotary frequencies.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

impl Gguf {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, key: &str) -> Option<i64> {
        match self.metadata.get(key) {
            Some(Value::Int(value)) => Some(*value),
            _ => None,
        }
    }

    fn float(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key) {
            Some(Value::Float(value)) => Some(shortest(*value)),
            Some(Value::Int(value)) => Some(*value as f64),
            _ => None,
        }
    }

    /// The model's architecture.
    ///
    /// # Errors
    /// It is not one that is supported.
    pub(super) fn architecture(&self) -> Result<&str, String> {
        let name = self.text("general.architecture").unwrap_or("(none)");
        if SUPPORTED.contains(&name) {
            return Ok(name);
        }
        Err(format!(
            "general.architecture is {name:?}, which is not supported in GGUF files; supported: {}",
            SUPPORTED.join(", ")
        ))
    }
}

/// Returns the `config.json` of the model; `rope_factors` are the values of [`ROPE_FACTORS`] where the file has it.
///
/// # Errors
/// A key is missing, or the model computes something that is not supported.
pub(super) fn config_json(gguf: &Gguf, dtype: &str, rope_factors: Option<&[f32]>) -> Result<Map<String, Json>, String> {
    let arch = gguf.architecture()?;
    let key = |name: &str| format!("{arch}.{name}");
    let need = |name: &str| {
        gguf.int(&key(name))
            .ok_or_else(|| format!("{} is missing, expected an integer", key(name)))
    };
    if gguf.int(&key("expert_count")).unwrap_or(0) > 0 {
        return Err(format!(
            "{} is not 0: mixtures of experts are not supported",
            key("expert_count")
        ));
    }
    let (hidden_size, num_heads) = (need("embedding_length")?, need("attention.head_count")?);
    let has = |name: &str| gguf.tensors.contains_key(name);
    let embeddings = gguf
        .tensors
        .get("token_embd.weight")
        .ok_or("lacks the tensor token_embd.weight")?;
    let head_dim = gguf
        .int(&key("attention.key_length"))
        .or_else(|| gguf.int(&key("rope.dimension_count")))
        .or_else(|| hidden_size.checked_div(num_heads));
    let rope_theta = gguf.float(&key("rope.freq_base")).unwrap_or(10_000.0);
    let class = match arch {
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        _ => "LlamaForCausalLM",
    };
    let config = json!({
        "architectures": [class],
        "attention_bias": has("blk.0.attn_output.bias"),
        "bos_token_id": gguf.int("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.int("tokenizer.ggml.eos_token_id"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": need("feed_forward_length")?,
        "max_position_embeddings": need("context_length")?,
        "mlp_bias": has("blk.0.ffn_up.bias"),
        "model_type": arch,
        "num_attention_heads": num_heads,
        "num_hidden_layers": need("block_count")?,
        "num_key_value_heads": gguf.int(&key("attention.head_count_kv")).unwrap_or(num_heads),
        "pad_token_id": gguf.int("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": gguf.float(&key("attention.layer_norm_rms_epsilon")).unwrap_or(1e-6),
        "rope_scaling": rope_scaling(gguf, arch, head_dim.unwrap_or(0), rope_theta, rope_factors)?,
        "rope_theta": rope_theta,
        "tie_word_embeddings": !has("output.weight"),
        "torch_dtype": dtype,
        "use_cache": true,
        "vocab_size": embeddings.shape[0],
    });
    match config {
        Json::Object(config) => Ok(config),
        _ => unreachable!("written as an object above"),
    }
}

fn rope_scaling(gguf: &Gguf, arch: &str, head_dim: i64, theta: f64, factors: Option<&[f32]>) -> Result<Json, String> {
    let key = |name: &str| format!("{arch}.rope.scaling.{name}");
    match (gguf.text(&key("type")), factors) {
        (None | Some("none"), None) => Ok(Json::Null),
        (None | Some("none"), Some(factors)) => llama3_scaling(head_dim, theta, factors).ok_or_else(|| {
            format!("{ROPE_FACTORS} holds other factors than those of Llama 3's scaling, which is not supported")
        }),
        (Some("linear"), None) => Ok(json!({"rope_type": "linear", "factor": gguf.float(&key("factor"))})),
        (Some(other), _) => Err(format!(
            "{} is {other:?}, which is not supported; supported: none, linear",
            key("type")
        )),
    }
}

/// Finds the parameters of Llama 3's scaling from the factors that it gives: the file has nothing else. All models so far
/// have 1 and 4 as the factors of low and high frequencies, and a power of two as original length.
fn llama3_scaling(head_dim: i64, theta: f64, factors: &[f32]) -> Option<Json> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let (low, high) = (1.0, 4.0);
    let expected = |idx: usize, original: f64| {
        let wavelength = 2.0 * PI * theta.powf(2.0 * idx as f64 / head_dim as f64);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let fits = |original: f64| {
        let close = |(idx, &got): (usize, &f32)| (expected(idx, original) / f64::from(got) - 1.0).abs() < 1e-3;
        factors.len() as i64 == head_dim / 2 && factors.iter().enumerate().all(close)
    };
    let original = (4..=20)
        .map(|power| 1_i64 << power)
        .find(|&original| fits(original as f64))?;
    Some(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }))
}

/// The decimal number that was meant by a number of single precision: 1e-5, not 9.999999747378752e-6.
fn shortest(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}
