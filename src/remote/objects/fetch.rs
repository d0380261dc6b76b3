//! Bringing content to the store: only what it lacks, from wherever a chunk is nearest.
//!
//! A chunk that an earlier transfer left in `incoming/` stays, one that lies in a local blob is copied, and the rest is asked
//! for in ranges of packs. Each has to have its digest before it is written, and the store checks the whole blob again.
//! Blobs go in groups, so that the number of open files has a bound and a group is received while another is checked.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::chunks::ChunkId;
use super::known::State;
use super::map::{Blob, Map, Pack};
use super::{Objects, blocking, pack, records};
use crate::digest::Digest;
use crate::remote::{Content, Meter, Moved, RemoteError, listing};
use crate::store::{Incoming, Store, StoreError};

/// Ranges of a pack that lie no farther apart are one request.
const GAP: u64 = 64 << 10;

/// A request is not made longer than this, unless a single chunk is.
const MAX_RANGE: u64 = 4 << 20;

/// A group has no more blobs, each of which is an open file.
const GROUP_BLOBS: usize = 128;

/// Nor more bytes, unless a single blob has.
const GROUP_BYTES: u64 = 256 << 20;

/// So many groups at once.
const GROUPS: usize = 2;

/// What arrives damaged is asked for again so often: a wire may be at fault.
const TRIES: usize = 3;

/// From this much on it is worth to look for chunks in local blobs.
const WORTH_LOOKING: u64 = 1 << 20;

pub(super) async fn fetch(
    objects: &Objects,
    store: &Arc<Store>,
    content: Content,
    subpath: Option<&str>,
    meter: &Meter,
) -> Result<Moved, RemoteError> {
    records::is_ours(objects).await?;
    let path = objects.bucket.named("maps", content.digest);
    let map = objects
        .map(content)
        .await?
        .ok_or_else(|| objects.bucket.context.absent(&path))?;
    let root = content.manifest.unwrap_or(content.digest);
    let fetching = Fetching {
        objects,
        store,
        map: &map,
        meter,
    };
    let Some(manifest) = content.manifest else {
        return match subpath {
            Some(subpath) => Err(nothing_at(subpath)),
            None => fetching.blobs(&[root]).await,
        };
    };
    let mut moved = fetching.blobs(&[manifest]).await?;
    let (reading, wanted) = (Arc::clone(store), subpath.map(str::to_owned));
    let files = blocking(move || {
        let bytes = reading.read_blob(manifest)?;
        listing::blobs(manifest, &bytes, wanted.as_deref())
    })
    .await?;
    let digests: Vec<Digest> = files.into_iter().map(|(digest, _)| digest).collect();
    moved += fetching.blobs(&digests).await?;
    Ok(moved)
}

fn nothing_at(subpath: &str) -> RemoteError {
    RemoteError::Store(StoreError::NoSubpath {
        subpath: subpath.to_owned(),
        has: Vec::new(),
    })
}

/// What all parts of one fetch share.
struct Fetching<'a> {
    objects: &'a Objects,
    store: &'a Arc<Store>,
    map: &'a Arc<Map>,
    meter: &'a Meter,
}

/// Where in which blobs of a group a chunk is still wanted.
type Wanted = HashMap<u32, Vec<(usize, u64)>>;

/// A part of a pack that is asked for at once.
struct Job {
    pack: Pack,
    range: Range<u64>,
    chunks: Vec<u32>,
}

