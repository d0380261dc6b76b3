//! The check of a whole store: every record, every blob, and what is kept beside them.
//!
//! It reads everything and believes nothing: records are checked by their own digest and by their keys, which have to be
//! the digests of the preimages in them; blobs are hashed; each output must have all of its blobs. It changes nothing
//! unless it is told to repair; then damage is moved into `quarantine/`, lost blobs are fetched where they may be had
//! elsewhere, and the records that still lack one are moved aside too, so that their nodes run again when they are asked
//! for. Runs may go on meanwhile: what is found is looked at a second time before it is told.

mod beside;
mod blobs;
mod records;
mod repair;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::Store;
use super::artifact::Artifact;
use super::elsewhere::Elsewhere;
use super::error::StoreError;
use super::lock::NamedLock;
use crate::digest::{ContentKey, Digest, RecipeKey};

pub(super) use records::list;

/// What to check and what to do about it.
#[derive(Clone, Debug, Default)]
pub struct FsckOptions {
    /// Move damage aside and repair what can be repaired.
    pub repair: bool,
    /// The share of the blobs to reread, from 0 to 1, another one each time; none for all. Sizes are looked at for all.
    pub sample: Option<f64>,
}

/// What a check is at, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub enum FsckStep {
    /// So many records will be read.
    Records(u64),
    /// So many bytes of blobs will be read.
    Blobs(u64),
    /// So much of either was read since it was last told.
    Done(u64),
}

/// Takes what a check is at; it is called by several threads.
pub type Progress<'a> = dyn Fn(FsckStep) + Sync + 'a;

/// What a check found.
#[derive(Debug, Default, Serialize)]
pub struct FsckReport {
    /// Names of records that were read; each record has one under each of its two keys.
    pub records: u64,
    /// Blobs that there are.
    pub blobs: u64,
    /// Blobs of which every byte was read, and these bytes.
    pub reread: u64,
    pub reread_bytes: u64,
    /// Damage, and what became of it.
    pub problems: Vec<Problem>,
    /// Nodes whose records were moved aside, so that they run again when they are asked for.
    pub to_rebuild: Vec<Need>,
    /// Blobs that no record needs. They are no damage: a run may just be writing their record.
    pub orphans: u64,
    pub orphan_bytes: u64,
    /// Blobs that are not here but where blobs may be fetched from.
    pub elsewhere: u64,
    /// What is not as it should be but harms nothing, because it can be done without and is made again.
    pub notes: Vec<String>,
}

impl FsckReport {
    /// Returns whether no damage is left.
    pub fn is_clean(&self) -> bool {
        self.problems.iter().all(|problem| problem.fate != Fate::Left)
    }

    /// Returns how long it takes to make again what is lost, each computation once.
    pub fn seconds_to_rebuild(&self) -> f64 {
        let lost = self.problems.iter().filter(|problem| !problem.fate.is_whole());
        let needs: BTreeMap<ContentKey, f64> = lost
            .flat_map(|problem| &problem.needed_by)
            .filter(|need| !need.outputs.is_empty())
            .map(|need| (need.content_key, need.seconds))
            .collect();
        // Adding to a zero of its own: an empty sum of floats is minus zero.
        needs.values().fold(0.0, |sum, seconds| sum + seconds)
    }
}

/// Something that is damaged or missing.
#[derive(Debug, Serialize)]
pub struct Problem {
    pub fault: Fault,
    /// The nodes that need it.
    pub needed_by: Vec<Need>,
    pub fate: Fate,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Fault {
    /// The bytes of a blob are not what its name says, or can't be read.
    DamagedBlob {
        digest: Digest,
        size_bytes: u64,
        why: String,
    },
    /// A record needs a blob that is not there.
    MissingBlob { digest: Digest, size_bytes: u64 },
    /// A record does not check.
    DamagedRecord { key: Digest, why: &'static str },
    /// The snapshot says something else than a record that it claims to know.
    WrongSnapshot { key: RecipeKey },
}

/// What became of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is as it was.
    Left,
    /// The blob was fetched, and verified.
    Fetched,
    /// It was made again from what is here.
    Restored,
    /// It was moved aside; the nodes that need it run again when they are asked for.
    SetAside,
}

impl Fate {
    /// Returns whether what was damaged is whole again.
    pub fn is_whole(self) -> bool {
        matches!(self, Fate::Fetched | Fate::Restored)
    }
}

/// A node that needs something.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Need {
    pub node: String,
    pub kind: String,
    pub pipeline: String,
    pub recipe_key: RecipeKey,
    pub content_key: ContentKey,
    /// Which outputs it is part of; none for the log.
    pub outputs: Vec<String>,
    /// What running the node took.
    pub seconds: f64,
}

/// A record as far as the check needs it.
struct Entry {
    /// The key that its file is named by.
    name: Digest,
    recipe_key: RecipeKey,
    content_key: ContentKey,
    node: String,
    kind: String,
    pipeline: String,
    seconds: f64,
    artifacts: BTreeMap<String, Artifact>,
    log: Option<Digest>,
}

/// The size of a damaged blob, and what is wrong with it.
type Damage = (u64, String);

