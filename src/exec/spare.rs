//! Folders of attempts that are over, for the next ones.
//!
//! A sweep of small commands would make and remove as many folders as it has nodes, which costs a filesystem more than
//! the commands. Only commands get a folder again, as they run elsewhere: nothing of an earlier one can be in it. It has
//! a new name each time, so a path that a process of an earlier attempt still knows leads nowhere.

use std::fs;
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

/// Removes all that an attempt left but `in/`, `out/` and the request, which is overwritten; false if that fails.
fn is_emptied(store: &Store, folder: &Path) -> bool {
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let is_kept = |path: &PathBuf| ["in", "out", "request.json"].iter().any(|name| path.ends_with(name));
    let mut rest = names(folder);
    rest.retain(|path| !is_kept(path));
    rest.extend(names(&folder.join("in")));
    rest.extend(names(&folder.join("out")));
    rest.iter().all(|path| store.remove_folder(path).is_ok())
}
