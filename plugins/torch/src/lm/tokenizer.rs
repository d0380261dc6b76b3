//! Text to token ids and back, and the tokenizers that are made here.
//!
//! As transformers reads a folder: `tokenizer.json` computes (but for a `LlamaTokenizer`, whose class has rules of its own),
//! `tokenizer_config.json` adds tokens and names the special ones. Whether a begin or end token is added is the post-processor's decision alone; `add_bos_token` and
//! `add_eos_token` beside a `tokenizer.json` change nothing (transformers 5, `_from_pretrained`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::LmError;
use super::chat::{ChatOptions, ChatTemplate, token_text};
use super::config::ids;
use super::files::{self, write_json};
use super::text::{added_tokens, metaspace};
use crate::formats::Message;

/// Bytes of a `tokenizer.json` that is worth reading; those of the largest vocabularies have 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Bytes of the files beside it.
const MAX_SETTINGS_BYTES: u64 = 64 << 20;

/// A tokenizer with its chat template and the tokens that end a text.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    chat_template: Option<ChatTemplate>,
    /// Any of these ends a generation.
    pub eos_token_ids: Vec<i64>,
    pub pad_token_id: i64,
    /// Whether decoded text loses the spaces before punctuation.
    clean_up_tokenization_spaces: bool,
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
    /// Reads the tokenizer of a model folder, if it has a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn find(dir: &Path) -> Result<Option<Self>, LmError> {
        match dir.join("tokenizer.json").exists() {
            true => Self::load(dir).map(Some),
            false => Ok(None),
        }
    }

    /// Reads the tokenizer of a model folder.
    ///
    /// # Errors
    /// `tokenizer.json` is missing or broken, or the chat template is not a template.
    pub fn load(dir: &Path) -> Result<Self, LmError> {
        let path = dir.join("tokenizer.json");
        let bytes = files::if_there(files::read(&path, MAX_TOKENIZER_BYTES))?.ok_or_else(|| missing(dir, &path))?;
        let settings = read_json(&dir.join("tokenizer_config.json"))?;
        let config = read_json(&dir.join("config.json"))?;
        let mut inner = if metaspace::is_meant(&settings, &config) {
            let own = serde_json::from_slice(&bytes).map_err(|error| not_a_tokenizer(&path, &error))?;
            tokenizers::Tokenizer::from_bytes(metaspace::rebuilt(own, &settings).to_string())
        } else {
            tokenizers::Tokenizer::from_bytes(&bytes)
        }
        .map_err(|error| not_a_tokenizer(&path, &*error))?;
        // What a training run once set; a text is encoded whole and alone here.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| LmError::Invalid {
            path: path.clone(),
            message: error.to_string(),
        })?;
        let special_tokens = special_tokens(&settings, &read_json(&dir.join("special_tokens_map.json"))?);
        added_tokens::add(&mut inner, &settings, &special_tokens).map_err(|message| LmError::Invalid {
            path: dir.join("tokenizer_config.json"),
            message,
        })?;
        let special = |name: &str| inner.token_to_id(special_tokens.get(name)?.as_str()?).map(i64::from);
        let mut eos_token_ids = end_tokens(dir)?;
        if eos_token_ids.is_empty() {
            eos_token_ids.extend(special("eos_token"));
        }
        let pad_token_id = special("pad_token")
            .or_else(|| config.get("pad_token_id").and_then(Value::as_i64))
            .or_else(|| eos_token_ids.first().copied())
            .unwrap_or(0);
        let clean_up_tokenization_spaces = cleans_up(&inner, &settings);
        let chat_template = ChatTemplate::find(dir, &settings, special_tokens)?;
        Ok(Self {
            inner,
            chat_template,
            eos_token_ids,
            pad_token_id,
            clean_up_tokenization_spaces,
        })
    }

    /// Returns the token ids of `text`; with `add_special_tokens` also those that the post-processor adds (a begin token).
    ///
    /// # Errors
    /// The tokenizer can't encode the text (a word-level one without an unknown token).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<i64>, LmError> {
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(|error| cannot_encode(text, &error))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Returns the text of token ids, as transformers' `decode`.
    ///
    /// # Errors
    /// The decoder fails.
    pub fn decode(&self, ids: &[i64], skip_special_tokens: bool) -> Result<String, LmError> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        let text = self
            .inner
            .decode(&ids, skip_special_tokens)
            .map_err(|error| LmError::Tokenizer(error.to_string()))?;
        Ok(if self.clean_up_tokenization_spaces {
            clean_up(text)
        } else {
            text
        })
    }

    /// Returns what a token means for the text of those before and after it.
    pub(super) fn role_in_stream(&self, id: i64, skip_special_tokens: bool) -> StreamRole {
        let Some(token) = u32::try_from(id).ok().and_then(|id| self.inner.id_to_token(id)) else {
            return StreamRole::Silent;
        };
        if skip_special_tokens && self.inner.get_added_vocabulary().is_special_token(&token) {
            return StreamRole::Silent;
        }
        // `<0xE2>`, a byte of a character that the vocabulary lacks.
        let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        match self.clean_up_tokenization_spaces || is_byte {
            true => StreamRole::Open,
            false => StreamRole::Closed,
        }
    }

    /// Returns the prompt of a conversation: its messages in the model's own chat format.
    ///
    /// # Errors
    /// The model has no chat template, or it refuses the messages.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, LmError> {
        let options = ChatOptions::generation_prompt(add_generation_prompt);
        self.render_conversation(messages, &options)
    }

    /// Returns the text of a conversation whose messages may have more than a role and a content (`tool_calls`,
    /// `reasoning_content`).
    ///
    /// # Errors
    /// As [`Tokenizer::render_chat`].
    pub fn render_conversation(&self, messages: &[impl Serialize], options: &ChatOptions) -> Result<String, LmError> {
        Ok(self.chat_template()?.render(&as_json(messages)?, options)?.text)
    }

    /// Returns the token ids of a conversation, and for each whether the assistant wrote it: what a model is trained on.
    ///
    /// A token that lies across the end of an assistant's turn counts as the assistant's. See
    /// [`ChatTemplate::render_with_turns`] for what a turn is.
    ///
    /// # Errors
    /// As [`Tokenizer::render_chat`] and [`Tokenizer::encode`], or the template does not tell where the turns are.
    pub fn encode_chat(
        &self,
        messages: &[impl Serialize],
        options: &ChatOptions,
    ) -> Result<(Vec<i64>, Vec<bool>), LmError> {
        let (text, turns) = self.chat_template()?.render_with_turns(&as_json(messages)?, options)?;
        self.encode_telling(&text, |start, end| {
            turns.iter().any(|turn| start < turn.end && turn.start < end)
        })
    }

    /// Returns the token ids of a conversation, and for each whether it is of the last message: the completion, where the
    /// messages before it are the prompt. A token that lies across the border counts as the completion's.
    ///
    /// # Errors
    /// As [`Tokenizer::render_chat`] and [`Tokenizer::encode`], or the template does not tell where the completion begins.
    pub fn encode_completion(
        &self,
        messages: &[impl Serialize],
        options: &ChatOptions,
    ) -> Result<(Vec<i64>, Vec<bool>), LmError> {
        let (text, border) = self
            .chat_template()?
            .render_with_completion(&as_json(messages)?, options)?;
        self.encode_telling(&text, |_, end| end > border)
    }

    /// Returns the token ids of a conversation, and for each the number of the first of the given parts of messages that it
    /// touches. `ranges` has the byte ranges of each message's content, in order; their numbers count through.
    ///
    /// # Errors
    /// As [`ChatTemplate::render_with_ranges`] and [`Tokenizer::encode`].
    pub fn encode_ranges(
        &self,
        messages: &[impl Serialize],
        ranges: &[Vec<Range<usize>>],
        options: &ChatOptions,
    ) -> Result<(Vec<i64>, Vec<Option<usize>>), LmError> {
        let (text, places) = self
            .chat_template()?
            .render_with_ranges(&as_json(messages)?, ranges, options)?;
        self.encode_telling(&text, |start, end| {
            places.iter().position(|place| start < place.end && place.start < end)
        })
    }

    /// Returns the token ids of a text, and what is told of each by the bytes from and up to which it stands.
    fn encode_telling<T>(&self, text: &str, tell: impl Fn(usize, usize) -> T) -> Result<(Vec<i64>, Vec<T>), LmError> {
        // The template writes the special tokens itself.
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| cannot_encode(text, &error))?;
        let told = encoding
            .get_offsets()
            .iter()
            .map(|&(start, end)| tell(start, end))
            .collect();
        Ok((encoding.get_ids().iter().map(|&id| i64::from(id)).collect(), told))
    }

    /// Returns the token ids with which a model is asked for the answer to one user message.
    ///
    /// # Errors
    /// As [`Tokenizer::render_chat`] and [`Tokenizer::encode`].
    pub fn encode_prompt(&self, content: &str) -> Result<Vec<i64>, LmError> {
        self.encode(&self.render_prompt(content)?, false)
    }

    /// Returns the text with which a model is asked for the answer to one user message. It has all special tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::render_chat`].
    pub fn render_prompt(&self, content: &str) -> Result<String, LmError> {
        self.render_chat(&[Message::new("user", content)], true)
    }

    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    fn chat_template(&self) -> Result<&ChatTemplate, LmError> {
        self.chat_template
            .as_ref()
            .ok_or_else(|| LmError::Template("the model folder has none; an instruct model is needed".to_owned()))
    }
}

