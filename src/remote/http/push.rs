//! Sending content: what is missing there is asked first, small blobs go many at a time, large ones each on its own.

use std::io::SeekFrom;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use futures::future::BoxFuture;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, Method, Response, StatusCode};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::protocol::{MOST_NAMED, OFFSET_HEADER, SMALL_BLOB_BYTES, push_head};
use super::wire::{ATTEMPTS, is_passing, pause};
use super::{Http, MOST_JSON_BYTES, Missing, blocking, fetch, groups};
use crate::digest::Digest;
use crate::remote::{Content, Meter, Moved, RemoteError};
use crate::store::{Store, StoreError};

/// How much one request carries of small blobs.
const GROUP_BYTES: u64 = 4 << 20;

/// How many small blobs one request carries.
const GROUP_BLOBS: usize = 2000;

const READ_BYTES: usize = 256 << 10;

/// The slowest disk on which a server reads an upload again, to check it, in bytes per second.
const LEAST_HASH_RATE: f64 = 50.0 * 1024.0 * 1024.0;

/// How long somebody else may take to upload the same blob, without getting any further.
const BUSY_PATIENCE: u32 = 30;

impl Http {
    pub(super) async fn push_content(
        &self,
        store: &Arc<Store>,
        content: Content,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        let mut blobs = match content.manifest {
            None => vec![(content.digest, size_of(store, content.digest)?)],
            Some(_) => {
                let manifest = fetch::manifest_of(store, content).await?;
                manifest.files.iter().map(|file| (file.digest, file.size)).collect()
            }
        };
        blobs.sort_unstable();
        blobs.dedup();
        // The manifest is as good as the rest, and comes last all the same: who sees it finds what it names.
        let manifest = match content.manifest {
            Some(digest) => vec![(digest, size_of(store, digest)?)],
            None => Vec::new(),
        };
        meter.expect(blobs.iter().chain(&manifest).map(|(_, size)| size).sum());
        let mut moved = self.push_blobs(store, blobs, meter).await?;
        moved += self.push_blobs(store, manifest, meter).await?;
        Ok(moved)
    }

    /// Sends those of some blobs that are missing there.
    async fn push_blobs(
        &self,
        store: &Arc<Store>,
        blobs: Vec<(Digest, u64)>,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        let mut moved = Moved::default();
        let mut absent = Vec::new();
        for asked in blobs.chunks(MOST_NAMED) {
            let missing = self.missing(asked).await?;
            for blob in asked {
                if missing.binary_search(&blob.0).is_ok() {
                    absent.push(*blob);
                } else {
                    moved.spared_bytes += blob.1;
                    meter.advance(blob.1, 0);
                }
            }
        }
        let (small, large): (Vec<_>, Vec<_>) = absent.into_iter().partition(|(_, size)| *size <= SMALL_BLOB_BYTES);
        let mut transfers: Vec<BoxFuture<'_, _>> = Vec::new();
        for (digest, size) in large {
            transfers.push(Box::pin(self.send_large(store, digest, size, meter)));
        }
        for group in groups(&small, GROUP_BYTES, GROUP_BLOBS) {
            transfers.push(Box::pin(self.send_group(store, group, meter)));
        }
        moved += self.all(transfers).await?;
        Ok(moved)
    }

    /// Returns which of some blobs are missing there, sorted.
    async fn missing(&self, blobs: &[(Digest, u64)]) -> Result<Vec<Digest>, RemoteError> {
        let what = "what is missing";
        let body = serde_json::to_vec(blobs).map_err(|error| RemoteError::Settings(error.to_string()))?;
        let request = || self.wire.request(Method::POST, "v1/missing").body(body.clone());
        let response = self.wire.send_bytes(what, body.len(), request).await?;
        if response.status() != StatusCode::OK {
            return Err(self.wire.fault(what, response).await);
        }
        let mut missing = self
            .wire
            .json::<Missing>(what, response, MOST_JSON_BYTES)
            .await?
            .missing;
        missing.sort_unstable();
        Ok(missing)
    }

