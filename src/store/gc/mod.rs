//! `gc`: what may go, in which order, and what it freed.
//!
//! [`Store::collect`] counts everything through (`census`), asks the roots (`roots`) what has to stay, lets the rest go by
//! policy and value (`value`), adds what is in nobody's way but of no use (`leftovers`), and removes it all in short
//! bursts between the runs (`sweep`; why no run is harmed is in `guard`). Records go first, and their blobs only when that
//! is on the disk, so a crash in between leaves blobs that nothing needs and the next `gc` finds. Without a policy only
//! garbage goes: what no record, no run and no pin can lead to any more.

mod census;
mod leftovers;
mod roots;
mod sweep;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::Store;
use super::clock::Timestamp;
use super::error::StoreError;
use super::runs::RunId;
use super::size::Size;
use crate::digest::{Digest, RecipeKey};
use census::{Census, Unit};
use leftovers::Leftover;
use roots::Roots;

/// How many of the largest nodes are named.
const MAX_NAMED: usize = 10;

/// How often everything is counted through again, because somebody else changed it meanwhile.
const MAX_TRIES: usize = 3;

/// A blob that nothing needs stays this long: a pull brings blobs before their record.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// For so long `gc` waits for runs to leave it room.
const PATIENCE: Duration = Duration::from_secs(120);

/// For so long a run that is done waits for that.
const RUN_PATIENCE: Duration = Duration::from_secs(2);

/// A journal of more bytes is shortened.
const LONG_JOURNAL: u64 = 4096;

/// What to keep. What is pinned, what a live run is about, and what the last runs used stays in any case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// The bytes that all blobs may have together.
    pub max_bytes: Option<u64>,
    /// What was used within this time stays.
    pub older_than: Option<Duration>,
    /// What the last runs of each pipeline file used stays: those of so many different lists of nodes, 1 unless said.
    pub keep_runs: Option<u32>,
    /// The nodes of these runs stay.
    pub keep: Vec<RunId>,
}

impl Policy {
    /// Returns whether there is anything to go by; without that only garbage goes.
    pub fn removes_nodes(&self) -> bool {
        self.max_bytes.is_some() || self.older_than.is_some() || self.keep_runs.is_some()
    }

    /// Returns an age, or that of the policy if it is less.
    fn at_most(&self, age: Duration) -> Duration {
        self.older_than.map_or(age, |older_than| older_than.min(age))
    }
}

/// Why something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A node, so that the cache has its size.
    Size,
    /// A node that was not used for long.
    Age,
    /// A node that the last runs did not use.
    Runs,
    /// A blob that no record needs.
    Orphan,
    /// A record that was replaced by another one.
    Replaced,
    /// What dead processes left.
    Temporary,
    /// What an interrupted attempt left for the next one.
    Partial,
    /// What was found damaged long ago.
    Quarantine,
    /// What a broken transfer left.
    Incoming,
    /// A run in which nothing had to be done, or an old one.
    Run,
    /// A list of nodes that no run names.
    List,
    /// The digests of the files of a plugin that made nothing that is there.
    Code,
    /// A readable copy of a result that is gone.
    Output,
}

/// Why a node stays: the strongest reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    Pinned,
    LiveRun,
    LastRuns,
    Recent,
    /// Nothing asked for it to go.
    Room,
}

/// How much something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sum {
    pub nodes: usize,
    /// Blobs, or files and folders of another kind.
    pub files: usize,
    pub bytes: u64,
    /// The time to compute the nodes anew.
    pub seconds: f64,
}

/// A node that went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Removed {
    pub node: String,
    pub pipeline: String,
    pub recipe_key: Option<RecipeKey>,
    pub why: Why,
    /// The bytes of all its blobs, those that stay for others included.
    pub bytes: u64,
    pub seconds: f64,
    pub used: Timestamp,
}

/// What `gc` did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Collected {
    /// The bytes of all blobs before.
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// The limit that was asked for.
    pub max_bytes: Option<u64>,
    pub removed: BTreeMap<Why, Sum>,
    /// The largest nodes that went.
    pub largest: Vec<Removed>,
    pub kept: BTreeMap<Kept, Sum>,
    /// Records that can't be read. What only they need can't be told from garbage, so all of that stays.
    pub num_unreadable: usize,
    /// A live run whose list of nodes can't be read, for which everything stays.
    pub blind_run: Option<RunId>,
    /// What was to go and stayed, because something came to need it meanwhile or the runs left no room.
    pub num_spared: usize,
    /// What could not be removed, as a text.
    pub failures: Vec<String>,
}

impl Collected {
    /// Returns by how many bytes the cache is larger than it may be.
    pub fn excess_bytes(&self) -> u64 {
        self.max_bytes
            .map_or(0, |max_bytes| self.bytes_after.saturating_sub(max_bytes))
    }

    /// Returns how much went in all.
    pub fn total(&self) -> Sum {
        let add = |sum: Sum, other: &Sum| Sum {
            nodes: sum.nodes + other.nodes,
            files: sum.files + other.files,
            bytes: sum.bytes + other.bytes,
            seconds: sum.seconds + other.seconds,
        };
        self.removed.values().fold(Sum::default(), add)
    }
}