impl Fetching<'_> {
    /// Brings some blobs of the map.
    async fn blobs(&self, digests: &[Digest]) -> Result<Moved, RemoteError> {
        let by_digest: HashMap<Digest, &Blob> = self.map.blobs.iter().map(|blob| (blob.digest, blob)).collect();
        let mut moved = Moved::default();
        let mut missing = Vec::new();
        for digest in digests {
            let Some(&blob) = by_digest.get(digest) else {
                let path = self.objects.bucket.named("maps", self.map.content.digest);
                return Err(self
                    .objects
                    .bucket
                    .context
                    .damaged(&path, "it lacks a blob of its artifact"));
            };
            self.meter.expect(blob.len);
            if self.store.has_blob(blob.digest, blob.len) {
                self.meter.advance(blob.len, 0);
                moved.spared_bytes += blob.len;
            } else {
                missing.push(blob);
            }
        }
        let local = Arc::new(self.local_sources(&missing).await);
        let mut groups = stream::iter(groups(missing))
            .map(|group| self.group(group, Arc::clone(&local)))
            .buffer_unordered(GROUPS);
        while let Some(group) = groups.try_next().await? {
            moved += group;
        }
        Ok(moved)
    }

    /// Returns which of the missing chunks lie in local blobs, as far as is known.
    async fn local_sources(&self, missing: &[&Blob]) -> HashMap<ChunkId, (Digest, u64)> {
        if missing.iter().map(|blob| blob.len).sum::<u64>() < WORTH_LOOKING {
            return HashMap::new();
        }
        let chunks = missing.iter().flat_map(|blob| &blob.chunks);
        let wanted: HashSet<ChunkId> = chunks
            .filter_map(|&idx| self.map.chunks.get(idx as usize))
            .map(|chunk| chunk.id)
            .collect();
        let (known, copies) = (Arc::clone(&self.objects.known), self.objects.copies.clone());
        let (store, map) = (Arc::clone(self.store), Arc::clone(self.map));
        blocking(move || {
            let state = known.read().unwrap_or_else(std::sync::PoisonError::into_inner).state;
            if state == State::Nothing {
                let maps: Vec<_> = copies
                    .list()
                    .into_iter()
                    .filter_map(|digest| copies.read(digest))
                    .collect();
                let mut known = known.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                maps.iter().for_each(|map| known.add(map));
                known.state = State::Local;
            }
            known
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .add(&map);
            let known = known.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            known.in_blobs(&wanted, |blob| store.has_blob(blob.digest, blob.len))
        })
        .await
    }

    /// Brings a group of blobs; once more if what an earlier transfer left turned out to be in the way.
    async fn group(&self, blobs: Vec<Blob>, local: Arc<HashMap<ChunkId, (Digest, u64)>>) -> Result<Moved, RemoteError> {
        match self.group_once(&blobs, &local).await {
            Err(RemoteError::Store(StoreError::WrongBytes { .. })) => {}
            other => return other,
        }
        match self.group_once(&blobs, &local).await {
            Err(RemoteError::Store(StoreError::WrongBytes { digest })) => {
                let path = self.objects.bucket.named("maps", self.map.content.digest);
                self.objects.copies.forget(self.map.content.digest);
                let why = format!("it says that blob {} consists of what it doesn't", digest.short());
                Err(self.objects.bucket.context.damaged(&path, &why))
            }
            other => other,
        }
    }

    async fn group_once(
        &self,
        blobs: &[Blob],
        local: &Arc<HashMap<ChunkId, (Digest, u64)>>,
    ) -> Result<Moved, RemoteError> {
        let (store, map) = (Arc::clone(self.store), Arc::clone(self.map));
        let (blobs, local) = (blobs.to_vec(), Arc::clone(local));
        let (receiving, wanted, spared) = blocking(move || prepare(&store, &map, blobs, &local)).await?;
        self.meter.advance(spared, 0);
        let mut moved = Moved {
            wire_bytes: 0,
            spared_bytes: spared,
        };
        let (receiving, wanted) = (Arc::new(receiving), Arc::new(wanted));
        let inline: Vec<u32> = wanted.keys().copied().filter(|&idx| self.is_inline(idx)).collect();
        let path = self.objects.bucket.named("maps", self.map.content.digest);
        let wire = inline
            .iter()
            .map(|&idx| u64::from(self.map.chunks[idx as usize].stored))
            .sum();
        let content = self
            .write(&receiving, &wanted, inline, self.map.inline.clone(), 0)
            .await?
            .ok_or_else(|| {
                self.objects
                    .bucket
                    .context
                    .damaged(&path, "a chunk in it is not what it should be")
            })?;
        self.meter.advance(content, wire);
        moved.wire_bytes += wire;
        let mut jobs = stream::iter(jobs(self.map, &wanted))
            .map(|job| self.job(job, &receiving, &wanted))
            .buffer_unordered(self.objects.parallel);
        while let Some(wire) = jobs.try_next().await? {
            moved.wire_bytes += wire;
        }
        drop(jobs);
        let store = Arc::clone(self.store);
        blocking(move || {
            let group = Arc::into_inner(receiving).unwrap_or_default();
            store.admit_incoming(group)
        })
        .await?;
        Ok(moved)
    }

    fn is_inline(&self, idx: u32) -> bool {
        self.map
            .chunks
            .get(idx as usize)
            .is_some_and(|chunk| chunk.pack.is_none())
    }

    /// Brings a part of a pack, and returns its length.
    async fn job(&self, job: Job, receiving: &Arc<Vec<Incoming>>, wanted: &Arc<Wanted>) -> Result<u64, RemoteError> {
        let _permit = self.objects.transfers.acquire().await;
        let path = self.objects.bucket.named("packs", job.pack.digest);
        let mut why = self
            .objects
            .bucket
            .context
            .damaged(&path, "a chunk in it is not what it should be");
        for _ in 0..TRIES {
            let bytes = match self.objects.bucket.get_range(&path, job.range.clone()).await {
                Ok(bytes) => bytes,
                Err(error @ (RemoteError::Damaged { .. } | RemoteError::Unreachable { .. })) => {
                    why = error;
                    continue;
                }
                Err(error) => {
                    why = error;
                    break;
                }
            };
            let wire = bytes.len() as u64;
            let written = self.write(receiving, wanted, job.chunks.clone(), bytes, job.range.start);
            if let Some(content) = written.await? {
                self.meter.advance(content, wire);
                return Ok(wire);
            }
        }
        if !why.is_down() {
            // So that a push replaces it.
            self.objects.known_mut().forget([job.pack.digest]);
        }
        Err(why)
    }

    /// Checks chunks and writes each to where it is wanted; returns how much that was, or none if one is wrong.
    async fn write(
        &self,
        receiving: &Arc<Vec<Incoming>>,
        wanted: &Arc<Wanted>,
        chunks: Vec<u32>,
        bytes: Bytes,
        start: u64,
    ) -> Result<Option<u64>, RemoteError> {
        let (receiving, wanted, map) = (Arc::clone(receiving), Arc::clone(wanted), Arc::clone(self.map));
        let written = blocking(move || {
            let mut content = 0;
            for idx in chunks {
                let Some(chunk) = map.chunks.get(idx as usize) else {
                    return Ok(None);
                };
                let from = (chunk.offset - start) as usize;
                let stored = bytes.slice(from..from + chunk.stored as usize);
                let Some(found) = pack::unpack(stored, chunk.len as usize, chunk.id) else {
                    return Ok(None);
                };
                for &(blob, offset) in wanted.get(&idx).into_iter().flatten() {
                    receiving[blob].write_at(&found, offset)?;
                    content += found.len() as u64;
                }
            }
            Ok::<_, StoreError>(Some(content))
        });
        Ok(written.await?)
    }
}

