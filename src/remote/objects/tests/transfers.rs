//! Content: that it arrives, whole and once, whatever the remote does.

use super::*;

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
