//! Which shapes of answers can be the same, and how their parts have to agree.

use super::super::answer::{Answer, Quantity};
use super::super::expr::Expr;
use super::super::reals;
use super::number::{is_same_quantity, same_number};
use super::ratio::{is_clock, is_same_ratio, quotient};
use super::relation::is_same_relation;

pub(super) fn is_same(a: &Answer, b: &Answer) -> bool {
    match (a, b) {
        (Answer::Choice(a, _), Answer::Choice(b, _)) => a == b,
        (Answer::Choice(letter, content), other) | (other, Answer::Choice(letter, content)) => {
            if ('A'..='J').any(|any| is_letter(other, any)) {
                return is_letter(other, *letter);
            }
            content.as_ref().is_some_and(|content| is_same(content, other))
        }
        (Answer::Relation(a), Answer::Relation(b)) => is_same_relation(a, b),
        (Answer::Relation(relation), other) | (other, Answer::Relation(relation)) => {
            let set = !relation.is_equation()
                && matches!(other, Answer::Reals(_) | Answer::Tuple(..))
                && is_same_set(a, b) == Some(true);
            set || relation
                .values()
                .is_some_and(|values| values.iter().any(|value| is_same(value, other)))
        }
        (Answer::Quantity(a), Answer::Quantity(b)) => is_same_quantity(a, b),
        (Answer::Text(a), Answer::Text(b)) => a == b,
        (Answer::Text(words), other @ Answer::Quantity(_)) | (other @ Answer::Quantity(_), Answer::Text(words)) => {
            matches!(words.as_slice(), [word] if word.len() == 1 && is_letter(other, word.chars().next().unwrap_or(' ')))
        }
        (Answer::Ratio(a), Answer::Ratio(b)) => is_same_ratio(a, b),
        (Answer::Ratio(ratio), Answer::Quantity(value)) | (Answer::Quantity(value), Answer::Ratio(ratio)) => {
            let [above, below] = ratio.as_slice() else { return false };
            !is_clock(ratio)
                && [above, below, value]
                    .iter()
                    .all(|part| part.unit.is_none() && !part.percent)
                && matches!(value.expr, Expr::Quotient(..))
                && same_number(&quotient(above, below), &value.expr)
        }
        (Answer::Matrix(a), Answer::Matrix(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| are_same_in_order(a, b))
        }
        // [[1, 2], [3, 4]], as programs print it
        (Answer::Matrix(rows), Answer::Tuple('[', ']', lines))
        | (Answer::Tuple('[', ']', lines), Answer::Matrix(rows)) => {
            rows.len() == lines.len()
                && rows.iter().zip(lines).all(|(row, line)| match line {
                    Answer::Tuple('[', ']', cells) => are_same_in_order(row, cells),
                    _ => false,
                })
        }
        (Answer::Matrix(rows), Answer::Tuple('(', ')', members))
        | (Answer::Tuple('(', ')', members), Answer::Matrix(rows)) => {
            let vector: Option<Vec<Answer>> = match rows.as_slice() {
                [row] => Some(row.clone()),
                rows => rows
                    .iter()
                    .map(|row| <&[Answer; 1]>::try_from(row.as_slice()).ok().map(|[cell]| cell.clone()))
                    .collect(),
            };
            vector.is_some_and(|vector| are_same_in_order(&vector, members))
        }
        (Answer::Tuple(open, close, a_members), Answer::Tuple(b_open, b_close, b_members)) => {
            open == b_open && close == b_close && are_same_in_order(a_members, b_members)
        }
        (Answer::Tuple('(', ')', members), Answer::List(list))
        | (Answer::List(list), Answer::Tuple('(', ')', members)) => {
            match named_values(list) {
                Some(mut named) => {
                    named.sort_by(|(a, _), (b, _)| a.cmp(b));
                    let values: Vec<Answer> = named.into_iter().map(|(_, value)| value).collect();
                    are_same_in_order(&values, members)
                }
                // What may be an interval is no list of two numbers.
                None => reals::of_answer(a).or(reals::of_answer(b)).is_none() && are_same_in_order(list, members),
            }
        }
        (Answer::List(a), Answer::List(b)) => match (named_values(a), named_values(b)) {
            (Some(mut a), Some(mut b)) => {
                a.sort_by(|(a, _), (b, _)| a.cmp(b));
                b.sort_by(|(a, _), (b, _)| a.cmp(b));
                let same_names = a.len() == b.len() && a.iter().zip(&b).all(|((a, _), (b, _))| a == b);
                if !same_names && are_indexed(&a) && are_indexed(&b) {
                    return are_same_unordered(&unnamed(a), &unnamed(b));
                }
                same_names && a.iter().zip(&b).all(|((_, a), (_, b))| is_same(a, b))
            }
            (Some(named), None) => are_same_as_unnamed(named, b),
            (None, Some(named)) => are_same_as_unnamed(named, a),
            (None, None) => are_same_unordered(a, b),
        },
        (Answer::Set(a), Answer::Set(b)) => are_same_unordered(&distinct(a), &distinct(b)),
        (Answer::List(a), Answer::Set(b)) | (Answer::Set(b), Answer::List(a)) => are_same_unordered(a, &distinct(b)),
        // Intervals one after the other are their union, unless they could be points.
        (Answer::Reals(reals), Answer::List(pieces)) | (Answer::List(pieces), Answer::Reals(reals)) => {
            reals::of_listed(pieces).is_some_and(|listed| listed.is_same(reals))
        }
        // One value in several forms: 2/4 or 1/2.
        (Answer::List(forms), other) | (other, Answer::List(forms)) if !matches!(other, Answer::Set(_)) => {
            forms.windows(2).all(|pair| is_other_form(&pair[0], &pair[1]))
                && forms.first().is_some_and(|form| is_same(form, other))
        }
        (Answer::Set(one), other) | (other, Answer::Set(one))
            if !matches!(other, Answer::Reals(_) | Answer::Tuple(..)) =>
        {
            matches!(one.as_slice(), [member] if is_same(member, other))
        }
        _ => is_same_set(a, b) == Some(true),
    }
}

