//! What is of no use beside blobs and records: what dead processes, interrupted nodes, broken transfers and old runs left.
//!
//! Each is a file or folder with the reason why nobody needs it. It only finds them; the sweep removes them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::census::Unit;
use super::roots::Roots;
use super::{Policy, Why, is_older};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::store::Store;
use crate::store::clock::Timestamp;
use crate::store::runs::{RunId, RunState, RunStatus};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What an attempt left for the next one is kept for so long after it was touched.
const PARTIAL_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// So much of that is kept, the latest first, where the cache has no limit; a quarter of the limit where it has.
const PARTIAL_BYTES: u64 = 64 << 30;

const QUARANTINE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
const INCOMING_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// A run in which nothing had to be done is kept for so long.
const RUN_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Something that is of no use.
#[derive(Clone, Debug)]
pub(super) struct Leftover {
    pub why: Why,
    pub path: PathBuf,
    pub bytes: u64,
    pub needs: Needs,
}

/// What has to be so still when it is removed.
#[derive(Clone, Debug)]
pub(super) enum Needs {
    Nothing,
    /// Nobody runs the key now.
    FreeKey(ContentKey),
    /// Nobody runs the key now, and no live run is about the recipe that it is an attempt at. Where that is not known, no
    /// run lives.
    UnwantedKey(ContentKey, Option<RecipeKey>),
    /// Nobody receives it now.
    FreeFile,
    /// No new run names the list.
    UnusedList(Digest),
    /// No new record was made by the code.
    UnusedCode(Digest),
    /// No new record has the artifact.
    NoArtifact(Digest),
}

/// Finds everything that is of no use when only these units stay. What depends on all records being known is left alone
/// where they are not.
pub(super) fn find(
    store: &Store,
    policy: &Policy,
    roots: &Roots,
    stays: &[&Unit],
    now: Timestamp,
    may_judge: bool,
) -> Vec<Leftover> {
    let search = Search {
        store,
        policy,
        roots,
        now,
    };
    let mut found = Vec::new();
    found.extend(
        store
            .stale()
            .into_iter()
            .map(|path| leftover(Why::Temporary, path, Needs::Nothing)),
    );
    found.extend(search.old("quarantine", Why::Quarantine, QUARANTINE_AGE, Needs::Nothing));
    found.extend(search.old("incoming", Why::Incoming, INCOMING_AGE, Needs::FreeFile));
    search.partial(&mut found);
    let runs = search.runs();
    search.lists(&runs, &mut found);
    found.extend(runs.iter().map(|id| {
        let path = store.root().join("runs").join(&id.0);
        leftover(Why::Run, path, Needs::Nothing)
    }));
    if may_judge {
        search.code(stays, &mut found);
        search.outputs(stays, &mut found);
    }
    found
}

fn leftover(why: Why, path: PathBuf, needs: Needs) -> Leftover {
    let bytes = tree_of(&path).bytes;
    Leftover {
        why,
        path,
        bytes,
        needs,
    }
}

struct Search<'a> {
    store: &'a Store,
    policy: &'a Policy,
    roots: &'a Roots,
    now: Timestamp,
}

