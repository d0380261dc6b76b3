//! The Countdown game itself: numbers, exact operations, legal moves, and the text of a move.
//!
//! Knows nothing of solutions, verdicts or problem sets. Moves are canonical - the larger operand first - so that a
//! tree has each move once; a replay (`super::judge`) accepts either order where the operation does.

use std::fmt::Write;

use serde_json::Value;

use crate::formats::Problem;

/// More numbers than this are refused: the tree of one problem grows faster than exponentially.
pub const MAX_NUMBERS: usize = 6;

/// Why a problem is not a Countdown problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GameError {
    #[error("problem {id:?}: {text:?} is not of the form `7 3 4 -> 24`")]
    Text { id: String, text: String },
    #[error("problem {id:?}: {got} numbers, but 1 to {MAX_NUMBERS} are possible")]
    Numbers { id: String, got: usize },
    #[error("problem {id:?}: {field} in `meta` is not what it should be")]
    Meta { id: String, field: &'static str },
}

/// The numbers and the target of one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Game {
    pub numbers: Vec<i64>,
    pub target: i64,
    /// No intermediate value may be larger.
    pub max_value: i64,
}

impl Game {
    /// Reads a problem: numbers and target from its `meta` where it has them, otherwise from its text.
    ///
    /// # Errors
    /// Neither says what the game is.
    pub fn of(problem: &Problem) -> Result<Self, GameError> {
        let id = || problem.id.clone();
        let meta = |field| problem.meta.get(field);
        let max_value = match meta("max_value") {
            None => i64::MAX,
            Some(value) => value.as_i64().ok_or_else(|| GameError::Meta {
                id: id(),
                field: "max_value",
            })?,
        };
        let (numbers, target) = match (meta("numbers"), meta("target")) {
            (Some(numbers), Some(target)) => {
                let numbers: Option<Vec<i64>> = numbers
                    .as_array()
                    .and_then(|list| list.iter().map(Value::as_i64).collect());
                (
                    numbers.ok_or_else(|| GameError::Meta {
                        id: id(),
                        field: "numbers",
                    })?,
                    target.as_i64().ok_or_else(|| GameError::Meta {
                        id: id(),
                        field: "target",
                    })?,
                )
            }
            _ => read_text(&problem.problem).ok_or_else(|| GameError::Text {
                id: id(),
                text: problem.problem.clone(),
            })?,
        };
        if numbers.is_empty() || numbers.len() > MAX_NUMBERS {
            return Err(GameError::Numbers {
                id: id(),
                got: numbers.len(),
            });
        }
        Ok(Self {
            numbers,
            target,
            max_value,
        })
    }

    /// Writes the problem: `7 3 4 -> 24`.
    pub fn text(&self) -> String {
        format!("{} -> {}", state_text(&self.numbers), self.target)
    }

    /// Writes the step that makes `equation` and leaves `state`; the last one checks its value against the target.
    pub fn step_text(&self, equation: Equation, state: &[i64]) -> String {
        let Equation {
            left,
            op,
            right,
            result,
        } = equation;
        let mut text = format!("{left} {} {right} = {result} ", op.symbol());
        // Writing to a string can't fail.
        let _ = match state {
            [value] => write!(text, ", {value} ? {}", self.target),
            _ => write!(text, "| {}", state_text(state)),
        };
        text
    }
}

fn read_text(text: &str) -> Option<(Vec<i64>, i64)> {
    let (numbers, target) = text.split_once("->")?;
    Some((read_numbers(numbers)?, target.trim().parse().ok()?))
}

/// Reads numbers that are separated by white space.
pub fn read_numbers(text: &str) -> Option<Vec<i64>> {
    text.split_whitespace().map(|token| token.parse().ok()).collect()
}

/// Writes a state: its numbers, in order, separated by single spaces.
pub fn state_text(state: &[i64]) -> String {
    state.iter().map(i64::to_string).collect::<Vec<_>>().join(" ")
}

/// The four operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
}

impl Op {
    pub const ALL: [Self; 4] = [Self::Add, Self::Sub, Self::Mul, Self::Div];

    pub fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
        }
    }

    pub fn of_symbol(symbol: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.symbol() == symbol)
    }

    /// Returns the exact result, if there is one in `0..=max_value`.
    pub fn apply(self, left: i64, right: i64, max_value: i64) -> Option<i64> {
        let result = match self {
            Self::Add => left.checked_add(right),
            Self::Sub => left.checked_sub(right),
            Self::Mul => left.checked_mul(right),
            Self::Div => (left.checked_rem(right) == Some(0))
                .then(|| left.checked_div(right))
                .flatten(),
        };
        result.filter(|value| (0..=max_value).contains(value))
    }
}

/// `left op right = result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equation {
    pub left: i64,
    pub op: Op,
    pub right: i64,
    pub result: i64,
}

/// Returns the distinct legal moves in a state, the larger operand first, in a fixed order.
pub fn legal_moves(state: &[i64], max_value: i64) -> Vec<Equation> {
    let mut moves = Vec::new();
    for (idx, &a) in state.iter().enumerate() {
        for &b in &state[idx + 1..] {
            let (left, right) = (a.max(b), a.min(b));
            for op in Op::ALL {
                if let Some(result) = op.apply(left, right, max_value) {
                    let equation = Equation {
                        left,
                        op,
                        right,
                        result,
                    };
                    if !moves.contains(&equation) {
                        moves.push(equation);
                    }
                }
            }
        }
    }
    moves
}

