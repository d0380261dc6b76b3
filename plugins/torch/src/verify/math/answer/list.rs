//! Answers of several parts, joined by commas, words or a plus-minus sign, and what relations say.

use super::super::lex::{Tok, Token};
use super::super::reals;
use super::bracket::read_turned_brackets;
use super::name::name_of;
use super::text::read_choice;
use super::{Answer, MAX_DEPTH, MAX_MEMBERS, Member, Relation, closes_at, is_word, read_item, split, trimmed};

pub(super) fn read_list(tokens: &[Tok], depth: usize) -> Answer {
    let tokens = trimmed(tokens);
    if tokens.is_empty() || depth > MAX_DEPTH {
        return Answer::Unparsed;
    }
    if let Some(found) = read_choice(tokens, depth).or_else(|| read_turned_brackets(tokens, depth)) {
        return found;
    }
    // x < 1 \cup x > 2 is said of the values, not of sets.
    let (united, unions) = split(tokens, |token| *token == Token::Op('∪'));
    let of_values = !unions.is_empty()
        && united
            .iter()
            .all(|part| split(part, is_relation).1.len() == 1 && part.iter().all(|tok| tok.token != Token::Op('∈')));
    if of_values && united.len() <= MAX_MEMBERS {
        let members = united.into_iter().map(|part| read_statement(part, depth)).collect();
        return joined(members, Joint::Or);
    }
    let joins = |token: &Token| matches!(token, Token::Op(',' | ';')) || is_word(token, &["and", "or"]);
    let (parts, joints) = split(tokens, joins);
    let parts: Vec<&[Tok]> = parts.into_iter().map(trimmed).filter(|part| !part.is_empty()).collect();
    if parts.len() > MAX_MEMBERS {
        return Answer::Unparsed;
    }
    let members: Vec<Answer> = parts.iter().flat_map(|part| read_signs(part, depth)).collect();
    if let [_] = members.as_slice() {
        return members.into_iter().next().unwrap_or(Answer::Unparsed);
    }
    let any = |words: &[&str]| joints.iter().any(|joint| is_word(joint, words));
    let joint = match (any(&["or"]), any(&["and"])) {
        (true, _) => Joint::Or,
        (false, true) => Joint::And,
        (false, false) => Joint::Comma,
    };
    match joined(members, joint) {
        // The values of both signs have no order.
        Answer::List(values)
            if tokens.iter().any(|tok| is_sign(&tok.token))
                && !values.iter().any(|value| matches!(value, Answer::Relation(_))) =>
        {
            Answer::Set(values)
        }
        other => other,
    }
}

fn is_sign(token: &Token) -> bool {
    matches!(token, Token::Op('±' | '∓'))
}

enum Joint {
    Or,
    And,
    Comma,
}

fn joined(members: Vec<Answer>, joint: Joint) -> Answer {
    if let Some(reals) = joined_inequalities(&members, joint) {
        return reals;
    }
    // x = 1, 2 and x = 1, x = 2 name the same values; x = 1, y = 2 do not.
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (idx, member) in members.iter().enumerate() {
        match member {
            Answer::Relation(relation) => match relation.assignment() {
                Some((name, value)) => {
                    names.push(name.to_owned());
                    values.push(value.clone());
                }
                None => return Answer::List(members),
            },
            _ if idx == 0 => return Answer::List(members),
            other => values.push(other.clone()),
        }
    }
    // The values of x, however often it is named; x_1 and x_2 may be two values of x, but keep their names.
    let one_name = names.iter().all(|name| *name == names[0]);
    let bare = values.len() - names.len();
    if one_name && (bare == 0 || names.len() == 1) && !names.is_empty() {
        return Answer::List(values);
    }
    Answer::List(members)
}

/// Inequalities for one variable: together they are a set of numbers.
fn joined_inequalities(members: &[Answer], joint: Joint) -> Option<Answer> {
    let mut found = Vec::new();
    let mut name = None;
    // Sets and exceptions restrict what else is said.
    let (mut excludes, mut only_sets) = (false, true);
    for member in members {
        let Answer::Relation(relation) = member else {
            return None;
        };
        if relation.is_equation() {
            return None;
        }
        only_sets &= relation.signs == ['∈'];
        excludes |= relation.signs.contains(&'≠') || relation.signs == ['∈'];
        let (variable, reals) = reals::of_relation(relation)?;
        if *name.get_or_insert_with(|| variable.clone()) != variable {
            return None;
        }
        found.push(reals);
    }
    if only_sets {
        return None;
    }
    let mut found = found.into_iter();
    let first = found.next()?;
    let both = found
        .clone()
        .try_fold(first.clone(), |all, next| all.intersection(&next))?;
    let either = found.try_fold(first, |all, next| all.union(&next))?;
    let reals = match joint {
        _ if excludes => both,
        Joint::Or => either,
        // "x < 1 and x > 2" is said of both parts of a union.
        Joint::And | Joint::Comma if both.is_empty() => either,
        Joint::And => both,
        Joint::Comma => return None,
    };
    Some(Answer::Relation(Relation::membership(name?, Answer::Reals(reals))))
}

/// Reads what may have a `\pm` in it: one answer for each sign.
pub(super) fn read_signs(tokens: &[Tok], depth: usize) -> Vec<Answer> {
    let has_sign = tokens.iter().any(|tok| is_sign(&tok.token));
    // Within a set or tuple the members have their own signs.
    let whole = matches!(tokens.first(), Some(tok) if matches!(tok.token, Token::Open('S' | '(' | '[')))
        && closes_at(tokens, 0) == Some(tokens.len() - 1)
        && split(&tokens[1..tokens.len() - 1], |token| *token == Token::Op(','))
            .0
            .len()
            > 1;
    if !has_sign || whole {
        return vec![read_statement(tokens, depth)];
    }
    let with = |plus: char, minus: char| {
        let tokens: Vec<Tok> = tokens
            .iter()
            .map(|tok| {
                let token = match tok.token {
                    Token::Op('±') => Token::Op(plus),
                    Token::Op('∓') => Token::Op(minus),
                    ref other => other.clone(),
                };
                Tok { token, ..tok.clone() }
            })
            .collect();
        read_statement(&tokens, depth)
    };
    vec![with('+', '-'), with('-', '+')]
}

fn is_relation(token: &Token) -> bool {
    matches!(token, Token::Op('=' | '<' | '>' | '≤' | '≥' | '≠' | '≈' | '∈'))
}

fn read_statement(tokens: &[Tok], depth: usize) -> Answer {
    let (parts, signs) = split(tokens, is_relation);
    if signs.is_empty() {
        return read_item(tokens, depth);
    }
    if parts.len() > 12 {
        return Answer::Unparsed;
    }
    let signs = signs
        .into_iter()
        .filter_map(|token| match token {
            Token::Op(sign) => Some(*sign),
            _ => None,
        })
        .collect();
    let members = parts
        .into_iter()
        .map(|part| {
            let part = trimmed(part);
            Member {
                answer: read_item(part, depth),
                name: name_of(part),
            }
        })
        .collect();
    Answer::Relation(Relation { members, signs })
}
