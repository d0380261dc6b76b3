//! The canonical form of an expression: its value modulo two primes, with an arbitrary value for each variable.
//!
//! Everything that is not arithmetic (π, `\sin x`, roots that do not come out) is a further variable, named by its
//! canonical form. Two expressions that are equal by the rules of arithmetic have the same residues whatever their
//! size, and two that are not have them with probability 2^-121 or so (Schwartz 1980, Zippel 1979: identity testing of
//! polynomials). 2^4181 or 2004! cost as little as 2. The primes are 1 modulo 4, so that i has a value as well.

use std::cell::Cell;

use super::expr::Expr;
use super::rational::{Rational, evaluate};
use super::surd;

const PRIMES: [u64; 2] = [1_999_999_999_999_999_909, 1_777_777_777_777_777_649];
/// Square roots of -1.
const ROOTS_OF_MINUS_ONE: [u64; 2] = [1_319_805_534_891_279_633, 1_252_484_920_266_235_335];

/// Work for one expression, in visited parts.
const MAX_WORK: u32 = 100_000;
const MAX_TERMS: i128 = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Residue {
    values: [u64; 2],
    /// Made from numbers and i by arithmetic alone: a different residue then means a different value.
    pub(super) exact: bool,
}

/// Returns the residue; `None` where the expression has no value, or is too much work.
pub(super) fn residue(expr: &Expr, seed: u64) -> Option<Residue> {
    let context = Context {
        seed,
        work: Cell::new(MAX_WORK),
    };
    context.of(expr, &mut Vec::new())
}

/// What variables are worth, and how much work is left.
struct Context {
    seed: u64,
    work: Cell<u32>,
}

type Bound = Vec<(String, Rational)>;

impl Residue {
    const ONE: Self = Self {
        values: [1, 1],
        exact: true,
    };
    const ZERO: Self = Self {
        values: [0, 0],
        exact: true,
    };

    pub(super) fn is_zero(self) -> bool {
        self.values == [0, 0]
    }

    /// Returns whether the value is the same; of two inexact ones a "no" is not certain.
    pub(super) fn is_same(self, other: Self) -> bool {
        self.values == other.values
    }

    fn map2(self, other: Self, op: impl Fn(u64, u64, u64) -> u64) -> Self {
        let value = |idx: usize| op(self.values[idx], other.values[idx], PRIMES[idx]);
        Self {
            values: [value(0), value(1)],
            exact: self.exact && other.exact,
        }
    }

    fn add(self, other: Self) -> Self {
        self.map2(other, |a, b, prime| {
            ((u128::from(a) + u128::from(b)) % u128::from(prime)) as u64
        })
    }

    fn mul(self, other: Self) -> Self {
        self.map2(other, mul_mod)
    }

    fn neg(self) -> Self {
        self.map2(self, |a, _, prime| (prime - a) % prime)
    }

    pub(super) fn div(self, other: Self) -> Option<Self> {
        if other.values.contains(&0) {
            return None;
        }
        Some(self.map2(other, |a, b, prime| {
            if b == 1 {
                a
            } else {
                mul_mod(a, pow_mod(b, u128::from(prime - 2), prime), prime)
            }
        }))
    }

    fn pow(self, exponent: i128) -> Option<Self> {
        if self.is_zero() && exponent <= 0 {
            return None;
        }
        let raised = self.map2(self, |a, _, prime| pow_mod(a, exponent.unsigned_abs(), prime));
        if exponent < 0 {
            Self::ONE.div(raised)
        } else {
            Some(raised)
        }
    }

    fn rational(value: Rational) -> Option<Self> {
        let part = |value: i128| {
            let values = PRIMES.map(|prime| value.rem_euclid(i128::from(prime)) as u64);
            Self { values, exact: true }
        };
        part(value.num()).div(part(value.den()))
    }

    /// Reads digits of any length with at most one point.
    fn digits(digits: &str) -> Option<Self> {
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let ten = Self {
            values: [10, 10],
            exact: true,
        };
        let value = whole.bytes().chain(decimals.bytes()).fold(Self::ZERO, |value, byte| {
            let digit = u64::from(byte.wrapping_sub(b'0'));
            value.mul(ten).add(Self {
                values: [digit; 2],
                exact: true,
            })
        });
        if decimals.is_empty() {
            return Some(value);
        }
        value.div(ten.pow(decimals.len() as i128)?)
    }
}

fn mul_mod(a: u64, b: u64, prime: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(prime)) as u64
}

