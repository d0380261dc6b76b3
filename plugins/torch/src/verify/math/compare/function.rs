//! Expressions with variables, looked at in several points.

use super::super::expr::Expr;
use super::super::numeric::{self, Approx, Point};
use super::super::rational::evaluate;
use super::super::residue::residue;

/// Points near zero: the first half has positive coordinates only.
const NUM_POINTS: usize = 10;

const MIN_POINTS: usize = 3;

/// Signs of the coordinates in the second half of the points near zero, a bit each: every variable is negative in two
/// points or more, and any two of the first five have all pairs of signs but perhaps one.
const SIGNS: [u32; 5] = [0b10101, 0b10011, 0b01110, 0b11010, 0b01101];

/// Sizes of coordinates at which expressions with corners and steps are looked at, each the last one times `RATIO`: up to
/// 5,000 or five times their largest number, and close enough to hit what lies between two corners such as 15 and 20.
const NUM_SIZES: usize = 50;
const SMALLEST: f64 = 0.3;
const RATIO: f64 = 1.22;
const LARGEST_NUMBER: f64 = 1e9;

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
    let points = Points::of(a, b);
    let mut num_same = 0;
    for seed in 0..NUM_POINTS {
        match points.values(a, b, seed, !complex) {
            (Some(x), Some(y)) if x.is_same(y) => num_same += 1,
            (Some(_), Some(_)) => return false,
            (None, None) => {}
            _ if has_log => return false,
            _ => {}
        }
    }
    let differ = |seed| match points.values(a, b, seed, !complex) {
        // What is nearly too small for floating point says nothing.
        (Some(x), Some(y)) => !x.is_same(y) && x.is_known_beside(y) && x.re.hypot(y.re) > 1e-100,
        _ => false,
    };
    let enough = num_same >= MIN_POINTS && a.variables() == b.variables() || num_same == NUM_POINTS;
    enough && !points.far().any(differ)
}

/// Where two expressions are looked at.
struct Points {
    /// Variables of both, sorted.
    names: Vec<String>,
    /// Sizes of coordinates away from zero; none where what holds near zero holds everywhere.
    num_sizes: usize,
}

impl Points {
    fn of(a: &Expr, b: &Expr) -> Self {
        let mut names = a.variables();
        names.extend(b.variables());
        names.sort();
        names.dedup();
        // Near zero |x - 5| is 5 - x, and between whole numbers the next one above is one more than the next below.
        let num_sizes = if has_corners(a) || has_corners(b) {
            let largest = largest_number(a).max(largest_number(b)).clamp(1e3, LARGEST_NUMBER);
            NUM_SIZES + ((largest / 1e3).ln() / RATIO.ln()).ceil() as usize
        } else {
            0
        };
        Self { names, num_sizes }
    }

    /// Points with coordinates of all sizes and both signs, at half of them whole numbers.
    fn far(&self) -> std::ops::Range<usize> {
        NUM_POINTS..NUM_POINTS + 2 * self.num_sizes
    }

    fn values(&self, a: &Expr, b: &Expr, seed: usize, real: bool) -> (Option<Approx>, Option<Approx>) {
        let value = |name: &str| self.coordinate(name, seed);
        let point = Point { value: &value, real };
        (numeric::at(a, &point), numeric::at(b, &point))
    }

    /// The value of a variable, or what stands for a function that only has a name.
    fn coordinate(&self, name: &str, seed: usize) -> f64 {
        let hash = hash(name, seed as u64);
        let place = self.names.binary_search_by(|known| known.as_str().cmp(name)).ok();
        if seed < NUM_POINTS {
            let unit = (hash >> 11) as f64 / (1u64 << 53) as f64;
            let size = 0.2 + 2.6 * unit;
            let negative = match place.and_then(|place| SIGNS.get(place)) {
                _ if seed < NUM_POINTS / 2 => false,
                Some(signs) => (signs >> (seed - NUM_POINTS / 2)) & 1 == 1,
                None => hash & 1 == 1,
            };
            return if negative { -size } else { size };
        }
        // The first variable takes each size with each sign, the others any with any.
        let at = seed - NUM_POINTS;
        let (size, negative) = match place {
            Some(0) => (at / 2, at % 2 == 1),
            _ => ((hash >> 8) as usize % self.num_sizes, hash & 1 == 1),
        };
        let size = SMALLEST * RATIO.powi(size as i32);
        let size = if at / 2 % 2 == 1 { size.ceil() } else { size };
        if negative { -size } else { size }
    }
}

fn hash(name: &str, seed: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ (hash >> 27)
}

/// Returns whether there is a corner or a step somewhere: behind it the function may be another one.
fn has_corners(expr: &Expr) -> bool {
    let mut found = false;
    expr.walk(&mut |part| {
        found |= match part {
            Expr::Function("abs" | "max" | "min" | "floor" | "ceil", arguments) => {
                arguments.iter().any(|argument| !argument.is_constant())
            }
            // A root of a square.
            Expr::Root(degree, inner) => degree % 2 == 0 && !inner.is_constant(),
            Expr::Power(base, exponent) => {
                evaluate(exponent, &[]).is_some_and(|value| value.den() % 2 == 0) && !base.is_constant()
            }
            _ => false,
        }
    });
    found
}

fn largest_number(expr: &Expr) -> f64 {
    let mut largest = 0.0f64;
    expr.walk(&mut |part| {
        if let Expr::Number(digits) = part {
            largest = largest.max(digits.parse().unwrap_or(0.0));
        }
    });
    largest
}

/// Returns a / b if it is the same number wherever it is looked at.
pub(super) fn constant_ratio(a: &Expr, b: &Expr) -> Option<f64> {
    let points = Points::of(a, b);
    let ratio_at = |seed: usize| {
        let (a, b) = points.values(a, b, seed, true);
        a?.quotient(b?)
    };
    let ratios: Vec<Approx> = (0..NUM_POINTS).filter_map(ratio_at).collect();
    let first = *ratios.first()?;
    let constant = first.im == 0.0
        && first.re != 0.0
        && ratios.len() >= MIN_POINTS
        && ratios.iter().all(|ratio| first.is_same(*ratio))
        && points
            .far()
            .filter_map(ratio_at)
            .all(|ratio| first.is_same(ratio) || !first.is_known_beside(ratio));
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
