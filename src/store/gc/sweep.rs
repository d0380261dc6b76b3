//! Removing what is to go, in short bursts between the runs.
//!
//! Each burst has the store to itself (see `guard`) and looks first at what happened since everything was counted: new
//! runs, new pins, new records. What one of them needs is spared. Names are removed or moved aside under the lock, which
//! takes microseconds; large files are freed without it. Between the last record and the first blob everything is
//! flushed, so that not even a power cut leaves a record without its blobs.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::census::{Blob, Excerpt, Unit, needed};
use super::leftovers::{Leftover, Needs};
use super::{Collected, Plan, Policy, Removed, Sum, Why};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::store::error::{IoContext, StoreError};
use crate::store::lock::Claim;
use crate::store::runs::{RunId, RunStatus};
use crate::store::uses::Lists;
use crate::store::{Store, durable, record};

/// For so long a burst goes on.
const BURST: Duration = Duration::from_millis(30);

/// After a burst the users have the store for at least so long.
const PAUSE: Duration = Duration::from_millis(3);

/// So many failures are told.
const MAX_FAILURES: usize = 5;

/// A sweep on its way.
struct Sweep<'a> {
    store: &'a Store,
    plan: &'a Plan,
    /// For so long a burst waits for its turn before the sweep is given up.
    patience: Duration,
    /// Where things are moved to be freed.
    trash: PathBuf,
    /// Keys that came to be needed since everything was counted.
    spared: HashSet<RecipeKey>,
    spared_lists: HashSet<Digest>,
    /// Keys under which a record was written since.
    written: HashSet<RecipeKey>,
    needed: HashSet<Digest>,
    artifacts: HashSet<Digest>,
    codes: HashSet<Digest>,
    has_live_run: bool,
    seen_runs: HashSet<String>,
    journal_at: u64,
    lists: Lists,
    folders: HashMap<Digest, Vec<Digest>>,
    /// How many units that are not gone need each blob.
    holders: Vec<u32>,
    num_left: usize,
    failures: Vec<String>,
}

/// Why a sweep ends early.
enum Stop {
    /// A run lives of which it is not known what it is about.
    Blind(RunId),
    /// What was counted does not hold any more.
    Outdated,
    /// The users left no room.
    Busy,
}

/// Removes what is planned, and says in `collected` what became of it. False if it has to be planned anew. It gives up
/// when users of the store leave no room for a burst within `patience`.
pub(super) fn sweep(
    store: &Store,
    plan: &Plan,
    policy: &Policy,
    patience: Duration,
    collected: &mut Collected,
) -> Result<bool, StoreError> {
    let is_nothing = plan.units.is_empty() && plan.orphans.is_empty() && plan.leftovers.is_empty();
    if is_nothing {
        return Ok(true);
    }
    let trash = durable::unique_path(&store.tmp());
    fs::create_dir(&trash).at("create", &trash)?;
    // What the folders of old runs say about uses is kept before the first of them goes.
    if plan.leftovers.iter().any(|leftover| leftover.why == Why::Run) {
        let mut uses = plan.roots.uses.clone();
        uses.retain(|key, _| plan.census.by_recipe.contains_key(key));
        store.keep_uses(&uses)?;
    }
    let mut sweep = Sweep::new(store, plan, patience, trash);
    let mut done = Done::default();
    let stop = sweep.all(&mut done)?;
    durable::remove_tree(&sweep.trash)?;
    sweep.tell(&done, policy, collected);
    match stop {
        Some(Stop::Outdated) => return Ok(false),
        Some(Stop::Blind(run)) => collected.blind_run = Some(run),
        Some(Stop::Busy) | None => {}
    }
    Ok(true)
}

/// What is gone.
#[derive(Default)]
struct Done {
    units: HashSet<u32>,
    removed: std::collections::BTreeMap<Why, Sum>,
    freed_bytes: u64,
}

