//! Which parts of a conversation the assistant wrote: what a model is trained on (TRL's `assistant_only_loss`).

use std::ops::Range;

use serde_json::Value as Json;

use super::{ChatOptions, ChatTemplate, Rendered};
use crate::lm::LmError;

impl ChatTemplate {
    /// Returns the text of a conversation and the byte ranges of it that the assistant wrote.
    ///
    /// They are what the template's `generation` blocks printed, as in transformers. Where it has none, a turn is what the
    /// template adds to the prompt (the messages before, with the generation prompt) by the message, its end token
    /// included.
    ///
    /// # Errors
    /// The template refuses the messages, or writes earlier messages in another way once more follow, so that turns have
    /// no place in the text.
    pub fn render_with_turns(
        &self,
        messages: &[Json],
        options: &ChatOptions,
    ) -> Result<(String, Vec<Range<usize>>), LmError> {
        let Rendered { text, generated } = self.render(messages, options)?;
        let turns = match generated {
            Some(ranges) => ranges,
            None => (0..messages.len())
                .filter(|&idx| messages[idx].get("role").and_then(Json::as_str) == Some("assistant"))
                .map(|idx| self.turn(messages, idx, options, &text))
                .collect::<Result<_, _>>()?,
        };
        Ok((text, turns))
    }

    /// Returns the text of a conversation and where its last message begins in it: behind all that the prompt for it, with
    /// the generation prompt, has in common with it. What a generation prompt writes and the answer then lacks, as an opened
    /// block of thoughts that is not kept, hides nothing of the answer.
    ///
    /// # Errors
    /// The template refuses the messages, or writes earlier messages in another way once the last follows, so that it has
    /// no place in the text.
    pub fn render_with_completion(&self, messages: &[Json], options: &ChatOptions) -> Result<(String, usize), LmError> {
        let text = self.render(messages, options)?.text;
        let before = &messages[..messages.len().saturating_sub(1)];
        if before.is_empty() {
            // There is no prompt to render.
            return Ok((text, 0));
        }
        let prompt = |add_generation_prompt| {
            let options = ChatOptions {
                add_generation_prompt,
                ..options.clone()
            };
            self.render(before, &options).map(|rendered| rendered.text)
        };
        if !text.starts_with(&prompt(false)?) {
            return Err(LmError::Template(format!(
                "message {} can't be told from those before it, which are not how the whole conversation begins",
                messages.len()
            )));
        }
        let prompt = prompt(true)?;
        let mut of_prompt = prompt.chars();
        let start = text.char_indices().find(|&(_, own)| of_prompt.next() != Some(own));
        let start = start.map_or(text.len(), |(at, _)| at);
        Ok((text, start))
    }

    /// The range of message `idx` in the text of the whole conversation.
    fn turn(&self, messages: &[Json], idx: usize, options: &ChatOptions, text: &str) -> Result<Range<usize>, LmError> {
        let moved = |what: &str| {
            LmError::Template(format!(
                "the assistant's part of message {} can't be found: {what} is not how the whole conversation begins; a \
                 template with {{% generation %}} blocks around what the assistant says is needed",
                idx + 1
            ))
        };
        let len_of = |messages: &[Json], add_generation_prompt, what: &str| {
            let options = ChatOptions {
                add_generation_prompt,
                ..options.clone()
            };
            let prefix = self.render(messages, &options)?.text;
            if text.starts_with(&prefix) {
                Ok(prefix.len())
            } else {
                Err(moved(what))
            }
        };
        let start = match idx {
            // There is no prompt to render.
            0 => 0,
            _ => len_of(&messages[..idx], true, "the prompt before it")?,
        };
        let end = len_of(&messages[..=idx], false, "the conversation up to it")?;
        if start > end {
            return Err(moved("its prompt, which is longer than the text with it,"));
        }
        Ok(start..end)
    }
}