/// What is to go.
struct Plan {
    census: Census,
    /// Units in the order in which they go.
    units: Vec<(u32, Why)>,
    orphans: Vec<u32>,
    leftovers: Vec<Leftover>,
    roots: Roots,
}

impl Store {
    /// Removes what a policy lets go, and what is of no use; with `is_dry_run` only tells what that is.
    ///
    /// `tell` is called with the number of records that were read so far. None if somebody else collects just now.
    ///
    /// # Errors
    /// The cache can't be written, or a pin can't be read. What can't be removed is no error; the result names it.
    pub fn collect(
        &self,
        policy: &Policy,
        is_dry_run: bool,
        tell: &(dyn Fn(usize) + Sync),
    ) -> Result<Option<Collected>, StoreError> {
        if is_dry_run {
            return self.plan_collection(policy, tell).map(|plan| Some(plan.told(policy)));
        }
        self.collect_within(PATIENCE, policy, tell)
    }

    fn collect_within(
        &self,
        patience: Duration,
        policy: &Policy,
        tell: &(dyn Fn(usize) + Sync),
    ) -> Result<Option<Collected>, StoreError> {
        let Some(_alone) = self.claim_named("collect")? else {
            return Ok(None);
        };
        for tries in 1.. {
            let grown_from = self.size();
            let plan = self.plan_collection(policy, tell)?;
            let mut collected = plan.told(policy);
            let is_done = sweep::sweep(self, &plan, policy, patience, &mut collected)?;
            let grown =
                self.size().map_or(0, |size| size.bytes) as i128 - grown_from.map_or(0, |size| size.bytes) as i128;
            // Without an earlier count, what was added meanwhile is not known, and the next count has it.
            let grown = grown_from.map_or(0, |_| u64::try_from(grown).unwrap_or(0));
            self.set_size(Size {
                bytes: collected.bytes_after + grown,
                stuck: 0,
            })?;
            if collected.removed.values().any(|sum| sum.nodes > 0) {
                self.refresh_snapshot(true);
                self.catch_up_index();
            }
            if is_done || tries == MAX_TRIES {
                self.shorten_journal_to_snapshot(LONG_JOURNAL, Duration::from_secs(2));
                return Ok(Some(collected));
            }
        }
        unreachable!("the last try returns")
    }

    /// Brings the cache below a limit after a run that wrote, if it is over it; none if there was nothing to do.
    ///
    /// A little more goes than has to, so that not each run has to look. A limit that could not be kept is not tried
    /// again until the cache has grown by a twentieth, and the result names it the first time only.
    ///
    /// # Errors
    /// As for [`Store::collect`].
    pub fn keep_size(&self, policy: &Policy) -> Result<Option<Collected>, StoreError> {
        let Some(max_bytes) = policy.max_bytes else {
            return Ok(None);
        };
        let Some(size) = self.size() else {
            let bytes = Census::blob_bytes(self);
            self.set_size(Size { bytes, stuck: 0 })?;
            return match bytes > max_bytes {
                true => self.keep_size(policy),
                false => Ok(None),
            };
        };
        let tried = size.stuck + size.stuck / 20;
        if size.bytes <= max_bytes || size.bytes <= tried {
            return Ok(None);
        }
        let lower = Policy {
            max_bytes: Some(max_bytes - max_bytes / 20),
            ..policy.clone()
        };
        let Some(mut collected) = self.collect_within(RUN_PATIENCE, &lower, &|_| {})? else {
            return Ok(None);
        };
        collected.max_bytes = policy.max_bytes;
        if collected.excess_bytes() > 0 {
            self.set_size(Size {
                bytes: collected.bytes_after,
                stuck: collected.bytes_after,
            })?;
            collected.max_bytes = policy.max_bytes.filter(|_| size.stuck == 0);
        }
        Ok(Some(collected))
    }

    fn plan_collection(&self, policy: &Policy, tell: &(dyn Fn(usize) + Sync)) -> Result<Plan, StoreError> {
        let now = Timestamp::now();
        let roots = Roots::find(self, policy)?;
        let census = Census::take(self, &roots.uses, tell);
        let units = go(&census, &roots, policy, now);
        let gone: HashSet<u32> = units.iter().map(|(unit, _)| *unit).collect();
        let orphan_age = policy.at_most(ORPHAN_AGE);
        let is_orphan = |idx: &u32| {
            let blob = &census.blobs[*idx as usize];
            blob.holders == 0 && is_older(blob.changed, orphan_age, now)
        };
        let may_judge = census.num_unreadable == 0 && roots.blind.is_none();
        let orphans = (0..census.blobs.len() as u32).filter(is_orphan);
        let orphans = orphans.filter(|_| may_judge).collect();
        let stays = (0..).zip(&census.units).filter(|(idx, _)| !gone.contains(idx));
        let stays: Vec<&Unit> = stays.map(|(_, unit)| unit).collect();
        let leftovers = leftovers::find(self, policy, &roots, &stays, now, may_judge);
        Ok(Plan {
            units,
            orphans,
            leftovers,
            census,
            roots,
        })
    }
}

