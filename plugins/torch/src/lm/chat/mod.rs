//! Chat templates: conversations to text, as transformers' `apply_chat_template` writes them.
//!
//! Where the templates of a folder lie, what they are given, and which parts of the text the assistant wrote. What Jinja
//! offers them is in `environment`.

mod clock;
mod environment;
mod mask;
mod python;
mod ranges;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use regex::Regex;
use serde_json::{Map, Value as Json};

use super::LmError;
use super::files;
pub use clock::Clock;
use environment::{GENERATION_FILTER, GENERATION_MARKS};

/// Bytes that a conversation may become: a template that writes without end stops there.
const MAX_OUTPUT: usize = 64 << 20;

/// Bytes of a template that is worth reading.
const MAX_TEMPLATE_BYTES: u64 = 16 << 20;

/// Where a model folder has templates besides `chat_template.jinja`.
pub(super) const TEMPLATES_FOLDER: &str = "chat_templates";

/// The chat templates of a model, with the special tokens that they may name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The names of the templates; one alone is called `default`.
    names: Vec<String>,
    /// `bos_token`, `eos_token` and the like, as far as the tokenizer has them.
    special_tokens: Map<String, Json>,
}

/// What a template is given besides the messages.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// Whether to open the assistant's next turn.
    pub add_generation_prompt: bool,
    /// JSON schemas of the functions that the model may call.
    pub tools: Option<Vec<Json>>,
    /// Texts to answer from: objects with `title` and `text`.
    pub documents: Option<Vec<Json>>,
    /// Which template of several; by default `tool_use` where there are tools and such a template, else `default`.
    pub template: Option<String>,
    /// Other variables of the template (`enable_thinking`); they win over special tokens of the same name.
    pub variables: Map<String, Json>,
    pub clock: Clock,
}

/// A conversation as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte ranges of what the template's `generation` blocks printed; nothing where it has no such block.
    pub generated: Option<Vec<Range<usize>>>,
}

impl ChatOptions {
    /// Opens the assistant's next turn, or not.
    pub fn generation_prompt(add_generation_prompt: bool) -> Self {
        Self {
            add_generation_prompt,
            ..Self::default()
        }
    }
}

impl ChatTemplate {
    /// Finds the templates of a model folder: `chat_template.jinja` and `chat_templates/*.jinja`, else those in
    /// `tokenizer_config.json`, a text or a list of `{name, template}`.
    ///
    /// # Errors
    /// A file can't be read, or a text is not a template.
    pub fn find(dir: &Path, settings: &Json, special_tokens: Map<String, Json>) -> Result<Option<Self>, LmError> {
        let mut texts = in_files(dir)?;
        if texts.is_empty() {
            texts = in_settings(dir, settings)?;
        }
        if texts.is_empty() {
            return Ok(None);
        }
        Self::new(texts, special_tokens).map(Some)
    }

    fn new(texts: BTreeMap<String, String>, special_tokens: Map<String, Json>) -> Result<Self, LmError> {
        let mut environment = environment::new();
        let names = texts.keys().cloned().collect();
        for (name, text) in texts {
            environment
                .add_template_owned(name, with_generation_filters(&text))
                .map_err(template_error)?;
        }
        Ok(Self {
            environment,
            names,
            special_tokens,
        })
    }

    /// Returns the text of a conversation.
    ///
    /// # Errors
    /// There are no messages, there is no such template, or it refuses the messages.
    pub fn render(&self, messages: &[Json], options: &ChatOptions) -> Result<Rendered, LmError> {
        if messages.is_empty() {
            return Err(LmError::Template(
                "a conversation needs at least one message".to_owned(),
            ));
        }
        let template = self
            .environment
            .get_template(self.choose(options)?)
            .map_err(template_error)?;
        let has_generation = template.source().contains(&filter_tag());
        if has_generation && messages.iter().any(has_marks) {
            return Err(LmError::Template(
                "a message has U+FDD0 or U+FDD1, which are no characters and stand for the ends of a generation block"
                    .to_owned(),
            ));
        }
        let mut out = Limited::default();
        template
            .render_captured_to(self.values(messages, options), &mut out)
            .map_err(template_error)?;
        let text = String::from_utf8(out.bytes).map_err(|error| LmError::Template(error.to_string()))?;
        Ok(if has_generation {
            let (text, generated) = cut_marks(&text, GENERATION_MARKS);
            let generated = Some(generated);
            Rendered { text, generated }
        } else {
            Rendered { text, generated: None }
        })
    }

    /// As transformers' `get_chat_template`.
    fn choose<'a>(&'a self, options: &'a ChatOptions) -> Result<&'a str, LmError> {
        let has = |name: &str| self.names.iter().any(|there| there == name);
        let wanted = match &options.template {
            Some(name) => name,
            None if options.tools.is_some() && has("tool_use") => "tool_use",
            None => "default",
        };
        if has(wanted) {
            return Ok(wanted);
        }
        Err(LmError::Template(format!(
            "there is no template {wanted:?}; the model has {}",
            self.names.join(", ")
        )))
    }

