//! How much a store holds, counted in the background and now and then: listing a million files takes seconds.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::Store;

/// A count that is older is taken again, but never more often than a twentieth of the time allows.
const FRESH: Duration = Duration::from_secs(30);

/// What a store held when it was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub records: u64,
    pub blobs: u64,
    pub bytes: u64,
    pub free_bytes: u64,
    at: Instant,
    took: Duration,
}

/// The last count of a store.
#[derive(Debug, Default)]
pub(super) struct Census {
    last: Mutex<Option<Counted>>,
    is_counting: AtomicBool,
}

impl Census {
    /// Returns the last count at once, and has it taken again if it is old.
    pub fn last(self: &Arc<Self>, store: &Arc<Store>) -> Option<Counted> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = last.is_some_and(|last| last.at.elapsed() < FRESH.max(last.took * 20));
        if !is_fresh && !self.is_counting.swap(true, Ordering::AcqRel) {
            let (census, store) = (Arc::clone(self), Arc::clone(store));
            tokio::task::spawn_blocking(move || {
                census.take(&store);
                census.is_counting.store(false, Ordering::Release);
            });
        }
        last
    }

    /// Counts now.
    pub fn take(&self, store: &Store) -> Counted {
        let start = Instant::now();
        let (mut blobs, mut bytes) = (0, 0);
        each_file(&store.root().join("blobs"), |file| {
            blobs += 1;
            bytes += file.metadata().map_or(0, |found| found.len());
        });
        // A record has two names, its keys, and is one file.
        let mut records = HashSet::new();
        each_file(&store.root().join("records"), |file| {
            records.insert(file.ino());
        });
        let counted = Counted {
            records: records.len() as u64,
            blobs,
            bytes,
            free_bytes: free_bytes(store.root()).unwrap_or(0),
            at: start,
            took: start.elapsed(),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
        counted
    }
}

/// Returns how many bytes an ordinary user can still write to the file system of a folder.
pub(super) fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Calls for each file in the folders of a folder. What can't be listed is not counted.
fn each_file(area: &Path, mut call: impl FnMut(&fs::DirEntry)) {
    let shards = fs::read_dir(area).into_iter().flatten().flatten();
    for shard in shards.filter(|shard| shard.file_type().is_ok_and(|kind| kind.is_dir())) {
        let files = fs::read_dir(shard.path()).into_iter().flatten().flatten();
        files
            .filter(|file| file.file_type().is_ok_and(|kind| kind.is_file()))
            .for_each(|file| call(&file));
    }
}
