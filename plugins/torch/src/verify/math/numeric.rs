//! Values of expressions in floating point, complex, each with a bound of its error.
//!
//! The last resort, where arithmetic alone decides nothing: trigonometric and other identities, roots of roots.
//! Two values are the same only if they can't be told apart and their error is small beside them.

use std::ops::{Add, Mul, Neg};

use super::expr::Expr;
use super::rational::{Rational, evaluate};

/// Rounding of one operation, with some allowance for the functions of the mathematics library.
const EPSILON: f64 = 4e-16;
const MAX_TERMS: i128 = 2_000;
const MAX_WORK: u32 = 50_000;

/// A complex number that is known up to `error`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Approx {
    pub(super) re: f64,
    pub(super) im: f64,
    error: f64,
}

impl Approx {
    fn new(re: f64, im: f64, error: f64) -> Self {
        let rounding = EPSILON * re.hypot(im);
        Self {
            re,
            im,
            error: error + rounding,
        }
    }

    pub(super) fn real(re: f64) -> Self {
        Self::new(re, 0.0, 0.0)
    }

    fn abs(self) -> f64 {
        self.re.hypot(self.im)
    }

    fn is_real(self) -> bool {
        self.im == 0.0
    }

    fn usable(self) -> Option<Self> {
        (self.re.is_finite() && self.im.is_finite() && self.error.is_finite()).then_some(self)
    }

    /// Returns whether the two can't be told apart although they are known well.
    pub(super) fn is_same(self, other: Self) -> bool {
        let distance = (self.re - other.re).hypot(self.im - other.im);
        distance <= self.joint_error(other) && self.is_known_beside(other)
    }

    /// Returns whether the two are known well enough to say whether they are the same.
    pub(super) fn is_known_beside(self, other: Self) -> bool {
        self.joint_error(other) <= 1e-9 * self.abs().max(other.abs()).max(1e-4)
    }

    fn joint_error(self, other: Self) -> f64 {
        4.0 * (self.error + other.error)
    }

    pub(super) fn quotient(self, other: Self) -> Option<Self> {
        self.div(other)
    }

    fn div(self, other: Self) -> Option<Self> {
        let size = other.abs();
        // What may be zero can't be divided by.
        if size <= 8.0 * other.error || size == 0.0 {
            return None;
        }
        if self.is_real() && other.is_real() {
            let value = self.re / other.re;
            return Some(Self::new(value, 0.0, (self.error + value.abs() * other.error) / size));
        }
        let square = size * size;
        let re = (self.re * other.re + self.im * other.im) / square;
        let im = (self.im * other.re - self.re * other.im) / square;
        Some(Self::new(re, im, (self.error + re.hypot(im) * other.error) / size))
    }

    fn exp(self) -> Self {
        let size = self.re.exp();
        let lost = self.abs() != 0.0 && self.abs() < 1e-12 && self.abs() > 8.0 * self.error;
        let error = if lost { f64::INFINITY } else { self.error };
        let (sin, cos) = if self.is_real() { (0.0, 1.0) } else { self.im.sin_cos() };
        Self::new(size * cos, size * sin, size * error)
    }

    fn ln(self) -> Option<Self> {
        let size = self.abs();
        if size <= 8.0 * self.error || size == 0.0 {
            return None;
        }
        let im = if self.is_real() && self.re > 0.0 {
            0.0
        } else {
            self.im.atan2(self.re)
        };
        Some(Self::new(size.ln(), im, self.error / size))
    }

    fn power(self, exponent: Self) -> Option<Self> {
        if exponent.is_real() && exponent.re.fract() == 0.0 && exponent.re.abs() <= 1e4 && exponent.error < 1e-10 {
            return self.integer_power(exponent.re as i64);
        }
        if self.abs() == 0.0 {
            return (exponent.is_real() && exponent.re > 0.0).then(|| Self::real(0.0));
        }
        Some((self.ln()? * exponent).exp())
    }

    fn integer_power(self, exponent: i64) -> Option<Self> {
        if exponent < 0 {
            return Self::real(1.0).div(self.integer_power(-exponent)?);
        }
        if exponent == 0 && self.abs() == 0.0 {
            return None;
        }
        let (mut base, mut left, mut value) = (
            self,
            exponent,
            Self {
                error: 0.0,
                ..Self::real(1.0)
            },
        );
        while left > 0 {
            if left & 1 == 1 {
                value = value * base;
            }
            left >>= 1;
            if left > 0 {
                base = base * base;
            }
        }
        Some(value)
    }

    /// The real root of a real number where there is one, otherwise the principal root.
    fn root(self, degree: u32) -> Option<Self> {
        let slope = |value: f64| {
            let size = self.abs();
            if size > 8.0 * self.error {
                value.abs() * self.error / size
            } else {
                self.error.powf(1.0 / f64::from(degree))
            }
        };
        if self.is_real() && (self.re >= 0.0 || degree % 2 == 1) {
            let size = self.re.abs();
            let value = match degree {
                2 => size.sqrt(),
                3 => size.cbrt(),
                _ => size.powf(1.0 / f64::from(degree)),
            };
            return Some(Self::new(value.copysign(self.re), 0.0, slope(value)));
        }
        if self.is_real() && degree == 2 {
            let value = (-self.re).sqrt();
            return Some(Self::new(0.0, value, slope(value)));
        }
        self.power(Self::real(1.0 / f64::from(degree)))
    }
}

