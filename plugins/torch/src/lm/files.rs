//! Files of a model folder, opened with care: they come from outside.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

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

/// Reads a file of at most `max_bytes`.
///
/// # Errors
/// As [`open`]; the file is longer.
pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, LmError> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(max_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|source| LmError::Io {
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > max_bytes {
        return Err(invalid(path, format!("is longer than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// Reads a JSON object of at most `max_bytes`.
///
/// # Errors
/// As [`read`]; the file is not a JSON object.
pub(super) fn read_json_object(path: &Path, max_bytes: u64) -> Result<Map<String, Value>, LmError> {
    let bytes = read(path, max_bytes)?;
    let value = serde_json::from_slice(&bytes).map_err(|error| invalid(path, error.to_string()))?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(invalid(path, "is not a JSON object")),
    }
}

/// Passes over a file that is not there.
///
/// # Errors
/// Any other that reading gave.
pub(super) fn if_there<T>(read: Result<T, LmError>) -> Result<Option<T>, LmError> {
    match read {
        Err(LmError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Where a file is written before it takes its place.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Writes a file beside its place first, with `write`. What it replaces may be a link, read-only, or what is read for it.
///
/// # Errors
/// It can't be written; what was there before still is.
pub(super) fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), LmError> {
    let partial = partial(path);
    let written = write(&partial).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|source| LmError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Writes a JSON file, indented.
///
/// # Errors
/// As [`replace`].
pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), LmError> {
    replace(path, |partial| std::fs::write(partial, format!("{value:#}\n")))
}

/// Something is wrong with the content of a file.
pub(super) fn invalid(path: &Path, message: impl Into<String>) -> LmError {
    LmError::Invalid {
        path: path.to_owned(),
        message: message.into(),
    }
}
