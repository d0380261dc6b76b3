//! The tokenizers that transformers builds itself, whatever their `tokenizer.json` says: `LlamaTokenizer` takes the
//! vocabulary, the merges and the post-processor from the file, and cuts and joins text by rules of its own.

use serde_json::{Value, json};

/// What stands for a space.
const SPACE: &str = "\u{2581}";

/// Whether a folder's tokenizer is built so (`AutoTokenizer.from_pretrained`, `LlamaTokenizer`): by the class that
/// `tokenizer_config.json` names, if `tokenizer.json` has no ByteLevel. Folders of a Mistral keep their file's own rules.
pub fn is_meant(settings: &Value, config: &Value) -> bool {
    let text = |file: &Value, key: &str| file.get(key).and_then(Value::as_str).map(str::to_owned);
    let class = text(settings, "tokenizer_class").or_else(|| text(config, "tokenizer_class"));
    let is_llama = matches!(class.as_deref(), Some("LlamaTokenizer" | "LlamaTokenizerFast"));
    is_llama && matches!(text(config, "model_type").as_deref(), None | Some("" | "llama"))
}

/// Returns the `tokenizer.json` that the class makes of a folder's own.
pub fn rebuilt(mut tokenizer: Value, settings: &Value) -> Value {
    let is_bpe = tokenizer["model"]["type"] == "BPE" || tokenizer["model"].get("merges").is_some();
    let has_byte_level = ["pre_tokenizer", "decoder"]
        .iter()
        .any(|part| tokenizer[*part].to_string().contains("\"ByteLevel\""));
    if !is_bpe || has_byte_level {
        return tokenizer;
    }
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
    let adds_space = flag("add_prefix_space").unwrap_or(true);
    let prepend_scheme = match (adds_space, flag("legacy").unwrap_or(false)) {
        (false, _) => "never",
        (true, false) => "first",
        (true, true) => "always",
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if adds_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    tokenizer["normalizer"] = Value::Null;
    tokenizer["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prepend_scheme, "split": false});
    tokenizer["decoder"] = json!({"type": "Sequence", "decoders": decoders});
    for (key, value) in [
        ("fuse_unk", Value::Bool(true)),
        ("byte_fallback", Value::Bool(true)),
        ("unk_token", Value::Null),
        ("ignore_merges", Value::Bool(false)),
    ] {
        tokenizer["model"][key] = value;
    }
    tokenizer
}
