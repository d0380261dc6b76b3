//! Tests of whole remotes: over a folder, over memory, and over memory that breaks in every way.

mod shared;
mod transfers;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tempfile::TempDir;

use super::address::Kind;
use super::errors::Context;
use super::faults::{Faults, Faulty};
use super::safetensors::tests::file_of;
use super::*;
use crate::remote::CLAIM_LEASE;
use crate::store::Artifact;

/// Returns bytes that no compression makes smaller, the same for the same seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// A store and what it remembers of remotes, as one machine has them.
struct Machine {
    folder: TempDir,
    store: Arc<Store>,
}

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(Store::open(&folder.path().join("cache")).expect("a new store"));
        Machine { folder, store }
    }

    /// Makes an artifact of some files; a single one without a name is a file.
    fn artifact(&self, files: &[(&str, Vec<u8>)]) -> Artifact {
        let root = self.folder.path().join("out");
        for (name, bytes) in files {
            let path = if name.is_empty() { root.clone() } else { root.join(name) };
            fs::create_dir_all(path.parent().expect("it is inside")).expect("a folder");
            fs::write(&path, bytes).expect("a file");
        }
        let mut admitted = self
            .store
            .admit(&[("out".to_owned(), root.clone())])
            .expect("plain files");
        let _ = fs::remove_dir_all(&root);
        admitted.remove("out").expect("it was asked for")
    }

    fn objects(&self, faulty: &Faulty) -> Objects {
        self.objects_with(faulty, None)
    }

    fn objects_with(&self, faulty: &Faulty, parallel: Option<u32>) -> Objects {
        let bucket = Bucket {
            store: Arc::new(faulty.clone()),
            prefix: ObjectPath::from("team/one"),
            context: Context {
                address: "memory://test".into(),
                endpoint: None,
                kind: Kind::Memory,
            },
            limits: Limits {
                small: Duration::from_millis(300),
            },
        };
        Objects::new(bucket, self.store.root(), parallel)
    }

    fn folder_remote(&self, shared: &TempDir) -> Arc<dyn Remote> {
        let url = url::Url::from_file_path(shared.path().join("a remote")).expect("an absolute path");
        open(&RemoteSettings::at(url.as_str()), self.store.root()).expect("a folder")
    }

    /// Returns everything in an artifact, checked; panics on a wrong byte.
    fn contents(&self, artifact: &Artifact) -> BTreeMap<String, Vec<u8>> {
        let read = |digest| self.store.read_blob(digest).expect("a good blob");
        match self.store.manifest(artifact).expect("a good manifest") {
            None => BTreeMap::from([(String::new(), read(artifact.digest))]),
            Some(manifest) => manifest
                .files
                .iter()
                .map(|file| (file.path.clone(), read(file.digest)))
                .collect(),
        }
    }

    /// Rereads every blob; what is in the store is never wrong.
    fn check_all_blobs(&self) {
        for shard in fs::read_dir(self.store.root().join("blobs")).expect("a store") {
            let shard = shard.expect("a folder").path();
            for blob in fs::read_dir(&shard).expect("a folder") {
                let path = blob.expect("a blob").path();
                let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
                let digest = format!("{}{}", name(&shard).expect("hex"), name(&path).expect("hex"));
                let bytes = fs::read(&path).expect("a readable blob");
                assert_eq!(Digest::of(&bytes).to_string(), digest, "a wrong byte was let in");
            }
        }
    }
}

fn mixed() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("weights.bin", noise(1, 3_000_000)),
        ("sub/text.txt", b"once more ".repeat(50_000)),
        ("sub/same.txt", b"once more ".repeat(50_000)),
        ("small", b"x".to_vec()),
        ("empty", Vec::new()),
    ]
}

async fn fetched(remote: &dyn Remote, machine: &Machine, artifact: &Artifact) -> Result<Moved, RemoteError> {
    let meter = Meter::default();
    let moved = remote.fetch(&machine.store, artifact.into(), None, &meter).await?;
    let total = meter.total_bytes.load(Ordering::Relaxed);
    assert_eq!(
        total,
        meter.done_bytes.load(Ordering::Relaxed),
        "all that was expected is done"
    );
    Ok(moved)
}

async fn pushed(remote: &dyn Remote, machine: &Machine, artifact: &Artifact) -> Result<Moved, RemoteError> {
    let meter = Meter::default();
    let moved = remote.push(&machine.store, artifact.into(), &meter).await?;
    let total = meter.total_bytes.load(Ordering::Relaxed);
    assert_eq!(
        total,
        meter.done_bytes.load(Ordering::Relaxed),
        "all that was expected is done"
    );
    Ok(moved)
}
