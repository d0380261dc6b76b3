//! Procedure cloning, second half: a trace becomes a conversation.
//!
//! ASTRO, section 2.4: a child continues the solution; a return to an ancestor becomes reflection, negative verdict and
//! return sentence; after promising steps, and after the final one, comes the same reflection with a positive verdict, so
//! that the verdict must be judged and can't be told from the question. A direct solution gets none of these sentences.
//! `plan` decides what is written, `template` pastes it, `model` asks a policy for the words, `check` reads back what was
//! written, and `card` counts. Nothing here meets files, servers or clocks.

pub mod card;
pub mod check;
pub mod model;
pub mod plan;
pub mod template;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::formats::{Chat, Message, Style, Trace};
use crate::verify::{BacktrackPatterns, Wording};

pub use card::{RewriteCard, Writer};
pub use template::rewrite;

/// How to write.
#[derive(Debug, Clone)]
pub struct RewriteConfig {
    pub wording: Wording,
    /// What counts as a return when the text is read back.
    pub patterns: BacktrackPatterns,
    /// Positive reflections before the final one, at most.
    pub positive_reflections: usize,
    /// Steps with at least this Q are promising, 0..=1.
    pub high_q: f64,
    /// Whether a positive reflection ends the solution.
    pub final_reflection: bool,
}

/// How long a conversation may be.
#[derive(Clone, Copy)]
pub struct MaxLength<'a> {
    /// Of question and solution together, in what `measure` counts; none: any.
    pub most: Option<usize>,
    pub measure: &'a dyn Fn(&str) -> anyhow::Result<usize>,
}

impl MaxLength<'_> {
    /// The length of a trace's conversation.
    ///
    /// # Errors
    /// The text can't be measured.
    pub fn length(&self, trace: &Trace, text: &str) -> anyhow::Result<usize> {
        Ok((self.measure)(&trace.problem.problem)? + (self.measure)(text)?)
    }

    /// Returns why a text is not short enough.
    fn objection(&self, trace: &Trace, text: &str) -> Option<String> {
        let most = self.most?;
        match self.length(trace, text) {
            Ok(length) => (length > most).then(|| format!("too_long: {length}, at most {most}")),
            Err(error) => Some(format!("not_measurable: {error:#}")),
        }
    }
}

/// A text of a trace that does not pass the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    pub problem_id: String,
    pub style: Style,
    pub k: usize,
    /// A word, perhaps with a colon and more behind it.
    pub reason: String,
    /// What was written, as far as it came.
    pub text: String,
    /// Who wrote the conversation that the trace has after all; none: the trace has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<Writer>,
}

impl Reject {
    fn new(trace: &Trace, reason: String, text: String) -> Self {
        Self {
            problem_id: trace.problem.id.clone(),
            style: trace.style,
            k: trace.k,
            reason,
            text,
            replaced_by: None,
        }
    }
}

/// What a trace became.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The conversation and who wrote it.
    pub chat: Option<(Chat, Writer)>,
    /// The text that was not good enough; with a chat, the one that the chat replaces.
    pub reject: Option<Reject>,
}

impl From<Result<Chat, Reject>> for Written {
    fn from(result: Result<Chat, Reject>) -> Self {
        match result {
            Ok(chat) => Self {
                chat: Some((chat, Writer::Template)),
                reject: None,
            },
            Err(reject) => Self {
                chat: None,
                reject: Some(reject),
            },
        }
    }
}

/// Names what is drawn for each trace, by its problem and its place among the traces of that: what other problems there are
/// changes nothing.
pub fn purposes(traces: &[Trace]) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut purposes = Vec::new();
    for Trace { problem, k, .. } in traces {
        let count = counts.entry(&problem.id).or_default();
        *count += 1;
        purposes.push(format!("rewrite {}, {k}, {count}", problem.id));
    }
    purposes
}

fn chat(trace: &Trace, text: String) -> Chat {
    Chat {
        messages: vec![
            Message::new("user", trace.problem.problem.clone()),
            Message::new("assistant", text),
        ],
        problem_id: trace.problem.id.clone(),
        style: Some(trace.style),
        num_backtracks: trace.k,
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
