//! Seeded draws of axis values.
//!
//! Each draw has an index, and its value depends on nothing but the form with its bounds, the name of the axis, the seed
//! and that index. So a draw never changes when more of them are asked for, on any machine: extending a random search
//! runs the new points only.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::axis::{check_value, count, number, positive};
use super::decimal::rounded;
use super::fields::Fields;
use super::mistake::Mistake;
use super::yaml::{Item, Key, Tree};
use crate::digest::{Digest, canonical};

const TAG: &str = "volvelle draw v1";

/// What is drawn.
pub(super) struct Draw<'a> {
    form: &'a str,
    axis: &'a str,
    from: From,
    num: usize,
    seed: i64,
}

enum From {
    /// Evenly between two numbers.
    Uniform(f64, f64),
    /// Evenly between the logarithms of two numbers.
    LogUniform(f64, f64),
    /// Integers, both ends among them.
    Integers(i64, i64),
    /// Given values.
    Choice(Vec<Value>),
}

impl<'a> Draw<'a> {
    /// Reads the options of a draw; `None` after telling `out` what is wrong.
    pub fn read(axis: &'a Key, form: &'a Key, options: &'a Tree, out: &mut Vec<Mistake>) -> Option<Draw<'a>> {
        let before = out.len();
        let from = match form.text.as_str() {
            "choice" => {
                let fields = Fields::read(form, options, &["of", "num", "seed"], out)?;
                From::Choice(choices(axis, fields.get("of", out)?, out)?)
            }
            _ => bounds(form, options, out)?,
        };
        let fields = Fields::read(form, options, &["of", "low", "high", "num", "seed"], out)?;
        let num = fields.get("num", out).and_then(|tree| count(form, tree, 1, out));
        let seed = match fields.find("seed") {
            None => Some(0),
            Some(tree) => {
                let seed = tree.to_value().as_i64();
                if seed.is_none() {
                    let message = format!(
                        "the `seed` of `{}` must be an integer, not {}",
                        form.text,
                        tree.described()
                    );
                    out.push(Mistake::new(&tree.at, message));
                }
                seed
            }
        };
        (out.len() == before).then_some(())?;
        Some(Draw {
            form: &form.text,
            axis: &axis.text,
            from,
            num: num?,
            seed: seed?,
        })
    }

    /// Returns the draw with an index.
    fn value(&self, idx: u64) -> Value {
        let bits = self.bits(idx);
        // The upper 53 bits as a fraction of 1: every such double is as likely as every other.
        let share = (bits >> 11) as f64 / (1u64 << 53) as f64;
        match &self.from {
            From::Uniform(low, high) => rounded(low + (high - low) * share).clamp(*low, *high).into(),
            From::LogUniform(low, high) => {
                let log = low.ln() * (1.0 - share) + high.ln() * share;
                rounded(log.exp()).clamp(*low, *high).into()
            }
            From::Integers(low, high) => {
                let num = (i128::from(*high) - i128::from(*low) + 1) as u128;
                let offset = (u128::from(bits) * num) >> 64;
                ((i128::from(*low) + offset as i128) as i64).into()
            }
            From::Choice(of) => of[((u128::from(bits) * of.len() as u128) >> 64) as usize].clone(),
        }
    }

    fn bits(&self, idx: u64) -> u64 {
        let address = json!({"form": self.form, "axis": self.axis, "seed": self.seed, "index": idx});
        let digest = Digest::of_value(TAG, &address).expect("names and integers have a canonical text");
        let mut first = [0u8; 8];
        first.copy_from_slice(&digest.0[..8]);
        u64::from_be_bytes(first)
    }

    /// Returns how many different values there can be, where that may be too few.
    fn num_possible(&self) -> Option<i128> {
        match &self.from {
            From::Integers(low, high) => Some(i128::from(*high) - i128::from(*low) + 1),
            From::Choice(of) => Some(of.len() as i128),
            From::Uniform(..) | From::LogUniform(..) => None,
        }
    }
}

/// Returns the drawn values. With `are_different` a value that came before is drawn again under the next index, which
/// leaves the beginning of the list as it is however long the list gets.
pub(super) fn values(draw: &Draw<'_>, are_different: bool, at: &Tree, out: &mut Vec<Mistake>) -> Option<Vec<Value>> {
    if !are_different {
        return Some((0..draw.num as u64).map(|idx| draw.value(idx)).collect());
    }
    let too_few = |num: i128| {
        let message = format!(
            "axis `{}` can't have {} different values: there are only {num}",
            draw.axis, draw.num
        );
        Mistake::new(&at.at, message).help("lower `num`, or let the axis vary with others in a `zip`")
    };
    if let Some(num) = draw.num_possible().filter(|num| *num < draw.num as i128) {
        out.push(too_few(num));
        return None;
    }
    let mut seen = HashSet::new();
    let mut values = Vec::with_capacity(draw.num);
    // The last of n values takes about n draws to be met, so the bound is met only where there are too few of them.
    let most = 1000 + 200 * draw.num as u64;
    for idx in 0..most {
        let value = draw.value(idx);
        if seen.insert(canonical::to_string(&value).unwrap_or_default()) {
            values.push(value);
        }
        if values.len() == draw.num {
            return Some(values);
        }
    }
    out.push(too_few(values.len() as i128));
    None
}

fn bounds(form: &Key, options: &Tree, out: &mut Vec<Mistake>) -> Option<From> {
    let fields = Fields::read(form, options, &["low", "high", "num", "seed"], out)?;
    let (low, high) = (fields.get("low", out), fields.get("high", out));
    let (low_tree, high_tree) = (low?, high?);
    let read = match form.text.as_str() {
        "log_uniform" => positive,
        _ => number,
    };
    let (low, high) = (read(form, low_tree, out), read(form, high_tree, out));
    let (low, high) = (low?, high?);
    if low >= high {
        let message = format!("the `low` of `{}` must be less than its `high`", form.text);
        out.push(Mistake::new(&low_tree.at, message));
        return None;
    }
    match form.text.as_str() {
        "uniform" => Some(From::Uniform(low, high)),
        "log_uniform" => Some(From::LogUniform(low, high)),
        _ => {
            let integer = |tree: &Tree, out: &mut Vec<Mistake>| {
                let integer = tree.to_value().as_i64();
                if integer.is_none() {
                    let message = format!("an `int_uniform` is between integers, not {}", tree.described());
                    out.push(Mistake::new(&tree.at, message));
                }
                integer
            };
            let (low, high) = (integer(low_tree, out), integer(high_tree, out));
            Some(From::Integers(low?, high?))
        }
    }
}

fn choices(axis: &Key, of: &Tree, out: &mut Vec<Mistake>) -> Option<Vec<Value>> {
    let before = out.len();
    let Item::List(items) = &of.item else {
        let message = format!(
            "the `of` of a `choice` must be a list of values, not {}",
            of.described()
        );
        out.push(Mistake::new(&of.at, message));
        return None;
    };
    if items.is_empty() {
        out.push(Mistake::new(&of.at, "a `choice` of nothing"));
    }
    let mut values: Vec<Value> = Vec::new();
    for item in items {
        check_value(axis, item, out);
        let value = item.to_value();
        if values.contains(&value) {
            out.push(Mistake::new(
                &item.at,
                format!("a `choice` has {} twice", item.described()),
            ));
        }
        values.push(value);
    }
    (out.len() == before).then_some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::mistake::At;

    fn drawn(axis: &str, form: &str, options: Value, are_different: bool) -> Vec<Value> {
        let at = At::whole("p", "x");
        let key = |text: &str| Key {
            text: text.to_owned(),
            at: at.clone(),
        };
        let (axis, form, options) = (key(axis), key(form), Tree::from_value(&options, &at));
        let mut out = Vec::new();
        let draw = Draw::read(&axis, &form, &options, &mut out);
        let values = draw.and_then(|draw| values(&draw, are_different, &options, &mut out));
        values.unwrap_or_else(|| panic!("{out:?}"))
    }

    /// Drawn values are part of what people share; were they to change, every random search would run again.
    #[test]
    fn the_draws_of_today_are_those_of_tomorrow() {
        let uniform = json!({"low": 0, "high": 1, "num": 3, "seed": 1});
        assert_eq!(
            drawn("x", "uniform", uniform.clone(), true),
            [0.332236, 0.691312, 0.48106]
        );
        assert_ne!(drawn("y", "uniform", uniform, true)[0], 0.332236);
        let log = json!({"low": 1e-5, "high": 1e-2, "num": 2});
        assert_eq!(drawn("lr", "log_uniform", log, true), [4.1953e-5, 0.000420083]);
        let integers = json!({"low": 1, "high": 6, "num": 6});
        assert_eq!(drawn("die", "int_uniform", integers.clone(), true), [5, 3, 4, 2, 6, 1]);
        assert_eq!(drawn("die", "int_uniform", integers, false), [5, 5, 5, 3, 5, 3]);
        let choice = json!({"of": ["a", "b", "c"], "num": 3});
        assert_eq!(drawn("arm", "choice", choice, true), ["c", "a", "b"]);
    }

    proptest! {
        #[test]
        fn a_draw_keeps_its_beginning_when_more_are_drawn(
            num in 1u64..20, more in 0u64..20, seed in any::<i64>(), are_different in any::<bool>(), form in 0usize..4,
        ) {
            let (form, bounds) = [
                ("uniform", json!({"low": -1, "high": 2.5})),
                ("log_uniform", json!({"low": 1e-6, "high": 10})),
                ("int_uniform", json!({"low": -30, "high": 30})),
                ("choice", json!({"of": (0..50).collect::<Vec<i32>>()})),
            ][form].clone();
            let values = |num: u64| {
                let mut options = bounds.clone();
                options["num"] = num.into();
                options["seed"] = seed.into();
                drawn("x", form, options, are_different)
            };
            let (few, many) = (values(num), values(num + more));
            prop_assert_eq!(&few[..], &many[..num as usize]);
            if are_different {
                prop_assert_eq!(many.iter().map(Value::to_string).collect::<HashSet<_>>().len() as u64, num + more);
            }
            if let (Some(low), Some(high)) = (bounds["low"].as_f64(), bounds["high"].as_f64()) {
                prop_assert!(many.iter().filter_map(Value::as_f64).all(|value| low <= value && value <= high));
            }
        }
    }
}