/// Returns the units that go, in order.
fn go(census: &Census, roots: &Roots, policy: &Policy, now: Timestamp) -> Vec<(u32, Why)> {
    if roots.blind.is_some() {
        return Vec::new();
    }
    let replaced = (0..).zip(&census.units).filter(|(_, unit)| unit.replaced.is_some());
    let mut units: Vec<(u32, Why)> = replaced
        .filter(|(_, unit)| roots.kept(unit, policy, now) != Some(Kept::LiveRun))
        .map(|(idx, _)| (idx, Why::Replaced))
        .collect();
    if !policy.removes_nodes() {
        return units;
    }
    let may_go: Vec<bool> = census
        .units
        .iter()
        .map(|unit| unit.replaced.is_none() && roots.kept(unit, policy, now).is_none())
        .collect();
    let Some(max_bytes) = policy.max_bytes else {
        let why = if policy.older_than.is_some() {
            Why::Age
        } else {
            Why::Runs
        };
        let all = (0..).zip(&may_go).filter(|(_, may_go)| **may_go);
        units.extend(all.map(|(idx, _)| (idx, why)));
        return units;
    };
    let gone: Vec<u32> = units.iter().map(|(idx, _)| *idx).collect();
    let chosen = value::choose(census, &gone, &may_go, max_bytes);
    units.extend(chosen.into_iter().map(|unit| (unit, Why::Size)));
    units
}

/// Returns whether something is as old as that. What comes from the future is not.
fn is_older(then: Timestamp, age: Duration, now: Timestamp) -> bool {
    now.0
        .checked_sub(then.0)
        .is_some_and(|old| u128::from(old) >= age.as_millis())
}

impl Plan {
    /// Returns what would be removed.
    fn told(&self, policy: &Policy) -> Collected {
        let census = &self.census;
        let now = Timestamp::now();
        let bytes_before = census.bytes();
        let mut told = Collected {
            bytes_before,
            max_bytes: policy.max_bytes,
            num_unreadable: census.num_unreadable,
            blind_run: self.roots.blind.clone(),
            ..Collected::default()
        };
        let mut holders: Vec<u32> = census.blobs.iter().map(|blob| blob.holders).collect();
        let mut freed_bytes = 0;
        let mut gone = HashSet::new();
        for (idx, why) in &self.units {
            gone.insert(*idx);
            let unit = &census.units[*idx as usize];
            let sum = told.removed.entry(*why).or_default();
            if unit.replaced.is_none() {
                sum.nodes += 1;
                sum.seconds += unit.seconds;
            }
            for &blob in &unit.blobs {
                holders[blob as usize] -= 1;
                if holders[blob as usize] == 0 {
                    sum.files += 1;
                    sum.bytes += census.blobs[blob as usize].size;
                    freed_bytes += census.blobs[blob as usize].size;
                }
            }
        }
        for &blob in &self.orphans {
            let sum = told.removed.entry(Why::Orphan).or_default();
            sum.files += 1;
            sum.bytes += census.blobs[blob as usize].size;
            freed_bytes += census.blobs[blob as usize].size;
        }
        for leftover in &self.leftovers {
            let sum = told.removed.entry(leftover.why).or_default();
            sum.files += 1;
            sum.bytes += leftover.bytes;
        }
        let stays = (0..).zip(&census.units).filter(|(idx, _)| !gone.contains(idx));
        let stays = stays.filter(|(_, unit)| unit.replaced.is_none());
        let kept = |unit: &Unit| self.roots.kept(unit, policy, now).unwrap_or(Kept::Room);
        let mut stays: Vec<(Kept, &Unit)> = stays.map(|(_, unit)| (kept(unit), unit)).collect();
        // What several need counts for the strongest reason.
        stays.sort_by_key(|(kept, _)| *kept);
        let mut counted: HashSet<Digest> = HashSet::new();
        for (kept, unit) in stays {
            let sum = told.kept.entry(kept).or_default();
            sum.nodes += 1;
            sum.seconds += unit.seconds;
            for &blob in &unit.blobs {
                let blob = &census.blobs[blob as usize];
                if counted.insert(blob.digest) {
                    sum.files += 1;
                    sum.bytes += blob.size;
                }
            }
        }
        told.bytes_after = bytes_before - freed_bytes;
        told.largest = self.largest();
        told
    }

    fn largest(&self) -> Vec<Removed> {
        let nodes = self.units.iter().filter(|(_, why)| *why != Why::Replaced);
        let mut largest: Vec<Removed> = nodes
            .map(|(idx, why)| {
                let unit = &self.census.units[*idx as usize];
                let sizes = unit.blobs.iter().map(|&blob| self.census.blobs[blob as usize].size);
                Removed {
                    node: unit.node.clone(),
                    pipeline: unit.pipeline.clone(),
                    recipe_key: unit.owners.first().copied(),
                    why: *why,
                    bytes: sizes.sum(),
                    seconds: unit.seconds,
                    used: unit.used,
                }
            })
            .collect();
        largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.node.cmp(&b.node)));
        largest.truncate(MAX_NAMED);
        largest
    }
}
