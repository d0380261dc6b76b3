//! Majority votes among the answers of one problem's samples (self-consistency, arXiv:2203.11171).

use crate::formats::{Sample, VerifierName};
use crate::verify;

/// The answers of a problem's samples, sorted into those that are the same one.
///
/// Same is what the verifier calls so: `1/2` and `0.5` vote together. Ties go to the answer that came first; a sample
/// without an answer doesn't vote, and where none votes the majority is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Votes {
    /// For each sample the number of its answer, in the order of their first mention.
    answers: Vec<Option<usize>>,
    /// Whether the first sample with each answer is correct.
    correct: Vec<bool>,
}

impl Votes {
    /// Sorts the answers. Each is compared once with each different one, so that a vote for every k costs no more.
    pub fn of(verifier: VerifierName, samples: &[Sample]) -> Self {
        let mut kinds: Vec<&str> = Vec::new();
        let mut correct = Vec::new();
        let mut answers = Vec::with_capacity(samples.len());
        for sample in samples {
            let Some(answer) = sample.answer.as_deref() else {
                answers.push(None);
                continue;
            };
            let same = |other: &&str| *other == answer || verify::same_answer(verifier, other, answer);
            let kind = kinds.iter().position(same).unwrap_or_else(|| {
                kinds.push(answer);
                correct.push(sample.correct);
                kinds.len() - 1
            });
            answers.push(Some(kind));
        }
        Self { answers, correct }
    }

    /// Returns whether the most frequent answer of the first `k` samples is correct.
    pub fn majority_is_correct(&self, k: usize) -> bool {
        let mut counts = vec![0usize; self.correct.len()];
        for kind in self.answers.iter().take(k).flatten() {
            counts[*kind] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or(0);
        let winner = counts.iter().position(|count| *count == most && most > 0);
        winner.is_some_and(|kind| self.correct[kind])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::tests::sample;

    fn votes(answers: &[(Option<&str>, bool)]) -> Votes {
        let samples: Vec<Sample> = answers
            .iter()
            .map(|(answer, correct)| sample("p", *answer, *correct))
            .collect();
        Votes::of(VerifierName::Math, &samples)
    }

    #[test]
    fn equal_answers_vote_together_whatever_they_look_like() {
        let votes = votes(&[(Some("3"), false), (Some("0.5"), true), (Some("\\frac{1}{2}"), true)]);
        assert!(!votes.majority_is_correct(2), "a tie goes to the first");
        assert!(votes.majority_is_correct(3));
    }

    #[test]
    fn what_has_no_answer_does_not_vote() {
        let votes = votes(&[(None, false), (None, false), (Some("7"), true), (Some("8"), false)]);
        assert!(!votes.majority_is_correct(2), "nobody voted");
        assert!(votes.majority_is_correct(3) && votes.majority_is_correct(4) && votes.majority_is_correct(9));
    }
}
