//! Uploads of large blobs, which continue where they broke off, also after either side was killed.
//!
//! What has come lies in the store's `incoming/` and is seen by nobody. Its length says where to go on, and nothing of
//! it is trusted: the whole file is hashed before it is let in.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use serde_json::json;

use super::body;
use super::refusal::Refusal;
use super::routes::{Name, blocking, query};
use super::shared::{Reserved, Shared};
use crate::remote::http::protocol::OFFSET_HEADER;
use crate::store;

/// How much is gathered before it is written, and so the most that a killed server forgets.
const WRITE_BYTES: usize = 512 << 10;

/// `HEAD /v1/uploads/DIGEST`: how much of a blob has come; 404 if nothing has.
pub(super) async fn offset(State(shared): State<Arc<Shared>>, Name(digest): Name) -> Result<Response, Refusal> {
    let length = blocking(move || {
        let store = &shared.store;
        Ok(store.blob_size(digest).or_else(|| store.incoming_length(digest)))
    });
    let length = length.await?.ok_or_else(Refusal::absent)?;
    Ok((StatusCode::OK, [(OFFSET_HEADER, HeaderValue::from(length))]).into_response())
}

/// `PUT /v1/uploads/DIGEST?size=N&offset=O`: the rest of a blob, or as much as the body has. 201 once the blob is there,
/// 202 if more is to come, 409 with the right offset if it is not `O`, 422 if the bytes were wrong and all is to be sent
/// again.
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Name(digest): Name,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let [size, offset] = query(&uri, ["size", "offset"])?;
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    let size = number(size).ok_or_else(|| Refusal::bad("size has to be a number of bytes"))?;
    let offset = number(Some(offset.unwrap_or("0"))).filter(|offset| *offset <= size);
    let offset = offset.ok_or_else(|| Refusal::bad("offset has to be a number up to size"))?;
    if size > shared.max_blob_bytes {
        let text = format!("no blob may be longer than {} bytes here", shared.max_blob_bytes);
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let _slot = shared.upload_slot().await?;
    let sole = shared
        .sole_uploader(digest)
        .ok_or_else(|| Refusal::busy("somebody else uploads this blob just now"))?;
    let room = shared.reserve(size - offset)?;
    let store = Arc::clone(&shared.store);
    let opened = blocking(move || {
        if store.has_blob(digest, size) {
            return Ok(None);
        }
        Ok(Some(store.incoming(digest, size)?))
    });
    let Some(incoming) = opened.await? else {
        return Ok(StatusCode::CREATED.into_response());
    };
    // From the start is always right: what is there is written over.
    if offset > 0 && incoming.continued() != offset {
        return Err(Refusal::new(StatusCode::CONFLICT, "the upload has another length")
            .with("offset", json!(incoming.continued())));
    }
    let body = body::Incoming::new(&headers, body, size - offset, shared.pace)?;
    let incoming = Arc::new(incoming);
    let end = write(&incoming, body, offset, room).await?;
    if end < size {
        return Ok((StatusCode::ACCEPTED, [(OFFSET_HEADER, HeaderValue::from(end))]).into_response());
    }
    let Ok(incoming) = Arc::try_unwrap(incoming) else {
        return Err(Refusal::busy("the upload is still being written"));
    };
    // Goes on to its end even if the client does not wait for it, and keeps others away until then.
    blocking(move || {
        let _sole = sole;
        Ok(shared.store.admit_incoming(vec![incoming])?)
    })
    .await?;
    Ok(StatusCode::CREATED.into_response())
}

/// Writes a body at its place and returns where it ended. What came before a fault is written too.
async fn write(
    incoming: &Arc<store::Incoming>,
    mut body: body::Incoming,
    mut offset: u64,
    mut room: Reserved,
) -> Result<u64, Refusal> {
    let mut gathered = BytesMut::with_capacity(WRITE_BYTES);
    loop {
        let piece = body.next().await;
        if let Ok(Some(piece)) = &piece {
            gathered.extend_from_slice(piece);
        }
        let is_last = !matches!(piece, Ok(Some(_)));
        if gathered.len() >= WRITE_BYTES || (is_last && !gathered.is_empty()) {
            let bytes = gathered.split().freeze();
            let (length, target) = (bytes.len() as u64, Arc::clone(incoming));
            blocking(move || Ok(target.write_at(&bytes, offset)?)).await?;
            room.written(length);
            offset += length;
        }
        match piece {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(offset),
            Err(refusal) => return Err(refusal),
        }
    }
}
