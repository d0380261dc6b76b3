//! stage [-k] OUT LABEL PARAM [INPUT...]
//!
//! The trivial stage that every engine runs. It writes one line to OUT that depends on PARAM and on all inputs (lines
//! that begin with `#` do not count), and appends LABEL to $STAGE_LOG: the record of what really ran, which no engine
//! has a hand in.
//!
//! - `-k` leaves OUT alone, its time as well, if its bytes would not change.
//! - PARAM may be `@FILE:KEY`: the value of a line `KEY: value` of FILE.
//! - An INPUT may be `@FILE`: the paths in FILE, for what does not fit on a command line; or `@request`: the paths of
//!   the inputs in the JSON file that $VOLVELLE_REQUEST names.
use std::fs;
use std::io::{Error, Result, Write};

fn main() -> Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let keep = words.first().is_some_and(|word| word == "-k");
    if keep {
        words.remove(0);
    }
    let [output, label, param, inputs @ ..] = words.as_slice() else {
        return Err(Error::other("stage [-k] OUT LABEL PARAM [INPUT...]"));
    };
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    let param = value_of(param)?;
    hash.feed(param.as_bytes());
    hash.feed(b"\0");
    for path in paths(inputs)? {
        let text = fs::read_to_string(&path).map_err(|error| Error::other(format!("{path}: {error}")))?;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            hash.feed(line.as_bytes());
            hash.feed(b"\n");
        }
    }
    let text = format!("{param} {:016x}\n", hash.0);
    if !(keep && fs::read_to_string(output).is_ok_and(|old| old == text)) {
        fs::write(output, &text)?;
    }
    if let Ok(log) = std::env::var("STAGE_LOG") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(log)?;
        file.write_all(format!("{label}\n").as_bytes())?;
    }
    Ok(())
}

struct Fnv(u64);

impl Fnv {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

fn value_of(param: &str) -> Result<String> {
    let Some((file, key)) = param.strip_prefix('@').and_then(|rest| rest.rsplit_once(':')) else {
        return Ok(param.to_owned());
    };
    let text = fs::read_to_string(file)?;
    let prefix = format!("{key}: ");
    let found = text.lines().find_map(|line| line.strip_prefix(&prefix));
    found
        .map(str::to_owned)
        .ok_or_else(|| Error::other(format!("{file} has no {key}")))
}

fn paths(inputs: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for input in inputs {
        match input.strip_prefix('@') {
            None => all.push(input.clone()),
            Some("request") => {
                let file = std::env::var("VOLVELLE_REQUEST").map_err(Error::other)?;
                all.extend(paths_in_request(&fs::read_to_string(file)?));
            }
            Some(file) => all.extend(fs::read_to_string(file)?.split_whitespace().map(str::to_owned)),
        }
    }
    Ok(all)
}

/// Returns every `"path": "..."` in order. Of a request only inputs have paths, and ours need no escapes.
fn paths_in_request(json: &str) -> Vec<String> {
    let value = |rest: &str| rest.split('"').nth(1).map(str::to_owned);
    json.split("\"path\":").skip(1).filter_map(value).collect()
}