/// Returns whether two values are the same and written differently; the same twice is a list.
fn is_other_form(a: &Answer, b: &Answer) -> bool {
    let written_alike = matches!((a, b), (Answer::Quantity(a), Answer::Quantity(b)) if a.expr == b.expr);
    !written_alike && is_same(a, b)
}

fn is_same_set(a: &Answer, b: &Answer) -> Option<bool> {
    Some(reals::of_answer(a)?.is_same(&reals::of_answer(b)?))
}

/// Returns whether an answer is nothing but this letter.
fn is_letter(answer: &Answer, letter: char) -> bool {
    let is = |text: &str| text.len() == 1 && text.eq_ignore_ascii_case(&letter.to_string());
    match answer {
        Answer::Text(words) => matches!(words.as_slice(), [word] if is(word)),
        Answer::Quantity(Quantity {
            expr: Expr::Symbol(name),
            unit: None,
            percent: false,
        }) => is(name),
        _ => false,
    }
}

fn are_same_in_order(a: &[Answer], b: &[Answer]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
}

fn are_same_unordered(a: &[Answer], b: &[Answer]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut free: Vec<&Answer> = b.iter().collect();
    a.iter().all(|a| {
        let found = free.iter().position(|b| is_same(a, b));
        found.map(|at| free.swap_remove(at)).is_some()
    })
}

fn distinct(members: &[Answer]) -> Vec<Answer> {
    let mut kept: Vec<Answer> = Vec::new();
    for member in members {
        if !kept.iter().any(|known| is_same(known, member)) {
            kept.push(member.clone());
        }
    }
    kept
}

/// Returns the values of `x = 1, y = 2` if all members are such, with different names.
fn named_values(members: &[Answer]) -> Option<Vec<(String, Answer)>> {
    let mut found: Vec<(String, Answer)> = Vec::new();
    for member in members {
        let Answer::Relation(relation) = member else {
            return None;
        };
        let (name, value) = relation.assignment()?;
        if found.iter().any(|(known, _)| known == name) {
            return None;
        }
        found.push((name.to_owned(), value.clone()));
    }
    Some(found)
}

/// Returns whether the names are one with several indices: x_1 and x_2 may be two values of x, as roots are.
fn are_indexed(named: &[(String, Answer)]) -> bool {
    let stem = |name: &str| name.split('_').next().unwrap_or_default().to_owned();
    named.windows(2).all(|pair| stem(&pair[0].0) == stem(&pair[1].0))
}

/// Compares with values that have no names: those of several unknowns have an order, those of one have none.
fn are_same_as_unnamed(named: Vec<(String, Answer)>, values: &[Answer]) -> bool {
    if are_indexed(&named) {
        are_same_unordered(&unnamed(named), values)
    } else {
        are_same_in_order(&unnamed(named), values)
    }
}

fn unnamed(named: Vec<(String, Answer)>) -> Vec<Answer> {
    named.into_iter().map(|(_, value)| value).collect()
}
