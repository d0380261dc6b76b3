//! Records: what one execution of a node left, as a small self-checking file.
//!
//! A record lies under its recipe key and, as a second name of the same file, under its content key, so either finds it
//! with one read. Both names are replaced by rename. When another recipe turns out to have the same content key, the
//! record is written again under that recipe with its own preimage. A record that does not check is a miss.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::artifact::Artifact;
use super::clock::Timestamp;
use super::error::{IoContext, StoreError};
use super::history::Summary;
use super::known::{Excerpt, Known, SummaryExcerpt};
use super::{Store, durable};
use crate::digest::{ContentKey, Digest, RecipeKey};

const FORMAT: u32 = 1;

/// Between the JSON and its digest, on the last line.
const CHECK: &str = "\nblake3 ";

/// What an execution of a node left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The version of this format; [`Record::FORMAT`].
    pub format: u32,
    pub recipe_key: RecipeKey,
    /// The preimage of the recipe key.
    pub recipe: Value,
    pub content_key: ContentKey,
    /// The preimage of the content key.
    pub content: Value,
    /// The name that the node had then; names are for people and not part of any key.
    pub node: String,
    pub stage: String,
    pub kind: String,
    pub kind_version: u64,
    pub pipeline: String,
    /// The run that executed it.
    pub run: String,
    /// Which attempt of that run succeeded, counted from 1.
    pub attempt: u32,
    /// The outputs by name.
    pub artifacts: BTreeMap<String, Artifact>,
    /// The last value of each metric.
    pub metrics: BTreeMap<String, f64>,
    pub started: Timestamp,
    pub ended: Timestamp,
    /// The time that the worker took.
    pub seconds: f64,
    /// The machine that executed it.
    pub host: String,
    /// The versions of the programs that took part, by name.
    pub versions: BTreeMap<String, String>,
    /// The blob with the worker's log; none if it wrote nothing.
    pub log: Option<Digest>,
    /// The recipe whose execution this result is from, where this one was cut off.
    pub same_as: Option<RecipeKey>,
}

impl Record {
    /// The version of the format of records.
    pub const FORMAT: u32 = FORMAT;
}

/// What the store knows of a recipe key.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A record, and every blob of it exists.
    Hit(Box<Record>),
    /// A record of which a blob is missing.
    Incomplete {
        /// The record.
        record: Box<Record>,
        /// The first blob that is missing.
        missing: Digest,
    },
    /// No record that can be read.
    Miss,
}

impl Store {
    /// Returns what is known of a recipe key. It takes no lock and never waits.
    pub fn lookup(&self, key: RecipeKey) -> Lookup {
        self.complete(self.record(key))
    }

    /// Returns what is known of a content key. It takes no lock and never waits.
    pub fn lookup_content(&self, key: ContentKey) -> Lookup {
        self.complete(self.read_record(key.0).filter(|record| record.content_key == key))
    }

    /// Returns the record of a recipe key, also where blobs of it are missing.
    pub fn record(&self, key: RecipeKey) -> Option<Record> {
        self.read_record(key.0).filter(|record| record.recipe_key == key)
    }

    /// Returns the preimage of a recipe key without the inputs, if there is a record of it.
    pub fn own_recipe(&self, key: RecipeKey) -> Option<Value> {
        read_own_recipe(&self.sharded("records", key.0))
    }

    /// Writes a record under both of its keys, durable when it returns. Its blobs must be durable already.
    pub fn put_record(&self, record: &Record) -> Result<(), StoreError> {
        let by_recipe = self.sharded("records", record.recipe_key.0);
        let by_content = self.sharded("records", record.content_key.0);
        for path in [&by_recipe, &by_content] {
            durable::make_folder(path.parent().unwrap_or(self.root()))?;
        }
        let (first, second) = (durable::unique_path(&self.tmp()), durable::unique_path(&self.tmp()));
        let written = write_names(&encode(record), &first, &second, &by_recipe, &by_content);
        if written.is_err() {
            // A disk that is full gets its room back; what can't be removed is removed as a leftover.
            let _ = (fs::remove_file(&first), fs::remove_file(&second));
        }
        written?;
        durable::sync_folder(by_recipe.parent().unwrap_or(self.root()))?;
        self.append_journal(record.recipe_key);
        Ok(())
    }

