//! All records of a store, counted through once: who made which bytes, and who read them.
//!
//! A record says what it read, not who reads it, so that question needs a look at every one of them. Only what the
//! answer needs is kept in memory.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde::Serialize;

use super::reads::reads;
use crate::digest::{Digest, RecipeKey};
use crate::store::{Artifact, Record, Store, Timestamp};

/// Every record of a store, whatever pipeline it is of.
#[derive(Debug, Default)]
pub struct Census {
    /// The records, the earliest first.
    pub entries: Vec<Entry>,
    by_digest: HashMap<Digest, Vec<Reading>>,
    by_recipe: HashMap<RecipeKey, Vec<Reading>>,
}

/// What is kept of a record.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub recipe_key: RecipeKey,
    pub node: String,
    pub stage: String,
    pub pipeline: String,
    pub kind: String,
    pub kind_version: u64,
    pub run: String,
    pub host: String,
    pub started: Timestamp,
    pub seconds: f64,
    pub artifacts: BTreeMap<String, Artifact>,
    /// What it read.
    pub reads: Vec<EntryRead>,
}

/// An artifact that a record read.
#[derive(Debug, Clone, Serialize)]
pub struct EntryRead {
    /// The input, in a list with label and coordinates.
    pub input: String,
    /// The recipe that made it.
    pub recipe: Option<RecipeKey>,
    /// The output of that recipe.
    pub output: String,
    /// The path inside the artifact, if only a part was read.
    pub path: Option<String>,
    /// The digest of what was read.
    pub digest: Option<Digest>,
}

/// One read of one entry, by their indices.
#[derive(Debug, Clone, Copy)]
struct Reading {
    entry: usize,
    read: usize,
}

/// A record that depends on the bytes in question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct User {
    /// The index of its entry.
    pub entry: usize,
    /// How many steps away it is; 1 reads the bytes themselves.
    pub depth: usize,
    /// What it reads of it.
    pub links: Vec<UserLink>,
}

/// A read of something that depends on the bytes in question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UserLink {
    /// The user that made what is read, by its index among the users; none for the bytes in question.
    pub from: Option<usize>,
    /// The input that reads it.
    pub input: String,
}

impl Census {
    /// Reads all records. `on_record` is called for each, to tell the user that it goes on.
    pub fn take(store: &Store, mut on_record: impl FnMut()) -> Census {
        let mut census = Census::default();
        store.each_record(|record| {
            census.entries.push(Entry::of(record));
            on_record();
        });
        census.entries.sort_by_key(|entry| (entry.started, entry.recipe_key));
        for (entry, found) in census.entries.iter().enumerate() {
            for (read, what) in found.reads.iter().enumerate() {
                let reading = Reading { entry, read };
                if let Some(digest) = what.digest {
                    census.by_digest.entry(digest).or_default().push(reading);
                }
                if let Some(recipe) = what.recipe {
                    census.by_recipe.entry(recipe).or_default().push(reading);
                }
            }
        }
        census
    }

    /// Returns the artifacts whose digests begin with a text, each with all that made it: entry and output.
    pub fn artifacts(&self, prefix: &str) -> BTreeMap<Digest, Vec<(usize, &str)>> {
        let mut found: BTreeMap<Digest, Vec<(usize, &str)>> = BTreeMap::new();
        for (idx, entry) in self.entries.iter().enumerate() {
            for (output, artifact) in &entry.artifacts {
                if artifact.digest.to_string().starts_with(prefix) {
                    found.entry(artifact.digest).or_default().push((idx, output));
                }
            }
        }
        found
    }

    /// Returns the first folder that has a file with this digest in it: entry, output and path.
    pub fn folder_with(&self, store: &Store, digest: Digest) -> Option<(usize, &str, String)> {
        let mut seen = HashSet::new();
        for (idx, entry) in self.entries.iter().enumerate() {
            for (output, artifact) in &entry.artifacts {
                if artifact.manifest.is_none() || !seen.insert(artifact.digest) {
                    continue;
                }
                let manifest = store.manifest(artifact).ok().flatten();
                let files = manifest.into_iter().flat_map(|manifest| manifest.files);
                if let Some(file) = files.into_iter().find(|file| file.digest == digest) {
                    return Some((idx, output, file.path));
                }
            }
        }
        None
    }

