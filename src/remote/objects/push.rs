//! Bringing content to the remote: what it does not have is cut, compressed and packed on the way.
//!
//! One thread makes packs (`making`), some tasks send them, and between the two lies room for one pack, so that memory stays
//! the same for any size.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::known::State;
use super::making::{Job, Made, Maker};
use super::map::{Map, Pack};
use super::{Objects, blocking, collect, known, making, records};
use crate::digest::Digest;
use crate::remote::{Content, Meter, Moved, RemoteError};
use crate::store::Store;

/// Of the packs in memory there are so many at most.
const MAX_UPLOADS: usize = 4;

/// A collection that meets a push makes it do part of its work again, but not for ever.
const ROUNDS: usize = 3;

pub(super) async fn push(
    objects: &Objects,
    store: &Arc<Store>,
    content: Content,
    meter: &Meter,
) -> Result<Moved, RemoteError> {
    records::make_ready(objects).await?;
    let reading = Arc::clone(store);
    let job = Arc::new(blocking(move || Job::read(&reading, content)).await?);
    meter.expect(job.len());
    if is_there(objects, content).await? {
        meter.advance(job.len(), 0);
        return Ok(Moved {
            wire_bytes: 0,
            spared_bytes: job.len(),
        });
    }
    if job.len() > making::INLINE {
        refresh(objects).await?;
    }
    let mut doubtful = doubtful(objects).await?;
    objects.known_mut().forget(doubtful.iter().copied());
    let mut all = Moved::default();
    for round in 0..ROUNDS {
        // What is done twice is shown once.
        let unseen = Meter::default();
        let meter = if round == 0 { meter } else { &unseen };
        let (map, sent, moved) = send(objects, store, &job, &doubtful, meter).await?;
        all.wire_bytes += moved.wire_bytes;
        all.spared_bytes = moved.spared_bytes;
        // Written before it is looked whether a collection goes on, as a collection looks for maps after it said so.
        let map = put_map(objects, map).await?;
        doubtful = self::doubtful(objects).await?;
        let reused = map.packs.iter().filter(|pack| !sent.contains(&pack.digest));
        let gone = lost_packs(objects, reused.copied().collect(), &doubtful).await?;
        if gone.is_empty() {
            objects.known_mut().add(&map);
            return Ok(all);
        }
        tracing::info!(packs = gone.len(), "what a push relied on is gone; it is sent again");
        objects.known_mut().forget(gone);
    }
    Err(objects
        .bucket
        .context
        .unreachable("a collection goes on there; push again later"))
}

/// Returns whether the remote has content with all that it needs.
async fn is_there(objects: &Objects, content: Content) -> Result<bool, RemoteError> {
    let map = match objects.map(content).await {
        Ok(Some(map)) => map,
        // Something else in its place is replaced by the right one.
        Ok(None) | Err(RemoteError::Damaged { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let doubtful = doubtful(objects).await?;
    if doubtful.contains(&content.digest) {
        return Ok(false);
    }
    let gone = lost_packs(objects, map.packs.clone(), &doubtful).await?;
    let mut known = objects.known_mut();
    if gone.is_empty() {
        known.add(&map);
    }
    known.forget(gone.iter().copied());
    Ok(gone.is_empty())
}

/// Returns the packs and maps that must not be relied on: a collection is about to remove them, or they were found damaged.
async fn doubtful(objects: &Objects) -> Result<HashSet<Digest>, RemoteError> {
    let mut doubtful = collect::condemned(objects).await?;
    doubtful.extend(objects.known().gone());
    Ok(doubtful)
}

/// Returns those packs that are not there, are not whole, or are about to be removed.
async fn lost_packs(
    objects: &Objects,
    packs: Vec<Pack>,
    doubtful: &HashSet<Digest>,
) -> Result<HashSet<Digest>, RemoteError> {
    let looked = stream::iter(packs).map(|pack| async move {
        let is_lost = doubtful.contains(&pack.digest) || !has_pack(objects, pack).await?;
        Ok::<_, RemoteError>(is_lost.then_some(pack.digest))
    });
    let lost: Vec<_> = looked.buffer_unordered(objects.parallel).try_collect().await?;
    Ok(lost.into_iter().flatten().collect())
}

async fn has_pack(objects: &Objects, pack: Pack) -> Result<bool, RemoteError> {
    let path = objects.bucket.named("packs", pack.digest);
    let found = objects.bucket.head(&path).await?;
    Ok(found.is_some_and(|meta| meta.size == pack.len))
}

/// Makes the packs of a job and sends those that are not there; returns the map, and which packs were sent.
async fn send(
    objects: &Objects,
    store: &Arc<Store>,
    job: &Arc<Job>,
    doubtful: &HashSet<Digest>,
    meter: &Meter,
) -> Result<(Map, HashSet<Digest>, Moved), RemoteError> {
    let (sender, receiver) = mpsc::channel(1);
    let known = Arc::clone(&objects.known);
    let (reading, planned) = (Arc::clone(store), Arc::clone(job));
    let made = blocking(move || Maker::new(&known, sender).make(&reading, &planned));
    let packs = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|made| (made, receiver))
    });
    let sent = packs
        .map(|made| send_one(objects, made, doubtful, meter))
        .buffer_unordered(MAX_UPLOADS.min(objects.parallel))
        .try_fold(
            (HashSet::new(), Moved::default()),
            |(mut packs, mut all), (pack, moved)| {
                packs.extend(pack);
                all += moved;
                futures::future::ok((packs, all))
            },
        );
    // Where sending fails, the channel is closed, and making ends at its next pack. So what failed first is what is told.
    let (made, sent) = join(made, sent).await;
    let (packs, mut moved) = sent?;
    let map = made?;
    let inline = map.inline.len() as u64;
    if inline > 0 {
        let len = map.chunks.iter().filter(|chunk| chunk.pack.is_none());
        meter.advance(len.map(|chunk| u64::from(chunk.len)).sum(), inline);
        moved.wire_bytes += inline;
    }
    Ok((map, packs, moved))
}

