//! What is kept beside the truth: the snapshot, the index, the journal, the files of plugin code, and leftovers.
//!
//! All of it can be made again or done without, so what is wrong with it is noted and is no damage, but for a snapshot
//! that passes for good and says something else than the records.

use std::collections::HashSet;
use std::fs;

use super::{Check, Fate, Fault, Problem};
use crate::digest::{Digest, RecipeKey};
use crate::store::snapshot::SnapshotState;

impl Check<'_> {
    pub(super) fn check_snapshot(&mut self) {
        let good: HashSet<Digest> = self.entries.iter().map(|entry| entry.name).collect();
        match self.store.check_snapshot(|key| good.contains(&key.0)) {
            SnapshotState::Good => {}
            SnapshotState::Torn => {
                self.note(
                    "the snapshot of records is damaged, which is noticed by whoever reads it; it is written again",
                );
                if self.options.repair {
                    self.store.remove_snapshot();
                }
            }
            SnapshotState::Wrong(key) => {
                let needed_by = self.entries.iter().filter(|entry| entry.name == key.0);
                let needed_by = needed_by.map(|entry| entry.need(Vec::new())).collect();
                let mut fate = Fate::Left;
                if self.options.repair && self.store.remove_snapshot() {
                    fate = Fate::Restored;
                }
                self.report.problems.push(Problem {
                    fault: Fault::WrongSnapshot { key },
                    needed_by,
                    fate,
                });
            }
        }
    }

    pub(super) fn check_beside(&mut self) {
        self.check_index();
        self.check_journal();
        self.check_code();
        self.check_runs();
        self.check_leftovers();
    }

    fn check_index(&mut self) {
        let Some(error) = self.store.index_damage() else { return };
        if self.options.repair {
            self.store.move_index_aside(&error);
        }
        let error = error.lines().next().unwrap_or_default();
        self.note(format!(
            "the index is damaged ({error}) and is built again from the records when it is asked"
        ));
    }

    /// The journal is what snapshot and index learn of records from. One that lacks some makes reasons and estimates worse.
    fn check_journal(&mut self) {
        let journal = self.store.journal();
        let mut told: HashSet<RecipeKey> = journal.keys().collect();
        if journal.is_shortened() {
            // What was dropped from it is in the snapshot; without one all records are read.
            let snapshot = self.store.snapshot();
            if snapshot.is_empty() {
                return;
            }
            told.extend(snapshot.recipe_keys());
        }
        let by_recipe = self.entries.iter().filter(|entry| entry.name == entry.recipe_key.0);
        let untold: Vec<RecipeKey> = by_recipe
            .map(|entry| entry.recipe_key)
            .filter(|key| !told.contains(key))
            .collect();
        if untold.is_empty() {
            return;
        }
        if self.options.repair {
            if !journal.is_whole() {
                self.store.append_journal("");
            }
            untold.iter().for_each(|key| self.store.append_journal(key));
        }
        let count = untold.len();
        self.note(format!(
            "the journal of records lacks {count}, of which estimates and reasons knew nothing"
        ));
    }

    fn check_code(&mut self) {
        let folder = self.store.root().join("code");
        let mut bad = 0;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name: Option<Digest> = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            let files = name.and_then(|name| self.store.code_files(name));
            if name.is_none() || files.and_then(|files| Digest::of_code(&files).ok()) != name {
                bad += 1;
                if self.options.repair {
                    self.set_aside(&path, "code");
                }
            }
        }
        if bad > 0 {
            self.note(format!(
                "{bad} lists of the files of plugin code are damaged; explanations are shorter without"
            ));
        }
    }

    fn check_runs(&mut self) {
        let entries = fs::read_dir(self.store.root().join("runs"))
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let is_run = |name: &String| self.store.run_folder(name).is_some() && name != "resolved";
        let torn = names
            .filter(is_run)
            .filter(|name| self.store.run_state(name).is_none())
            .count();
        if torn > 0 {
            self.note(format!("{torn} runs have no readable state; their logs are there"));
        }
    }

    fn check_leftovers(&mut self) {
        let entries = fs::read_dir(self.store.tmp()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let stale = names.filter(|name| self.store.is_stale(name)).count();
        if stale > 0 {
            self.note(format!(
                "{stale} leftovers of dead processes in tmp/; the next run removes them"
            ));
        }
        let aside = fs::read_dir(self.store.root().join("quarantine"))
            .into_iter()
            .flatten()
            .count();
        if aside > 0 {
            self.note(format!("{aside} damaged things lie in quarantine/ and can be removed"));
        }
    }
}
