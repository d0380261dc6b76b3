//! One lock per key while it runs, so that processes on a machine never execute the same node twice.
//!
//! The lock is the operating system's, so it goes with the process that holds it, also after `kill -9`. All keys are
//! ranges of one file: a file for each key, made and removed as often as a sweep has nodes, would cost the filesystem more
//! than a small node takes. Beside it a table tells who holds a key, for people only. A hit never locks.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

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
    // Closing the file is what releases the lock.
    _file: File,
}

/// A held lock of something that there is one of in a cache; dropping it releases it.
#[derive(Debug)]
pub(crate) struct NamedLock {
    path: PathBuf,
    _file: File,
}

/// How many keys the table of holders has room for at a time; two that fall on one place only hide each other.
const PLACES: u64 = 4096;

/// The length of a place: a key and its holder as JSON, padded.
const PLACE_BYTES: usize = 256;

impl Store {
    /// Tries to lock a key, without waiting.
    pub fn claim(&self, key: ContentKey) -> Result<Claim, StoreError> {
        let path = self.root().join("locks/keys");
        let file = loop {
            let file = open(&path)?;
            if !lock_byte(&file, start_of(key), Hold::Alone, Wait::No).at("lock", &path)? {
                return Ok(Claim::Taken(self.holder(key)));
            }
            // If somebody removed the file in between, it is one that nobody else will find.
            if is_named(&file, &path)? {
                break file;
            }
        };
        if let Err(error) = self.write_holder(key) {
            tracing::debug!(%error, "who holds a key could not be written");
        }
        Ok(Claim::Held(KeyLock { _file: file }))
    }

    fn holder(&self, key: ContentKey) -> Option<Owner> {
        let mut place = [0; PLACE_BYTES];
        let file = File::open(self.root().join("locks/holders")).ok()?;
        file.read_exact_at(&mut place, place_of(key)).ok()?;
        let text = place.strip_prefix(&key.0.0)?;
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        serde_json::from_slice(&text[..end]).ok()
    }

    fn write_holder(&self, key: ContentKey) -> std::io::Result<()> {
        let mut place = key.0.0.to_vec();
        serde_json::to_writer(&mut place, &Owner::current())?;
        place.resize(PLACE_BYTES, 0);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.root().join("locks/holders"))?;
        file.write_all_at(&place, place_of(key))
    }

    /// Tries to lock something that there is one of, without waiting; none if somebody holds it.
    pub(crate) fn claim_named(&self, name: &str) -> Result<Option<NamedLock>, StoreError> {
        let path = self.root().join("locks").join(name);
        loop {
            let file = open(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno).at("lock", &path),
            }
            // The last holder removes the file. If it did so between our opening and our locking, then we hold the
            // lock of a file that nobody will find again.
            if is_named(&file, &path)? {
                return Ok(Some(NamedLock { path, _file: file }));
            }
        }
    }
}

impl Drop for NamedLock {
    fn drop(&mut self) {
        // Removed while the lock is still held; see `claim_named`. What can't be removed is an empty file too many.
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens a file of locks, made where there is none.
fn open(path: &Path) -> Result<File, StoreError> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    options.open(path).at("open", path)
}

/// Tells whether a path still names an open file.
pub(super) fn is_named(file: &File, path: &Path) -> Result<bool, StoreError> {
    let held = file.metadata().at("read", path)?;
    Ok(fs::metadata(path).is_ok_and(|named| named.ino() == held.ino() && named.dev() == held.dev()))
}

/// Returns the byte that stands for a key; the two bits that are left out keep it in the range of offsets.
fn start_of(key: ContentKey) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&key.0.0[..8]);
    (u64::from_be_bytes(first) >> 2) as i64
}

fn place_of(key: ContentKey) -> u64 {
    start_of(key) as u64 % PLACES * PLACE_BYTES as u64
}

/// How a byte of a file of locks is held.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold {
    /// By one description of the file.
    Alone,
    /// By any number of them, while nobody holds it alone.
    Shared,
    /// Not any more.
    Free,
}

/// What to do about a byte that somebody else holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    UntilFree,
}

/// Locks one byte of a file for as long as this description of it is open; false if it is locked by another one.
pub(super) fn lock_byte(file: &File, start: i64, hold: Hold, wait: Wait) -> std::io::Result<bool> {
    // SAFETY: `flock` is plain old data, for which zeros are a value; what matters of it is set below.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = match hold {
        Hold::Alone => libc::F_WRLCK,
        Hold::Shared => libc::F_RDLCK,
        Hold::Free => libc::F_UNLCK,
    } as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = start;
    range.l_len = 1;
    let command = match wait {
        Wait::No => libc::F_OFD_SETLK,
        Wait::UntilFree => libc::F_OFD_SETLKW,
    };
    loop {
        // SAFETY: the descriptor is open as long as `file` lives, and `range` is a valid `flock` for the whole call.
        let locked = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const range) };
        if locked == 0 {
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN | libc::EACCES) if wait == Wait::No => return Ok(false),
            _ => return Err(error),
        }
    }
}