/// Returns the tokens that end a generation by `generation_config.json` or `config.json` alone: none where neither names
/// any.
///
/// # Errors
/// A file is there but broken.
pub fn end_tokens(dir: &Path) -> Result<Vec<i64>, LmError> {
    let generation = read_json(&dir.join("generation_config.json"))?;
    let config = read_json(&dir.join("config.json"))?;
    Ok(ids(generation
        .get("eos_token_id")
        .or_else(|| config.get("eos_token_id"))))
}

/// What a token means for a text that comes token by token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamRole {
    /// It has no text at all.
    Silent,
    /// The next token may change its text: bytes are read together, and so is what is cleaned up at the end.
    Open,
    Closed,
}

fn as_json(messages: &[impl Serialize]) -> Result<Vec<Value>, LmError> {
    messages
        .iter()
        .map(|message| serde_json::to_value(message).map_err(|error| LmError::Template(format!("a message: {error}"))))
        .collect()
}

fn not_a_tokenizer(path: &Path, error: &dyn std::error::Error) -> LmError {
    files::invalid(path, format!("not a tokenizer: {error}"))
}

/// Says what a folder without a `tokenizer.json` has instead.
fn missing(dir: &Path, path: &Path) -> LmError {
    let other = [
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tekken.json",
        "vocab.json",
    ]
    .into_iter()
    .find(|name| dir.join(name).exists());
    match other {
        Some(name) => LmError::Invalid {
            path: path.to_owned(),
            message: format!(
                "missing; the folder has {name}, which transformers converts: \
                 AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            ),
        },
        None => LmError::Io {
            path: path.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        },
    }
}

fn cannot_encode(text: &str, error: &tokenizers::Error) -> LmError {
    LmError::Tokenizer(format!("can't encode {:?}: {error}", shorten(text)))
}

/// The tokens that a chat template may name: those of `tokenizer_config.json`, and of the older `special_tokens_map.json`.
fn special_tokens(settings: &Value, map: &Value) -> Map<String, Value> {
    const NAMES: [&str; 7] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    let mut tokens = Map::new();
    for name in NAMES {
        if let Some(text) = [settings, map].iter().find_map(|file| token_text(file.get(name)?)) {
            tokens.insert(name.to_owned(), text.into());
        }
    }
    // Tokens of one model, such as `image_token`.
    for (name, value) in settings
        .get("extra_special_tokens")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        tokens.extend(token_text(value).map(|text| (name.clone(), text.into())));
    }
    tokens
}

/// Whether transformers cleans up what this tokenizer decodes: never after a BPE, whose spaces are the text's own, unless
/// the folder insists (`TokenizersBackend._decode`).
fn cleans_up(inner: &tokenizers::Tokenizer, settings: &Value) -> bool {
    let is_set = |name: &str| settings.get(name).and_then(Value::as_bool).unwrap_or(false);
    let is_bpe = matches!(inner.get_model(), tokenizers::ModelWrapper::BPE(_));
    is_set("clean_up_tokenization_spaces")
        && (!is_bpe || is_set("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"))
}

/// `PreTrainedTokenizerBase.clean_up_tokenization`.
fn clean_up(text: String) -> String {
    const REPLACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(text, |text, (from, to)| text.replace(from, to))
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
    let object = files::if_there(files::read_json_object(path, MAX_SETTINGS_BYTES))?;
    Ok(object.map_or(Value::Null, Value::Object))
}

fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
