//! The Countdown verifier: replays a solution against the numbers and the target.
//!
//! Strict on what the answer rests on, lenient on what was given up. The *final path* is what remains after every
//! return sentence has been followed; it must start from the problem's numbers, use numbers that are there, calculate
//! exactly, state the remaining numbers, use them all, and check the real value against the real target. A false
//! equation or an unreadable paragraph in an abandoned branch does not count, unless a later step builds on it; a
//! return to a state that is not on the current path does, for what follows it starts from nowhere.
//!
//! A solution without any reflection is a direct one and ends with its check. One with a reflection must also end
//! with an affirmative verdict.

pub mod game;

use super::wording::{Sentence, paragraphs};
use super::{Verdict, Wording, failure};
use crate::formats::Problem;
use game::{Equation, Game, Op, make_move, read_numbers};

/// A paragraph that does something, as its text claims.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// `7 + 3 = 10 | 4 10`
    Intermediate {
        equation: Equation,
        state: Vec<i64>,
    },
    /// `10 + 4 = 14 , 14 ? 24`
    Terminal {
        equation: Equation,
        value: i64,
        target: i64,
    },
    Unreadable,
}

/// Where a completion stands after some of its paragraphs.
#[derive(Default)]
struct Replay {
    path: Vec<Step>,
    num_backtracks: usize,
    reflects: bool,
    /// An affirmative verdict after a terminal: the solution is handed in.
    committed: bool,
    /// A failure that no later return can mend.
    lost: Option<&'static str>,
}

/// Judges a completion; see the module for the rules.
pub fn judge(game: &Game, completion: &str, wording: &Wording) -> Verdict {
    let mut replay = Replay::default();
    for paragraph in paragraphs(completion) {
        replay.read(game, wording, paragraph);
    }
    let failure = replay.lost.or_else(|| replay.failure(game));
    let answer = match replay.path.last() {
        Some(Step::Terminal { value, .. }) => Some(value.to_string()),
        _ => None,
    };
    Verdict {
        correct: failure.is_none(),
        answer,
        num_backtracks: replay.num_backtracks,
        failure,
    }
}

impl Replay {
    fn read(&mut self, game: &Game, wording: &Wording, paragraph: &str) {
        let sentence = wording.read(paragraph);
        self.num_backtracks += usize::from(matches!(sentence, Sentence::Return { .. }));
        if self.lost.is_some() {
            return;
        }
        if self.committed {
            self.lost = self.failure(game).or(Some(failure::FORMAT));
            return;
        }
        self.reflects |= !matches!(sentence, Sentence::Step(_));
        match sentence {
            Sentence::Step(text) => self.path.push(read_step(text)),
            // Between steps an approval says nothing that could be checked.
            Sentence::Approval => self.committed = matches!(self.path.last(), Some(Step::Terminal { .. })),
            Sentence::Return { state, .. } => match read_numbers(state).and_then(|state| self.find(game, &state)) {
                Some(depth) => self.path.truncate(depth),
                None => self.lost = Some(failure::STATE),
            },
            Sentence::Unreadable => self.path.push(Step::Unreadable),
        }
    }

    /// Returns how many steps of the current path lead to a state, in whatever order its numbers are named.
    fn find(&self, game: &Game, state: &[i64]) -> Option<usize> {
        if same_numbers(state, &game.numbers) {
            return Some(0);
        }
        let is_it =
            |step: &Step| matches!(step, Step::Intermediate { state: stated, .. } if same_numbers(stated, state));
        self.path.iter().rposition(is_it).map(|idx| idx + 1)
    }

