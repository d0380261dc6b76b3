//! The pass over records and manifests: what is there, whether it checks, and which blobs it needs.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use rayon::prelude::*;

use super::{Check, Damage, Entry, FsckStep, Need};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::store::artifact::Artifact;
use crate::store::error::{IoContext, StoreError};
use crate::store::record::{self, Record};

/// A record that does not check.
pub(super) struct BadRecord {
    pub name: Digest,
    pub why: &'static str,
    /// The node that it was of, if its text can still be read.
    pub need: Option<Need>,
}

/// The blobs of a folder, with their sizes.
type Files = Vec<(Digest, u64)>;

/// What the file of a record turned out to be.
enum Read {
    Good(Box<Record>),
    Bad(Box<BadRecord>),
    /// Written whole by a later version of the program.
    Newer,
    /// It is gone meanwhile.
    Gone,
}

impl Check<'_> {
    pub(super) fn read_records(&mut self) -> Result<(), StoreError> {
        let (paths, strangers) = list(&self.store.root().join("records"), &["journal", "snapshot"])?;
        self.report.records = paths.len() as u64;
        (self.progress)(FsckStep::Records(paths.len() as u64));
        let reads: Vec<(Digest, Read)> = paths
            .par_iter()
            .map(|(name, path)| {
                let read = read(*name, path);
                (self.progress)(FsckStep::Done(1));
                (*name, read)
            })
            .collect();
        self.note_strangers(&strangers);
        let mut newer = 0;
        // A record has two names; it counts once, under the recipe key where that is one of them.
        let mut by_recipe = HashMap::new();
        let mut by_content = Vec::new();
        for (name, read) in reads {
            match read {
                Read::Good(record) if name == record.recipe_key.0 => {
                    by_recipe.insert(name, (entry(name, &record), record.run, record.attempt));
                }
                Read::Good(record) => by_content.push((entry(name, &record), record.run, record.attempt)),
                Read::Bad(bad) => self.bad_records.push(*bad),
                Read::Newer => newer += 1,
                Read::Gone => {}
            }
        }
        by_content.retain(|(entry, run, attempt)| {
            let twin = by_recipe.get(&entry.recipe_key.0);
            twin.is_none_or(|twin| (&twin.1, twin.2) != (run, *attempt) || twin.0.content_key != entry.content_key)
        });
        let entries = by_recipe.into_values().chain(by_content);
        self.entries = entries.map(|(entry, ..)| entry).collect();
        self.entries.sort_by(|a, b| (&a.node, a.name).cmp(&(&b.node, b.name)));
        self.bad_records.sort_by_key(|bad| bad.name);
        if newer > 0 {
            self.note(format!(
                "{newer} names of records were written by a newer volvelle and were not checked"
            ));
        }
        Ok(())
    }

    /// Reads the manifests of folders, whose blobs are needed as well, and checks that they make up what records say.
    pub(super) fn read_manifests(&mut self) {
        let mut folders: HashMap<_, Artifact> = HashMap::new();
        for artifact in self.entries.iter().flat_map(|entry| entry.artifacts.values()) {
            match artifact.manifest {
                Some(manifest) => {
                    let identity = (manifest, artifact.digest, artifact.size_bytes, artifact.files);
                    folders.entry(identity).or_insert_with(|| artifact.clone());
                }
                None => {
                    self.wanted.insert(artifact.digest, Some(artifact.size_bytes));
                }
            }
        }
        for log in self.entries.iter().filter_map(|entry| entry.log) {
            self.wanted.entry(log).or_insert(None);
            self.logs.insert(log);
        }
        let checked: Vec<_> = folders
            .par_iter()
            .map(|((digest, ..), artifact)| (*digest, self.check_manifest(*digest, artifact)))
            .collect();
        for (digest, checked) in checked {
            self.wanted.insert(digest, None);
            match checked {
                Ok(files) => self
                    .wanted
                    .extend(files.into_iter().map(|(digest, size)| (digest, Some(size)))),
                // A missing one is found with the other missing blobs.
                Err(Some(damage)) => {
                    self.damaged.insert(digest, damage);
                }
                Err(None) => {}
            }
        }
        // An output can be what another node logged.
        let outputs = |digest: &Digest| self.wanted.get(digest).is_some_and(Option::is_some);
        self.logs.retain(|log| !outputs(log));
    }

    /// Returns the files of a folder, or what is wrong with its manifest; nothing if it is not there.
    fn check_manifest(&self, digest: Digest, artifact: &Artifact) -> Result<Files, Option<Damage>> {
        let bytes = match fs::read(self.store.blob_path(digest)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(None),
            Err(error) => return Err(Some((0, error.to_string()))),
        };
        let size = bytes.len() as u64;
        if Digest::of(&bytes) != digest {
            return Err(Some((size, "its bytes are not what its name says".to_owned())));
        }
        match self.store.manifest_here(artifact) {
            Ok(Some(manifest)) if manifest.is_of(artifact) => {
                let files = manifest.files.into_iter();
                Ok(files.map(|file| (file.digest, file.size)).collect())
            }
            _ => Err(Some((size, "it is not the manifest of what a record says".to_owned()))),
        }
    }

    /// Looks at what was found a second time: a run may have written it, or removed it with its record, meanwhile.
    pub(super) fn look_again(&mut self) {
        let store = self.store;
        self.bad_records
            .retain_mut(|bad| match read(bad.name, &store.sharded("records", bad.name)) {
                Read::Bad(again) => {
                    *bad = *again;
                    true
                }
                _ => false,
            });
        if self.missing.is_empty() && self.damaged.is_empty() {
            return;
        }
        self.entries
            .retain(|entry| store.sharded("records", entry.name).exists());
        let lost = self.missing.keys().chain(self.damaged.keys()).copied().collect();
        let needs = self.needs(&lost);
        self.missing
            .retain(|digest, _| needs.contains_key(digest) && !store.blob_path(*digest).exists());
        self.damaged.retain(|digest, _| store.blob_path(*digest).exists());
    }

    pub(super) fn note_strangers(&mut self, strangers: &[PathBuf]) {
        if let Some(first) = strangers.first() {
            let first = first.display();
            self.note(format!(
                "{} files that volvelle did not write, such as {first}",
                strangers.len()
            ));
        }
    }
}

