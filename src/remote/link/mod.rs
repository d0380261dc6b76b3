//! The link of a store to its remote: what a run, a plan or a person sees of it.
//!
//! It has threads of its own, so that whoever asks may be asynchronous or not, and it turns every fault into "not
//! there": a remote that is down is given up after its first fault, with one note, and the work goes on without it. What it
//! lets into the store was checked. Which node needs what is not known here.

mod claims;
mod pushes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};

use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use super::{Content, Meter, Remote, RemoteError};
use crate::digest::{Digest, RecipeKey};
use crate::settings::RemoteSettings;
use crate::store::{Artifact, Elsewhere, RecordFile, Store};

pub use claims::LinkClaim;
pub use pushes::{PushSummary, Pushed};

/// How many records are asked for at once: they are small, so what counts is the way there and back.
const LOOKS: usize = 64;

/// So many records are written into the store at once, which costs one flush.
const RECORDS_AT_ONCE: usize = 512;

/// The outputs of a record, by name.
type Artifacts = Arc<BTreeMap<String, Artifact>>;

/// A store's link to a remote. Making one costs nothing; the remote is first spoken to when something is asked.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    runtime: OnceLock<Option<Runtime>>,
    claims: claims::Claims,
    pushes: pushes::Pushes,
}

/// What the tasks of a link share.
#[derive(Debug)]
struct Shared {
    /// Only what is here: nothing that a transfer reads may start another one.
    store: Arc<Store>,
    remote: Arc<dyn Remote>,
    settings: RemoteSettings,
    /// What was found under each key that was asked for: the artifacts of a record, or that there is none.
    seen: Mutex<HashMap<Digest, Option<Artifacts>>>,
    /// Artifacts and manifests that were promised and could not be had.
    broken: Mutex<HashSet<Digest>>,
    /// One lock for each artifact that is being fetched, so that two nodes that need it fetch it once.
    fetching: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    is_down: AtomicBool,
    /// Nothing can be written there, but what is there can be read.
    is_read_only: AtomicBool,
    notes: Mutex<Vec<String>>,
    /// What was told already: one of each kind is enough, however many nodes meet it.
    told: Mutex<HashSet<String>>,
    /// How many results are pushed at once.
    push_slots: Semaphore,
    fetched: Meter,
    sent: Meter,
}

impl Shared {
    /// Tells a fault once, and gives the remote up if what comes next would fail as well.
    fn fault(&self, doing: &str, error: &RemoteError) {
        if error.is_down() {
            if !self.is_down.swap(true, Ordering::Relaxed) {
                let address = self.remote.address();
                self.note(format!(
                    "the remote {address} is not used any more: while {doing}: {error}; the work goes on locally"
                ));
            }
            return;
        }
        self.note_once(&format!("{doing}: {}", error.kind()), || format!("{doing}: {error}"));
    }

    /// Tells a fault of writing once; who may not write may still read.
    fn write_fault(&self, doing: &str, error: &RemoteError) {
        if !matches!(error, RemoteError::Denied { .. } | RemoteError::Full { .. }) {
            return self.fault(doing, error);
        }
        if !self.is_read_only.swap(true, Ordering::Relaxed) {
            self.note(format!(
                "nothing more is pushed: while {doing}: {error}; results stay here, and a later run pushes them"
            ));
        }
    }

    /// Returns whether results go to the remote.
    fn is_pushing(&self) -> bool {
        self.settings.push && !self.is_down() && !self.is_read_only.load(Ordering::Relaxed)
    }

    /// Tells something of a kind of which nothing was told yet.
    fn note_once(&self, kind: &str, text: impl FnOnce() -> String) {
        if locked(&self.told).insert(kind.to_owned()) {
            self.note(text());
        } else {
            tracing::debug!(text = text(), "another one of a kind");
        }
    }

    fn note(&self, text: String) {
        locked(&self.notes).push(text);
    }

    fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }
}

