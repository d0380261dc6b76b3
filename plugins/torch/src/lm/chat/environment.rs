//! The Jinja that chat templates are written for: transformers' environment (`utils/chat_template_utils.py`,
//! `_compile_jinja_template`) on minijinja.

use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

use super::python::{self, Dumps};

/// Items that `range` may give within one rendering: a template that asks for more does not end in sensible time.
const MAX_RANGE_ITEMS: usize = 1_000_000;

/// Instructions of one rendering: loops over what a template has stored end too. A second or so; a conversation of a
/// thousand turns takes a hundredth of it.
const MAX_INSTRUCTIONS: u64 = 50_000_000;

/// The name of the filter that a `generation` block becomes.
pub const GENERATION_FILTER: &str = "generation";

/// Around what a `generation` block printed. Unicode has set these code points aside for a program's own use.
pub const GENERATION_MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// Returns the environment, without templates.
pub fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(MAX_INSTRUCTIONS));
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, _state, value| out.write_str(&python::str(value)).map_err(Error::from));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(invalid(message))
    });
    environment.add_function("range", range);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| python::str(value));
    environment.add_filter("join", join);
    environment.add_filter(GENERATION_FILTER, |text: &str| {
        let [start, end] = GENERATION_MARKS;
        format!("{start}{text}{end}")
    });
    // In Python a text and a dictionary are sequences too, in Jinja what is undefined is an empty one, and all are iterable.
    let is_sequence = |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined
        )
    };
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", move |value: &Value| {
        is_sequence(value) || value.kind() == ValueKind::Iterable
    });
    environment
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// `range(stop)`, `range(start, stop)` and `range(start, stop, step)`, within the budget of a rendering.
fn range(state: &State<'_, '_>, lower: isize, upper: Option<isize>, step: Option<isize>) -> Result<Value, Error> {
    let items = minijinja::functions::range(lower, upper, step)?;
    let spent = state.get_or_set_temp_object("range items", Spent::default);
    let total = spent.0.fetch_add(items.len().unwrap_or(0), Ordering::Relaxed) + items.len().unwrap_or(0);
    if total > MAX_RANGE_ITEMS {
        return Err(invalid(format!("its ranges have more than {MAX_RANGE_ITEMS} items")));
    }
    Ok(items)
}

#[derive(Debug, Default)]
struct Spent(AtomicUsize);

impl minijinja::value::Object for Spent {}

/// `json.dumps` with transformers' arguments and defaults.
fn to_json(value: &Value, ensure_ascii: Option<bool>, kwargs: Kwargs) -> Result<String, Error> {
    let ensure_ascii = ensure_ascii.or(kwargs.get("ensure_ascii")?).unwrap_or(false);
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(
                indent
                    .as_usize()
                    .filter(|&count| count <= 64)
                    .ok_or_else(|| invalid("tojson: expected indent to be a text or a number from 0 to 64"))?,
            ),
        }),
    };
    let (item_separator, key_separator) = match kwargs.get::<Option<Vec<String>>>("separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => match <[String; 2]>::try_from(pair) {
            Ok([item, key]) => (item, key),
            Err(_) => return Err(invalid("tojson: expected separators to be two texts")),
        },
    };
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let dumps = Dumps {
        ensure_ascii,
        indent,
        item_separator,
        key_separator,
        sort_keys,
    };
    dumps
        .dump(value)
        .map_err(|message| invalid(format!("tojson: {message}")))
}

/// `join` with each item as Python prints it.
fn join(items: &Value, separator: Option<&str>, attribute: Option<&str>, kwargs: Kwargs) -> Result<String, Error> {
    let attribute = attribute.or(kwargs.get("attribute")?);
    let separator = separator.or(kwargs.get("d")?).unwrap_or("");
    kwargs.assert_all_used()?;
    let texts = items
        .try_iter()?
        .map(|item| {
            Ok(python::str(
                &attribute.map_or(Ok(item.clone()), |name| item.get_attr(name))?,
            ))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(texts.join(separator))
}

/// The methods of Python's `str` and `dict` that minijinja's own imitation has, and more of them.
fn method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args) {
        Err(error) if error.kind() == ErrorKind::UnknownMethod => match value.as_str() {
            Some(text) => string_method(text, name, args),
            None => Err(error),
        },
        result => result,
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let one = || from_args::<(&str,)>(args).map(|(argument,)| argument);
    let three = |parts: [&str; 3]| Ok(Value::from(parts.map(Value::from).to_vec()));
    match name {
        "removeprefix" => Ok(text.strip_prefix(one()?).unwrap_or(text).into()),
        "removesuffix" => Ok(text.strip_suffix(one()?).unwrap_or(text).into()),
        "partition" => match text.split_once(one()?) {
            Some((before, after)) => three([before, one()?, after]),
            None => three([text, "", ""]),
        },
        "rpartition" => match text.rsplit_once(one()?) {
            Some((before, after)) => three([before, one()?, after]),
            None => three(["", "", text]),
        },
        "rsplit" => {
            let (separator, count): (Option<&str>, Option<usize>) = from_args(args)?;
            let count = count.map_or(usize::MAX, |count| count.saturating_add(1));
            let mut parts: Vec<&str> = match separator {
                Some(separator) => text.rsplitn(count, separator).collect(),
                None if count == usize::MAX => text.split_whitespace().rev().collect(),
                None => return Err(invalid("rsplit: expected a separator before the number of splits")),
            };
            parts.reverse();
            Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
        }
        "index" => match text.find(one()?) {
            Some(at) => Ok(text[..at].chars().count().into()),
            None => Err(invalid("index: substring not found")),
        },
        "casefold" => Ok(text.to_lowercase().into()),
        _ => Err(Error::new(
            ErrorKind::UnknownMethod,
            format!("string has no method named {name}"),
        )),
    }
}
