//! `model.safetensors.index.json`: which shard holds which tensor. Pure, because it comes from outside.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Returns the file name of the shard of each tensor.
///
/// # Errors
/// There is no `weight_map`, or a shard is something else than the plain name of a safetensors file: a shard lies
/// beside the index, never elsewhere.
pub(crate) fn shard_names(index: &Map<String, Value>) -> Result<HashMap<String, String>, String> {
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or("weight_map is missing, expected an object of tensor names and file names")?;
    if map.is_empty() {
        return Err("weight_map is empty".to_owned());
    }
    map.iter()
        .map(|(tensor, shard)| match shard.as_str() {
            Some(name) if is_plain(name) => Ok((tensor.clone(), name.to_owned())),
            _ => Err(format!(
                "weight_map has the shard {shard} for {tensor}, expected the plain name of a .safetensors file beside it"
            )),
        })
        .collect()
}

fn is_plain(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}