/// Returns the state after a move: the other numbers in their order, then the result; `None` if a number is missing.
pub fn make_move(state: &[i64], equation: Equation) -> Option<Vec<i64>> {
    let mut rest = state.to_vec();
    for operand in [equation.left, equation.right] {
        let at = rest.iter().position(|&number| number == operand)?;
        rest.remove(at);
    }
    rest.push(equation.result);
    Some(rest)
}

/// Returns, for each value `0..=max_value`, the probability that uniformly random legal moves end in it.
pub fn outcomes(numbers: &[i64], max_value: i64) -> Vec<f64> {
    let size = usize::try_from(max_value).map_or(0, |value| value + 1);
    let mut probabilities = vec![0.0; size];
    add_outcomes(numbers, max_value, 1.0, &mut probabilities);
    probabilities
}

fn add_outcomes(state: &[i64], max_value: i64, probability: f64, into: &mut [f64]) {
    if let [value] = state {
        if let Some(slot) = usize::try_from(*value).ok().and_then(|value| into.get_mut(value)) {
            *slot += probability;
        }
        return;
    }
    let moves = legal_moves(state, max_value);
    let share = probability / moves.len() as f64;
    for equation in moves {
        let next = make_move(state, equation).expect("a legal move uses numbers of its state");
        add_outcomes(&next, max_value, share, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_exact_and_bounded() {
        assert_eq!(Op::Div.apply(12, 4, 40), Some(3));
        assert_eq!(Op::Div.apply(12, 5, 40), None);
        assert_eq!(Op::Div.apply(12, 0, 40), None);
        assert_eq!(Op::Sub.apply(3, 7, 40), None);
        assert_eq!(Op::Mul.apply(7, 6, 40), None);
        assert_eq!(Op::Mul.apply(i64::MAX, 2, i64::MAX), None);
        assert_eq!(Op::Div.apply(i64::MIN, -1, i64::MAX), None);
    }

    #[test]
    fn moves_are_distinct_and_put_the_larger_number_first() {
        let texts: Vec<String> = legal_moves(&[4, 8, 4], 40)
            .into_iter()
            .map(|e| format!("{} {} {} = {}", e.left, e.op.symbol(), e.right, e.result))
            .collect();
        assert_eq!(
            texts,
            [
                "8 + 4 = 12",
                "8 - 4 = 4",
                "8 * 4 = 32",
                "8 / 4 = 2",
                "4 + 4 = 8",
                "4 - 4 = 0",
                "4 * 4 = 16",
                "4 / 4 = 1"
            ]
        );
    }

    #[test]
    fn a_move_keeps_the_order_and_puts_the_result_last() {
        let game = Game {
            numbers: vec![7, 3, 4],
            target: 24,
            max_value: 40,
        };
        let first = Equation {
            left: 7,
            op: Op::Add,
            right: 3,
            result: 10,
        };
        let state = make_move(&game.numbers, first).unwrap();
        assert_eq!(game.step_text(first, &state), "7 + 3 = 10 | 4 10");
        let last = Equation {
            left: 10,
            op: Op::Add,
            right: 4,
            result: 14,
        };
        let state = make_move(&state, last).unwrap();
        assert_eq!(game.step_text(last, &state), "10 + 4 = 14 , 14 ? 24");
        assert_eq!(
            make_move(
                &[7, 4],
                Equation {
                    left: 7,
                    op: Op::Sub,
                    right: 7,
                    result: 0
                }
            ),
            None
        );
    }

    #[test]
    fn outcomes_are_a_distribution() {
        for numbers in [vec![7, 3, 4], vec![1, 1, 1], vec![12, 12, 12], vec![2, 3, 5, 7]] {
            let total: f64 = outcomes(&numbers, 40).iter().sum();
            assert!((total - 1.0).abs() < 1e-9, "{numbers:?}: {total}");
        }
        // Of 1 and 1: 2, 0, 1 and 1 with equal chances.
        assert_eq!(outcomes(&[1, 1], 3), [0.25, 0.5, 0.25, 0.0]);
    }

    #[test]
    fn a_problem_is_read_from_its_text_or_its_meta() {
        let mut problem = Problem {
            version: 1,
            id: "p".into(),
            problem: "7 3 4 -> 24".into(),
            answer: "24".into(),
            verifier: crate::formats::VerifierName::Countdown,
            meta: serde_json::Map::new(),
        };
        let game = Game::of(&problem).unwrap();
        assert_eq!((game.text().as_str(), game.max_value), ("7 3 4 -> 24", i64::MAX));
        problem.problem = "Make 24.".into();
        assert!(matches!(Game::of(&problem), Err(GameError::Text { .. })));
        problem.meta.insert("numbers".into(), serde_json::json!([7, 3, 4]));
        problem.meta.insert("target".into(), 24.into());
        assert_eq!(Game::of(&problem).unwrap().numbers, [7, 3, 4]);
    }
}
