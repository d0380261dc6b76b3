//! Many small blobs in one request: a sweep of ten thousand files would drown in round trips and in flushes otherwise.
//!
//! How a batch is written is told in `remote/http/protocol.rs`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use serde_json::json;

use super::body::Incoming;
use super::refusal::Refusal;
use super::routes::{blocking, json_answer};
use super::shared::Shared;
use crate::digest::Digest;
use crate::remote::http::protocol::{
    ABSENT, BATCH_TYPE, FRAME_HEAD_BYTES, MOST_BATCH_BYTES, MOST_NAMED, SMALL_BLOB_BYTES, TooLong, push_head,
    take_frame,
};
use crate::store::Store;

/// How many blobs are read at a time.
const READ_GROUP: usize = 8;

/// How much is gathered before it is made durable in one go.
const COMMIT_BYTES: usize = 8 << 20;

/// `POST /v1/batch/get`: the blobs of a list of digests, in its order.
pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let limit = MOST_NAMED as u64 * 80;
    let bytes = Incoming::new(&headers, body, limit, shared.pace)?.whole().await?;
    let asked: Vec<Digest> =
        serde_json::from_slice(&bytes).map_err(|error| Refusal::bad(format!("not a list of digests: {error}")))?;
    if asked.len() > MOST_NAMED {
        return Err(Refusal::bad(format!("more than {MOST_NAMED} at once")));
    }
    let groups: Vec<Vec<Digest>> = asked.chunks(READ_GROUP).map(<[Digest]>::to_vec).collect();
    let frames = stream::iter(groups)
        .map(move |group| {
            let store = Arc::clone(&shared.store);
            async move {
                let read = tokio::task::spawn_blocking(move || read_group(&store, &group)).await;
                read.unwrap_or_else(|error| Err(std::io::Error::other(error)))
            }
        })
        .buffered(2);
    Ok(([(header::CONTENT_TYPE, BATCH_TYPE)], Body::from_stream(frames)).into_response())
}

fn read_group(store: &Store, group: &[Digest]) -> std::io::Result<Bytes> {
    let mut out = BytesMut::new();
    for digest in group {
        let is_small = store.blob_size(*digest).is_some_and(|size| size <= SMALL_BLOB_BYTES);
        let bytes = is_small.then(|| std::fs::read(store.blob_path(*digest)));
        match bytes {
            Some(Ok(bytes)) if bytes.len() as u64 <= SMALL_BLOB_BYTES => {
                push_head(&mut out, *digest, bytes.len() as u64);
                out.put_slice(&bytes);
            }
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => push_head(&mut out, *digest, ABSENT),
        }
    }
    Ok(out.freeze())
}

/// `POST /v1/batch/put`: lets blobs in, in groups, each durable as a whole. Says how many.
///
/// A batch that breaks off leaves the groups that were whole; who asks what is missing then sends only the rest.
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let _slot = shared.upload_slot().await?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    let _room = shared.reserve(announced.unwrap_or(MOST_BATCH_BYTES))?;
    let mut body = Incoming::new(&headers, body, MOST_BATCH_BYTES, shared.pace)?;
    let (mut come, mut group, mut gathered, mut admitted) = (BytesMut::new(), Vec::new(), 0, 0);
    while let Some(piece) = body.next().await? {
        come.extend_from_slice(&piece);
        while let Some((digest, bytes)) = take_frame(&mut come).map_err(too_long)? {
            let bytes = bytes.ok_or_else(|| Refusal::bad("a frame without bytes"))?;
            gathered += bytes.len() + FRAME_HEAD_BYTES;
            group.push((digest, bytes));
            if admitted + group.len() > MOST_NAMED {
                return Err(Refusal::bad(format!("more than {MOST_NAMED} at once")));
            }
            if gathered >= COMMIT_BYTES {
                gathered = 0;
                admitted += commit(&shared, std::mem::take(&mut group)).await?;
            }
        }
    }
    if !come.is_empty() {
        return Err(Refusal::bad("the batch ends in the middle of a frame"));
    }
    admitted += commit(&shared, group).await?;
    Ok(json_answer(StatusCode::CREATED, &json!({"admitted": admitted})))
}

fn too_long(error: TooLong) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
}

async fn commit(shared: &Arc<Shared>, group: Vec<(Digest, Bytes)>) -> Result<usize, Refusal> {
    let (store, count) = (Arc::clone(&shared.store), group.len());
    blocking(move || Ok(store.admit_bytes(&group)?)).await?;
    Ok(count)
}
