//! `config.json` of a model of the Llama family, in the old and the new layout of transformers.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tch::Kind;

use super::LmError;

/// The model types that [`super::CausalLm`] computes.
pub const SUPPORTED: &[&str] = &["llama", "mistral", "qwen2", "qwen3"];

/// The shape of a Llama-family model; fields are Hugging Face's.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub num_hidden_layers: usize,
    pub num_attention_heads: i64,
    pub num_key_value_heads: i64,
    pub head_dim: i64,
    pub max_position_embeddings: i64,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub tie_word_embeddings: bool,
    /// Whether the projections of queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection after attention has one.
    pub o_bias: bool,
    /// Whether each head's queries and keys are normalized before they are rotated (Qwen3).
    pub qk_norm: bool,
    /// For each layer how many tokens, itself included, a token sees; none where it sees all before it.
    pub sliding_windows: Vec<Option<i64>>,
    pub mlp_bias: bool,
    pub bos_token_id: Option<i64>,
    /// Any of these ends a generation.
    pub eos_token_ids: Vec<i64>,
    pub pad_token_id: Option<i64>,
    /// Kind of the weights on disk.
    pub dtype: Kind,
    /// The file as it was read: what [`super::save`] writes back, so that nothing unknown is lost.
    pub raw: Map<String, Value>,
}

/// How rotary frequencies are stretched beyond the length of pretraining.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth band between.
    /// Source: transformers, `modeling_rope_utils.py`, `_compute_llama3_parameters`.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
}

/// What a new model needs to be told; the rest follows.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NewModel {
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub num_hidden_layers: usize,
    pub num_attention_heads: i64,
    pub num_key_value_heads: i64,
    pub max_position_embeddings: i64,
    pub rope_theta: f64,
    pub tie_word_embeddings: bool,
    /// Standard deviation of the normal distribution that weights start from.
    pub initializer_range: f64,
}

impl Config {
    /// Reads `DIR/config.json`.
    ///
    /// # Errors
    /// The file is missing or broken, the architecture is not one of [`SUPPORTED`], or a value makes no sense.
    pub fn read(dir: &Path) -> Result<Self, LmError> {
        let path = dir.join("config.json");
        let text = std::fs::read(&path).map_err(|source| LmError::Io {
            path: path.clone(),
            source,
        })?;
        let raw: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| LmError::Invalid {
            path: path.clone(),
            message: error.to_string(),
        })?;
        let model_type = raw
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("(no model_type)");
        if !SUPPORTED.contains(&model_type) {
            return Err(LmError::Architecture {
                path,
                architecture: model_type.to_owned(),
                supported: SUPPORTED.join(", "),
            });
        }
        Self::parse(raw).map_err(|message| LmError::Invalid { path, message })
    }

    /// Returns the config of a new Llama model that ends texts with `eos_token_id`.
    pub fn new(new: &NewModel, vocab_size: usize, eos_token_id: i64, pad_token_id: i64) -> Result<Self, LmError> {
        let raw = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": eos_token_id,
            "head_dim": new.hidden_size / new.num_attention_heads.max(1),
            "hidden_act": "silu",
            "hidden_size": new.hidden_size,
            "initializer_range": new.initializer_range,
            "intermediate_size": new.intermediate_size,
            "max_position_embeddings": new.max_position_embeddings,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": new.num_attention_heads,
            "num_hidden_layers": new.num_hidden_layers,
            "num_key_value_heads": new.num_key_value_heads,
            "pad_token_id": pad_token_id,
            "rms_norm_eps": 1e-5,
            "rope_scaling": null,
            "rope_theta": new.rope_theta,
            "tie_word_embeddings": new.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": vocab_size,
        });
        let Value::Object(raw) = raw else {
            unreachable!("written as an object above")
        };
        Self::parse(raw).map_err(|message| LmError::Invalid {
            path: "the new model".into(),
            message,
        })
    }

    fn parse(raw: Map<String, Value>) -> Result<Self, String> {
        let hidden_size = int(&raw, "hidden_size")?;
        let num_attention_heads = int(&raw, "num_attention_heads")?;
        let num_hidden_layers = int(&raw, "num_hidden_layers")? as usize;
        let model_type = raw
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let rope = rope_fields(&raw);
        let config = Self {
            vocab_size: int(&raw, "vocab_size")?,
            hidden_size,
            intermediate_size: int(&raw, "intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: opt_int(&raw, "num_key_value_heads").unwrap_or(num_attention_heads),
            head_dim: opt_int(&raw, "head_dim").unwrap_or(hidden_size / num_attention_heads),
            max_position_embeddings: opt_int(&raw, "max_position_embeddings").unwrap_or(2048),
            rms_norm_eps: raw.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            rope_theta: float(&rope, "rope_theta")
                .or_else(|| raw.get("rope_theta").and_then(Value::as_f64))
                .unwrap_or(10_000.0),
            rope_scaling: rope_scaling(&rope)?,
            tie_word_embeddings: flag(&raw, "tie_word_embeddings"),
            qkv_bias: model_type == "qwen2" || flag(&raw, "attention_bias"),
            o_bias: model_type != "qwen2" && flag(&raw, "attention_bias"),
            qk_norm: model_type == "qwen3",
            sliding_windows: sliding_windows(&raw, &model_type, num_hidden_layers),
            mlp_bias: flag(&raw, "mlp_bias"),
            bos_token_id: opt_int(&raw, "bos_token_id"),
            eos_token_ids: ids(raw.get("eos_token_id")),
            pad_token_id: opt_int(&raw, "pad_token_id"),
            dtype: dtype(&raw)?,
            raw,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let activation = self.raw.get("hidden_act").and_then(Value::as_str).unwrap_or("silu");
        if activation != "silu" {
            return Err(format!("hidden_act {activation:?} is not supported, only \"silu\""));
        }
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers as i64),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
        ];
        if let Some((name, value)) = positive.iter().find(|(_, value)| *value < 1) {
            return Err(format!("{name} is {value}, expected at least 1"));
        }
        if self.num_attention_heads % self.num_key_value_heads != 0 {
            return Err(format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if self.head_dim % 2 != 0 {
            return Err(format!(
                "head_dim {} is odd; rotary embeddings need an even one",
                self.head_dim
            ));
        }
        Ok(())
    }
}

/// The window of each layer, as transformers' configurations of Mistral and Qwen say.
fn sliding_windows(raw: &Map<String, Value>, model_type: &str, num_hidden_layers: usize) -> Vec<Option<i64>> {
    let window = match model_type {
        "mistral" => opt_int(raw, "sliding_window"),
        "qwen2" | "qwen3" if flag(raw, "use_sliding_window") => opt_int(raw, "sliding_window"),
        _ => None,
    };
    let layer_types = raw.get("layer_types").and_then(Value::as_array);
    let first_windowed = match model_type {
        "mistral" => 0,
        _ => opt_int(raw, "max_window_layers").unwrap_or(28) as usize,
    };
    let slides = |idx: usize| match layer_types.and_then(|types| types.get(idx)?.as_str()) {
        Some(layer_type) => layer_type == "sliding_attention",
        None => idx >= first_windowed,
    };
    (0..num_hidden_layers)
        .map(|idx| window.filter(|_| slides(idx)))
        .collect()
}

/// The rope settings, wherever this version of transformers keeps them.
fn rope_fields(raw: &Map<String, Value>) -> Map<String, Value> {
    ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|name| raw.get(*name).and_then(Value::as_object))
        .cloned()
        .unwrap_or_default()
}