async fn send_one(
    objects: &Objects,
    made: Made,
    doubtful: &HashSet<Digest>,
    meter: &Meter,
) -> Result<(Option<Digest>, Moved), RemoteError> {
    let (pack, bytes, content) = match made {
        Made::Spared(content) => {
            meter.advance(content, 0);
            return Ok((None, spared(content)));
        }
        Made::Pack { pack, bytes, content } => (pack, bytes, content),
    };
    let _permit = objects.transfers.acquire().await;
    // A push that broke may have left it.
    if !doubtful.contains(&pack.digest) && has_pack(objects, pack).await? {
        meter.advance(content, 0);
        return Ok((None, spared(content)));
    }
    objects
        .bucket
        .put(&objects.bucket.named("packs", pack.digest), bytes)
        .await?;
    objects.known_mut().found(pack.digest);
    meter.advance(content, pack.len);
    let moved = Moved {
        wire_bytes: pack.len,
        spared_bytes: 0,
    };
    Ok((Some(pack.digest), moved))
}

fn spared(content: u64) -> Moved {
    Moved {
        wire_bytes: 0,
        spared_bytes: content,
    }
}

async fn put_map(objects: &Objects, map: Map) -> Result<Arc<Map>, RemoteError> {
    let bucket = &objects.bucket;
    let digest = map.content.digest;
    let copies = objects.copies.clone();
    let is_large = !map.packs.is_empty();
    let (map, encoded) = blocking(move || {
        let encoded = map.encode();
        if let (Ok(bytes), true) = (&encoded, is_large) {
            copies.keep(digest, bytes);
        }
        (map, encoded)
    })
    .await;
    let path = bucket.named("maps", digest);
    // zstd fails only where there is no memory.
    let bytes = encoded.map_err(|error| bucket.context.unreachable(&error.to_string()))?;
    bucket.put(&path, bytes.into()).await?;
    if is_large {
        bucket
            .put(&bucket.named("large", digest), Bytes::from_static(b"1"))
            .await?;
    }
    Ok(Arc::new(map))
}

/// Learns what the remote has, unless that was done lately.
async fn refresh(objects: &Objects) -> Result<(), RemoteError> {
    let _guard = objects.listing.lock().await;
    let state = objects.known().state;
    if matches!(state, State::Remote(then) if then.elapsed() < known::FRESH) {
        return Ok(());
    }
    let mut listed = objects.bucket.list("large").await?;
    listed.sort_by_key(|meta| std::cmp::Reverse(meta.last_modified));
    let digests = listed
        .iter()
        .filter_map(|meta| super::requests::digest_of(&meta.location));
    let digests: Vec<Digest> = digests.take(known::MAX_MAPS).collect();
    let there: HashSet<Digest> = digests.iter().copied().collect();
    let copies = objects.copies.clone();
    blocking(move || copies.keep_only(&there)).await;
    let missing = digests.into_iter().filter(|digest| !objects.known().has(*digest));
    let missing: Vec<Digest> = missing.collect();
    let mut maps = stream::iter(missing)
        .map(|digest| known_map(objects, digest))
        .buffered(objects.parallel);
    while let Some(map) = maps.try_next().await? {
        let mut known = objects.known_mut();
        if let Some(map) = map {
            known.add(&map);
        }
        if known.is_full() {
            break;
        }
    }
    objects.known_mut().state = State::Remote(std::time::Instant::now());
    Ok(())
}

/// Reads a map from the cache or the remote; one that is damaged or gone teaches nothing.
async fn known_map(objects: &Objects, digest: Digest) -> Result<Option<Arc<Map>>, RemoteError> {
    let copies = objects.copies.clone();
    if let Some(map) = blocking(move || copies.read(digest)).await {
        return Ok(Some(map));
    }
    let path = objects.bucket.named("maps", digest);
    let bytes = match objects.bucket.get(&path, super::map::MAX_STORED).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) | Err(RemoteError::Damaged { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let copies = objects.copies.clone();
    Ok(blocking(move || {
        let map = Map::decode(&bytes).ok().filter(|map| map.content.digest == digest)?;
        copies.keep(digest, &bytes);
        Some(Arc::new(map))
    })
    .await)
}
