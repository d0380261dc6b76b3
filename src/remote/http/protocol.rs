//! What both sides of `volvelle serve` have to agree on: names, limits, and how many blobs are packed into one body.
//!
//! A batch is a row of frames, each a digest (32 bytes), a length (64 bits, little-endian) and as many bytes. In an answer
//! the length of what is not there is [`ABSENT`]. All routes are in `src/server/PROTOCOL.md`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::digest::Digest;

/// The version of the protocol, which is in every path and in a header of every answer.
pub const PROTOCOL: u32 = 1;

/// The header that says which protocol a server speaks.
pub const PROTOCOL_HEADER: &str = "volvelle-protocol";

/// The header with which a claim is held, renewed and given up.
pub const CLAIM_HEADER: &str = "volvelle-claim";

/// The header that says how much of an upload is there.
pub const OFFSET_HEADER: &str = "volvelle-offset";

/// The header that says how long a blob is whose answer is compressed.
pub const SIZE_HEADER: &str = "volvelle-size";

/// Blobs up to this size travel many in one request.
pub const SMALL_BLOB_BYTES: u64 = 256 << 10;

/// How many blobs one request may name.
pub const MOST_NAMED: usize = 10_000;

/// How long a batch may be.
pub const MOST_BATCH_BYTES: u64 = 64 << 20;

/// No record file is longer.
pub const MOST_RECORD_BYTES: u64 = 64 << 20;

/// Stands for the length of a blob that is not there, or is too large for a batch.
pub const ABSENT: u64 = u64::MAX;

/// A digest and a length.
pub(crate) const FRAME_HEAD_BYTES: usize = 40;

/// The type of a body that is a batch.
pub const BATCH_TYPE: &str = "application/vnd.volvelle.batch";

/// Appends the head of a frame.
pub fn push_head(out: &mut BytesMut, digest: Digest, length: u64) {
    out.put_slice(&digest.0);
    out.put_u64_le(length);
}

/// Takes a frame off the front of what has come; none if it is not whole yet. The bytes of an absent blob are none.
///
/// # Errors
/// The frame is longer than any may be.
pub fn take_frame(bytes: &mut BytesMut) -> Result<Option<(Digest, Option<Bytes>)>, TooLong> {
    let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else {
        return Ok(None);
    };
    let mut digest = [0; 32];
    digest.copy_from_slice(&head[..32]);
    let length = (&head[32..]).get_u64_le();
    if length == ABSENT {
        bytes.advance(FRAME_HEAD_BYTES);
        return Ok(Some((Digest(digest), None)));
    }
    if length > SMALL_BLOB_BYTES {
        return Err(TooLong);
    }
    let whole = FRAME_HEAD_BYTES + length as usize;
    if bytes.len() < whole {
        return Ok(None);
    }
    bytes.advance(FRAME_HEAD_BYTES);
    Ok(Some((Digest(digest), Some(bytes.split_to(length as usize).freeze()))))
}

/// A frame says that it is longer than a small blob may be.
#[derive(Debug, thiserror::Error)]
#[error("a blob in a batch is longer than {SMALL_BLOB_BYTES} bytes")]
pub struct TooLong;

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            blobs in proptest::collection::vec(proptest::option::of(proptest::collection::vec(0u8.., 0..50)), 0..20),
            cut in 1usize..60,
        ) {
            let mut wire = BytesMut::new();
            for blob in &blobs {
                let bytes = blob.as_deref().unwrap_or_default();
                push_head(&mut wire, Digest::of(bytes), blob.as_ref().map_or(ABSENT, |bytes| bytes.len() as u64));
                wire.put_slice(bytes);
            }
            let (mut come, mut found) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                come.extend_from_slice(piece);
                while let Some(frame) = take_frame(&mut come).expect("all are short") {
                    found.push(frame.1.map(|bytes| bytes.to_vec()));
                }
            }
            proptest::prop_assert_eq!(found, blobs);
            proptest::prop_assert!(come.is_empty());
        }
    }
}
