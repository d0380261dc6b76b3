//! Blobs over HTTP: streamed from the disk in large reads, in part where a part is asked for, compressed where it pays.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use serde_json::json;

use super::body::Incoming;
use super::refusal::Refusal;
use super::routes::{Name, blocking, json_answer, query};
use super::shared::Shared;
use crate::digest::Digest;
use crate::remote::http::protocol::{MOST_NAMED, SIZE_HEADER};

/// How much is read at a time; two of these are in memory for each answer that is being sent.
const READ_BYTES: u64 = 256 << 10;

/// Below this a compressed answer spares nothing that matters.
const WORTH_COMPRESSING_BYTES: u64 = 16 << 10;

const ZSTD_LEVEL: i32 = 1;

/// `GET` and `HEAD /v1/blobs/DIGEST`.
pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Name(digest): Name,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let path = shared.store.blob_path(digest);
    let takes_zstd = accepts_zstd(&headers) && !headers.contains_key(header::RANGE) && method != Method::HEAD;
    let opened = blocking(move || {
        let file = File::open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(Refusal::absent());
        }
        let is_worth = takes_zstd && found.len() >= WORTH_COMPRESSING_BYTES && compresses(&file);
        let whole = (found.len() <= READ_BYTES && method != Method::HEAD).then(|| read(&file, 0..found.len()));
        Ok((file, found.len(), whole.transpose()?, is_worth))
    });
    let (file, size, whole, is_worth) = opened.await?;
    let etag = HeaderValue::try_from(format!("\"{digest}\"")).map_err(|_| Refusal::absent())?;
    let is_same = |value: &HeaderValue| value.to_str().is_ok_and(|tags| tags.contains(&digest.to_string()));
    if headers.get(header::IF_NONE_MATCH).is_some_and(is_same) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let mut response = match (range(&headers, size)?, whole) {
        (None, _) if is_worth && let Some(slot) = shared.compressing_slot() => {
            let mut response = Body::from_stream(compressed(file, slot)).into_response();
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
            response
        }
        (None, Some(whole)) => Body::from(whole).into_response(),
        (None, None) => sized(Body::from_stream(pieces(file, 0..size)), size),
        (Some(range), whole) => {
            let says = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            let length = range.end - range.start;
            let body = match whole {
                Some(whole) => Body::from(whole.slice(range.start as usize..range.end as usize)),
                None => Body::from_stream(pieces(file, range)),
            };
            let mut response = sized(body, length);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            if let Ok(says) = HeaderValue::try_from(says) {
                response.headers_mut().insert(header::CONTENT_RANGE, says);
            }
            response
        }
    };
    let answer = response.headers_mut();
    answer.insert(header::ETAG, etag);
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    answer.insert(SIZE_HEADER, HeaderValue::from(size));
    answer.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    answer.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, max-age=31536000, immutable"),
    );
    Ok(response)
}

/// `POST /v1/blobs/DIGEST/check`: reads a blob again, and moves it aside if it is damaged, so that it can be sent again.
pub(super) async fn check(State(shared): State<Arc<Shared>>, Name(digest): Name) -> Result<Response, Refusal> {
    let _slot = shared.upload_slot().await?;
    let good = blocking(move || Ok(shared.store.recheck_blob(digest)?)).await?;
    let good = good.ok_or_else(Refusal::absent)?;
    Ok(json_answer(StatusCode::OK, &json!({"good": good})))
}

