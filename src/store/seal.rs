//! Seals: whether a blob was touched since it was written or last verified, told by its stat alone.
//!
//! The modification time of a blob is set to one that follows from its digest. Whatever writes into the file moves that
//! time to the present, so a blob without its seal is read again before its bytes are handed out: it is sealed anew or
//! moved aside. This costs nothing where a stat is taken anyway, and no table of stamps has to be kept right. Rot that
//! leaves the stat as it was is not seen here; `fsck` rereads everything.
//!
//! So the modification time of a blob says nothing of its age; its change time does.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};

use super::Store;
use super::blob::hash_file;
use crate::digest::Digest;

/// The times of seals lie in the sixteen years from 2001 on, so that none is the present. They are even seconds, which
/// every filesystem keeps.
const FIRST_SECOND: i64 = 1_000_000_000;
const NUM_TIMES: u32 = 250_000_000;

fn second(digest: Digest) -> i64 {
    let first = u32::from_be_bytes([digest.0[0], digest.0[1], digest.0[2], digest.0[3]]);
    FIRST_SECOND + 2 * i64::from(first % NUM_TIMES)
}

/// Sets the seal of a file whose bytes are known to have this digest.
pub(super) fn seal(path: &Path, digest: Digest) -> io::Result<()> {
    let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: at(0, UTIME_OMIT),
        last_modification: at(second(digest), 0),
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Returns whether a file has the seal of a digest.
pub(super) fn is_sealed(metadata: &Metadata, digest: Digest) -> bool {
    metadata.mtime() == second(digest) && metadata.mtime_nsec() == 0
}

/// Returns whether there is a file with the seal of a digest.
pub(super) fn has_seal(path: &Path, digest: Digest) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && is_sealed(&metadata, digest))
}

/// Seals a blob whose bytes were just read and are right, unless something wrote into it since before it was read.
pub(super) fn seal_again(path: &Path, digest: Digest, before: &Metadata) {
    let same = |now: &Metadata| (now.ctime(), now.ctime_nsec()) == (before.ctime(), before.ctime_nsec());
    let sealed = fs::symlink_metadata(path).and_then(|now| if same(&now) { seal(path, digest) } else { Ok(()) });
    // In a cache that can't be written it is read again the next time.
    if let Err(error) = sealed {
        tracing::debug!(blob = %digest, %error, "a blob that was touched can't be sealed again");
    }
}

impl Store {
    /// From now on a blob that was touched is read again before it counts as there. Runs want this, since what is there is
    /// about to be used; whoever only shows how things stand doesn't read gigabytes for it.
    pub fn verify_touched(&self) {
        self.verifies.store(true, Ordering::Relaxed);
    }

    /// Returns whether a blob is there with this many bytes and has its seal. Without the seal it is read, if `verify` is
    /// set, and then either sealed again or moved aside.
    pub(super) fn has_sealed(&self, digest: Digest, size: u64, verify: bool) -> bool {
        let path = self.blob_path(digest);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            return false;
        };
        if !metadata.is_file() || metadata.len() != size {
            return false;
        }
        is_sealed(&metadata, digest) || !verify || self.verify(digest, &path, &metadata)
    }

    fn verify(&self, digest: Digest, path: &Path, before: &Metadata) -> bool {
        match hash_file(path) {
            Ok((found, _)) if found == digest => {
                seal_again(path, digest, before);
                true
            }
            Ok(_) => {
                tracing::warn!(blob = %digest, "a blob was changed by something else and is moved aside");
                self.quarantine(digest);
                false
            }
            Err(error) => {
                tracing::warn!(blob = %digest, %error, "a blob can't be read");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_seal_that_comes_late_is_no_change_of_an_input_and_a_touch_is() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let store = Store::open(&folder.path().join("cache"))?;
        let output = folder.path().join("output");
        fs::write(&output, "bytes")?;
        let artifacts = store.admit(&[("out".to_owned(), output)])?;
        let blob = store.blob_path(artifacts["out"].digest);
        let touch =
            || fs::File::open(&blob)?.set_times(fs::FileTimes::new().set_modified(std::time::SystemTime::now()));
        touch()?;
        let placed = store.place(&artifacts["out"], None, &folder.path().join("first"))?;
        assert!(has_seal(&blob, artifacts["out"].digest), "it was read and sealed again");
        assert!(store.changes(&placed).is_empty());

        touch()?;
        let metadata = fs::metadata(&blob)?;
        assert!(!is_sealed(&metadata, artifacts["out"].digest));
        assert!(
            !store.changes(&placed).is_empty(),
            "something wrote into it, or might have"
        );
        Ok(())
    }

    #[test]
    fn a_seal_holds_until_somebody_writes() -> io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let digest = Digest::of(b"bytes");
        fs::write(file.path(), b"bytes")?;
        assert!(!is_sealed(&fs::metadata(file.path())?, digest));
        seal(file.path(), digest)?;
        assert!(is_sealed(&fs::metadata(file.path())?, digest));
        assert!(!is_sealed(&fs::metadata(file.path())?, Digest::of(b"others")));
        fs::OpenOptions::new().write(true).open(file.path())?.write_all(b"B")?;
        assert!(!is_sealed(&fs::metadata(file.path())?, digest));
        Ok(())
    }
}
