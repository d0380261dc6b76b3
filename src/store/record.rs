//! Records: what one execution of a node left, as a small self-checking file.
//!
//! A record lies under its recipe key and, as a second name of the same file, under its content key, so either finds it
//! with one read. Both names are replaced by rename. When another recipe turns out to have the same content key, the
//! record is written again under that recipe with its own preimage. A record that does not check is a miss.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::artifact::Artifact;
use super::clock::Timestamp;
use super::error::{IoContext, StoreError};
use super::history::Summary;
use super::known::{Excerpt, Known, SummaryExcerpt};
use super::signature::{self, PublicKey, SigningKey, Trust};
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

/// What of a record tells whether another one has the same results.
#[derive(Deserialize)]
struct Results {
    content_key: ContentKey,
    artifacts: BTreeMap<String, Artifact>,
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
    /// A record that does not count, because nobody whom the project trusts has signed it.
    Untrusted {
        /// Who signed it, if anybody did.
        signer: Option<PublicKey>,
    },
    /// No record that can be read.
    Miss,
}

impl Store {
    /// Returns what is known of a recipe key. It takes no lock and never waits.
    pub fn lookup(&self, key: RecipeKey) -> Lookup {
        self.complete(self.record_file(key.0).filter(|file| file.record.recipe_key == key))
    }

    /// Returns what is known of a content key. It takes no lock and never waits.
    pub fn lookup_content(&self, key: ContentKey) -> Lookup {
        self.complete(self.record_file(key.0).filter(|file| file.record.content_key == key))
    }

    /// Returns the record of a recipe key, also where blobs of it are missing.
    pub fn record(&self, key: RecipeKey) -> Option<Record> {
        read(&self.sharded("records", key.0)).filter(|record| record.recipe_key == key)
    }

    /// Returns whether there is a file under a content key, whatever is in it.
    pub(super) fn has_record_file(&self, key: ContentKey) -> bool {
        self.sharded("records", key.0).is_file()
    }

    /// Returns the preimage of a recipe key without the inputs, if there is a record of it.
    pub fn own_recipe(&self, key: RecipeKey) -> Option<Value> {
        read_own_recipe(&self.sharded("records", key.0))
    }

    /// Writes a record under both of its keys, durable when it returns. Its blobs must be durable already.
    pub fn put_record(&self, record: &Record) -> Result<(), StoreError> {
        self.write_record(
            record.recipe_key,
            record.content_key,
            &encode(record, self.signer.as_deref()),
        )
    }

    /// Writes the bytes of a record file under both of its keys, durable when it returns.
    pub(super) fn write_record(&self, recipe: RecipeKey, content: ContentKey, bytes: &[u8]) -> Result<(), StoreError> {
        let by_recipe = self.sharded("records", recipe.0);
        let by_content = self.sharded("records", content.0);
        for path in [&by_recipe, &by_content] {
            durable::make_folder(path.parent().unwrap_or(self.root()))?;
        }
        let (first, second) = (durable::unique_path(&self.tmp()), durable::unique_path(&self.tmp()));
        self.keep_replaced(recipe, bytes);
        let written = write_names(bytes, &first, &second, &by_recipe, &by_content);
        if written.is_err() {
            // A disk that is full gets its room back; what can't be removed is removed as a leftover.
            let _ = (fs::remove_file(&first), fs::remove_file(&second));
        }
        written?;
        durable::sync_folder(by_recipe.parent().unwrap_or(self.root()))?;
        self.append_journal(recipe);
        Ok(())
    }

    /// Writes the bytes of a record file under its recipe key alone: another record keeps the content key.
    pub(super) fn write_recipe_record(&self, recipe: RecipeKey, bytes: &[u8]) -> Result<(), StoreError> {
        self.keep_replaced(recipe, bytes);
        durable::write_file(&self.sharded("records", recipe.0), bytes, &self.tmp())?;
        self.append_journal(recipe);
        Ok(())
    }

    /// Returns the path of the record file of a recipe or content key, whether or not it exists.
    pub fn record_path(&self, key: Digest) -> PathBuf {
        self.sharded("records", key)
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
        // What somebody else vouches for, or nobody, does not become ours by having another recipe.
        let signer = self
            .signer
            .as_deref()
            .filter(|signer| self.has_signed(found, signer.public()));
        self.write_recipe_record(key, &encode(&record, signer))?;
        Ok(record)
    }

    /// Returns whether a record can be written under another recipe and still count: where signatures are required, only
    /// the one who signed it can sign the copy.
    pub fn may_copy(&self, found: &Record) -> bool {
        *self.trust() == Trust::Anyone || self.signer().is_some_and(|signer| self.has_signed(found, signer))
    }

    fn has_signed(&self, record: &Record, signer: PublicKey) -> bool {
        let file = self.record_file(record.content_key.0);
        file.is_some_and(|file| file.record.recipe_key == record.recipe_key && file.signers.contains(&signer))
    }

