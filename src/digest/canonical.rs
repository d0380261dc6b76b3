//! The canonical text of a JSON value: one text per value, whatever way the value was written.
//!
//! It is JSON without white space, with these choices made, each pinned in `tests/fixtures/canonical.json`:
//! - members of an object are sorted by the bytes of their names;
//! - strings and names are in Unicode normal form C; only `"`, `\` and characters below U+0020 are escaped, the
//!   latter as `\u00xx` (so a newline is `\u000a`);
//! - integers (64 bits, signed or unsigned) are decimal;
//! - floats are the shortest decimal that reads back as the same double, and always have a `.` or an `e`, so that an
//!   integer is never a float: plain (`0.0001`, `3.0`) for magnitudes in [1e-5, 1e16), else with an exponent
//!   (`1e-7`, `1.5e300`); `-0.0` is `0.0`; NaN and infinities are refused.
//!
//! It is both what keys are digests of and what is stored as their preimage.

use std::borrow::Cow;

use serde_json::{Number, Value};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// A value without a canonical text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// Two names of one object are equal once normalized.
    #[error("two members have the same name {name:?} in Unicode normal form C")]
    SameName {
        /// The normalized name.
        name: String,
    },
    /// NaN or an infinity.
    #[error("{number} is not a finite number")]
    NotFinite {
        /// The number as it was given.
        number: String,
    },
}

/// Returns the canonical text of `value`.
///
/// # Errors
/// Two names become equal by normalization, or a number is not finite.
pub fn to_string(value: &Value) -> Result<String, CanonicalError> {
    let mut out = String::new();
    push_value(&mut out, value)?;
    Ok(out)
}

/// Appends the canonical text of a value.
///
/// # Errors
/// As [`to_string`].
pub fn push_value(out: &mut String, value: &Value) -> Result<(), CanonicalError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number_text(number)?),
        Value::String(text) => push_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (idx, item) in items.iter().enumerate() {
                if idx > 0 {
                    out.push(',');
                }
                push_value(out, item)?;
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().map(|(name, member)| (normal(name), member)).collect();
            sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(CanonicalError::SameName {
                    name: pair[0].0.to_string(),
                });
            }
            out.push('{');
            for (idx, (name, member)) in sorted.iter().enumerate() {
                if idx > 0 {
                    out.push(',');
                }
                write_escaped(out, name);
                out.push(':');
                push_value(out, member)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

/// Appends the canonical text of a string.
pub fn push_string(out: &mut String, text: &str) {
    let is_plain = |b: u8| (0x20..0x80).contains(&b) && b != b'"' && b != b'\\';
    if text.bytes().all(is_plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        write_escaped(out, &normal(text));
    }
}

/// Returns the canonical spelling of a finite float, without which two spellings of one number could differ.
///
/// # Errors
/// NaN or an infinity.
pub fn float_to_string(number: f64) -> Result<String, CanonicalError> {
    if !number.is_finite() {
        return Err(CanonicalError::NotFinite {
            number: number.to_string(),
        });
    }
    // Adding zero turns -0.0 into 0.0 and changes nothing else.
    Ok(format!("{:?}", number + 0.0))
}

fn number_text(number: &Number) -> Result<String, CanonicalError> {
    if number.is_i64() || number.is_u64() {
        return Ok(number.to_string());
    }
    float_to_string(number.as_f64().unwrap_or(f64::NAN))
}

fn normal(text: &str) -> Cow<'_, str> {
    if is_nfc(text) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

fn write_escaped(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::digest::Digest;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vectors {
        description: String,
        tag: String,
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vector {
        json: String,
        canonical: String,
        blake3: Digest,
    }

    #[test]
    fn the_published_vectors_hold() {
        let text = include_str!("../../tests/fixtures/canonical.json");
        let file: Vectors = serde_json::from_str(text).expect("the fixture is JSON");
        assert!(!file.description.is_empty() && file.vectors.len() >= 20);
        for vector in &file.vectors {
            let value: Value = serde_json::from_str(&vector.json).expect("each vector is JSON");
            assert_eq!(
                to_string(&value).as_deref(),
                Ok(vector.canonical.as_str()),
                "{}",
                vector.json
            );
            let digest = Digest::of_value(&file.tag, &value).expect("it has a canonical text");
            assert_eq!(digest, vector.blake3, "digest of {}", vector.json);
        }
    }

    #[test]
    fn floats_that_are_not_finite_are_refused() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(matches!(float_to_string(number), Err(CanonicalError::NotFinite { .. })));
        }
    }

    #[test]
    fn names_that_normalize_to_the_same_are_refused() {
        let value = json!({"\u{e9}": 1, "e\u{301}": 2});
        assert_eq!(
            to_string(&value),
            Err(CanonicalError::SameName { name: "\u{e9}".into() })
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter("finite", |x| x.is_finite())
                .prop_map(Value::from),
            "[a-z\"\\\\\n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{0,4}", inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_text_reads_back_as_the_same_value(value in any_value()) {
            let text = to_string(&value).expect("any JSON value of ASCII names");
            let back: Value = serde_json::from_str(&text).expect("canonical text is JSON");
            prop_assert_eq!(to_string(&back).expect("as before"), text);
        }

        #[test]
        fn different_values_have_different_texts(a in any_value(), b in any_value()) {
            prop_assume!(a != b);
            prop_assert_ne!(to_string(&a), to_string(&b));
        }

        #[test]
        fn the_order_of_members_does_not_matter(
            members in prop::collection::btree_map("[a-z]{0,4}", any_value(), 0..6),
        ) {
            let forward = Value::Object(members.clone().into_iter().collect());
            let backward = Value::Object(members.into_iter().rev().collect());
            prop_assert_eq!(to_string(&forward), to_string(&backward));
        }

        #[test]
        fn every_float_is_read_back_exactly(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            let text = float_to_string(number).expect("finite");
            prop_assert!(text.contains('.') || text.contains('e'));
            prop_assert_eq!(text.parse::<f64>().expect("a float"), number);
        }
    }
}
