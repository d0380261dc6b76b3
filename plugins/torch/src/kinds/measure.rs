//! Lengths of texts: in tokens where a tokenizer is given, otherwise in words.

use anyhow::{Context, Result};

use crate::lm::Tokenizer;
use crate::worker::Job;

/// Measures texts.
pub struct Measure(Option<Tokenizer>);

impl Measure {
    /// Reads the input `tokenizer`, a model, if there is one.
    ///
    /// # Errors
    /// The model has no tokenizer, as a served one may.
    pub fn open(job: &Job) -> Result<Self> {
        let Some(dir) = job.input_opt("tokenizer")? else {
            return Ok(Self(None));
        };
        let tokenizer = Tokenizer::load(&dir).context("input tokenizer")?;
        Ok(Self(Some(tokenizer)))
    }

    pub fn unit(&self) -> &'static str {
        match self.0 {
            Some(_) => "tokens",
            None => "words",
        }
    }

    /// Returns a text's length: its tokens, without those that begin and end a text, or its words between white space.
    ///
    /// # Errors
    /// The tokenizer has no tokens for the text.
    pub fn length(&self, text: &str) -> Result<usize> {
        match &self.0 {
            Some(tokenizer) => Ok(tokenizer.encode(text, false)?.len()),
            None => Ok(text.split_whitespace().count()),
        }
    }
}
