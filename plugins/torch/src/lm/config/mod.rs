//! `config.json` of a model of the Llama family, in the old and the new layout of transformers.
//!
//! Where a file is silent, transformers' defaults of the family hold. What would change the result and is not computed
//! here is refused by name; every number is checked before anything is sized by it.

mod family;
mod fields;
mod rope;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tch::Kind;

use self::family::Family;
pub(super) use self::fields::Fields;
use self::rope::rope_settings;
use super::LmError;
use super::files;

/// More positions than any model has; a config may still name more than there is memory for.
const MAX_POSITIONS: i64 = 1 << 53;

/// Bytes of a config.json that is worth reading.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

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
        let raw = files::read_json_object(&path, MAX_CONFIG_BYTES)?;
        Self::of(raw, &path)
    }

    /// Returns the config that an object in the form of `config.json` describes; `path` is where it comes from.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn of(raw: Map<String, Value>, path: &Path) -> Result<Self, LmError> {
        let Some(family) = raw.get("model_type").and_then(Value::as_str).and_then(Family::named) else {
            return Err(LmError::Architecture {
                path: path.to_owned(),
                architecture: named_architecture(&raw),
                supported: SUPPORTED.join(", "),
            });
        };
        Self::parse(family, raw).map_err(|message| LmError::Invalid {
            path: path.to_owned(),
            message,
        })
    }

    /// Returns the config of a new Llama model that ends texts with `eos_token_id`.
    ///
    /// # Errors
    /// The sizes make no sense together.
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
        Self::of(raw, Path::new("the new model"))
    }

    /// Whether the file says in which kind its weights are; where it does not, they say it themselves.
    pub fn names_dtype(&self) -> bool {
        let fields = Fields::new(&self.raw, "");
        DTYPE_KEYS.iter().any(|key| fields.get(key).is_some())
    }

    /// Gives the model a head of its own.
    pub(super) fn untie(&mut self) {
        self.tie_word_embeddings = false;
        self.raw.insert("tie_word_embeddings".to_owned(), false.into());
    }

    /// Returns the object to write as `config.json` beside weights of kind `self.dtype`.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut raw = self.raw.clone();
        let name = Value::from(dtype_name(self.dtype));
        // The older key, which every version reads, where the file had none.
        let keys = DTYPE_KEYS.into_iter().filter(|key| self.raw.contains_key(*key));
        let keys: Vec<&str> = if self.names_dtype() {
            keys.collect()
        } else {
            vec!["torch_dtype"]
        };
        raw.extend(keys.into_iter().map(|key| (key.to_owned(), name.clone())));
        raw
    }

    fn parse(family: Family, raw: Map<String, Value>) -> Result<Self, String> {
        let fields = Fields::new(&raw, "");
        refuse_what_is_not_computed(fields)?;
        let hidden_size = fields.required_integer("hidden_size", 1..=1 << 17)?;
        let num_hidden_layers = fields.required_integer("num_hidden_layers", 1..=1024)? as usize;
        let num_attention_heads = fields.required_integer("num_attention_heads", 1..=4096)?;
        let num_key_value_heads = num_key_value_heads(family, fields, num_attention_heads)?;
        let max_position_embeddings = fields
            .integer("max_position_embeddings", 1..=MAX_POSITIONS)?
            .unwrap_or_else(|| family.max_position_embeddings());
        let sliding_windows = family.sliding_windows(fields, num_hidden_layers)?;
        let rope = rope_settings(fields, &sliding_windows, max_position_embeddings)?;
        let (qkv_bias, o_bias) = family.attention_biases(fields)?;
        fields.number("initializer_range", "a number that is not negative", |value| {
            value >= 0.0
        })?;
        Ok(Self {
            vocab_size: fields.required_integer("vocab_size", 1..=1 << 24)?,
            hidden_size,
            intermediate_size: fields.required_integer("intermediate_size", 1..=1 << 20)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim: head_dim(family, fields, hidden_size, num_attention_heads)?,
            max_position_embeddings,
            rms_norm_eps: fields
                .number("rms_norm_eps", "a number between 0 and 1", |value| {
                    value > 0.0 && value < 1.0
                })?
                .unwrap_or(1e-6),
            rope_theta: rope.theta,
            rope_scaling: rope.scaling,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?,
            qkv_bias,
            o_bias,
            qk_norm: family.qk_norm(),
            sliding_windows,
            mlp_bias: family.mlp_bias(fields)?,
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.token_ids("eos_token_id")?,
            pad_token_id: fields.token_ids("pad_token_id")?.first().copied(),
            dtype: dtype(fields)?,
            raw,
        })
    }
}