/// `HEAD /v1/contents/DIGEST[?manifest=DIGEST]`: 200 if all of a file or a folder is here.
pub(super) async fn has_content(
    State(shared): State<Arc<Shared>>,
    Name(digest): Name,
    uri: Uri,
) -> Result<StatusCode, Refusal> {
    let [manifest] = query(&uri, ["manifest"])?;
    let manifest = manifest.map(str::parse::<Digest>).transpose();
    let manifest = manifest.map_err(|_| Refusal::bad("manifest is not a digest"))?;
    let has = blocking(move || Ok(shared.store.has_content(digest, manifest))).await?;
    Ok(if has { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

/// `POST /v1/missing`: of a list of `[DIGEST, SIZE]`, the digests of those that are not here.
pub(super) async fn missing(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    // A digest, a size and what is around them are below a hundred bytes.
    let limit = MOST_NAMED as u64 * 100;
    let bytes = Incoming::new(&headers, body, limit, shared.pace)?.whole().await?;
    let asked: Vec<(Digest, u64)> = serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad(format!("not a list of digests and sizes: {error}")))?;
    if asked.len() > MOST_NAMED {
        return Err(Refusal::bad(format!("more than {MOST_NAMED} at once")));
    }
    let missing = blocking(move || {
        let lacks = |(digest, size): &(Digest, u64)| !shared.store.has_blob(*digest, *size);
        Ok(asked
            .into_iter()
            .filter(lacks)
            .map(|(digest, _)| digest)
            .collect::<Vec<_>>())
    });
    Ok(json_answer(StatusCode::OK, &json!({"missing": missing.await?})))
}

fn sized(body: Body, size: u64) -> Response {
    let mut response = body.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    response
}

/// Reads a part of a file, which has to be as long as it was.
fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

/// Returns a part of a file piece by piece, and reads one ahead of what is being sent.
fn pieces(file: File, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> {
    let file = Arc::new(file);
    let starts = range.clone().step_by(READ_BYTES as usize);
    stream::iter(starts)
        .map(move |start| {
            let (file, end) = (Arc::clone(&file), range.end.min(start + READ_BYTES));
            async move {
                let piece = tokio::task::spawn_blocking(move || read(&file, start..end)).await;
                piece.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
        })
        .buffered(2)
}

/// Returns a whole file as one frame of zstd, made on a thread of its own while it is sent.
fn compressed(file: File, slot: tokio::sync::OwnedSemaphorePermit) -> impl Stream<Item = io::Result<Bytes>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let _slot = slot;
        let mut encoder = match zstd::stream::read::Encoder::new(file, ZSTD_LEVEL) {
            Ok(encoder) => encoder,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        loop {
            let mut piece = Vec::with_capacity(READ_BYTES as usize);
            let piece = match encoder.by_ref().take(READ_BYTES).read_to_end(&mut piece) {
                Ok(0) => return,
                Ok(_) => Ok(Bytes::from(piece)),
                Err(error) => Err(error),
            };
            // Nobody listens any more once the client has gone.
            if sender.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    })
}

/// Tells by its beginning whether a file gets a tenth shorter: weights hardly do, text does.
fn compresses(file: &File) -> bool {
    let mut sample = vec![0; WORTH_COMPRESSING_BYTES as usize];
    file.read_exact_at(&mut sample, 0).is_ok()
        && zstd::bulk::compress(&sample, ZSTD_LEVEL).is_ok_and(|short| short.len() * 10 < sample.len() * 9)
}

fn accepts_zstd(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    accepted.is_some_and(|list| list.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("zstd")))
}

/// Returns the part that is asked for; none where all is, or where more than one part is, which may be ignored.
fn range(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, Refusal> {
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some((first, last)) = asked.and_then(|asked| asked.strip_prefix("bytes=")?.split_once('-')) else {
        return Ok(None);
    };
    let number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u64>().ok())?
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..size.min(last.saturating_add(1)),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(last)) if first.is_empty() && last > 0 => size.saturating_sub(last)..size,
        _ => return Ok(None),
    };
    if range.is_empty() {
        let says = HeaderValue::try_from(format!("bytes */{size}")).map_err(|_| Refusal::absent())?;
        let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "the blob is shorter");
        return Err(refusal.header(header::CONTENT_RANGE, says));
    }
    Ok(Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_the_standard_says() {
        let asked = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(text))]);
            range(&headers, 100).map_err(drop)
        };
        assert_eq!(asked("bytes=0-9"), Ok(Some(0..10)));
        assert_eq!(asked("bytes=90-"), Ok(Some(90..100)));
        assert_eq!(asked("bytes=90-999"), Ok(Some(90..100)));
        assert_eq!(asked("bytes=-10"), Ok(Some(90..100)));
        assert_eq!(asked("bytes=-1000"), Ok(Some(0..100)));
        assert_eq!(asked("bytes=100-"), Err(()));
        for ignored in [
            "bytes=9-0",
            "bytes=-0",
            "bytes=+1-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=-",
            "x",
        ] {
            assert_eq!(asked(ignored), Ok(None), "{ignored}");
        }
    }
}