    fn values(&self, messages: &[Json], options: &ChatOptions) -> Value {
        let messages: Json = messages.iter().map(normalized).collect();
        let list = |items: &Option<Vec<Json>>| items.clone().map_or(Json::Null, Json::Array);
        let mut values: BTreeMap<String, Value> = self
            .special_tokens
            .iter()
            .chain(&options.variables)
            .map(|(name, value)| (name.clone(), python::from_json(value)))
            .collect();
        let clock = options.clock;
        let strftime_now = move |format: &str| {
            clock
                .format(format)
                .map_err(|message| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {message}")))
        };
        values.insert("messages".to_owned(), python::from_json(&messages));
        values.insert("tools".to_owned(), python::from_json(&list(&options.tools)));
        values.insert("documents".to_owned(), python::from_json(&list(&options.documents)));
        values.insert("add_generation_prompt".to_owned(), options.add_generation_prompt.into());
        values.insert("strftime_now".to_owned(), Value::from_function(strftime_now));
        Value::from(values)
    }
}

/// A special token of `tokenizer_config.json`, which gives it as text or as an object with `content`.
pub(super) fn token_text(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Returns the templates in [`TEMPLATES_FOLDER`], by name.
pub fn further_templates(dir: &Path) -> BTreeMap<String, PathBuf> {
    let paths = std::fs::read_dir(dir.join(TEMPLATES_FOLDER))
        .into_iter()
        .flatten()
        .flatten();
    let named = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".jinja")?;
        Some((name.to_owned(), path))
    };
    paths.filter_map(|entry| named(entry.path())).collect()
}

fn in_files(dir: &Path) -> Result<BTreeMap<String, String>, LmError> {
    let mut paths = further_templates(dir);
    paths.insert("default".to_owned(), dir.join("chat_template.jinja"));
    let mut texts = BTreeMap::new();
    for (name, path) in paths {
        if let Some(bytes) = files::if_there(files::read(&path, MAX_TEMPLATE_BYTES))? {
            let text = String::from_utf8(bytes).map_err(|error| files::invalid(&path, error.to_string()))?;
            texts.insert(name, text);
        }
    }
    Ok(texts)
}

fn in_settings(dir: &Path, settings: &Json) -> Result<BTreeMap<String, String>, LmError> {
    match settings.get("chat_template") {
        None | Some(Json::Null) => Ok(BTreeMap::new()),
        Some(Json::String(text)) => Ok(BTreeMap::from([("default".to_owned(), text.clone())])),
        Some(Json::Array(list)) => list
            .iter()
            .map(|item| {
                let text = |field: &str| item.get(field)?.as_str().map(str::to_owned);
                Some((text("name")?, text("template")?))
            })
            .collect::<Option<_>>()
            .ok_or_else(|| bad_setting(dir)),
        Some(_) => Err(bad_setting(dir)),
    }
}

fn bad_setting(dir: &Path) -> LmError {
    LmError::Invalid {
        path: dir.join("tokenizer_config.json"),
        message: "expected chat_template to be a text or a list of {name, template}".to_owned(),
    }
}

/// Makes filter blocks of `generation` blocks, which minijinja does not know.
fn with_generation_filters(text: &str) -> String {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a regular expression"));
    let tag = |captures: &regex::Captures<'_>| {
        let word = if captures.get(2).is_some() {
            "endfilter".to_owned()
        } else {
            filter_tag()
        };
        format!("{{%{} {word} {}%}}", &captures[1], &captures[3])
    };
    TAG.replace_all(text, tag).into_owned()
}

fn filter_tag() -> String {
    format!("filter {GENERATION_FILTER}")
}

fn has_marks(message: &Json) -> bool {
    message.to_string().contains(GENERATION_MARKS)
}

/// Takes marks, of a beginning and an end, out of a text and returns the byte ranges that they stood around.
fn cut_marks(marked: &str, [begin, end]: [char; 2]) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let mut starts = Vec::new();
    let mut ranges = Vec::new();
    for c in marked.chars() {
        if c == begin {
            starts.push(text.len());
        } else if c != end {
            text.push(c);
        } else if let Some(start) = starts.pop() {
            ranges.push(start..text.len());
        }
    }
    (text, ranges)
}

/// What transformers does to a message first: fields that are null are left out, and a model's reasoning is there under
/// all names in use (`apply_chat_template`, `_alias_reasoning_fields`).
fn normalized(message: &Json) -> Json {
    let Json::Object(fields) = message else {
        return message.clone();
    };
    let mut fields = fields.clone();
    fields.retain(|_, value| !value.is_null());
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .iter()
        .find_map(|name| fields.get(*name));
    if let Some(reasoning) = reasoning.cloned() {
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    Json::Object(fields)
}

fn template_error(error: Error) -> LmError {
    let message = match (error.kind(), error.detail(), std::error::Error::source(&error)) {
        // What a template raises, and what it is refused, is said in whole sentences already.
        (ErrorKind::InvalidOperation, Some(detail), _) => detail.to_owned(),
        (ErrorKind::WriteFailure, _, Some(source)) => source.to_string(),
        _ => error.to_string(),
    };
    match error.line() {
        Some(line) => LmError::Template(format!("line {line}: {message}")),
        None => LmError::Template(message),
    }
}

/// Keeps what is written, up to [`MAX_OUTPUT`].
#[derive(Default)]
struct Limited {
    bytes: Vec<u8>,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!(
                "a conversation became more than {MAX_OUTPUT} bytes"
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
