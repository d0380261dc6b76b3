//! When a save is over: editors write in several steps, and none of them in between is what the user meant.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::{Happened, Input, Watch};

/// How long nothing has to happen after a file was closed or renamed: several files may be saved at once.
const QUIET: Duration = Duration::from_millis(5);
/// How long a file may be open for writing and not be written to.
const OPEN: Duration = Duration::from_millis(60);
/// The same for a file that was emptied: nobody means to save nothing.
const EMPTIED: Duration = Duration::from_secs(1);
/// How long a file may be missing before that is what the user did.
const MISSING: Duration = Duration::from_millis(300);

/// What happened to files within a short time.
pub(super) struct Batch {
    paths: HashMap<PathBuf, Happened>,
    last: Instant,
}

impl Batch {
    /// Returns what happened to a file.
    pub(super) fn file(path: PathBuf, what: Happened, at: Instant) -> Batch {
        let paths = HashMap::from([(path, what)]);
        Batch { paths, last: at }
    }

    /// Returns that something may have happened to any of these.
    pub(super) fn unknown(files: Vec<PathBuf>) -> Batch {
        Batch {
            paths: files.into_iter().map(|file| (file, Happened::Written)).collect(),
            last: Instant::now(),
        }
    }

    /// Returns until when something more may belong to it.
    fn deadline(&self) -> Instant {
        let patience = self.paths.iter().map(|(path, what)| match what {
            Happened::Written => QUIET,
            Happened::Removed if path.exists() => QUIET,
            Happened::Removed => MISSING,
            Happened::Writing if path.metadata().is_ok_and(|file| file.len() == 0) => EMPTIED,
            Happened::Writing => OPEN,
        });
        self.last + patience.max().unwrap_or(QUIET)
    }
}

impl Watch<'_> {
    /// Waits until nothing more happens to files, and returns which of them are concerned and when the last was saved.
    pub(super) fn settled(&mut self, mut batch: Batch) -> Option<(Vec<PathBuf>, Instant)> {
        batch.paths.retain(|path, what| self.sources.concerns(path, *what));
        if batch.paths.is_empty() {
            return None;
        }
        loop {
            let left = batch.deadline().saturating_duration_since(Instant::now());
            match self.inputs.recv_timeout(left) {
                Ok(Input::File { path, what, at }) => {
                    if self.sources.concerns(&path, what) {
                        batch.paths.insert(path, what);
                        batch.last = at;
                    }
                }
                Ok(Input::Lost) => batch.paths.extend(Batch::unknown(self.sources.files()).paths),
                // The plan that was to be run is none any more.
                Ok(Input::Key(b'r')) => {}
                Ok(other) => self.later.push_back(other),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let mut paths: Vec<PathBuf> = batch.paths.into_keys().collect();
        paths.sort();
        Some((paths, batch.last))
    }
}
