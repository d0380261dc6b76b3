//! Where a file is cut into chunks, so that what stayed the same in it is found again.
//!
//! - A small file is one chunk.
//! - A safetensors file is cut at its tensors, and large tensors into pieces of a length that depends on the tensor alone:
//!   the same tensor makes the same chunks wherever it lies. Small neighbours go together.
//! - Any other file is cut by its content (FastCDC), with an average length that grows with the class of its size, so
//!   that the edges of a change cost a percent or two of the file, whether that has a megabyte or a terabyte.
//!
//! Where a file is cut depends on its bytes alone, so a transfer that broke finds its chunks again. Changing anything here
//! makes no stored artifact wrong, but new ones share nothing with old ones.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use fastcdc::v2020::StreamCDC;

use super::safetensors;

/// Files up to this size are not cut.
const WHOLE: u64 = 64 << 10;

/// No chunk is longer.
pub(super) const MAX_CHUNK: usize = 4 << 20;

const MIN_AVERAGE: u64 = 8 << 10;
const MAX_AVERAGE: u64 = 1 << 20;

/// Tensors shorter than this go together, up to [`TOGETHER`].
const TINY_TENSOR: u64 = 4 << 10;
const TOGETHER: u64 = 64 << 10;

/// The part of a whole that an average chunk is.
const PARTS: u64 = 128;

/// Names a chunk by half of the BLAKE3 digest of its bytes. That is plenty against accidents, and against intent there is
/// the whole digest of the blob, which is what counts in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ChunkId(pub(super) [u8; 16]);

impl ChunkId {
    pub(super) fn of(bytes: &[u8]) -> ChunkId {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        ChunkId(half)
    }
}

/// The chunks of a file, one after the other.
pub(super) enum Chunks {
    /// Cut at lengths that are known.
    Known {
        reader: BufReader<File>,
        lengths: std::vec::IntoIter<u64>,
    },
    /// Cut by content.
    ByContent(Box<StreamCDC<File>>),
}

impl Chunks {
    /// Decides how a file is to be cut.
    pub(super) fn of(file: File, len: u64) -> io::Result<Chunks> {
        let lengths = match len {
            0 => Vec::new(),
            1..=WHOLE => vec![len],
            _ => match tensors(&file, len)? {
                Some(lengths) => lengths,
                None => {
                    let average = part_of(len).max(MIN_AVERAGE) as usize;
                    let cutter = StreamCDC::new(file, average / 4, average, average * 4);
                    return Ok(Chunks::ByContent(Box::new(cutter)));
                }
            },
        };
        Ok(Chunks::Known {
            reader: BufReader::with_capacity(256 << 10, file),
            lengths: lengths.into_iter(),
        })
    }
}

impl Iterator for Chunks {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        match self {
            Chunks::Known { reader, lengths } => {
                let mut bytes = vec![0; lengths.next()? as usize];
                Some(reader.read_exact(&mut bytes).map(|()| bytes))
            }
            Chunks::ByContent(cutter) => Some(cutter.next()?.map(|chunk| chunk.data).map_err(io::Error::other)),
        }
    }
}

/// Returns the average length of the chunks of something so long: a power of two, so that it seldom changes as it grows.
fn part_of(len: u64) -> u64 {
    (len / PARTS).checked_ilog2().map_or(1, |log| 1 << log).min(MAX_AVERAGE)
}

/// Returns the lengths of the chunks of a safetensors file; none for any other file.
fn tensors(file: &File, len: u64) -> io::Result<Option<Vec<u64>>> {
    let mut start = [0; 9];
    file.read_exact_at(&mut start, 0)?;
    let Some(header_len) = safetensors::header_len(&start, len) else {
        return Ok(None);
    };
    let mut header = vec![0; header_len as usize];
    file.read_exact_at(&mut header, 0)?;
    Ok(safetensors::ends(&header, len).map(|ends| lengths(&ends)))
}

