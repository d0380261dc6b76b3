//! Exact fractions of 128 bits; what overflows has no value.

use std::cmp::Ordering;
use std::ops::Neg;

use super::expr::Expr;

const MAX_EXPONENT: i128 = 128;
const MAX_FACTORIAL: i128 = 33;

/// A fraction in lowest terms with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rational {
    num: i128,
    den: i128,
}

impl Rational {
    pub(super) const ZERO: Self = Self { num: 0, den: 1 };
    pub(super) const ONE: Self = Self { num: 1, den: 1 };

    pub(super) fn new(num: i128, den: i128) -> Option<Self> {
        if den == 0 || num == i128::MIN || den == i128::MIN {
            return None;
        }
        let divisor = gcd(num.unsigned_abs(), den.unsigned_abs()).max(1) as i128;
        let sign = den.signum();
        Some(Self {
            num: num / divisor * sign,
            den: den / divisor * sign,
        })
    }

    pub(super) fn integer(value: i128) -> Option<Self> {
        Self::new(value, 1)
    }

    /// Reads digits with at most one point.
    pub(super) fn parse(digits: &str) -> Option<Self> {
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let scale = 10i128.checked_pow(u32::try_from(decimals.len()).ok()?)?;
        let part = |digits: &str| {
            if digits.is_empty() {
                Some(0)
            } else {
                digits.parse::<i128>().ok()
            }
        };
        Self::new(part(whole)?.checked_mul(scale)?.checked_add(part(decimals)?)?, scale)
    }

    pub(super) fn num(self) -> i128 {
        self.num
    }

    pub(super) fn den(self) -> i128 {
        self.den
    }

    pub(super) fn as_integer(self) -> Option<i128> {
        (self.den == 1).then_some(self.num)
    }

    pub(super) fn to_f64(self) -> f64 {
        self.num as f64 / self.den as f64
    }

    pub(super) fn is_negative(self) -> bool {
        self.num < 0
    }

    pub(super) fn add(self, other: Self) -> Option<Self> {
        let num = self
            .num
            .checked_mul(other.den)?
            .checked_add(other.num.checked_mul(self.den)?)?;
        Self::new(num, self.den.checked_mul(other.den)?)
    }

    pub(super) fn mul(self, other: Self) -> Option<Self> {
        Self::new(self.num.checked_mul(other.num)?, self.den.checked_mul(other.den)?)
    }

    pub(super) fn div(self, other: Self) -> Option<Self> {
        Self::new(self.num.checked_mul(other.den)?, self.den.checked_mul(other.num)?)
    }

    pub(super) fn pow(self, exponent: Self) -> Option<Self> {
        if exponent.den != 1 || exponent.num.abs() > MAX_EXPONENT || (self.num == 0 && exponent.num <= 0) {
            return None;
        }
        let base = if exponent.num < 0 { Self::ONE.div(self)? } else { self };
        let times = u32::try_from(exponent.num.abs()).ok()?;
        Self::new(base.num.checked_pow(times)?, base.den.checked_pow(times)?)
    }

    fn factorial(self) -> Option<Self> {
        let value = self.as_integer().filter(|value| (0..=MAX_FACTORIAL).contains(value))?;
        Self::integer((1..=value).try_fold(1i128, i128::checked_mul)?)
    }

    fn binomial(self, below: Self) -> Option<Self> {
        let (n, k) = (self.as_integer()?, below.as_integer()?);
        if !(0..=500).contains(&n) || k < 0 {
            return None;
        }
        if k > n {
            return Some(Self::ZERO);
        }
        (0..k.min(n - k)).try_fold(Self::ONE, |value, idx| value.mul(Self::new(n - idx, idx + 1)?))
    }

    fn floor(self) -> Self {
        Self {
            num: self.num.div_euclid(self.den),
            den: 1,
        }
    }

    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        Some(self.num.checked_mul(other.den)?.cmp(&other.num.checked_mul(self.den)?))
    }
}

impl Neg for Rational {
    type Output = Self;

    fn neg(self) -> Self {
        // `new` keeps i128::MIN out.
        Self {
            num: -self.num,
            den: self.den,
        }
    }
}

pub(super) fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Evaluates an expression that consists of rational operations on numbers, and of variables with a value.
pub(super) fn evaluate(expr: &Expr, bound: &[(String, Rational)]) -> Option<Rational> {
    let value = |expr: &Expr| evaluate(expr, bound);
    match expr {
        Expr::Number(digits) => Rational::parse(digits),
        Expr::Symbol(name) => bound
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, value)| *value),
        Expr::Sum(parts) => parts.iter().try_fold(Rational::ZERO, |sum, part| sum.add(value(part)?)),
        Expr::Product(parts) => parts
            .iter()
            .try_fold(Rational::ONE, |product, part| product.mul(value(part)?)),
        Expr::Quotient(a, b) => value(a)?.div(value(b)?),
        Expr::Negative(a) => Some(-value(a)?),
        Expr::Power(a, b) => value(a)?.pow(value(b)?),
        Expr::Function(name, arguments) => {
            let values: Vec<Rational> = arguments.iter().map(value).collect::<Option<_>>()?;
            function(name, &values)
        }
        _ => None,
    }
}

fn function(name: &str, values: &[Rational]) -> Option<Rational> {
    let first = *values.first()?;
    let integers = |fold: fn(u128, u128) -> Option<u128>| {
        let mut numbers = values.iter().map(|value| value.as_integer().map(i128::unsigned_abs));
        let start = numbers.next()??;
        let found = numbers.try_fold(start, |a, b| fold(a, b?))?;
        Rational::integer(i128::try_from(found).ok()?)
    };
    match name {
        "fact" => first.factorial(),
        "binom" => first.binomial(*values.get(1)?),
        "abs" => Some(if first.is_negative() { -first } else { first }),
        "floor" => Some(first.floor()),
        "ceil" => Some(-(-first).floor()),
        "gcd" => integers(|a, b| Some(gcd(a, b))),
        "lcm" => integers(|a, b| a.checked_div(gcd(a, b))?.checked_mul(b)),
        "max" | "min" => {
            let wanted = if name == "max" {
                Ordering::Greater
            } else {
                Ordering::Less
            };
            values.iter().try_fold(first, |best, value| {
                Some(if value.compare(best)? == wanted { *value } else { best })
            })
        }
        _ => None,
    }
}
