//! The version of a cache's layout: making a new cache, refusing a newer one, and bringing an older one up to date.
//!
//! The file `format` is written last, so a cache that was killed while it was made or brought up to date is made ready
//! again by whoever comes next. Every step can be taken twice, also by two processes at once. It knows folders and
//! lock files, no keys and no bytes.
//!
//! ```text
//! volvelle cache 2
//! needs NAME        something that came after this version, which a program has to know to use the cache at all
//! ```
//! Format 1 had a lock file for each key, later the ranges of `locks/keys`: two programs of which each has its own idea
//! of a key's lock would run it twice. Format 2 has `locks/keys` alone, and its blobs have seals. Records and the bytes of
//! blobs are the same in both.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::error::{IoContext, StoreError, is_read_only};
use super::{RunStatus, Store, durable, fsck, seal};
use crate::digest::Digest;

/// The version of the layout of the cache folder.
pub(super) const FORMAT: u64 = 2;

/// What a cache may say that it needs. A change that old programs must not meet gets a name here, not a new number.
const KNOWN_NEEDS: [&str; 0] = [];

/// How long to wait before looking again whether another process is done.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Makes the folder of a store a cache of this version, if it can be written; an older one that can't is used as it is.
///
/// # Errors
/// It was written by a newer program, or belongs to something else, or a new cache can't be made.
pub(super) fn make_ready(store: &Store) -> Result<(), StoreError> {
    match read(&store.root().join("format"))? {
        Some(FORMAT) => Ok(()),
        Some(_) => match migrate(store) {
            Ok(()) => Ok(()),
            // Whoever only reads gets along with the older format, and whoever writes is told then.
            Err(error) if error.io_kind().is_some_and(is_read_only) => Ok(()),
            Err(error) if error.io_kind().is_some_and(is_full) => {
                tracing::warn!(%error, "the cache has an older format and there is no room to bring it up to date");
                Ok(())
            }
            Err(error) => Err(error),
        },
        None => {
            make_folders(store)?;
            write(store)
        }
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns the version of a cache; none where there is no file, or one that lost what was in it.
fn read(path: &Path) -> Result<Option<u64>, StoreError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.at("read", path)?,
    };
    // Filesystems that write a file's length before its bytes leave zeros after a power cut.
    if bytes.iter().all(|&byte| byte == 0 || byte.is_ascii_whitespace()) {
        return Ok(None);
    }
    check(path, &String::from_utf8_lossy(&bytes)).map(Some)
}

fn check(path: &Path, text: &str) -> Result<u64, StoreError> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let found = match first.strip_prefix("volvelle cache ").map(str::parse::<u64>) {
        Some(Ok(found)) if found > FORMAT => {
            return Err(StoreError::NewerFormat {
                path: path.to_path_buf(),
                found,
                supported: FORMAT,
            });
        }
        Some(Ok(found)) if found > 0 => found,
        _ => {
            return Err(StoreError::NotACache {
                path: path.to_path_buf(),
            });
        }
    };
    let mut needs = lines.filter_map(|line| line.strip_prefix("needs "));
    match needs.find(|need| !KNOWN_NEEDS.contains(need)) {
        Some(need) => Err(StoreError::NewerNeed {
            path: path.to_path_buf(),
            need: need.to_owned(),
        }),
        None => Ok(found),
    }
}

/// Brings an older cache up to date. One process does it, the others wait for the milliseconds that it takes.
fn migrate(store: &Store) -> Result<(), StoreError> {
    let format = store.root().join("format");
    let _lock = loop {
        match store.claim_named("migrate")? {
            Some(lock) => break lock,
            None => std::thread::sleep(LOOK_AGAIN),
        }
        if read(&format)? == Some(FORMAT) {
            return Ok(());
        }
    };
    if read(&format)? == Some(FORMAT) {
        return Ok(());
    }
    make_folders(store)?;
    remove_key_locks(store)?;
    seal_blobs(store)?;
    write(store)?;
    tracing::info!(format = FORMAT, cache = %store.root().display(), "the cache was brought up to date");
    Ok(())
}

/// Removes the lock files that each key had, but for those that a program of then holds just now.
fn remove_key_locks(store: &Store) -> Result<(), StoreError> {
    let folder = store.root().join("locks");
    for entry in fs::read_dir(&folder).at("list", &folder)? {
        let name = entry.at("list", &folder)?.file_name();
        let Some(name) = name.to_str().filter(|name| name.parse::<Digest>().is_ok()) else {
            continue;
        };
        // A lock that we get is nobody's, and giving it back removes its file.
        if store.claim_named(name)?.is_none() {
            tracing::warn!(
                key = name,
                "an older volvelle runs a node in this cache; it may run twice"
            );
        }
    }
    Ok(())
}

/// Seals the blobs as they are. That they are what their names say was believed so far, and is what `fsck` checks.
///
/// A run of an earlier program would take a seal on one of its inputs for a change of it. So beside one nothing is
/// sealed; blobs are then read, and sealed, when they are first used.
fn seal_blobs(store: &Store) -> Result<(), StoreError> {
    if store.runs().iter().any(|run| run.status == RunStatus::Running) {
        return Ok(());
    }
    let (blobs, _) = fsck::list(&store.root().join("blobs"), &[])?;
    for (digest, path) in blobs {
        match seal::seal(&path, digest) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("seal", &path),
            _ => {}
        }
    }
    Ok(())
}

/// Makes the folders of a cache that are not there.
fn make_folders(store: &Store) -> Result<(), StoreError> {
    for folder in ["blobs", "records", "partial", "runs", "locks", "tmp"] {
        durable::make_folder(&store.root().join(folder))?;
    }
    // All at once they cost two flushes; made one by one when they are needed, five hundred.
    for area in ["blobs", "records"].map(|area| store.root().join(area)) {
        for shard in (0..=u8::MAX).map(|shard| area.join(format!("{shard:02x}"))) {
            match fs::create_dir(&shard) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).at("create", &shard),
                _ => {}
            }
        }
        durable::sync_folder(&area)?;
    }
    // A folder that another process is just making may not be on the disk yet.
    durable::sync_folder(store.root())
}

fn write(store: &Store) -> Result<(), StoreError> {
    let text = format!("volvelle cache {FORMAT}\n");
    store.write_file(&store.root().join("format"), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<u64, StoreError> {
        check(Path::new("format"), text)
    }

    #[test]
    fn older_and_present_formats_are_read_and_newer_ones_refused() {
        assert!(matches!(found("volvelle cache 1\n"), Ok(1)));
        assert!(matches!(found("volvelle cache 2\nhas more\n"), Ok(2)));
        assert!(matches!(
            found("volvelle cache 3\n"),
            Err(StoreError::NewerFormat {
                found: 3,
                supported: 2,
                ..
            })
        ));
        assert!(matches!(
            found("volvelle cache 2\nneeds packs\n"),
            Err(StoreError::NewerNeed { need, .. }) if need == "packs"
        ));
        for text in ["", "volvelle cache 0", "volvelle cache", "restic", "volvelle cache 2x"] {
            assert!(matches!(found(text), Err(StoreError::NotACache { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_format_file_that_lost_its_bytes_is_written_again() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        drop(Store::open(folder.path())?);
        for bytes in [b"".as_slice(), &[0; 17]] {
            fs::write(folder.path().join("format"), bytes)?;
            Store::open(folder.path())?;
            assert_eq!(fs::read_to_string(folder.path().join("format"))?, "volvelle cache 2\n");
        }
        Ok(())
    }
}
