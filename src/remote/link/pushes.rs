//! Pushing results in the background, one record after its artifacts, while the run goes on.
//!
//! What is to be pushed is kept as an empty file for each record under `remote/unpushed/`, so that what a run could not
//! push, because it was killed or the remote was down, is pushed by a later one.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;

use super::super::{Content, Moved, RecordPut, RemoteError};
use super::{Link, Shared, claims, locked};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::store::{Record, RecordFile, Store, StoreError};

/// How many results are pushed at once by hand; the transfers of each are parallel too.
pub(super) const AT_ONCE: usize = 4;

/// What became of one record that was to be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    Done(Moved),
    /// The remote has this very record.
    Same,
    /// The remote has another result under this key, and keeps it.
    Differs {
        host: String,
    },
    /// There is no record here, or a blob of it is missing.
    Incomplete,
    Failed(String),
}

/// What became of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushSummary {
    pub pushed: usize,
    pub same: usize,
    /// Keys of which the remote has other results, with the machine that made them.
    pub differ: Vec<(RecipeKey, String)>,
    pub incomplete: Vec<RecipeKey>,
    pub failed: Vec<(RecipeKey, String)>,
    pub moved: Moved,
}

impl PushSummary {
    fn add(&mut self, key: RecipeKey, pushed: Pushed) {
        match pushed {
            Pushed::Done(moved) => {
                self.pushed += 1;
                self.moved += moved;
            }
            Pushed::Same => self.same += 1,
            Pushed::Differs { host } => self.differ.push((key, host)),
            Pushed::Incomplete => self.incomplete.push(key),
            Pushed::Failed(why) => self.failed.push((key, why)),
        }
    }
}

/// Counts what waits to be pushed.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    offered: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
}

