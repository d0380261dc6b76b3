//! What is known of where chunks lie: in packs of the remote, and through blobs in the local store.
//!
//! It is learned from maps, of which copies are kept in the cache. Losing it costs bytes on the wire, nothing else, and
//! what it says is checked by whoever uses it: a pack may be gone, a blob may be too.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chunks::ChunkId;
use super::map::{Blob, Chunk, Map, Pack};
use crate::digest::Digest;

/// More chunks than this are not kept in memory: at the largest chunks a terabyte, in a hundred megabytes.
const MAX_CHUNKS: usize = 1_000_000;

/// More maps than this are not kept.
pub(super) const MAX_MAPS: usize = 2_000;

/// What the remote has is listed again after this time.
pub(super) const FRESH: Duration = Duration::from_secs(600);

/// Maps in memory and what can be found through them.
#[derive(Debug, Default)]
pub(super) struct Known {
    maps: Vec<Arc<Map>>,
    have: HashSet<Digest>,
    chunks: HashMap<ChunkId, (u32, u32)>,
    blobs: HashMap<Digest, (u32, u32)>,
    /// Packs that can't be relied on.
    gone: HashSet<Digest>,
    pub(super) state: State,
}

/// How much was read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Nothing,
    /// The copies in the cache.
    Local,
    /// What the remote listed then.
    Remote(Instant),
}

impl Known {
    pub(super) fn has(&self, artifact: Digest) -> bool {
        self.have.contains(&artifact)
    }

    pub(super) fn is_full(&self) -> bool {
        self.chunks.len() >= MAX_CHUNKS || self.maps.len() >= MAX_MAPS
    }

    /// Adds a map, unless there is enough.
    pub(super) fn add(&mut self, map: &Arc<Map>) {
        if self.is_full() || !self.have.insert(map.content.digest) {
            return;
        }
        let number = self.maps.len() as u32;
        for (idx, chunk) in map.chunks.iter().enumerate() {
            if chunk.pack.is_some() {
                self.chunks.entry(chunk.id).or_insert((number, idx as u32));
            }
        }
        for (idx, blob) in map.blobs.iter().enumerate() {
            self.blobs.entry(blob.digest).or_insert((number, idx as u32));
        }
        self.maps.push(Arc::clone(map));
    }

    /// Remembers that packs are damaged, not there any more, or not for long.
    pub(super) fn forget(&mut self, packs: impl IntoIterator<Item = Digest>) {
        self.gone.extend(packs);
    }

    /// Takes that back: the pack was written anew.
    pub(super) fn found(&mut self, pack: Digest) {
        self.gone.remove(&pack);
    }

    /// Returns the packs that were forgotten.
    pub(super) fn gone(&self) -> impl Iterator<Item = Digest> {
        self.gone.iter().copied()
    }

    /// Returns where a chunk lies in the remote.
    pub(super) fn chunk(&self, id: ChunkId) -> Option<(Pack, Chunk)> {
        let &(map, idx) = self.chunks.get(&id)?;
        let map = self.maps.get(map as usize)?;
        self.place(map, *map.chunks.get(idx as usize)?)
    }

    /// Returns where all chunks of a blob lie in the remote; none where one doesn't.
    pub(super) fn blob(&self, digest: Digest) -> Option<Vec<(Pack, Chunk)>> {
        let (map, blob) = self.map_of(digest)?;
        let place = |&idx: &u32| self.place(map, *map.chunks.get(idx as usize)?);
        blob.chunks.iter().map(place).collect()
    }

    fn place(&self, map: &Map, chunk: Chunk) -> Option<(Pack, Chunk)> {
        let pack = *map.packs.get(chunk.pack? as usize)?;
        (!self.gone.contains(&pack.digest)).then_some((pack, chunk))
    }

    fn map_of(&self, blob: Digest) -> Option<(&Map, &Blob)> {
        let &(map, idx) = self.blobs.get(&blob)?;
        let map = self.maps.get(map as usize)?;
        Some((map, map.blobs.get(idx as usize)?))
    }

    /// Returns, for the chunks that are wanted, in which blob and where in it each is said to lie, as long as the blob
    /// passes.
    pub(super) fn in_blobs(
        &self,
        wanted: &HashSet<ChunkId>,
        passes: impl Fn(&Blob) -> bool,
    ) -> HashMap<ChunkId, (Digest, u64)> {
        let mut found = HashMap::new();
        for (map, blob) in self
            .maps
            .iter()
            .flat_map(|map| map.blobs.iter().map(move |blob| (map, blob)))
        {
            let mut at = 0;
            let mut is_good = None;
            for chunk in blob.chunks.iter().filter_map(|&idx| map.chunks.get(idx as usize)) {
                if wanted.contains(&chunk.id)
                    && !found.contains_key(&chunk.id)
                    && *is_good.get_or_insert_with(|| passes(blob))
                {
                    found.insert(chunk.id, (blob.digest, at));
                }
                at += u64::from(chunk.len);
            }
        }
        found
    }
}

/// The copies of maps in the cache.
#[derive(Clone, Debug)]
pub(super) struct Copies(pub(super) PathBuf);

impl Copies {
    fn path(&self, artifact: Digest) -> PathBuf {
        self.0.join(artifact.to_string())
    }

    /// Keeps a copy; whether that works matters to nobody.
    pub(super) fn keep(&self, artifact: Digest, bytes: &[u8]) {
        let kept = fs::create_dir_all(&self.0).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
            std::io::Write::write_all(&mut file, bytes)?;
            file.persist(self.path(artifact)).map_err(|error| error.error)?;
            Ok(())
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "a map could not be kept");
        }
    }

    /// Reads a copy; none where there is none that is sound.
    pub(super) fn read(&self, artifact: Digest) -> Option<Arc<Map>> {
        let bytes = fs::read(self.path(artifact)).ok()?;
        let map = Map::decode(&bytes).ok().filter(|map| map.content.digest == artifact)?;
        Some(Arc::new(map))
    }

    /// Removes the copy of a map that turned out to be wrong.
    pub(super) fn forget(&self, artifact: Digest) {
        // One that is not there is as good.
        let _ = fs::remove_file(self.path(artifact));
    }

    /// Lists what there are copies of, newest first, and removes what is too much or no copy.
    pub(super) fn list(&self) -> Vec<Digest> {
        let mut found: Vec<_> = entries(&self.0).collect();
        found.sort_by_key(|(_, modified)| std::cmp::Reverse(*modified));
        for (path, _) in found.drain(MAX_MAPS.min(found.len())..) {
            let _ = fs::remove_file(path);
        }
        let name = |path: &Path| path.file_name()?.to_str()?.parse().ok();
        found.iter().filter_map(|(path, _)| name(path)).collect()
    }

    /// Removes the copies of what the remote does not have any more.
    pub(super) fn keep_only(&self, artifacts: &HashSet<Digest>) {
        for artifact in self.list() {
            if !artifacts.contains(&artifact) {
                self.forget(artifact);
            }
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = (PathBuf, std::time::SystemTime)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.modified().ok()?)))
}