    /// Keeps a second name of the record that another one with other results is about to replace: a live run may have
    /// decided to use its blobs. `gc` removes it once no such run is left.
    pub(super) fn keep_replaced(&self, recipe: RecipeKey, bytes: &[u8]) {
        let path = self.sharded("records", recipe.0);
        let Ok(Some(old)) = read_as::<Results>(&path) else {
            return;
        };
        let new: Option<Results> = checked(bytes).and_then(|json| serde_json::from_str(json).ok());
        let Some(new) = new else { return };
        // Made from other inputs, it stays under its content key, if that has not been taken by another record.
        let by_content = self.sharded("records", old.content_key.0);
        let inode = |path: &Path| fs::metadata(path).map(|found| found.ino()).ok();
        let stays = old.content_key != new.content_key && inode(&by_content) == inode(&path);
        if stays || old.artifacts == new.artifacts {
            return;
        }
        let folder = self.replaced_folder();
        let kept = fs::create_dir_all(&folder).and_then(|()| fs::hard_link(&path, durable::unique_path(&folder)));
        if let Err(error) = kept {
            tracing::debug!(%error, "a replaced record could not be kept");
        }
    }

    pub(super) fn replaced_folder(&self) -> PathBuf {
        self.root().join("replaced")
    }

    fn complete(&self, file: Option<RecordFile>) -> Lookup {
        let Some(file) = file else { return Lookup::Miss };
        let signer = self.trust().best(&file.signers);
        if !self.trust().accepts(signer) {
            return Lookup::Untrusted { signer };
        }
        let record = Box::new(file.record);
        let missing = |artifact| self.missing_blob(artifact);
        match record.artifacts.values().find_map(missing) {
            Some(missing) => Lookup::Incomplete { record, missing },
            None => Lookup::Hit(record),
        }
    }

    /// Returns the record file under a recipe or content key, whoever signed it, also where blobs are missing.
    pub fn record_file(&self, key: Digest) -> Option<RecordFile> {
        let path = self.sharded("records", key);
        let bytes = fs::read(&path).ok()?;
        let file = RecordFile::parse(&bytes);
        if file.is_none() {
            tracing::warn!(path = %path.display(), "a record is damaged or newer than this program; treated as absent");
        }
        file
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

/// Reads of a record file what one type takes of it; none for one that is damaged or of a newer format.
///
/// # Errors
/// The file can't be read.
pub(super) fn read_as<T: for<'de> Deserialize<'de>>(path: &Path) -> std::io::Result<Option<T>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let bytes = fs::read(path)?;
    let json =
        checked(&bytes).filter(|json| serde_json::from_str::<Format>(json).is_ok_and(|found| found.format == FORMAT));
    Ok(json.and_then(|json| serde_json::from_str(json).ok()))
}

/// Reads of a record file what decisions need; none as for [`read`].
pub(super) fn read_known(path: &Path, trust: &Trust) -> Option<Known> {
    let bytes = fs::read(path).ok()?;
    let known = parts(&bytes).and_then(|(json, check, lines)| {
        let signer = trust.best(&signature::signers(check, lines)?);
        serde_json::from_str::<Excerpt>(json).ok()?.into_known(signer)
    });
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

/// Returns the bytes of a record file, with the user's signature if there is a key for it.
fn encode(record: &Record, signer: Option<&SigningKey>) -> Vec<u8> {
    let mut text = serde_json::to_vec(record).expect("a record's map keys are strings and its numbers finite or null");
    let check = Digest::of(&text);
    text.extend_from_slice(format!("{CHECK}{check}\n").as_bytes());
    text.extend(signer.map(|signer| signer.line(check)).unwrap_or_default().bytes());
    text
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let record: Record = serde_json::from_str(checked(bytes)?).ok()?;
    (record.format == FORMAT).then_some(record)
}

/// Returns the JSON of a record file, if it is what was written.
pub(super) fn checked(bytes: &[u8]) -> Option<&str> {
    parts(bytes).map(|(json, _, _)| json)
}

/// Returns the JSON of a record file, its check, and the lines of signatures, if the JSON is what was written.
fn parts(bytes: &[u8]) -> Option<(&str, Digest, &str)> {
    let text = std::str::from_utf8(bytes).ok()?;
    // Signatures hold no such line, and whatever stands before the last one is what was checked.
    let (json, rest) = text.rsplit_once(CHECK)?;
    let (check, lines) = rest.split_once('\n')?;
    let check: Digest = check.parse().ok()?;
    (check == Digest::of(json.as_bytes())).then_some((json, check, lines))
}

/// A record file whose bytes check: what a record says, who vouches for it, and the bytes to pass on.
#[derive(Clone, Debug)]
pub struct RecordFile {
    pub record: Record,
    /// Who signed it; signatures that don't hold make it no record file.
    pub signers: Vec<PublicKey>,
    bytes: Vec<u8>,
}

impl RecordFile {
    /// Reads a record file from anywhere; none for one that is damaged, of a newer format, or wrongly signed.
    pub fn parse(bytes: &[u8]) -> Option<RecordFile> {
        let (json, check, lines) = parts(bytes)?;
        let record: Record = serde_json::from_str(json).ok()?;
        (record.format == FORMAT).then_some(())?;
        Some(RecordFile {
            record,
            signers: signature::signers(check, lines)?,
            bytes: bytes.to_vec(),
        })
    }

    /// Returns the bytes of the file, as they were read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
