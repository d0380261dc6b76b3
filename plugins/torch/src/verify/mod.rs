//! Verifiers: what a text answers, whether that is right, and how it went about it. No tensors, no files.
//!
//! One door for search, training and evaluation, so that all of them judge alike: [`verify`] for a whole completion,
//! and the questions that search and linearization ask of single steps. Which verifier answers is a field of the
//! problem. A false "right" rewards a wrong answer, so that doubt counts as wrong everywhere.

mod backtracks;
pub mod countdown;
pub mod math;
mod wording;

pub use backtracks::{BacktrackPatterns, count_backtracks};
pub use wording::{Wording, paragraphs, squeezed};

use crate::formats::{Problem, VerifierName};
use countdown::game::{Game, GameError};

/// What a verifier found out about a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub correct: bool,
    /// The final answer that the text states (Countdown: the value that it checks).
    pub answer: Option<String>,
    /// Return sentences in the text.
    pub num_backtracks: usize,
    /// The first cause of a wrong verdict; see [`failure`].
    pub failure: Option<&'static str>,
}

/// The causes that a [`Verdict`] names. `truncated` is not among them: only who sampled knows.
pub mod failure {
    /// An equation on the final path is false, not exact, or leaves the allowed range.
    pub const ARITHMETIC: &str = "arithmetic";
    /// A step of the final path uses a number that is not there.
    pub const OPERAND: &str = "operand";
    /// The numbers stated as remaining, checked, or returned to are not the real ones.
    pub const STATE: &str = "state";
    /// The text claims to be right, and is not.
    pub const FALSE_YES: &str = "false_yes";
    /// An honestly stated answer that is not the wanted one.
    pub const WRONG_ANSWER: &str = "wrong_answer";
    /// The text ends without an answer, or without the verdict that a searching solution owes.
    pub const UNFINISHED: &str = "unfinished";
    /// A paragraph that the answer rests on can't be read.
    pub const FORMAT: &str = "format";
}

/// Judges a completion with the usual wording of the problem's verifier.
pub fn verify(problem: &Problem, completion: &str) -> Verdict {
    verify_with(problem, completion, &Wording::of(problem.verifier))
}

/// Judges a completion whose reflections and returns are worded as `wording` says.
pub fn verify_with(problem: &Problem, completion: &str, wording: &Wording) -> Verdict {
    match problem.verifier {
        VerifierName::Countdown => match Game::of(problem) {
            Ok(game) => countdown::judge(&game, completion, wording),
            // `check_problem` reports this where problems are read; here there is nothing to be right about.
            Err(_) => Verdict {
                correct: false,
                answer: None,
                num_backtracks: 0,
                failure: Some(failure::FORMAT),
            },
        },
        VerifierName::Math => math::judge(&problem.answer, completion),
    }
}

/// Checks that a problem is one that its verifier can judge; for kinds that read problems.
///
/// # Errors
/// The problem's text or reference answer can't be read by its verifier.
pub fn check_problem(problem: &Problem) -> Result<(), GameError> {
    match problem.verifier {
        VerifierName::Countdown => Game::of(problem).map(|_| ()),
        VerifierName::Math => Ok(()),
    }
}

/// Returns whether a step ends a solution: it states a final answer.
pub fn is_terminal(verifier: VerifierName, step: &str) -> bool {
    match verifier {
        VerifierName::Countdown => step.split_whitespace().any(|token| token == "?"),
        VerifierName::Math => math::states_final_answer(step),
    }
}

/// Returns the answer that a text states, right or wrong; of several the last.
pub fn stated_answer(verifier: VerifierName, text: &str) -> Option<String> {
    match verifier {
        VerifierName::Countdown => countdown::stated_answer(text),
        VerifierName::Math => math::extract(text),
    }
}

/// Returns the first answer that a text states, right or wrong, later mended or not.
pub fn first_answer(verifier: VerifierName, text: &str) -> Option<String> {
    match verifier {
        VerifierName::Countdown => countdown::first_answer(text),
        VerifierName::Math => math::first_answer(text),
    }
}

/// Returns whether two stated answers are the same one.
pub fn same_answer(verifier: VerifierName, a: &str, b: &str) -> bool {
    match verifier {
        VerifierName::Countdown => a == b,
        VerifierName::Math => math::equal(a, b),
    }
}

/// Joins steps into one text, as the verifier's problems write solutions.
pub fn join_steps<S: AsRef<str>>(verifier: VerifierName, steps: &[S]) -> String {
    let steps: Vec<&str> = steps.iter().map(AsRef::as_ref).collect();
    steps.join(&Wording::of(verifier).separator)
}

/// Returns the words by which a return sentence names the state after `steps`.
///
/// Countdown: the remaining numbers. Math: the last step's heading, or the sentence that it begins with.
pub fn state_after<S: AsRef<str>>(problem: &Problem, steps: &[S]) -> String {
    match (problem.verifier, steps.last()) {
        (VerifierName::Countdown, last) => countdown::state_after(problem, last.map(AsRef::as_ref)),
        (VerifierName::Math, None) => "the problem".to_owned(),
        (VerifierName::Math, Some(step)) => math::name_of_step(step.as_ref()),
    }
}