fn pow_mod(mut base: u64, mut exponent: u128, prime: u64) -> u64 {
    let mut value = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            value = mul_mod(value, base, prime);
        }
        base = mul_mod(base, base, prime);
        exponent >>= 1;
    }
    value
}

impl Context {
    /// Returns an arbitrary value for what is named by these words and residues.
    fn atom(&self, name: &str, parts: &[Residue]) -> Residue {
        // FNV-1a over the name and the parts, then two rounds of a finalizer (SplitMix64).
        let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        name.bytes().for_each(&mut take);
        for part in parts {
            part.values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .for_each(&mut take);
        }
        let mix = |mut x: u64| {
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        let (first, second) = (mix(hash), mix(hash.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        Residue {
            values: [first % (PRIMES[0] - 2) + 2, second % (PRIMES[1] - 2) + 2],
            exact: false,
        }
    }

    fn of(&self, expr: &Expr, bound: &mut Bound) -> Option<Residue> {
        self.work.set(self.work.get().checked_sub(1)?);
        match expr {
            Expr::Number(digits) => Residue::digits(digits),
            Expr::Pi => Some(self.atom("π", &[])),
            Expr::E => Some(self.atom("e", &[])),
            Expr::I => Some(Residue {
                values: ROOTS_OF_MINUS_ONE,
                exact: true,
            }),
            Expr::Infinity => None,
            Expr::Symbol(name) => match evaluate(expr, bound) {
                Some(value) => Residue::rational(value),
                None => Some(self.atom(&format!("variable {name}"), &[])),
            },
            Expr::Sum(parts) => parts
                .iter()
                .try_fold(Residue::ZERO, |sum, part| Some(sum.add(self.of(part, bound)?))),
            Expr::Product(parts) => parts
                .iter()
                .try_fold(Residue::ONE, |product, part| Some(product.mul(self.of(part, bound)?))),
            Expr::Quotient(a, b) => self.of(a, bound)?.div(self.of(b, bound)?),
            Expr::Negative(a) => Some(self.of(a, bound)?.neg()),
            Expr::Power(base, exponent) => self.power(base, exponent, bound),
            Expr::Root(degree, inner) => self.root(*degree, inner, bound),
            Expr::Function(name, arguments) => self.function(name, arguments, expr, bound),
            Expr::Named(name, arguments) => {
                let parts = self.all(arguments, bound)?;
                Some(self.atom(&format!("named {name}"), &parts))
            }
            Expr::Series {
                product,
                variable,
                from,
                to,
                body,
            } => self.series(*product, variable, from, to, body, bound),
        }
    }

    fn all(&self, exprs: &[Expr], bound: &mut Bound) -> Option<Vec<Residue>> {
        exprs.iter().map(|expr| self.of(expr, bound)).collect()
    }

    fn power(&self, base: &Expr, exponent: &Expr, bound: &mut Bound) -> Option<Residue> {
        if let Some(value) = evaluate(exponent, bound) {
            if let Some(integer) = value.as_integer() {
                return self.of(base, bound)?.pow(integer);
            }
            let degree = u32::try_from(value.den()).ok()?;
            return self.root(degree, base, bound)?.pow(value.num());
        }
        // 2^{n+1} is 2^n and one more 2.
        let whole = self.of(base, bound)?;
        let one;
        let terms = match exponent {
            Expr::Sum(terms) => terms.as_slice(),
            other => {
                one = [other.clone()];
                &one
            }
        };
        terms.iter().try_fold(Residue::ONE, |product, term| {
            let (negative, term) = match term {
                Expr::Negative(inner) => (true, &**inner),
                other => (false, other),
            };
            let sign = if negative { -1 } else { 1 };
            if let Some(integer) = evaluate(term, bound).and_then(Rational::as_integer) {
                return Some(product.mul(whole.pow(sign * integer)?));
            }
            let (times, rest) = match term {
                Expr::Product(factors) if factors.len() > 1 => {
                    match evaluate(&factors[0], bound).and_then(Rational::as_integer) {
                        Some(times) => (times, self.of(&Expr::Product(factors[1..].to_vec()), bound)?),
                        None => (1, self.of(term, bound)?),
                    }
                }
                _ => (1, self.of(term, bound)?),
            };
            Some(product.mul(self.atom("power", &[whole, rest]).pow(sign * times)?))
        })
    }

    fn root(&self, degree: u32, inner: &Expr, bound: &mut Bound) -> Option<Residue> {
        if degree == 2
            && let Some(value) = evaluate(inner, bound)
            && let Some((outside, radicand)) = surd::square_root(value)
        {
            let outside = Residue::rational(outside)?;
            let sign = if radicand < 0 {
                self.of(&Expr::I, bound)?
            } else {
                Residue::ONE
            };
            let rest = match radicand.unsigned_abs() {
                0 => return Some(Residue::ZERO),
                1 => Residue::ONE,
                n => self.atom(&format!("square root {n}"), &[]),
            };
            return Some(outside.mul(sign).mul(rest));
        }
        if let Some(value) = evaluate(inner, bound).and_then(|value| exact_root(value, degree)) {
            return Residue::rational(value);
        }
        let inside = self.of(inner, bound)?;
        Some(self.atom(&format!("root {degree}"), &[inside]))
    }

    fn function(&self, name: &str, arguments: &[Expr], whole: &Expr, bound: &mut Bound) -> Option<Residue> {
        if let Some(value) = evaluate(whole, bound) {
            return Residue::rational(value);
        }
        match (name, arguments) {
            ("deg", [inner]) => {
                let half_turn = Residue::rational(Rational::integer(180)?)?;
                return self.of(inner, bound)?.mul(self.atom("π", &[])).div(half_turn);
            }
            ("fact", [inner]) => {
                if let Some(n) = evaluate(inner, bound) {
                    let n = n.as_integer().filter(|n| (0..=MAX_TERMS).contains(n))?;
                    return self.falling(Residue::rational(Rational::integer(n)?)?, n);
                }
            }
            ("binom", [above, below]) => {
                if let Some(k) = evaluate(below, bound) {
                    let k = k.as_integer().filter(|k| (0..=MAX_TERMS).contains(k))?;
                    if let Some(n) = evaluate(above, bound)
                        && n.as_integer().is_none_or(|n| n < 0)
                    {
                        return None;
                    }
                    let below = self.falling(Residue::rational(Rational::integer(k)?)?, k)?;
                    return self.falling(self.of(above, bound)?, k)?.div(below);
                }
            }
            ("log", [base, argument]) if *base == Expr::E => {
                return Some(self.atom("ln", &[self.of(argument, bound)?]));
            }
            _ => {}
        }
        let parts = self.all(arguments, bound)?;
        Some(self.atom(name, &parts))
    }

    /// n (n - 1) ... (n - k + 1)
    fn falling(&self, n: Residue, k: i128) -> Option<Residue> {
        self.work.set(self.work.get().checked_sub(u32::try_from(k).ok()?)?);
        let minus_one = Residue::ONE.neg();
        let (mut value, mut factor) = (Residue::ONE, n);
        for _ in 0..k {
            value = value.mul(factor);
            factor = factor.add(minus_one);
        }
        Some(value)
    }

    fn series(
        &self,
        product: bool,
        variable: &str,
        from: &Expr,
        to: &Expr,
        body: &Expr,
        bound: &mut Bound,
    ) -> Option<Residue> {
        let end = |expr: &Expr, bound: &Bound| evaluate(expr, bound).and_then(Rational::as_integer);
        let (Some(first), Some(last)) = (end(from, bound), end(to, bound)) else {
            let bounds = [
                self.of(from, bound)?,
                if *to == Expr::Infinity {
                    Residue::ZERO
                } else {
                    self.of(to, bound)?
                },
            ];
            let parts = [bounds[0], bounds[1], self.of(body, bound)?];
            let infinite = *to == Expr::Infinity;
            return Some(self.atom(&format!("series {product} {infinite} {variable}"), &parts));
        };
        if last.checked_sub(first)? > MAX_TERMS || last < first {
            return None;
        }
        let mut value = if product { Residue::ONE } else { Residue::ZERO };
        for idx in first..=last {
            bound.push((variable.to_owned(), Rational::integer(idx)?));
            let term = self.of(body, bound);
            bound.pop();
            value = if product { value.mul(term?) } else { value.add(term?) };
        }
        Some(value)
    }
}

/// Returns the root of a fraction if it comes out.
pub(super) fn exact_root(value: Rational, degree: u32) -> Option<Rational> {
    let root = |value: i128| {
        let near = (value.unsigned_abs() as f64).powf(1.0 / f64::from(degree)).round() as i128;
        (near.checked_pow(degree)? == value.abs()).then_some(near)
    };
    if value.is_negative() && degree.is_multiple_of(2) {
        return None;
    }
    let found = Rational::new(root(value.num())?, root(value.den())?)?;
    Some(if value.is_negative() { -found } else { found })
}