fn lengths(ends: &[u64]) -> Vec<u64> {
    let mut lengths = Vec::new();
    let mut at = 0;
    let mut together = 0;
    for (idx, &end) in ends.iter().enumerate() {
        let len = end - at;
        at = end;
        // The header stands alone: it differs where the tensors don't.
        let is_tiny = idx > 0 && len < TINY_TENSOR;
        if together > 0 && (!is_tiny || together + len > TOGETHER) {
            lengths.push(std::mem::take(&mut together));
        }
        if is_tiny {
            together += len;
        } else {
            cut_evenly(len, &mut lengths);
        }
    }
    if together > 0 {
        lengths.push(together);
    }
    lengths
}

/// Cuts a tensor into pieces of a length that depends on its own length only.
fn cut_evenly(len: u64, lengths: &mut Vec<u64>) {
    let piece = part_of(len).max(2 * MIN_AVERAGE);
    let mut left = len;
    while left > 0 {
        let next = left.min(piece);
        lengths.push(next);
        left -= next;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::remote::objects::safetensors::tests::file_of;
    use crate::remote::objects::tests::noise;

    fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("room for it");
        std::io::Seek::rewind(&mut file).expect("a file");
        let chunks = Chunks::of(file, bytes.len() as u64).expect("a readable file");
        chunks.collect::<io::Result<Vec<_>>>().expect("a readable file")
    }

    fn new_bytes(old: &[u8], new: &[u8]) -> usize {
        let known: HashSet<Vec<u8>> = cut(old).into_iter().collect();
        let fresh = cut(new).into_iter().filter(|chunk| !known.contains(chunk));
        fresh.map(|chunk| chunk.len()).sum()
    }

    #[test]
    fn a_change_in_one_place_moves_little_more_than_itself() {
        for len in [1usize << 20, 5 << 20, 20 << 20] {
            let mut moved = 0;
            let rounds = 6;
            for round in 0..rounds {
                let old = noise(round, len);
                let mut new = old.clone();
                let at = (len / 10) * round as usize;
                new[at..at + len / 20].copy_from_slice(&noise(99, len / 20));
                moved += new_bytes(&old, &new);
            }
            let share = moved as f64 / (len as f64 * rounds as f64);
            assert!(share < 0.075, "{len}: {share}");
        }
    }

    #[test]
    fn bytes_that_are_put_in_move_little() {
        let old = noise(1, 8 << 20);
        let mut new = old.clone();
        new.splice(1_000_000..1_000_000, *b"some more");
        assert!(new_bytes(&old, &new) < 400_000);
    }

    #[test]
    fn the_same_tensor_is_the_same_chunks_wherever_it_lies() {
        let tensor = |seed: u64, len: usize| (format!("t{seed}"), noise(seed, len));
        let base: Vec<_> = (0..12)
            .map(|seed| tensor(seed, 100_000 + 77_777 * seed as usize))
            .collect();
        let mut tuned: Vec<_> = base.iter().rev().cloned().collect();
        tuned[3].1 = noise(77, tuned[3].1.len());
        tuned.insert(0, tensor(50, 3000));
        let moved = new_bytes(&file_of(&base), &file_of(&tuned));
        assert!(moved <= tuned[4].1.len() + 3000 + 2000, "{moved}");
    }

    #[test]
    fn lengths_stay_within_their_limits() {
        let mut ends = vec![100];
        for len in [1, 4095, 4096, 70_000, 5 << 30, 3, 3] {
            ends.push(ends.last().expect("it has one") + len);
        }
        let lengths = lengths(&ends);
        assert_eq!(lengths.iter().sum::<u64>(), *ends.last().expect("it has one"));
        assert_eq!(lengths[..3], [100, 4096, 4096]);
        assert!(lengths.iter().all(|&len| len > 0 && len <= MAX_CHUNK as u64));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn chunks_put_together_are_the_file(seed in any::<u64>(), len in 0usize..400_000, tensors in 0usize..20) {
            let plain = noise(seed, len);
            prop_assert_eq!(cut(&plain).concat(), plain);
            let tensors: Vec<_> = (0..tensors).map(|idx| (format!("t{idx}"), noise(idx as u64, (len * idx) % 30_000))).collect();
            let file = file_of(&tensors);
            let chunks = cut(&file);
            prop_assert!(chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= MAX_CHUNK));
            prop_assert_eq!(chunks.concat(), file);
        }
    }
}