    /// Writes the record of another recipe whose content key turned out to be the same, and returns it.
    pub fn put_same(&self, found: &Record, key: RecipeKey, recipe: &Value, node: &str) -> Result<Record, StoreError> {
        let record = Record {
            recipe_key: key,
            recipe: recipe.clone(),
            node: node.to_owned(),
            same_as: Some(found.same_as.unwrap_or(found.recipe_key)).filter(|origin| *origin != key),
            ..found.clone()
        };
        let path = self.sharded("records", key.0);
        durable::write_file(&path, &encode(&record), &self.tmp())?;
        self.append_journal(key);
        Ok(record)
    }

    fn complete(&self, record: Option<Record>) -> Lookup {
        let Some(record) = record.map(Box::new) else {
            return Lookup::Miss;
        };
        match record
            .artifacts
            .values()
            .find_map(|artifact| self.missing_blob(artifact))
        {
            Some(missing) => Lookup::Incomplete { record, missing },
            None => Lookup::Hit(record),
        }
    }

    fn read_record(&self, key: Digest) -> Option<Record> {
        read(&self.sharded("records", key))
    }

    pub(super) fn journal_path(&self) -> PathBuf {
        self.root().join("records/journal")
    }

    /// Appends to the journal, which the index and the snapshot read: a lost line costs time, nothing else.
    pub(super) fn append_journal(&self, line: impl std::fmt::Display) {
        let path = self.journal_path();
        let appended = fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = appended {
            tracing::warn!(path = %path.display(), %error, "the journal of records could not be written");
        }
    }
}

/// Writes a file under two names, the one of the recipe key last.
fn write_names(
    bytes: &[u8],
    first: &Path,
    second: &Path,
    by_recipe: &Path,
    by_content: &Path,
) -> Result<(), StoreError> {
    let mut file = fs::File::create(first).at("create", first)?;
    file.write_all(bytes).at("write", first)?;
    file.sync_data().at("flush", first)?;
    if fs::hard_link(first, second).is_err() {
        fs::write(second, bytes).at("write", second)?;
    }
    fs::rename(second, by_content).at("rename into", by_content)?;
    // The recipe key comes last, and its name alone is waited for: what it finds is done. A content key that a power
    // cut forgets costs an early cutoff.
    fs::rename(first, by_recipe).at("rename into", by_recipe)
}

/// Reads a record file; none for one that is absent, damaged or of a newer format.
pub(crate) fn read(path: &Path) -> Option<Record> {
    let bytes = fs::read(path).ok()?;
    let record = decode(&bytes);
    if record.is_none() {
        tracing::warn!(path = %path.display(), "a record is damaged or newer than this program; treated as absent");
    }
    record
}

/// Reads of a record file what decisions need; none as for [`read`].
pub(super) fn read_known(path: &Path) -> Option<Known> {
    let bytes = fs::read(path).ok()?;
    let known = checked(&bytes).and_then(|json| serde_json::from_str::<Excerpt>(json).ok()?.into_known());
    if known.is_none() {
        tracing::warn!(path = %path.display(), "a record is damaged or newer than this program; treated as absent");
    }
    known
}

/// A recipe without its inputs, which can be tens of thousands and are skipped, not built.
#[derive(Serialize, Deserialize)]
struct OwnRecipe {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Value>,
    format: Value,
    kind: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<Value>,
    params: Value,
    version: Value,
}

/// Reads of a record file the preimage of its recipe key without the inputs; none as for [`read`].
fn read_own_recipe(path: &Path) -> Option<Value> {
    #[derive(Deserialize)]
    struct Excerpt {
        recipe: OwnRecipe,
    }
    let bytes = fs::read(path).ok()?;
    let excerpt: Excerpt = serde_json::from_str(checked(&bytes)?).ok()?;
    serde_json::to_value(excerpt.recipe).ok()
}

/// Reads of a record file what history keeps; none as for [`read`].
pub(super) fn read_summary(path: &Path) -> Option<Summary> {
    let bytes = fs::read(path).ok()?;
    serde_json::from_str::<SummaryExcerpt>(checked(&bytes)?)
        .ok()?
        .into_summary()
}

fn encode(record: &Record) -> Vec<u8> {
    let mut text = serde_json::to_vec(record).expect("a record's map keys are strings and its numbers finite or null");
    let check = Digest::of(&text);
    text.extend_from_slice(format!("{CHECK}{check}\n").as_bytes());
    text
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let record: Record = serde_json::from_str(checked(bytes)?).ok()?;
    (record.format == FORMAT).then_some(record)
}

/// Returns the JSON of a record file, if it is what was written.
pub(super) fn checked(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let (json, check) = text.rsplit_once(CHECK)?;
    (check.parse::<Digest>().ok()? == Digest::of(json.as_bytes())).then_some(json)
}