    /// Returns the first thing that is wrong with the final path.
    fn failure(&self, game: &Game) -> Option<&'static str> {
        let mut real = game.numbers.clone();
        for (idx, step) in self.path.iter().enumerate() {
            let (Step::Intermediate { equation, .. } | Step::Terminal { equation, .. }) = step else {
                return Some(failure::FORMAT);
            };
            let Some(next) = make_move(&real, *equation) else {
                return Some(failure::OPERAND);
            };
            if equation.op.apply(equation.left, equation.right, game.max_value) != Some(equation.result) {
                return Some(failure::ARITHMETIC);
            }
            real = next;
            match step {
                Step::Intermediate { state, .. } if !same_numbers(state, &real) => return Some(failure::STATE),
                Step::Terminal { .. } if real.len() > 1 => return Some(failure::UNFINISHED),
                Step::Terminal { .. } if idx + 1 < self.path.len() => return Some(failure::FORMAT),
                _ => {}
            }
        }
        match (self.path.last(), real.as_slice()) {
            (Some(Step::Terminal { value, target, .. }), &[real]) => self.check_failure(game, real, *value, *target),
            _ => Some(failure::UNFINISHED),
        }
    }

    /// Returns what is wrong with the check `value ? target` at the end of a sound path to the `real` value.
    fn check_failure(&self, game: &Game, real: i64, value: i64, target: i64) -> Option<&'static str> {
        let claims_right = self.committed || value == target;
        if real != game.target {
            return Some(match (claims_right, self.reflects) {
                (true, _) => failure::FALSE_YES,
                // It saw the miss and gave up, although it knows how to go on.
                (false, true) => failure::UNFINISHED,
                (false, false) => failure::WRONG_ANSWER,
            });
        }
        if (value, target) != (real, game.target) {
            return Some(failure::STATE);
        }
        (self.reflects && !self.committed).then_some(failure::UNFINISHED)
    }
}

fn same_numbers(a: &[i64], b: &[i64]) -> bool {
    let sorted = |numbers: &[i64]| {
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        numbers
    };
    a.len() == b.len() && sorted(a) == sorted(b)
}

fn read_step(text: &str) -> Step {
    let tokens: Vec<&str> = text.split_whitespace().collect();
    parse_step(&tokens).unwrap_or(Step::Unreadable)
}

fn parse_step(tokens: &[&str]) -> Option<Step> {
    let [left, op, right, "=", result, mark, rest @ ..] = tokens else {
        return None;
    };
    let number = |token: &str| token.parse::<i64>().ok();
    let equation = Equation {
        left: number(left)?,
        op: Op::of_symbol(op)?,
        right: number(right)?,
        result: number(result)?,
    };
    match (*mark, rest) {
        ("|", [_, ..]) => {
            let state: Option<Vec<i64>> = rest.iter().map(|token| number(token)).collect();
            Some(Step::Intermediate {
                equation,
                state: state?,
            })
        }
        (",", [value, "?", target]) => Some(Step::Terminal {
            equation,
            value: number(value)?,
            target: number(target)?,
        }),
        _ => None,
    }
}

/// Returns the value before the last `?` of a text.
pub fn stated_answer(text: &str) -> Option<String> {
    let tokens: Vec<&str> = text.split_whitespace().collect();
    value_before(&tokens, tokens.iter().rposition(|token| *token == "?")?)
}

/// Returns the value before the first `?` of a text.
pub fn first_answer(text: &str) -> Option<String> {
    let tokens: Vec<&str> = text.split_whitespace().collect();
    value_before(&tokens, tokens.iter().position(|token| *token == "?")?)
}

fn value_before(tokens: &[&str], at: usize) -> Option<String> {
    let value = tokens.get(at.checked_sub(1)?)?;
    value.parse::<i64>().ok().map(|value| value.to_string())
}

/// Returns the numbers that a step says are left, or the problem's own where there is no step.
pub fn state_after(problem: &Problem, step: Option<&str>) -> String {
    let numbers = match step {
        None => problem
            .problem
            .split_once("->")
            .map_or(problem.problem.as_str(), |(numbers, _)| numbers),
        Some(step) => step.split_once('|').map_or("", |(_, numbers)| numbers),
    };
    numbers.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
