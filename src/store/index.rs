//! The sled index: a fast way to the records of a kind and to the digests of files outside the cache.
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

use super::clock::Timestamp;
use super::lock::{Claim, KeyLock};
use super::record::{self, Record};
use super::{Store, durable};
use crate::digest::{Digest, DigestCache, FileStat, RecipeKey};

/// Changes when the meaning of what is stored does; another number means building it again.
const FORMAT: &[u8] = b"1";

/// Below this, hashing a file again costs less than opening the index.
const WORTH_REMEMBERING_BYTES: u64 = 4 << 20;

/// What the index knows of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordSummary {
    pub recipe_key: RecipeKey,
    pub kind: String,
    pub node: String,
    pub stage: String,
    pub pipeline: String,
    pub started: Timestamp,
    /// The time that the execution took.
    pub seconds: f64,
}

impl RecordSummary {
    fn of(record: &Record) -> RecordSummary {
        RecordSummary {
            recipe_key: record.recipe_key,
            kind: record.kind.clone(),
            node: record.node.clone(),
            stage: record.stage.clone(),
            pipeline: record.pipeline.clone(),
            started: record.started,
            seconds: record.seconds,
        }
    }
}

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
    records: sled::Tree,
    files: sled::Tree,
    _lock: KeyLock,
}

impl Store {
    /// Returns all records of a kind, the latest first.
    pub fn records_by_kind(&self, kind: &str) -> Vec<RecordSummary> {
        let from_index = self.with_index(|index| {
            index.catch_up(self)?;
            let mut found = Vec::new();
            for item in index.records.scan_prefix(kind_prefix(kind)) {
                found.extend(serde_json::from_slice::<RecordSummary>(&item?.1).ok());
            }
            Ok(found)
        });
        let mut found = from_index.unwrap_or_else(|| {
            let mut found = Vec::new();
            self.each_record(|record| {
                if record.kind == kind {
                    found.push(RecordSummary::of(record));
                }
            });
            found
        });
        found.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| a.recipe_key.cmp(&b.recipe_key)));
        found
    }

    /// Closes the index, so that other processes can use it.
    pub fn close_index(&self) {
        *self.index.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }

    /// Visits every record there is, from the files.
    fn each_record(&self, mut visit: impl FnMut(&Record)) {
        let shards = fs::read_dir(self.root().join("records"))
            .into_iter()
            .flatten()
            .flatten();
        for shard in shards.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            for entry in fs::read_dir(shard.path()).into_iter().flatten().flatten() {
                let path = entry.path();
                let Some(record) = record::read(&path) else { continue };
                // The same file has a second name under the content key.
                if path == self.sharded("records", record.recipe_key.0) {
                    visit(&record);
                }
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
        let Ok(Claim::Held(lock)) = self.claim_named("index") else {
            return None;
        };
        let path = self.root().join("index");
        let mut lock = Some(lock);
        for _ in 0..2 {
            match quietly(|| Some(open(&path).map_err(|error| error.to_string()))) {
                Outcome::Done((db, records, files)) => {
                    return Some(Index {
                        db,
                        records,
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
                for record in keys.into_iter().filter_map(|key| store.record(key)) {
                    self.insert(&record)?;
                }
            }
            // A new index, or a journal that is shorter than it was: read everything.
            None => {
                self.records.clear()?;
                let mut inserted = Ok(());
                store.each_record(|record| {
                    if inserted.is_ok() {
                        inserted = self.insert(record);
                    }
                });
                inserted?;
                self.db.insert("format", FORMAT)?;
            }
        }
        self.db.insert("journal", &(journal.len() as u64).to_be_bytes())?;
        self.db.flush()?;
        Ok(())
    }

    fn insert(&self, record: &Record) -> sled::Result<()> {
        let mut key = kind_prefix(&record.kind);
        key.extend_from_slice(&record.recipe_key.0.0);
        let summary = serde_json::to_vec(&RecordSummary::of(record)).expect("a summary is plain data");
        self.records.insert(key, summary).map(|_| ())
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

fn open(path: &Path) -> sled::Result<(sled::Db, sled::Tree, sled::Tree)> {
    // Flushing on close is enough for what can be built again; a flush every 500 ms would keep the disk awake.
    let db = sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(64 << 20)
        .open()?;
    let records = db.open_tree("records")?;
    let files = db.open_tree("files")?;
    Ok((db, records, files))
}

/// Kinds can't hold a zero byte, so no kind's prefix is a prefix of another's.
fn kind_prefix(kind: &str) -> Vec<u8> {
    let mut prefix = kind.as_bytes().to_vec();
    prefix.push(0);
    prefix
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
