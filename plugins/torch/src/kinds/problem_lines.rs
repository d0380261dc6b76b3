//! Lines of problem files: opened plain or gzipped, fields read as text.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

/// Opens a file; one named `.gz` is unpacked.
///
/// # Errors
/// It can't be opened.
pub fn open(path: &Path) -> Result<Box<dyn Read>> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
    Ok(if is_gzip {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(file)
    })
}

/// Returns a field as text; a number as JSON writes it.
///
/// # Errors
/// The field is absent, empty, or neither text nor a number.
pub fn text_of(fields: &Map<String, Value>, name: &str) -> Result<String> {
    match fields.get(name) {
        Some(Value::String(text)) if text.trim().is_empty() => bail!("field {name:?} is empty"),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => bail!("field {name:?} is neither a string nor a number"),
        None => {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            bail!("there is no field {name:?}; the line has {}", names.join(", "))
        }
    }
}
