//! Sums of square roots with rational coefficients, exactly: √12 is 2√3, 1/(√2 - 1) is √2 + 1, and 3 + 4i is one too.
//!
//! Square roots of different squarefree numbers are linearly independent over the rationals, so that two such sums are
//! equal only if all their coefficients are.

use super::expr::Expr;
use super::rational::{Rational, evaluate, gcd};

const MAX_TERMS: usize = 16;
/// Squares of larger primes are not looked for: an equality may be missed, but none is invented.
const MAX_DIVISOR: u128 = 2_000;

/// Coefficients by squarefree radicand, which is negative under an imaginary root; sorted, none zero.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Surd(Vec<(i128, Rational)>);

/// Returns `(a, n)` with √value = a√n and n without square factors; n has the value's sign.
pub(super) fn square_root(value: Rational) -> Option<(Rational, i128)> {
    // √(p/q) = √(pq) / q
    let mut rest = value.num().checked_mul(value.den())?.unsigned_abs();
    if rest == 0 {
        return Some((Rational::ZERO, 0));
    }
    let mut outside: i128 = 1;
    let mut radicand: u128 = 1;
    let mut divisor = 2;
    while divisor <= MAX_DIVISOR && divisor * divisor <= rest {
        let mut times = 0u32;
        while rest.is_multiple_of(divisor) {
            rest /= divisor;
            times += 1;
        }
        outside = outside.checked_mul((divisor as i128).checked_pow(times / 2)?)?;
        radicand *= if times % 2 == 1 { divisor } else { 1 };
        divisor += if divisor == 2 { 1 } else { 2 };
    }
    let root = rest.isqrt();
    if root * root == rest {
        outside = outside.checked_mul(i128::try_from(root).ok()?)?;
    } else {
        radicand = radicand.checked_mul(rest)?;
    }
    let radicand = i128::try_from(radicand).ok()?;
    let outside = Rational::new(outside, value.den())?;
    Some((outside, if value.is_negative() { -radicand } else { radicand }))
}

impl Surd {
    fn of_terms(terms: impl IntoIterator<Item = (i128, Rational)>) -> Option<Self> {
        let mut sorted: Vec<(i128, Rational)> = terms.into_iter().collect();
        sorted.sort_by_key(|(radicand, _)| *radicand);
        let mut merged: Vec<(i128, Rational)> = Vec::new();
        for (radicand, factor) in sorted {
            match merged.last_mut() {
                Some((last, sum)) if *last == radicand => *sum = sum.add(factor)?,
                _ => merged.push((radicand, factor)),
            }
        }
        merged.retain(|(_, factor)| *factor != Rational::ZERO);
        (merged.len() <= MAX_TERMS).then_some(Self(merged))
    }

    fn rational(value: Rational) -> Self {
        Self(if value == Rational::ZERO {
            Vec::new()
        } else {
            vec![(1, value)]
        })
    }

    fn as_rational(&self) -> Option<Rational> {
        match self.0.as_slice() {
            [] => Some(Rational::ZERO),
            [(1, value)] => Some(*value),
            _ => None,
        }
    }

    fn add(&self, other: &Self) -> Option<Self> {
        Self::of_terms(self.0.iter().chain(&other.0).copied())
    }

    fn neg(&self) -> Self {
        Self(self.0.iter().map(|(radicand, factor)| (*radicand, -*factor)).collect())
    }

    fn mul(&self, other: &Self) -> Option<Self> {
        let mut terms = Vec::new();
        for (a, x) in &self.0 {
            for (b, y) in &other.0 {
                let common = gcd(a.unsigned_abs(), b.unsigned_abs()) as i128;
                let radicand = (a / common).checked_mul(b / common)?;
                // √-a √-b = -√(ab)
                let sign = if *a < 0 && *b < 0 { -common } else { common };
                terms.push((radicand, x.mul(*y)?.mul(Rational::integer(sign)?)?));
            }
        }
        Self::of_terms(terms)
    }

