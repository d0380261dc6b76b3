//! Whether two answers are the same.
//!
//! First what arithmetic decides (`residue`, `surd`), then values at points (`numeric`). Doubt is difference.

mod decimal;
mod function;
mod number;
mod ratio;
mod relation;
mod shape;

use super::answer::{Answer, read, trimmed};
use super::lex::{Tok, Token, lex};
pub(super) use number::same_number;
use shape::is_same;

/// What came of comparing two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    pub equal: bool,
    /// The rule that decided: `identical`, `number`, `expression`, `equation`, `inequality`, `interval`, `set`,
    /// `tuple`, `matrix`, `ratio`, `choice`, `text` or `unparsed`.
    pub how: &'static str,
}

/// Returns whether a reference answer and a stated one are the same.
pub fn equal(reference: &str, stated: &str) -> bool {
    compare(reference, stated).equal
}

/// Compares a reference answer with a stated one, both without the text around them.
pub fn compare(reference: &str, stated: &str) -> Comparison {
    let verdict = |equal, how| Comparison { equal, how };
    let (a, b) = (reference.trim(), stated.trim());
    if let (Some(a), Some(b)) = (small_integer(a), small_integer(b)) {
        return verdict(
            a == b,
            if a == b && reference == stated {
                "identical"
            } else {
                "number"
            },
        );
    }
    let (Some(a_tokens), Some(b_tokens)) = (lex(a), lex(b)) else {
        return verdict(a == b, if a == b { "identical" } else { "unparsed" });
    };
    let (a, b) = (trimmed(&a_tokens), trimmed(&b_tokens));
    if a.is_empty() || b.is_empty() {
        return verdict(false, "unparsed");
    }
    if is_identical(a, b) {
        return verdict(true, "identical");
    }
    let (a, b) = (read(a), read(b));
    let how = rule(&a, &b);
    verdict(is_same(&a, &b), how)
}

/// Returns whether a text as a whole is an answer and no prose.
pub(super) fn is_answer(text: &str) -> bool {
    // Letters alone may be the beginning of anything.
    if text.chars().all(|c| c.is_alphabetic() || c.is_whitespace() || c == '.') {
        return false;
    }
    let Some(tokens) = lex(text) else { return false };
    let tokens = trimmed(&tokens);
    let words = tokens.iter().filter(|tok| matches!(tok.token, Token::Word(_))).count();
    let begins_with_word = matches!(tokens.first(), Some(tok) if matches!(tok.token, Token::Word(_)));
    !tokens.is_empty() && words <= 4 && !begins_with_word && is_formula(&read(tokens))
}

fn is_formula(answer: &Answer) -> bool {
    match answer {
        Answer::Tuple(_, _, members) | Answer::Set(members) | Answer::List(members) => members.iter().all(is_formula),
        Answer::Relation(relation) => relation
            .members
            .iter()
            .all(|member| member.name.is_some() || is_formula(&member.answer)),
        Answer::Text(_) | Answer::Unparsed => false,
        _ => true,
    }
}

fn small_integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.len() < 18 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// Compares token by token; capitals of words and spaces do not matter.
fn is_identical(a: &[Tok], b: &[Tok]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| match (&a.token, &b.token) {
            (Token::Word(a), Token::Word(b)) => a.to_lowercase() == b.to_lowercase(),
            (Token::Word(a), Token::Symbol(b)) | (Token::Symbol(a), Token::Word(b)) => a == b,
            (a, b) => a == b,
        })
}

/// Names the rule for two shapes of answers.
fn rule(a: &Answer, b: &Answer) -> &'static str {
    let of_one = |answer: &Answer| match answer {
        Answer::Quantity(quantity) if quantity.expr.is_constant() => "number",
        Answer::Quantity(_) => "expression",
        Answer::Tuple(..) => "tuple",
        Answer::Set(_) | Answer::List(_) => "set",
        Answer::Reals(_) => "interval",
        Answer::Matrix(_) => "matrix",
        Answer::Ratio(_) => "ratio",
        Answer::Relation(relation) if relation.is_equation() => "equation",
        Answer::Relation(_) => "inequality",
        Answer::Choice(..) => "choice",
        Answer::Text(_) => "text",
        Answer::Unparsed => "unparsed",
    };
    let (a, b) = (of_one(a), of_one(b));
    // The more special shape decides; "x = 5" against a number is about the number.
    const ORDER: [&str; 12] = [
        "unparsed",
        "text",
        "choice",
        "matrix",
        "interval",
        "inequality",
        "set",
        "tuple",
        "ratio",
        "expression",
        "number",
        "equation",
    ];
    ORDER
        .into_iter()
        .find(|rule| *rule == a || *rule == b)
        .unwrap_or("unparsed")
}
