//! Exact arithmetic on the numbers that people write: `0.1 + 2 * 0.1` is `0.3` here.

use serde_json::{Number, Value};

/// A number `mantissa * 10^exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decimal {
    mantissa: i128,
    exponent: i32,
}

impl Decimal {
    /// Returns the shortest decimal that reads back as the number.
    fn of(value: &Value) -> Option<Decimal> {
        if let Some(integer) = value.as_i64() {
            return Some(Decimal {
                mantissa: integer.into(),
                exponent: 0,
            });
        }
        let text = format!("{:e}", value.as_f64()?);
        let (digits, exponent) = text.split_once('e')?;
        let decimals = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        Some(Decimal {
            mantissa: digits.replace('.', "").parse().ok()?,
            exponent: exponent.parse::<i32>().ok()? - decimals as i32,
        })
    }

    /// Returns the mantissa at another exponent, if it fits.
    fn at(self, exponent: i32) -> Option<i128> {
        let shift = u32::try_from(self.exponent.checked_sub(exponent)?).ok()?;
        self.mantissa.checked_mul(10i128.checked_pow(shift)?)
    }
}

/// Numbers brought to one exponent.
struct Aligned<const N: usize> {
    mantissas: [i128; N],
    exponent: i32,
    /// Whether all of them were written as integers.
    are_integers: bool,
}

fn aligned<const N: usize>(values: [&Value; N], extra_digits: i32) -> Option<Aligned<N>> {
    let mut decimals = Vec::with_capacity(N);
    for value in values {
        decimals.push(Decimal::of(value)?);
    }
    let exponent = decimals.iter().map(|decimal| decimal.exponent).min()? - extra_digits;
    let mantissas: Option<Vec<i128>> = decimals.iter().map(|decimal| decimal.at(exponent)).collect();
    Some(Aligned {
        mantissas: mantissas?.try_into().ok()?,
        exponent,
        are_integers: values.iter().all(|value| value.is_i64() || value.is_u64()),
    })
}

fn number(mantissa: i128, exponent: i32, is_integer: bool) -> Option<Value> {
    if is_integer {
        let divisor = 10i128.checked_pow(u32::try_from(-exponent).ok()?)?;
        return i64::try_from(mantissa / divisor).ok().map(Value::from);
    }
    float(format!("{mantissa}e{exponent}").parse().ok()?)
}

fn float(number: f64) -> Option<Value> {
    Number::from_f64(number + 0.0).map(Value::Number)
}

/// Returns how many numbers there are from `from` to `to` in steps of `step`, less one; negative if none, absent if
/// the numbers are too far apart in size or the step is zero.
pub(super) fn num_steps(from: &Value, to: &Value, step: &Value) -> Option<i128> {
    let [from, to, step] = aligned([from, to, step], 0)?.mantissas;
    let distance = to.checked_sub(from)?;
    match step {
        0 => None,
        _ if distance != 0 && (distance < 0) != (step < 0) => Some(-1),
        _ => Some(distance / step),
    }
}

/// Returns `from + idx * step`.
pub(super) fn step_to(from: &Value, step: &Value, idx: usize) -> Option<Value> {
    let Aligned {
        mantissas: [from, step],
        exponent,
        are_integers,
    } = aligned([from, step], 0)?;
    let mantissa = from.checked_add(step.checked_mul(idx as i128)?)?;
    number(mantissa, exponent, are_integers)
}

/// Returns `num` numbers from `from` to `to` at equal distances: exact if a few decimals suffice, else rounded.
///
/// They are integers if both ends are and all between them.
pub(super) fn spaced(from: &Value, to: &Value, num: usize) -> Option<Vec<Value>> {
    let gaps = num.checked_sub(1).filter(|gaps| *gaps > 0)? as i128;
    let Aligned {
        mantissas: [first, last],
        exponent,
        are_integers,
    } = aligned([from, to], 6)?;
    let numerators = (0..num as i128).map(|idx| first.checked_mul(gaps - idx)?.checked_add(last.checked_mul(idx)?));
    let numerators: Vec<i128> = numerators.collect::<Option<_>>()?;
    let one = 10i128.pow(6);
    let are_integers = are_integers && numerators.iter().all(|numerator| numerator % (gaps * one) == 0);
    let value = |numerator: i128| match numerator % gaps {
        0 => number(numerator / gaps, exponent, are_integers),
        _ => {
            let scale: f64 = format!("1e{exponent}").parse().ok()?;
            float(rounded(numerator as f64 / gaps as f64 * scale))
        }
    };
    numerators.into_iter().map(value).collect()
}

/// Returns a number with at most six significant digits.
pub(super) fn rounded(number: f64) -> f64 {
    format!("{number:.5e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_are_exact() {
        let steps = |from: Value, step: Value, num: usize| -> Option<Vec<Value>> {
            (0..num).map(|idx| step_to(&from, &step, idx)).collect()
        };
        assert_eq!(
            steps(json!(0.1), json!(0.1), 3),
            Some(vec![json!(0.1), json!(0.2), json!(0.3)])
        );
        assert_eq!(steps(json!(5), json!(-2), 3), Some(vec![json!(5), json!(3), json!(1)]));
        assert_eq!(steps(json!(1e-5), json!(2e-5), 2), Some(vec![json!(1e-5), json!(3e-5)]));
        assert_eq!(num_steps(&json!(0.1), &json!(0.35), &json!(0.1)), Some(2));
        assert_eq!(num_steps(&json!(1), &json!(0), &json!(0.5)), Some(-1));
        assert_eq!(num_steps(&json!(1), &json!(2), &json!(0)), None);
        assert_eq!(num_steps(&json!(1e300), &json!(1), &json!(1e-300)), None);
    }

    #[test]
    fn equal_distances_have_few_digits() {
        assert_eq!(
            spaced(&json!(0), &json!(8), 3),
            Some(vec![json!(0), json!(4), json!(8)])
        );
        assert_eq!(
            spaced(&json!(0), &json!(1), 3),
            Some(vec![json!(0.0), json!(0.5), json!(1.0)])
        );
        assert_eq!(
            spaced(&json!(0), &json!(1), 4),
            Some(vec![json!(0.0), json!(0.333333), json!(0.666667), json!(1.0)])
        );
        assert_eq!(
            spaced(&json!(1000.5), &json!(1001.5), 5).map(|values| values[1].clone()),
            Some(json!(1000.75))
        );
        assert_eq!(spaced(&json!(0), &json!(1), 1), None);
    }
}
