//! Comparing two answers: equal text after normalization, or equal rational values.
//!
//! Values are exact (128-bit fractions, overflow means "can't be read"). A percent sign, a unit or a currency may be
//! missing on one side; where both have a unit, it must be the same.

use std::sync::LazyLock;

use regex::Regex;

use super::rational::{Rational, evaluate};

/// Longer answers are compared as text alone.
const MAX_VALUE_LENGTH: usize = 500;

/// Words after a number that change it or say that it is one of several, and so are no units.
const NOT_UNITS: &[&str] = &[
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "dozen",
    "half",
    "halves",
    "third",
    "thirds",
    "quarter",
    "quarters",
    "pi",
    "or",
    "and",
    "not",
    "plus",
    "minus",
    "times",
    "divided",
    "over",
    "factorial",
    "squared",
    "cubed",
    "choose",
    "mod",
    "base",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "log",
    "ln",
    "exp",
    "more",
    "less",
    "least",
    "most",
    "to",
    "by",
    "if",
    "when",
    "than",
    "approximately",
    "about",
    "percent",
    "alpha",
    "beta",
    "theta",
    "infty",
    "infinity",
];

/// Units of one letter.
const SHORT_UNITS: &[&str] = &["m", "g", "s", "h", "l", "L", "V", "W", "N", "J"];

/// Returns whether a reference answer and a stated one are the same.
pub fn equal(reference: &str, stated: &str) -> bool {
    let (a, b) = (normalize(reference), normalize(stated));
    if a.is_empty() || b.is_empty() {
        return false;
    }
    if a == b || (is_prose(&a) && is_prose(&b) && without_frame(&a).eq_ignore_ascii_case(without_frame(&b))) {
        return true;
    }
    match (read(&a), read(&b)) {
        (Some(a), Some(b)) => a.is_same(&b),
        _ => false,
    }
}

/// Returns whether a text as a whole is a number, perhaps with a unit.
pub fn is_value(text: &str) -> bool {
    read(&normalize(text)).is_some()
}

/// A number with what stands behind it.
struct Value {
    number: Rational,
    /// Decimals that a plain decimal number shows.
    decimals: Option<usize>,
    percent: bool,
    unit: Option<String>,
}

impl Value {
    fn is_same(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (&self.unit, &other.unit)
            && a != b
        {
            return false;
        }
        if self.percent == other.percent {
            return self.is_same_number(other);
        }
        let (percent, plain) = if self.percent { (self, other) } else { (other, self) };
        // 28% may lack its sign and be 28, but 0.28% must not pass for 0.28.
        (percent.number.is_at_least_one() && percent.is_same_number(plain))
            || percent
                .number
                .over_hundred()
                .is_some_and(|number| number == plain.number)
    }

    /// A rounded decimal with six places or more stands for the fraction that it was rounded from.
    fn is_same_number(&self, other: &Self) -> bool {
        let rounds = |a: &Self, b: &Self| {
            let places = a.decimals.filter(|places| *places >= 6);
            b.decimals.is_none() && places.is_some_and(|places| a.number.rounds(b.number, places))
        };
        self.number == other.number || rounds(self, other) || rounds(other, self)
    }
}

/// Letters, spaces and choice brackets only: where capitals don't matter. One letter alone may be a variable.
fn is_prose(text: &str) -> bool {
    let bare = without_frame(text);
    let framed = bare.len() < text.len();
    bare.chars().all(|c| c.is_ascii_alphabetic() || c == ' ') && (framed || bare.len() == 1 || bare.len() > 3)
}

/// `(B)` is the choice `B`.
fn without_frame(text: &str) -> &str {
    text.strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(text)
}

