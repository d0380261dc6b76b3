//! Whether two answers are the same.
//!
//! First what arithmetic decides (`residue`, `surd`), then values at points (`numeric`). Doubt is difference.

use std::cmp::Ordering;

use super::answer::{Answer, Quantity, Relation, read, trimmed};
use super::expr::Expr;
use super::lex::{Tok, Token, lex};
use super::numeric::{self, Approx, Point};
use super::rational::{evaluate, gcd};
use super::reals;
use super::residue::{Residue, exact_root, residue};
use super::surd::surd;
use super::units;

/// Decimals from which on a decimal number stands for what it was rounded from.
const MIN_DECIMALS: i32 = 6;

/// The largest value that floating point alone may decide about.
const MAX_NUMERIC: f64 = 1e6;

const NUM_POINTS: u64 = 10;
const MIN_POINTS: usize = 3;

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

fn is_same(a: &Answer, b: &Answer) -> bool {
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
                a.len() == b.len()
                    && a.iter()
                        .zip(&b)
                        .all(|((a_name, a), (b_name, b))| a_name == b_name && is_same(a, b))
            }
            (Some(named), None) => are_same_in_order(&unnamed(named), b),
            (None, Some(named)) => are_same_in_order(a, &unnamed(named)),
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

fn unnamed(named: Vec<(String, Answer)>) -> Vec<Answer> {
    named.into_iter().map(|(_, value)| value).collect()
}

fn quotient(a: &Quantity, b: &Quantity) -> Expr {
    Expr::Quotient(Box::new(a.expr.clone()), Box::new(b.expr.clone()))
}

/// A time: it has a leading zero, a unit such as "pm", or minutes of two digits and is not in lowest terms.
fn is_clock(ratio: &[Quantity]) -> bool {
    let digits = |part: &Quantity| match &part.expr {
        Expr::Number(digits) => Some(digits.clone()),
        _ => None,
    };
    if ratio.iter().any(|part| {
        part.unit.is_some() || digits(part).is_some_and(|digits| digits.len() > 1 && digits.starts_with('0'))
    }) {
        return true;
    }
    let numbers: Option<Vec<u128>> = ratio.iter().map(|part| digits(part)?.parse().ok()).collect();
    numbers.is_some_and(|numbers| {
        numbers[1..].iter().all(|number| (10..60).contains(number))
            && numbers.iter().fold(0, |all, number| gcd(all, *number)) > 1
    })
}

fn is_same_ratio(a: &[Quantity], b: &[Quantity]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.iter().zip(b).all(|(a, b)| is_same_quantity(a, b)) {
        return true;
    }
    if is_clock(a) || is_clock(b) || a.iter().chain(b).any(|part| part.percent) {
        return false;
    }
    (1..a.len()).all(|idx| same_number(&quotient(&a[0], &a[idx]), &quotient(&b[0], &b[idx])))
}

impl Relation {
    pub(super) fn is_equation(&self) -> bool {
        self.signs.iter().all(|sign| matches!(sign, '=' | '≈'))
    }

    /// Returns the values that `name = value = value` states; `None` if it is an equation, or contradicts itself.
    fn values(&self) -> Option<Vec<&Answer>> {
        if let (['∈'], Some((_, set))) = (self.signs.as_slice(), self.assignment()) {
            return Some(vec![set]);
        }
        if !self.is_equation() {
            return None;
        }
        let mut values: Vec<&Answer> = Vec::new();
        let last = self.members.len() - 1;
        let has_name = self.members.iter().any(|member| member.name.is_some());
        for (idx, member) in self.members.iter().enumerate() {
            // The last of a chain of names is their value: x = a.
            let is_value = member.name.is_none()
                || (idx == last && values.is_empty() && !matches!(member.answer, Answer::Unparsed));
            if is_value {
                values.push(&member.answer);
            }
        }
        let sign_before = |idx: usize| {
            if self.signs.contains(&'≈') {
                '≈'
            } else {
                self.signs[idx.saturating_sub(1).min(self.signs.len() - 1)]
            }
        };
        let consistent = values
            .iter()
            .enumerate()
            .skip(1)
            .all(|(idx, value)| agrees(values[idx - 1], value, sign_before(idx)));
        (consistent && (has_name || values.len() > 1)).then_some(values)
    }
}

