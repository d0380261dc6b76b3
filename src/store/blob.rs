//! Blobs: immutable files named by the BLAKE3 digest of their bytes.
//!
//! A blob is written once, by rename, and is read-only from then on. This file knows single files; what a folder is
//! lies in `artifact`.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::Store;
use super::durable;
use super::error::{IoContext, StoreError};
use super::seal;
use crate::digest::Digest;

/// What tells that a file was changed, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: u64,
    modified_ns: i128,
    inode: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            size: metadata.len(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
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
}

/// A file that waits to become a blob: hashed, read-only, and in the cache's filesystem.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where the bytes lie now; none when the store had the blob already.
    pub(crate) source: Option<PathBuf>,
}

impl Store {
    /// Returns the path of a blob, whether or not it exists.
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.sharded("blobs", digest)
    }

    /// Returns whether the store has a blob, and with this many bytes.
    pub fn has_blob(&self, digest: Digest, size: u64) -> bool {
        self.has_sealed(digest, size, self.verifies.load(Ordering::Relaxed))
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
        let folder = self.root().join("quarantine");
        let aside = durable::unique_path(&folder);
        let moved = fs::create_dir_all(&folder).and_then(|()| fs::rename(self.blob_path(digest), &aside));
        if let Err(error) = moved {
            tracing::warn!(blob = %digest, %error, "a damaged blob could not be moved aside");
        }
    }

    /// Adds a copy of a file as a blob, durable when it returns; the file itself stays as it is.
    pub fn add_copy(&self, path: &Path) -> Result<Digest, StoreError> {
        let copy = durable::unique_path(&self.tmp());
        fs::copy(path, &copy).at("copy", path)?;
        let prepared = self.prepare_file(&copy)?;
        let digest = prepared.digest;
        self.commit_blobs(vec![prepared])?;
        Ok(digest)
    }

    pub(crate) fn prepare_bytes(&self, bytes: &[u8]) -> Result<Prepared, StoreError> {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        if self.has_blob(digest, size) {
            return Ok(Prepared {
                digest,
                size,
                source: None,
            });
        }
        let path = durable::unique_path(&self.tmp());
        fs::write(&path, bytes).at("write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).at("make read-only", &path)?;
        Ok(Prepared {
            digest,
            size,
            source: Some(path),
        })
    }

    /// Takes a regular file over: hashes it and makes it read-only. The file belongs to the store from now on.
    ///
    /// A file with a second name somewhere is copied instead: whoever holds that name could still change it.
    pub(crate) fn prepare_file(&self, path: &Path) -> Result<Prepared, StoreError> {
        let metadata = fs::symlink_metadata(path).at("read", path)?;
        let path = if metadata.nlink() > 1 {
            let copy = durable::unique_path(&self.tmp());
            fs::copy(path, &copy).at("copy", path)?;
            copy
        } else {
            path.to_path_buf()
        };
        // Read-only before the hash is taken: a late writer has to open the file first.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).at("make read-only", &path)?;
        let (digest, size) = hash_file(&path)?;
        if self.has_blob(digest, size) {
            fs::remove_file(&path).at("remove", &path)?;
            return Ok(Prepared {
                digest,
                size,
                source: None,
            });
        }
        Ok(Prepared {
            digest,
            size,
            source: Some(path),
        })
    }

    /// Makes a group of prepared files blobs, all durable when it returns.
    pub(crate) fn commit_blobs(&self, prepared: Vec<Prepared>) -> Result<(), StoreError> {
        let mut moves = Vec::new();
        let mut had = Vec::new();
        let mut added_bytes = 0;
        for blob in prepared {
            let Some(source) = blob.source else {
                had.push(blob.digest);
                continue;
            };
            // Without a seal it is read once more when it is used.
            if let Err(error) = seal::seal(&source, blob.digest) {
                tracing::debug!(blob = %blob.digest, %error, "a blob can't be sealed");
            }
            added_bytes += blob.size;
            moves.push((source, self.blob_path(blob.digest)));
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
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(File::open(path).at("open", path)?)
        .at("read", path)?;
    Ok((Digest(*hasher.finalize().as_bytes()), hasher.count()))
}
