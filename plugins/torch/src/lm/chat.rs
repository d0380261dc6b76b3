//! Chat templates: conversations to text, with the functions that Hugging Face's templates expect.

use std::path::Path;

use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::Value;

use super::LmError;
use crate::formats::Message;

/// A model's chat template with the special tokens that it may name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Finds the template of a model folder: `chat_template.jinja`, else the one in `tokenizer_config.json`.
    ///
    /// # Errors
    /// The file can't be read, or the text is not a template.
    pub fn find(dir: &Path, settings: &Value) -> Result<Option<Self>, LmError> {
        let path = dir.join("chat_template.jinja");
        let text = if path.exists() {
            Some(std::fs::read_to_string(&path).map_err(|source| LmError::Io { path, source })?)
        } else {
            settings.get(NAME).and_then(Value::as_str).map(str::to_owned)
        };
        let Some(text) = text else { return Ok(None) };
        let token = |name: &str| special_token(settings, name).unwrap_or_default();
        Self::new(text, token("bos_token"), token("eos_token")).map(Some)
    }

    fn new(text: String, bos_token: String, eos_token: String) -> Result<Self, LmError> {
        let mut environment = Environment::new();
        // As transformers compiles them (`chat_template_utils.py`, `_compile_jinja_template`).
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, text)
            .map_err(|error| LmError::Template(error.to_string()))?;
        Ok(Self {
            environment,
            bos_token,
            eos_token,
        })
    }

    /// Returns the text of a conversation; `add_generation_prompt` opens the assistant's next turn.
    ///
    /// # Errors
    /// The template refuses the messages.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, LmError> {
        let values = context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(values))
            .map_err(|error| LmError::Template(error.to_string()))
    }
}

/// A special token of `tokenizer_config.json`, which gives it as text or as an object with `content`.
pub(super) fn special_token(settings: &Value, name: &str) -> Option<String> {
    let value = settings.get(name)?;
    value
        .as_str()
        .or_else(|| value.get("content")?.as_str())
        .map(str::to_owned)
}
