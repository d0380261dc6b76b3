//! Blobs: immutable files named by the BLAKE3 digest of their bytes.
//!
//! A blob is written once, by rename, and is read-only from then on. This file knows single files; what a folder is
//! lies in `artifact`, how outputs become blobs in `admit`.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::Store;
use super::durable::{self, Temporary};
use super::error::{IoContext, StoreError};
use super::seal;
use crate::digest::{Digest, read_digest};

/// What tells that a file was changed, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    modified_ns: i128,
    /// When anything about it was changed, links and mode included; unlike the time before, it can't be set.
    pub(crate) changed_ns: i128,
    pub(crate) inode: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Stamp {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Stamp {
            size: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// Returns the stamp of a file; none where there is no such file.
    pub(crate) fn read(path: &Path) -> Option<Stamp> {
        fs::symlink_metadata(path)
            .ok()
            .filter(Metadata::is_file)
            .as_ref()
            .map(Stamp::of)
    }

    /// Returns whether the bytes may still be the same: only links, mode or owner are known to have changed.
    pub(crate) fn may_be(&self, earlier: &Stamp) -> bool {
        (self.size, self.modified_ns, self.inode) == (earlier.size, earlier.modified_ns, earlier.inode)
    }
}

/// What a blob turned out to be when all of it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// Its bytes are what its name says.
    Sound,
    /// There is no such file.
    Missing,
    /// Its bytes are others, or it has another size than it should.
    Damaged,
}

/// How much the store believes of what it finds.
#[derive(Debug, Default)]
pub(crate) struct Paranoia {
    is_paranoid: AtomicBool,
    /// The blobs that were read and are sound.
    verified: Mutex<HashSet<Digest>>,
}

/// A file that waits to become a blob: hashed, read-only, and in the cache's filesystem.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where the bytes lie now; none when the store has the blob already.
    pub(crate) source: Option<Source>,
}

/// Where the bytes of a blob-to-be lie.
#[derive(Debug)]
pub(crate) enum Source {
    /// In an output, which stays where it is if things go wrong.
    Output(PathBuf),
    /// In a file of the store, which does not.
    Temporary(Temporary),
}

impl Source {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Source::Output(path) => path,
            Source::Temporary(file) => file.path(),
        }
    }
}

impl Store {
    /// From now on nothing is believed that was only remembered: blobs are read before they count as there, and files
    /// outside the store are read again. What is found damaged is moved aside.
    pub fn be_paranoid(&self) {
        self.paranoia.is_paranoid.store(true, Ordering::Relaxed);
    }

    /// Returns whether [`Store::be_paranoid`] was called.
    pub fn is_paranoid(&self) -> bool {
        self.paranoia.is_paranoid.load(Ordering::Relaxed)
    }

