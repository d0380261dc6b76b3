//! Sizes and times as people write them: `500GB`, `30d`.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Text that is no size or no time.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct BadUnit {
    text: String,
    expected: &'static str,
}

/// Returns the bytes that a text means: a number, and B, KB, MB, GB, TB (powers of 1000) or KiB to TiB (of 1024).
///
/// # Errors
/// It has no such unit, or is more than any disk holds.
pub fn parse_size(text: &str) -> Result<u64, BadUnit> {
    const KI: f64 = 1024.0;
    let (decimal, binary) = ([1e3, 1e6, 1e9, 1e12], [KI, KI * KI, KI * KI * KI, KI * KI * KI * KI]);
    let prefixes = ["K", "M", "G", "T"].into_iter().zip(decimal.into_iter().zip(binary));
    let mut units = vec![("B".to_owned(), 1.0)];
    for (prefix, (decimal, binary)) in prefixes {
        units.extend(["", "B"].map(|end| (format!("{prefix}{end}"), decimal)));
        units.extend(["I", "IB"].map(|end| (format!("{prefix}{end}"), binary)));
    }
    parse(text, &units, "a size, such as 500GB or 20GiB").map(|bytes| bytes as u64)
}

/// Returns the time that a text means: a number and s, m (or min), h, d or w.
///
/// # Errors
/// It has no such unit.
pub fn parse_age(text: &str) -> Result<Duration, BadUnit> {
    let units = [
        ("S", 1.0),
        ("M", 60.0),
        ("MIN", 60.0),
        ("H", 3600.0),
        ("D", 86_400.0),
        ("W", 604_800.0),
    ];
    let expected = "a time, such as 30d, 12h or 10s";
    let seconds = parse(text, &units, expected)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| BadUnit {
        text: text.to_owned(),
        expected,
    })
}

fn parse(text: &str, units: &[(impl AsRef<str>, f64)], expected: &'static str) -> Result<f64, BadUnit> {
    let bad = || BadUnit {
        text: text.to_owned(),
        expected,
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(trimmed.len());
    let number: f64 = trimmed[..split].parse().map_err(|_| bad())?;
    let unit = trimmed[split..].trim().to_ascii_uppercase();
    let factor = units.iter().find(|(name, _)| name.as_ref() == unit).ok_or_else(bad)?.1;
    let value = number * factor;
    (value < 9e18).then_some(value).ok_or_else(bad)
}

/// A number of the smallest unit, or a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::deserialize(deserializer)? {
        None => Ok(None),
        Some(NumberOrText::Number(bytes)) => Ok(Some(bytes)),
        Some(NumberOrText::Text(text)) => parse_size(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

pub(super) fn age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match Option::deserialize(deserializer)? {
        None => Ok(None),
        Some(NumberOrText::Number(seconds)) => Ok(Some(Duration::from_secs(seconds))),
        Some(NumberOrText::Text(text)) => parse_age(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_disks_and_of_memory() {
        let sizes = [
            ("12 B", 12),
            ("1.5 kb", 1500),
            ("2GiB", 2 << 30),
            ("7T", 7_000_000_000_000),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_size(text).ok(), Some(bytes), "{text}");
        }
        for text in ["", "12", "GB", "1 XB", "-1GB", "1e400", "99999999TB", "1.2.3"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(parse_age("36h").ok(), Some(Duration::from_secs(129_600)));
        assert!(parse_age("12").is_err(), "a time needs a unit");
    }
}
