//! What there is: every record, which blobs it needs, and when it was last used.
//!
//! Records with one content key are one [`Unit`]: whoever has one of them has the results of all. Nothing is decided here
//! and nothing removed. It sees the store without a lock, so some of it may be out of date by the time that it is used;
//! the sweep looks again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::store::artifact::Artifact;
use crate::store::clock::Timestamp;
use crate::store::{Store, record};

/// Some records that lead to the same results.
#[derive(Debug)]
pub(super) struct Unit {
    pub content_key: ContentKey,
    /// The recipes that find it.
    pub recipes: Vec<RecipeKey>,
    /// The recipes that it was ever written for, also where another record lies under them now.
    pub owners: Vec<RecipeKey>,
    pub has_content_name: bool,
    /// The record was replaced by another one under the same keys: its file, and when.
    pub replaced: Option<(PathBuf, Timestamp)>,
    pub node: String,
    pub pipeline: String,
    /// The blobs that the store has of it.
    pub blobs: Vec<u32>,
    pub artifacts: Vec<Digest>,
    pub inputs: Vec<RecipeKey>,
    pub code: Option<Digest>,
    pub seconds: f64,
    pub used: Timestamp,
}

/// A blob, and how many units need it.
#[derive(Debug)]
pub(super) struct Blob {
    pub digest: Digest,
    pub size: u64,
    /// When its file was last linked, renamed or changed.
    pub changed: Timestamp,
    pub holders: u32,
}

/// Everything that `gc` decides from.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub units: Vec<Unit>,
    pub blobs: Vec<Blob>,
    /// The unit that each recipe finds.
    pub by_recipe: HashMap<RecipeKey, u32>,
    /// How far the journal went before the first record was read.
    pub journal_end: u64,
    /// Records that can't be read. What they need is not known.
    pub num_unreadable: usize,
}

/// What of a record is looked at here.
#[derive(Deserialize)]
pub(super) struct Excerpt {
    pub recipe_key: RecipeKey,
    pub content_key: ContentKey,
    #[serde(default)]
    recipe: RecipeExcerpt,
    node: String,
    pipeline: String,
    pub artifacts: BTreeMap<String, Artifact>,
    ended: Timestamp,
    seconds: f64,
    pub log: Option<Digest>,
}

#[derive(Default, Deserialize)]
struct RecipeExcerpt {
    code: Option<Digest>,
    #[serde(default)]
    inputs: BTreeMap<String, OneOrMany>,
}

/// An input in a recipe.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Item),
    Many(Vec<Item>),
}

#[derive(Deserialize)]
struct Item {
    recipe: Option<RecipeKey>,
}

impl Excerpt {
    pub fn code(&self) -> Option<Digest> {
        self.recipe.code
    }

    fn inputs(&self) -> Vec<RecipeKey> {
        let items = self.recipe.inputs.values().flat_map(|input| match input {
            OneOrMany::One(item) => std::slice::from_ref(item),
            OneOrMany::Many(items) => items,
        });
        let distinct: HashSet<RecipeKey> = items.filter_map(|item| item.recipe).collect();
        distinct.into_iter().collect()
    }
}

/// A record file, with the names that it has.
struct Found {
    excerpt: Excerpt,
    names: Vec<Digest>,
    replaced: Option<(PathBuf, Timestamp)>,
}

impl Census {
    /// Counts everything through. `uses` says when recipes were used; `tell` is called with how many records were read.
    pub fn take(store: &Store, uses: &HashMap<RecipeKey, Timestamp>, tell: &(dyn Fn(usize) + Sync)) -> Census {
        let mut census = Census {
            journal_end: store.journal().end(),
            ..Census::default()
        };
        // Records come first: a blob that is added meanwhile belongs to a record that the sweep hears of.
        let found = census.read_records(store, tell);
        census.blobs = blobs(store);
        let blob_of: HashMap<Digest, u32> = (0..).zip(&census.blobs).map(|(idx, blob)| (blob.digest, idx)).collect();
        let mut folders = HashMap::new();
        let mut by_content: HashMap<ContentKey, u32> = HashMap::new();
        for found in found {
            census.add(store, found, &mut by_content, &blob_of, &mut folders);
        }
        for unit in &mut census.units {
            unit.blobs.sort_unstable();
            unit.blobs.dedup();
            unit.blobs
                .iter()
                .for_each(|&blob| census.blobs[blob as usize].holders += 1);
            let last = unit.owners.iter().filter_map(|key| uses.get(key)).max();
            unit.used = last.map_or(unit.used, |&last| last.max(unit.used));
        }
        census
    }

