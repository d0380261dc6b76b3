//! Maps: of one artifact, which chunks its blobs consist of and where those lie.
//!
//! A map checks itself and is read as what it is, something from elsewhere: no number in it is believed before it is
//! compared with what it has to fit into. Small contents lie in the map itself, so that a small artifact is one object.
//!
//! ```text
//! volvelle map 1\n   BLAKE3 of what follows   length of the body (u32)   the body, compressed with zstd
//! the body: artifact digest, 1 + manifest digest or 0
//!   packs:  count, digests, lengths
//!   chunks: count, ids, lengths, bytes saved by compression, packs (0 is the map itself), distances from where the one
//!           before ended
//!   blobs:  count, then of each digest, length, number of chunks, distances from the chunk after the last one
//!   inline: count, bytes
//! ```
//! Numbers are LEB128, those that can be negative with the sign in the lowest bit. Columns lie together, since most of
//! those numbers are then zero.

use std::collections::HashMap;
use std::io::Read;

use bytes::Bytes;

use super::chunks::{ChunkId, MAX_CHUNK};
use crate::digest::Digest;
use crate::remote::Content;

const MAGIC: &[u8; 15] = b"volvelle map 1\n";

/// No map is longer, as it is stored: that is enough for some terabytes.
pub(super) const MAX_STORED: u64 = 128 << 20;

/// Nor when it is unpacked.
const MAX_BODY: u64 = 512 << 20;

/// What one artifact consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) content: Content,
    pub(super) packs: Vec<Pack>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) blobs: Vec<Blob>,
    /// The chunks that lie in the map itself.
    pub(super) inline: Bytes,
}

/// A pack that a map needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) digest: Digest,
    pub(super) len: u64,
}

/// A chunk and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) id: ChunkId,
    pub(super) len: u32,
    /// Its length as it is stored; equal to `len` where it is stored as it is.
    pub(super) stored: u32,
    /// Which pack of the map; none for the map itself.
    pub(super) pack: Option<u32>,
    pub(super) offset: u64,
}

/// A blob of the artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) len: u64,
    /// Its chunks in their order, as places in the map's list.
    pub(super) chunks: Vec<u32>,
}

impl Map {
    /// Returns the blob of a digest.
    pub(super) fn blob(&self, digest: Digest) -> Option<&Blob> {
        self.blobs.iter().find(|blob| blob.digest == digest)
    }

    pub(super) fn encode(&self) -> std::io::Result<Vec<u8>> {
        let body = self.body();
        let mut rest = (body.len() as u32).to_le_bytes().to_vec();
        rest.extend(zstd::bulk::compress(&body, 3)?);
        Ok([&MAGIC[..], &Digest::of(&rest).0, &rest].concat())
    }

    fn body(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.digest(self.content.digest);
        out.number(u64::from(self.content.manifest.is_some()));
        self.content.manifest.into_iter().for_each(|digest| out.digest(digest));
        out.number(self.packs.len() as u64);
        self.packs.iter().for_each(|pack| out.digest(pack.digest));
        self.packs.iter().for_each(|pack| out.number(pack.len));
        out.number(self.chunks.len() as u64);
        self.chunks.iter().for_each(|chunk| out.0.extend(chunk.id.0));
        self.chunks.iter().for_each(|chunk| out.number(chunk.len.into()));
        let saved = |chunk: &Chunk| u64::from(chunk.len - chunk.stored);
        self.chunks.iter().for_each(|chunk| out.number(saved(chunk)));
        let pack = |chunk: &Chunk| chunk.pack.map_or(0, |pack| u64::from(pack) + 1);
        self.chunks.iter().for_each(|chunk| out.number(pack(chunk)));
        let mut ends = Ends::default();
        for chunk in &self.chunks {
            out.signed(chunk.offset as i64 - ends.of(chunk.pack) as i64);
            ends.set(chunk.pack, chunk.offset + u64::from(chunk.stored));
        }
        out.number(self.blobs.len() as u64);
        for blob in &self.blobs {
            out.digest(blob.digest);
            out.number(blob.len);
            out.number(blob.chunks.len() as u64);
        }
        let mut next = 0;
        for &chunk in self.blobs.iter().flat_map(|blob| &blob.chunks) {
            out.signed(i64::from(chunk) - next);
            next = i64::from(chunk) + 1;
        }
        out.number(self.inline.len() as u64);
        out.0.extend_from_slice(&self.inline);
        out.0
    }

