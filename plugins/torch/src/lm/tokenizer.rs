//! Text to token ids and back, as the tokenizer files of a model folder say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::LmError;
use super::chat::{ChatTemplate, special_token};
use super::config::ids;
use crate::formats::Message;

/// A tokenizer with its chat template and the tokens that end a text.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    chat_template: Option<ChatTemplate>,
    /// Any of these ends a generation.
    pub eos_token_ids: Vec<i64>,
    pub pad_token_id: i64,
}

/// The words of a new word-level tokenizer.
#[derive(Debug, Clone)]
pub struct WordLevel {
    /// Texts whose whitespace-separated words become tokens.
    pub words: BTreeSet<String>,
    /// Phrases of several words that become one token each.
    pub phrases: Vec<String>,
    pub user_token: String,
    pub assistant_token: String,
    pub end_token: String,
    pub max_length: i64,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder.
    ///
    /// # Errors
    /// `tokenizer.json` is missing or broken, or the chat template is not a template.
    pub fn load(dir: &Path) -> Result<Self, LmError> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| LmError::Io {
            path: path.clone(),
            source,
        })?;
        let inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| LmError::Invalid {
            path,
            message: error.to_string(),
        })?;
        let settings = read_json(&dir.join("tokenizer_config.json"))?;
        let generation = read_json(&dir.join("generation_config.json"))?;
        let config = read_json(&dir.join("config.json"))?;
        let special = |name: &str| special_token(&settings, name).and_then(|text| inner.token_to_id(&text));
        let mut eos_token_ids = ids(generation.get("eos_token_id").or_else(|| config.get("eos_token_id")));
        if eos_token_ids.is_empty() {
            eos_token_ids.extend(special("eos_token").map(i64::from));
        }
        let pad_token_id = special("pad_token")
            .map(i64::from)
            .or_else(|| config.get("pad_token_id").and_then(Value::as_i64))
            .or_else(|| eos_token_ids.first().copied())
            .unwrap_or(0);
        let chat_template = ChatTemplate::find(dir, &settings)?;
        Ok(Self {
            inner,
            chat_template,
            eos_token_ids,
            pad_token_id,
        })
    }

    /// Returns the token ids of `text`; with `add_special_tokens` also those that the post-processor adds (a begin token).
    ///
    /// # Errors
    /// The tokenizer can't encode the text (a word-level one without an unknown token).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<i64>, LmError> {
        let encoding = self
            .inner
            .encode(text, add_special_tokens)
            .map_err(|error| LmError::Tokenizer(format!("can't encode {:?}: {error}", shorten(text))))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Returns the text of token ids.
    ///
    /// # Errors
    /// The decoder fails.
    pub fn decode(&self, ids: &[i64], skip_special_tokens: bool) -> Result<String, LmError> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner
            .decode(&ids, skip_special_tokens)
            .map_err(|error| LmError::Tokenizer(error.to_string()))
    }

    /// Returns the prompt of a conversation: its messages in the model's own chat format.
    ///
    /// # Errors
    /// The model has no chat template, or it refuses the messages.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, LmError> {
        let template = self
            .chat_template
            .as_ref()
            .ok_or_else(|| LmError::Template("the model folder has none; an instruct model is needed".to_owned()))?;
        template.render(messages, add_generation_prompt)
    }

    /// Returns the token ids with which a model is asked for the answer to one user message.
    ///
    /// # Errors
    /// As [`Tokenizer::render_chat`] and [`Tokenizer::encode`].
    pub fn encode_prompt(&self, content: &str) -> Result<Vec<i64>, LmError> {
        let message = Message {
            role: "user".to_owned(),
            content: content.to_owned(),
        };
        // The template writes the special tokens itself.
        self.encode(&self.render_chat(&[message], true)?, false)
    }

    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

impl WordLevel {
    /// Writes `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` of a word-level tokenizer.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn write(&self, dir: &Path) -> Result<(), LmError> {
        let special = [
            "<|pad|>",
            "<|unk|>",
            &self.user_token,
            &self.assistant_token,
            &self.end_token,
        ];
        let mut vocab: BTreeMap<String, usize> = BTreeMap::new();
        let mut names: Vec<String> = Vec::new();
        let texts = special
            .iter()
            .map(ToString::to_string)
            .chain(self.phrases.iter().cloned());
        for text in texts.chain(self.words.iter().cloned()) {
            if let std::collections::btree_map::Entry::Vacant(entry) = vocab.entry(text.clone()) {
                entry.insert(names.len());
                names.push(text);
            }
        }
        let added = |text: &str, special: bool| {
            json!({"id": vocab[text], "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": special})
        };
        let mut added_tokens: Vec<Value> = special.iter().map(|text| added(text, true)).collect();
        added_tokens.extend(self.phrases.iter().map(|text| added(text, false)));
        let vocab: Map<String, Value> = names.iter().map(|name| (name.clone(), json!(vocab[name]))).collect();
        write_json(
            &dir.join("tokenizer.json"),
            &json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens,
                "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
                "decoder": null, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<|unk|>"},
            }),
        )?;
        write_json(
            &dir.join("tokenizer_config.json"),
            &json!({
                "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self.end_token, "pad_token": "<|pad|>",
                "unk_token": "<|unk|>", "model_max_length": self.max_length, "clean_up_tokenization_spaces": false,
                "chat_template": self.chat_template(),
            }),
        )?;
        let id = |text: &str| names.iter().position(|name| name == text);
        write_json(
            &dir.join("generation_config.json"),
            &json!({"eos_token_id": id(&self.end_token), "pad_token_id": id("<|pad|>")}),
        )
    }

    fn chat_template(&self) -> String {
        let Self {
            user_token,
            assistant_token,
            end_token,
            ..
        } = self;
        format!(
            "{{% for message in messages %}}{{% if message['role'] == 'user' %}}{user_token} {{{{ message['content'] }}}} \
             {{% else %}}{assistant_token} {{{{ message['content'] }}}} {end_token}{{% endif %}}{{% endfor %}}\
             {{% if add_generation_prompt %}}{assistant_token}{{% endif %}}"
        )
    }
}

/// Reads a JSON file that may be absent.
fn read_json(path: &Path) -> Result<Value, LmError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| LmError::Invalid {
            path: path.to_owned(),
            message: error.to_string(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(source) => Err(LmError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), LmError> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value is JSON");
    std::fs::write(path, text + "\n").map_err(|source| LmError::Io {
        path: path.to_owned(),
        source,
    })
}

fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
