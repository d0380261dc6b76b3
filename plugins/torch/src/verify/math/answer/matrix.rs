//! Environments with rows: matrices, and cases, which are lists.

use super::super::expr::Expr;
use super::super::lex::{Tok, Token};
use super::super::parse::parse;
use super::list::read_list;
use super::{Answer, Quantity, closes_at, read_item, split, trimmed};

/// Reads an environment, perhaps with a factor before it; systems of equations are lists.
pub(super) fn read_matrix(tokens: &[Tok], depth: usize) -> Option<Answer> {
    let start = tokens.iter().position(|tok| tok.token == Token::Open('e'))?;
    let Token::Command(name) = &tokens[start.checked_sub(1)?].token else {
        return None;
    };
    let mut env = name.strip_prefix("begin ")?;
    // An array may stand in its own brackets.
    let before = &tokens[..start - 1];
    let close = closes_at(tokens, start)?;
    let (before, after) = match (before, &tokens[close + 1..]) {
        ([before @ .., open], [_, after @ ..])
            if matches!(env, "array" | "matrix" | "smallmatrix") && matches!(open.token, Token::Open('(' | '[')) =>
        {
            (before, after)
        }
        (before, after) => (before, after),
    };
    if !trimmed(after).is_empty() {
        return None;
    }
    // A brace on the left alone makes cases of an array.
    let mut before = before;
    if env == "array" && matches!(before, [open] if open.token == Token::Open('S')) {
        (env, before) = ("cases", &[]);
    }
    let (rows, _) = split(&tokens[start + 1..close], |token| *token == Token::Row);
    let rows: Vec<&[Tok]> = rows.into_iter().filter(|row| !row.is_empty()).collect();
    if matches!(env, "cases" | "aligned" | "align" | "gathered" | "gather") {
        if !before.is_empty() {
            return None;
        }
        let mut joined: Vec<Tok> = Vec::new();
        for row in rows {
            // Aligned equations have their alignment mark before the sign.
            joined.extend(row.iter().filter(|tok| tok.token != Token::Op('&')).cloned());
            joined.push(Tok {
                token: Token::Op(','),
                spaced: false,
                text: false,
            });
        }
        return Some(read_list(&joined, depth + 1));
    }
    if !matches!(
        env,
        "pmatrix" | "bmatrix" | "matrix" | "array" | "Bmatrix" | "smallmatrix"
    ) {
        return None;
    }
    let factor = if before.is_empty() { None } else { Some(parse(before)?) };
    let cells = |row: &&[Tok]| -> Option<Vec<Answer>> {
        let (cells, _) = split(row, |token| *token == Token::Op('&'));
        let read = |cell: &[Tok]| match (read_item(cell, depth + 1), &factor) {
            (Answer::Unparsed, _) => None,
            (Answer::Quantity(quantity), Some(factor)) => Some(Answer::Quantity(Quantity {
                expr: Expr::Product(vec![factor.clone(), quantity.expr]),
                ..quantity
            })),
            (_, Some(_)) => None,
            (answer, None) => Some(answer),
        };
        cells.into_iter().map(read).collect()
    };
    let rows: Vec<Vec<Answer>> = rows.iter().map(cells).collect::<Option<_>>()?;
    let width = rows.first()?.len();
    rows.iter()
        .all(|row| row.len() == width)
        .then_some(Answer::Matrix(rows))
}