impl Add for Approx {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // A term that vanishes beside the other would be lost: 1 + 10^{-20} is not 1.
        let (small, large) = if self.abs() < other.abs() {
            (self, other)
        } else {
            (other, self)
        };
        let lost = small.abs() > 8.0 * small.error && small.abs() < 1e-12 * large.abs();
        let error = if lost { f64::INFINITY } else { self.error + other.error };
        Self::new(self.re + other.re, self.im + other.im, error)
    }
}

impl Neg for Approx {
    type Output = Self;

    fn neg(self) -> Self {
        Self {
            re: -self.re,
            im: if self.im == 0.0 { 0.0 } else { -self.im },
            ..self
        }
    }
}

impl Mul for Approx {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let error = self.abs() * other.error + other.abs() * self.error + self.error * other.error;
        if self.is_real() && other.is_real() {
            return Self::new(self.re * other.re, 0.0, error);
        }
        Self::new(
            self.re * other.re - self.im * other.im,
            self.re * other.im + self.im * other.re,
            error,
        )
    }
}

/// What variables are worth.
pub(super) struct Point<'a> {
    pub(super) value: &'a dyn Fn(&str) -> f64,
    /// Roots and logarithms of negative numbers have no value.
    pub(super) real: bool,
}

/// Returns the value of an expression without variables.
pub(super) fn constant(expr: &Expr) -> Option<Approx> {
    let no_variables = |_: &str| f64::NAN;
    at(
        expr,
        &Point {
            value: &no_variables,
            real: false,
        },
    )
}

/// Returns the value of an expression at a point; `None` where it has none or the work is too much.
pub(super) fn at(expr: &Expr, point: &Point) -> Option<Approx> {
    let mut evaluation = Evaluation {
        point,
        bound: Vec::new(),
        work: MAX_WORK,
    };
    evaluation.of(expr)
}

struct Evaluation<'a> {
    point: &'a Point<'a>,
    bound: Vec<(String, Rational)>,
    work: u32,
}