impl Link {
    /// Pushes the result of a node in the background, and releases the node's claim when it is there.
    pub fn offer(&self, key: RecipeKey, content_key: ContentKey) {
        if !self.shared.settings.push {
            return self.release(content_key);
        }
        if let Err(error) = note_unpushed(&self.shared.store, key) {
            self.shared.note_once("not noted", || {
                format!("what is to be pushed could not be noted: {error}")
            });
        }
        if !self.shared.is_pushing() {
            return self.release(content_key);
        }
        self.pushes.offered.fetch_add(1, Ordering::Relaxed);
        let (shared, ended, held) = (Arc::clone(&self.shared), Arc::clone(&self.pushes.ended), self.held());
        let work = async move {
            // It is never closed.
            let _slot = shared.push_slots.acquire().await;
            let pushed = match shared.is_pushing() {
                true => push(&shared, key, false).await,
                false => Pushed::Failed("nothing more is pushed".into()),
            };
            tell(&shared, key, &pushed);
            let token = locked(&held).remove(&content_key);
            if let Some(token) = token {
                claims::release(Arc::clone(&shared), content_key, token).await;
            }
            ended.fetch_add(1, Ordering::Relaxed);
        };
        match self.runtime() {
            Some(runtime) => drop(runtime.spawn(work)),
            None => drop(self.pushes.ended.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Returns how many results wait to be pushed or are being pushed.
    pub fn num_unpushed(&self) -> u64 {
        let ended = self.pushes.ended.load(Ordering::Relaxed);
        self.pushes.offered.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// Returns the keys of results that earlier runs could not push.
    pub fn unpushed(&self) -> Vec<RecipeKey> {
        unpushed(&self.shared.store)
    }

    /// Offers again what earlier runs could not push.
    pub fn offer_again(&self) {
        if !self.shared.is_pushing() {
            return;
        }
        for key in unpushed(&self.shared.store) {
            match self.shared.store.record(key) {
                Some(record) => self.offer(key, record.content_key),
                None => forget_unpushed(&self.shared.store, key),
            }
        }
    }

    /// Pushes the results of some recipe keys and waits.
    pub fn push_all(&self, keys: Vec<RecipeKey>, replace: bool) -> PushSummary {
        let mut summary = PushSummary::default();
        let (sender, receiver) = std::sync::mpsc::channel();
        let shared = Arc::clone(&self.shared);
        let Some(runtime) = self.runtime() else { return summary };
        runtime.spawn(async move {
            let one = |key: RecipeKey| {
                let shared = &shared;
                async move { (key, push(shared, key, replace).await) }
            };
            let mut pushes = futures::stream::iter(keys).map(one).buffer_unordered(AT_ONCE);
            while let Some(done) = pushes.next().await {
                if sender.send(done).is_err() {
                    return;
                }
            }
        });
        while let Ok((key, pushed)) = receiver.recv() {
            summary.add(key, pushed);
        }
        summary
    }
}

/// Pushes one record, after all that it names.
async fn push(shared: &Arc<Shared>, key: RecipeKey, replace: bool) -> Pushed {
    let Some(file) = shared.store.record_file(key.0) else {
        return Pushed::Incomplete;
    };
    if shared.is_down() {
        return Pushed::Failed("the remote is down".into());
    }
    match push_file(shared, &file, replace).await {
        Ok(pushed) => {
            forget_unpushed(&shared.store, key);
            pushed
        }
        Err(RemoteError::Store(StoreError::MissingBlob { .. })) => {
            forget_unpushed(&shared.store, key);
            Pushed::Incomplete
        }
        Err(error) => {
            if error.is_down() || matches!(error, RemoteError::Full { .. }) {
                shared.write_fault("pushing results", &error);
            }
            Pushed::Failed(error.to_string())
        }
    }
}

async fn push_file(shared: &Arc<Shared>, file: &RecordFile, replace: bool) -> Result<Pushed, RemoteError> {
    let record = &file.record;
    let mut replace = replace;
    if !replace && let Some(bytes) = shared.remote.record(record.recipe_key.0).await? {
        match RecordFile::parse(&bytes) {
            Some(there) => {
                let compared = compare(record, &there.record);
                let is_trusted = |file: &RecordFile| shared.store.trust().accepts(file.signers.first().copied());
                replace = is_trusted(file) && !is_trusted(&there);
                // It may have lost what its record promises.
                if !replace && (compared != Pushed::Same || has_all(shared, record).await?) {
                    return Ok(compared);
                }
            }
            // One that is damaged serves nobody.
            None => replace = true,
        }
    }
    let mut moved = Moved::default();
    for artifact in record.artifacts.values() {
        // Alone as well, so that what a folder holds can be known without bringing any of it.
        let manifest = artifact.manifest.map(Content::file);
        for content in manifest.into_iter().chain([Content::from(artifact)]) {
            moved += push_content(shared, content).await?;
        }
    }
    if let Some(log) = record.log {
        moved += push_content(shared, Content::file(log)).await?;
    }
    let (recipe, content) = (record.recipe_key, record.content_key);
    let bytes = file.bytes().to_vec().into();
    Ok(match shared.remote.put_record(recipe, content, bytes, replace).await? {
        RecordPut::Stored => Pushed::Done(moved),
        RecordPut::Exists(bytes) => match RecordFile::parse(&bytes) {
            Some(there) => compare(record, &there.record),
            None => Pushed::Failed("the remote has a damaged record under this key; push it with --replace".into()),
        },
    })
}

/// Pushes content that is here; what is not here may be there.
async fn push_content(shared: &Shared, content: Content) -> Result<Moved, RemoteError> {
    match shared.remote.push(&shared.store, content, &shared.sent).await {
        Err(RemoteError::Store(StoreError::MissingBlob { .. })) if shared.remote.has(content).await? => {
            Ok(Moved::default())
        }
        pushed => pushed,
    }
}

async fn has_all(shared: &Shared, record: &Record) -> Result<bool, RemoteError> {
    for artifact in record.artifacts.values() {
        let manifest = artifact.manifest.map(Content::file);
        for content in manifest.into_iter().chain([Content::from(artifact)]) {
            if !shared.remote.has(content).await? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn compare(here: &Record, there: &Record) -> Pushed {
    if here.artifacts == there.artifacts {
        Pushed::Same
    } else {
        Pushed::Differs {
            host: there.host.clone(),
        }
    }
}

/// Tells what a person has to know of a push that nobody waits for.
fn tell(shared: &Shared, key: RecipeKey, pushed: &Pushed) {
    match pushed {
        Pushed::Differs { host } => shared.note_once("other result", || {
            format!(
                "{} has another result under {}, made on {host}; it stays (volvelle push --replace puts ours there)",
                shared.remote.address(),
                key.0.short()
            )
        }),
        Pushed::Failed(why) if shared.is_pushing() => shared.note_once("not pushed", || {
            format!("a result could not be pushed and will be again by the next run: {why}")
        }),
        _ => {}
    }
}

fn unpushed_folder(store: &Store) -> PathBuf {
    store.root().join("remote/unpushed")
}

fn note_unpushed(store: &Store, key: RecipeKey) -> std::io::Result<()> {
    let folder = unpushed_folder(store);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(key.to_string()), "")
}

fn forget_unpushed(store: &Store, key: RecipeKey) {
    // One that stays is looked at once more by the next run.
    let _ = fs::remove_file(unpushed_folder(store).join(key.to_string()));
}

/// Returns the keys of results that are still to be pushed.
fn unpushed(store: &Store) -> Vec<RecipeKey> {
    let entries = fs::read_dir(unpushed_folder(store)).into_iter().flatten().flatten();
    let key = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<Digest>().ok().map(RecipeKey);
    entries.filter_map(key).collect()
}
