//! What is done about damage: moved aside, fetched, made again from what is here, or left to be computed again.
//!
//! Nothing is deleted: what is taken out of the store lies in `quarantine/` afterwards.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::blobs::wrong;
use super::{Check, Fate, Fault, Need, Problem};
use crate::digest::{Digest, RecipeKey};
use crate::store::artifact::Artifact;
use crate::store::error::{IoContext, StoreError};
use crate::store::{durable, record};

impl Check<'_> {
    /// Repairs what was found, blobs first: what they can't give back decides which records have to go.
    pub(super) fn repair(&mut self) -> Result<(), StoreError> {
        let owners = self.owners();
        let mut problems = std::mem::take(&mut self.report.problems);
        for problem in &mut problems {
            match &problem.fault {
                Fault::DamagedBlob { digest, .. } | Fault::MissingBlob { digest, .. } => {
                    problem.fate = self.repair_blob(*digest, owners.get(digest));
                }
                Fault::DamagedRecord { key, .. } => problem.fate = self.repair_record(*key),
                Fault::WrongSnapshot { .. } => {}
            }
        }
        self.report.to_rebuild = self.forget_incomplete(&problems);
        self.report.problems = problems;
        self.store.remove_stale();
        Ok(())
    }

    /// Returns for each blob that is lost an artifact that it is part of.
    fn owners(&self) -> HashMap<Digest, Artifact> {
        let mut owners = HashMap::new();
        if self.elsewhere.is_none() || (self.damaged.is_empty() && self.missing.is_empty()) {
            return owners;
        }
        for artifact in self.entries.iter().flat_map(|entry| entry.artifacts.values()) {
            for (part, _) in self.parts_of(artifact) {
                if self.damaged.contains_key(&part) || self.missing.contains_key(&part) {
                    owners.entry(part).or_insert_with(|| artifact.clone());
                }
            }
        }
        owners
    }

    fn repair_blob(&self, digest: Digest, owner: Option<&Artifact>) -> Fate {
        let path = self.store.blob_path(digest);
        if fs::symlink_metadata(&path).is_ok() && self.set_aside(&path, "blob").is_none() {
            return Fate::Left;
        }
        let fetched = self
            .elsewhere
            .zip(owner)
            .is_some_and(|(elsewhere, artifact)| elsewhere.fetch(artifact, None));
        // Whoever fetched it may have verified it; to know costs little.
        if fetched && path.is_file() && wrong(digest, &path, &|_| ()).is_none() {
            return Fate::Fetched;
        }
        Fate::SetAside
    }

    /// Writes a record again from its other name, or moves it aside.
    fn repair_record(&self, key: Digest) -> Fate {
        let store = self.store;
        let path = store.sharded("records", key);
        if self.set_aside(&path, "record").is_none() {
            return Fate::Left;
        }
        let twin = self.entries.iter().find(|entry| {
            let is_twin = entry.recipe_key.0 == key || entry.content_key.0 == key;
            is_twin && entry.name != key
        });
        let bytes = twin.and_then(|twin| fs::read(store.sharded("records", twin.name)).ok());
        match bytes.filter(|bytes| record::checked(bytes).is_some()) {
            Some(bytes) if store.write_file(&path, &bytes).is_ok() => Fate::Restored,
            _ => Fate::SetAside,
        }
    }

    /// Moves the records aside that lack a blob of an output, so that their nodes are as if they had never run. Returns
    /// the nodes that have no record any more.
    fn forget_incomplete(&self, problems: &[Problem]) -> Vec<Need> {
        let mut forgotten: BTreeMap<(String, String, RecipeKey), Need> = BTreeMap::new();
        for problem in problems.iter().filter(|problem| problem.fate == Fate::SetAside) {
            // Without its log alone a result is as good as before.
            for need in problem.needed_by.iter().filter(|need| !need.outputs.is_empty()) {
                let path = self.store.sharded("records", need.recipe_key.0);
                if !matches!(problem.fault, Fault::DamagedRecord { .. }) {
                    // Under the content key there may be the record of another recipe, which lacks the same blob.
                    for path in [&path, &self.store.sharded("records", need.content_key.0)] {
                        if path.exists() {
                            self.set_aside(path, "record");
                        }
                    }
                }
                if !path.exists() {
                    let place = (need.pipeline.clone(), need.node.clone(), need.recipe_key);
                    forgotten.insert(place, need.clone());
                }
            }
        }
        forgotten.into_values().collect()
    }

    /// Moves something into quarantine, under a name that tells what it was; returns where to.
    pub(super) fn set_aside(&self, path: &Path, what: &str) -> Option<PathBuf> {
        let moved = move_aside(self.store.root(), path, what);
        moved
            .inspect_err(|error| tracing::warn!(%error, "damage could not be moved aside"))
            .ok()
    }
}

fn move_aside(root: &Path, path: &Path, what: &str) -> Result<PathBuf, StoreError> {
    let folder = root.join("quarantine");
    durable::make_folder(&folder)?;
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let unique = part(Some(&durable::unique_path(&folder)));
    let name = format!("{what}-{}{}-{unique}", part(path.parent()), part(Some(path)));
    let to = folder.join(name);
    fs::rename(path, &to).at("move aside", path)?;
    if let Some(parent) = path.parent() {
        durable::sync_folder(parent)?;
    }
    Ok(to)
}