fn entry(name: Digest, record: &Record) -> Entry {
    Entry {
        name,
        recipe_key: record.recipe_key,
        content_key: record.content_key,
        node: record.node.clone(),
        kind: record.kind.clone(),
        pipeline: record.pipeline.clone(),
        seconds: record.seconds,
        artifacts: record.artifacts.clone(),
        log: record.log,
    }
}

fn read(name: Digest, path: &std::path::Path) -> Read {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Read::Gone,
        Err(_) => {
            let (why, need) = ("it can't be read", None);
            return Read::Bad(Box::new(BadRecord { name, why, need }));
        }
    };
    let bad = |why, record: Option<&Record>| {
        let need = record.map(|record| entry(name, record).need(record.artifacts.keys().cloned().collect()));
        Read::Bad(Box::new(BadRecord { name, why, need }))
    };
    let Some(json) = record::checked(&bytes) else {
        // What is left of it is good enough to tell which node it was of.
        let text = String::from_utf8_lossy(&bytes);
        let rest: Option<Record> = serde_json::Deserializer::from_str(&text)
            .into_iter()
            .next()
            .and_then(Result::ok);
        return bad("its bytes are not what its last line says", rest.as_ref());
    };
    let record: Record = match serde_json::from_str(json) {
        Ok(record) => record,
        Err(_) => return Read::Newer,
    };
    if record.format != Record::FORMAT {
        return Read::Newer;
    }
    let is_key = RecipeKey::of_preimage(&record.recipe) == Ok(record.recipe_key)
        && ContentKey::of_preimage(&record.content) == Ok(record.content_key);
    if !is_key {
        return bad("its keys are not those of what it was made from", Some(&record));
    }
    if ![record.recipe_key.0, record.content_key.0].contains(&name) {
        return bad("it lies under a key that is not its own", Some(&record));
    }
    Read::Good(Box::new(record))
}

/// What lies in the folders of an area: what is named by digests, and the paths of everything else.
pub(in crate::store) type Listing = (Vec<(Digest, PathBuf)>, Vec<PathBuf>);

/// Lists an area of the store. Names in `known` are those of files beside the folders.
pub(in crate::store) fn list(area: &std::path::Path, known: &[&str]) -> Result<Listing, StoreError> {
    let (mut found, mut strangers) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(area).at("list", area)? {
        let entry = entry.at("list", area)?;
        let shard = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if !entry.file_type().at("read", &path)?.is_dir() {
            if !known.contains(&shard.as_str()) {
                strangers.push(path);
            }
            continue;
        }
        for file in fs::read_dir(&path).at("list", &path)? {
            let file = file.at("list", &path)?;
            let name = format!("{shard}{}", file.file_name().to_string_lossy());
            match name.parse::<Digest>() {
                Ok(digest) if shard.len() == 2 => found.push((digest, file.path())),
                _ => strangers.push(file.path()),
            }
        }
    }
    found.sort_unstable();
    Ok((found, strangers))
}
