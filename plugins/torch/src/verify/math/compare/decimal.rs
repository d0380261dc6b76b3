//! Decimal numbers, and when one stands for the value that it was rounded from.

use std::cmp::Ordering;

use super::super::expr::Expr;
use super::super::numeric;
use super::super::rational::evaluate;

/// Decimals from which on a decimal number stands for what it was rounded from.
const MIN_DECIMALS: i32 = 6;

/// A number that is written with decimals, and the size of its last place.
pub(super) struct Decimal {
    pub(super) places: i32,
    pub(super) unit: f64,
}

pub(super) fn decimal(expr: &Expr) -> Option<Decimal> {
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
pub(super) fn is_rounded(a: &Expr, b: &Expr) -> bool {
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