    fn read_records(&mut self, store: &Store, tell: &(dyn Fn(usize) + Sync)) -> Vec<Found> {
        // A record is one file with two names, and is read once.
        let mut files: HashMap<u64, Vec<PathBuf>> = HashMap::new();
        for shard in folders(&store.root().join("records")) {
            for entry in fs::read_dir(shard).into_iter().flatten().flatten() {
                files.entry(entry.ino()).or_default().push(entry.path());
            }
        }
        let replaced = fs::read_dir(store.replaced_folder()).into_iter().flatten().flatten();
        let replaced = replaced.map(|entry| vec![entry.path()]);
        let files: Vec<Vec<PathBuf>> = files.into_values().chain(replaced).collect();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let read = |paths: &Vec<PathBuf>| {
            tell(count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
            read_found(store, paths)
        };
        let read: Vec<Result<Option<Found>, ()>> = files.par_iter().map(read).collect();
        self.num_unreadable = read.iter().filter(|found| found.is_err()).count();
        let mut found: Vec<Found> = read.into_iter().filter_map(|found| found.ok().flatten()).collect();
        // The same store gives the same plan, whatever the order of its folders.
        found.sort_by_key(|found| (found.excerpt.recipe_key, found.excerpt.content_key));
        found
    }

    fn add(
        &mut self,
        store: &Store,
        found: Found,
        by_content: &mut HashMap<ContentKey, u32>,
        blob_of: &HashMap<Digest, u32>,
        folders: &mut HashMap<Digest, Vec<Digest>>,
    ) {
        let Found {
            excerpt,
            names,
            replaced,
        } = found;
        let is_replaced = replaced.is_some();
        let place = match is_replaced {
            true => None,
            false => by_content.get(&excerpt.content_key).copied(),
        };
        let idx = place.unwrap_or_else(|| {
            self.units.push(Unit {
                content_key: excerpt.content_key,
                recipes: Vec::new(),
                owners: Vec::new(),
                has_content_name: false,
                replaced,
                node: excerpt.node.clone(),
                pipeline: excerpt.pipeline.clone(),
                blobs: Vec::new(),
                artifacts: Vec::new(),
                inputs: Vec::new(),
                code: None,
                seconds: 0.0,
                used: Timestamp(0),
            });
            self.units.len() as u32 - 1
        });
        if !is_replaced {
            by_content.insert(excerpt.content_key, idx);
        }
        let unit = &mut self.units[idx as usize];
        if names.contains(&excerpt.recipe_key.0) {
            unit.recipes.push(excerpt.recipe_key);
            self.by_recipe.insert(excerpt.recipe_key, idx);
        }
        unit.owners.push(excerpt.recipe_key);
        unit.has_content_name |= names.contains(&excerpt.content_key.0);
        unit.seconds = unit.seconds.max(excerpt.seconds);
        unit.used = unit.used.max(excerpt.ended);
        unit.code = unit.code.or(excerpt.code());
        unit.inputs.extend(excerpt.inputs());
        unit.artifacts
            .extend(excerpt.artifacts.values().map(|artifact| artifact.digest));
        let blobs = needed(store, &excerpt, folders);
        unit.blobs
            .extend(blobs.into_iter().filter_map(|digest| blob_of.get(&digest)));
    }

    /// Returns the bytes of all blobs that a store has now.
    pub fn blob_bytes(store: &Store) -> u64 {
        blobs(store).iter().map(|blob| blob.size).sum()
    }

    /// Returns the bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }
}

/// Returns the digests of all blobs that a record needs. `folders` keeps what is in folders that were read before.
pub(super) fn needed(store: &Store, excerpt: &Excerpt, folders: &mut HashMap<Digest, Vec<Digest>>) -> Vec<Digest> {
    let mut digests: Vec<Digest> = excerpt.log.into_iter().collect();
    for artifact in excerpt.artifacts.values() {
        let Some(manifest) = artifact.manifest else {
            digests.push(artifact.digest);
            continue;
        };
        digests.push(manifest);
        let files = folders.entry(manifest).or_insert_with(|| {
            let manifest = store.manifest_here(artifact).ok().flatten();
            let files = manifest.into_iter().flat_map(|manifest| manifest.files);
            files.map(|file| file.digest).collect()
        });
        digests.extend_from_slice(files);
    }
    digests
}

/// Reads a record file; nothing for one that is gone, an error for one whose content is not known.
fn read_found(store: &Store, paths: &[PathBuf]) -> Result<Option<Found>, ()> {
    let Some(path) = paths.first() else { return Ok(None) };
    let is_replaced = path.parent() == Some(store.replaced_folder().as_path());
    let excerpt: Excerpt = match record::read_as(path) {
        Ok(Some(excerpt)) => excerpt,
        // A replaced record that is damaged has nothing that could still be used.
        Ok(None) if is_replaced => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(None) | Err(_) => return Err(()),
    };
    let replaced = match is_replaced {
        true => match fs::symlink_metadata(path) {
            Ok(metadata) => Some((path.clone(), changed(&metadata))),
            Err(_) => return Ok(None),
        },
        false => None,
    };
    let names = paths.iter().filter_map(|path| digest_of(path));
    Ok(Some(Found {
        excerpt,
        names: names.collect(),
        replaced,
    }))
}

/// Lists all blobs.
fn blobs(store: &Store) -> Vec<Blob> {
    let list = |shard: PathBuf| {
        let entries = fs::read_dir(shard).into_iter().flatten().flatten();
        let blob = |entry: fs::DirEntry| {
            let digest = digest_of(&entry.path())?;
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(Blob {
                digest,
                size: metadata.len(),
                changed: changed(&metadata),
                holders: 0,
            })
        };
        entries.filter_map(blob).collect::<Vec<_>>()
    };
    let shards = folders(&store.root().join("blobs"));
    shards.into_par_iter().flat_map_iter(list).collect()
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// Returns the digest that `ab/cdef...` is the name of.
fn digest_of(path: &Path) -> Option<Digest> {
    let shard = path.parent()?.file_name()?.to_str()?;
    format!("{shard}{}", path.file_name()?.to_str()?).parse().ok()
}

/// Returns when a file was last changed, linked or renamed.
pub(super) fn changed(metadata: &fs::Metadata) -> Timestamp {
    let millis = i128::from(metadata.ctime()) * 1000 + i128::from(metadata.ctime_nsec() / 1_000_000);
    Timestamp(u64::try_from(millis).unwrap_or(0))
}
