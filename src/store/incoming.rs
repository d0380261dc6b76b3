//! Blobs that come from elsewhere: written aside, checked against their names, and only then let in.
//!
//! What a broken transfer left stays in `incoming/` under the blob's name, so that the next one continues; which parts of
//! it are good is for the transfer to find out, since only it knows where the bytes came from. Nothing here trusts them:
//! the whole file is hashed before it becomes a blob. It knows no network.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::blob::{Prepared, Source, hash_file};
use super::error::{IoContext, StoreError};
use super::{Store, durable};
use crate::digest::Digest;

/// A blob that is being received. Dropping it keeps what was written for the next transfer.
#[derive(Debug)]
pub struct Incoming {
    digest: Digest,
    size: u64,
    path: PathBuf,
    // Locked as long as it is open, so that two processes don't write into one file.
    file: File,
    continued: u64,
}

impl Incoming {
    /// Returns the digest that the bytes have to have.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns how many bytes an earlier transfer left; any of them may be wrong.
    pub fn continued(&self) -> u64 {
        self.continued
    }

    /// Writes bytes at their place, in any order and from any thread.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.file.write_all_at(bytes, offset).at("write", &self.path)
    }

    /// Reads back what was written, or left by an earlier transfer; false beyond its end.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> bool {
        self.file.read_exact_at(bytes, offset).is_ok()
    }
}

impl Store {
    /// Opens the file that a blob from elsewhere is written into. Its length is not known to be `size` yet.
    pub fn incoming(&self, digest: Digest, size: u64) -> Result<Incoming, StoreError> {
        let folder = self.root().join("incoming");
        durable::make_folder(&folder)?;
        let shared = folder.join(digest.to_string());
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(&shared).at("create", &shared)?;
        let is_ours = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            // Whoever held it may just have made a blob of it.
            && super::lock::is_named(&file, &shared)?;
        let (file, path) = if is_ours {
            (file, shared)
        } else {
            // Somebody else receives the same blob. Both will be right, and who comes second has nothing to do.
            let own = durable::unique_path(&self.tmp());
            (options.open(&own).at("create", &own)?, own)
        };
        let continued = file.metadata().at("read", &path)?.len().min(size);
        Ok(Incoming {
            digest,
            size,
            path,
            file,
            continued,
        })
    }

    /// Returns how much of a blob an earlier transfer left; none if nothing is there.
    pub fn incoming_length(&self, digest: Digest) -> Option<u64> {
        let found = fs::metadata(self.root().join("incoming").join(digest.to_string()));
        found.ok().map(|found| found.len())
    }

    /// Makes blobs of a group of received files, all durable when it returns, after it has read and checked each.
    ///
    /// # Errors
    /// A file whose bytes are not what its name says is removed, and then none of the group is let in.
    pub fn admit_incoming(&self, group: Vec<Incoming>) -> Result<(), StoreError> {
        let mut prepared = Vec::new();
        for incoming in &group {
            let (digest, size) = (incoming.digest, incoming.size);
            let mut source = Some(Source::Output(incoming.path.clone()));
            // A longer one was left by a transfer of something else or was tampered with; the hash will tell.
            if hash_file(&incoming.path)? != (digest, size) {
                fs::remove_file(&incoming.path).at("remove", &incoming.path)?;
                return Err(StoreError::WrongBytes { digest });
            }
            fs::set_permissions(&incoming.path, fs::Permissions::from_mode(0o444))
                .at("make read-only", &incoming.path)?;
            if self.has_blob(digest, size) {
                fs::remove_file(&incoming.path).at("remove", &incoming.path)?;
                source = None;
            }
            prepared.push(Prepared { digest, size, source });
        }
        self.commit_blobs(prepared)
    }
}
