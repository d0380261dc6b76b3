//! Expressions with variables, looked at in several points.

use super::super::expr::Expr;
use super::super::numeric::{self, Approx, Point};
use super::super::rational::evaluate;
use super::super::residue::residue;

const NUM_POINTS: u64 = 10;

const MIN_POINTS: usize = 3;

/// Compares functions of the same variables at points, with negative and with only positive coordinates.
///
/// A point counts where both are defined; with logarithms both must be defined at the same points.
pub(super) fn is_same_function(a: &Expr, b: &Expr) -> bool {
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

/// Returns a / b if it is the same number wherever it is looked at.
pub(super) fn constant_ratio(a: &Expr, b: &Expr) -> Option<f64> {
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
