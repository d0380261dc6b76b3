//! The sled index: a fast way to the history of nodes and to the digests of files outside the cache.
//!
//! Nothing in it is the only copy. It is opened when something asks for it and closed soon after, because sled lets
//! only one process in: whoever finds it taken reads the files instead. It learns of new records from the journal, so
//! writers never need it. A damaged index is moved aside and built again.

use std::collections::HashSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::history::{Entry, RecordHistory, RecordSummary, Sorted, Table};
use super::lock::NamedLock;
use super::record::{self, Record};
use super::{Store, durable};
use crate::digest::{Digest, DigestCache, FileStat, RecipeKey};

/// Changes when the meaning of what is stored does; another number means building it again.
const FORMAT: &[u8] = b"2";

/// Below this, hashing a file again costs less than opening the index.
const WORTH_REMEMBERING_BYTES: u64 = 4 << 20;

/// How much memory sled may keep pages in; history is asked for a few nodes at a time.
const CACHE_BYTES: u64 = 8 << 20;

/// How many records are put into the index at a time.
const BATCH: usize = 4096;

/// The place of the index in a store: closed until something needs it.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Option<Index>>);

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

struct Index {
    db: sled::Db,
    by_node: sled::Tree,
    by_kind: sled::Tree,
    files: sled::Tree,
    _lock: NamedLock,
}

impl Store {
    /// Returns what was run before. Where the index can't be had, it is read from all records, once.
    pub fn history(&self) -> RecordHistory<'_> {
        let is_ready = self.with_index(|index| index.catch_up(self)).is_some();
        RecordHistory::new(self, (!is_ready).then(|| self.all_summaries()))
    }

    fn all_summaries(&self) -> (Sorted, Sorted) {
        let (mut by_node, mut by_kind) = (Sorted::new(), Sorted::new());
        self.each_record(|record| {
            let summary = RecordSummary::of(record);
            by_node.insert(summary.node_key(), summary.value());
            by_kind.insert(summary.kind_key(), summary.value());
        });
        (by_node, by_kind)
    }

    /// Returns entries of the index: the first `limit` from `from` on, backwards if asked, as long as they have a prefix.
    pub(super) fn scan_index(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        backwards: bool,
        limit: usize,
    ) -> Option<Vec<Entry>> {
        self.with_index(|index| {
            let tree = match table {
                Table::Nodes => &index.by_node,
                Table::Kinds => &index.by_kind,
            };
            let take = |iter: &mut dyn Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>| {
                let mut found = Vec::new();
                for item in iter.take(limit) {
                    let (key, value) = item?;
                    if !key.starts_with(prefix) {
                        break;
                    }
                    found.push((key.to_vec(), value.to_vec()));
                }
                Ok(found)
            };
            if backwards {
                take(&mut tree.range(..from).rev())
            } else {
                take(&mut tree.range(from..))
            }
        })
    }

    /// Closes the index, so that other processes can use it.
    pub fn close_index(&self) {
        *self.index.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }

    /// Visits every record there is, from the files.
    pub fn each_record(&self, mut visit: impl FnMut(&Record)) {
        self.each_record_file(|path| {
            let Some(record) = record::read(path) else { return };
            // The same file has a second name under the content key.
            if path == self.sharded("records", record.recipe_key.0) {
                visit(&record);
            }
        });
    }

    /// Visits the path of every record file; a record has one under each of its keys.
    pub(super) fn each_record_file(&self, mut visit: impl FnMut(&Path)) {
        let shards = fs::read_dir(self.root().join("records"))
            .into_iter()
            .flatten()
            .flatten();
        for shard in shards.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            for entry in fs::read_dir(shard.path()).into_iter().flatten().flatten() {
                visit(&entry.path());
            }
        }
    }

    /// Runs something on the index; none where it is taken by another process, or failed and was moved aside.
    fn with_index<T>(&self, work: impl FnOnce(&Index) -> sled::Result<T>) -> Option<T> {
        let mut slot = self.index.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if slot.is_none() {
            *slot = self.open_index();
        }
        // sled reports some damage by a panic; to us any failure means the same.
        let outcome = quietly(|| Some(work(slot.as_ref()?).map_err(|error| error.to_string())));
        match outcome {
            Outcome::Done(value) => Some(value),
            Outcome::Closed => None,
            Outcome::Failed(error) => {
                *slot = None;
                self.move_index_aside(&error);
                None
            }
        }
    }

    fn open_index(&self) -> Option<Index> {
        // Our own lock tells "taken" apart from "damaged", which sled's errors do not do reliably.
        let Ok(Some(lock)) = self.claim_named("index") else {
            return None;
        };
        let path = self.root().join("index");
        let mut lock = Some(lock);
        for _ in 0..2 {
            match quietly(|| Some(open(&path).map_err(|error| error.to_string()))) {
                Outcome::Done((db, by_node, by_kind, files)) => {
                    return Some(Index {
                        db,
                        by_node,
                        by_kind,
                        files,
                        _lock: lock.take()?,
                    });
                }
                Outcome::Failed(error) => self.move_index_aside(&error),
                Outcome::Closed => return None,
            }
        }
        None
    }

    fn move_index_aside(&self, error: &str) {
        let folder = self.root().join("quarantine");
        let aside = durable::unique_path(&folder);
        let moved = fs::create_dir_all(&folder).and_then(|()| fs::rename(self.root().join("index"), &aside));
        match moved {
            Ok(()) => tracing::warn!(error, moved_to = %aside.display(), "the index is damaged and is built again"),
            Err(io) => tracing::warn!(error, %io, "the index is damaged and can't be moved aside"),
        }
    }
}