/// Returns whether a chain may put its sign between the two: the same value, or a rounded one.
fn agrees(a: &Answer, b: &Answer, sign: char) -> bool {
    if is_same(a, b) {
        return true;
    }
    let (Answer::Quantity(a), Answer::Quantity(b)) = (a, b) else {
        return false;
    };
    if a.unit.is_some() && b.unit.is_some() && a.unit != b.unit {
        return false;
    }
    let value = |quantity: &Quantity| {
        let value = quantity
            .expr
            .is_constant()
            .then(|| numeric::constant(&quantity.expr))??;
        let scale = if quantity.percent { 0.01 } else { 1.0 };
        (value.im == 0.0).then_some(value.re * scale)
    };
    let (Some(x), Some(y)) = (value(a), value(b)) else {
        return false;
    };
    let near = (x - y).abs();
    let places = [a, b]
        .into_iter()
        .filter_map(|quantity| decimal(&quantity.expr))
        .map(|decimal| decimal.unit);
    match (places.reduce(f64::max), sign) {
        (Some(unit), '≈') => near <= unit,
        (None, '≈') => near <= 0.05 * x.abs().max(y.abs()),
        (unit, _) => near <= unit.unwrap_or(0.0).min(0.01),
    }
}

fn is_same_relation(a: &Relation, b: &Relation) -> bool {
    if a.is_equation() != b.is_equation() {
        return false;
    }
    if a.is_equation() {
        if let (Some(a_values), Some(b_values)) = (a.values(), b.values())
            && are_same_names(a, b)
            && a_values.iter().any(|a| b_values.iter().any(|b| is_same(a, b)))
        {
            return true;
        }
        return is_same_equation(a, b);
    }
    if let (Some((a_name, a_set)), Some((b_name, b_set))) = (reals::of_relation(a), reals::of_relation(b)) {
        return a_name == b_name && a_set.is_same(&b_set);
    }
    is_same_inequality(a, b)
}

/// Returns whether two relations speak of the same thing, as far as they name it.
fn are_same_names(a: &Relation, b: &Relation) -> bool {
    let names = |relation: &Relation| -> Vec<String> {
        relation
            .members
            .iter()
            .filter_map(|member| member.name.clone())
            .collect()
    };
    let (a, b) = (names(a), names(b));
    let says_nothing = |names: &[String]| names.is_empty() || names.iter().all(|name| name.starts_with("text "));
    let is_function = |names: &[String]| {
        names
            .iter()
            .any(|name| name.len() > 3 && name.starts_with(['f', 'g', 'h']) && name[1..].starts_with('('))
    };
    let is_y = |names: &[String]| names.iter().any(|name| name == "y");
    says_nothing(&a)
        || says_nothing(&b)
        || a.iter().any(|name| b.contains(name))
        || (is_function(&a) && is_y(&b))
        || (is_y(&a) && is_function(&b))
}

/// Returns left side - right side of an equation or inequality with two members.
fn difference(relation: &Relation) -> Option<Expr> {
    let [left, right] = relation.members.as_slice() else {
        return None;
    };
    let (Answer::Quantity(left), Answer::Quantity(right)) = (&left.answer, &right.answer) else {
        return None;
    };
    if [left, right].iter().any(|side| side.unit.is_some() || side.percent) {
        return None;
    }
    let expr = Expr::Sum(vec![left.expr.clone(), Expr::Negative(Box::new(right.expr.clone()))]);
    (!expr.is_constant()).then_some(expr)
}

