//! What runs were about, as far as keys matter, and when a key was last used.
//!
//! A run is the mark of its nodes: its folder says when it was, and names the lists of its nodes, which `exec` writes and
//! of which only the recipe keys are read here. So a hit marks its record without a write of its own, and a run in which
//! nothing has to be done stays as fast as it was. When `gc` removes the folder of an old run, what that said goes into
//! `runs/uses` first.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use serde::Deserialize;

use super::Store;
use super::clock::Timestamp;
use super::error::StoreError;
use super::runs::RunId;
use crate::digest::{Digest, RecipeKey};

const MAGIC: &[u8; 8] = b"vvuses01";
const ENTRY: usize = 32 + 8;

/// The part of `pipeline.json` in a run's folder that is read here.
#[derive(Deserialize)]
struct Resolved {
    stages: Vec<ResolvedStage>,
}

#[derive(Deserialize)]
struct ResolvedStage {
    nodes: Digest,
}

/// The part of a line of a list that is read here.
#[derive(Deserialize)]
struct Line {
    recipe_key: RecipeKey,
}

/// The lists of nodes that were read; runs mostly share them.
#[derive(Default)]
pub(super) struct Lists(HashMap<Digest, Option<Rc<[RecipeKey]>>>);

impl Lists {
    /// Returns the recipe keys of a list; none if it can't be read.
    pub fn keys(&mut self, store: &Store, list: Digest) -> Option<Rc<[RecipeKey]>> {
        let read = || {
            let text = fs::read_to_string(store.list_path(list)).ok()?;
            let key = |line: &str| Some(serde_json::from_str::<Line>(line).ok()?.recipe_key);
            text.lines().map(key).collect()
        };
        self.0.entry(list).or_insert_with(read).clone()
    }

    /// Returns the recipe keys of a run; none if it kept no list, or one of them can't be read.
    pub fn keys_of(&mut self, store: &Store, run: &RunId) -> Option<HashSet<RecipeKey>> {
        let mut keys = HashSet::new();
        for list in store.lists_of(run)? {
            keys.extend(self.keys(store, list)?.iter());
        }
        Some(keys)
    }
}

impl Store {
    /// Returns the folder of the lists of nodes that runs were about.
    pub fn lists_folder(&self) -> PathBuf {
        self.root().join("runs/resolved")
    }

    pub(super) fn list_path(&self, list: Digest) -> PathBuf {
        self.lists_folder().join(format!("{list}.jsonl"))
    }

    /// Returns which lists a run names; none if it kept none that can be read.
    pub(super) fn lists_of(&self, run: &RunId) -> Option<Vec<Digest>> {
        let path = self.root().join("runs").join(&run.0).join("pipeline.json");
        let resolved: Resolved = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some(resolved.stages.into_iter().map(|stage| stage.nodes).collect())
    }

    fn uses_path(&self) -> PathBuf {
        self.root().join("runs/uses")
    }

    /// Returns when keys were last used, as runs that are gone said; nothing where that can't be read.
    pub(super) fn kept_uses(&self) -> HashMap<RecipeKey, Timestamp> {
        let parse = |bytes: Vec<u8>| {
            let (check, entries) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
            if Digest::of(entries).0 != check || entries.len() % ENTRY != 0 {
                return None;
            }
            let entry = |entry: &[u8]| {
                let (key, time) = entry.split_at(32);
                let key = RecipeKey(Digest(key.try_into().ok()?));
                Some((key, Timestamp(u64::from_le_bytes(time.try_into().ok()?))))
            };
            Some(entries.chunks_exact(ENTRY).filter_map(entry).collect())
        };
        fs::read(self.uses_path()).ok().and_then(parse).unwrap_or_default()
    }

    /// Keeps when keys were last used, durable when it returns.
    pub(super) fn keep_uses(&self, uses: &HashMap<RecipeKey, Timestamp>) -> Result<(), StoreError> {
        let mut entries = Vec::with_capacity(uses.len() * ENTRY);
        for (key, time) in uses {
            entries.extend_from_slice(&key.0.0);
            entries.extend_from_slice(&time.0.to_le_bytes());
        }
        let check = Digest::of(&entries);
        let bytes = [MAGIC.as_slice(), &check.0, &entries].concat();
        self.write_file(&self.uses_path(), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_read_back_and_a_torn_file_is_none() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let store = Store::open(folder.path())?;
        assert!(store.kept_uses().is_empty());
        let uses: HashMap<RecipeKey, Timestamp> = (0..9u8)
            .map(|number| (RecipeKey(Digest([number; 32])), Timestamp(u64::from(number))))
            .collect();
        store.keep_uses(&uses)?;
        assert_eq!(store.kept_uses(), uses);
        let bytes = fs::read(store.uses_path())?;
        fs::write(store.uses_path(), &bytes[..bytes.len() - 1])?;
        assert!(store.kept_uses().is_empty());
        Ok(())
    }
}
