//! Folders of attempts that are over, for the next ones.
//!
//! A sweep of small commands would make and remove as many folders as it has nodes, which costs a filesystem more than
//! the commands. Only commands get a folder again, as they run elsewhere. It has a new name and a new `out/` each time, so
//! that neither a path nor a working folder that a process of an earlier attempt still has leads into it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::graph::Worker;
use crate::store::{RunId, Store, StoreError};

/// Folders that are not in use.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<PathBuf>>);

impl Spare {
    /// Returns an empty folder for an attempt of a run.
    pub(crate) fn take(&self, store: &Store, run: &RunId, name: &str, worker: &Worker) -> Result<PathBuf, StoreError> {
        let spare = match worker {
            Worker::Command { .. } => self.lock().pop(),
            Worker::Plugin { .. } => None,
        };
        let path = store.attempt_path(run, name);
        match spare {
            Some(spare) if fs::rename(&spare, &path).is_ok() => Ok(path),
            _ => store.attempt_folder(run, name),
        }
    }

    /// Takes back the folder of an attempt that is over.
    pub(crate) fn give(&self, store: &Store, folder: PathBuf, worker: &Worker) -> Result<(), StoreError> {
        if matches!(worker, Worker::Plugin { .. }) || !is_emptied(store, &folder) {
            return store.remove_folder(&folder);
        }
        self.lock().push(folder);
        Ok(())
    }

    /// Removes what was not taken again.
    pub(crate) fn clear(&self, store: &Store) {
        for folder in self.lock().drain(..) {
            if let Err(error) = store.remove_folder(&folder) {
                tracing::warn!(%error, "the folder of an attempt could not be removed");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Removes all that an attempt left but `in/` and the request, which is overwritten; false if something is not as it was.
fn is_emptied(store: &Store, folder: &Path) -> bool {
    is_cleared(store, folder).unwrap_or(false)
}

fn is_cleared(store: &Store, folder: &Path) -> std::io::Result<bool> {
    let inputs = folder.join("in");
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Nothing is followed here: what a command put in the place of a folder may lead anywhere.
        let metadata = fs::symlink_metadata(&path)?;
        let is_request = path.ends_with("request.json") && metadata.is_file() && metadata.nlink() == 1;
        if !is_request && path != inputs && store.remove_folder(&path).is_err() {
            return Ok(false);
        }
    }
    if !fs::symlink_metadata(&inputs)?.is_dir() {
        return Ok(false);
    }
    fs::set_permissions(&inputs, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(&inputs)? {
        if store.remove_folder(&entry?.path()).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}
