//! Text from tokens that come one at a time.

use crate::lm::tokenizer::StreamRole;
use crate::lm::{LmError, Tokenizer};

/// Turns tokens into pieces of text, none of which ends within a character.
///
/// A token's text depends on its neighbours: a character may be spread over tokens, and decoders take a space off the
/// beginning. So a piece is what the text of the last tokens grows by, as in text-generation-inference and vLLM
/// (`detokenize_incrementally`); all pieces together are the whole tokens' text.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    ids: Vec<i64>,
    /// Where the tokens begin that the next piece is decoded with.
    context: usize,
    /// Tokens whose text was given.
    given: usize,
}

impl<'a> TextStream<'a> {
    pub fn new(tokenizer: &'a Tokenizer, skip_special_tokens: bool) -> Self {
        Self {
            tokenizer,
            skip_special_tokens,
            ids: Vec::new(),
            context: 0,
            given: 0,
        }
    }

    /// Takes a token and returns the text that is certain now, perhaps none.
    ///
    /// # Errors
    /// The decoder fails.
    pub fn push(&mut self, id: i64) -> Result<String, LmError> {
        let role = self.tokenizer.role_in_stream(id, self.skip_special_tokens);
        if role != StreamRole::Silent {
            self.ids.push(id);
        }
        if role != StreamRole::Closed {
            return Ok(String::new());
        }
        let piece = self.rest()?;
        // A replacement character at the end may be the first half of a character.
        if piece.is_empty() || piece.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        self.context = self.given;
        self.given = self.ids.len();
        Ok(piece)
    }

    /// Returns what is left when no token follows.
    ///
    /// # Errors
    /// The decoder fails.
    pub fn finish(self) -> Result<String, LmError> {
        self.rest()
    }

    fn rest(&self) -> Result<String, LmError> {
        let decode = |ids: &[i64]| self.tokenizer.decode(ids, self.skip_special_tokens);
        let before = decode(&self.ids[self.context..self.given])?;
        let mut text = decode(&self.ids[self.context..])?;
        if !text.starts_with(&before) {
            return Ok(String::new());
        }
        text.drain(..before.len());
        Ok(text)
    }
}
