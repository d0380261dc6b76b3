//! What a rollout is rewarded for: its answer, and terms that are off unless they are asked for.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::formats::{Sample, VerifierName};
use crate::verify::{self, failure};

/// Words in a run that counts as repeated.
const RUN: usize = 4;

/// The parameter `reward`. Terms beside the answer are added to it; 0 turns them off.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardParams {
    pub correct: f64,
    pub wrong: f64,
    /// For a final answer that is marked as one, right or wrong: the text says what it is, ends with it, and is not cut off.
    #[serde(default)]
    pub format: f64,
    /// For a right rollout that went back at least once. Not for each time: what is paid by the piece is made by the piece.
    #[serde(default)]
    pub backtrack: f64,
    /// Times the share of runs of [`RUN`] words that were there before; negative to punish.
    #[serde(default)]
    pub repetition: f64,
}

/// The parameter `overlong`: soft punishment of length (DAPO, arXiv:2503.14476, sec. 3.4).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlong {
    /// Tokens before the length cap over which the punishment grows from 0.
    pub buffer: usize,
    /// Subtracted at the cap.
    pub penalty: f64,
}

/// All that rewards depend on.
#[derive(Debug, Clone, Copy)]
pub struct Rewarding {
    pub reward: RewardParams,
    pub overlong: Option<Overlong>,
    pub max_completion_length: usize,
}

/// The reward of one rollout, by term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reward {
    pub answer: f64,
    pub format: f64,
    pub backtrack: f64,
    pub repetition: f64,
    pub overlong: f64,
}

/// A term of a reward, for reports.
pub struct Term {
    /// The metric's.
    pub name: &'static str,
    pub value: fn(&Reward) -> f64,
}

impl Reward {
    pub fn total(&self) -> f64 {
        self.answer + self.format + self.backtrack + self.repetition + self.overlong
    }
}

impl Rewarding {
    /// Checks what no schema can.
    ///
    /// # Errors
    /// The buffer is no part of the length cap.
    pub fn check(&self) -> Result<()> {
        if let Some(Overlong { buffer, .. }) = self.overlong {
            ensure!(
                (1..=self.max_completion_length).contains(&buffer),
                "the buffer of overlong is {buffer} tokens; it must be between 1 and max_completion_length, {}",
                self.max_completion_length
            );
        }
        Ok(())
    }

    /// Returns the reward of a judged rollout of a problem with this verifier.
    pub fn of(&self, sample: &Sample, verifier: VerifierName) -> Reward {
        let RewardParams {
            correct,
            wrong,
            format,
            backtrack,
            repetition,
        } = self.reward;
        let if_true = |value: f64, holds: bool| if holds { value } else { 0.0 };
        Reward {
            answer: if sample.correct { correct } else { wrong },
            format: if_true(format, format != 0.0 && has_format(sample, verifier)),
            backtrack: if_true(backtrack, sample.correct && sample.num_backtracks > 0),
            repetition: match repetition {
                0.0 => 0.0,
                weight => weight * repeated_share(&sample.completion),
            },
            overlong: self.overlong(sample.num_tokens),
        }
    }

    /// DAPO, eq. 13: 0 up to the buffer, then linear down to -penalty at the cap.
    fn overlong(&self, num_tokens: usize) -> f64 {
        let Some(Overlong { buffer, penalty }) = self.overlong else {
            return 0.0;
        };
        let free = self.max_completion_length.saturating_sub(buffer);
        let over = num_tokens.saturating_sub(free).min(buffer);
        // Not -0 where nothing is over.
        if over == 0 {
            0.0
        } else {
            -penalty * over as f64 / buffer as f64
        }
    }

