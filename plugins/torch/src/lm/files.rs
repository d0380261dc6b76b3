//! Files of a model folder, opened with care: they come from outside.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::LmError;

/// Opens a file to read it, if it is one: a pipe would wait for ever, a device never end.
///
/// # Errors
/// There is no such file, it is something else than a file, or it can't be opened.
pub(super) fn open(path: &Path) -> Result<File, LmError> {
    let io = |source| LmError::Io {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(io)?.is_file() {
        File::open(path).map_err(io)
    } else {
        Err(invalid(path, "is not a file"))
    }
}

/// Reads a JSON object of at most `max_bytes`.
///
/// # Errors
/// As [`open`]; the file is longer, or not a JSON object.
pub(super) fn read_json_object(path: &Path, max_bytes: u64) -> Result<Map<String, Value>, LmError> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(max_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|source| LmError::Io {
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > max_bytes {
        return Err(invalid(path, format!("is longer than {max_bytes} bytes")));
    }
    let value = serde_json::from_slice(&bytes).map_err(|error| invalid(path, error.to_string()))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(invalid(path, "is not a JSON object")),
    }
}

/// Something is wrong with the content of a file.
pub(super) fn invalid(path: &Path, message: impl Into<String>) -> LmError {
    LmError::Invalid {
        path: path.to_owned(),
        message: message.into(),
    }
}