/// Where the kind of the weights is named; the newer key wins where both are there.
const DTYPE_KEYS: [&str; 2] = ["dtype", "torch_dtype"];

/// What a config of an unknown family calls itself.
fn named_architecture(raw: &Map<String, Value>) -> String {
    let class = || raw.get("architectures")?.get(0)?.as_str();
    let model_type = raw.get("model_type").and_then(Value::as_str);
    model_type.or_else(class).unwrap_or("(no model_type)").to_owned()
}

/// Settings that would change what the model computes, and that this program does not know.
fn refuse_what_is_not_computed(fields: Fields<'_>) -> Result<(), String> {
    if let Some(settings) = fields.object("quantization_config")? {
        let method = settings
            .get("quant_method")
            .and_then(Value::as_str)
            .unwrap_or("unknown");
        return Err(format!(
            "quantization_config ({method}) is not supported; supported: weights in float32, bfloat16 or float16"
        ));
    }
    for key in ["num_experts", "num_local_experts", "n_routed_experts"] {
        if fields.integer(key, 0..=i64::MAX)?.is_some_and(|count| count > 0) {
            return Err(fields.wrong(key, "none: mixtures of experts are not supported, only dense models"));
        }
    }
    if fields
        .text("hidden_act")?
        .is_some_and(|activation| activation != "silu")
    {
        return Err(fields.wrong("hidden_act", "\"silu\", the only supported activation"));
    }
    Ok(())
}

fn num_key_value_heads(family: Family, fields: Fields<'_>, num_attention_heads: i64) -> Result<i64, String> {
    let count = if fields.names("num_key_value_heads") {
        fields
            .integer("num_key_value_heads", 1..=4096)?
            .unwrap_or(num_attention_heads)
    } else {
        family.num_key_value_heads(num_attention_heads)
    };
    if num_attention_heads % count == 0 {
        return Ok(count);
    }
    let wanted = format!("a multiple of num_key_value_heads, which is {count}");
    Err(fields.wrong("num_attention_heads", &wanted))
}

fn head_dim(family: Family, fields: Fields<'_>, hidden_size: i64, num_attention_heads: i64) -> Result<i64, String> {
    let given = fields.integer("head_dim", 1..=1 << 13)?;
    let head_dim = match given.or_else(|| family.head_dim()) {
        Some(head_dim) => head_dim,
        None if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
        None => {
            let wanted = format!("a multiple of num_attention_heads, which is {num_attention_heads}");
            return Err(fields.wrong("hidden_size", &wanted));
        }
    };
    match head_dim % 2 {
        0 => Ok(head_dim),
        _ => Err(format!(
            "head_dim is {head_dim}, expected an even number: rotary embeddings turn pairs"
        )),
    }
}

/// The kind of the weights on disk; float32 where the file does not say it.
fn dtype(fields: Fields<'_>) -> Result<Kind, String> {
    let Some(key) = DTYPE_KEYS.into_iter().find(|key| fields.get(key).is_some()) else {
        return Ok(Kind::Float);
    };
    let name = fields.text(key)?.unwrap_or_default();
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" => Ok(Kind::Float),
        "bfloat16" => Ok(Kind::BFloat16),
        "float16" => Ok(Kind::Half),
        _ => Err(fields.wrong(key, "one of the supported kinds: float32, bfloat16, float16")),
    }
}

fn dtype_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    }
}

/// Token ids that a config gives as one number, a list, or not at all.
pub fn ids(value: Option<&Value>) -> Vec<i64> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_i64).collect(),
        Some(value) => value.as_i64().into_iter().collect(),
        None => Vec::new(),
    }
}
