//! The sled index: a fast way to the history of nodes and to the digests of files outside the cache.
//!
//! Nothing in it is the only copy. It is opened when something asks for it and closed soon after, because sled lets
//! only one process in: whoever finds it taken reads the files instead. It learns of new records from the journal, so
//! writers never need it. A damaged index is moved aside and built again.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::history::{self, Chunk, Chunks, RecordHistory, Summary};
use super::lock::NamedLock;
use super::record::{self, Record};
use super::{Store, durable};
use crate::digest::{Digest, DigestCache, FileStat, FolderStat, RecipeKey};

/// Changes when the meaning of what is stored does; another number means building it again.
const FORMAT: &[u8] = b"3";

/// Below this, hashing a file again costs less than opening the index.
const WORTH_REMEMBERING_BYTES: u64 = 4 << 20;

/// The same for the number of files in a folder.
const WORTH_REMEMBERING_FILES: u64 = 1000;

/// How much memory sled may keep pages in; history is asked for a few nodes at a time.
const CACHE_BYTES: u64 = 8 << 20;

/// How many records are read before they are put into the index.
const BATCH: usize = 16_384;

/// The place of the index in a store: closed until something needs it.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Option<Index>>);

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        close(self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

/// Closes the index. sled flushes then, and panics where the disk refuses that; whoever opens it next finds out.
fn close(slot: &mut Option<Index>) {
    if let Some(index) = slot.take()
        && let Outcome::Failed(error) = quietly(move || {
            drop(index);
            Some(Ok::<(), String>(()))
        })
    {
        tracing::debug!(error, "the index could not be flushed when it was closed");
    }
}

struct Index {
    db: sled::Db,
    history: sled::Tree,
    files: sled::Tree,
    _lock: NamedLock,
}

impl Store {
    /// Returns what was run before. Where the index can't be had, it is read from all records, once.
    pub fn history(&self) -> RecordHistory<'_> {
        let is_ready = self.with_index(|index| index.catch_up(self)).is_some();
        let from_files = || {
            let mut chunks = BTreeMap::new();
            self.summaries(|batch| history::add(batch, &mut chunks));
            chunks
        };
        RecordHistory::new(self, (!is_ready).then(from_files))
    }

    /// Lets the index learn of what was written since, unless another process has it.
    pub(super) fn catch_up_index(&self) {
        self.with_index(|index| index.catch_up(self));
        self.close_index();
    }

    /// Returns the last chunk of history whose key is at most `key`.
    pub(super) fn history_chunk(&self, key: &[u8]) -> Option<Chunk> {
        self.with_index(|index| Ok(InTree(&index.history).at_or_before(key)))?
    }

    /// Hands out what history keeps of all records, from the files, some at a time.
    fn summaries(&self, mut take: impl FnMut(Vec<Summary>)) {
        let mut batch = Vec::new();
        self.each_record_file(|path| {
            let Some(summary) = record::read_summary(path) else {
                return;
            };
            // The same file has a second name under the content key.
            if path == self.sharded("records", summary.recipe_key.0) {
                batch.push(summary);
            }
            if batch.len() >= BATCH {
                take(std::mem::take(&mut batch));
            }
        });
        take(batch);
    }

    /// Closes the index, so that other processes can use it.
    pub fn close_index(&self) {
        close(&mut self.index.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
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
                close(&mut slot);
                self.move_index_aside(&error);
                None
            }
        }
    }

    /// Returns what is wrong with the index, if anything. A copy of it is looked at, since sled writes when it opens; one that
    /// another process has, or that can't be copied, is not looked at.
    pub(super) fn index_damage(&self) -> Option<String> {
        let path = self.root().join("index");
        let _lock = self.claim_named("index").ok()??;
        let copy = tempfile::tempdir().ok()?;
        copy_folder(&path, copy.path()).ok()?;
        let read = || {
            let (_db, history, files) = open(copy.path())?;
            history.iter().chain(files.iter()).try_for_each(|item| item.map(|_| ()))
        };
        match quietly(|| Some(read().map_err(|error| error.to_string()))) {
            Outcome::Failed(error) => Some(error),
            Outcome::Done(()) | Outcome::Closed => None,
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
                Outcome::Done((db, history, files)) => {
                    return Some(Index {
                        db,
                        history,
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

    pub(super) fn move_index_aside(&self, error: &str) {
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
        let journal = store.journal();
        let seen = self
            .db
            .get("journal")?
            .and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        let known_format = self.db.get("format")?.is_some_and(|format| format == FORMAT);
        let seen = seen.filter(|_| known_format);
        if seen == Some(journal.end()) {
            return Ok(());
        }
        match seen.and_then(|seen| journal.since(seen)) {
            Some(unread) => {
                let keys: HashSet<RecipeKey> = unread.collect();
                let keys: Vec<RecipeKey> = keys.into_iter().collect();
                for keys in keys.chunks(BATCH) {
                    let read = |key: &RecipeKey| record::read_summary(&store.sharded("records", key.0));
                    history::add(keys.iter().filter_map(read).collect(), &mut InTree(&self.history));
                }
            }
            // A new index, or a journal that is shorter than it was: read everything.
            None => {
                self.history.clear()?;
                store.summaries(|batch| history::add(batch, &mut InTree(&self.history)));
                self.db.insert("format", FORMAT)?;
            }
        }
        self.db.insert("journal", &journal.end().to_be_bytes())?;
        self.db.flush()?;
        Ok(())
    }
}

/// Chunks of history in a tree of sled. What can't be read is as if it were not there; the next open tells of damage.
struct InTree<'a>(&'a sled::Tree);

impl Chunks for InTree<'_> {
    fn at_or_before(&self, key: &[u8]) -> Option<Chunk> {
        let (key, value) = self.0.range(..=key).next_back()?.ok()?;
        Some((key.to_vec(), value.to_vec()))
    }

    fn after(&self, key: &[u8]) -> Option<Chunk> {
        let (key, value) = self.0.get_gt(key).ok()??;
        Some((key.to_vec(), value.to_vec()))
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        if let Err(error) = self.0.insert(key, value) {
            tracing::debug!(%error, "a chunk of history could not be written");
        }
    }
}

#[derive(Serialize, Deserialize)]
struct RememberedFile {
    stat: FileStat,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct RememberedFolder {
    stat: FolderStat,
    digest: Digest,
}

impl DigestCache for Store {
    fn get(&self, path: &Path, stat: &FileStat) -> Option<Digest> {
        if stat.size_bytes < WORTH_REMEMBERING_BYTES {
            return None;
        }
        let remembered: RememberedFile = self.remembered(path.as_os_str().as_encoded_bytes())?;
        (remembered.stat == *stat).then_some(remembered.digest)
    }

    fn put(&self, path: &Path, stat: &FileStat, digest: Digest) {
        if stat.size_bytes >= WORTH_REMEMBERING_BYTES {
            let remembered = RememberedFile { stat: *stat, digest };
            self.remember(path.as_os_str().as_encoded_bytes(), &remembered);
        }
    }

    fn get_folder(&self, path: &Path, stat: &FolderStat) -> Option<Digest> {
        if !is_worth_remembering(stat) {
            return None;
        }
        let remembered: RememberedFolder = self.remembered(&folder_key(path))?;
        (remembered.stat == *stat).then_some(remembered.digest)
    }

    fn put_folder(&self, path: &Path, stat: &FolderStat, digest: Digest) {
        if is_worth_remembering(stat) {
            self.remember(&folder_key(path), &RememberedFolder { stat: *stat, digest });
        }
    }
}

impl Store {
    /// Returns what the index knows of an outside file or folder, unless nothing is to be believed.
    fn remembered<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Option<T> {
        if self.is_paranoid() {
            return None;
        }
        let value = self.with_index(|index| index.files.get(key))??;
        serde_json::from_slice(&value).ok()
    }

    fn remember<T: Serialize>(&self, key: &[u8], value: &T) {
        let value = serde_json::to_vec(value).expect("a stat is plain data");
        self.with_index(|index| index.files.insert(key, value).map(|_| ()));
    }
}

fn is_worth_remembering(stat: &FolderStat) -> bool {
    stat.size_bytes >= WORTH_REMEMBERING_BYTES || stat.num_files >= WORTH_REMEMBERING_FILES
}

/// No path ends with a zero byte, so a folder is never taken for a file that lay there earlier.
fn folder_key(path: &Path) -> Vec<u8> {
    [path.as_os_str().as_encoded_bytes(), b"\0"].concat()
}

fn open(path: &Path) -> sled::Result<(sled::Db, sled::Tree, sled::Tree)> {
    // Flushing on close is enough for what can be built again; a flush every 500 ms would keep the disk awake.
    let db = sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(CACHE_BYTES)
        .open()?;
    let history = db.open_tree("history")?;
    let files = db.open_tree("files")?;
    // What an earlier version kept would stay in memory and on disk.
    let known = ["history".as_bytes(), b"files", b"__sled__default"];
    for name in db.tree_names().iter().filter(|name| !known.contains(&name.as_ref())) {
        db.drop_tree(name)?;
    }
    Ok((db, history, files))
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&to)?;
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
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
