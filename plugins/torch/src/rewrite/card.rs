//! What became of the traces, and what it cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MaxLength, Written};
use crate::card::{Histogram, tally};
use crate::formats::{Trace, VERSION};

/// Who wrote a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// The steps as they are, and fixed sentences.
    Template,
    Model,
    /// A model, but for steps that it did not manage.
    Mixed,
}

/// Counts of a stage. `num_traces` is `num_chats` and `num_rejected`; `written` adds up to the first, `rejected` to the
/// second, and `asked.num_accepted` with `asked.failed` to `asked.num_requests`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RewriteCard {
    pub version: u32,
    pub num_traces: usize,
    pub num_chats: usize,
    pub num_rejected: usize,
    /// Conversations by their writer.
    pub written: BTreeMap<Writer, usize>,
    /// Traces without a conversation, by reason.
    pub rejected: BTreeMap<String, usize>,
    /// Traces whose conversation is a template's because the model's was not good enough, by reason.
    pub fallbacks: BTreeMap<String, usize>,
    pub asked: Asked,
    /// k -> conversations with k backtracks.
    pub num_backtracks: BTreeMap<usize, usize>,
    /// Lengths of question and solution together.
    pub length: Histogram,
}

/// What a model was asked, and what for. All zero without one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub num_requests: usize,
    /// Answers that were used.
    pub num_accepted: usize,
    /// Answers that did not pass the checks, by reason.
    pub failed: BTreeMap<String, usize>,
    /// Parts that a template wrote in the midst of a model's text (`fallback: step`).
    pub num_pasted: usize,
    /// Tokens of all prompts. None where only a server could count them and the stage was interrupted: answers from
    /// before were not asked for again, and their prompts not counted.
    pub prompt_tokens: Option<u64>,
    /// Tokens of all answers.
    pub completion_tokens: u64,
}

impl RewriteCard {
    /// Counts what was written.
    ///
    /// # Errors
    /// A text can't be measured.
    pub fn of(
        traces: &[Trace],
        written: &[Written],
        asked: Asked,
        unit: &str,
        max_length: MaxLength<'_>,
    ) -> anyhow::Result<Self> {
        let mut lengths = Vec::new();
        for (trace, written) in traces.iter().zip(written) {
            if let Some((chat, _)) = &written.chat {
                lengths.push(max_length.length(trace, &chat.messages[1].content)?);
            }
        }
        let chats = || written.iter().filter_map(|written| written.chat.as_ref());
        let reasons = |with_chat: bool| {
            let those = written
                .iter()
                .filter(move |written| written.chat.is_some() == with_chat);
            tally(those.filter_map(|written| Some(kind(&written.reject.as_ref()?.reason).to_owned())))
        };
        Ok(Self {
            version: VERSION,
            num_traces: traces.len(),
            num_chats: chats().count(),
            num_rejected: written.iter().filter(|written| written.chat.is_none()).count(),
            written: tally(chats().map(|(_, writer)| *writer)),
            rejected: reasons(false),
            fallbacks: reasons(true),
            asked,
            num_backtracks: tally(chats().map(|(chat, _)| chat.num_backtracks)),
            length: Histogram::of(unit, &lengths),
        })
    }

    /// Reasons and their counts in words.
    pub fn reasons(counts: &BTreeMap<String, usize>) -> String {
        let listed: Vec<String> = counts
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        listed.join(", ")
    }
}

/// A reason without its details: of `order: numbers_lost` both words, of others what stands before the colon.
fn kind(reason: &str) -> &str {
    match reason.split_once(": ") {
        Some(("not_verified" | "order", _)) if !reason.contains("paragraphs for") => reason,
        Some((kind, _)) => kind,
        None => reason,
    }
}