/// Puts blobs in groups, in their order, which is the order in which their chunks lie in packs.
fn groups(blobs: Vec<&Blob>) -> Vec<Vec<Blob>> {
    let mut groups: Vec<Vec<Blob>> = Vec::new();
    let mut bytes = 0;
    for blob in blobs {
        let fits = |group: &Vec<Blob>| group.len() < GROUP_BLOBS && bytes + blob.len <= GROUP_BYTES;
        match groups.last_mut().filter(|group| fits(group)) {
            Some(group) => group.push(blob.clone()),
            None => {
                bytes = 0;
                groups.push(vec![blob.clone()]);
            }
        }
        bytes += blob.len;
    }
    groups
}

/// Opens the files of a group, keeps what is good in them, and copies what lies in local blobs. Returns what is wanted then,
/// and how much is not.
fn prepare(
    store: &Store,
    map: &Map,
    blobs: Vec<Blob>,
    local: &HashMap<ChunkId, (Digest, u64)>,
) -> Result<(Vec<Incoming>, Wanted, u64), RemoteError> {
    let mut receiving = Vec::with_capacity(blobs.len());
    let mut wanted = Wanted::new();
    let mut spared = 0;
    for (number, blob) in blobs.into_iter().enumerate() {
        let incoming = store.incoming(blob.digest, blob.len)?;
        let mut at = 0;
        for &idx in &blob.chunks {
            let chunk = map.chunks.get(idx as usize).copied();
            // `Map::decode` has checked that it is one of the list.
            let Some(chunk) = chunk else { continue };
            let len = chunk.len as usize;
            let is_left = at + u64::from(chunk.len) <= incoming.continued() && has_chunk(&incoming, at, len, chunk.id);
            if is_left || copy_local(store, local, &incoming, at, len, chunk.id)? {
                spared += u64::from(chunk.len);
            } else {
                wanted.entry(idx).or_default().push((number, at));
            }
            at += u64::from(chunk.len);
        }
        receiving.push(incoming);
    }
    Ok((receiving, wanted, spared))
}

fn has_chunk(incoming: &Incoming, at: u64, len: usize, id: ChunkId) -> bool {
    let mut bytes = vec![0; len];
    incoming.read_at(&mut bytes, at) && ChunkId::of(&bytes) == id
}

fn copy_local(
    store: &Store,
    local: &HashMap<ChunkId, (Digest, u64)>,
    incoming: &Incoming,
    at: u64,
    len: usize,
    id: ChunkId,
) -> Result<bool, StoreError> {
    let Some(&(blob, offset)) = local.get(&id) else {
        return Ok(false);
    };
    let mut bytes = vec![0; len];
    let read = File::open(store.blob_path(blob)).and_then(|file| file.read_exact_at(&mut bytes, offset));
    // A local blob may be damaged too.
    if read.is_err() || ChunkId::of(&bytes) != id {
        return Ok(false);
    }
    incoming.write_at(&bytes, at)?;
    Ok(true)
}

/// Puts the chunks that are wanted from packs into as few requests as is sensible.
fn jobs(map: &Map, wanted: &Wanted) -> Vec<Job> {
    let mut places: Vec<_> = wanted
        .keys()
        .filter_map(|&idx| {
            let chunk = map.chunks.get(idx as usize)?;
            Some((chunk.pack?, chunk.offset, chunk.offset + u64::from(chunk.stored), idx))
        })
        .collect();
    places.sort_unstable();
    let mut jobs: Vec<(u32, Job)> = Vec::new();
    for (number, start, end, idx) in places {
        if let Some((last, job)) = jobs.last_mut()
            && *last == number
            && start <= job.range.end + GAP
            && end - job.range.start <= MAX_RANGE
        {
            job.range.end = job.range.end.max(end);
            job.chunks.push(idx);
            continue;
        }
        let Some(&pack) = map.packs.get(number as usize) else {
            continue;
        };
        let chunks = vec![idx];
        jobs.push((
            number,
            Job {
                pack,
                range: start..end,
                chunks,
            },
        ));
    }
    jobs.into_iter().map(|(_, job)| job).collect()
}