impl Search<'_> {
    fn is_old(&self, touched: Timestamp, age: Duration) -> bool {
        is_older(touched, self.policy.at_most(age), self.now)
    }

    /// Finds what was not touched for long in a folder.
    fn old(&self, folder: &str, why: Why, age: Duration, needs: Needs) -> Vec<Leftover> {
        let is_old = |path: &PathBuf| self.is_old(tree_of(path).touched, age);
        let paths = children(&self.store.root().join(folder)).into_iter().filter(is_old);
        paths.map(|path| leftover(why, path, needs.clone())).collect()
    }

    /// What attempts left, of nodes that are done, that were not tried again for long, or beyond what there is room for.
    fn partial(&self, found: &mut Vec<Leftover>) {
        let mut open = Vec::new();
        for path in children(&self.store.root().join("partial")) {
            let Some(key) = name_of(&path).and_then(|name| name.parse().ok()).map(ContentKey) else {
                self.lone_marker(path, found);
                continue;
            };
            let Tree { bytes, touched } = tree_of(&path);
            let partial = |needs| Leftover {
                why: Why::Partial,
                path: path.clone(),
                bytes,
                needs,
            };
            if self.store.has_record_file(key) {
                found.push(partial(Needs::FreeKey(key)));
                continue;
            }
            let recipe = self.store.partial_recipe(key);
            let is_wanted = match recipe {
                Some(recipe) => self.roots.live.iter().any(|(_, keys)| keys.contains(&recipe)),
                None => !self.roots.live.is_empty(),
            };
            let unwanted = partial(Needs::UnwantedKey(key, recipe));
            if is_wanted || self.roots.blind.is_some() {
                continue;
            }
            if self.is_old(touched, PARTIAL_AGE) {
                found.push(unwanted);
            } else {
                open.push((touched, unwanted));
            }
        }
        let max_bytes = self.policy.max_bytes.map_or(PARTIAL_BYTES, |max_bytes| max_bytes / 4);
        // The latest first: what is beyond the limit is the oldest.
        open.sort_by_key(|(touched, _)| std::cmp::Reverse(*touched));
        let mut kept_bytes = 0;
        found.extend(open.into_iter().map(|(_, unwanted)| unwanted).filter(|unwanted| {
            kept_bytes += unwanted.bytes;
            kept_bytes > max_bytes
        }));
    }

    /// The file that says what a folder of partial state is for, when the folder is gone.
    fn lone_marker(&self, path: PathBuf, found: &mut Vec<Leftover>) {
        let is_lone = !path.with_extension("").exists();
        if is_lone && self.is_old(tree_of(&path).touched, DAY) {
            found.push(leftover(Why::Partial, path, Needs::Nothing));
        }
    }

    /// Returns old runs: those in which nothing had to be done, and with an age in the policy all of that age.
    fn runs(&self) -> Vec<RunId> {
        let is_unused = |run: &&RunState| {
            let is_over = run.status != RunStatus::Running;
            let ended = run.ended.unwrap_or(run.started);
            let old_enough = match self.policy.older_than {
                Some(older_than) => is_older(ended, older_than, self.now),
                None => is_no_op(run) && is_older(ended, RUN_AGE, self.now),
            };
            is_over && old_enough && !self.roots.kept_runs.contains(&run.id)
        };
        let unused = self.roots.runs.iter().filter(is_unused);
        let unused = unused.map(|run| run.id.clone());
        unused.chain(self.unborn_runs()).collect()
    }

    /// Returns the runs whose process died before it had said anything.
    fn unborn_runs(&self) -> Vec<RunId> {
        let is_unborn = |path: &PathBuf| {
            let name = name_of(path).filter(|name| *name != "resolved");
            let has_state = name.is_none_or(|name| self.store.run_state(name).is_some());
            !has_state && path.is_dir() && self.is_old(tree_of(path).touched, DAY)
        };
        let unborn = children(&self.store.root().join("runs")).into_iter().filter(is_unborn);
        unborn
            .filter_map(|path| Some(RunId(name_of(&path)?.to_owned())))
            .collect()
    }

    /// The lists that no other run names.
    fn lists(&self, gone: &[RunId], found: &mut Vec<Leftover>) {
        let gone: HashSet<&RunId> = gone.iter().collect();
        let mut named: HashSet<Digest> = HashSet::new();
        for path in children(&self.store.root().join("runs")) {
            let Some(id) = name_of(&path).map(|name| RunId(name.to_owned())) else {
                continue;
            };
            if !gone.contains(&id) {
                named.extend(self.store.lists_of(&id).unwrap_or_default());
            }
        }
        for path in children(&self.store.lists_folder()) {
            let Some(name) = name_of(&path) else { continue };
            let list: Option<Digest> = name.strip_suffix(".jsonl").and_then(|name| name.parse().ok());
            match list {
                Some(list) if !named.contains(&list) => {
                    found.push(leftover(Why::List, path, Needs::UnusedList(list)));
                }
                // One that was being written when its process died.
                None if self.is_old(tree_of(&path).touched, DAY) => {
                    found.push(leftover(Why::List, path, Needs::Nothing));
                }
                _ => {}
            }
        }
    }

    /// The digests of the files of plugins that made nothing that stays.
    fn code(&self, stays: &[&Unit], found: &mut Vec<Leftover>) {
        let used: HashSet<Digest> = stays.iter().filter_map(|unit| unit.code).collect();
        for path in children(&self.store.root().join("code")) {
            let code: Option<Digest> = name_of(&path).and_then(|name| name.strip_suffix(".json")?.parse().ok());
            if let Some(code) = code.filter(|code| !used.contains(code)) {
                found.push(leftover(Why::Code, path, Needs::UnusedCode(code)));
            }
        }
    }

    /// The readable copies of results that don't stay, but for those that somebody changed.
    fn outputs(&self, stays: &[&Unit], found: &mut Vec<Leftover>) {
        let artifacts: HashSet<Digest> = stays.iter().flat_map(|unit| unit.artifacts.iter().copied()).collect();
        let root = self.store.root().join("outputs");
        for path in children(&root.join("by-digest")) {
            let digest: Option<Digest> = name_of(&path).and_then(|name| name.parse().ok());
            // A part of an artifact has a digest of its own, and is laid out again when somebody asks.
            if let Some(digest) = digest.filter(|digest| !artifacts.contains(digest))
                && self.is_old(tree_of(&path).touched, DAY)
            {
                found.push(leftover(Why::Output, path, Needs::NoArtifact(digest)));
            }
        }
        for node in children(&root).iter().flat_map(|pipeline| children(pipeline)) {
            for marker in children(&node) {
                let Some(name) = name_of(&marker).and_then(|name| name.strip_prefix('.')?.strip_suffix(".digest"))
                else {
                    continue;
                };
                let digest: Option<Digest> = fs::read_to_string(&marker).ok().and_then(|text| text.parse().ok());
                let copy = node.join(name);
                let Some(digest) = digest.filter(|digest| !artifacts.contains(digest)) else {
                    continue;
                };
                // The marker was written last, so whatever is younger was changed by somebody.
                if modified(&copy) <= modified(&marker) {
                    found.push(leftover(Why::Output, copy, Needs::NoArtifact(digest)));
                    found.push(leftover(Why::Output, marker, Needs::NoArtifact(digest)));
                }
            }
        }
    }
}