impl Link {
    /// Makes the link of a store to a remote.
    pub fn new(store: Arc<Store>, remote: Arc<dyn Remote>, settings: RemoteSettings) -> Link {
        let shared = Shared {
            store,
            remote,
            settings,
            seen: Mutex::default(),
            broken: Mutex::default(),
            fetching: Mutex::default(),
            is_down: AtomicBool::new(false),
            is_read_only: AtomicBool::new(false),
            notes: Mutex::default(),
            told: Mutex::default(),
            push_slots: Semaphore::new(pushes::AT_ONCE),
            fetched: Meter::default(),
            sent: Meter::default(),
        };
        Link {
            shared: Arc::new(shared),
            runtime: OnceLock::new(),
            claims: claims::Claims::default(),
            pushes: pushes::Pushes::default(),
        }
    }

    /// Returns the address of the remote.
    pub fn address(&self) -> &str {
        self.shared.remote.address()
    }

    /// Returns the remote itself, for who asks for more than results.
    pub fn remote(&self) -> &Arc<dyn Remote> {
        &self.shared.remote
    }

    /// Returns the settings of the remote.
    pub fn settings(&self) -> &RemoteSettings {
        &self.shared.settings
    }

    /// Begins a run: what was given up or found absent before is tried again.
    pub fn begin(&self) {
        let shared = &self.shared;
        shared.is_down.store(false, Ordering::Relaxed);
        shared.is_read_only.store(false, Ordering::Relaxed);
        locked(&shared.broken).clear();
        locked(&shared.told).clear();
        locked(&shared.seen).retain(|_, found| found.is_some());
    }

    /// Returns the faults that were met since the last call, each for people, each once.
    pub fn notes(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.shared.notes))
    }

    /// Returns whether the remote was given up.
    pub fn is_down(&self) -> bool {
        self.shared.is_down()
    }

    /// Returns what is being fetched, or was.
    pub fn fetched(&self) -> &Meter {
        &self.shared.fetched
    }

    /// Returns what is being sent, or was.
    pub fn sent(&self) -> &Meter {
        &self.shared.sent
    }

    /// Waits for some work on the link's own threads; none if they can't be had or the work panicked.
    pub fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.runtime()?.spawn(async move {
            // Nobody waits any more where the receiver is gone.
            let _ = sender.send(work.await);
        });
        receiver.recv().ok()
    }

    /// Returns a mark that is set when the user presses Ctrl-C or the program is asked to end.
    pub fn interrupts(&self) -> Arc<AtomicBool> {
        let mark = Arc::new(AtomicBool::new(false));
        // Where nothing was asked of the remote, there is nothing to wait for.
        if let Some(Some(runtime)) = self.runtime.get() {
            let set = Arc::clone(&mark);
            runtime.spawn(async move {
                let Ok(mut terminate) = signal(SignalKind::terminate()) else {
                    return;
                };
                let Ok(mut interrupt) = signal(SignalKind::interrupt()) else {
                    return;
                };
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                set.store(true, Ordering::Relaxed);
            });
        }
        mark
    }

    fn runtime(&self) -> Option<&Runtime> {
        let start = || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let started = builder.worker_threads(2).thread_name("remote").enable_all().build();
            if let Err(error) = &started {
                self.shared.is_down.store(true, Ordering::Relaxed);
                self.shared
                    .note(format!("the remote is not used: its threads could not start: {error}"));
            }
            started.ok()
        };
        self.runtime.get_or_init(start).as_ref()
    }

    /// Forgets what was found under some keys, so that the next question is asked anew.
    pub fn forget(&self, keys: &[Digest]) {
        let mut seen = locked(&self.shared.seen);
        keys.iter().for_each(|key| drop(seen.remove(key)));
    }

    /// Brings an artifact, or a part of it, into the store.
    ///
    /// # Errors
    /// What the remote said, or could not say.
    pub fn bring(&self, artifact: &Artifact, subpath: Option<&str>) -> Result<(), RemoteError> {
        let lock = Arc::clone(locked(&self.shared.fetching).entry(artifact.digest).or_default());
        let _only_one = locked(&lock);
        let (shared, content) = (Arc::clone(&self.shared), Content::from(artifact));
        let subpath = subpath.map(str::to_owned);
        let work = async move {
            let Shared {
                store, remote, fetched, ..
            } = &*shared;
            remote.fetch(store, content, subpath.as_deref(), fetched).await
        };
        let moved = self.wait(work).unwrap_or_else(|| {
            Err(RemoteError::Unreachable {
                what: self.address().to_owned(),
                why: "the transfer ended early".into(),
            })
        })?;
        tracing::debug!(artifact = %artifact.digest.short(), ?moved, "fetched");
        Ok(())
    }
}

