//! Writing files so that they are whole or absent, also after a power cut, and removing folders of read-only files.
//!
//! It knows nothing of keys or digests. Temporary names lie in the cache's own `tmp/`, so a rename is always within
//! one filesystem.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{IoContext, StoreError};

/// From this many files on, one flush of the filesystem is cheaper than a flush for each file.
const BULK: usize = 48;

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
    let temporary = unique_path(tmp);
    let written = (|| {
        let mut file = File::create(&temporary).at("create", &temporary)?;
        file.write_all(bytes).at("write", &temporary)?;
        file.sync_data().at("flush", &temporary)?;
        fs::rename(&temporary, path).at("rename into", path)?;
        sync_folder(folder)
    })();
    if written.is_err() {
        // Nothing more can be done about a leftover than what a later clean-up does anyway.
        let _ = fs::remove_file(&temporary);
    }
    written
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
/// One group pays for one set of flushes: contents first, then the names.
pub(crate) fn commit(moves: &[(PathBuf, PathBuf)]) -> Result<(), StoreError> {
    let Some((first, _)) = moves.first() else { return Ok(()) };
    if moves.len() >= BULK {
        let file = File::open(first).at("open", first)?;
        rustix::fs::syncfs(&file).at("flush the filesystem of", first)?;
    } else {
        for (from, _) in moves {
            File::open(from).at("open", from)?.sync_data().at("flush", from)?;
        }
    }
    let mut folders = BTreeSet::new();
    for (from, to) in moves {
        let folder = to.parent().unwrap_or(Path::new("."));
        make_folder(folder)?;
        fs::rename(from, to).at("rename into", to)?;
        folders.insert(folder);
    }
    folders.into_iter().try_for_each(sync_folder)
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
        remove_tree(&entry.at("list", path)?.path())?;
    }
    fs::remove_dir(path).at("remove", path)
}
