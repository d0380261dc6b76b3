//! What an answer is as a whole: a number with a unit, a tuple, a set, an interval, a matrix, a relation, words.
//!
//! Reads tokens into that shape. Knows nothing of when two answers are equal.

mod bracket;
mod list;
mod matrix;
mod name;
mod quantity;
mod text;

use super::expr::Expr;
use super::lex::{Tok, Token};
use super::reals::Reals;

const MAX_DEPTH: usize = 8;

const MAX_MEMBERS: usize = 200;

#[derive(Debug, Clone)]
pub(super) enum Answer {
    Quantity(Quantity),
    /// With its brackets.
    Tuple(char, char, Vec<Answer>),
    Set(Vec<Answer>),
    /// Members joined by commas or words.
    List(Vec<Answer>),
    Reals(Reals),
    Matrix(Vec<Vec<Answer>>),
    /// `3:4`, or a time of the day.
    Ratio(Vec<Quantity>),
    Relation(Relation),
    /// The letter of a choice, and what stands behind it.
    Choice(char, Option<Box<Answer>>),
    /// Lower-case words.
    Text(Vec<String>),
    Unparsed,
}

#[derive(Debug, Clone)]
pub(super) struct Quantity {
    pub(super) expr: Expr,
    pub(super) unit: Option<String>,
    pub(super) percent: bool,
}

/// `a = b`, `a < b < c`, `x \in S`: one more member than signs.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) members: Vec<Member>,
    pub(super) signs: Vec<char>,
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) answer: Answer,
    /// What it names, if it can be nothing but the name of a value (`x`, `f(x)`, `AB`).
    pub(super) name: Option<String>,
}

impl Relation {
    /// `name \in set`
    fn membership(name: String, set: Answer) -> Self {
        let named = Member {
            answer: Answer::Unparsed,
            name: Some(name),
        };
        let set = Member {
            answer: set,
            name: None,
        };
        Self {
            members: vec![named, set],
            signs: vec!['∈'],
        }
    }

    /// Returns the name and the value of `name = value`, in either order.
    pub(super) fn assignment(&self) -> Option<(&str, &Answer)> {
        if !matches!(self.signs.as_slice(), ['=' | '≈' | '∈']) {
            return None;
        }
        match self.members.as_slice() {
            [Member { name: Some(name), .. }, Member { answer, name: None }] => Some((name, answer)),
            [Member { answer, name: None }, Member { name: Some(name), .. }] if self.signs[0] != '∈' => {
                Some((name, answer))
            }
            // x = a: both could be names.
            [Member { name: Some(name), .. }, Member { answer, .. }] => Some((name, answer)),
            _ => None,
        }
    }
}

/// Reads an answer.
pub(super) fn read(tokens: &[Tok]) -> Answer {
    list::read_list(tokens, 0)
}

/// Takes away what frames an answer: punctuation around it, and a group that holds all of it.
pub(super) fn trimmed(mut tokens: &[Tok]) -> &[Tok] {
    loop {
        let ends = |token: &Token| matches!(token, Token::Op('.' | ',' | ';' | ':') | Token::Row);
        match tokens {
            [inner @ .., last] if ends(&last.token) => tokens = inner,
            [first, inner @ ..] if ends(&first.token) || matches!(first.token, Token::Op('≈' | '=' | '→')) => {
                tokens = inner
            }
            // Bold type of Markdown, which otherwise is a power.
            [first, inner @ .., last] if first.token == Token::Op('^') && last.token == Token::Op('^') => {
                tokens = inner;
            }
            [first, inner @ .., _]
                if first.token == Token::Open('{') && closes_at(tokens, 0) == Some(tokens.len() - 1) =>
            {
                tokens = inner;
            }
            _ => return tokens,
        }
    }
}

/// Returns where the bracket that opens at `start` closes, whatever its kind.
fn closes_at(tokens: &[Tok], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, tok) in tokens.iter().enumerate().skip(start) {
        match tok.token {
            Token::Open(_) => depth += 1,
            Token::Close(_) => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Splits at the tokens outside of brackets that `is_separator` takes; also returns those.
fn split(tokens: &[Tok], is_separator: impl Fn(&Token) -> bool) -> (Vec<&[Tok]>, Vec<&Token>) {
    let (mut parts, mut separators) = (Vec::new(), Vec::new());
    let (mut start, mut depth) = (0, 0usize);
    for (at, tok) in tokens.iter().enumerate() {
        match tok.token {
            Token::Open(_) => depth += 1,
            Token::Close(_) => depth = depth.saturating_sub(1),
            _ if depth == 0 && is_separator(&tok.token) => {
                parts.push(&tokens[start..at]);
                separators.push(&tok.token);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[start..]);
    (parts, separators)
}

fn is_word(token: &Token, words: &[&str]) -> bool {
    matches!(token, Token::Word(word) if words.contains(&word.to_ascii_lowercase().as_str()))
}

/// Writes a token so that different ones differ.
fn spelled(token: &Token) -> String {
    match token {
        Token::Number(text) | Token::Symbol(text) => text.clone(),
        Token::Word(text) => text.to_lowercase(),
        Token::Repeating(text, period) => format!("{text}[{period}]"),
        Token::Function(name) => (*name).to_owned(),
        Token::Command(name) => format!("\\{name}"),
        Token::Op(c) | Token::Open(c) => c.to_string(),
        Token::Close(c) => format!("{c}."),
        Token::Row => "\\\\".to_owned(),
    }
}

fn read_item(tokens: &[Tok], depth: usize) -> Answer {
    let tokens = trimmed(tokens);
    if tokens.is_empty() || depth > MAX_DEPTH {
        return Answer::Unparsed;
    }
    if let [first, rest @ ..] = tokens
        && is_word(&first.token, &["negative", "minus"])
        && let Answer::Quantity(quantity) = read_item(rest, depth + 1)
    {
        return Answer::Quantity(Quantity {
            expr: Expr::Negative(Box::new(quantity.expr)),
            ..quantity
        });
    }
    bracket::read_number_set(tokens, depth)
        .or_else(|| bracket::read_bracket(tokens, depth))
        .or_else(|| matrix::read_matrix(tokens, depth))
        .or_else(|| quantity::read_quantity(tokens).map(Answer::Quantity))
        .or_else(|| quantity::read_ratio(tokens))
        .unwrap_or_else(|| text::read_text(tokens))
}
