//! The local store: artifacts, records, runs and the index over them.
//!
//! It knows keys and bytes, never stages: what a kind, a node or a parameter means is not its business. Files are the
//! truth and are written so that each is whole or absent; the sled index is only a fast way to find them and can be
//! deleted at any time. Reading never waits for anybody.
//!
//! ```text
//! format          one line, `volvelle cache 1`
//! blobs/ab/cdef   content by digest, read-only
//! records/ab/cdef one self-checking file per record, under its recipe key and under its content key
//! records/journal  the recipe keys in the order of writing: what index and snapshot have yet to read
//! records/snapshot what is known of all records, for one read
//! code/           the digests of the files of each plugin code that made something
//! index/          sled
//! partial/KEY/    what an interrupted node left for its next attempt
//! runs/ID/        events, logs, the state of the run
//! outputs/        the last results of each pipeline under readable names
//! locks/          `keys`, of which each key that runs just now locks a byte, and who holds them
//! quarantine/     blobs that were found damaged
//! tmp/            what is being written
//! ```

mod admit;
mod artifact;
mod blob;
mod clock;
mod code;
mod copy;
mod durable;
mod error;
mod history;
mod index;
mod known;
mod lock;
mod materialize;
mod process;
mod record;
mod runs;
mod shared;
mod snapshot;
mod tree;
mod writers;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use artifact::{Artifact, Part};
pub use blob::BlobState;
pub use clock::{BadTimestamp, Timestamp};
pub use error::StoreError;
pub use history::{Earlier, RecordHistory};
pub use known::{InputsDigest, Known};
pub use lock::{Claim, KeyLock};
pub use materialize::Placed;
pub use process::{Owner, host_name};
pub use record::{Lookup, Record};
pub use runs::{RunFolder, RunId, RunState, RunStatus};
pub use snapshot::{Found, Snapshot};
pub use tree::{LinkFault, Manifest, TreeFault, TreeFile, TreeLink};

use crate::digest::{ContentKey, Digest};
use error::IoContext;

/// The version of the layout of the cache folder.
const FORMAT: u64 = 1;

/// A local store in one folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    index: index::Slot,
    copier: copy::Copier,
    shared: shared::Shared,
    trust: blob::Trust,
}

impl Store {
    /// Opens the store in a folder, and makes one where there is none.
    ///
    /// # Errors
    /// The folder can't be written, belongs to something else, or was written by a newer program.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        fs::create_dir_all(root).at("create", root)?;
        // Paths of the store are handed to workers that run elsewhere, so they have to be absolute.
        let root = root.canonicalize().at("resolve", root)?;
        let store = Store {
            root,
            index: index::Slot::default(),
            copier: copy::Copier::default(),
            shared: shared::Shared::default(),
            trust: blob::Trust::default(),
        };
        let format = store.root.join("format");
        match fs::read_to_string(&format) {
            Ok(text) => check_format(&format, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for folder in ["blobs", "records", "partial", "runs", "locks", "tmp"] {
                    durable::make_folder(&store.root.join(folder))?;
                }
                // All at once they cost two flushes; made one by one when they are needed, five hundred.
                for area in ["blobs", "records"].map(|area| store.root.join(area)) {
                    for shard in (0..=u8::MAX).map(|shard| area.join(format!("{shard:02x}"))) {
                        match fs::create_dir(&shard) {
                            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                                return Err(error).at("create", &shard);
                            }
                            _ => {}
                        }
                    }
                    durable::sync_folder(&area)?;
                }
                durable::write_file(&format, format!("volvelle cache {FORMAT}\n").as_bytes(), &store.tmp())?;
            }
            Err(error) => return Err(error).at("read", &format),
        }
        Ok(store)
    }

    /// Returns the folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder in which a node's attempts keep what a killed one left. It may not exist.
    ///
    /// The content key names it: a checkpoint that was made from other inputs must never be continued.
    pub fn partial_path(&self, key: ContentKey) -> PathBuf {
        self.root.join("partial").join(key.to_string())
    }

    /// Removes what attempts of a node left, since the node is done.
    pub fn remove_partial(&self, key: ContentKey) -> Result<(), StoreError> {
        durable::remove_tree(&self.partial_path(key))
    }

    /// Removes a folder in the store, read-only parts included.
    pub fn remove_folder(&self, path: &Path) -> Result<(), StoreError> {
        durable::remove_tree(path)
    }

    /// Writes a file of the store so that it is whole or absent.
    pub fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        durable::write_file(path, bytes, &self.tmp())
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Returns `area/ab/cdef...`: 256 folders keep each of them small.
    fn sharded(&self, area: &str, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        let (shard, rest) = hex.split_at(2);
        self.root.join(area).join(shard).join(rest)
    }
}

fn check_format(path: &Path, text: &str) -> Result<(), StoreError> {
    let first = text.lines().next().unwrap_or_default();
    match first.strip_prefix("volvelle cache ").map(str::parse::<u64>) {
        Some(Ok(found)) if (1..=FORMAT).contains(&found) => Ok(()),
        Some(Ok(found)) if found > FORMAT => Err(StoreError::NewerFormat {
            path: path.to_path_buf(),
            found,
            supported: FORMAT,
        }),
        _ => Err(StoreError::NotACache {
            path: path.to_path_buf(),
        }),
    }
}

#[cfg(test)]
mod folder_tests;
#[cfg(test)]
mod tests;