/// Returns the numerator over a common denominator: y - 1/x = 0 is xy - 1 = 0.
fn numerator(expr: &Expr) -> Expr {
    const MAX_PARTS: usize = 60;

    fn product(a: Expr, b: Expr) -> Expr {
        let one = Expr::integer(1);
        match (a == one, b == one) {
            (true, _) => b,
            (_, true) => a,
            _ => Expr::Product(vec![a, b]),
        }
    }
    fn fraction(expr: &Expr) -> (Expr, Expr) {
        match expr {
            Expr::Sum(parts) => {
                let zero = (Expr::Sum(Vec::new()), Expr::integer(1));
                parts.iter().map(fraction).fold(zero, |(above, below), (a, b)| {
                    let sum = Expr::Sum(vec![product(above, b.clone()), product(a, below.clone())]);
                    (sum, product(below, b))
                })
            }
            Expr::Product(parts) => {
                let one = (Expr::integer(1), Expr::integer(1));
                let mut parts = parts.iter().map(fraction);
                parts
                    .by_ref()
                    .fold(one, |(above, below), (a, b)| (product(above, a), product(below, b)))
            }
            Expr::Quotient(a, b) => {
                let ((a, b), (c, d)) = (fraction(a), fraction(b));
                (product(a, d), product(b, c))
            }
            Expr::Negative(a) => {
                let (above, below) = fraction(a);
                (Expr::Negative(Box::new(above)), below)
            }
            other => (other.clone(), Expr::integer(1)),
        }
    }
    let mut num_parts = 0;
    expr.walk(&mut |_| num_parts += 1);
    if num_parts > MAX_PARTS {
        return expr.clone();
    }
    fraction(expr).0
}

/// The two differences of the sides have a constant ratio.
fn is_same_equation(a: &Relation, b: &Relation) -> bool {
    let (Some(a), Some(b)) = (difference(a), difference(b)) else {
        return false;
    };
    a.variables() == b.variables()
        && (constant_ratio(&a, &b).is_some() || constant_ratio(&numerator(&a), &numerator(&b)).is_some())
}

fn is_same_inequality(a: &Relation, b: &Relation) -> bool {
    let rising = |relation: &Relation| -> Option<(Expr, char)> {
        let expr = difference(relation)?;
        match relation.signs.as_slice() {
            [sign @ ('<' | '≤' | '≠')] => Some((expr, *sign)),
            ['>'] => Some((Expr::Negative(Box::new(expr)), '<')),
            ['≥'] => Some((Expr::Negative(Box::new(expr)), '≤')),
            _ => None,
        }
    };
    if let (Some((a_expr, a_sign)), Some((b_expr, b_sign))) = (rising(a), rising(b)) {
        return a_sign == b_sign
            && a_expr.variables() == b_expr.variables()
            && constant_ratio(&a_expr, &b_expr).is_some_and(|ratio| a_sign == '≠' || ratio > 0.0);
    }
    // a < b < c: member by member, or from the other end.
    let same = |b_members: Vec<&Answer>, b_signs: Vec<char>| {
        a.signs == b_signs
            && a.members.len() == b_members.len()
            && a.members.iter().zip(b_members).all(|(a, b)| is_same(&a.answer, b))
    };
    let turned = |sign: &char| match sign {
        '<' => '>',
        '>' => '<',
        '≤' => '≥',
        '≥' => '≤',
        other => *other,
    };
    let forward = b.members.iter().map(|member| &member.answer);
    same(forward.clone().collect(), b.signs.clone())
        || same(forward.rev().collect(), b.signs.iter().rev().map(turned).collect())
}

/// Returns a / b if it is the same number wherever it is looked at.
fn constant_ratio(a: &Expr, b: &Expr) -> Option<f64> {
    let ratio_at = |seed: u64| {
        let value = |name: &str| coordinate(name, seed);
        let point = Point {
            value: &value,
            real: true,
        };
        let (a, b) = (numeric::at(a, &point)?, numeric::at(b, &point)?);
        a.quotient(b)
    };
    let ratios: Vec<Approx> = (0..NUM_POINTS).filter_map(ratio_at).collect();
    let first = *ratios.first()?;
    let constant = first.im == 0.0
        && first.re != 0.0
        && ratios.len() >= MIN_POINTS
        && ratios.iter().all(|ratio| first.is_same(*ratio));
    if !constant {
        return None;
    }
    // Where arithmetic can tell, it has to agree.
    let exact = |seed: u64| residue(a, seed)?.div(residue(b, seed)?);
    match (exact(1), exact(2)) {
        (Some(one), Some(two)) if one.is_same(two) => Some(first.re),
        (Some(_), Some(_)) if is_arithmetic(a) && is_arithmetic(b) => None,
        _ => Some(first.re),
    }
}