    /// Reads a map of some content; the error says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Map, &'static str> {
        let rest = bytes
            .strip_prefix(MAGIC)
            .ok_or("it is no map, or one of a newer volvelle")?;
        let (digest, rest) = rest.split_at_checked(32).ok_or("it is cut short")?;
        if Digest::of(rest).0 != digest {
            return Err("its bytes are not those that were written");
        }
        let (len, packed) = rest.split_first_chunk::<4>().ok_or("it is cut short")?;
        let len = u64::from(u32::from_le_bytes(*len));
        if len > MAX_BODY {
            return Err("it is too long");
        }
        let mut body = Vec::new();
        zstd::stream::Decoder::with_buffer(packed)
            .and_then(|decoder| decoder.take(len + 1).read_to_end(&mut body))
            .map_err(|_| "it can't be unpacked")?;
        if body.len() as u64 != len {
            return Err("it can't be unpacked");
        }
        let map = Reader(&body).map().ok_or("it is malformed")?;
        if !map.is_sound() {
            return Err("it contradicts itself");
        }
        Ok(map)
    }

    /// Returns whether all parts fit together.
    fn is_sound(&self) -> bool {
        let fits = |chunk: &Chunk| {
            let room = match chunk.pack {
                None => Some(self.inline.len() as u64),
                Some(pack) => self.packs.get(pack as usize).map(|pack| pack.len),
            };
            let end = chunk.offset.checked_add(chunk.stored.into());
            (1..=MAX_CHUNK as u32).contains(&chunk.len)
                && (1..=chunk.len).contains(&chunk.stored)
                && matches!((room, end), (Some(room), Some(end)) if end <= room)
        };
        let is_whole = |blob: &Blob| {
            let len = blob.chunks.iter().try_fold(0u64, |sum, &chunk| {
                sum.checked_add(self.chunks.get(chunk as usize)?.len.into())
            });
            len == Some(blob.len)
        };
        let root = self.content.manifest.unwrap_or(self.content.digest);
        self.chunks.iter().all(fits) && self.blobs.iter().all(is_whole) && self.blob(root).is_some()
    }
}

/// Where the last chunk of each pack ended.
#[derive(Default)]
struct Ends(HashMap<Option<u32>, u64>);

impl Ends {
    fn of(&self, pack: Option<u32>) -> u64 {
        self.0.get(&pack).copied().unwrap_or(0)
    }

