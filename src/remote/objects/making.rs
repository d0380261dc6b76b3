//! Making packs of blobs: what the remote does not have is cut, compressed and put together, in the order of the blobs.
//!
//! It runs on one thread, with the hashing and compressing of a batch on all cores, and knows no network: packs go to a
//! channel. Each blob is hashed while it is read: no map ever names a damaged one.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use bytes::Bytes;
use rayon::prelude::*;
use tokio::sync::mpsc;

use super::chunks::{ChunkId, Chunks};
use super::map::{Blob, Chunk, Map, Pack};
use super::{known, pack};
use crate::digest::Digest;
use crate::remote::{Content, RemoteError, listing};
use crate::store::{Store, StoreError};

/// Content up to this size lies in its map.
pub(super) const INLINE: u64 = 128 << 10;

/// So does the manifest of larger content, which has to be read before anything else.
const INLINE_MANIFEST: u64 = 512 << 10;

/// How much is read before it is hashed and compressed on all cores.
const BATCH: usize = 4 << 20;

/// What the reading thread hands over.
pub(super) enum Made {
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
pub(super) struct Job {
    content: Content,
    blobs: Vec<(Digest, u64)>,
}

impl Job {
    pub(super) fn read(store: &Store, content: Content) -> Result<Job, StoreError> {
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
        let files = listing::blobs(manifest, &bytes, None)?;
        let mut blobs = vec![(manifest, bytes.len() as u64)];
        blobs.extend(files.into_iter().filter(|file| file.0 != manifest));
        Ok(Job { content, blobs })
    }

    /// Returns the bytes of all blobs together.
    pub(super) fn len(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.1).sum()
    }

    fn is_inline(&self, blob: (Digest, u64)) -> bool {
        self.len() <= INLINE || (Some(blob.0) == self.content.manifest && blob.1 <= INLINE_MANIFEST)
    }
}

/// Makes packs and the map that says what lies where in them.
pub(super) struct Maker<'a> {
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
    pub(super) fn new(known: &'a std::sync::RwLock<known::Known>, sender: mpsc::Sender<Made>) -> Maker<'a> {
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

    /// Makes all packs of a job, hands each over, and returns the map.
    pub(super) fn make(mut self, store: &Store, job: &Job) -> Result<Map, RemoteError> {
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
