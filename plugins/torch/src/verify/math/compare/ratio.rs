//! Ratios, and times of the day, which look like them.

use super::super::answer::Quantity;
use super::super::expr::Expr;
use super::super::rational::gcd;
use super::number::{is_same_quantity, same_number};

pub(super) fn quotient(a: &Quantity, b: &Quantity) -> Expr {
    Expr::Quotient(Box::new(a.expr.clone()), Box::new(b.expr.clone()))
}

/// A time: it has a leading zero, a unit such as "pm", or minutes of two digits and is not in lowest terms.
pub(super) fn is_clock(ratio: &[Quantity]) -> bool {
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

pub(super) fn is_same_ratio(a: &[Quantity], b: &[Quantity]) -> bool {
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
