//! Writing files so that they are whole or absent, also after a power cut, and removing folders of read-only files.
//!
//! It knows nothing of keys or digests. Temporary names lie in the cache's own `tmp/`, so a rename is always within
//! one filesystem.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::error::{IoContext, StoreError};

/// From this many files on, one flush of the filesystem is cheaper than a flush for each file. It waits for whatever
/// others have written there, too, so below that it is not used: 64 files took 9 ms one by one on several threads, and
/// 95 to 880 ms with it beside other programs that wrote.
const BULK: usize = 1024;

/// How many flushes are asked for at once. A filesystem's journal commits for all who wait for it together: 64 files took
/// 190 ms one after the other, and the 256 folders of blobs almost a second.
const FLUSHERS: usize = 16;

/// Files of this size are worth sending to the disk before all are read, where they are few.
const LARGE_BYTES: u64 = 4 << 20;

/// A file of the store's own that is gone with the value, unless it was renamed.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub(crate) fn new(path: PathBuf) -> Temporary {
        Temporary(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Most often it has been renamed and is not there.
        let _ = fs::remove_file(&self.0);
    }
}

/// Returns a path in `folder` that no other thread or process uses.
pub(crate) fn unique_path(folder: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    folder.join(format!("w{}-{:x}-{count}", std::process::id(), now.as_nanos()))
}

/// Writes a small file by temporary name, flush, rename and flush of the folder.
pub(crate) fn write_file(path: &Path, bytes: &[u8], tmp: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_folder(folder)?;
    let temporary = Temporary::new(unique_path(tmp));
    let mut file = File::create(temporary.path()).at("create", temporary.path())?;
    file.write_all(bytes).at("write", temporary.path())?;
    file.sync_data().at("flush", temporary.path())?;
    fs::rename(temporary.path(), path).at("rename into", path)?;
    sync_folder(folder)
}

/// Makes a folder and its parents, each flushed into its own parent.
pub(crate) fn make_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_folder(parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => folder
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).at("create", folder),
    }
}

/// Flushes a folder's list of names to the disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).at("open", folder)?.sync_all().at("flush", folder)
}

/// Moves files to their final names, all of them durable when it returns.
///
/// One group pays for one set of flushes: contents first, then the names. If a content can't be flushed, none is moved.
pub(crate) fn commit(moves: &[(PathBuf, PathBuf)]) -> Result<(), StoreError> {
    let Some((first, _)) = moves.first() else { return Ok(()) };
    if moves.len() >= BULK {
        sync_filesystem(first)?;
    } else {
        each_at_once(moves, |(from, _)| sync_file(from))?;
    }
    let mut folders = BTreeSet::new();
    for (_, to) in moves {
        let folder = to.parent().unwrap_or(Path::new("."));
        if folders.insert(folder) {
            make_folder(folder)?;
        }
    }
    for (from, to) in moves {
        fs::rename(from, to).at("rename into", to)?;
    }
    each_at_once(&folders.into_iter().collect::<Vec<_>>(), |folder| sync_folder(folder))
}

/// Sends files to the disk while somebody reads them, so that [`commit`] has little left to wait for. Files that turn out
/// not to be needed meanwhile are left out.
///
/// # Errors
/// The disk does not take them.
pub(crate) fn flush_ahead(paths: &[&Path], is_needed: &(impl Fn(usize) -> bool + Sync)) -> Result<(), StoreError> {
    match paths.first() {
        Some(first) if paths.len() >= BULK => sync_filesystem(first),
        _ => paths.iter().enumerate().try_for_each(|(idx, path)| {
            let is_large = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.len() >= LARGE_BYTES);
            // One that is gone, or can't be opened, is missed by who reads it.
            match File::open(path) {
                Ok(file) if is_large && is_needed(idx) => file.sync_data().at("flush", path),
                _ => Ok(()),
            }
        }),
    }
}

fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path).at("open", path)?.sync_data().at("flush", path)
}

/// Flushes everything of the filesystem that a file lies in.
fn sync_filesystem(path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).at("open", path)?;
    rustix::fs::syncfs(&file).at("flush the filesystem of", path)
}

/// Does something that waits for the disk with each item, many at a time. The first failure is returned.
fn each_at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<(), StoreError> + Sync) -> Result<(), StoreError> {
    if items.len() < 2 {
        return items.iter().try_for_each(work);
    }
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let work_on = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                let mut failure = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                failure.get_or_insert(error);
                // The others have nothing to go on for.
                next.store(items.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..FLUSHERS.min(items.len()) {
            // Where no more threads can be had, those that there are do it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work_on);
        }
        work_on();
    });
    match failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Removes a folder and all in it, also where folders were made read-only. A folder that is not there is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.is_dir() {
        return fs::remove_file(path).at("remove", path);
    }
    if metadata.permissions().mode() & 0o700 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).at("unlock", path)?;
    }
    for entry in fs::read_dir(path).at("list", path)? {
        let entry = entry.at("list", path)?;
        match entry.file_type() {
            Ok(kind) if !kind.is_dir() => fs::remove_file(entry.path()).at("remove", &entry.path())?,
            _ => remove_tree(&entry.path())?,
        }
    }
    fs::remove_dir(path).at("remove", path)
}