impl<'a> Sweep<'a> {
    fn new(store: &'a Store, plan: &'a Plan, patience: Duration, trash: PathBuf) -> Sweep<'a> {
        Sweep {
            store,
            plan,
            patience,
            trash,
            spared: HashSet::new(),
            spared_lists: HashSet::new(),
            written: HashSet::new(),
            needed: HashSet::new(),
            artifacts: HashSet::new(),
            codes: HashSet::new(),
            has_live_run: !plan.roots.live.is_empty(),
            // A run that was live when it was counted stays spared, so only others have to be looked at.
            seen_runs: plan.roots.runs.iter().map(|run| run.id.0.clone()).collect(),
            journal_at: plan.census.journal_end,
            lists: Lists::default(),
            folders: HashMap::new(),
            holders: plan.census.blobs.iter().map(|blob| blob.holders).collect(),
            num_left: 0,
            failures: Vec::new(),
        }
    }

    fn all(&mut self, done: &mut Done) -> Result<Option<Stop>, StoreError> {
        let mut shards = BTreeSet::new();
        // In bursts: a unit whose records are gone leaves its blobs to the next step.
        let units: VecDeque<(u32, Why)> = self.plan.units.iter().copied().collect();
        if let Some(stop) = self.bursts(units, |sweep, (idx, why)| {
            if !sweep.remove_unit(idx, &mut shards) {
                return false;
            }
            let unit = &sweep.plan.census.units[idx as usize];
            done.units.insert(idx);
            let sum = done.removed.entry(why).or_default();
            if unit.replaced.is_none() {
                sum.nodes += 1;
                sum.seconds += unit.seconds;
            }
            true
        })? {
            return Ok(Some(stop));
        }
        for shard in shards {
            durable::sync_folder(&shard)?;
        }
        let mut blobs = VecDeque::new();
        for (idx, why) in self.plan.units.iter().filter(|(idx, _)| done.units.contains(idx)) {
            for &blob in &self.plan.census.units[*idx as usize].blobs {
                self.holders[blob as usize] -= 1;
                if self.holders[blob as usize] == 0 {
                    blobs.push_back((blob, *why));
                }
            }
        }
        blobs.extend(self.plan.orphans.iter().map(|&blob| (blob, Why::Orphan)));
        if let Some(stop) = self.bursts(blobs, |sweep, (idx, why)| {
            let blob = &sweep.plan.census.blobs[idx as usize];
            if !sweep.remove_blob(blob) {
                return false;
            }
            let sum = done.removed.entry(why).or_default();
            sum.files += 1;
            sum.bytes += blob.size;
            done.freed_bytes += blob.size;
            true
        })? {
            return Ok(Some(stop));
        }
        let leftovers: VecDeque<&Leftover> = self.plan.leftovers.iter().collect();
        self.bursts(leftovers, |sweep, leftover| {
            if !sweep.remove_leftover(leftover) {
                return false;
            }
            let sum = done.removed.entry(leftover.why).or_default();
            sum.files += 1;
            sum.bytes += leftover.bytes;
            true
        })
    }

    /// Does some work in bursts; `work` says whether it removed the thing.
    fn bursts<T>(
        &mut self,
        mut left: VecDeque<T>,
        mut work: impl FnMut(&mut Self, T) -> bool,
    ) -> Result<Option<Stop>, StoreError> {
        while !left.is_empty() {
            let Some(guard) = self.store.sweep_guard(self.patience)? else {
                self.num_left += left.len();
                return Ok(Some(Stop::Busy));
            };
            if let Some(stop) = self.look_again()? {
                self.num_left += left.len();
                return Ok(Some(stop));
            }
            let start = Instant::now();
            while start.elapsed() < BURST
                && let Some(next) = left.pop_front()
            {
                if !work(self, next) {
                    self.num_left += 1;
                }
            }
            drop(guard);
            // Freeing the blocks of large files takes long, and nobody has to wait for it.
            self.empty_trash()?;
            thread::sleep(PAUSE);
        }
        Ok(None)
    }

    fn empty_trash(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.trash).at("list", &self.trash)? {
            durable::remove_tree(&entry.at("list", &self.trash)?.path())?;
        }
        Ok(())
    }

    /// Learns what happened since the last burst.
    fn look_again(&mut self) -> Result<Option<Stop>, StoreError> {
        let store = self.store;
        for entry in fs::read_dir(store.root().join("runs")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !self.seen_runs.contains(*name)) else {
                continue;
            };
            // A folder that has no state was never registered: its process died on the way.
            let Some(state) = store.run_state(name) else { continue };
            let id = state.id.clone();
            let is_live = state.status == RunStatus::Running;
            match self.lists.keys_of(store, &id) {
                // One that has ended already used these nodes a moment ago.
                Some(keys) => self.spared.extend(keys),
                None if is_live => return Ok(Some(Stop::Blind(id))),
                None => {}
            }
            self.spared_lists.extend(store.lists_of(&id).unwrap_or_default());
            self.has_live_run |= is_live;
            self.seen_runs.insert(name.to_owned());
        }
        self.spared.extend(store.pins()?.into_iter().flat_map(|pin| pin.keys));
        let journal = store.journal();
        let Some(written) = journal.since(self.journal_at) else {
            return Ok(Some(Stop::Outdated));
        };
        for key in written {
            self.written.insert(key);
            let path = store.sharded("records", key.0);
            let Ok(Some(excerpt)) = record::read_as::<Excerpt>(&path) else {
                continue;
            };
            self.needed.extend(needed(store, &excerpt, &mut self.folders));
            self.artifacts
                .extend(excerpt.artifacts.values().map(|artifact| artifact.digest));
            self.codes.extend(excerpt.code());
        }
        self.journal_at = journal.end();
        Ok(None)
    }

    /// Removes the records of a unit, unless something came to need one of them.
    fn remove_unit(&mut self, idx: u32, shards: &mut BTreeSet<PathBuf>) -> bool {
        let unit: &Unit = &self.plan.census.units[idx as usize];
        let is_needed = |key: &RecipeKey| self.spared.contains(key) || self.written.contains(key);
        if unit.owners.iter().any(is_needed) {
            return false;
        }
        if let Some((path, _)) = &unit.replaced {
            return self.unlink(path);
        }
        let mut keys: Vec<Digest> = unit.recipes.iter().map(|key| key.0).collect();
        if unit.has_content_name {
            // Another recipe can have taken the name meanwhile.
            let ContentKey(key) = unit.content_key;
            let path = self.store.sharded("records", key);
            if let Ok(Some(excerpt)) = record::read_as::<Excerpt>(&path)
                && is_needed(&excerpt.recipe_key)
            {
                return false;
            }
            keys.push(key);
        }
        let mut all = true;
        for key in keys {
            let path = self.store.sharded("records", key);
            all &= self.unlink(&path);
            shards.extend(path.parent().map(Path::to_path_buf));
        }
        all
    }

    fn remove_blob(&mut self, blob: &Blob) -> bool {
        !self.needed.contains(&blob.digest) && self.move_to_trash(&self.store.blob_path(blob.digest))
    }

    fn remove_leftover(&mut self, leftover: &Leftover) -> bool {
        match &leftover.needs {
            Needs::Nothing => {}
            Needs::UnwantedKey(_, None) if self.has_live_run => return false,
            Needs::UnwantedKey(_, Some(recipe)) if self.spared.contains(recipe) => return false,
            Needs::FreeKey(key) | Needs::UnwantedKey(key, _) => {
                // The key stays ours until the folder is out of the way.
                let Ok(Claim::Held(_lock)) = self.store.claim(*key) else {
                    return false;
                };
                return self.move_to_trash(&leftover.path);
            }
            Needs::FreeFile => {
                // The file stays ours until it is out of the way.
                let Ok(file) = fs::File::open(&leftover.path) else {
                    return false;
                };
                let lock = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
                return lock.is_ok() && self.move_to_trash(&leftover.path);
            }
            Needs::UnusedList(list) if self.spared_lists.contains(list) => return false,
            Needs::UnusedCode(code) if self.codes.contains(code) => return false,
            Needs::NoArtifact(digest) if self.artifacts.contains(digest) => return false,
            Needs::UnusedList(_) | Needs::UnusedCode(_) | Needs::NoArtifact(_) => {}
        }
        self.move_to_trash(&leftover.path)
    }

    fn unlink(&mut self, path: &Path) -> bool {
        let removed = fs::remove_file(path);
        self.is_gone(path, removed)
    }

    fn move_to_trash(&mut self, path: &Path) -> bool {
        // A folder has to be writable to get another parent, where we are not root.
        if path.is_dir() {
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
        }
        let moved = fs::rename(path, durable::unique_path(&self.trash));
        self.is_gone(path, moved)
    }

    fn is_gone(&mut self, path: &Path, result: io::Result<()>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                if self.failures.len() < MAX_FAILURES {
                    self.failures.push(format!("{}: {error}", path.display()));
                }
                false
            }
        }
    }

    /// Says what was done in the place of what was planned.
    fn tell(self, done: &Done, policy: &Policy, collected: &mut Collected) {
        collected.removed.clone_from(&done.removed);
        collected.bytes_after = collected.bytes_before - done.freed_bytes;
        collected.max_bytes = policy.max_bytes;
        collected.num_spared = self.num_left;
        collected.failures = self.failures;
        if done.units.len() < self.plan.units.len() {
            let is_gone = |removed: &Removed| {
                let unit = removed.recipe_key.and_then(|key| self.plan.census.by_recipe.get(&key));
                unit.is_none_or(|unit| done.units.contains(unit))
            };
            collected.largest.retain(is_gone);
        }
    }
}
