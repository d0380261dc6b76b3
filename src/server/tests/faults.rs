//! Networks and servers that fail or lie: nothing wrong gets into a store, and what broke off goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Place, Served, Tested, noise};
use crate::digest::Digest;
use crate::remote::http::open_with;
use crate::remote::{Content, Meter, Remote, RemoteError};
use crate::server::{Access, Scope, TokenFile};
use crate::settings::RemoteSettings;
use crate::store::Store;

/// Stands before a server and flips bits of what passes, about one in so many bytes.
struct Flipper {
    url: String,
    flipped: Arc<AtomicU64>,
}

impl Flipper {
    fn start(target: &str, every: u64) -> Result<Flipper, Box<dyn std::error::Error>> {
        let target: SocketAddr = target.trim_start_matches("http://").parse()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let flipped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&flipped);
        std::thread::spawn(move || {
            for (idx, client) in listener.incoming().flatten().enumerate() {
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                for (from, to, seed) in [(client, server, 2 * idx), (server_too, client_too, 2 * idx + 1)] {
                    let counter = Arc::clone(&counter);
                    std::thread::spawn(move || pass(from, to, seed as u64, every, &counter));
                }
            }
        });
        Ok(Flipper { url, flipped })
    }

    fn client(&self) -> Result<Arc<dyn Remote>, RemoteError> {
        let mut settings = RemoteSettings::at(&self.url);
        // A length that grew on the way makes the other side wait for what never comes.
        settings.timeout = Some(Duration::from_millis(500));
        open_with(&settings, None)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, seed: u64, every: u64, flipped: &AtomicU64) {
    let mut random = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut next = move || {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    };
    let (mut buffer, mut until) = ([0; 4096], next() % (2 * every));
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let mut start = 0;
        while until < (length - start) as u64 {
            start += until as usize;
            buffer[start] ^= 1 << (next() % 8);
            flipped.fetch_add(1, Ordering::Relaxed);
            until = 1 + next() % (2 * every);
        }
        until -= (length - start) as u64;
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

/// Reads every blob that can be seen and returns how many there are; each has to be what its name says.
fn checked_blobs(store: &Store) -> Result<u64, Box<dyn std::error::Error>> {
    let mut count = 0;
    for shard in std::fs::read_dir(store.root().join("blobs"))? {
        let shard = shard?;
        for file in std::fs::read_dir(shard.path())? {
            let file = file?;
            let name = format!(
                "{}{}",
                shard.file_name().to_string_lossy(),
                file.file_name().to_string_lossy()
            );
            assert_eq!(Digest::of(&std::fs::read(file.path())?).to_string(), name);
            count += 1;
        }
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_flipped_bits_get_into_no_store() -> Tested {
    let (shared, ada, bob) = (Place::new()?, Place::new()?, Place::new()?);
    let served = Served::with(&shared, |options| options.patience = Duration::from_secs(1))?;
    let flipper = Flipper::start(&served.url, 3000)?;
    let mut records = Vec::new();
    for idx in 0..40u8 {
        let files = [
            ("small", noise(1500, idx)),
            ("large", noise(300_000, idx)),
            ("text", vec![idx; 2000]),
        ];
        let files: Vec<_> = files.into_iter().collect();
        ada.put(&format!("here {idx}"), &files)?;
        records.push(shared.put(&format!("there {idx}"), &files)?);
    }
    let mut arrived = 0;
    for round in 0.. {
        let mut tasks = tokio::task::JoinSet::new();
        for record in records.clone() {
            let (remote, content) = (flipper.client()?, Content::from(&record.artifacts["out"]));
            let (fetching, pushing) = (Arc::clone(&bob.store), Arc::clone(&ada.store));
            tasks.spawn(async move {
                let meter = Meter::default();
                if round % 2 == 0 {
                    let _ = remote.push(&pushing, content, &meter).await;
                }
                // What comes of a record is only let in once it checks.
                if let Ok(Some(bytes)) = remote.record(record.recipe_key.0).await {
                    let _ = fetching.admit_record(record.recipe_key, &bytes, true);
                }
                remote.fetch(&fetching, content, None, &meter).await.is_ok()
            });
        }
        while let Some(fetched) = tasks.join_next().await {
            arrived += u64::from(fetched?);
        }
        if flipper.flipped.load(Ordering::Relaxed) >= 1000 {
            break;
        }
    }
    checked_blobs(&bob.store)?;
    checked_blobs(&shared.store)?;
    for record in &records {
        if let Some(found) = bob.store.record(record.recipe_key) {
            assert_eq!(&found, record);
        }
    }
    let flipped = flipper.flipped.load(Ordering::Relaxed);
    assert!(flipped >= 1000, "{flipped} bits, {arrived} folders arrived");
    served.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_damaged_over_there_is_told_and_not_let_in() -> Tested {
    let (shared, ada, bob) = (Place::new()?, Place::new()?, Place::new()?);
    let served = Served::start(&shared)?;
    let remote = served.client()?;
    for size in [1000, 600_000] {
        ada.put("n", &[("a", noise(size, 9))])?;
        let record = shared.put("n", &[("a", noise(size, 9))])?;
        let path = shared.store.blob_path(Digest::of(&noise(size, 9)));
        std::fs::remove_file(&path)?;
        std::fs::write(&path, noise(size, 8))?;
        let content = Content::from(&record.artifacts["out"]);
        let fetched = remote.fetch(&bob.store, content, None, &Meter::default()).await;
        assert!(matches!(fetched, Err(RemoteError::Damaged { .. })), "{fetched:?}");
        // It was moved aside there, so that whoever has it can send it again.
        remote.push(&ada.store, content, &Meter::default()).await?;
        assert_eq!(shared.store.read_blob(Digest::of(&noise(size, 9)))?, noise(size, 9));
    }
    assert_eq!(checked_blobs(&bob.store)?, 2, "the manifests are good");
    served.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_transfer_left_is_used_if_it_is_good() -> Tested {
    let (shared, bob) = (Place::new()?, Place::new()?);
    let served = Served::start(&shared)?;
    let remote = served.client()?;
    let bytes = noise(2_000_000, 4);
    let record = shared.put("n", &[("a", bytes.clone())])?;
    let content = Content::from(&record.artifacts["out"]);
    let digest = Digest::of(&bytes);
    for (left, most) in [
        (&bytes[..1_500_000], 510_000),
        (&noise(1_500_000, 5)[..], 2_600_000),
        (&bytes[..], 10_000),
    ] {
        bob.store.incoming(digest, bytes.len() as u64)?.write_at(left, 0)?;
        let moved = remote.fetch(&bob.store, content, None, &Meter::default()).await?;
        assert!(moved.wire_bytes < most, "{moved:?}");
        assert_eq!(bob.store.read_blob(digest)?, bytes);
        std::fs::remove_file(bob.store.blob_path(digest))?;
        // The same in the other direction: what the server has of it already.
        std::fs::remove_file(shared.store.blob_path(digest))?;
        shared.store.incoming(digest, bytes.len() as u64)?.write_at(left, 0)?;
        let ada = Place::new()?;
        ada.put("n", &[("a", bytes.clone())])?;
        let moved = remote.push(&ada.store, content, &Meter::default()).await?;
        assert!(moved.wire_bytes < most, "{moved:?}");
        assert_eq!(shared.store.read_blob(digest)?, bytes);
    }
    served.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_is_told_says_what_to_do() -> Tested {
    let place = Place::new()?;
    let file = TokenFile::at(place.folder.path().join("tokens"));
    let reader = file.add("reader", Scope::Read, None)?;
    let writer = file.add("writer", Scope::Write, None)?;
    let served = Served::with(&place, |options| {
        options.access = Access::Tokens(file);
        options.keep_free_bytes = 1 << 60;
    })?;
    let ada = Place::new()?;
    let record = ada.put("n", &[("a", noise(1_000_000, 1))])?;
    let content = Content::from(&record.artifacts["out"]);
    let push = async |token: Option<&str>| {
        let remote = served.client_with(token)?;
        remote.push(&ada.store, content, &Meter::default()).await
    };
    let told = push(None).await.expect_err("no token").to_string();
    assert!(told.contains("VOLVELLE_TOKEN"), "{told}");
    let told = push(Some("vlv_wrong")).await.expect_err("a wrong token");
    assert!(told.is_down() && !told.to_string().contains("vlv_wrong"), "{told}");
    let told = push(Some(&reader)).await.expect_err("a token that reads");
    assert!(
        matches!(told, RemoteError::Denied { .. }) && told.to_string().contains("read only"),
        "{told}"
    );
    let told = push(Some(&writer)).await.expect_err("a full disk");
    assert!(matches!(told, RemoteError::Full { .. }), "{told}");
    served.end().await?;

    // Nobody there, and somebody else there.
    let start = Instant::now();
    let nobody = open_with(&RemoteSettings::at("http://127.0.0.1:1"), None)?;
    assert!(matches!(
        nobody.record(Digest::of(b"x")).await,
        Err(RemoteError::Unreachable { .. })
    ));
    assert!(start.elapsed() < Duration::from_secs(10));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let other = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let told = open_with(&RemoteSettings::at(&other), None)?
        .record(Digest::of(b"x"))
        .await;
    assert!(
        matches!(told, Err(RemoteError::Format(_))),
        "another server's 404 is no miss: {told:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_ends_what_it_began() -> Tested {
    let place = Place::new()?;
    let bytes = noise(8 << 20, 6);
    place.store.admit_bytes(&[(Digest::of(&bytes), &bytes)])?;
    let served = Served::start(&place)?;
    let address: SocketAddr = served.url.trim_start_matches("http://").parse()?;
    let (mut began, mut expected) = (TcpStream::connect(address)?, bytes);
    let request = format!(
        "GET /v1/blobs/{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        Digest::of(&expected)
    );
    began.write_all(request.as_bytes())?;
    let mut first = [0; 1];
    began.read_exact(&mut first)?;
    let reading = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(100));
        let mut rest = Vec::new();
        began.read_to_end(&mut rest).map(|_| rest)
    });
    served.end().await?;
    let rest = reading.await??;
    assert!(
        rest.ends_with(&expected.split_off(expected.len() - 1000)),
        "{} bytes came",
        rest.len()
    );
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_lose_nothing() -> Tested {
    let (shared, ada, bob) = (Place::new()?, Place::new()?, Place::new()?);
    let served = Served::with(&shared, |options| options.max_uploads = 8)?;
    let mut clients = tokio::task::JoinSet::new();
    for idx in 0..32u8 {
        // Four of them have the same content, at the same time.
        let seed = idx / 4;
        let files = [
            ("a", noise(500, seed)),
            ("b", noise(500, seed + 100)),
            ("large", noise(400_000, seed)),
        ];
        let record = ada.put(&format!("n{idx}"), &files)?;
        let (bytes, remote) = (ada.bytes(&record)?, served.client()?);
        let (pushing, fetching) = (Arc::clone(&ada.store), Arc::clone(&bob.store));
        clients.spawn(async move {
            let (content, meter) = (Content::from(&record.artifacts["out"]), Meter::default());
            remote.push(&pushing, content, &meter).await?;
            remote
                .put_record(record.recipe_key, record.content_key, bytes, false)
                .await?;
            remote.fetch(&fetching, content, None, &meter).await
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    assert_eq!(checked_blobs(&bob.store)?, 8 * 4, "three files and a manifest of each");
    assert_eq!(checked_blobs(&shared.store)?, 8 * 4);
    served.end().await
}
