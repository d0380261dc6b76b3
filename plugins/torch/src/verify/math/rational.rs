//! Exact arithmetic on what an answer may consist of: numbers, the four operations, fractions, powers, factorials.
//!
//! Knows nothing of units, percent or equality of answers. Everything is checked: what overflows 128 bits, divides by
//! zero or nests too deeply has no value.

use std::ops::Neg;

const MAX_DEPTH: usize = 16;
const MAX_EXPONENT: i128 = 128;
const MAX_FACTORIAL: i128 = 33;

/// A fraction in lowest terms with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rational {
    num: i128,
    den: i128,
}

impl Rational {
    const ONE: Self = Self { num: 1, den: 1 };

    fn new(num: i128, den: i128) -> Option<Self> {
        if den == 0 || num == i128::MIN || den == i128::MIN {
            return None;
        }
        let divisor = gcd(num.unsigned_abs(), den.unsigned_abs()) as i128;
        let sign = den.signum();
        Some(Self {
            num: num / divisor * sign,
            den: den / divisor * sign,
        })
    }

    fn add(self, other: Self) -> Option<Self> {
        let num = self
            .num
            .checked_mul(other.den)?
            .checked_add(other.num.checked_mul(self.den)?)?;
        Self::new(num, self.den.checked_mul(other.den)?)
    }

    fn mul(self, other: Self) -> Option<Self> {
        Self::new(self.num.checked_mul(other.num)?, self.den.checked_mul(other.den)?)
    }

    fn div(self, other: Self) -> Option<Self> {
        Self::new(self.num.checked_mul(other.den)?, self.den.checked_mul(other.num)?)
    }

    fn pow(self, exponent: Self) -> Option<Self> {
        if exponent.den != 1 || exponent.num.abs() > MAX_EXPONENT || (self.num == 0 && exponent.num <= 0) {
            return None;
        }
        let base = if exponent.num < 0 { Self::ONE.div(self)? } else { self };
        let times = u32::try_from(exponent.num.abs()).ok()?;
        Self::new(base.num.checked_pow(times)?, base.den.checked_pow(times)?)
    }

    fn factorial(self) -> Option<Self> {
        if self.den != 1 || !(0..=MAX_FACTORIAL).contains(&self.num) {
            return None;
        }
        (1..=self.num)
            .try_fold(1i128, i128::checked_mul)
            .and_then(|value| Self::new(value, 1))
    }

    pub(super) fn over_hundred(self) -> Option<Self> {
        Self::new(self.num, self.den.checked_mul(100)?)
    }

    pub(super) fn is_at_least_one(self) -> bool {
        self.num.unsigned_abs() >= self.den.unsigned_abs()
    }

    /// Whether this is `exact`, rounded or cut off after so many places; of tiny numbers too little would be left.
    pub(super) fn rounds(self, exact: Self, places: usize) -> bool {
        let float = |r: Self| r.num as f64 / r.den as f64;
        let (a, b) = (float(self), float(exact));
        let difference = (a - b).abs();
        difference < 0.1f64.powi(places.min(30) as i32) && difference <= 1e-5 * b.abs()
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

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

/// Evaluates a normalized expression; `None` if any part of it is not a number.
pub(super) fn evaluate(text: &str) -> Option<Rational> {
    let mut parser = Parser {
        rest: text.trim(),
        depth: 0,
    };
    let value = parser.sum()?;
    parser.rest.trim().is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.trim_start().strip_prefix(token) else {
            return false;
        };
        // `\times` must not eat the beginning of a longer command.
        let is_command = token.starts_with('\\');
        if is_command && rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return false;
        }
        self.rest = rest;
        true
    }

