//! Whether two numbers or expressions have the same value.

use super::super::answer::Quantity;
use super::super::expr::Expr;
use super::super::numeric;
use super::super::rational::evaluate;
use super::super::residue::{Residue, exact_root, residue};
use super::super::surd::surd;
use super::super::units;
use super::decimal::{decimal, is_rounded};
use super::function::is_same_function;

/// From this size on a number beside a percentage is one that lacks its sign, below it a share.
const MIN_WITHOUT_SIGN: f64 = 2.0;

/// The largest value that floating point alone may decide about.
const MAX_NUMERIC: f64 = 1e6;

pub(super) fn is_same_quantity(a: &Quantity, b: &Quantity) -> bool {
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
    // One reading for each number, so that 5% and 500% are never the same answer. 28 lacks its sign and is 28%: no
    // answer of GSM8K has one, not even where a percentage is asked for. 0.28 is 28%, not 0.28%.
    if numeric::constant(&plain.expr).is_some_and(|value| value.re.abs() >= MIN_WITHOUT_SIGN) {
        return same_number(&percent.expr, &plain.expr);
    }
    let hundredth = Expr::Quotient(Box::new(percent.expr.clone()), Box::new(Expr::integer(100)));
    same_number(&hundredth, &plain.expr)
}

/// Returns whether two expressions have the same value, for all values of their variables.
pub(in super::super) fn same_number(a: &Expr, b: &Expr) -> bool {
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