    /// The terms that are on beside the answer.
    pub fn terms(&self) -> Vec<Term> {
        let term = |is_on: bool, name, value| is_on.then_some(Term { name, value });
        let all = [
            term(self.reward.format != 0.0, "reward_format", |reward| reward.format),
            term(self.reward.backtrack != 0.0, "reward_backtrack", |reward| {
                reward.backtrack
            }),
            term(self.reward.repetition != 0.0, "reward_repetition", |reward| {
                reward.repetition
            }),
            term(self.overlong.is_some(), "reward_overlong", |reward| reward.overlong),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Returns whether a rollout ends as a solution should, right or wrong.
///
/// An empty box is no answer, and neither is a value that is checked while the search goes on; either would be an easier
/// way to the reward than an answer.
fn has_format(sample: &Sample, verifier: VerifierName) -> bool {
    let is_stated = sample.answer.as_deref().is_some_and(|answer| !answer.trim().is_empty());
    let is_finished = !matches!(sample.failure.as_deref(), Some(failure::UNFINISHED | failure::FORMAT));
    is_stated && is_finished && !sample.truncated && verify::is_terminal(verifier, &sample.completion)
}

/// Returns the share of runs of words in a text that are there earlier in it, in [0, 1).
fn repeated_share(text: &str) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let num_runs = words.windows(RUN).len();
    let num_distinct = words.windows(RUN).collect::<HashSet<_>>().len();
    (num_runs - num_distinct) as f64 / num_runs.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{Problem, VERSION};
    use crate::scoring::{Finished, judge};

    fn sample(completion: &str, correct: bool) -> Sample {
        Sample {
            version: VERSION,
            problem_id: "p".to_owned(),
            sample_idx: 0,
            prompt: "what?".to_owned(),
            completion: completion.to_owned(),
            num_tokens: 10,
            answer: None,
            correct,
            truncated: false,
            num_backtracks: 0,
            failure: None,
        }
    }

    fn rewarding() -> Rewarding {
        Rewarding {
            reward: RewardParams {
                correct: 1.0,
                wrong: -1.0,
                format: 0.0,
                backtrack: 0.0,
                repetition: 0.0,
            },
            overlong: None,
            max_completion_length: 100,
        }
    }

    #[test]
    fn by_default_the_answer_alone_counts() {
        let rewarding = rewarding();
        for (text, correct) in [("\\boxed{3}", true), ("\\boxed{3}", false), ("a b c d a b c d", false)] {
            let reward = rewarding.of(&sample(text, correct), VerifierName::Math);
            assert_eq!(reward.total(), if correct { 1.0 } else { -1.0 });
        }
        assert!(rewarding.terms().is_empty());
    }

    #[test]
    fn each_term_is_added_where_it_holds() {
        let rewarding = Rewarding {
            reward: RewardParams {
                format: 0.1,
                backtrack: 0.2,
                repetition: -0.5,
                ..rewarding().reward
            },
            ..rewarding()
        };
        let of = |sample: &Sample| rewarding.of(sample, VerifierName::Math);
        for (num_backtracks, correct, expected) in [(0, true, 0.0), (1, true, 0.2), (3, true, 0.2), (3, false, 0.0)] {
            let sample = Sample {
                num_backtracks,
                ..sample("x", correct)
            };
            assert_eq!(of(&sample).backtrack, expected);
        }
        // Runs: abcd bcda cdab dabc abcd; the last is the first again.
        assert_eq!(of(&sample("a b c d a b c d", false)).repetition, -0.5 / 5.0);
        assert_eq!(of(&sample("a b c", false)).repetition, 0.0);
        assert_eq!(rewarding.terms().len(), 3);
    }

    #[test]
    fn the_format_is_that_of_a_final_answer_right_or_wrong() {
        let problem = |verifier, text: &str| Problem {
            version: VERSION,
            id: "p".to_owned(),
            problem: text.to_owned(),
            answer: "24".to_owned(),
            verifier,
            meta: serde_json::Map::new(),
        };
        let math = problem(VerifierName::Math, "how many?");
        let countdown = problem(VerifierName::Countdown, "7 3 4 -> 24");
        let rewarding = Rewarding {
            reward: RewardParams {
                format: 0.1,
                ..rewarding().reward
            },
            ..rewarding()
        };
        let cases = [
            (&math, "so it is \\boxed{24}", true),
            (&math, "so it is \\boxed{3}", true),
            (&math, "so\n#### 3", true),
            (&math, "so it is 24", false),
            (&math, "so it is 24, \\boxed{}", false),
            (
                &math,
                "so it is \\boxed{24}.\n\nWe look at all of it once more: \\boxed{}",
                false,
            ),
            (&math, "so it is \\boxed{24", false),
            (&countdown, "7 - 3 = 4 | 4 4 ; 4 * 4 = 16 , 16 ? 24", true),
            (
                &countdown,
                "7 - 3 = 4 | 4 4 ; 4 * 4 = 16 , 16 ? 24 ; 7 * 3 = 21 | 4 21",
                false,
            ),
            (&countdown, "?", false),
            (&countdown, "? ? ?", false),
        ];
        for (problem, completion, expected) in cases {
            for truncated in [false, true] {
                let finished = Finished {
                    sample_idx: 0,
                    prompt: problem.problem.clone(),
                    completion: completion.to_owned(),
                    num_tokens: 10,
                    truncated,
                };
                let format = rewarding.of(&judge(problem, finished), problem.verifier).format;
                let expected = if expected && !truncated { 0.1 } else { 0.0 };
                assert_eq!(format, expected, "{completion}, truncated {truncated}");
            }
        }
    }

    /// The values of DAPO's definition at a cap of 100 with a buffer of 20.
    #[test]
    fn the_punishment_of_length_begins_in_the_buffer() {
        let rewarding = Rewarding {
            overlong: Some(Overlong {
                buffer: 20,
                penalty: 1.0,
            }),
            ..rewarding()
        };
        for (num_tokens, expected) in [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (100, -1.0), (120, -1.0)] {
            let sample = Sample {
                num_tokens,
                ..sample("x", true)
            };
            let reward = rewarding.of(&sample, VerifierName::Math);
            assert!((reward.overlong - expected).abs() < 1e-12, "{num_tokens}: {reward:?}");
            assert!((reward.total() - 1.0 - expected).abs() < 1e-12);
        }
        assert!(rewarding.check().is_ok());
        let wide = Rewarding {
            max_completion_length: 10,
            ..rewarding
        };
        assert!(wide.check().is_err());
    }
}
