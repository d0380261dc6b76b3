//! Bringing content to the remote: what it does not have is cut, compressed and packed on the way.
//!
//! One thread reads the blobs in their order and makes packs, some tasks send them, and between the two lies room for one
//! pack, so that memory stays the same for any size. Each blob is hashed while it is read: no map ever names a damaged one.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join;
use futures::{StreamExt, TryStreamExt, stream};
use rayon::prelude::*;
use tokio::sync::mpsc;

use super::chunks::{ChunkId, Chunks};
use super::known::State;
use super::map::{Blob, Chunk, Map, Pack};
use super::{Objects, blocking, collect, known, listing, pack, records};
use crate::digest::Digest;
use crate::remote::{Content, Meter, Moved, RemoteError};
use crate::store::{Store, StoreError};

/// Content up to this size lies in its map.
const INLINE: u64 = 128 << 10;

/// So does the manifest of larger content, which has to be read before anything else.
const INLINE_MANIFEST: u64 = 512 << 10;

/// Of the packs in memory there are so many at most.
const MAX_UPLOADS: usize = 4;

/// How much is read before it is hashed and compressed on all cores.
const BATCH: usize = 4 << 20;

/// A collection that meets a push makes it do part of its work again, but not for ever.
const ROUNDS: usize = 3;

/// What the reading thread hands over.
enum Made {
    Pack {
        pack: Pack,
        bytes: Bytes,
        /// How much content is in it.
        content: u64,
    },
    /// So much content is in the remote already.
    Spared(u64),
}

/// What is to be pushed.
struct Job {
    content: Content,
    blobs: Vec<(Digest, u64)>,
}

impl Job {
    fn read(store: &Store, content: Content) -> Result<Job, StoreError> {
        let Some(manifest) = content.manifest else {
            let digest = content.digest;
            let found = std::fs::metadata(store.blob_path(digest));
            let len = found.map_err(|_| StoreError::MissingBlob { digest })?.len();
            return Ok(Job {
                content,
                blobs: vec![(digest, len)],
            });
        };
        let bytes = store.read_blob(manifest)?;
        let files = listing::blobs(&bytes, None).ok_or(StoreError::BadManifest { digest: manifest })?;
        let mut blobs = vec![(manifest, bytes.len() as u64)];
        blobs.extend(files.into_iter().filter(|file| file.0 != manifest));
        Ok(Job { content, blobs })
    }

    fn len(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.1).sum()
    }

    fn is_inline(&self, blob: (Digest, u64)) -> bool {
        self.len() <= INLINE || (Some(blob.0) == self.content.manifest && blob.1 <= INLINE_MANIFEST)
    }
}

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
    if job.len() > INLINE {
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

/// Makes packs and the map that says what lies where in them.
struct Maker<'a> {
    known: &'a std::sync::RwLock<known::Known>,
    sender: mpsc::Sender<Made>,
    packs: Vec<Pack>,
    /// Where the packs of others stand in the list.
    others: HashMap<Digest, u32>,
    chunks: Vec<Chunk>,
    by_id: HashMap<ChunkId, u32>,
    inline: Vec<u8>,
    open: Vec<u8>,
    /// How much content is in the open pack.
    open_content: u64,
    /// Which pack of the list the open one will be.
    open_number: u32,
}