    /// Multiplies with conjugates until nothing but a rational number is below.
    fn inverse(&self) -> Option<Self> {
        let mut above = Self::rational(Rational::ONE);
        let mut below = self.clone();
        for _ in 0..6 {
            if let Some(value) = below.as_rational() {
                return above.mul(&Self::rational(Rational::ONE.div(value)?));
            }
            let (radicand, _) = below.0.iter().find(|(radicand, _)| *radicand != 1)?;
            let flips: Box<dyn Fn(i128) -> bool> = if *radicand < 0 {
                Box::new(|radicand: i128| radicand < 0)
            } else {
                let prime = (2..=MAX_DIVISOR as i128)
                    .find(|prime| radicand % prime == 0)
                    .unwrap_or(*radicand);
                Box::new(move |radicand: i128| radicand % prime == 0)
            };
            let conjugate = Self(
                below
                    .0
                    .iter()
                    .map(|(radicand, factor)| (*radicand, if flips(*radicand) { -*factor } else { *factor }))
                    .collect(),
            );
            above = above.mul(&conjugate)?;
            below = below.mul(&conjugate)?;
        }
        None
    }

    fn pow(&self, exponent: i128) -> Option<Self> {
        if exponent.abs() > 64 || (self.0.is_empty() && exponent <= 0) {
            return None;
        }
        let mut base = if exponent < 0 { self.inverse()? } else { self.clone() };
        let mut left = exponent.unsigned_abs();
        let mut value = Self::rational(Rational::ONE);
        while left > 0 {
            if left & 1 == 1 {
                value = value.mul(&base)?;
            }
            left >>= 1;
            if left > 0 {
                base = base.mul(&base)?;
            }
        }
        Some(value)
    }

    /// The principal square root, if it is such a sum again: √(a + b√c) = √x ± √y where x + y = a and 4xy = b²c.
    fn root(&self) -> Option<Self> {
        if let Some(value) = self.as_rational() {
            let (outside, radicand) = square_root(value)?;
            return Self::of_terms([(radicand, outside)].into_iter().filter(|(radicand, _)| *radicand != 0));
        }
        let (whole, radicand, factor) = match self.0.as_slice() {
            [(1, whole), (radicand, factor)] => (*whole, *radicand, *factor),
            [(radicand, factor)] => (Rational::ZERO, *radicand, *factor),
            [(radicand, factor), (1, whole)] => (*whole, *radicand, *factor),
            _ => return None,
        };
        let norm = whole
            .mul(whole)?
            .add(-factor.mul(factor)?.mul(Rational::integer(radicand)?)?)?;
        let (norm_root, 1) = square_root(norm)? else {
            return None;
        };
        let half = Rational::new(1, 2)?;
        let x = whole.add(norm_root)?.mul(half)?;
        let y = whole.add(-norm_root)?.mul(half)?;
        let (x_root, y_root) = (Self::rational(x).root()?, Self::rational(y).root()?);
        // A real sum with a negative value has no real root; a complex one has its root in the right half-plane.
        if (radicand > 0 && (x.is_negative() || y.is_negative())) || (radicand < 0 && x.is_negative()) {
            return None;
        }
        x_root.add(&if factor.is_negative() { y_root.neg() } else { y_root })
    }
}

/// Returns an expression without variables as such a sum, if it is one.
pub(super) fn surd(expr: &Expr) -> Option<Surd> {
    match expr {
        Expr::I => Some(Surd(vec![(-1, Rational::ONE)])),
        Expr::Sum(parts) => parts
            .iter()
            .try_fold(Surd(Vec::new()), |sum, part| sum.add(&surd(part)?)),
        Expr::Product(parts) => parts
            .iter()
            .try_fold(Surd::rational(Rational::ONE), |product, part| product.mul(&surd(part)?)),
        Expr::Quotient(a, b) => surd(a)?.mul(&surd(b)?.inverse()?),
        Expr::Negative(a) => Some(surd(a)?.neg()),
        Expr::Root(2, inner) => surd(inner)?.root(),
        Expr::Power(base, exponent) => {
            let exponent = evaluate(exponent, &[])?;
            match (exponent.as_integer(), exponent.den()) {
                (Some(integer), _) => surd(base)?.pow(integer),
                (None, 2) => surd(base)?.root()?.pow(exponent.num()),
                _ => None,
            }
        }
        other => evaluate(other, &[]).map(Surd::rational),
    }
}