fn rope_scaling(rope: &Map<String, Value>) -> Result<RopeScaling, String> {
    let rope_type = ["rope_type", "type"]
        .iter()
        .find_map(|name| rope.get(*name)?.as_str())
        .unwrap_or("default");
    let need = |name: &str| float(rope, name).ok_or_else(|| format!("rope scaling {rope_type:?} lacks {name}"));
    match rope_type {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: need("factor")?,
        }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_max_position_embeddings: need("original_max_position_embeddings")?,
        }),
        other => Err(format!(
            "rope scaling {other:?} is not supported; supported: default, linear, llama3"
        )),
    }
}

fn dtype(raw: &Map<String, Value>) -> Result<Kind, String> {
    match ["dtype", "torch_dtype"]
        .iter()
        .find_map(|name| raw.get(*name)?.as_str())
        .unwrap_or("float32")
    {
        "float32" => Ok(Kind::Float),
        "bfloat16" => Ok(Kind::BFloat16),
        "float16" => Ok(Kind::Half),
        other => Err(format!(
            "dtype {other:?} is not supported; supported: float32, bfloat16, float16"
        )),
    }
}

fn int(raw: &Map<String, Value>, name: &str) -> Result<i64, String> {
    opt_int(raw, name)
        .filter(|&value| value > 0)
        .ok_or_else(|| format!("{name} is missing or not a positive integer"))
}

fn opt_int(raw: &Map<String, Value>, name: &str) -> Option<i64> {
    raw.get(name).and_then(Value::as_i64)
}

fn float(raw: &Map<String, Value>, name: &str) -> Option<f64> {
    raw.get(name).and_then(Value::as_f64)
}

fn flag(raw: &Map<String, Value>, name: &str) -> bool {
    raw.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// Token ids that a config gives as one number, a list, or not at all.
pub fn ids(value: Option<&Value>) -> Vec<i64> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_i64).collect(),
        Some(value) => value.as_i64().into_iter().collect(),
        None => Vec::new(),
    }
}