impl<'a> Maker<'a> {
    fn new(known: &'a std::sync::RwLock<known::Known>, sender: mpsc::Sender<Made>) -> Maker<'a> {
        Maker {
            known,
            sender,
            packs: Vec::new(),
            others: HashMap::new(),
            chunks: Vec::new(),
            by_id: HashMap::new(),
            inline: Vec::new(),
            open: Vec::new(),
            open_content: 0,
            open_number: 0,
        }
    }

    fn make(mut self, store: &Store, job: &Job) -> Result<Map, RemoteError> {
        let mut blobs = Vec::with_capacity(job.blobs.len());
        for &(digest, len) in &job.blobs {
            let chunks = if job.is_inline((digest, len)) {
                self.add_inline(&store.read_blob(digest)?)
            } else if let Some(places) = self.known().blob(digest) {
                self.say(Made::Spared(len))?;
                places
                    .into_iter()
                    .map(|(pack, chunk)| self.add_other(pack, chunk))
                    .collect()
            } else {
                self.add_file(store, digest, len)?
            };
            blobs.push(Blob { digest, len, chunks });
        }
        self.close()?;
        Ok(Map {
            content: job.content,
            packs: self.packs,
            chunks: self.chunks,
            blobs,
            inline: self.inline.into(),
        })
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'a, known::Known> {
        self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn add_inline(&mut self, bytes: &[u8]) -> Vec<u32> {
        let pieces = bytes.chunks(super::chunks::MAX_CHUNK);
        pieces
            .map(|piece| {
                let chunk = Chunk {
                    id: ChunkId::of(piece),
                    len: piece.len() as u32,
                    // The map as a whole is compressed.
                    stored: piece.len() as u32,
                    pack: None,
                    offset: self.inline.len() as u64,
                };
                self.inline.extend_from_slice(piece);
                self.chunks.push(chunk);
                self.chunks.len() as u32 - 1
            })
            .collect()
    }

    /// Adds a chunk that lies in a pack of somebody else's.
    fn add_other(&mut self, pack: Pack, chunk: Chunk) -> u32 {
        if let Some(&idx) = self.by_id.get(&chunk.id) {
            return idx;
        }
        let packs = &mut self.packs;
        let number = *self.others.entry(pack.digest).or_insert_with(|| {
            packs.push(pack);
            packs.len() as u32 - 1
        });
        self.add(Chunk {
            pack: Some(number),
            ..chunk
        })
    }

    fn add(&mut self, chunk: Chunk) -> u32 {
        let idx = self.chunks.len() as u32;
        self.chunks.push(chunk);
        self.by_id.insert(chunk.id, idx);
        idx
    }

    /// Cuts a blob, and checks that it is the one that it should be.
    fn add_file(&mut self, store: &Store, digest: Digest, len: u64) -> Result<Vec<u32>, RemoteError> {
        let missing = |_| StoreError::MissingBlob { digest };
        let file = File::open(store.blob_path(digest)).map_err(missing)?;
        let mut chunks = Chunks::of(file, len).map_err(missing)?;
        let mut hasher = blake3::Hasher::new();
        let mut indices = Vec::new();
        loop {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while bytes < BATCH {
                let Some(chunk) = chunks.next() else { break };
                let chunk = chunk.map_err(missing)?;
                hasher.update(&chunk);
                bytes += chunk.len();
                batch.push(chunk);
            }
            if batch.is_empty() {
                break;
            }
            self.add_batch(batch, &mut indices)?;
        }
        if hasher.count() != len || Digest(*hasher.finalize().as_bytes()) != digest {
            store.quarantine(digest);
            return Err(StoreError::MissingBlob { digest }.into());
        }
        Ok(indices)
    }

    fn add_batch(&mut self, batch: Vec<Vec<u8>>, indices: &mut Vec<u32>) -> Result<(), RemoteError> {
        let ids: Vec<ChunkId> = batch.par_iter().map(|chunk| ChunkId::of(chunk)).collect();
        let mut seen = HashSet::new();
        let mut spared = 0;
        let mut places = Vec::with_capacity(batch.len());
        for (chunk, id) in batch.iter().zip(&ids) {
            let is_here = self.by_id.contains_key(id) || !seen.insert(*id);
            let place = if is_here { None } else { self.known().chunk(*id) };
            if is_here || place.is_some() {
                spared += chunk.len() as u64;
            }
            places.push((is_here, place));
        }
        let packed: Vec<Option<(u32, Vec<u8>)>> = batch
            .into_par_iter()
            .zip(&places)
            .map(|(chunk, (is_here, place))| {
                let is_new = !is_here && place.is_none();
                is_new.then(|| (chunk.len() as u32, pack::pack(chunk)))
            })
            .collect();
        for ((id, (_, place)), packed) in ids.into_iter().zip(places).zip(packed) {
            let idx = match (packed, place) {
                (Some((len, stored)), _) => self.add_new(id, len, &stored)?,
                (None, Some((pack, chunk))) => self.add_other(pack, chunk),
                (None, None) => self.by_id[&id],
            };
            indices.push(idx);
        }
        match spared {
            0 => Ok(()),
            spared => self.say(Made::Spared(spared)),
        }
    }

    fn add_new(&mut self, id: ChunkId, len: u32, stored: &[u8]) -> Result<u32, RemoteError> {
        if self.open.is_empty() {
            self.open_number = self.packs.len() as u32;
            // Its digest is known when it is closed.
            self.packs.push(Pack {
                digest: Digest([0; 32]),
                len: 0,
            });
        }
        let idx = self.add(Chunk {
            id,
            len,
            stored: stored.len() as u32,
            pack: Some(self.open_number),
            offset: self.open.len() as u64,
        });
        self.open.extend_from_slice(stored);
        self.open_content += u64::from(len);
        // Some chunks end a pack early: where another push knew a little more or less, the packs are soon the same again.
        let ends_early = self.open.len() >= pack::FULL / 2 && id.0[0] < 8;
        if self.open.len() >= pack::FULL || ends_early {
            self.close()?;
        }
        Ok(idx)
    }

    /// Hands the open pack over, if there is one.
    fn close(&mut self) -> Result<(), RemoteError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.open));
        let pack = Pack {
            digest: Digest::of(&bytes),
            len: bytes.len() as u64,
        };
        self.packs[self.open_number as usize] = pack;
        let content = std::mem::take(&mut self.open_content);
        self.say(Made::Pack { pack, bytes, content })
    }

    fn say(&self, made: Made) -> Result<(), RemoteError> {
        let said = self.sender.blocking_send(made);
        // The other side is gone because it failed, and its error is the one that counts.
        said.map_err(|_| RemoteError::Unreachable {
            what: "the remote".to_owned(),
            why: "sending was given up".to_owned(),
        })
    }
}
