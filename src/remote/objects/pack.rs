//! Packs: objects with chunks one after the other, each as it is or compressed.
//!
//! Large enough that a bucket with terabytes has some hundred thousand objects, small enough that a few in memory are
//! nothing and a slow link is done with one in minutes. What lies where in a pack is written in maps.

use bytes::Bytes;

use super::chunks::{ChunkId, MAX_CHUNK};

/// A pack that has reached this size is closed.
pub(super) const FULL: usize = 16 << 20;

/// Less than this share of a chunk saved is not worth the time of unpacking it.
const WORTH: f64 = 0.96;

/// Chunks longer than this are compressed only if a sample of them says that it pays.
const SAMPLE: usize = 64 << 10;

/// zstd's default.
const LEVEL: i32 = 3;

/// Returns a chunk as it is to be stored; what is as long as the chunk is the chunk itself.
pub(super) fn pack(chunk: Vec<u8>) -> Vec<u8> {
    let pays = |part: &[u8]| {
        let packed = zstd::bulk::compress(part, LEVEL).ok()?;
        ((packed.len() as f64) < WORTH * part.len() as f64).then_some(packed)
    };
    if chunk.len() > 2 * SAMPLE {
        let middle = (chunk.len() - SAMPLE) / 2;
        if pays(&chunk[middle..middle + SAMPLE]).is_none() {
            return chunk;
        }
    }
    pays(&chunk).unwrap_or(chunk)
}

/// Returns the chunk that something stored is; none if it is not the one that it should be.
pub(super) fn unpack(stored: Bytes, len: usize, id: ChunkId) -> Option<Bytes> {
    if stored.len() > len || len > MAX_CHUNK {
        return None;
    }
    let chunk = if stored.len() == len {
        stored
    } else {
        // Bounded by the length that is asked for: a few bytes can't become gigabytes.
        Bytes::from(zstd::bulk::decompress(&stored, len).ok()?)
    };
    (chunk.len() == len && ChunkId::of(&chunk) == id).then_some(chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::remote::objects::tests::noise;

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        let random = noise(3, 500_000);
        assert_eq!(pack(random.clone()), random);
        let text = b"over and over ".repeat(40_000);
        let packed = pack(text.clone());
        assert!(packed.len() < text.len() / 100);
        let id = ChunkId::of(&text);
        assert_eq!(unpack(packed.into(), text.len(), id).expect("it was just packed"), text);
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("zstd works");
        let id = ChunkId::of(&vec![0; 64 << 20]);
        assert_eq!(unpack(bomb.clone().into(), 64 << 20, id), None);
        assert_eq!(unpack(bomb.into(), 100_000, id), None);
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(seed in any::<u64>(), len in 1usize..3000, at in any::<usize>(), plain in any::<bool>()) {
            let chunk = if plain { vec![7; len] } else { noise(seed, len) };
            let id = ChunkId::of(&chunk);
            let mut packed = pack(chunk.clone());
            prop_assert_eq!(unpack(packed.clone().into(), len, id).expect("it was just packed"), chunk.clone());
            let bit = at % (packed.len() * 8);
            packed[bit / 8] ^= 1 << (bit % 8);
            // A frame has bits that nothing depends on; then the bytes are still the right ones.
            if let Some(found) = unpack(packed.into(), len, id) {
                prop_assert_eq!(found, chunk);
            }
        }
    }
}