    /// Sends small blobs in one request.
    async fn send_group(
        &self,
        store: &Arc<Store>,
        group: Vec<(Digest, u64)>,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        let what = format!("{} blobs", group.len());
        let bytes: u64 = group.iter().map(|(_, size)| size).sum();
        let store = Arc::clone(store);
        let packed = blocking(move || {
            let mut packed = BytesMut::new();
            for (digest, _) in group {
                // Checks it: what is damaged here is not sent there.
                let blob = store.read_blob(digest)?;
                push_head(&mut packed, digest, blob.len() as u64);
                packed.put_slice(&blob);
            }
            Ok(packed.freeze())
        });
        let packed = packed.await?;
        let request = || self.wire.request(Method::POST, "v1/batch/put").body(packed.clone());
        let response = self.wire.send_bytes(&what, packed.len(), request).await?;
        if response.status() != StatusCode::CREATED {
            return Err(self.wire.fault(&what, response).await);
        }
        meter.advance(bytes, packed.len() as u64);
        Ok(Moved {
            wire_bytes: packed.len() as u64,
            spared_bytes: 0,
        })
    }

    /// Sends a blob on its own, from where an earlier attempt broke off.
    async fn send_large(
        &self,
        store: &Arc<Store>,
        digest: Digest,
        size: u64,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        let mut sending = Sending {
            http: self,
            store,
            digest,
            size,
            what: format!("blob {}", digest.short()),
            wire_bytes: 0,
            meter,
        };
        sending.run().await?;
        meter.advance(size, 0);
        Ok(Moved {
            wire_bytes: sending.wire_bytes,
            spared_bytes: size.saturating_sub(sending.wire_bytes),
        })
    }
}

/// A blob that is being sent on its own.
struct Sending<'a> {
    http: &'a Http,
    store: &'a Arc<Store>,
    digest: Digest,
    size: u64,
    what: String,
    wire_bytes: u64,
    meter: &'a Meter,
}

/// The answer to an upload that does not go on where it should.
#[derive(Deserialize)]
struct Elsewhere {
    offset: u64,
}

/// What became of one request.
enum Sent {
    Done,
    /// More is to be sent, from here on.
    From(u64),
    /// Somebody else sends it, or the server has to be given time; it may be further or through meanwhile.
    Later(RemoteError),
}

