//! Which changes of a blob's inode were the store's own.
//!
//! A blob that was handed to a worker as a hard link must not change, whoever the worker is: for root, permissions are
//! no obstacle, and size and time of modification can be put back. The time of the last change of an inode (ctime) can't,
//! but each link that is made or removed moves it too. So links are made and removed here, and what ctime each left is
//! kept. A ctime that nobody here has left decides nothing, for another process may have made a link: the bytes do.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::blob::Stamp;
use crate::digest::Digest;

/// Links of different blobs need not wait for each other.
const SHARDS: usize = 16;

/// Makes and removes hard links of blobs, and knows what became of their inodes.
#[derive(Debug, Default)]
pub(crate) struct Shared([Mutex<HashMap<Digest, Known>>; SHARDS]);

/// The ctime of an inode while all its changes are known; none since one was not.
type Known = Option<i128>;

impl Shared {
    /// Links a blob to a new name and returns the stamp of both.
    pub(crate) fn link(&self, digest: Digest, blob: &Path, to: &Path) -> io::Result<Stamp> {
        let mut known = self.lock(digest);
        let before = Stamp::read(blob);
        fs::hard_link(blob, to)?;
        let after = Stamp::read(to).ok_or(io::ErrorKind::NotFound)?;
        let is_known = match known.get(&digest) {
            // What a blob is when it is first handed out is the store's word.
            None => true,
            Some(changed) => changed.is_some() && *changed == before.map(|stamp| stamp.changed_ns),
        };
        known.insert(digest, is_known.then_some(after.changed_ns));
        Ok(after)
    }

    /// Removes a name of a blob.
    pub(crate) fn unlink(&self, digest: Digest, name: &Path, blob: &Path) -> io::Result<()> {
        let mut known = self.lock(digest);
        let before = Stamp::read(name);
        fs::remove_file(name)?;
        let is_known = known
            .get(&digest)
            .is_some_and(|changed| *changed == before.map(|stamp| stamp.changed_ns));
        match Stamp::read(blob).filter(|_| is_known) {
            Some(after) => known.insert(digest, Some(after.changed_ns)),
            None => known.insert(digest, None),
        };
        Ok(())
    }

    /// Returns whether all that happened to a blob's inode until this stamp was done here.
    pub(crate) fn is_known(&self, digest: Digest, stamp: &Stamp) -> bool {
        self.lock(digest).get(&digest) == Some(&Some(stamp.changed_ns))
    }

    /// Notes that a blob was read and is sound, and that its inode had this stamp before and after.
    pub(crate) fn found_sound(&self, digest: Digest, stamp: &Stamp) {
        self.lock(digest).insert(digest, Some(stamp.changed_ns));
    }

    fn lock(&self, digest: Digest) -> MutexGuard<'_, HashMap<Digest, Known>> {
        let shard = &self.0[usize::from(digest.0[0]) % SHARDS];
        shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
