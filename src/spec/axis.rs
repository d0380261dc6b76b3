//! The values of one axis: a list, a range, or a seeded draw.
//!
//! It knows one axis and not the matrix it is in. References are filled in already.

use std::collections::HashSet;

use serde_json::Value;

use super::decimal;
use super::draw::{self, Draw};
use super::fields::Fields;
use super::matrix::MAX_POINTS;
use super::mistake::{Mistake, listed};
use super::schema::text_of;
use super::yaml::{Item, Key, Tree};
use crate::digest::canonical;

/// The forms of an axis besides a list.
pub(super) const FORMS: [&str; 6] = ["range", "log_range", "uniform", "log_uniform", "int_uniform", "choice"];

/// Returns the values of the axis `key`; `None` after telling `out` what is wrong.
///
/// With `is_alone` they are all different, as those of an axis that varies by itself must be; columns of a `zip` may have
/// a value several times.
pub(super) fn values(key: &Key, tree: &Tree, is_alone: bool, out: &mut Vec<Mistake>) -> Option<Vec<Tree>> {
    let before = out.len();
    let values = match &tree.item {
        Item::List(items) => {
            items.iter().for_each(|item| check_value(key, item, out));
            items.clone()
        }
        Item::Map(entries) => match &entries[..] {
            [(form, options)] if FORMS.contains(&form.text.as_str()) => {
                let values = formed(key, form, options, is_alone, out)?;
                values.iter().map(|value| Tree::from_value(value, &tree.at)).collect()
            }
            _ => {
                out.push(no_form(key, tree, entries));
                return None;
            }
        },
        _ => {
            let message = format!("axis `{}` must be a list of values, not {}", key.text, tree.described());
            out.push(Mistake::new(&tree.at, message).help(format!("write `[{}]`", tree.at.text().trim())));
            return None;
        }
    };
    if values.is_empty() {
        out.push(Mistake::new(&tree.at, format!("axis `{}` has no values", key.text)));
    }
    if is_alone {
        check_unique(key, &values, out);
    }
    (out.len() == before).then_some(values)
}

fn no_form(key: &Key, tree: &Tree, entries: &[(Key, Tree)]) -> Mistake {
    let forms = listed(&FORMS);
    match entries {
        [(form, _)] => {
            let message = format!("axis `{}` can't be given as `{}`", key.text, form.text);
            Mistake::unknown(&form.at, message, &form.text, FORMS)
        }
        [] => Mistake::new(&tree.at, format!("axis `{}` has no values", key.text)),
        _ => {
            let message = format!(
                "axis `{}` must be a list or one of {forms}, not a mapping of several keys",
                key.text
            );
            let likely = [("from", "range"), ("low", "uniform"), ("of", "choice")];
            let likely = likely.iter().find(|(option, _)| tree.get(option).is_some());
            Mistake::new(&tree.at, message).help(match likely {
                Some((_, form)) => format!("write `{{ {form}: {} }}`", tree.at.text()),
                None => "axes that vary together are written under `zip`".to_owned(),
            })
        }
    }
}

fn check_unique(key: &Key, values: &[Tree], out: &mut Vec<Mistake>) {
    let mut seen: HashSet<String> = HashSet::new();
    for item in values {
        if !seen.insert(canonical::to_string(&item.to_value()).unwrap_or_default()) {
            let message = format!("axis `{}` has {} twice", key.text, item.described());
            out.push(Mistake::new(&item.at, message));
        }
    }
}

/// Tells what can't be a coordinate.
pub(super) fn check_value(key: &Key, tree: &Tree, out: &mut Vec<Mistake>) {
    if !matches!(
        tree.item,
        Item::Text(_) | Item::Plain(Value::Bool(_) | Value::Number(_))
    ) {
        let what = tree.described();
        let message = format!(
            "a value of axis `{}` must be a string, number or boolean, not {what}",
            key.text
        );
        out.push(Mistake::new(&tree.at, message));
    }
}

fn formed(key: &Key, form: &Key, options: &Tree, is_alone: bool, out: &mut Vec<Mistake>) -> Option<Vec<Value>> {
    match form.text.as_str() {
        "range" => range(form, options, out),
        "log_range" => log_range(form, options, out),
        _ => {
            let draw = Draw::read(key, form, options, out)?;
            draw::values(&draw, is_alone, options, out)
        }
    }
}