    /// Returns everything that depends on some artifacts, nearest first, up to a depth.
    ///
    /// Whoever read their bytes counts, whatever recipe it had them from; from there on, who read what those made.
    /// `maker` is left out: a node that copies its input has read the bytes that it made.
    pub fn users(&self, store: &Store, artifacts: &[&Artifact], maker: RecipeKey, max_depth: usize) -> Vec<User> {
        let mut descent = Descent {
            census: self,
            users: Vec::new(),
            known: HashMap::new(),
            queue: VecDeque::new(),
        };
        if max_depth > 0 {
            for reading in self.readings_of(store, artifacts) {
                if self.entries[reading.entry].recipe_key != maker {
                    descent.add(reading, None, 1);
                }
            }
        }
        while let Some(from) = descent.queue.pop_front() {
            let User { entry, depth, .. } = descent.users[from];
            if depth >= max_depth {
                continue;
            }
            let maker = &self.entries[entry];
            for &reading in self.by_recipe.get(&maker.recipe_key).into_iter().flatten() {
                let read = &self.entries[reading.entry].reads[reading.read];
                // A record that was made again since may no longer have the bytes that were read.
                if maker
                    .artifacts
                    .get(&read.output)
                    .is_some_and(|artifact| is_read(store, read, artifact))
                {
                    descent.add(reading, Some(from), depth + 1);
                }
            }
        }
        descent.users
    }

    fn readings_of(&self, store: &Store, artifacts: &[&Artifact]) -> Vec<Reading> {
        let whole = artifacts
            .iter()
            .filter_map(|artifact| self.by_digest.get(&artifact.digest))
            .flatten();
        let mut found: Vec<Reading> = whole.copied().collect();
        // A part of a folder has a digest of its own, which only the folder can tell.
        let mut parts: HashMap<&str, HashSet<Digest>> = HashMap::new();
        for (entry, reader) in self.entries.iter().enumerate() {
            for (read, what) in reader.reads.iter().enumerate() {
                let (Some(path), Some(digest)) = (&what.path, what.digest) else {
                    continue;
                };
                let digests = parts.entry(path).or_insert_with(|| {
                    let folders = artifacts.iter().filter(|artifact| artifact.manifest.is_some());
                    folders
                        .filter_map(|artifact| store.digest_at(artifact, Some(path)).ok())
                        .collect()
                });
                if digests.contains(&digest) {
                    found.push(Reading { entry, read });
                }
            }
        }
        found.sort_by_key(|reading| (reading.entry, reading.read));
        found.dedup_by_key(|reading| (reading.entry, reading.read));
        found
    }
}

fn is_read(store: &Store, read: &EntryRead, artifact: &Artifact) -> bool {
    match &read.path {
        None => read.digest == Some(artifact.digest),
        Some(path) => store
            .digest_at(artifact, Some(path))
            .is_ok_and(|digest| read.digest == Some(digest)),
    }
}

struct Descent<'a> {
    census: &'a Census,
    users: Vec<User>,
    /// By entry, its index among the users.
    known: HashMap<usize, usize>,
    queue: VecDeque<usize>,
}

impl Descent<'_> {
    fn add(&mut self, reading: Reading, from: Option<usize>, depth: usize) {
        let Reading { entry, read } = reading;
        let idx = *self.known.entry(entry).or_insert_with(|| {
            self.users.push(User {
                entry,
                depth,
                links: Vec::new(),
            });
            self.queue.push_back(self.users.len() - 1);
            self.users.len() - 1
        });
        let input = self.census.entries[entry].reads[read].input.clone();
        self.users[idx].links.push(UserLink { from, input });
    }
}

impl Entry {
    fn of(record: &Record) -> Entry {
        Entry {
            recipe_key: record.recipe_key,
            node: record.node.clone(),
            stage: record.stage.clone(),
            pipeline: record.pipeline.clone(),
            kind: record.kind.clone(),
            kind_version: record.kind_version,
            run: record.run.clone(),
            host: record.host.clone(),
            started: record.started,
            seconds: record.seconds,
            artifacts: record.artifacts.clone(),
            reads: reads_of(record),
        }
    }
}

/// Returns what a record read: the recipes from one preimage, the digests from the other.
pub(super) fn reads_of(record: &Record) -> Vec<EntryRead> {
    let contents = reads(&record.content);
    let digests: HashMap<&str, &serde_json::Value> = contents
        .iter()
        .map(|read| (read.slot.as_str(), &read.item["digest"]))
        .collect();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let read = |read: super::reads::Read<'_>| EntryRead {
        recipe: read.item["recipe"].as_str().and_then(|key| key.parse().ok()),
        output: text(&read.item["output"]).unwrap_or_default(),
        path: text(&read.item["path"]),
        digest: digests
            .get(read.slot.as_str())
            .and_then(|digest| digest.as_str()?.parse().ok()),
        input: read.slot,
    };
    reads(&record.recipe).into_iter().map(read).collect()
}