    fn sum(&mut self) -> Option<Rational> {
        let mut value = self.product()?;
        loop {
            if self.eat("+") {
                value = value.add(self.product()?)?;
            } else if self.eat("-") {
                value = value.add(-self.product()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<Rational> {
        let mut value = self.signed()?;
        loop {
            if ["*", "\\times", "\\cdot", "×"].iter().any(|sign| self.eat(sign)) {
                value = value.mul(self.signed()?)?;
            } else if ["/", "\\div", "÷"].iter().any(|sign| self.eat(sign)) {
                value = value.div(self.signed()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn signed(&mut self) -> Option<Rational> {
        let mut negative = false;
        for _ in 0..MAX_DEPTH {
            if self.eat("-") {
                negative = !negative;
            } else if !self.eat("+") {
                let value = self.power()?;
                return Some(if negative { -value } else { value });
            }
        }
        None
    }

    fn power(&mut self) -> Option<Rational> {
        let mut base = self.atom()?;
        while self.eat("!") {
            base = base.factorial()?;
        }
        if !self.eat("^") {
            return Some(base);
        }
        let exponent = if self.eat("{") {
            let value = self.nested("}")?;
            // `2^{3}!` reads differently to different people.
            (!self.rest.starts_with('!')).then_some(value)?
        } else {
            // Without braces LaTeX raises one character.
            let digit = self.rest.chars().next()?.to_digit(10)?;
            self.rest = &self.rest[1..];
            if self
                .rest
                .starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '!' || c == '^')
            {
                return None;
            }
            Rational::new(i128::from(digit), 1)?
        };
        base.pow(exponent)
    }

    fn nested(&mut self, close: &str) -> Option<Rational> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = self.sum()?;
        self.depth -= 1;
        self.eat(close).then_some(value)
    }

    fn atom(&mut self) -> Option<Rational> {
        if self.eat("(") {
            return self.nested(")");
        }
        if self.eat("{") {
            return self.nested("}");
        }
        if self.fraction_follows() {
            return self.fraction();
        }
        let (number, is_integer) = self.number()?;
        if !is_integer {
            return Some(number);
        }
        // A mixed number: `2\frac{1}{2}` or `2 1/2`.
        if self.fraction_follows() {
            return number.add(self.fraction()?);
        }
        match self.small_fraction() {
            Some(fraction) => number.add(fraction),
            None => Some(number),
        }
    }

    fn fraction_follows(&self) -> bool {
        self.rest
            .trim_start()
            .strip_prefix("\\frac")
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
    }

    fn fraction(&mut self) -> Option<Rational> {
        self.rest = self.rest.trim_start().strip_prefix("\\frac")?;
        let above = self.argument()?;
        let below = self.argument()?;
        above.div(below)
    }

    /// Reads a macro's argument: a group, or one digit.
    fn argument(&mut self) -> Option<Rational> {
        if self.eat("{") {
            return self.nested("}");
        }
        self.rest = self.rest.trim_start();
        let digit = self.rest.chars().next()?.to_digit(10)?;
        self.rest = &self.rest[1..];
        Rational::new(i128::from(digit), 1)
    }

    /// Reads ` 1/2` behind an integer, if just that follows.
    fn small_fraction(&mut self) -> Option<Rational> {
        let rest = self.rest.strip_prefix(' ')?;
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let above = digits(rest);
        let below_at = rest[above..].strip_prefix('/')?;
        let below = digits(below_at);
        let value = Rational::new(rest[..above].parse().ok()?, below_at[..below].parse().ok()?)?;
        self.rest = &below_at[below..];
        Some(value)
    }

    /// Reads an unsigned number with its thousands separators and decimals; also whether it is an integer.
    fn number(&mut self) -> Option<(Rational, bool)> {
        self.rest = self.rest.trim_start();
        let digits_at = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let first = digits_at(self.rest);
        let mut digits = self.rest[..first].to_owned();
        let mut rest = &self.rest[first..];
        // Inside brackets a comma may separate the members of a pair.
        let separator = [',', ' ']
            .into_iter()
            .find(|mark| rest.starts_with(*mark) && self.depth == 0);
        if let Some(mark) = separator.filter(|_| (1..=3).contains(&first)) {
            while let Some(group) = rest.strip_prefix(mark)
                && digits_at(group) == 3
                && !group[3..].starts_with('/')
            {
                digits.push_str(&group[..3]);
                rest = &group[3..];
            }
        }
        let places = rest.strip_prefix('.').map_or(0, digits_at);
        if places > 0 {
            digits.push_str(&rest[1..=places]);
            rest = &rest[places + 1..];
        }
        let scale = 10i128.checked_pow(u32::try_from(places).ok()?)?;
        self.rest = rest;
        Some((Rational::new(digits.parse().ok()?, scale)?, places == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<(i128, i128)> {
        evaluate(text).map(|r| (r.num, r.den))
    }

    #[test]
    fn expressions_have_their_value() {
        assert_eq!(value("2+3*4"), Some((14, 1)));
        assert_eq!(value("-2^2"), Some((-4, 1)));
        assert_eq!(value("(1-3)/4"), Some((-1, 2)));
        assert_eq!(value("2\\frac{1}{2}"), Some((5, 2)));
        assert_eq!(value("1,234.50"), Some((2469, 2)));
        assert_eq!(value("3!/2^{2}"), Some((3, 2)));
        assert_eq!(value("8/2/2"), Some((2, 1)));
    }

    #[test]
    fn what_is_not_a_number_has_no_value() {
        for text in [
            "", "x", "1 2", "1,23", "(1,234)", "1/0", "0^0", "2^x", "2^10", "1.2.3", "5(", "100!", "9^{99}", ".",
        ] {
            assert_eq!(value(text), None, "{text}");
        }
        assert_eq!(value(&"(".repeat(100_000)), None);
        assert_eq!(value(&"-".repeat(100_000)), None);
    }
}
