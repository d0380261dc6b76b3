//! The text that a base model learns the game's moves from: random playouts and drills, in mixed order.
//!
//! Playouts use the pairs of the training set only and always commit to an answer, right or wrong, without a verdict:
//! a base that has seen mostly "wrong" verdicts hardly ever says "right" later. Drills ask for their answers alone, so
//! that the loss isn't spent on which question comes next. Written in the very words of the solutions to come.

use anyhow::Result;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::Params;
use crate::formats::{Problem, Segment, Text, VerifierName};
use crate::random::stream;
use crate::verify::Wording;
use crate::verify::countdown::game::{Equation, Game, Op, legal_moves, make_move};

/// Unequal values in a check are at most so far apart in half of the cases: the hard ones.
const NEAR_MISS: i64 = 3;

/// What lines are made from.
pub(super) struct Corpus<'a> {
    params: &'a Params,
    games: Vec<Game>,
    facts: Vec<Equation>,
    wording: Wording,
}

impl<'a> Corpus<'a> {
    /// # Errors
    /// A problem is not a Countdown problem.
    pub(super) fn new(params: &'a Params, train: &[Problem]) -> Result<Self> {
        let usual = Wording::of(VerifierName::Countdown);
        let wording = Wording {
            reflection: params.reflection.clone().unwrap_or(usual.reflection),
            negative: params.negative.clone().unwrap_or(usual.negative),
            positive: params.positive.clone().unwrap_or(usual.positive),
            ..usual
        };
        let games = train.iter().map(Game::of).collect::<Result<_, _>>()?;
        Ok(Self {
            params,
            games,
            facts: facts(params.max_value),
            wording,
        })
    }

    /// Returns the lines, playouts and drills shuffled together.
    pub(super) fn lines(&self) -> impl Iterator<Item = Text> {
        let playouts = self.params.num_playouts;
        let mut order: Vec<usize> = (0..playouts + self.params.num_drills).collect();
        order.shuffle(&mut stream(self.params.seed, "corpus", 0));
        order.into_iter().map(move |idx| match idx.checked_sub(playouts) {
            None => self.playout(&mut stream(self.params.seed, "playout", idx as u64)),
            Some(drill) => self.drills(&mut stream(self.params.seed, "drill", drill as u64)),
        })
    }

    /// Plays a training problem by uniformly random legal moves, its numbers in a new order.
    fn playout(&self, rng: &mut ChaCha8Rng) -> Text {
        let mut game = self
            .games
            .choose(rng)
            .expect("playouts are only asked for with training problems")
            .clone();
        game.numbers.shuffle(rng);
        let mut state = game.numbers.clone();
        let mut steps = Vec::new();
        while state.len() > 1 {
            let moves = legal_moves(&state, game.max_value);
            let chosen = *moves
                .choose(rng)
                .expect("the difference of two numbers is always a legal move");
            state = make_move(&state, chosen).expect("a legal move uses numbers of its state");
            steps.push(game.step_text(chosen, &state));
        }
        let Params {
            user_token,
            assistant_token,
            end_token,
            ..
        } = self.params;
        let prompt = format!("{user_token} {} {assistant_token}", game.text());
        let solution = format!(" {} {end_token}", steps.join(&self.wording.separator));
        Text {
            segments: vec![segment(prompt, false), segment(solution, true)],
        }
    }

    /// Asks for several facts in a row.
    fn drills(&self, rng: &mut ChaCha8Rng) -> Text {
        let mut segments = Vec::with_capacity(2 * self.params.drills_per_line);
        for idx in 0..self.params.drills_per_line {
            let (question, answer) = if rng.random_bool(self.params.equality_share) {
                self.equality(rng)
            } else {
                self.equation(rng)
            };
            let before = if idx == 0 { "" } else { self.wording.separator.as_str() };
            segments.push(segment(format!("{before}{question}"), false));
            segments.push(segment(format!(" {answer}"), true));
        }
        Text { segments }
    }

    fn equation(&self, rng: &mut ChaCha8Rng) -> (String, String) {
        let Equation {
            left,
            op,
            right,
            result,
        } = self.facts.choose(rng).expect("0 - 0 is a fact under any limit");
        (format!("{left} {} {right} =", op.symbol()), result.to_string())
    }

