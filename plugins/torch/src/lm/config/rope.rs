//! The rotary settings, in the four places where versions of transformers have kept them: `rope_theta` and `rope_scaling`
//! at the top, or both in `rope_parameters`, that perhaps once for each type of layer.
//!
//! Source: transformers 5.23, `modeling_rope_utils.py`, `RotaryEmbeddingConfigMixin`.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::{MAX_POSITIONS, RopeScaling};

/// The base of the frequencies where a config does not name it, in every family.
const DEFAULT_THETA: f64 = 10_000.0;

/// Names of layer types, under which settings may be nested.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Base and scaling of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RopeSettings {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// Reads the settings of a model with the given windows and context.
pub(super) fn rope_settings(
    top: Fields<'_>,
    sliding_windows: &[Option<i64>],
    max_position_embeddings: i64,
) -> Result<RopeSettings, String> {
    let Some((name, map)) = rope_object(top)? else {
        return settings(top, Fields::new(&Map::new(), ""), max_position_embeddings);
    };
    if !map.contains_key(FULL) && !map.contains_key(SLIDING) {
        let place = format!("{name}.");
        return settings(top, Fields::new(map, &place), max_position_embeddings);
    }
    let used = [
        (FULL, sliding_windows.iter().any(Option::is_none)),
        (SLIDING, sliding_windows.iter().any(Option::is_some)),
    ];
    let mut agreed: Option<RopeSettings> = None;
    for (layer_type, _) in used.into_iter().filter(|(_, is_used)| *is_used) {
        let nested = Fields::new(map, name)
            .object(layer_type)?
            .ok_or_else(|| format!("{name} lacks the settings of {layer_type} layers, which the model has"))?;
        let place = format!("{name}.{layer_type}.");
        let found = settings(top, Fields::new(nested, &place), max_position_embeddings)?;
        if agreed.is_some_and(|before| before != found) {
            return Err(format!(
                "{name} differs between {FULL} and {SLIDING} layers; only one setting for all layers is supported"
            ));
        }
        agreed = Some(found);
    }
    agreed.ok_or_else(|| format!("{name} has no settings"))
}

/// An object and the key that it was found under.
type Named<'a> = (&'static str, &'a Map<String, Value>);

/// The object that holds the settings; the older name wins where both are there, as in transformers.
fn rope_object(top: Fields<'_>) -> Result<Option<Named<'_>>, String> {
    for name in ["rope_scaling", "rope_parameters"] {
        if let Some(map) = top.object(name)?.filter(|map| !map.is_empty()) {
            return Ok(Some((name, map)));
        }
    }
    Ok(None)
}

fn settings(top: Fields<'_>, rope: Fields<'_>, max_position_embeddings: i64) -> Result<RopeSettings, String> {
    for fields in [rope, top] {
        if fields
            .positive_number("partial_rotary_factor")?
            .is_some_and(|part| part != 1.0)
        {
            return Err(fields.wrong("partial_rotary_factor", "1: other values are not supported"));
        }
    }
    let theta = match rope.positive_number("rope_theta")? {
        Some(theta) => theta,
        None => top.positive_number("rope_theta")?.unwrap_or(DEFAULT_THETA),
    };
    Ok(RopeSettings {
        theta,
        scaling: scaling(top, rope, max_position_embeddings)?,
    })
}

fn scaling(top: Fields<'_>, rope: Fields<'_>, max_position_embeddings: i64) -> Result<RopeScaling, String> {
    let key = if rope.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    let need = |key: &str| {
        rope.positive_number(key)?
            .ok_or_else(|| rope.wrong(key, "a positive number"))
    };
    match rope.text(key)?.unwrap_or("default") {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: need("factor")?,
        }),
        "llama3" => {
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if high <= low {
                return Err(rope.wrong(
                    "high_freq_factor",
                    &format!("more than low_freq_factor, which is {low}"),
                ));
            }
            let mut original = max_position_embeddings;
            for fields in [rope, top] {
                original = fields
                    .integer("original_max_position_embeddings", 1..=MAX_POSITIONS)?
                    .unwrap_or(original);
            }
            Ok(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original as f64,
            })
        }
        _ => Err(rope.wrong(key, "one of the supported types: default, linear, llama3")),
    }
}
