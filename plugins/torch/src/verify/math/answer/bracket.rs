//! Tuples, intervals and sets, and what unions, intersections and differences make of them.

use super::super::lex::{Tok, Token};
use super::super::reals::{self, Reals};
use super::list::{read_list, read_signs};
use super::name::name_of;
use super::{Answer, MAX_MEMBERS, closes_at, read_item, split, trimmed};

/// Reads the names of sets, and what unions, intersections and differences make of intervals.
pub(super) fn read_number_set(tokens: &[Tok], depth: usize) -> Option<Answer> {
    match tokens {
        [
            Tok {
                token: Token::Op('∅'),
            ..
            },
        ] => return Some(Answer::Set(Vec::new())),
        [
            Tok {
                token: Token::Symbol(name),
                ..
            },
        ] if name == "ℝ" => return Some(Answer::Reals(Reals::all())),
        _ => {}
    }
    let (parts, operators) = split(tokens, |token| matches!(token, Token::Op('∪' | '∩' | '∖')));
    if operators.is_empty() {
        return None;
    }
    if parts.len() > 40 {
        return Some(Answer::Unparsed);
    }
    let mut parts = parts
        .into_iter()
        .map(|part| reals::of_answer(&read_item(part, depth + 1)));
    let mut all = parts.next()??;
    for (operator, part) in operators.into_iter().zip(parts) {
        let part = part?;
        all = match operator {
            Token::Op('∪') => all.union(&part)?,
            Token::Op('∩') => all.intersection(&part)?,
            _ => all.intersection(&part.complement())?,
        };
    }
    Some(Answer::Reals(all))
}

/// Reads intervals with brackets that turn away from an open end: `]1, 2[`.
pub(super) fn read_turned_brackets(tokens: &[Tok], depth: usize) -> Option<Answer> {
    let [first, inner @ .., last] = tokens else { return None };
    let open = match first.token {
        Token::Close('[') => '(',
        Token::Open('[') => '[',
        _ => return None,
    };
    let close = match last.token {
        Token::Open('[') => ')',
        Token::Close('[') => ']',
        _ => return None,
    };
    let turned = open == '(' || close == ')';
    if !turned
        || inner
            .iter()
            .any(|tok| matches!(tok.token, Token::Open('[') | Token::Close('[')))
    {
        return None;
    }
    let ends = members(inner, depth)?;
    (ends.len() == 2).then_some(Answer::Tuple(open, close, ends))
}

/// Reads tuples, intervals and sets.
pub(super) fn read_bracket(tokens: &[Tok], depth: usize) -> Option<Answer> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    let Token::Open(open @ ('(' | '[' | 'S' | '<')) = first.token else {
        return None;
    };
    if closes_at(tokens, 0) != Some(tokens.len() - 1) {
        return None;
    }
    let Token::Close(close) = last.token else { return None };
    let inner = &tokens[1..tokens.len() - 1];
    if open == 'S' {
        if inner.iter().any(|tok| matches!(tok.token, Token::Op('|' | ':' | '…'))) {
            return read_set_builder(inner, depth);
        }
        return Some(Answer::Set(if inner.is_empty() {
            Vec::new()
        } else {
            members(inner, depth)?
        }));
    }
    if open == '<' {
        return Some(Answer::Tuple('(', ')', members(inner, depth)?));
    }
    let found = members(inner, depth)?;
    let end = if close == '[' { ']' } else { ')' };
    (found.len() > 1).then_some(Answer::Tuple(open, end, found))
}

/// Reads `x | x > 2` inside of a set's braces.
fn read_set_builder(inner: &[Tok], depth: usize) -> Option<Answer> {
    let (parts, _) = split(inner, |token| matches!(token, Token::Op('|' | ':')));
    let [names, condition] = parts.as_slice() else {
        return Some(Answer::Unparsed);
    };
    let (names, _) = split(names, |token| *token == Token::Op('∈'));
    let name = name_of(names.first()?)?;
    let condition = read_list(condition, depth + 1);
    match &condition {
        Answer::Relation(relation) => match reals::of_relation(relation) {
            Some((variable, reals)) if variable == name => Some(Answer::Reals(reals)),
            _ => Some(Answer::Unparsed),
        },
        _ => Some(Answer::Unparsed),
    }
}

fn members(tokens: &[Tok], depth: usize) -> Option<Vec<Answer>> {
    let (parts, _) = split(tokens, |token| matches!(token, Token::Op(',' | ';')));
    if parts.len() > MAX_MEMBERS {
        return None;
    }
    let mut found = Vec::new();
    for part in parts {
        let part = trimmed(part);
        if part.is_empty() {
            return None;
        }
        for answer in read_signs(part, depth + 1) {
            if matches!(answer, Answer::Unparsed) {
                return None;
            }
            found.push(answer);
        }
    }
    Some(found)
}