impl Elsewhere for Link {
    fn look_ahead(&self, keys: &[Digest]) {
        if !self.shared.settings.pull || self.shared.is_down() {
            return;
        }
        let new: Vec<Digest> = {
            let seen = locked(&self.shared.seen);
            keys.iter().filter(|key| !seen.contains_key(key)).copied().collect()
        };
        for keys in new.chunks(RECORDS_AT_ONCE) {
            let (shared, keys) = (Arc::clone(&self.shared), keys.to_vec());
            self.wait(look(shared, keys));
        }
    }

    fn has(&self, key: RecipeKey, artifacts: &BTreeMap<String, Artifact>) -> bool {
        self.look_ahead(&[key.0]);
        let broken = locked(&self.shared.broken);
        let is_broken = |artifact: &Artifact| {
            let mut digests = [Some(artifact.digest), artifact.manifest].into_iter().flatten();
            digests.any(|digest| broken.contains(&digest))
        };
        let seen = locked(&self.shared.seen);
        let found = seen.get(&key.0).and_then(Option::as_ref);
        let is_same = found.is_some_and(|found| **found == *artifacts);
        is_same && !self.shared.is_down() && !artifacts.values().any(is_broken)
    }

    fn fetch(&self, artifact: &Artifact, subpath: Option<&str>) -> bool {
        if !self.shared.settings.pull || self.shared.is_down() {
            return false;
        }
        match self.bring(artifact, subpath) {
            Ok(()) => true,
            Err(error) => {
                locked(&self.shared.broken).insert(artifact.digest);
                self.shared.fault("fetching a result", &error);
                false
            }
        }
    }
}

/// Asks for the records of some keys and lets those in that are what they say.
async fn look(shared: Arc<Shared>, keys: Vec<Digest>) {
    let ask = |key: Digest| {
        let shared = Arc::clone(&shared);
        async move {
            if shared.is_down() {
                return None;
            }
            match shared.remote.record(key).await {
                Ok(bytes) => Some((key, bytes)),
                Err(error) => {
                    shared.fault("looking for records", &error);
                    None
                }
            }
        }
    };
    let mut answers = futures::stream::iter(keys).map(ask).buffer_unordered(LOOKS);
    let mut found = Vec::new();
    while let Some(answer) = answers.next().await {
        let Some((key, bytes)) = answer else { continue };
        let file = bytes.and_then(|bytes| checked(&shared, key, &bytes));
        let artifacts = file.as_ref().map(|file| Arc::new(file.record.artifacts.clone()));
        locked(&shared.seen).insert(key, artifacts);
        found.extend(file);
    }
    // Under its recipe key as well: that is what is asked for next.
    for file in &found {
        let artifacts = Arc::new(file.record.artifacts.clone());
        locked(&shared.seen).insert(file.record.recipe_key.0, Some(artifacts));
    }
    if let Err(error) = shared.store.admit_records(&found) {
        shared.note_once("unwritten records", || {
            format!("what the remote has of records could not be written: {error}")
        });
    }
}

/// Returns a record that came under a key, if it is one of that key.
fn checked(shared: &Shared, key: Digest, bytes: &[u8]) -> Option<RecordFile> {
    let file = RecordFile::parse(bytes).filter(|file| file.is_of(key));
    if file.is_none() {
        let address = shared.remote.address();
        shared.note_once("damaged record", || {
            format!(
                "the record {} in {address} is damaged, or from a newer volvelle; it and others like it count as absent",
                key.short()
            )
        });
    }
    file
}

/// Locks what no panic can leave half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Link {
    fn drop(&mut self) {
        // A transfer that nobody waits for must not hold up the end of the program.
        if let Some(runtime) = self.runtime.take().flatten() {
            runtime.shutdown_background();
        }
    }
}