/// Removes what LaTeX adds to the looks of an answer and not to its meaning.
fn normalize(text: &str) -> String {
    static UNWRAP: LazyLock<Regex> = LazyLock::new(|| {
        regex(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
    });
    static SMALL_SPACE: LazyLock<Regex> = LazyLock::new(|| regex(r"\\[,;:> ]|~|\\q?quad\b"));
    static GONE: LazyLock<Regex> = LazyLock::new(|| {
        regex(r"\\!|\\left\b|\\right\b|\\displaystyle\b|\\[()\[\]]|\\?\$|\^\s*\{?\s*\\circ\s*\}?|\\degree\b|°")
    });
    static FRACTION: LazyLock<Regex> = LazyLock::new(|| regex(r"\\[dtc]frac\b"));
    // `\frac12`, `\frac1{2}`: a macro's argument without braces is one character, and no word boundary follows.
    static SHORT_FRACTION: LazyLock<Regex> = LazyLock::new(|| regex(r"\\[dtc]frac(\d)"));
    static SPACES: LazyLock<Regex> = LazyLock::new(|| regex(r"\s+"));
    static LOOSE: LazyLock<Regex> = LazyLock::new(|| regex(r" ?([^\w\s.%]) ?"));

    let mut text = text
        .replace('−', "-")
        .replace("{,}", ",")
        .replace("\\%", "%")
        .replace("\\{", "\\lbrace ");
    for (pattern, with) in [
        (&*UNWRAP, " $1 "),
        (&*SMALL_SPACE, " "),
        (&*GONE, ""),
        (&*SHORT_FRACTION, r"\frac$1"),
        (&*FRACTION, r"\frac"),
        (&*SPACES, " "),
    ] {
        text = pattern.replace_all(&text, with).into_owned();
    }
    let text = text.trim().trim_end_matches(['.', ',', ';', ':']).trim();
    // A space between two words or numbers is kept: 2 1/2 is not 21/2.
    LOOSE.replace_all(without_braces(text), "$1").trim().to_owned()
}

/// `{5}` is `5`.
fn without_braces(text: &str) -> &str {
    match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(inner) if !inner.contains(['{', '}']) => inner.trim(),
        _ => text,
    }
}

/// Reads a normalized answer as a number; `x = 5` is 5, and `2 + 3 = 5` too.
fn read(text: &str) -> Option<Value> {
    if text.len() > MAX_VALUE_LENGTH {
        return None;
    }
    static VARIABLE: LazyLock<Regex> = LazyLock::new(|| regex(r"^[a-zA-Z](?:_\{?\w\}?)?$"));
    let mut members: Vec<&str> = text.split('=').map(str::trim).collect();
    let last = read_member(members.pop()?)?;
    let agrees = |member: &&str| {
        VARIABLE.is_match(member) || read_member(member).is_some_and(|value| value.number == last.number)
    };
    members.iter().all(agrees).then_some(last)
}

fn read_member(text: &str) -> Option<Value> {
    static PERCENT: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)\s?(?:%|percent)$"));
    static UNIT: LazyLock<Regex> =
        LazyLock::new(|| regex(r"^(.*[\d)}!])\s?([A-Za-z€£¥][A-Za-z€£¥ ./]*(?:\^\{?[23]\}?)?)$"));
    static PREFIX: LazyLock<Regex> = LazyLock::new(|| regex(r"^([€£¥])\s?"));
    let number_of = |text: &str| Some((evaluate(text)?, decimals(text)));

    if let Some(found) = PERCENT.find(text) {
        let (number, decimals) = number_of(&text[..found.start()])?;
        return Some(Value {
            number,
            decimals,
            percent: true,
            unit: None,
        });
    }
    if let Some((number, decimals)) = number_of(text) {
        return Some(Value {
            number,
            decimals,
            percent: false,
            unit: None,
        });
    }
    let (head, unit) = match (PREFIX.captures(text), UNIT.captures(text)) {
        (Some(found), _) => (&text[found[0].len()..], found[1].to_owned()),
        (None, Some(found)) => {
            let head = found.get(1)?.as_str();
            (head, unit_name(&found[2])?)
        }
        (None, None) => return None,
    };
    let (number, decimals) = number_of(head)?;
    Some(Value {
        number,
        decimals,
        percent: false,
        unit: Some(unit),
    })
}