/// Returns whether there is nothing but the four operations and whole powers.
fn is_arithmetic(expr: &Expr) -> bool {
    let mut plain = true;
    expr.walk(&mut |part| {
        plain &= match part {
            Expr::Power(_, exponent) => evaluate(exponent, &[]).is_some_and(|value| value.as_integer().is_some()),
            Expr::Number(_)
            | Expr::Symbol(_)
            | Expr::Sum(_)
            | Expr::Product(_)
            | Expr::Quotient(..)
            | Expr::Negative(_) => true,
            _ => false,
        }
    });
    plain
}

fn is_same_quantity(a: &Quantity, b: &Quantity) -> bool {
    if let (Some(a_unit), Some(b_unit)) = (&a.unit, &b.unit)
        && !units::are_same(a_unit, b_unit)
    {
        let Some((above, below)) = units::ratio(a_unit, b_unit) else {
            return false;
        };
        let scaled = |expr: &Expr, factor| Expr::Product(vec![expr.clone(), Expr::integer(factor)]);
        return !a.percent && !b.percent && same_number(&scaled(&a.expr, above), &scaled(&b.expr, below));
    }
    if a.percent == b.percent {
        return same_number(&a.expr, &b.expr);
    }
    let (percent, plain) = if a.percent { (a, b) } else { (b, a) };
    if plain.unit.is_some() {
        return false;
    }
    // 28% may lack its sign and be 28, but 0.28% must not pass for 0.28.
    let hundredth = || Expr::Quotient(Box::new(percent.expr.clone()), Box::new(Expr::integer(100)));
    let large = || numeric::constant(&percent.expr).is_some_and(|value| value.re.abs() >= 1.0);
    (large() && same_number(&percent.expr, &plain.expr)) || same_number(&hundredth(), &plain.expr)
}

/// Returns whether two expressions have the same value, for all values of their variables.
pub(super) fn same_number(a: &Expr, b: &Expr) -> bool {
    if a == b {
        return true;
    }
    let (x, y) = (residue(a, 0), residue(b, 0));
    match (x, y) {
        (Some(x), Some(y)) if x.is_same(y) => return true,
        (Some(Residue { exact: true, .. }), Some(Residue { exact: true, .. })) => return is_rounded(a, b),
        _ => {}
    }
    if !a.is_constant() || !b.is_constant() {
        return is_same_function(a, b);
    }
    if let (Some(x), Some(y)) = (surd(a), surd(b)) {
        return x == y || is_rounded(a, b);
    }
    is_rounded(a, b) || is_same_value(a, b)
}

/// Compares constants in floating point.
fn is_same_value(a: &Expr, b: &Expr) -> bool {
    // A decimal is what it says: only `is_rounded` may be lenient with it.
    if decimal(a).is_some() || decimal(b).is_some() {
        return false;
    }
    if is_irrational_root(a) && evaluate(b, &[]).is_some() || is_irrational_root(b) && evaluate(a, &[]).is_some() {
        return false;
    }
    let (Some(x), Some(y)) = (numeric::constant(a), numeric::constant(b)) else {
        return false;
    };
    x.re.abs() < MAX_NUMERIC && x.is_same(y)
}

/// Returns whether this is the root of a fraction that does not come out, and so is no fraction, however near.
fn is_irrational_root(expr: &Expr) -> bool {
    let (inner, degree) = match expr {
        Expr::Root(degree, inner) => (inner, Some(*degree)),
        Expr::Power(inner, exponent) => {
            let exponent = evaluate(exponent, &[]);
            let one = exponent.filter(|exponent| exponent.num() == 1);
            (inner, one.and_then(|exponent| u32::try_from(exponent.den()).ok()))
        }
        _ => return false,
    };
    let (Some(degree), Some(value)) = (degree, evaluate(inner, &[])) else {
        return false;
    };
    exact_root(value, degree).is_none()
}