impl Evaluation<'_> {
    fn of(&mut self, expr: &Expr) -> Option<Approx> {
        self.work = self.work.checked_sub(1)?;
        let value = match expr {
            Expr::Number(digits) => Approx::real(digits.parse().ok()?),
            Expr::Pi => Approx::real(std::f64::consts::PI),
            Expr::E => Approx::real(std::f64::consts::E),
            Expr::I => Approx::new(0.0, 1.0, 0.0),
            Expr::Infinity => return None,
            Expr::Symbol(name) => match self.bound.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => Approx::real(value.to_f64()),
                None => Approx::real((self.point.value)(name)),
            },
            Expr::Sum(parts) => {
                let mut sum = Approx {
                    error: 0.0,
                    ..Approx::real(0.0)
                };
                for part in parts {
                    sum = sum + self.of(part)?;
                }
                sum
            }
            Expr::Product(parts) => {
                let mut product = Approx {
                    error: 0.0,
                    ..Approx::real(1.0)
                };
                for part in parts {
                    product = product * self.of(part)?;
                }
                product
            }
            Expr::Quotient(a, b) => self.of(a)?.div(self.of(b)?)?,
            Expr::Negative(a) => -self.of(a)?,
            Expr::Power(base, exponent) => self.power(base, exponent)?,
            Expr::Root(degree, inner) => {
                let inner = self.of(inner)?;
                self.check_root(inner, *degree)?;
                inner.root(*degree)?
            }
            Expr::Function(name, arguments) => {
                let mut values = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(self.of(argument)?);
                }
                self.function(name, &values)?
            }
            Expr::Named(name, arguments) => {
                // An unknown function: some smooth one, different for each name.
                let mut value = Approx::real((self.point.value)(name));
                for argument in arguments {
                    let argument = self.of(argument)?;
                    if !argument.is_real() {
                        return None;
                    }
                    value = value * Approx::new((argument.re + 0.3).sin() + 2.0, 0.0, argument.error);
                }
                value
            }
            Expr::Series {
                product,
                variable,
                from,
                to,
                body,
            } => self.series(*product, variable, from, to, body)?,
        };
        value.usable()
    }

    fn check_root(&self, inner: Approx, degree: u32) -> Option<()> {
        let defined = !self.point.real || (inner.is_real() && (inner.re >= 0.0 || degree % 2 == 1));
        defined.then_some(())
    }

    fn power(&mut self, base: &Expr, exponent: &Expr) -> Option<Approx> {
        if *base == Expr::E {
            return Some(self.of(exponent)?.exp());
        }
        let base = self.of(base)?;
        if let Some(value) = evaluate(exponent, &self.bound) {
            if let Some(integer) = value.as_integer().and_then(|integer| i64::try_from(integer).ok()) {
                return if integer.abs() <= 100_000 {
                    base.integer_power(integer)
                } else {
                    None
                };
            }
            let degree = u32::try_from(value.den()).ok()?;
            self.check_root(base, degree)?;
            return base.root(degree)?.integer_power(i64::try_from(value.num()).ok()?);
        }
        let exponent = self.of(exponent)?;
        if self.point.real && (!base.is_real() || base.re < 0.0) {
            return None;
        }
        base.power(exponent)
    }

    fn function(&self, name: &str, values: &[Approx]) -> Option<Approx> {
        let x = *values.first()?;
        match name {
            "deg" => return Some(x * Approx::real(std::f64::consts::PI / 180.0)),
            "ln" => return self.ln(x),
            "log" => return self.ln(*values.get(1)?)?.div(self.ln(x)?),
            "abs" => return Some(Approx::new(x.abs(), 0.0, x.error)),
            "cis" => return Some((x * Approx::new(0.0, 1.0, 0.0)).exp()),
            _ => {}
        }
        if !values.iter().all(|value| value.is_real()) {
            return None;
        }
        // Values that differ from 1 or π/2 by less than can be told.
        let flat = match name {
            "cos" | "sec" | "cosh" => x.re != 0.0 && x.re.abs() < 1e-5,
            "tanh" => x.re.abs() > 8.0,
            "atan" | "acot" => x.re.abs() > 1e6,
            _ => false,
        };
        if flat {
            return None;
        }
        let (value, slope): (f64, f64) = match name {
            "sin" => (x.re.sin(), 1.0),
            "cos" => (x.re.cos(), 1.0),
            "tan" => (x.re.tan(), 1.0 + x.re.tan().powi(2)),
            "cot" => (1.0 / x.re.tan(), 1.0 + x.re.tan().powi(-2)),
            "sec" => (1.0 / x.re.cos(), x.re.cos().powi(-2)),
            "csc" => (1.0 / x.re.sin(), x.re.sin().powi(-2)),
            "asin" => (x.re.asin(), (1.0 - x.re * x.re).max(1e-6).powf(-0.5)),
            "acos" => (x.re.acos(), (1.0 - x.re * x.re).max(1e-6).powf(-0.5)),
            "atan" => (x.re.atan(), 1.0),
            "acot" => (std::f64::consts::FRAC_PI_2 - x.re.atan(), 1.0),
            "sinh" => (x.re.sinh(), x.re.cosh()),
            "cosh" => (x.re.cosh(), x.re.cosh()),
            "tanh" => (x.re.tanh(), 1.0),
            "floor" | "ceil" => {
                // Too near to a step to know the side.
                if (x.re - x.re.round()).abs() <= 4.0 * x.error && x.re.fract() != 0.0 {
                    return None;
                }
                (if name == "floor" { x.re.floor() } else { x.re.ceil() }, 0.0)
            }
            "fact" if x.re > -0.5 && x.re < 170.0 => {
                let value = gamma(x.re + 1.0);
                return Some(Approx::new(value, 0.0, value * (6.0 * x.error + 1e-13)));
            }
            "binom" => {
                let (n, k) = (x.re, values.get(1)?.re);
                if !(0.0..160.0).contains(&n) || k < 0.0 || k > n {
                    return None;
                }
                let value = gamma(n + 1.0) / gamma(k + 1.0) / gamma(n - k + 1.0);
                return Some(Approx::new(value, 0.0, value * 1e-12));
            }
            "max" => return values.iter().copied().max_by(|a, b| a.re.total_cmp(&b.re)),
            "min" => return values.iter().copied().min_by(|a, b| a.re.total_cmp(&b.re)),
            _ => return None,
        };
        Some(Approx::new(value, 0.0, slope * x.error))
    }

    fn ln(&self, x: Approx) -> Option<Approx> {
        if self.point.real && !(x.is_real() && x.re > 0.0) {
            return None;
        }
        x.ln()
    }

    fn series(&mut self, product: bool, variable: &str, from: &Expr, to: &Expr, body: &Expr) -> Option<Approx> {
        let first = evaluate(from, &self.bound)?.as_integer()?;
        let last = evaluate(to, &self.bound)?.as_integer()?;
        if last.checked_sub(first)? > MAX_TERMS {
            return None;
        }
        let mut value = Approx::real(if product { 1.0 } else { 0.0 });
        for idx in first..=last {
            self.bound.push((variable.to_owned(), Rational::integer(idx)?));
            let term = self.of(body);
            self.bound.pop();
            value = if product { value * term? } else { value + term? };
        }
        Some(value)
    }
}

/// The gamma function for x > 0.5 (Lanczos 1964, g = 7, nine coefficients).
fn gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let start = 0.999_999_999_999_809_9;
    let sum = COEFFICIENTS
        .iter()
        .enumerate()
        .fold(start, |sum, (idx, factor)| sum + factor / (x + idx as f64 + 1.0));
    let t = x + 7.5;
    (2.0 * std::f64::consts::PI).sqrt() * t.powf(x + 0.5) * (-t).exp() * sum
}
