//! What machines share beside content: records, claims, the place itself, and collections of it.

use super::*;

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
