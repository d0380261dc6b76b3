//! What the fuzz target `weights` and the test that replays its corpus do with an input: the readers of model files that
//! come from outside. They are taken in as they are, being pure; the rest of the plugin needs libtorch.

#[path = "../plugins/torch/src/lm/weights/header.rs"]
mod header;
#[path = "../plugins/torch/src/lm/weights/index.rs"]
mod index;
#[path = "../plugins/torch/src/lm/gguf/reader.rs"]
mod reader;

/// Reads any bytes as the header of a safetensors file, as a GGUF file, and as the index of shards. Returns whether they
/// are any of these.
///
/// # Panics
/// On a bug: that is what it looks for.
pub fn weights(bytes: &[u8]) -> bool {
    let readers = [safetensors, gguf, shards];
    readers.map(|read| read(bytes)).contains(&true)
}

fn safetensors(bytes: &[u8]) -> bool {
    let Ok(entries) = header::parse(bytes) else {
        return false;
    };
    for (name, entry) in entries {
        let num_elements = entry.shape.iter().product::<i64>() as usize;
        assert_eq!(entry.range.len() * 8, num_elements * entry.dtype.bitsize(), "{name}");
        assert!(entry.range.end <= bytes.len(), "{name}");
    }
    true
}

fn gguf(bytes: &[u8]) -> bool {
    let parsed = reader::Gguf::parse(bytes);
    // Not for numbers that are none, which differ from themselves.
    let Ok(parsed) = parsed else { return false };
    for (name, info) in &parsed.tensors {
        assert!(
            info.start <= bytes.len() && info.shape.iter().product::<i64>() == info.len as i64,
            "{name}"
        );
        for (block_len, block_bytes) in [(1, 4), (32, 34), (256, 144)] {
            if let Ok(range) = info.range(block_len, block_bytes, bytes.len()) {
                assert_eq!(
                    range.len() / block_bytes * block_len,
                    info.len,
                    "{name} of type {}",
                    info.type_id
                );
                assert!(range.end <= bytes.len(), "{name}");
            }
        }
    }
    let num_values: usize = parsed.metadata.values().map(num_values).sum();
    assert!(num_values <= bytes.len());
    true
}

/// How many values of at least one byte a value of the metadata holds.
fn num_values(value: &reader::Value) -> usize {
    match value {
        reader::Value::Ints(list) => list.len(),
        reader::Value::Texts(list) => list.len(),
        reader::Value::Text(text) => text.len() / 3,
        reader::Value::Int(_) | reader::Value::Float(_) | reader::Value::Bool(_) | reader::Value::Other => 1,
    }
}

fn shards(bytes: &[u8]) -> bool {
    let Ok(index) = serde_json::from_slice(bytes) else {
        return false;
    };
    let Ok(names) = index::shard_names(&index) else {
        return false;
    };
    assert!(
        names
            .values()
            .all(|name| !name.contains(['/', '\\']) && !name.starts_with('.'))
    );
    true
}
