//! The partial folder of a key: what a killed attempt leaves for the next one.
//!
//! Knows files, not tensors and not kinds. A *checkpoint* is a folder with the whole state after some step and a manifest
//! that is written last; a *journal* is a file of lines with what was finished since. Everything checks itself and says
//! for which key, and how, it was made, so that what is torn, damaged or foreign is noticed and never continued.
//!
//! ```text
//! checkpoint-12/        the state after step 12: the kind's own files, and `manifest.json`
//! journal-12.jsonl      requests that were finished since
//! done.lines            items that are finished for good, whatever the checkpoint
//! failures.json         how often the stage failed by itself since the last save
//! kept/                 files of the kind's own that outlive its checkpoints
//! ```

mod checked;
mod checkpoint;
mod failures;
mod journal;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use checkpoint::{Checkpoint, candidates, open, write};
pub use failures::Failures;
pub use journal::Journal;

/// The version of everything in the folder. Another one is not read.
pub const FORMAT: u32 = 1;

/// Why something in a partial folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Its attempt was killed while it wrote: expected, and no reason to worry anybody.
    #[error("it was never finished")]
    Unfinished,
    #[error("{file} is damaged")]
    Damaged { file: String },
    #[error("it is of format {got}, and this program knows {FORMAT}")]
    Format { got: u64 },
    #[error("it belongs to {kind} with the key {key}")]
    Foreign { kind: String, key: String },
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Whose partial folder it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub kind: String,
    pub key: String,
}

/// What the bytes of a result depend on besides the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    pub num_threads: usize,
    pub device: String,
    /// Parameters that change a result by rounding only.
    pub settings: BTreeMap<String, Value>,
}

impl Owner {
    fn check(&self, found: Owner) -> Result<(), Unusable> {
        if *self == found {
            return Ok(());
        }
        Err(Unusable::Foreign {
            kind: found.kind,
            key: found.key,
        })
    }
}

/// How long to wait for a worker whose engine was killed to be gone: it is killed too, but perhaps not before us.
const PATIENCE: Duration = Duration::from_secs(15);

/// Takes a partial folder for this process, until the file is closed. The engine runs a key once at a time; this is for
/// the moment in which an engine was killed and its worker still writes.
///
/// # Errors
/// The folder can't be made, or another process still has it after a while.
pub fn take(folder: &Path) -> Result<File, Unusable> {
    let file = fs::create_dir_all(folder)
        .and_then(|()| File::open(folder))
        .map_err(|source| io(folder, source))?;
    let asked_at = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if asked_at.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error @ TryLockError::WouldBlock) => return Err(io(folder, error.into())),
            // Some network filesystems have no such locks; the engine's lock of the key has to do there.
            Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

/// The folder of what a kind keeps over all checkpoints of its state.
pub const KEPT: &str = "kept";

/// Removes everything from a partial folder but `keep`, [`KEPT`] and what is finished for good.
///
/// # Errors
/// Something can't be removed.
pub fn remove_others(folder: &Path, keep: &Path) -> Result<(), Unusable> {
    for entry in fs::read_dir(folder).map_err(|source| io(folder, source))? {
        let path = entry.map_err(|source| io(folder, source))?.path();
        let stays = |name: &OsStr| name == KEPT || name == journal::DONE;
        if path != keep && !path.file_name().is_some_and(stays) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a file or a folder; one that is not there is fine.
fn remove(path: &Path) -> Result<(), Unusable> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_folder {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(io(path, source)),
        _ => Ok(()),
    }
}

fn io(path: &Path, source: std::io::Error) -> Unusable {
    Unusable::Io {
        path: path.to_owned(),
        source,
    }
}

/// Writes a file so that it is whole or absent, whatever happens.
fn write_file(path: &Path, text: &str) -> Result<(), Unusable> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|source| io(path, source))?;
    sync(path.parent().unwrap_or(path))
}

/// Waits until a file, or a folder's list of names, is on the disk.
fn sync(path: &Path) -> Result<(), Unusable> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| io(path, source))
}

/// Checks the format that a text states before the rest of it is read, which may have changed.
///
/// # Errors
/// The format that it states, if it states one.
fn check_format(text: &str) -> Result<(), Option<u64>> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u64,
    }
    match serde_json::from_str::<Versioned>(text) {
        Ok(Versioned { format }) if format == u64::from(FORMAT) => Ok(()),
        Ok(Versioned { format }) => Err(Some(format)),
        Err(_) => Err(None),
    }
}
