//! The tokenizer of a GGUF file as Hugging Face's `tokenizer.json` and `tokenizer_config.json`.
//!
//! Byte-level BPE (`tokenizer.ggml.model` "gpt2"), with the splitting rules that `tokenizer.ggml.pre` names.
//! Source: llama.cpp, `src/llama-vocab.cpp`, and the tokenizer.json files of the models that the names stand for.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::reader::{Gguf, Value};

/// Types of tokens in `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

/// The text files of a tokenizer.
pub(super) struct TokenizerFiles {
    /// `tokenizer.json`
    pub tokenizer: Json,
    /// `tokenizer_config.json`
    pub settings: Json,
}

/// Builds the tokenizer's files.
///
/// # Errors
/// The file has no tokenizer, or one that can't be expressed here; the message says what to do.
pub(super) fn tokenizer_files(gguf: &Gguf) -> Result<TokenizerFiles, String> {
    let advice = "put the model's tokenizer.json and tokenizer_config.json beside the file";
    match gguf.text("tokenizer.ggml.model") {
        Some("gpt2") => (),
        Some(other) => {
            return Err(format!(
                "has a {other:?} tokenizer, only \"gpt2\" is converted; {advice}"
            ));
        }
        None => return Err(format!("has no tokenizer; {advice}")),
    }
    let pre = gguf.text("tokenizer.ggml.pre").unwrap_or("default");
    let splitting =
        Splitting::named(pre).ok_or_else(|| format!("tokenizer.ggml.pre is {pre:?}, which is not known; {advice}"))?;
    let tokens = Tokens::of(gguf).map_err(|message| format!("{message}; {advice}"))?;
    let bos = special(gguf, &tokens, "bos");
    let adds_bos = match gguf.metadata.get("tokenizer.ggml.add_bos_token") {
        Some(Value::Bool(adds)) => *adds,
        _ => splitting.adds_bos(),
    };
    let post_processor = match bos.filter(|_| adds_bos) {
        Some((id, text)) => begin_token(id, text),
        None => byte_level(false),
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": tokens.added(),
        "normalizer": splitting.normalizer(),
        "pre_tokenizer": splitting.pre_tokenizer(),
        "post_processor": post_processor,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": splitting == Splitting::Llama3,
            "vocab": tokens.vocabulary(), "merges": tokens.merges,
        },
    });
    let text = |role: &str| special(gguf, &tokens, role).map(|(_, text)| text);
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
        "bos_token": text("bos"), "eos_token": text("eos"), "pad_token": text("padding"), "unk_token": null,
        "chat_template": gguf.text("tokenizer.chat_template"),
    });
    Ok(TokenizerFiles { tokenizer, settings })
}

/// Id and text of the token with a role.
fn special<'a>(gguf: &Gguf, tokens: &Tokens<'a>, role: &str) -> Option<(i64, &'a str)> {
    let id = gguf.int(&format!("tokenizer.ggml.{role}_token_id"))?;
    let text = tokens.texts.get(usize::try_from(id).ok()?)?;
    Some((id, text))
}

/// How text is cut before merges apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Splitting {
    Llama3,
    Qwen2,
    SmolLm,
    Gpt2,
}

impl Splitting {
    fn named(pre: &str) -> Option<Self> {
        match pre {
            "llama-bpe" | "llama3" | "llama-v3" => Some(Self::Llama3),
            "qwen2" | "deepseek-r1-qwen" => Some(Self::Qwen2),
            "smollm" => Some(Self::SmolLm),
            "gpt-2" | "default" => Some(Self::Gpt2),
            _ => None,
        }
    }

    /// Whether a begin token is added where the file does not say.
    fn adds_bos(self) -> bool {
        self == Self::Llama3
    }

    fn normalizer(self) -> Json {
        match self {
            Self::Qwen2 => json!({"type": "NFC"}),
            _ => Json::Null,
        }
    }

    fn pre_tokenizer(self) -> Json {
        let by_regex = |numbers: &str| {
            let pattern = format!(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            );
            let split =
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
        };
        match self {
            Self::Llama3 => by_regex(r"\p{N}{1,3}"),
            Self::Qwen2 => by_regex(r"\p{N}"),
            Self::SmolLm => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, byte_level(true)]}),
            Self::Gpt2 => byte_level(true),
        }
    }
}

fn byte_level(use_regex: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// Puts the begin token before each text.
fn begin_token(id: i64, text: &str) -> Json {
    let begin = json!({"SpecialToken": {"id": text, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({"type": "Sequence", "processors": [byte_level(false), {
        "type": "TemplateProcessing",
        "single": [begin, sequence("A")],
        "pair": [begin, sequence("A"), begin, sequence("B")],
        "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
    }]})
}

/// The lists of a vocabulary.
struct Tokens<'a> {
    texts: &'a [String],
    types: &'a [i64],
    merges: &'a [String],
}

impl<'a> Tokens<'a> {
    fn of(gguf: &'a Gguf) -> Result<Self, String> {
        let texts = |key: &str| match gguf.metadata.get(key) {
            Some(Value::Texts(list)) => Ok(list.as_slice()),
            _ => Err(format!("{key} is missing, expected a list of texts")),
        };
        let tokens = Self {
            texts: texts("tokenizer.ggml.tokens")?,
            merges: texts("tokenizer.ggml.merges")?,
            types: match gguf.metadata.get("tokenizer.ggml.token_type") {
                Some(Value::Ints(list)) => list,
                _ => return Err("tokenizer.ggml.token_type is missing, expected a list of integers".to_owned()),
            },
        };
        if tokens.types.len() != tokens.texts.len() {
            let (types, texts) = (tokens.types.len(), tokens.texts.len());
            return Err(format!(
                "tokenizer.ggml.token_type has {types} entries for {texts} tokens"
            ));
        }
        let known: HashMap<&str, ()> = tokens.texts.iter().map(|text| (text.as_str(), ())).collect();
        let is_known = |merge: &&String| match merge.split_once(' ') {
            Some((left, right)) => [left, right, &format!("{left}{right}")]
                .iter()
                .all(|part| known.contains_key(*part)),
            None => false,
        };
        match tokens.merges.iter().find(|merge| !is_known(merge)) {
            Some(merge) => Err(format!(
                "tokenizer.ggml.merges has {merge:?}, which are not two tokens that make a third"
            )),
            None => Ok(tokens),
        }
    }

    fn with_types(&self) -> impl Iterator<Item = (usize, &'a String, i64)> {
        let types = self.types.iter().copied();
        self.texts
            .iter()
            .zip(types)
            .enumerate()
            .map(|(id, (text, kind))| (id, text, kind))
    }

    /// Tokens that text is cut at before anything else.
    fn added(&self) -> Vec<Json> {
        self.with_types()
            .filter(|(_, _, kind)| [CONTROL, USER_DEFINED].contains(kind))
            .map(|(id, text, kind)| {
                json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": kind == CONTROL})
            })
            .collect()
    }

    /// All but the placeholders of unused rows.
    fn vocabulary(&self) -> Map<String, Json> {
        self.with_types()
            .filter(|(_, _, kind)| *kind != UNUSED)
            .map(|(id, text, _)| (text.clone(), json!(id)))
            .collect()
    }
}
