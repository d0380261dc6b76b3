//! Majority votes among the answers of one problem's samples (self-consistency, arXiv:2203.11171).

use crate::formats::{Sample, VerifierName};
use crate::verify;

/// The answers of a problem's samples, sorted into those that are the same one.
///
/// Same is what the verifier calls so: `1/2` and `0.5` vote together. Ties go to the answer that came first. A sample
/// that has no answer or was cut off, whatever its last words are, doesn't vote; where none votes the majority is wrong.
/// An answer is as right as most of its votes: in Countdown two may reach the same value, one by a false equation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Votes {
    /// For each sample that votes the number of its answer, in the order of their first mention, and its verdict.
    votes: Vec<Option<(usize, bool)>>,
    num_answers: usize,
}

impl Votes {
    /// Sorts the answers. Each is compared once with each different one, so that a vote for every k costs no more.
    pub fn of(verifier: VerifierName, samples: &[Sample]) -> Self {
        let mut kinds: Vec<&str> = Vec::new();
        let mut votes = Vec::with_capacity(samples.len());
        for sample in samples {
            let Some(answer) = sample.answer.as_deref().filter(|_| !sample.truncated) else {
                votes.push(None);
                continue;
            };
            let same = |other: &&str| *other == answer || verify::same_answer(verifier, other, answer);
            let kind = kinds.iter().position(same).unwrap_or_else(|| {
                kinds.push(answer);
                kinds.len() - 1
            });
            votes.push(Some((kind, sample.correct)));
        }
        Self {
            votes,
            num_answers: kinds.len(),
        }
    }

    /// Returns whether the most frequent answer of the first `k` samples is correct.
    pub fn majority_is_correct(&self, k: usize) -> bool {
        let mut counts = vec![0usize; self.num_answers];
        let mut num_correct = vec![0usize; self.num_answers];
        for (kind, correct) in self.votes.iter().take(k).flatten() {
            counts[*kind] += 1;
            num_correct[*kind] += usize::from(*correct);
        }
        let most = counts.iter().copied().max().unwrap_or(0);
        let winner = counts.iter().position(|count| *count == most && most > 0);
        winner.is_some_and(|kind| 2 * num_correct[kind] > most)
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
    fn the_order_of_samples_decides_nothing_but_ties() {
        let cut_off = Sample {
            truncated: true,
            ..sample("p", Some("4"), false)
        };
        let by_luck = sample("p", Some("4"), false);
        let right = sample("p", Some("4"), true);
        let wrong = sample("p", Some("7"), false);
        let mut samples = vec![cut_off, right.clone(), by_luck, right.clone(), right, wrong];
        for _ in 0..samples.len() {
            samples.rotate_left(1);
            assert!(Votes::of(VerifierName::Math, &samples).majority_is_correct(samples.len()));
        }
        let others: Vec<Sample> = samples
            .into_iter()
            .filter(|s| s.truncated || s.answer.as_deref() != Some("4"))
            .collect();
        assert!(
            !Votes::of(VerifierName::Math, &others).majority_is_correct(2),
            "7 alone votes"
        );
    }

    #[test]
    fn what_has_no_answer_does_not_vote() {
        let votes = votes(&[(None, false), (None, false), (Some("7"), true), (Some("8"), false)]);
        assert!(!votes.majority_is_correct(2), "nobody voted");
        assert!(votes.majority_is_correct(3) && votes.majority_is_correct(4) && votes.majority_is_correct(9));
    }
}
