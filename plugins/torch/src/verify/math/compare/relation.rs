//! Equations and inequalities: the values that they name, and when two say the same.

use super::super::answer::{Answer, Quantity, Relation};
use super::super::expr::Expr;
use super::super::numeric;
use super::super::reals;
use super::decimal::decimal;
use super::function::constant_ratio;
use super::shape::is_same;

impl Relation {
    pub(in super::super) fn is_equation(&self) -> bool {
        self.signs.iter().all(|sign| matches!(sign, '=' | '≈'))
    }

    /// Returns the values that `name = value = value` states; `None` if it is an equation, or contradicts itself.
    pub(super) fn values(&self) -> Option<Vec<&Answer>> {
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
        // Every value with every other: over many links a chain would get anywhere.
        let approximates = self.signs.contains(&'≈');
        let consistent = values
            .iter()
            .enumerate()
            .all(|(idx, a)| values[..idx].iter().all(|b| agrees(a, b, approximates)));
        (consistent && (has_name || values.len() > 1)).then_some(values)
    }
}

/// A decimal in a chain may differ from what it was rounded from by so much of it: a third is about 0.3, not about 0.4.
const MAX_ROUNDING: f64 = 0.12;

/// The last place of a decimal that `=` may put behind what it was rounded from, as in `2/3 = 0.67`.
const MAX_UNIT_OF_EQUAL: f64 = 0.01;

/// Returns whether a chain may have both values: they are the same, or one is a decimal that the other rounds to.
///
/// Anything more lenient lets a chain state several answers, of which one will be right.
fn agrees(a: &Answer, b: &Answer, approximates: bool) -> bool {
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
    let unit = |quantity: &Quantity| {
        let scale = if quantity.percent { 0.01 } else { 1.0 };
        decimal(&quantity.expr).map(|decimal| decimal.unit * scale)
    };
    let (rounded, exact, unit) = match (unit(a), unit(b)) {
        (Some(a_unit), Some(b_unit)) if a_unit == b_unit => return false,
        (Some(a_unit), b_unit) if b_unit.is_none_or(|b_unit| b_unit < a_unit) => (x, y, a_unit),
        (_, Some(b_unit)) => (y, x, b_unit),
        _ => return false,
    };
    // By half of the last place at most, or cut off and so nearer to zero.
    let allowed = if rounded.abs() < exact.abs() { 0.9999 } else { 0.5001 } * unit;
    let distance = (rounded - exact).abs();
    distance <= allowed
        && distance <= MAX_ROUNDING * rounded.abs().max(exact.abs())
        && (approximates || unit <= 1.0001 * MAX_UNIT_OF_EQUAL)
}

pub(super) fn is_same_relation(a: &Relation, b: &Relation) -> bool {
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
