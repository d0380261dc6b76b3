//! The local store: artifacts, records, runs and the index over them.
//!
//! It knows keys and bytes, never stages: what a kind, a node or a parameter means is not its business. Files are the
//! truth and are written so that each is whole or absent; the sled index is only a fast way to find them and can be
//! deleted at any time. Reading never waits for anybody.
//!
//! ```text
//! format          one line, `volvelle cache 2`, and what else a program has to know
//! blobs/ab/cdef   content by digest, read-only
//! records/ab/cdef one self-checking file per record, under its recipe key and under its content key
//! records/journal  the recipe keys in the order of writing: what index and snapshot have yet to read
//! records/snapshot what is known of all records, for one read
//! code/           the digests of the files of each plugin code that made something
//! index/          sled
//! partial/KEY/    what an interrupted node left for its next attempt
//! runs/ID/        events, logs, the state of the run; runs/resolved has the lists of nodes, runs/uses when each was used
//! outputs/        the last results of each pipeline under readable names
//! locks/          `keys`, of which each key that runs just now locks a byte, and who holds them
//! quarantine/     what was found damaged: blobs, records, an index
//! incoming/       blobs that are being received from elsewhere
//! pins/           what `gc` must keep, by name
//! replaced/       records that were replaced while a run may still use their blobs
//! size            how many bytes the blobs have together, roughly
//! tmp/            what is being written
//! ```

mod admit;
mod artifact;
mod blob;
mod clock;
mod code;
mod copy;
mod durable;
mod elsewhere;
mod error;
mod fsck;
mod gc;
mod guard;
mod history;
mod incoming;
mod index;
mod journal;
mod known;
mod lock;
mod materialize;
mod migrate;
mod pins;
mod process;
mod received;
mod record;
mod runs;
mod seal;
mod shared;
mod signature;
mod size;
mod snapshot;
mod tree;
mod uses;
mod writers;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

pub use artifact::{Artifact, Part};
pub use blob::BlobState;
pub use clock::{BadTimestamp, Timestamp};
pub use elsewhere::Elsewhere;
pub use error::StoreError;
pub use fsck::{Fate, Fault, FsckOptions, FsckReport, FsckStep, Need, Problem, Progress};
pub use gc::{Collected, Kept, Policy, Removed, Sum, Why};
pub use guard::UseGuard;
pub use history::{Earlier, RecordHistory};
pub use incoming::Incoming;
pub use known::{InputsDigest, Known};
pub use lock::{Claim, KeyLock};
pub use materialize::Placed;
pub use pins::{BadPinName, Pin};
pub use process::{Owner, host_name};
pub use received::{AdmitError, Admitted};
pub use record::{Lookup, Record, RecordFile};
pub use runs::{RunFolder, RunId, RunState, RunStatus};
pub use signature::{BadPublicKey, PublicKey, SigningKey, Trust};
pub use snapshot::{Found, Snapshot};
pub(crate) use tree::Inside;
pub use tree::{LinkFault, Manifest, TreeFault, TreeFile, TreeLink};

use crate::digest::{ContentKey, Digest, RecipeKey};
use error::IoContext;

/// A local store in one folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    index: index::Slot,
    trust: Trust,
    /// What signs the records that are written.
    signer: Option<Arc<SigningKey>>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    /// Whether blobs that were touched are read before they count as there.
    verifies: AtomicBool,
    /// Blobs that were there already and whose names are known to be on the disk.
    flushed: Mutex<HashSet<Digest>>,
    copier: copy::Copier,
    shared: shared::Shared,
    paranoia: blob::Paranoia,
}

impl Store {
    /// Opens the store in a folder, and makes one where there is none.
    ///
    /// # Errors
    /// The folder can't be written, belongs to something else, or was written by a newer program.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let root = std::path::absolute(root).at("resolve", root)?;
        durable::make_folder(&root)?;
        // Paths of the store are handed to workers that run elsewhere, so they have to be absolute.
        let root = root.canonicalize().at("resolve", &root)?;
        let store = Store {
            root,
            index: index::Slot::default(),
            trust: Trust::default(),
            signer: None,
            elsewhere: None,
            verifies: AtomicBool::new(false),
            flushed: Mutex::default(),
            copier: copy::Copier::default(),
            shared: shared::Shared::default(),
            paranoia: blob::Paranoia::default(),
        };
        migrate::make_ready(&store)?;
        Ok(store)
    }

    /// Makes only the records of some signers count, and signs what is written.
    pub fn with_trust(self, trust: Trust, signer: Option<Arc<SigningKey>>) -> Store {
        Store { trust, signer, ..self }
    }

    /// Returns whose records count.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Returns the key that signs the records that are written.
    pub fn signer(&self) -> Option<PublicKey> {
        self.signer.as_deref().map(SigningKey::public)
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
        durable::remove_tree(&self.partial_path(key))?;
        durable::remove_tree(&self.partial_marker(key))
    }

    /// Removes the folder of a node's attempts if they left nothing in it.
    pub fn remove_empty_partial(&self, key: ContentKey) {
        let folder = self.partial_path(key);
        // One with something in it can't be removed like this.
        let _ = fs::remove_dir(&folder);
        if !folder.exists() {
            let _ = fs::remove_file(self.partial_marker(key));
        }
    }

    /// Says beside the folder of a node's attempts which recipe they are at, so that `gc` can tell whether a live run may
    /// continue them. Without that it keeps them while any run lives.
    pub fn mark_partial(&self, key: ContentKey, recipe: RecipeKey) {
        let path = self.partial_marker(key);
        if let Err(error) = fs::write(&path, format!("{recipe}\n")) {
            tracing::debug!(path = %path.display(), %error, "what partial state is for could not be kept");
        }
    }

    /// Returns the recipe of a node's attempts, if it was said.
    fn partial_recipe(&self, key: ContentKey) -> Option<RecipeKey> {
        fs::read_to_string(self.partial_marker(key))
            .ok()?
            .trim_end()
            .parse()
            .ok()
    }

    fn partial_marker(&self, key: ContentKey) -> PathBuf {
        self.partial_path(key).with_extension("recipe")
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

#[cfg(test)]
mod folder_tests;
#[cfg(test)]
mod tests;