    /// Returns the path of a blob, whether or not it exists.
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.sharded("blobs", digest)
    }

    /// Returns whether the store has a blob, and with this many bytes. They are not read.
    pub fn has_blob(&self, digest: Digest, size: u64) -> bool {
        self.has_sealed(digest, size, self.verifies.load(Ordering::Relaxed))
    }

    /// Returns whether a blob may be used: it is there, and where the store is paranoid, its bytes are right. A damaged
    /// one is moved aside then.
    pub(super) fn is_usable(&self, digest: Digest, size: u64) -> bool {
        if !self.is_paranoid() {
            return self.has_blob(digest, size);
        }
        if self.verified().contains(&digest) && self.has_blob(digest, size) {
            return true;
        }
        match self.verify_blob(digest, Some(size)) {
            Ok(BlobState::Sound) => {
                self.verified().insert(digest);
                true
            }
            Ok(BlobState::Missing) => false,
            Ok(BlobState::Damaged) => {
                tracing::warn!(blob = %digest, "a damaged blob was found; it is moved to quarantine/ and made again");
                self.quarantine(digest);
                false
            }
            Err(error) => {
                tracing::warn!(blob = %digest, %error, "a blob can't be read and is made again");
                false
            }
        }
    }

    /// Reads all of a blob and tells whether it is what its name says, and has the size that is expected. Nothing is
    /// changed.
    ///
    /// # Errors
    /// It is there and can't be read.
    pub fn verify_blob(&self, digest: Digest, size: Option<u64>) -> Result<BlobState, StoreError> {
        let path = self.blob_path(digest);
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BlobState::Missing),
            found => found.at("read", &path)?,
        };
        if !metadata.is_file() || size.is_some_and(|size| size != metadata.len()) {
            return Ok(BlobState::Damaged);
        }
        match hash_file(&path) {
            Ok((found, _)) if found == digest => Ok(BlobState::Sound),
            Ok(_) => Ok(BlobState::Damaged),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(BlobState::Missing),
            // It got shorter while it was read.
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Ok(BlobState::Damaged)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a blob and checks that its bytes are what its name says. A damaged one is moved aside and is missing.
    pub fn read_blob(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::MissingBlob { digest }),
            other => other.at("read", &path)?,
        };
        if Digest::of(&bytes) != digest {
            self.quarantine(digest);
            return Err(StoreError::MissingBlob { digest });
        }
        Ok(bytes)
    }

    /// Moves a blob that can't be trusted out of the way, so that it is missing from now on and can be looked at.
    pub fn quarantine(&self, digest: Digest) {
        self.verified().remove(&digest);
        let folder = self.root().join("quarantine");
        let aside = durable::unique_path(&folder);
        let moved = fs::create_dir_all(&folder).and_then(|()| fs::rename(self.blob_path(digest), &aside));
        if let Err(error) = moved {
            tracing::warn!(blob = %digest, %error, "a damaged blob could not be moved aside");
        }
    }

    /// Adds a copy of a file as a blob, durable when it returns; the file itself stays as it is.
    pub fn add_copy(&self, path: &Path) -> Result<Digest, StoreError> {
        let copy = self.temporary();
        self.copier.copy(path, copy.path(), 0o444)?;
        let (digest, size) = hash_file(copy.path())?;
        let source = (!self.is_usable(digest, size)).then_some(Source::Temporary(copy));
        self.commit_blobs(vec![Prepared { digest, size, source }])?;
        Ok(digest)
    }

    pub(crate) fn prepare_bytes(&self, bytes: &[u8]) -> Result<Prepared, StoreError> {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        if self.is_usable(digest, size) {
            return Ok(Prepared {
                digest,
                size,
                source: None,
            });
        }
        let file = self.temporary();
        fs::write(file.path(), bytes).at("write", file.path())?;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o444)).at("make read-only", file.path())?;
        Ok(Prepared {
            digest,
            size,
            source: Some(Source::Temporary(file)),
        })
    }

    /// Makes a group of prepared files blobs, all durable when it returns.
    pub(crate) fn commit_blobs(&self, prepared: Vec<Prepared>) -> Result<(), StoreError> {
        let mut moves = Vec::new();
        let mut had = Vec::new();
        let mut added_bytes = 0;
        for blob in &prepared {
            let Some(source) = blob.source.as_ref().map(Source::path) else {
                had.push(blob.digest);
                continue;
            };
            // Without a seal it is read once more when it is used.
            if let Err(error) = seal::seal(source, blob.digest) {
                tracing::debug!(blob = %blob.digest, %error, "a blob can't be sealed");
            }
            added_bytes += blob.size;
            moves.push((source.to_path_buf(), self.blob_path(blob.digest)));
        }
        durable::commit(&moves)?;
        self.grow(added_bytes);
        self.flush_names(&had)
    }

    /// Flushes the names of blobs that were there already: somebody else may have put them there a moment ago, and be
    /// about to flush them, or have been killed in between.
    fn flush_names(&self, had: &[Digest]) -> Result<(), StoreError> {
        let mut flushed = self.flushed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for &digest in had {
            let path = self.blob_path(digest);
            let is_old = || fs::symlink_metadata(&path).is_ok_and(|found| is_settled(&found));
            if !flushed.contains(&digest) && !is_old() {
                durable::sync_folder(path.parent().unwrap_or(self.root()))?;
            }
            flushed.insert(digest);
        }
        Ok(())
    }

    /// Returns a path in the store's folder of temporary files.
    pub(super) fn temporary(&self) -> Temporary {
        Temporary::new(durable::unique_path(&self.tmp()))
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.paranoia
            .verified
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Returns whether a file got its name so long ago that every filesystem has flushed it by itself.
fn is_settled(metadata: &Metadata) -> bool {
    const LONG: Duration = Duration::from_secs(300);
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().max(0) as u64);
    // A clock that went back leaves files of the future, of which nothing is known.
    changed.elapsed().is_ok_and(|age| age > LONG)
}

/// Returns the digest and the number of bytes of a file.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, u64), StoreError> {
    read_digest(&File::open(path).at("open", path)?).at("read", path)
}