impl Sending<'_> {
    async fn run(&mut self) -> Result<(), RemoteError> {
        let mut offset = self.offset().await?;
        let (mut furthest, mut attempt, mut restarted) = (offset, 0, false);
        loop {
            let fault = match self.part(offset).await {
                Ok(Sent::Done) => return Ok(()),
                Ok(Sent::From(other)) => {
                    // The server is right about what it has; that it changes its mind for ever is its fault.
                    offset = other.min(self.size);
                    attempt += u32::from(offset <= furthest);
                    furthest = furthest.max(offset);
                    if attempt < ATTEMPTS {
                        continue;
                    }
                    self.refused("the server does not take it")
                }
                Ok(Sent::Later(error)) => error,
                Err(RemoteError::Damaged { .. }) if !restarted => {
                    // What was there before was wrong, or something on the way was; the server has thrown it away.
                    (restarted, offset) = (true, 0);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let is_busy = matches!(&fault, RemoteError::Refused { .. });
            attempt += 1;
            if attempt >= if is_busy { BUSY_PATIENCE } else { ATTEMPTS } {
                return Err(fault);
            }
            tracing::debug!(error = %fault, attempt, "sent again");
            pause(attempt, None).await;
            offset = self.offset().await?;
            if offset > furthest {
                (furthest, attempt) = (offset, 0);
            }
        }
    }

    fn refused(&self, why: &str) -> RemoteError {
        RemoteError::Refused {
            what: format!("{} at {}", self.what, self.http.wire.address()),
            why: why.to_owned(),
        }
    }

    fn path(&self) -> String {
        format!("v1/uploads/{}", self.digest)
    }

    /// Asks how much is there.
    async fn offset(&self) -> Result<u64, RemoteError> {
        let request = || self.http.wire.request(Method::HEAD, &self.path());
        let response = self.http.wire.send(&self.what, request).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(0),
            StatusCode::OK => Ok(offset_of(&response).filter(|offset| *offset <= self.size).unwrap_or(0)),
            _ => Err(self.http.wire.fault(&self.what, response).await),
        }
    }

    /// Sends all from an offset on in one request.
    async fn part(&mut self, offset: u64) -> Result<Sent, RemoteError> {
        let path = self.store.blob_path(self.digest);
        let read = |source| StoreError::Io {
            action: "read",
            path: path.clone(),
            source,
        };
        let mut file = tokio::fs::File::open(&path).await.map_err(read)?;
        file.seek(SeekFrom::Start(offset)).await.map_err(read)?;
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let rest = ReaderStream::with_capacity(file.take(self.size - offset), READ_BYTES);
        let rest = rest.inspect(move |piece| {
            let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            counter.fetch_add(length, Ordering::Relaxed);
        });
        let query = format!("{}?size={}&offset={offset}", self.path(), self.size);
        let request = self.http.wire.request(Method::PUT, &query);
        let request = request
            .header(CONTENT_LENGTH, self.size - offset)
            .body(Body::wrap_stream(rest));
        let answer = self.patiently(request.send(), &sent, self.size - offset).await;
        let sent = sent.load(Ordering::Relaxed);
        self.wire_bytes += sent;
        self.meter.advance(0, sent);
        match answer {
            Ok(response) => self.understand(response).await,
            Err(error) => Ok(Sent::Later(error)),
        }
    }

    /// Waits for an answer as long as bytes go out, and then as long as the server may need to check them.
    async fn patiently(
        &self,
        request: impl Future<Output = reqwest::Result<Response>>,
        sent: &AtomicU64,
        all: u64,
    ) -> Result<Response, RemoteError> {
        let wire = &self.http.wire;
        let checking = Duration::from_secs_f64(self.size as f64 / LEAST_HASH_RATE);
        let mut request = std::pin::pin!(request);
        let mut before = 0;
        loop {
            let is_all = before >= all;
            let patience = if is_all {
                wire.timeout() + checking
            } else {
                wire.timeout()
            };
            match tokio::time::timeout(patience, &mut request).await {
                Ok(answer) => return answer.map_err(|error| wire.unreachable(&self.what, &error)),
                Err(_) if is_all || sent.load(Ordering::Relaxed) == before => return Err(wire.silent(&self.what)),
                Err(_) => before = sent.load(Ordering::Relaxed),
            }
        }
    }

    async fn understand(&self, response: Response) -> Result<Sent, RemoteError> {
        let wire = &self.http.wire;
        let response = wire.understood(&self.what, response)?;
        match response.status() {
            StatusCode::CREATED => Ok(Sent::Done),
            StatusCode::ACCEPTED => {
                let offset = offset_of(&response);
                offset
                    .map(Sent::From)
                    .ok_or_else(|| self.refused("it does not say how much it has"))
            }
            StatusCode::CONFLICT => {
                let elsewhere: Elsewhere = wire.json(&self.what, response, MOST_JSON_BYTES).await?;
                Ok(Sent::From(elsewhere.offset))
            }
            StatusCode::SERVICE_UNAVAILABLE if is_passing(&response) => match wire.fault(&self.what, response).await {
                RemoteError::Unreachable { why, .. } => Ok(Sent::Later(self.refused(&why))),
                error => Err(error),
            },
            StatusCode::UNPROCESSABLE_ENTITY => Err(RemoteError::Damaged {
                what: self.what.clone(),
                why: "what arrived at the server has another digest; `volvelle fsck` tells whether it is so here"
                    .to_owned(),
            }),
            _ if is_passing(&response) => match wire.fault(&self.what, response).await {
                error @ RemoteError::Unreachable { .. } => Ok(Sent::Later(error)),
                error => Err(error),
            },
            _ => Err(wire.fault(&self.what, response).await),
        }
    }
}

fn offset_of(response: &Response) -> Option<u64> {
    response.headers().get(OFFSET_HEADER)?.to_str().ok()?.parse().ok()
}

fn size_of(store: &Store, digest: Digest) -> Result<u64, StoreError> {
    store.blob_size(digest).ok_or(StoreError::MissingBlob { digest })
}