impl Index {
    /// Reads the records that were written since the last time.
    fn catch_up(&self, store: &Store) -> sled::Result<()> {
        let journal = fs::read(store.root().join("records/journal")).unwrap_or_default();
        let seen = self
            .db
            .get("journal")?
            .and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        let known_format = self.db.get("format")?.is_some_and(|format| format == FORMAT);
        let unread = seen
            .filter(|_| known_format)
            .and_then(|seen| journal.get(usize::try_from(seen).ok()?..));
        match unread {
            Some([]) => return Ok(()),
            Some(unread) => {
                let text = String::from_utf8_lossy(unread);
                let keys: HashSet<RecipeKey> = text.lines().filter_map(|line| line.parse().ok()).collect();
                let mut batch = Batch::default();
                for record in keys.into_iter().filter_map(|key| store.record(key)) {
                    batch.add(&record, self)?;
                }
                batch.write(self)?;
            }
            // A new index, or a journal that is shorter than it was: read everything.
            None => {
                self.by_node.clear()?;
                self.by_kind.clear()?;
                let (mut batch, mut written) = (Batch::default(), Ok(()));
                store.each_record(|record| {
                    if written.is_ok() {
                        written = batch.add(record, self);
                    }
                });
                written?;
                batch.write(self)?;
                self.db.insert("format", FORMAT)?;
            }
        }
        self.db.insert("journal", &(journal.len() as u64).to_be_bytes())?;
        self.db.flush()?;
        Ok(())
    }
}

/// Records on their way into the index.
#[derive(Default)]
struct Batch {
    by_node: sled::Batch,
    by_kind: sled::Batch,
    num: usize,
}

impl Batch {
    fn add(&mut self, record: &Record, index: &Index) -> sled::Result<()> {
        let summary = RecordSummary::of(record);
        self.by_node.insert(summary.node_key(), summary.value());
        self.by_kind.insert(summary.kind_key(), summary.value());
        self.num += 1;
        if self.num < BATCH { Ok(()) } else { self.write(index) }
    }

    fn write(&mut self, index: &Index) -> sled::Result<()> {
        let Batch { by_node, by_kind, .. } = std::mem::take(self);
        index.by_node.apply_batch(by_node)?;
        index.by_kind.apply_batch(by_kind)
    }
}

#[derive(Serialize, Deserialize)]
struct RememberedFile {
    stat: FileStat,
    digest: Digest,
}

impl DigestCache for Store {
    fn get(&self, path: &Path, stat: &FileStat) -> Option<Digest> {
        if stat.size_bytes < WORTH_REMEMBERING_BYTES {
            return None;
        }
        let value = self.with_index(|index| index.files.get(path.as_os_str().as_encoded_bytes()))??;
        let remembered: RememberedFile = serde_json::from_slice(&value).ok()?;
        (remembered.stat == *stat).then_some(remembered.digest)
    }

    fn put(&self, path: &Path, stat: &FileStat, digest: Digest) {
        if stat.size_bytes < WORTH_REMEMBERING_BYTES {
            return;
        }
        let value = serde_json::to_vec(&RememberedFile { stat: *stat, digest }).expect("a stat is plain data");
        self.with_index(|index| {
            index
                .files
                .insert(path.as_os_str().as_encoded_bytes(), value)
                .map(|_| ())
        });
    }
}

fn open(path: &Path) -> sled::Result<(sled::Db, sled::Tree, sled::Tree, sled::Tree)> {
    // Flushing on close is enough for what can be built again; a flush every 500 ms would keep the disk awake.
    let db = sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(CACHE_BYTES)
        .open()?;
    let by_node = db.open_tree("by_node")?;
    let by_kind = db.open_tree("by_kind")?;
    let files = db.open_tree("files")?;
    Ok((db, by_node, by_kind, files))
}

enum Outcome<T> {
    Done(T),
    Closed,
    Failed(String),
}

/// Turns a panic inside sled into an ordinary failure.
fn quietly<T>(work: impl FnOnce() -> Option<Result<T, String>>) -> Outcome<T> {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Some(Ok(value))) => Outcome::Done(value),
        Ok(Some(Err(error))) => Outcome::Failed(error),
        Ok(None) => Outcome::Closed,
        Err(_) => Outcome::Failed("sled panicked".to_owned()),
    }
}
