//! Writing without a model: steps as they are, returns by the wording's sentences.

use rand_chacha::ChaCha8Rng;

use super::check::{boxed_once, claims_objection, count_boxes, repeats, unboxed};
use super::plan::{Part, plan};
use super::{MaxLength, Reject, RewriteConfig, chat};
use crate::formats::{Chat, Trace, TraceNode, VerifierName};
use crate::verify::math::declared_answer;
use crate::verify::{paragraphs, same_answer};

/// Writes a trace as a conversation of one question and one solution, and reads it back with the verifier.
///
/// # Errors
/// The trace is broken, or its text does not say what the trace does.
pub fn rewrite(
    trace: &Trace,
    config: &RewriteConfig,
    max_length: MaxLength<'_>,
    rng: &mut ChaCha8Rng,
) -> Result<Chat, Reject> {
    let Some(parts) = plan(trace, config, rng) else {
        return Err(Reject::new(trace, "broken_trace".to_owned(), String::new()));
    };
    write(trace, config, max_length, &parts)
}

/// As [`rewrite`], for a trace whose parts are planned.
///
/// # Errors
/// As [`rewrite`].
pub fn write(trace: &Trace, config: &RewriteConfig, max_length: MaxLength<'_>, parts: &[Part]) -> Result<Chat, Reject> {
    let written: Vec<String> = parts.iter().map(|part| paragraph(trace, config, part)).collect();
    let text = written.join(&config.wording.separator);
    let objection = claims_objection(trace, config, &text)
        .or_else(|| repeats(&paragraphs(&text)).then(|| "repeated_paragraph".to_owned()))
        .or_else(|| max_length.objection(trace, &text));
    match objection {
        Some(reason) => Err(Reject::new(trace, reason, text)),
        None => Ok(chat(trace, text)),
    }
}

/// Writes a step. Of a math text the right answer alone is boxed, and once: a box is what a reader, and a verifier, takes for
/// the final answer. A wrong one is declared in words: it is what the text answers before its first return.
fn step(trace: &Trace, node: &TraceNode) -> String {
    let text = node.text.trim();
    if trace.problem.verifier != VerifierName::Math {
        return text.to_owned();
    }
    if node.correct == Some(true) {
        return if count_boxes(text) == 0 {
            text.to_owned()
        } else {
            boxed_once(text)
        };
    }
    let text = unboxed(text);
    let Some(answer) = node.answer.as_deref().filter(|_| node.terminal) else {
        return text;
    };
    match declared_answer(&text) {
        Some(stated) if same_answer(VerifierName::Math, &stated, answer) => text,
        _ => format!("{text}\nThe answer is {answer}."),
    }
}

/// Writes one part.
pub fn paragraph(trace: &Trace, config: &RewriteConfig, part: &Part) -> String {
    match part {
        Part::Step { visit_idx } => step(trace, &trace.nodes[*visit_idx]),
        Part::Return { to_idx, state } => config.wording.backtrack(state, to_idx.is_none()),
        Part::Approval => config.wording.approval(),
    }
}