    fn set(&mut self, pack: Option<u32>, end: u64) {
        self.0.insert(pack, end);
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn digest(&mut self, digest: Digest) {
        self.0.extend(digest.0);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn digest(&mut self) -> Option<Digest> {
        self.bytes().map(Digest)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.bytes()?;
            let part = u64::from(byte & 0x7f);
            if (part << shift) >> shift != part {
                return None;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// Reads how many things follow, each of which takes at least so many bytes: a count can't ask for more memory than
    /// there are bytes.
    fn count(&mut self, bytes_each: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count.checked_mul(bytes_each)? <= self.0.len()).then_some(count)
    }

    fn column<T>(&mut self, count: usize, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut column = Vec::with_capacity(count);
        for _ in 0..count {
            column.push(read(self)?);
        }
        Some(column)
    }

    fn map(mut self) -> Option<Map> {
        let digest = self.digest()?;
        let manifest = match self.number()? {
            0 => None,
            1 => Some(self.digest()?),
            _ => return None,
        };
        let num_packs = self.count(33)?;
        let digests = self.column(num_packs, Self::digest)?;
        let lengths = self.column(num_packs, Self::number)?;
        let packs = digests
            .into_iter()
            .zip(lengths)
            .map(|(digest, len)| Pack { digest, len });
        let packs = packs.collect();
        let chunks = self.chunks()?;
        let blobs = self.blobs()?;
        let inline = self.count(1)?;
        (inline == self.0.len()).then(|| Map {
            content: Content { digest, manifest },
            packs,
            chunks,
            blobs,
            inline: Bytes::copy_from_slice(self.0),
        })
    }

    fn chunks(&mut self) -> Option<Vec<Chunk>> {
        let count = self.count(20)?;
        let ids = self.column(count, Self::bytes::<16>)?;
        let lengths = self.column(count, Self::number)?;
        let saved = self.column(count, Self::number)?;
        let packs = self.column(count, Self::number)?;
        let mut ends = Ends::default();
        let mut chunks = Vec::with_capacity(count);
        for idx in 0..count {
            let len = u32::try_from(lengths[idx]).ok()?;
            let stored = len.checked_sub(u32::try_from(saved[idx]).ok()?)?;
            let pack = match packs[idx].checked_sub(1) {
                None => None,
                Some(pack) => Some(u32::try_from(pack).ok()?),
            };
            let offset = ends.of(pack).checked_add_signed(self.signed()?)?;
            ends.set(pack, offset.checked_add(stored.into())?);
            chunks.push(Chunk {
                id: ChunkId(ids[idx]),
                len,
                stored,
                pack,
                offset,
            });
        }
        Some(chunks)
    }

    fn blobs(&mut self) -> Option<Vec<Blob>> {
        let count = self.count(34)?;
        let heads = self.column(count, |reader| {
            Some((reader.digest()?, reader.number()?, reader.number()?))
        })?;
        let mut next = 0i64;
        let mut blobs = Vec::with_capacity(count);
        for (digest, len, num_chunks) in heads {
            let num_chunks = usize::try_from(num_chunks)
                .ok()
                .filter(|&count| count <= self.0.len())?;
            let chunks = self.column(num_chunks, |reader| {
                let chunk = u32::try_from(next.checked_add(reader.signed()?)?).ok()?;
                next = i64::from(chunk) + 1;
                Some(chunk)
            })?;
            blobs.push(Blob { digest, len, chunks });
        }
        Some(blobs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example(num_chunks: usize, seed: u64) -> Map {
        let packs = (0..3u8).map(|idx| Pack {
            digest: Digest::of(&[idx]),
            len: 1 << 30,
        });
        let chunks = (0..num_chunks).map(|idx| {
            let mix = (idx as u64 + 1).wrapping_mul(seed | 1) % 1000;
            let pack = [None, Some(0), Some(1), Some(2)][mix as usize % 4];
            Chunk {
                id: ChunkId::of(&idx.to_le_bytes()),
                len: 1 + mix as u32 * 2,
                stored: 1 + mix as u32,
                pack,
                offset: if pack.is_none() { mix } else { mix * 31 },
            }
        });
        let chunks: Vec<_> = chunks.collect();
        let picked: Vec<u32> = (0..num_chunks as u32).rev().collect();
        let len = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let root = Digest::of(b"root");
        Map {
            content: Content {
                digest: Digest::of(b"tree"),
                manifest: Some(root),
            },
            packs: packs.collect(),
            chunks,
            blobs: vec![
                Blob {
                    digest: root,
                    len,
                    chunks: picked,
                },
                Blob {
                    digest: Digest::of(b""),
                    len: 0,
                    chunks: vec![],
                },
            ],
            inline: Bytes::from(vec![5; 3000]),
        }
    }

    /// Returns a map file around any body, as somebody who means harm would make it.
    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut rest = (body.len() as u32).to_le_bytes().to_vec();
        rest.extend(zstd::bulk::compress(body, 1).expect("zstd works"));
        [&MAGIC[..], &Digest::of(&rest).0, &rest].concat()
    }

    #[test]
    fn a_map_that_contradicts_itself_is_refused() {
        let mut map = example(5, 3);
        map.blobs[0].len += 1;
        assert!(Map::decode(&map.encode().expect("zstd works")).is_err());
        let mut map = example(5, 3);
        map.inline = Bytes::new();
        assert!(Map::decode(&map.encode().expect("zstd works")).is_err());
        let mut map = example(5, 3);
        map.blobs.remove(0);
        assert!(Map::decode(&map.encode().expect("zstd works")).is_err());
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut rest = 1000u32.to_le_bytes().to_vec();
        rest.extend(zstd::bulk::compress(&vec![0; 256 << 20], 19).expect("zstd works"));
        let bomb = [&MAGIC[..], &Digest::of(&rest).0, &rest].concat();
        assert!(Map::decode(&bomb).is_err());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(num_chunks in 0usize..200, seed in any::<u64>()) {
            let map = example(num_chunks, seed);
            prop_assert_eq!(Map::decode(&map.encode().expect("zstd works")), Ok(map));
        }

        #[test]
        fn a_flipped_bit_is_noticed(num_chunks in 0usize..40, at in any::<usize>()) {
            let mut bytes = example(num_chunks, 7).encode().expect("zstd works");
            let bit = at % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Map::decode(&bytes).is_err());
        }

        #[test]
        fn hostile_bodies_do_no_harm(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            num_chunks in 0usize..20,
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        ) {
            let _ = Map::decode(&sealed(&noise));
            let mut body = example(num_chunks, 9).body();
            for (at, byte) in changes {
                let at = at % body.len();
                body[at] = byte;
            }
            if let Ok(map) = Map::decode(&sealed(&body)) {
                prop_assert!(map.is_sound());
            }
        }
    }
}