/// Compares functions of the same variables at points, with negative and with only positive coordinates.
///
/// A point counts where both are defined; with logarithms both must be defined at the same points.
fn is_same_function(a: &Expr, b: &Expr) -> bool {
    let complex = [a, b].iter().any(|expr| {
        let mut found = false;
        expr.walk(&mut |part| found |= *part == Expr::I);
        found
    });
    let has_log = [a, b].iter().any(|expr| expr.has_function(&["ln", "log"]));
    let mut num_same = 0;
    for seed in 0..NUM_POINTS {
        let value = |name: &str| coordinate(name, seed);
        let point = Point {
            value: &value,
            real: !complex,
        };
        match (numeric::at(a, &point), numeric::at(b, &point)) {
            (Some(x), Some(y)) if x.is_same(y) => num_same += 1,
            (Some(_), Some(_)) => return false,
            (None, None) => {}
            _ if has_log => return false,
            _ => {}
        }
    }
    num_same >= MIN_POINTS && a.variables() == b.variables() || num_same as u64 == NUM_POINTS
}

/// The value of a variable at one of the points; from the sixth on it may be negative.
fn coordinate(name: &str, seed: u64) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 27;
    let unit = (hash >> 11) as f64 / (1u64 << 53) as f64;
    let size = 0.2 + 2.6 * unit;
    if seed >= NUM_POINTS / 2 && hash & 1 == 1 {
        -size
    } else {
        size
    }
}

/// A number that is written with decimals, and the size of its last place.
struct Decimal {
    places: i32,
    unit: f64,
}

fn decimal(expr: &Expr) -> Option<Decimal> {
    match expr {
        Expr::Number(digits) => {
            let places = i32::try_from(digits.split_once('.')?.1.len()).ok()?;
            Some(Decimal {
                places,
                unit: 10f64.powi(-places),
            })
        }
        Expr::Negative(inner) => decimal(inner),
        Expr::Product(factors) => match factors.as_slice() {
            [mantissa, Expr::Power(ten, exponent)] if **ten == Expr::integer(10) => {
                let found = decimal(mantissa)?;
                let power = i32::try_from(evaluate(exponent, &[])?.as_integer()?).ok()?;
                Some(Decimal {
                    unit: found.unit * 10f64.powi(power.clamp(-400, 400)),
                    ..found
                })
            }
            _ => None,
        },
        // A percentage over a hundred.
        Expr::Quotient(inner, below) if **below == Expr::integer(100) => {
            let found = decimal(inner)?;
            Some(Decimal {
                unit: found.unit / 100.0,
                ..found
            })
        }
        _ => None,
    }
}

/// Returns whether one is a decimal number of six places or more that the other was rounded to or cut off at.
fn is_rounded(a: &Expr, b: &Expr) -> bool {
    let (rounded, exact) = match (decimal(a), decimal(b)) {
        (Some(x), Some(y)) => match x.places.cmp(&y.places) {
            Ordering::Less => (x, b),
            Ordering::Greater => (y, a),
            Ordering::Equal => return false,
        },
        (Some(x), None) => (x, b),
        (None, Some(y)) => (y, a),
        (None, None) => return false,
    };
    if rounded.places < MIN_DECIMALS || !a.is_constant() || !b.is_constant() {
        return false;
    }
    let (Some(x), Some(y)) = (numeric::constant(a), numeric::constant(b)) else {
        return false;
    };
    if x.im != 0.0 || y.im.abs() > 0.0 {
        return false;
    }
    let (distance, size) = ((x.re - y.re).abs(), x.re.abs().min(y.re.abs()));
    // An exact value with few decimals is not rounded, but printed by a program it may have noise at its end.
    let comes_out = evaluate(exact, &[]).is_some_and(|value| 1_000_000 % value.den() == 0);
    if comes_out {
        return rounded.places >= 12 && distance <= 1e-14 * size;
    }
    // Rounded by half of the last place at most, or cut off and so nearer to zero.
    let decimal_is_first = std::ptr::eq(exact, b);
    let (decimal_size, exact_size) = if decimal_is_first {
        (x.re.abs(), y.re.abs())
    } else {
        (y.re.abs(), x.re.abs())
    };
    let allowed = if decimal_size < exact_size { 0.9999 } else { 0.5001 } * rounded.unit;
    distance <= allowed.max(1e-15 * size) && distance <= 5e-5 * size
}
