//! One lock per key while it runs, so that processes on a machine never execute the same node twice.
//!
//! The lock is the operating system's (`flock`), so it goes with the process that holds it, also after `kill -9`. The
//! file tells who holds it, for people only. A hit never locks.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::Store;
use super::error::{IoContext, StoreError};
use super::process::Owner;
use crate::digest::ContentKey;

/// The answer to an attempt to lock a key.
#[derive(Debug)]
pub enum Claim {
    /// The key is ours until the lock is dropped.
    Held(KeyLock),
    /// Somebody runs it: who, unless that is being written just now.
    Taken(Option<Owner>),
}

/// A held lock; dropping it releases the key.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    // Closing the file is what releases the lock.
    _file: File,
}

impl Store {
    /// Tries to lock a key, without waiting.
    pub fn claim(&self, key: ContentKey) -> Result<Claim, StoreError> {
        self.claim_named(&key.to_string())
    }

    pub(crate) fn claim_named(&self, name: &str) -> Result<Claim, StoreError> {
        let path = self.root().join("locks").join(name);
        loop {
            let mut file = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .at("open", &path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut text = String::new();
                    let holder = file
                        .read_to_string(&mut text)
                        .ok()
                        .and_then(|_| serde_json::from_str(&text).ok());
                    return Ok(Claim::Taken(holder));
                }
                Err(errno) => return Err(errno).at("lock", &path),
            }
            // The last holder removes the file. If it did so between our opening and our locking, then we hold the
            // lock of a file that nobody will find again.
            let held = file.metadata().at("read", &path)?;
            if !fs::metadata(&path).is_ok_and(|named| named.ino() == held.ino() && named.dev() == held.dev()) {
                continue;
            }
            let owner = serde_json::to_vec(&Owner::current()).expect("an owner is plain data");
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(&owner))
                .at("write", &path)?;
            return Ok(Claim::Held(KeyLock { path, _file: file }));
        }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while the lock is still held; see `claim_named`. What can't be removed is an empty file too many.
        let _ = fs::remove_file(&self.path);
    }
}