/// What the passes found so far.
struct Check<'a> {
    store: &'a Store,
    options: &'a FsckOptions,
    elsewhere: Option<&'a dyn Elsewhere>,
    progress: &'a Progress<'a>,
    report: FsckReport,
    /// The records that check themselves, each once though it has two names.
    entries: Vec<Entry>,
    /// The blobs that records need, with their sizes where these are known.
    wanted: HashMap<Digest, Option<u64>>,
    /// Logs, which are missed by nobody but people.
    logs: HashSet<Digest>,
    /// The blobs whose bytes are known to be wrong, with a reason.
    damaged: HashMap<Digest, Damage>,
    missing: HashMap<Digest, u64>,
    /// Damaged records by the name of their file.
    bad_records: Vec<records::BadRecord>,
}

impl Store {
    /// Checks everything in the store, and repairs it if it is told to.
    ///
    /// # Errors
    /// The folders of the store can't be listed, or another process repairs it just now.
    pub fn fsck(
        &self,
        options: &FsckOptions,
        elsewhere: Option<&dyn Elsewhere>,
        progress: &Progress<'_>,
    ) -> Result<FsckReport, StoreError> {
        let _lock = options.repair.then(|| claim(self)).transpose()?;
        let mut check = Check {
            store: self,
            options,
            elsewhere,
            progress,
            report: FsckReport::default(),
            entries: Vec::new(),
            wanted: HashMap::new(),
            logs: HashSet::new(),
            damaged: HashMap::new(),
            missing: HashMap::new(),
            bad_records: Vec::new(),
        };
        check.read_records()?;
        check.read_manifests();
        check.read_blobs()?;
        check.look_again();
        check.tell_problems();
        check.check_snapshot();
        check.check_beside();
        if options.repair {
            check.repair()?;
        }
        Ok(check.report)
    }
}

fn claim(store: &Store) -> Result<NamedLock, StoreError> {
    let what = "the check of the cache with --repair";
    let lock = store.claim_named("fsck").map_err(|error| store.unwritable(error))?;
    lock.ok_or(StoreError::Busy { what })
}

impl Check<'_> {
    /// Turns what was found into problems, each with the nodes that need it.
    fn tell_problems(&mut self) {
        let lost: HashSet<Digest> = self.damaged.keys().chain(self.missing.keys()).copied().collect();
        let mut needed_by = self.needs(&lost);
        let mut problems: Vec<Problem> = Vec::new();
        let mut lost: Vec<Digest> = lost.into_iter().collect();
        lost.sort_unstable();
        for digest in lost {
            let fault = match self.damaged.get(&digest) {
                Some((size_bytes, why)) => Fault::DamagedBlob {
                    digest,
                    size_bytes: *size_bytes,
                    why: why.clone(),
                },
                None => Fault::MissingBlob {
                    digest,
                    size_bytes: self.missing[&digest],
                },
            };
            problems.push(Problem {
                fault,
                needed_by: needed_by.remove(&digest).unwrap_or_default(),
                fate: Fate::Left,
            });
        }
        problems.extend(self.bad_records.iter().map(|bad| Problem {
            fault: Fault::DamagedRecord {
                key: bad.name,
                why: bad.why,
            },
            needed_by: bad.need.iter().cloned().collect(),
            fate: Fate::Left,
        }));
        self.report.problems = problems;
    }

    /// Returns which nodes need each of some blobs. Manifests are read again for it, which damage alone is worth.
    fn needs(&self, lost: &HashSet<Digest>) -> HashMap<Digest, Vec<Need>> {
        let mut needs: HashMap<Digest, Vec<Need>> = HashMap::new();
        if lost.is_empty() {
            return needs;
        }
        for entry in &self.entries {
            let mut outputs: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
            for (output, artifact) in &entry.artifacts {
                for (digest, path) in self.parts_of(artifact) {
                    if lost.contains(&digest) {
                        let name = path.map_or_else(|| output.clone(), |path| format!("{output}/{path}"));
                        outputs.entry(digest).or_default().push(name);
                    }
                }
            }
            if let Some(log) = entry.log.filter(|log| lost.contains(log)) {
                outputs.entry(log).or_default();
            }
            for (digest, outputs) in outputs {
                needs.entry(digest).or_default().push(entry.need(outputs));
            }
        }
        needs
    }

    /// Returns the blobs of an artifact, with the paths of those that are files of a folder, as far as they are known.
    fn parts_of(&self, artifact: &Artifact) -> Vec<(Digest, Option<String>)> {
        let Some(digest) = artifact.manifest else {
            return vec![(artifact.digest, None)];
        };
        let mut parts = vec![(digest, None)];
        if !self.damaged.contains_key(&digest)
            && let Ok(Some(manifest)) = self.store.manifest_here(artifact)
        {
            let files = manifest.files.into_iter();
            parts.extend(files.map(|file| (file.digest, Some(file.path))));
        }
        parts
    }

    fn note(&mut self, note: impl Into<String>) {
        self.report.notes.push(note.into());
    }
}

impl Entry {
    fn need(&self, outputs: Vec<String>) -> Need {
        Need {
            node: self.node.clone(),
            kind: self.kind.clone(),
            pipeline: self.pipeline.clone(),
            recipe_key: self.recipe_key,
            content_key: self.content_key,
            outputs,
            seconds: self.seconds,
        }
    }
}

#[cfg(test)]
mod tests;