    /// A check as it stands at the end of an attempt: equal in half of the cases.
    fn equality(&self, rng: &mut ChaCha8Rng) -> (String, String) {
        let Params {
            min_target,
            max_target,
            max_value,
            ..
        } = *self.params;
        let target = rng.random_range(min_target..=max_target);
        let equal = max_value == 0 || rng.random_bool(0.5);
        let value = if equal {
            target
        } else {
            let (low, high) = if rng.random_bool(0.5) {
                ((target - NEAR_MISS).max(0), (target + NEAR_MISS).min(max_value))
            } else {
                (0, max_value)
            };
            // One place fewer, and what is at or above the target moves up: never equal, the others alike.
            let drawn = rng.random_range(low..high);
            drawn + i64::from(drawn >= target)
        };
        let Wording {
            separator,
            reflection,
            positive,
            negative,
            ..
        } = &self.wording;
        let verdict = if equal { positive } else { negative };
        (format!("{value} ? {target}{separator}{reflection}"), verdict.clone())
    }
}

fn segment(text: String, loss: bool) -> Segment {
    Segment { text, loss }
}

/// Returns every equation that a move can make, the larger operand first.
fn facts(max_value: i64) -> Vec<Equation> {
    // A large game has too many facts to list or to learn; the products and sums of its smaller values remain.
    let limit = max_value.min(1000);
    let mut facts = Vec::new();
    for left in 0..=limit {
        for right in 0..=left {
            for op in Op::ALL {
                if let Some(result) = op.apply(left, right, max_value) {
                    facts.push(Equation {
                        left,
                        op,
                        right,
                        result,
                    });
                }
            }
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::super::tests::params;
    use super::super::{solvable_pairs, split};
    use super::*;
    use crate::verify::{failure, verify};

    fn text_of(text: &Text) -> String {
        text.segments.iter().map(|segment| segment.text.as_str()).collect()
    }

    #[test]
    fn playouts_are_legal_play_of_training_problems() {
        let params = Params {
            num_drills: 0,
            num_playouts: 300,
            ..params()
        };
        let (train, _) = split(&params, &solvable_pairs(&params)).unwrap();
        let corpus = Corpus::new(&params, &train).unwrap();
        let mut hits = 0;
        for line in corpus.lines() {
            let text = text_of(&line);
            let (problem, solution) = text
                .strip_prefix("<|user|> ")
                .and_then(|rest| rest.strip_suffix(" <|end|>"))
                .and_then(|rest| rest.split_once(" <|assistant|> "))
                .unwrap();
            let problem = Problem {
                problem: problem.into(),
                meta: serde_json::Map::new(),
                ..train[0].clone()
            };
            let verdict = verify(&problem, solution);
            assert!(
                matches!(verdict.failure, None | Some(failure::WRONG_ANSWER)),
                "{text}: {verdict:?}"
            );
            hits += usize::from(verdict.correct);
        }
        assert!((5..=100).contains(&hits), "{hits} of 300 random playouts hit");
    }

    #[test]
    fn drills_are_true_and_only_their_answers_count() {
        let params = Params {
            num_playouts: 0,
            num_drills: 200,
            ..params()
        };
        let wording = Wording::of(VerifierName::Countdown);
        let (mut equations, mut equal, mut different) = (0, 0, 0);
        for line in Corpus::new(&params, &[]).unwrap().lines() {
            assert_eq!(line.segments.len(), 12);
            for drill in line.segments.chunks(2) {
                let [question, answer] = drill else { panic!("{drill:?}") };
                assert!(!question.loss && answer.loss);
                let tokens: Vec<&str> = question.text.trim_start_matches(" ; ").split(' ').collect();
                match tokens.as_slice() {
                    [left, op, right, "="] => {
                        let op = Op::of_symbol(op).unwrap();
                        let result = op.apply(left.parse().unwrap(), right.parse().unwrap(), 40);
                        assert_eq!(format!(" {}", result.unwrap()), answer.text);
                        equations += 1;
                    }
                    [value, "?", target, ";", ..] => {
                        let verdict = if value == target {
                            &wording.positive
                        } else {
                            &wording.negative
                        };
                        assert_eq!(answer.text.trim_start(), verdict);
                        *(if value == target { &mut equal } else { &mut different }) += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(
            equations > 600 && equal > 120 && different > 120,
            "{equations} {equal} {different}"
        );
    }

    #[test]
    fn the_corpus_is_mixed_and_repeats() {
        let params = params();
        let (train, _) = split(&params, &solvable_pairs(&params)).unwrap();
        let corpus = Corpus::new(&params, &train).unwrap();
        let lines: Vec<Text> = corpus.lines().collect();
        assert_eq!(lines, corpus.lines().collect::<Vec<_>>());
        assert_eq!(lines.len(), 300);
        let first_drills = lines[..150].iter().filter(|line| line.segments.len() > 2).count();
        assert!(
            (30..=70).contains(&first_drills),
            "{first_drills} drills in the first half"
        );
    }

    #[test]
    fn facts_are_those_of_legal_moves() {
        let facts = facts(40);
        assert_eq!(facts.len(), 441 + 861 + 123 + 158);
    }
}
