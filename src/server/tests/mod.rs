//! A server and its client in one process, over loopback: what is shared arrives, and nothing else is let in.

mod claims;
mod faults;
mod refused;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::remote::http::open_with;
use crate::remote::{Content, Meter, RecordPut, Remote, RemoteError};
use crate::settings::RemoteSettings;
use crate::store::{Lookup, Record, Store, Timestamp, host_name};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// A store in a folder that goes with it.
struct Place {
    folder: TempDir,
    store: Arc<Store>,
}

impl Place {
    fn new() -> Result<Place, Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let store = Arc::new(Store::open(&folder.path().join("cache"))?);
        Ok(Place { folder, store })
    }

    /// Adds a record with one output: a folder of these files.
    fn put(&self, name: &str, files: &[(&str, Vec<u8>)]) -> Result<Record, Box<dyn std::error::Error>> {
        let output = self.folder.path().join("output");
        for (path, bytes) in files {
            let path = output.join(path);
            fs::create_dir_all(path.parent().ok_or("no folder")?)?;
            fs::write(path, bytes)?;
        }
        let artifacts = self.store.admit(&[("out".to_owned(), output.clone())])?;
        fs::remove_dir_all(&output).or_else(|error| match output.exists() {
            true => Err(error),
            false => Ok(()),
        })?;
        let record = record(name, artifacts)?;
        self.store.put_record(&record)?;
        Ok(record)
    }

    fn bytes(&self, record: &Record) -> Result<Bytes, std::io::Error> {
        Ok(fs::read(self.store.record_path(record.recipe_key.0))?.into())
    }
}

/// Returns a record whose keys are those of its preimages.
fn record(
    name: &str,
    artifacts: BTreeMap<String, crate::store::Artifact>,
) -> Result<Record, Box<dyn std::error::Error>> {
    let (recipe, content) = (json!({"name": name, "x": 0.1}), json!({"name": name, "inputs": {}}));
    Ok(Record {
        format: Record::FORMAT,
        recipe_key: RecipeKey::of_preimage(&recipe)?,
        recipe,
        content_key: ContentKey::of_preimage(&content)?,
        content,
        node: name.to_owned(),
        stage: name.to_owned(),
        kind: "test".to_owned(),
        kind_version: 1,
        pipeline: "p".to_owned(),
        run: "r".to_owned(),
        attempt: 1,
        artifacts,
        metrics: BTreeMap::new(),
        started: Timestamp(1),
        ended: Timestamp(2),
        seconds: 0.1,
        host: host_name(),
        versions: BTreeMap::new(),
        log: None,
        same_as: None,
    })
}

/// A running server of a store, and what stops it.
struct Served {
    url: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    running: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    fn start(place: &Place) -> Result<Served, Box<dyn std::error::Error>> {
        Served::with(place, |_| {})
    }

    fn with(place: &Place, change: impl FnOnce(&mut Options)) -> Result<Served, Box<dyn std::error::Error>> {
        let mut options = Options::new(SocketAddr::from(([127, 0, 0, 1], 0)), Access::Open);
        options.keep_free_bytes = 0;
        change(&mut options);
        let listening = Listening::bind(Arc::clone(&place.store), options)?;
        let url = listening.url();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let running = tokio::spawn(listening.run(async move {
            let _ = stopped.await;
        }));
        Ok(Served {
            url,
            stop: Some(stop),
            running,
        })
    }

    fn client(&self) -> Result<Arc<dyn Remote>, RemoteError> {
        self.client_with(None)
    }

    fn client_with(&self, token: Option<&str>) -> Result<Arc<dyn Remote>, RemoteError> {
        open_with(&RemoteSettings::at(&self.url), token.map(str::to_owned))
    }

    async fn end(mut self) -> Tested {
        drop(self.stop.take());
        Ok(self.running.await??)
    }
}

fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A few small files, one that compresses, and one that is larger than what is read at a time.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a.txt", b"hello".to_vec()),
        ("empty", Vec::new()),
        ("deep/er/b.bin", noise(5000, 1)),
        ("deep/log.txt", b"the same line again\n".repeat(40_000)),
        ("weights.bin", noise(3_000_001, 2)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_pushes_another_one_fetches() -> Tested {
    let (shared, ada, bob) = (Place::new()?, Place::new()?, Place::new()?);
    let served = Served::start(&shared)?;
    let remote = served.client()?;
    let record = ada.put("n", &files())?;
    let (artifact, bytes) = (record.artifacts["out"].clone(), ada.bytes(&record)?);
    let content = Content::from(&artifact);

    // Not before all of it is there.
    let (recipe, key) = (record.recipe_key, record.content_key);
    let early = remote.put_record(recipe, key, bytes.clone(), false).await;
    assert!(matches!(early, Err(RemoteError::Absent { .. })), "{early:?}");
    assert!(!remote.has(content).await?);
    assert_eq!(remote.record(recipe.0).await?, None);

    let meter = Meter::default();
    let moved = remote.push(&ada.store, content, &meter).await?;
    assert_eq!(moved.spared_bytes, 0);
    assert_eq!(
        meter.total_bytes.load(Ordering::Relaxed),
        meter.done_bytes.load(Ordering::Relaxed)
    );
    assert!(remote.has(content).await?);
    assert_eq!(
        remote.put_record(recipe, key, bytes.clone(), false).await?,
        RecordPut::Stored
    );
    assert!(matches!(shared.store.lookup(recipe), Lookup::Hit(_)));
    assert!(matches!(shared.store.lookup_content(key), Lookup::Hit(_)));
    let again = remote.push(&ada.store, content, &Meter::default()).await?;
    assert_eq!(again.wire_bytes, 0);

    // The first record stays, until somebody means to replace it.
    let mut other = record.clone();
    other.host = "another".to_owned();
    let other_place = Place::new()?;
    other_place.store.put_record(&other)?;
    let other = other_place.bytes(&other)?;
    assert_eq!(
        remote.put_record(recipe, key, other.clone(), false).await?,
        RecordPut::Exists(bytes.clone())
    );
    assert_eq!(
        remote.put_record(recipe, key, other.clone(), true).await?,
        RecordPut::Stored
    );
    assert_eq!(remote.record(key.0).await?, Some(other));

    let meter = Meter::default();
    let moved = remote.fetch(&bob.store, content, None, &meter).await?;
    assert!(moved.wire_bytes < 3_300_000, "text travels compressed: {moved:?}");
    assert_eq!(
        meter.total_bytes.load(Ordering::Relaxed),
        meter.done_bytes.load(Ordering::Relaxed)
    );
    assert!(bob.store.has_content(content.digest, content.manifest));
    for (_, bytes) in files() {
        assert_eq!(bob.store.read_blob(Digest::of(&bytes))?, bytes);
    }
    let nothing = remote.fetch(&bob.store, content, None, &Meter::default()).await?;
    assert_eq!(nothing.wire_bytes, 0);
    let status = remote.status().await?;
    assert!(status.records == 1 && status.writable && status.claims);
    served.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_inside_a_folder_brings_what_lies_there_and_no_more() -> Tested {
    let (shared, bob) = (Place::new()?, Place::new()?);
    let served = Served::start(&shared)?;
    let remote = served.client()?;
    let artifact = shared.put("n", &files())?.artifacts["out"].clone();
    let content = Content::from(&artifact);
    remote
        .fetch(&bob.store, content, Some("deep/er"), &Meter::default())
        .await?;
    assert!(bob.store.blob_size(Digest::of(&noise(5000, 1))).is_some());
    assert!(bob.store.blob_size(Digest::of(b"hello")).is_none());
    assert!(bob.store.blob_size(artifact.manifest.ok_or("a folder")?).is_some());
    let error = remote
        .fetch(&bob.store, content, Some("deep/e"), &Meter::default())
        .await;
    assert!(error.is_err_and(|error| error.to_string().contains("deep/e")));
    served.end().await
}
