//! Runs: one folder per invocation, with its state, its events and the logs of its attempts.
//!
//! It knows that a run has an owner process and ends; what the events in it mean is the scheduler's business.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Store;
use super::clock::Timestamp;
use super::durable;
use super::error::{IoContext, StoreError, is_read_only};
use super::process::Owner;

/// Names a run by the time of its start: `20261122-154935-1f3a`. Later runs sort after earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a run stands or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Running,
    Succeeded,
    Failed,
    Interrupted,
    /// The process was gone without having said how the run ended.
    Killed,
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RunStatus::Running => "running",
            RunStatus::Succeeded => "succeeded",
            RunStatus::Failed => "failed",
            RunStatus::Interrupted => "interrupted",
            RunStatus::Killed => "killed",
        })
    }
}

/// The state of a run, `run.json` in its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// The version of this format.
    pub format: u32,
    pub id: RunId,
    pub pipeline: String,
    /// The pipeline's file.
    pub file: PathBuf,
    pub owner: Owner,
    pub status: RunStatus,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    /// How many nodes ended in which state.
    pub counts: BTreeMap<String, usize>,
}

/// The folder of a run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    pub id: RunId,
    pub path: PathBuf,
}

impl RunFolder {
    /// Returns the path of the file of events.
    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }
}

impl Store {
    /// Makes the folder of a new run, which belongs to this process. `list` writes into it which nodes it is about.
    ///
    /// From here on `gc` spares these nodes, so it comes before anything is decided about them; see `guard`. A run without
    /// a list keeps `gc` from removing anything.
    pub fn start_run(
        &self,
        pipeline: &str,
        file: PathBuf,
        list: impl FnOnce(&RunFolder),
    ) -> Result<(RunFolder, RunState), StoreError> {
        let _guard = self.use_guard()?;
        let started = Timestamp::now();
        let runs = self.root().join("runs");
        for salt in 0u32.. {
            let unique = Digest16::of(started, salt);
            let id = RunId(format!("{}-{unique}", started.compact()));
            let path = runs.join(&id.0);
            match fs::create_dir(&path) {
                Ok(()) => {
                    fs::create_dir(path.join("logs")).at("create", &path)?;
                    let state = RunState {
                        format: 1,
                        id: id.clone(),
                        pipeline: pipeline.to_owned(),
                        file,
                        owner: Owner::current(),
                        status: RunStatus::Running,
                        started,
                        ended: None,
                        counts: BTreeMap::new(),
                    };
                    let folder = RunFolder { id, path };
                    list(&folder);
                    self.write_run(&state)?;
                    return Ok((folder, state));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => durable::make_folder(&runs)?,
                Err(error) => return Err(error).at("create", &path).map_err(|error| self.unwritable(error)),
            }
        }
        unreachable!("some number is free")
    }

    /// Says of a cache that can't be written at all what that means.
    pub(super) fn unwritable(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Io { source, .. } if is_read_only(source.kind()) => StoreError::ReadOnly {
                path: self.root().to_path_buf(),
                source,
            },
            other => other,
        }
    }

    /// Writes the state of a run. A torn file after a power cut reads as a run that was killed, so no flush is paid.
    pub fn write_run(&self, state: &RunState) -> Result<(), StoreError> {
        let path = self.root().join("runs").join(&state.id.0).join("run.json");
        let temporary = path.with_extension("json.new");
        let bytes = serde_json::to_vec_pretty(state).expect("a run's state is plain data");
        fs::write(&temporary, bytes).at("write", &temporary)?;
        fs::rename(&temporary, &path).at("rename into", &path)
    }

    /// Returns the folder of a run; none if there is no such run.
    pub fn run_folder(&self, id: &str) -> Option<RunFolder> {
        // The id comes from a command line and must stay one name.
        let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let path = self.root().join("runs").join(id);
        (plain && path.is_dir()).then(|| RunFolder {
            id: RunId(id.to_owned()),
            path,
        })
    }

    /// Returns the state of a run as it is now: a run whose process is gone was killed.
    pub fn run_state(&self, id: &str) -> Option<RunState> {
        let bytes = fs::read(self.run_folder(id)?.path.join("run.json")).ok()?;
        let mut state: RunState = serde_json::from_slice(&bytes).ok()?;
        if state.status == RunStatus::Running && !state.owner.is_alive() {
            state.status = RunStatus::Killed;
        }
        Some(state)
    }

    /// Returns all runs, the latest first.
    pub fn runs(&self) -> Vec<RunState> {
        let entries = fs::read_dir(self.root().join("runs")).into_iter().flatten().flatten();
        let mut runs: Vec<RunState> = entries
            .filter_map(|entry| self.run_state(entry.file_name().to_str()?))
            .collect();
        runs.sort_by(|a, b| b.started.cmp(&a.started).then_with(|| b.id.cmp(&a.id)));
        runs
    }

    /// Makes the folder of one attempt of a run.
    pub fn attempt_folder(&self, run: &RunId, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.attempt_path(run, name);
        fs::create_dir(&path).at("create", &path)?;
        Ok(path)
    }

    /// Returns the path of the folder of one attempt of a run.
    pub fn attempt_path(&self, run: &RunId, name: &str) -> PathBuf {
        self.tmp().join(format!("{run}.{name}"))
    }

    /// Removes what dead processes left in `tmp/`.
    pub fn remove_stale(&self) {
        for path in self.stale() {
            if let Err(error) = durable::remove_tree(&path) {
                tracing::warn!(%error, "what a dead run left could not be removed");
            }
        }
    }

    /// Returns what dead processes left in `tmp/`.
    pub(super) fn stale(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.tmp()).into_iter().flatten().flatten();
        let stale = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| self.is_stale(name)));
        stale.map(|entry| entry.path()).collect()
    }

    /// Attempts are named `RUN.NODE`; files that are being written `wPID-...`.
    pub(super) fn is_stale(&self, name: &str) -> bool {
        match name.split_once('.') {
            Some((run, _)) => self
                .run_state(run)
                .is_none_or(|state| state.status != RunStatus::Running),
            None => {
                let pid = name
                    .strip_prefix('w')
                    .and_then(|rest| rest.split('-').next()?.parse().ok());
                pid.is_some_and(|pid: u32| !std::path::Path::new(&format!("/proc/{pid}")).exists())
            }
        }
    }
}

/// Four hexadecimal digits that keep two runs of one second apart.
struct Digest16(u16);

impl Digest16 {
    fn of(started: Timestamp, salt: u32) -> Digest16 {
        let digest = crate::digest::Digest::of(format!("{} {} {salt}", started.0, std::process::id()).as_bytes());
        Digest16(u16::from_be_bytes([digest.0[0], digest.0[1]]))
    }
}

impl fmt::Display for Digest16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}
