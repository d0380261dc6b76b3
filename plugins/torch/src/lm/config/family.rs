//! The model families: what each assumes where a config is silent, and which parts its layers have.
//!
//! Source: transformers 5.23, `configuration_{llama,mistral,qwen2,qwen3}.py` and the attention classes beside them.

use serde_json::Value;

use super::MAX_POSITIONS;
use super::fields::Fields;

/// A `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Family {
    /// The family that config.json calls `model_type`.
    pub(super) fn named(model_type: &str) -> Option<Self> {
        match model_type {
            "llama" => Some(Self::Llama),
            "mistral" => Some(Self::Mistral),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// Key and value heads of a config that does not name them; one that says `null` has as many as query heads.
    pub(super) fn num_key_value_heads(self, num_attention_heads: i64) -> i64 {
        match self {
            Self::Llama => num_attention_heads,
            Self::Mistral => 8,
            Self::Qwen2 | Self::Qwen3 => 32,
        }
    }

    /// The head size of a config that does not name it; none where it follows from the width.
    pub(super) fn head_dim(self) -> Option<i64> {
        (self == Self::Qwen3).then_some(128)
    }

    pub(super) fn max_position_embeddings(self) -> i64 {
        match self {
            Self::Llama => 2048,
            Self::Mistral => 131_072,
            Self::Qwen2 | Self::Qwen3 => 32_768,
        }
    }

    /// Whether queries, keys and values have biases, and whether the projection after attention has one.
    pub(super) fn attention_biases(self, fields: Fields<'_>) -> Result<(bool, bool), String> {
        match self {
            Self::Llama | Self::Qwen3 => fields.flag("attention_bias").map(|bias| (bias, bias)),
            Self::Mistral => Ok((false, false)),
            Self::Qwen2 => Ok((true, false)),
        }
    }

    pub(super) fn mlp_bias(self, fields: Fields<'_>) -> Result<bool, String> {
        match self {
            Self::Llama => fields.flag("mlp_bias"),
            Self::Mistral | Self::Qwen2 | Self::Qwen3 => Ok(false),
        }
    }

    pub(super) fn qk_norm(self) -> bool {
        self == Self::Qwen3
    }

    /// The window of each layer.
    pub(super) fn sliding_windows(self, fields: Fields<'_>, num_layers: usize) -> Result<Vec<Option<i64>>, String> {
        match self {
            Self::Llama => Ok(vec![None; num_layers]),
            Self::Mistral => Ok(vec![sliding_window(fields)?; num_layers]),
            Self::Qwen2 | Self::Qwen3 => qwen_windows(fields, num_layers),
        }
    }
}

/// `sliding_window`: 4096 where a config does not name it, none where it says `null`.
fn sliding_window(fields: Fields<'_>) -> Result<Option<i64>, String> {
    if fields.names("sliding_window") {
        fields.integer("sliding_window", 1..=MAX_POSITIONS)
    } else {
        Ok(Some(4096))
    }
}

/// Layers slide where `layer_types` says so, else from layer `max_window_layers` on; all with the same window.
fn qwen_windows(fields: Fields<'_>, num_layers: usize) -> Result<Vec<Option<i64>>, String> {
    let window = match fields.flag("use_sliding_window")? {
        true => sliding_window(fields)?,
        false => None,
    };
    let Some(layer_types) = fields.list("layer_types")? else {
        let first = fields.integer("max_window_layers", 0..=MAX_POSITIONS)?.unwrap_or(28);
        let slides = |idx: usize| idx as i64 >= first;
        return Ok((0..num_layers).map(|idx| window.filter(|_| slides(idx))).collect());
    };
    if layer_types.len() != num_layers {
        return Err(format!(
            "layer_types has {} entries, expected {num_layers} as num_hidden_layers says",
            layer_types.len()
        ));
    }
    let window_of = |layer_type: &Value| match layer_type.as_str() {
        Some("full_attention" | "attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => Err(
            "layer_types has \"sliding_attention\", but use_sliding_window or sliding_window turns it off".to_owned(),
        ),
        _ => Err(format!(
            "layer_types has {layer_type}, expected \"full_attention\" or \"sliding_attention\""
        )),
    };
    layer_types.iter().map(window_of).collect()
}