fn range(form: &Key, options: &Tree, out: &mut Vec<Mistake>) -> Option<Vec<Value>> {
    let (from, to, step, num) = match &options.item {
        Item::List(items) => match &items[..] {
            [from, to] => (from, to, None, None),
            [from, to, step] => (from, to, Some(step), None),
            _ => {
                let message = format!(
                    "a `range` is `[FROM, TO]` or `[FROM, TO, STEP]`, not {} values",
                    items.len()
                );
                out.push(Mistake::new(&options.at, message));
                return None;
            }
        },
        _ => {
            let fields = Fields::read(form, options, &["from", "to", "step", "num"], out)?;
            let (from, to) = (fields.get("from", out), fields.get("to", out));
            (from?, to?, fields.find("step"), fields.find("num"))
        }
    };
    let numbers = [Some(from), Some(to), step].into_iter().flatten();
    for tree in numbers {
        number(form, tree, out)?;
    }
    let mut wrong = |tree: &Tree, message: String, help: &str| {
        out.push(Mistake::new(&tree.at, message).help(help));
        None
    };
    let (first, last) = (from.to_value(), to.to_value());
    let both = "write `from`, `to` and either `step` or `num`";
    if let Some(num_tree) = num {
        if step.is_some() {
            return wrong(num_tree, "a `range` has a `step` or a `num`, not both".to_owned(), both);
        }
        let num = count(form, num_tree, 2, out)?;
        let values = decimal::spaced(&first, &last, num);
        return values.or_else(|| too_far(options, out));
    }
    let are_integers = [&first, &last].iter().all(|value| value.is_i64() || value.is_u64());
    let step = match step {
        Some(step) => step.to_value(),
        None if are_integers => 1.into(),
        None => {
            return wrong(
                options,
                "a `range` of numbers that are not integers needs a step".to_owned(),
                both,
            );
        }
    };
    if step.as_f64() == Some(0.0) {
        return wrong(options, "the `step` of a `range` can't be 0".to_owned(), both);
    }
    match decimal::num_steps(&first, &last, &step) {
        None => too_far(options, out),
        Some(steps) if steps < 0 => {
            let texts = (text_of(&first), text_of(&last), text_of(&step));
            let message = format!(
                "a `range` from {} to {} in steps of {} has no values",
                texts.0, texts.1, texts.2
            );
            wrong(
                options,
                message,
                "let `step` have the sign that leads from `from` to `to`",
            )
        }
        Some(steps) if steps >= MAX_POINTS as i128 => {
            let message = format!("the `range` has more than {MAX_POINTS} values");
            wrong(options, message, "take a larger step")
        }
        Some(steps) => (0..=steps as usize)
            .map(|idx| decimal::step_to(&first, &step, idx))
            .collect::<Option<Vec<Value>>>()
            .or_else(|| too_far(options, out)),
    }
}

fn too_far<T>(options: &Tree, out: &mut Vec<Mistake>) -> Option<T> {
    let message = "the numbers of the range are too far apart to be exact";
    out.push(Mistake::new(&options.at, message).help("write the values as a list"));
    None
}

fn log_range(form: &Key, options: &Tree, out: &mut Vec<Mistake>) -> Option<Vec<Value>> {
    let fields = Fields::read(form, options, &["from", "to", "num"], out)?;
    let (from, to, num) = (fields.get("from", out), fields.get("to", out), fields.get("num", out));
    let (from, to, num) = (from?, to?, num?);
    let (low, high) = (positive(form, from, out), positive(form, to, out));
    let num = count(form, num, 2, out);
    let (low, high, num) = (low?, high?, num?);
    let gaps = (num - 1) as f64;
    let inner = |idx: usize| {
        let share = idx as f64 / gaps;
        decimal::rounded((low.ln() * (1.0 - share) + high.ln() * share).exp())
    };
    let between: Vec<f64> = (1..num - 1).map(inner).collect();
    let ends = [from.to_value(), to.to_value()];
    let are_integers = ends.iter().all(|end| end.is_i64()) && between.iter().all(|number| number.fract() == 0.0);
    let value = |number: f64| match are_integers {
        true => Value::from(number as i64),
        false => Value::from(number),
    };
    let [first, last] = ends.map(|end| if are_integers { end } else { end.as_f64().into() });
    Some(
        std::iter::once(first)
            .chain(between.into_iter().map(value))
            .chain([last])
            .collect(),
    )
}

/// Returns a number; `None` after telling that it is none.
pub(super) fn number(form: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> Option<f64> {
    let number = tree.to_value().as_f64();
    if number.is_none() {
        let message = format!("a `{}` is made of numbers, not {}", form.text, tree.described());
        let mistake = Mistake::new(&tree.at, message);
        out.push(match tree.as_text().filter(|text| text.parse::<f64>().is_ok()) {
            Some(text) => mistake.help(format!("write `{text}`, without quotes")),
            None => mistake,
        });
    }
    number
}

/// Returns a number greater than 0.
pub(super) fn positive(form: &Key, tree: &Tree, out: &mut Vec<Mistake>) -> Option<f64> {
    let number = number(form, tree, out)?;
    if number > 0.0 {
        return Some(number);
    }
    let message = format!(
        "a `{}` is made of numbers greater than 0, not {}",
        form.text,
        text_of(&tree.to_value())
    );
    out.push(Mistake::new(&tree.at, message));
    None
}

/// Returns how many values there are to be.
pub(super) fn count(form: &Key, tree: &Tree, least: usize, out: &mut Vec<Mistake>) -> Option<usize> {
    let num = tree.to_value().as_u64().and_then(|num| usize::try_from(num).ok());
    match num.filter(|num| (least..=MAX_POINTS).contains(num)) {
        Some(num) => Some(num),
        None => {
            let message = format!(
                "the `num` of `{}` must be an integer from {least} to {MAX_POINTS}, not {}",
                form.text,
                tree.described()
            );
            out.push(Mistake::new(&tree.at, message));
            None
        }
    }
}
