//! What a node needs while it runs, as a pipeline writes it: `{cpu: 2, gpu: 1, mem: 8GiB, timeout: 2h}`.
//!
//! Resources never enter a key. It doesn't know what a machine has.

use std::time::Duration;

use serde_json::Value;

use super::mistake::Mistake;
use super::yaml::{Item, Tree};
use crate::settings::{parse_age, parse_size};

/// The names that `resources` may have.
pub const NAMES: [&str; 6] = ["cpu", "gpu", "mem", "timeout", "retries", "priority"];

/// What a node needs while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// Threads; at least 1.
    pub cpu: usize,
    /// GPUs.
    pub gpu: usize,
    /// Memory, if the pipeline says how much.
    pub mem_bytes: Option<u64>,
    /// The longest an attempt may take.
    pub timeout: Option<Duration>,
    /// How many more attempts follow a failed one.
    pub retries: u32,
    /// Among ready nodes the higher goes first.
    pub priority: i64,
}

impl Default for Resources {
    fn default() -> Resources {
        Resources {
            cpu: 1,
            gpu: 0,
            mem_bytes: None,
            timeout: None,
            retries: 0,
            priority: 0,
        }
    }
}

impl Resources {
    /// Sets one of them from a value without references; what is wrong goes to `out`.
    pub fn set(&mut self, name: &str, tree: &Tree, out: &mut Vec<Mistake>) {
        let value = tree.to_value();
        let whole = |least: u64, most: u64| value.as_u64().filter(|n| (least..=most).contains(n));
        let wanted = match name {
            "cpu" => whole(1, 4096)
                .map(|n| self.cpu = n as usize)
                .ok_or("a number of threads, at least 1"),
            "gpu" => whole(0, 1024).map(|n| self.gpu = n as usize).ok_or("a number of GPUs"),
            "retries" => whole(0, 1000)
                .map(|n| self.retries = n as u32)
                .ok_or("a number of further attempts, at most 1000"),
            "priority" => value
                .as_i64()
                .map(|n| self.priority = n)
                .ok_or("an integer; the higher goes first"),
            "mem" => bytes(&value)
                .map(|n| self.mem_bytes = Some(n))
                .ok_or("a size such as `8GiB` or `500MB`"),
            "timeout" => duration(&value)
                .map(|d| self.timeout = Some(d))
                .ok_or("a time such as `90s`, `30m` or `2h`"),
            _ => Ok(()),
        };
        if let Err(wanted) = wanted {
            out.push(Mistake::new(
                &tree.at,
                format!("`{name}` must be {wanted}, not {}", tree.described()),
            ));
        }
    }

    /// Tells `out` about every name in a mapping of resources that there is not.
    pub fn check_names(tree: &Tree, out: &mut Vec<Mistake>) {
        let Item::Map(entries) = &tree.item else { return };
        for (key, _) in entries.iter().filter(|(key, _)| !NAMES.contains(&key.text.as_str())) {
            out.push(Mistake::unknown(
                &key.at,
                format!("unknown resource `{}`", key.text),
                &key.text,
                NAMES,
            ));
        }
    }
}

/// Reads a size: a number of bytes, or a text with a unit.
fn bytes(value: &Value) -> Option<u64> {
    let number = value.as_u64().or_else(|| parse_size(value.as_str()?).ok());
    number.filter(|bytes| value.is_number() || *bytes > 0)
}

/// Reads a time: a number of seconds, or a text with a unit.
fn duration(value: &Value) -> Option<Duration> {
    let seconds = match value.as_f64() {
        Some(seconds) => seconds,
        None => parse_age(value.as_str()?).ok()?.as_secs_f64(),
    };
    (seconds > 0.0 && seconds < 1e9).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::mistake::At;

    #[test]
    fn sizes_and_times_have_units() {
        for (text, expected) in [("8GiB", 8u64 << 30), ("500 MB", 500_000_000), ("1.5k", 1500), ("7b", 7)] {
            assert_eq!(bytes(&json!(text)), Some(expected), "{text}");
        }
        for (value, seconds) in [
            (json!("90s"), 90),
            (json!("1.5h"), 5400),
            (json!(30), 30),
            (json!("2d"), 172_800),
        ] {
            assert_eq!(duration(&value), Some(Duration::from_secs(seconds)), "{value}");
        }
        for wrong in [
            json!("8"),
            json!("8 GBit"),
            json!(-1),
            json!(""),
            json!("h"),
            json!(null),
        ] {
            assert_eq!((bytes(&wrong), duration(&wrong)), (None, None), "{wrong}");
        }
    }

    #[test]
    fn wrong_resources_are_told() {
        for (name, value) in [
            ("cpu", json!(0)),
            ("gpu", json!(-1)),
            ("timeout", json!("soon")),
            ("retries", json!(1.5)),
        ] {
            let mut out = Vec::new();
            Resources::default().set(name, &Tree::from_value(&value, &At::whole("p", "x")), &mut out);
            assert_eq!(out.len(), 1, "{name}");
        }
    }
}