/// Returns whether nothing had to be done in a run.
fn is_no_op(run: &RunState) -> bool {
    let is_idle = |(state, count): (&String, &usize)| state == "cached" || *count == 0;
    run.status == RunStatus::Succeeded && run.counts.iter().all(is_idle)
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// How large a file or folder is, and when anything in it was last changed.
struct Tree {
    bytes: u64,
    touched: Timestamp,
}

/// Looks at all of a file or folder. The bytes of a file that has another name elsewhere are not its own.
fn tree_of(path: &Path) -> Tree {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Tree {
            bytes: 0,
            touched: Timestamp(0),
        };
    };
    let is_own = metadata.is_file() && metadata.nlink() == 1;
    let mut tree = Tree {
        bytes: if is_own { metadata.len() } else { 0 },
        touched: super::census::changed(&metadata),
    };
    if metadata.is_dir() {
        for inside in children(path).iter().map(|path| tree_of(path)) {
            tree.bytes += inside.bytes;
            tree.touched = tree.touched.max(inside.touched);
        }
    }
    tree
}

/// Returns when the content of anything in a file or folder was last changed.
fn modified(path: &Path) -> Option<SystemTime> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let own = metadata.modified().ok();
    match metadata.is_dir() {
        true => children(path).iter().map(|path| modified(path)).chain([own]).max()?,
        false => own,
    }
}