/// Returns one spelling of a unit; `None` if the words are more, or less, than that.
fn unit_name(words: &str) -> Option<String> {
    let is_unit = |word: &str| {
        let letters = word.trim_end_matches(['2', '3', '^', '{', '}', '.']);
        let known = letters.len() >= 2 || SHORT_UNITS.contains(&letters) || "€£¥".contains(letters);
        known && !NOT_UNITS.contains(&letters.to_ascii_lowercase().as_str())
    };
    let parts: Vec<&str> = words.split([' ', '/']).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() || parts.len() > 4 || !parts.iter().all(|part| is_unit(part)) {
        return None;
    }
    Some(
        words
            .trim()
            .trim_end_matches('.')
            .to_ascii_lowercase()
            .trim_end_matches('s')
            .to_owned(),
    )
}

fn decimals(text: &str) -> Option<usize> {
    let (_, after) = text.split_once('.')?;
    after.bytes().all(|byte| byte.is_ascii_digit()).then_some(after.len())
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the built-in pattern is a regular expression")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_value_in_another_form_is_equal() {
        for (a, b) in [
            ("42", " 42. "),
            ("1234", "1,234"),
            ("1234", "1{,}234"),
            ("12345", "12\\,345"),
            ("18", "\\$18.00"),
            ("18", "18 dollars"),
            ("\\frac{3}{4}", "0.75"),
            ("\\frac{3}{4}", "\\dfrac34"),
            ("-\\frac{2}{3}", "\\frac{-2}{3}"),
            ("1/2", ".5"),
            ("2.5", "2\\frac{1}{2}"),
            ("5/2", "2 1/2"),
            ("28", "28\\%"),
            ("0.28", "28%"),
            ("5", "x = 5"),
            ("5", "2 + 3 = 5"),
            ("120", "5!"),
            ("5050", "\\frac{100 \\cdot 101}{2}"),
            ("1024", "2^{10}"),
            ("90", "90^\\circ"),
            ("\\text{(B)}", "b"),
            ("\\text{Evelyn}", "evelyn"),
            ("10 cm", "10\\text{ cm}"),
            ("10", "10 square centimeters"),
            ("3\\sqrt{2}", "3 \\sqrt{2}"),
            ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
            ("1/3", "0.333333"),
        ] {
            assert!(equal(a, b), "{a} = {b}");
            assert!(equal(b, a), "{b} = {a}");
        }
    }

    #[test]
    fn doubt_is_difference() {
        for (a, b) in [
            ("42", "24"),
            ("1/3", "0.33"),
            ("21/2", "2 1/2"),
            ("12", "1 2"),
            ("5", "5 or 6"),
            ("5", "5 million"),
            ("5", "5 squared"),
            ("5", "5x"),
            ("5", "5i"),
            ("5", "5\\pi"),
            ("6", "x = 5, y = 6"),
            ("4", "x^2 = 4"),
            ("5", "x \\geq 5"),
            ("5 cm", "5 m"),
            ("(1,234)", "1234"),
            ("11_2", "11"),
            ("x", "X y"),
            ("ab", "AB"),
            ("0.28", "0.28%"),
            ("-5", "5"),
            ("5", "not 5"),
            ("5", ""),
            ("\\sqrt{2}", "1.41421356"),
            ("[1,2]", "(1,2)"),
            ("2^{-99}", "2^{-98}"),
            ("10^{40}", "10^{41}"),
            ("1/0", "2/0"),
        ] {
            assert!(!equal(a, b), "{a} is not {b}");
            assert!(!equal(b, a), "{b} is not {a}");
        }
    }

    proptest! {
        #[test]
        fn different_integers_are_never_equal(a in -100_000i64..100_000, b in -100_000i64..100_000) {
            prop_assert_eq!(equal(&a.to_string(), &b.to_string()), a == b);
        }

        #[test]
        fn any_two_texts_are_compared(a in "[-0-9a-z\\\\{}()^/*!%.,=$ ]{0,60}", b in ".{0,60}") {
            equal(&a, &b);
            prop_assert_eq!(equal(&a, &a), !normalize(&a).is_empty());
        }
    }
}
