//! Tests of whole remotes: over a folder, over memory, and over memory that breaks in every way.

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

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_share_through_a_folder() {
    let shared = tempfile::tempdir().expect("a temporary folder");
    let (ours, theirs) = (Machine::new(), Machine::new());
    let (here, there) = (ours.folder_remote(&shared), theirs.folder_remote(&shared));
    for files in [
        mixed(),
        vec![("", noise(5, 70_000))],
        vec![("a", b"b".to_vec())],
        vec![("", Vec::new())],
    ] {
        let artifact = ours.artifact(&files);
        assert!(!there.has((&artifact).into()).await.expect("a remote"));
        assert!(matches!(
            fetched(&*there, &theirs, &artifact).await,
            Err(RemoteError::Absent { .. })
        ));
        pushed(&*here, &ours, &artifact).await.expect("room");
        assert_eq!(pushed(&*here, &ours, &artifact).await.expect("a remote").wire_bytes, 0);
        assert!(there.has((&artifact).into()).await.expect("a remote"));
        fetched(&*there, &theirs, &artifact).await.expect("all of it");
        assert_eq!(ours.contents(&artifact), theirs.contents(&artifact));
        assert_eq!(
            fetched(&*there, &theirs, &artifact).await.expect("a remote").wire_bytes,
            0
        );
    }
    let status = there.status().await.expect("a remote");
    assert_eq!((status.artifacts, status.claims, status.writable), (4, true, true));
    // Text is compressed, and what is twice in a folder lies once.
    assert!(status.stored_bytes < 3_200_000, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_asked_for_is_brought() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let artifact = ours.artifact(&mixed());
    pushed(&ours.objects(&faulty), &ours, &artifact).await.expect("room");
    let remote = theirs.objects(&faulty);
    let meter = Meter::default();
    let content = Content::from(&artifact);
    let moved = remote
        .fetch(&theirs.store, content, Some("sub"), &meter)
        .await
        .expect("a folder in it");
    assert!(moved.wire_bytes < 5_000, "{moved:?}");
    let manifest = ours.store.manifest(&artifact).expect("a manifest").expect("a folder");
    for file in &manifest.files {
        let is_there = theirs.store.has_blob(file.digest, file.size);
        assert_eq!(is_there, file.path.starts_with("sub/"), "{}", file.path);
    }
    let error = remote
        .fetch(&theirs.store, content, Some("su"), &meter)
        .await
        .expect_err("nothing there");
    assert!(
        matches!(error, RemoteError::Store(crate::store::StoreError::NoSubpath { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_moves_little_more_than_its_changes() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let sizes = [1 << 20, 2 << 20, 5 << 20, 9 << 20];
    let first: Vec<Vec<u8>> = sizes
        .iter()
        .enumerate()
        .map(|(seed, &len)| noise(seed as u64, len))
        .collect();
    let mut second = first.clone();
    for (idx, file) in second.iter_mut().enumerate() {
        let (at, len) = (file.len() * (idx + 2) / 7, file.len() / 20);
        file[at..at + len].copy_from_slice(&noise(100 + idx as u64, len));
    }
    let names = ["a", "b", "c", "d"];
    let named = |files: &[Vec<u8>]| names.into_iter().zip(files.iter().cloned()).collect::<Vec<_>>();
    let (first, second) = (ours.artifact(&named(&first)), ours.artifact(&named(&second)));
    pushed(&ours.objects(&faulty), &ours, &first).await.expect("room");
    fetched(&theirs.objects(&faulty), &theirs, &first)
        .await
        .expect("all of it");
    // As another process would, which knows what the cache and the remote tell.
    let total = second.size_bytes as f64;
    let moved = pushed(&ours.objects(&faulty), &ours, &second).await.expect("room");
    assert!((moved.wire_bytes as f64) < 0.08 * total, "{moved:?}");
    let moved = fetched(&theirs.objects(&faulty), &theirs, &second)
        .await
        .expect("all of it");
    assert!((moved.wire_bytes as f64) < 0.08 * total, "{moved:?}");
    assert_eq!(ours.contents(&second), theirs.contents(&second));
    // Another machine that has nothing of it learns the same from the remote.
    let third = Machine::new();
    let again = third.artifact(&named(&names.map(|name| ours.contents(&second)[name].clone())));
    assert_eq!(again, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_tuned_model_only_the_changed_tensors_move() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let model = |tuned: bool| {
        let tensors = (0..8u64).flat_map(|layer| ["q", "k", "v", "o", "up", "norm"].map(|name| (layer, name)));
        let tensors = tensors.map(|(layer, name)| {
            let is_changed = tuned && matches!(name, "q" | "v");
            let len = if name == "norm" { 512 } else { 150_000 };
            let seed = layer * 100 + name.len() as u64 * 31 + u64::from(name.as_bytes()[0]);
            (
                format!("layers.{layer}.{name}"),
                noise(seed + u64::from(is_changed) * 10_000, len),
            )
        });
        let mut tensors: Vec<_> = tensors.collect();
        if tuned {
            // Whoever merged it wrote the tensors in another order.
            tensors.reverse();
        }
        file_of(&tensors)
    };
    let changed = 2 * 8 * 150_000;
    let base = ours.artifact(&[("model.safetensors", model(false)), ("config.json", b"{}".to_vec())]);
    let tuned = ours.artifact(&[("weights", model(true)), ("config.json", b"{}".to_vec())]);
    pushed(&ours.objects(&faulty), &ours, &base).await.expect("room");
    fetched(&theirs.objects(&faulty), &theirs, &base)
        .await
        .expect("all of it");
    let moved = pushed(&ours.objects(&faulty), &ours, &tuned).await.expect("room");
    assert!((changed..changed + 30_000).contains(&moved.wire_bytes), "{moved:?}");
    let moved = fetched(&theirs.objects(&faulty), &theirs, &tuned)
        .await
        .expect("all of it");
    assert!((changed..changed + 30_000).contains(&moved.wire_bytes), "{moved:?}");
    assert_eq!(ours.contents(&tuned), theirs.contents(&tuned));
}

/// Whatever the remote does, what is in a store is right, and an error says what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn no_fault_lets_a_wrong_byte_in() {
    let one_in = Some(3);
    let faults = [
        (
            "drop",
            Faults {
                drop: one_in,
                ..Faults::default()
            },
        ),
        (
            "lose",
            Faults {
                lose_answers: one_in,
                ..Faults::default()
            },
        ),
        (
            "truncate",
            Faults {
                truncate: one_in,
                ..Faults::default()
            },
        ),
        (
            "truncate all",
            Faults {
                truncate: Some(1),
                ..Faults::default()
            },
        ),
        (
            "flip",
            Faults {
                flip: one_in,
                ..Faults::default()
            },
        ),
        (
            "flip all",
            Faults {
                flip: Some(1),
                ..Faults::default()
            },
        ),
        (
            "busy",
            Faults {
                status: Some(503),
                ..Faults::default()
            },
        ),
        (
            "full",
            Faults {
                status: Some(507),
                ..Faults::default()
            },
        ),
        (
            "read-only",
            Faults {
                is_read_only: true,
                ..Faults::default()
            },
        ),
        (
            "silent",
            Faults {
                delay: Some(Duration::from_secs(60)),
                ..Faults::default()
            },
        ),
        (
            "dies",
            Faults {
                die_after: Some(4),
                ..Faults::default()
            },
        ),
    ];
    let ours = Machine::new();
    let artifact = ours.artifact(&mixed());
    for (name, broken) in faults {
        let (theirs, faulty) = (Machine::new(), Faulty::default());
        faulty.set(broken);
        let here = ours.objects(&faulty);
        let tried = pushed(&here, &ours, &artifact).await;
        if name == "read-only" {
            assert!(matches!(tried, Err(RemoteError::Denied { .. })), "{tried:?}");
        }
        if name == "full" {
            assert!(matches!(tried, Err(RemoteError::Full { .. })), "{tried:?}");
        }
        if matches!(name, "silent" | "busy" | "dies") {
            assert!(matches!(tried, Err(RemoteError::Unreachable { .. })), "{tried:?}");
        }
        faulty.set(Faults::default());
        // What broke goes on where it was, with what the same process knows.
        pushed(&here, &ours, &artifact).await.expect("a whole remote");
        faulty.set(broken);
        let there = theirs.objects(&faulty);
        let tried = fetched(&there, &theirs, &artifact).await;
        if matches!(name, "truncate all" | "flip all") {
            assert!(tried.is_err_and(|error| !error.is_down() || matches!(error, RemoteError::Format(_))));
        }
        theirs.check_all_blobs();
        faulty.set(Faults::default());
        let there = theirs.objects(&faulty);
        fetched(&there, &theirs, &artifact).await.expect("a whole remote");
        assert_eq!(ours.contents(&artifact), theirs.contents(&artifact), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_goes_on_where_it_was() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let artifact = ours.artifact(&[("a", noise(1, 40_000_000)), ("b", noise(2, 30_000_000))]);
    faulty.set(Faults {
        die_after: Some(9),
        ..Faults::default()
    });
    pushed(&ours.objects_with(&faulty, Some(1)), &ours, &artifact)
        .await
        .expect_err("it dies");
    faulty.set(Faults::default());
    let moved = pushed(&ours.objects_with(&faulty, Some(1)), &ours, &artifact)
        .await
        .expect("room");
    assert!(
        moved.wire_bytes < 60_000_000 && moved.spared_bytes > 10_000_000,
        "{moved:?}"
    );
    faulty.set(Faults {
        die_after: Some(12),
        ..Faults::default()
    });
    fetched(&theirs.objects_with(&faulty, Some(1)), &theirs, &artifact)
        .await
        .expect_err("it dies");
    faulty.set(Faults::default());
    let moved = fetched(&theirs.objects_with(&faulty, Some(1)), &theirs, &artifact)
        .await
        .expect("all of it");
    assert!(
        moved.wire_bytes < 50_000_000 && moved.spared_bytes > 20_000_000,
        "{moved:?}"
    );
    assert_eq!(ours.contents(&artifact), theirs.contents(&artifact));
}

async fn flip_a_bit(faulty: &Faulty, areas: &[&str], seed: u64) -> (ObjectPath, Bytes) {
    let all: Vec<_> = faulty.inner.list(None).try_collect().await.expect("a list");
    let is_meant = |path: &str| areas.iter().any(|area| path.contains(area));
    let mut objects: Vec<_> = all
        .into_iter()
        .filter(|meta| is_meant(meta.location.as_ref()))
        .collect();
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    let random = noise(seed, 16);
    let number = |at: usize| u64::from_le_bytes(random[at..at + 8].try_into().expect("eight bytes"));
    let meta = &objects[number(0) as usize % objects.len()];
    let good = faulty
        .inner
        .get(&meta.location)
        .await
        .expect("it is there")
        .bytes()
        .await
        .expect("bytes");
    let mut bad = good.to_vec();
    let bit = number(8) as usize % (bad.len() * 8);
    bad[bit / 8] ^= 1 << (bit % 8);
    faulty
        .inner
        .put(&meta.location, PutPayload::from(bad))
        .await
        .expect("memory");
    (meta.location.clone(), good)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_flipped_bits_are_noticed_before_use() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let files = vec![("a", noise(1, 200_000)), ("b", b"text and text ".repeat(9_000))];
    let artifact = ours.artifact(&files);
    let small = ours.artifact(&[("s", b"small".to_vec())]);
    let here = ours.objects(&faulty);
    for artifact in [&artifact, &small] {
        pushed(&here, &ours, artifact).await.expect("room");
    }
    let there = theirs.objects(&faulty);
    let mut num_refused = 0;
    for seed in 0..1000 {
        let (path, good) = flip_a_bit(&faulty, &["maps/", "packs/"], seed).await;
        let hit = [&artifact, &small].into_iter().filter(|artifact| {
            let is_its_map = path == there.bucket.named("maps", artifact.digest);
            is_its_map || (path.as_ref().contains("packs/") && artifact.files > 1)
        });
        for artifact in hit {
            match fetched(&there, &theirs, artifact).await {
                Ok(_) => assert_eq!(ours.contents(artifact), theirs.contents(artifact)),
                Err(RemoteError::Damaged { .. }) => num_refused += 1,
                Err(error) => panic!("{error}"),
            }
            // All is read again, also what was received before the damage was met.
            let blobs = fs::read_dir(theirs.store.root().join("blobs"))
                .expect("a store")
                .flatten();
            for folder in blobs
                .map(|shard| shard.path())
                .chain([theirs.store.root().join("incoming")])
            {
                for file in fs::read_dir(folder).into_iter().flatten().flatten() {
                    fs::remove_file(file.path()).expect("a file");
                }
            }
        }
        faulty.inner.put(&path, PutPayload::from(good)).await.expect("memory");
    }
    // A few bits of zstd's frames mean nothing, and then the bytes are right.
    assert!(num_refused > 980, "{num_refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_there_is_replaced_by_the_next_push() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let artifact = ours.artifact(&mixed());
    let here = ours.objects(&faulty);
    pushed(&here, &ours, &artifact).await.expect("room");
    for area in ["packs/", "maps/"] {
        flip_a_bit(&faulty, &[area], 7).await;
        // Whoever finds out makes the result anew and pushes it.
        let there = theirs.objects(&faulty);
        fetched(&there, &theirs, &artifact).await.expect_err("it is damaged");
        theirs.artifact(&mixed());
        pushed(&there, &theirs, &artifact).await.expect("room");
        let fresh = Machine::new();
        fetched(&fresh.objects(&faulty), &fresh, &artifact)
            .await
            .expect("all of it");
        theirs
            .store
            .remove_folder(&theirs.store.root().join("blobs"))
            .expect("it can go");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_not_pushed() {
    let (ours, faulty) = (Machine::new(), Faulty::default());
    let artifact = ours.artifact(&[("", noise(1, 900_000))]);
    let path = ours.store.blob_path(artifact.digest);
    ours.store.remove_folder(&path).expect("it can go");
    fs::write(&path, noise(2, 900_000)).expect("a file");
    let here = ours.objects(&faulty);
    let error = pushed(&here, &ours, &artifact).await.expect_err("it is damaged");
    assert!(matches!(error, RemoteError::Store(_)), "{error}");
    assert!(!here.has((&artifact).into()).await.expect("a remote"));
}

fn key(name: &str) -> ContentKey {
    ContentKey(Digest::of(name.as_bytes()))
}

fn owner(pid: u32) -> Owner {
    Owner {
        pid,
        start: 1,
        host: "here".to_owned(),
    }
}

async fn claims_hold(a: &dyn Remote, b: &dyn Remote) {
    let key = key("k");
    let RemoteClaim::Held(mut token) = a.claim(key, &owner(1)).await.expect("a remote") else {
        panic!("nobody else has it");
    };
    let RemoteClaim::Taken { owner: Some(by), mark } = b.claim(key, &owner(2)).await.expect("a remote") else {
        panic!("it is taken");
    };
    assert_eq!(by, owner(1));
    assert!(a.renew(key, &owner(1), &mut token).await.expect("a remote"));
    // The mark moved on, so the holder lives.
    let RemoteClaim::Taken { mark: moved, .. } = b.take_over(key, &owner(2), &mark).await.expect("a remote") else {
        panic!("it is not stale");
    };
    assert_ne!(moved, mark);
    let RemoteClaim::Held(taken) = b.take_over(key, &owner(2), &moved).await.expect("a remote") else {
        panic!("it is stale");
    };
    assert!(!a.renew(key, &owner(1), &mut token).await.expect("a remote"));
    // Giving up what is somebody else's by now does nothing to it.
    a.release(key, &token).await.expect("a remote");
    assert!(matches!(
        a.claim(key, &owner(1)).await.expect("a remote"),
        RemoteClaim::Taken { .. }
    ));
    b.release(key, &taken).await.expect("a remote");
    let RemoteClaim::Held(token) = a.claim(key, &owner(1)).await.expect("a remote") else {
        panic!("it is free again");
    };
    a.release(key, &token).await.expect("a remote");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_one_machines() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    claims_hold(&ours.objects(&faulty), &theirs.objects(&faulty)).await;
    let shared = tempfile::tempdir().expect("a temporary folder");
    claims_hold(&*ours.folder_remote(&shared), &*theirs.folder_remote(&shared)).await;
    assert!(CLAIM_LEASE > Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_only_read_holds_what_it_claims() {
    let (ours, faulty) = (Machine::new(), Faulty::default());
    faulty.set(Faults {
        is_read_only: true,
        ..Faults::default()
    });
    let here = ours.objects(&faulty);
    let RemoteClaim::Held(mut token) = here.claim(key("k"), &owner(1)).await.expect("a remote") else {
        panic!("nobody can take it");
    };
    assert!(here.renew(key("k"), &owner(1), &mut token).await.expect("a remote"));
    here.release(key("k"), &token).await.expect("a remote");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_claim_or_take_over_one_gets_it() {
    let shared = tempfile::tempdir().expect("a temporary folder");
    let ours = Machine::new();
    let remotes: Vec<_> = (0..8).map(|_| ours.folder_remote(&shared)).collect();
    for round in 0..6 {
        let key = key(&round.to_string());
        let claims = remotes
            .iter()
            .zip(1..)
            .map(|(remote, pid)| async move { remote.claim(key, &owner(pid)).await });
        let claims = futures::future::try_join_all(claims).await.expect("a remote");
        let num_held = claims
            .iter()
            .filter(|claim| matches!(claim, RemoteClaim::Held(_)))
            .count();
        assert_eq!(num_held, 1, "{claims:?}");
        let RemoteClaim::Taken { mark, .. } = remotes[0].claim(key, &owner(99)).await.expect("a remote") else {
            panic!("it is taken");
        };
        let mark = mark.as_str();
        let taken = remotes
            .iter()
            .zip(1..)
            .map(|(remote, pid)| async move { remote.take_over(key, &owner(pid), mark).await });
        let taken = futures::future::try_join_all(taken).await.expect("a remote");
        let num_held = taken
            .iter()
            .filter(|claim| matches!(claim, RemoteClaim::Held(_)))
            .count();
        assert_eq!(num_held, 1, "{taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_counts_by_what_is_there() {
    let (ours, faulty) = (Machine::new(), Faulty::default());
    let here = ours.objects(&faulty);
    records::is_conditional(&here).await.expect("a remote");
    faulty.set(Faults {
        lose_answers: Some(1),
        ..Faults::default()
    });
    let claimed = here.claim(key("k"), &owner(1)).await.expect("it was written");
    assert!(matches!(claimed, RemoteClaim::Held(_)), "{claimed:?}");
    let put = here.put_record(RecipeKey(key("r").0), key("c"), Bytes::from_static(b"record"), false);
    assert_eq!(put.await.expect("it was written"), RecordPut::Stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_there_stays() {
    let (ours, faulty) = (Machine::new(), Faulty::default());
    for ignores_create in [false, true] {
        faulty.set(Faults {
            ignores_create,
            ..Faults::default()
        });
        let machine = Machine::new();
        let here = machine.objects(&faulty);
        let recipe = RecipeKey(key(&format!("r{ignores_create}")).0);
        let content = key(&format!("c{ignores_create}"));
        let put = async |text: &'static str, replace| {
            let bytes = Bytes::from_static(text.as_bytes());
            here.put_record(recipe, content, bytes, replace)
                .await
                .expect("a remote")
        };
        assert_eq!(put("one", false).await, RecordPut::Stored);
        assert_eq!(put("two", false).await, RecordPut::Exists(Bytes::from_static(b"one")));
        assert_eq!(
            here.record(content.0).await.expect("a remote"),
            Some(Bytes::from_static(b"one"))
        );
        assert_eq!(put("three", true).await, RecordPut::Stored);
        for key in [recipe.0, content.0] {
            assert_eq!(
                here.record(key).await.expect("a remote"),
                Some(Bytes::from_static(b"three"))
            );
        }
        assert_eq!(here.status().await.expect("a remote").claims, !ignores_create);
        let again = async || here.claim(content, &owner(1)).await.expect("a remote");
        assert!(matches!(again().await, RemoteClaim::Held(_)));
        assert_eq!(matches!(again().await, RemoteClaim::Held(_)), ignores_create);
    }
    assert_eq!(
        ours.objects(&faulty).record(key("none").0).await.expect("a remote"),
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_somebody_elses_or_of_the_future_is_refused() {
    let (ours, faulty) = (Machine::new(), Faulty::default());
    let artifact = ours.artifact(&[("", b"x".to_vec())]);
    for (text, said) in [
        (r#"{"format":2,"more":[]}"#, "newer volvelle"),
        ("hello", "no remote of volvelle"),
    ] {
        let path = ObjectPath::from("team/one/volvelle-remote");
        faulty
            .inner
            .put(&path, PutPayload::from(text.as_bytes().to_vec()))
            .await
            .expect("memory");
        let here = ours.objects(&faulty);
        let error = here.record(artifact.digest).await.expect_err("it is refused");
        assert!(error.to_string().contains(said) && error.is_down(), "{error}");
        assert!(matches!(
            pushed(&here, &ours, &artifact).await,
            Err(RemoteError::Format(_))
        ));
    }
}

/// Writes a record that needs an artifact.
async fn put_needing(remote: &dyn Remote, name: &str, artifact: &Artifact) {
    let json = serde_json::json!({"artifacts": {"out": artifact}, "log": null, "of": name}).to_string();
    let text = format!("{json}\nblake3 {}\n", Digest::of(json.as_bytes()));
    let recipe = RecipeKey(key(&format!("recipe {name}")).0);
    let put = remote.put_record(recipe, key(name), Bytes::from(text), false).await;
    assert_eq!(put.expect("a remote"), RecordPut::Stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_takes_what_nobody_needs_and_nothing_else() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let here = ours.objects(&faulty);
    let base = noise(1, 3_000_000);
    let mut changed = base.clone();
    changed[..100_000].copy_from_slice(&noise(2, 100_000));
    let kept = ours.artifact(&[("", changed)]);
    let dropped = ours.artifact(&[("", base)]);
    let alone = ours.artifact(&[("", noise(3, 2_000_000))]);
    // What is kept shares packs with what is dropped.
    for artifact in [&dropped, &kept, &alone] {
        pushed(&here, &ours, artifact).await.expect("room");
    }
    put_needing(&here, "kept", &kept).await;
    let grace = Some(Duration::ZERO);
    let young = here.collect(RemoteGc::default()).await.expect("a remote");
    assert_eq!(young.removed_objects, 0, "what is young stays");
    let dry_run = RemoteGc {
        grace,
        dry_run: true,
        ..RemoteGc::default()
    };
    let would = here.collect(dry_run).await.expect("a remote");
    let did = here
        .collect(RemoteGc {
            grace,
            ..RemoteGc::default()
        })
        .await
        .expect("a remote");
    assert_eq!(would, did);
    // A map, its entry among the large ones, and of one of the two its pack as well.
    assert_eq!((did.removed_records, did.removed_objects), (0, 5));
    assert!((2_000_000..2_200_000).contains(&did.removed_bytes), "{did:?}");
    fetched(&theirs.objects(&faulty), &theirs, &kept)
        .await
        .expect("all of it");
    let absent = fetched(&theirs.objects(&faulty), &theirs, &dropped).await;
    assert!(matches!(absent, Err(RemoteError::Absent { .. })), "{absent:?}");
    // A push after it sends what is gone again, although this process knew of it.
    pushed(&here, &ours, &alone).await.expect("room");
    let fresh = Machine::new();
    fetched(&fresh.objects(&faulty), &fresh, &alone)
        .await
        .expect("all of it");
    let all = RemoteGc {
        older_than: Some(Duration::ZERO),
        grace,
        dry_run: false,
    };
    let did = here.collect(all).await.expect("a remote");
    assert_eq!((did.removed_records, did.kept_bytes), (1, 0));
    assert_eq!(here.status().await.expect("a remote").stored_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_does_not_rely_on_what_is_condemned() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let artifact = ours.artifact(&[("", noise(1, 3_000_000))]);
    pushed(&ours.objects(&faulty), &ours, &artifact).await.expect("room");
    let packs: Vec<_> = faulty
        .inner
        .list(Some(&ObjectPath::from("team/one/packs")))
        .try_collect()
        .await
        .expect("a list");
    let digest = requests::digest_of(&packs[0].location).expect("a pack");
    let condemned = serde_json::json!({"digests": [digest]}).to_string();
    let path = ObjectPath::from("team/one/condemned");
    faulty
        .inner
        .put(&path, PutPayload::from(condemned.into_bytes()))
        .await
        .expect("memory");
    let again = theirs.artifact(&[("", noise(1, 3_000_000))]);
    let moved = pushed(&theirs.objects(&faulty), &theirs, &again).await.expect("room");
    assert!(moved.wire_bytes >= 3_000_000, "{moved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_artifact_is_one_request_each_way() {
    let (ours, theirs, faulty) = (Machine::new(), Machine::new(), Faulty::default());
    let artifact = ours.artifact(&[("table.csv", b"a,b\n".to_vec()), ("page.html", b"<p>".to_vec())]);
    let here = ours.objects(&faulty);
    records::make_ready(&here).await.expect("a remote");
    faulty.set(Faults::default());
    pushed(&here, &ours, &artifact).await.expect("room");
    // Whether it is there and what is condemned, the map, and what is condemned then.
    assert_eq!(faulty.num_requests(), 4);
    let there = theirs.objects(&faulty);
    records::is_ours(&there).await.expect("a remote");
    faulty.set(Faults::default());
    fetched(&there, &theirs, &artifact).await.expect("all of it");
    assert_eq!(faulty.num_requests(), 1);
}
