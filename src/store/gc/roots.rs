//! What has to stay: pins, live runs, the last runs of each pipeline, and what was used lately.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use super::census::Unit;
use super::{Kept, Policy, is_older};
use crate::digest::{Digest, RecipeKey};
use crate::store::Store;
use crate::store::clock::Timestamp;
use crate::store::error::StoreError;
use crate::store::runs::{RunId, RunState, RunStatus};
use crate::store::uses::Lists;

/// The clock that stamps files is a little behind the one that stamps runs.
const SLACK: Duration = Duration::from_secs(60);

/// What has to stay, and what is known about runs.
#[derive(Default)]
pub(super) struct Roots {
    pinned: HashSet<RecipeKey>,
    /// The keys of each live run.
    pub live: Vec<(Timestamp, HashSet<RecipeKey>)>,
    last: HashSet<RecipeKey>,
    /// When each key was last used.
    pub uses: HashMap<RecipeKey, Timestamp>,
    /// All runs, the latest first.
    pub runs: Vec<RunState>,
    /// The runs whose nodes stay, and the latest of each pipeline file.
    pub kept_runs: HashSet<RunId>,
    /// A live run of which it is not known what it is about: everything has to stay.
    pub blind: Option<RunId>,
}

impl Roots {
    pub fn find(store: &Store, policy: &Policy) -> Result<Roots, StoreError> {
        let mut roots = Roots {
            runs: store.runs(),
            uses: store.kept_uses(),
            pinned: store.pins()?.into_iter().flat_map(|pin| pin.keys).collect(),
            ..Roots::default()
        };
        let mut lists = Lists::default();
        // When each list was last used: a thousand runs of a sweep share one.
        let mut used: HashMap<Digest, Timestamp> = HashMap::new();
        // Of each file, the different lists of nodes that its runs had.
        let mut seen: HashMap<PathBuf, HashSet<Vec<Digest>>> = HashMap::new();
        let keep_runs = policy.keep_runs.unwrap_or(1) as usize;
        for run in std::mem::take(&mut roots.runs) {
            let named = store.lists_of(&run.id);
            let at = run.ended.unwrap_or(run.started);
            for list in named.iter().flatten() {
                let last = used.entry(*list).or_insert(at);
                *last = at.max(*last);
            }
            let of_file = seen.entry(run.file.clone()).or_default();
            if of_file.is_empty() {
                roots.kept_runs.insert(run.id.clone());
            }
            let is_another = named.is_some_and(|named| of_file.insert(named));
            if (is_another && of_file.len() <= keep_runs) || policy.keep.contains(&run.id) {
                roots.last.extend(lists.keys_of(store, &run.id).unwrap_or_default());
                roots.kept_runs.insert(run.id.clone());
            }
            if run.status == RunStatus::Running {
                match lists.keys_of(store, &run.id) {
                    Some(keys) => roots.live.push((run.started, keys)),
                    None => roots.blind = Some(run.id.clone()),
                }
            }
            roots.runs.push(run);
        }
        for (list, at) in used {
            for key in lists.keys(store, list).iter().flat_map(|keys| keys.iter()) {
                let last = roots.uses.entry(*key).or_insert(at);
                *last = at.max(*last);
            }
        }
        Ok(roots)
    }

    /// Returns why a unit has to stay; none if it may go.
    pub fn kept(&self, unit: &Unit, policy: &Policy, now: Timestamp) -> Option<Kept> {
        if let Some((_, replaced)) = &unit.replaced {
            let may_use = |(started, keys): &(Timestamp, HashSet<RecipeKey>)| {
                started.0 <= replaced.0 + SLACK.as_millis() as u64 && unit.owners.iter().any(|key| keys.contains(key))
            };
            return self.live.iter().any(may_use).then_some(Kept::LiveRun);
        }
        let has = |keys: &HashSet<RecipeKey>| unit.recipes.iter().any(|key| keys.contains(key));
        // A run can have decided for a record before another one took its place under the recipe.
        let is_live = |keys: &HashSet<RecipeKey>| unit.owners.iter().any(|key| keys.contains(key));
        let is_recent = || {
            policy
                .older_than
                .is_some_and(|older_than| !is_older(unit.used, older_than, now))
        };
        if has(&self.pinned) {
            Some(Kept::Pinned)
        } else if self.live.iter().any(|(_, keys)| is_live(keys)) {
            Some(Kept::LiveRun)
        } else if has(&self.last) {
            Some(Kept::LastRuns)
        } else if is_recent() {
            Some(Kept::Recent)
        } else {
            None
        }
    }
}
