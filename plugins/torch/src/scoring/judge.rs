//! One completion, judged.

use crate::formats::{Problem, Sample, VERSION};
use crate::verify;

/// A completion as the policy left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub sample_idx: usize,
    /// The text that the policy was shown.
    pub prompt: String,
    pub completion: String,
    pub num_tokens: usize,
    /// The token limit ended it.
    pub truncated: bool,
}

/// Judges a completion of a problem.
///
/// A truncated one is wrong (ASTRO's reward), whatever its last words are.
pub fn judge(problem: &Problem, finished: Finished) -> Sample {
    let verdict = verify::verify(problem, &finished.completion);
    let correct = verdict.correct && !finished.truncated;
    let failure = if finished.truncated {
        Some("truncated")
    } else {
        verdict.failure
    };
    Sample {
        version: VERSION,
        problem_id: problem.id.clone(),
        sample_idx: finished.sample_idx,
        prompt: finished.prompt,
        completion: finished.completion,
        num_tokens: finished.num_tokens,
        answer: verdict.answer,
        correct,
        truncated: finished.truncated,
        num_backtracks: verdict.num_backtracks,
        failure: (!correct).then(|| failure.unwrap_or("wrong_answer").to_owned()),
    }
}
