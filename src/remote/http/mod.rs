//! The client of `volvelle serve`: shares records and artifacts with a store that another machine serves.
//!
//! It owns what is asked for in which order: many small blobs in one request, large ones each on its own and continued
//! where they broke off. How one request is made, repeated and understood is in `wire`. Nothing that comes is believed:
//! a blob is let into the store by its digest, a manifest only if it is the one that the folder's digest names.

mod fetch;
pub mod protocol;
mod push;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::{
    Content, Meter, Moved, RecordPut, Remote, RemoteClaim, RemoteCollected, RemoteError, RemoteGc, RemoteStatus,
};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::settings::RemoteSettings;
use crate::store::{Owner, Store, StoreError};
use protocol::{CLAIM_HEADER, MOST_RECORD_BYTES};
use wire::Wire;

/// How many transfers go on at once where the settings don't say.
const PARALLEL: u32 = 8;

/// No answer in JSON is longer.
const MOST_JSON_BYTES: u64 = 4 << 20;

/// Returns the `volvelle serve` at an address. Nothing is asked yet.
///
/// The token is that of VOLVELLE_TOKEN, or what the file says that VOLVELLE_TOKEN_FILE names.
///
/// # Errors
/// The address or the token can't be one.
pub fn open(settings: &RemoteSettings) -> Result<Arc<dyn Remote>, RemoteError> {
    open_with(settings, wire::token_of_environment()?)
}

/// As [`open`], with a token that is known already.
pub fn open_with(settings: &RemoteSettings, token: Option<String>) -> Result<Arc<dyn Remote>, RemoteError> {
    Ok(Arc::new(Http {
        wire: Arc::new(Wire::new(settings, token)?),
        parallel: settings.parallel.unwrap_or(PARALLEL).clamp(1, 256) as usize,
    }))
}

/// One server.
#[derive(Clone, Debug)]
struct Http {
    wire: Arc<Wire>,
    parallel: usize,
}

/// The answer to what is missing.
#[derive(Deserialize)]
struct Missing {
    missing: Vec<Digest>,
}

/// The answer to a claim that is somebody else's.
#[derive(Deserialize)]
struct Taken {
    owner: Option<Owner>,
    mark: String,
}

#[derive(Deserialize)]
struct Status {
    records: u64,
    blobs: u64,
    stored_bytes: u64,
    claims: bool,
    writable: bool,
}

#[async_trait]
impl Remote for Http {
    fn address(&self) -> &str {
        self.wire.address()
    }

    async fn record(&self, key: Digest) -> Result<Option<Bytes>, RemoteError> {
        let what = format!("record {}", key.short());
        let path = format!("v1/records/{key}");
        self.wire.get_small(&what, &path, MOST_RECORD_BYTES).await
    }

    async fn put_record(
        &self,
        recipe: RecipeKey,
        _content: ContentKey,
        bytes: Bytes,
        replace: bool,
    ) -> Result<RecordPut, RemoteError> {
        let what = format!("record {}", recipe.short());
        let path = format!("v1/records/{recipe}{}", if replace { "?replace=1" } else { "" });
        let request = || self.wire.request(Method::PUT, &path).body(bytes.clone());
        let response = self.wire.send_bytes(&what, bytes.len(), request).await?;
        match response.status() {
            StatusCode::CREATED => Ok(RecordPut::Stored),
            StatusCode::OK => {
                let there = self.wire.body(&what, response, MOST_RECORD_BYTES).await?;
                Ok(RecordPut::Exists(there))
            }
            StatusCode::CONFLICT => {
                let missing: Missing = self.wire.json(&what, response, MOST_JSON_BYTES).await?;
                let first = missing.missing.first().map(Digest::short).unwrap_or_default();
                let count = missing.missing.len();
                Err(RemoteError::Absent {
                    what: format!("what {what} needs ({count} blobs, first {first})"),
                })
            }
            _ => Err(self.wire.fault(&what, response).await),
        }
    }

    async fn has(&self, content: Content) -> Result<bool, RemoteError> {
        let what = format!("artifact {}", content.digest.short());
        let manifest = content.manifest.map(|manifest| format!("?manifest={manifest}"));
        let path = format!("v1/contents/{}{}", content.digest, manifest.unwrap_or_default());
        let response = self.wire.send(&what, || self.wire.request(Method::HEAD, &path)).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.wire.fault(&what, response).await),
        }
    }

    async fn fetch(
        &self,
        store: &Arc<Store>,
        content: Content,
        subpath: Option<&str>,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        self.fetch_content(store, content, subpath, meter).await
    }

    async fn push(&self, store: &Arc<Store>, content: Content, meter: &Meter) -> Result<Moved, RemoteError> {
        self.push_content(store, content, meter).await
    }

    async fn claim(&self, key: ContentKey, owner: &Owner) -> Result<RemoteClaim, RemoteError> {
        self.put_claim(key, owner, None).await
    }

    async fn take_over(&self, key: ContentKey, owner: &Owner, mark: &str) -> Result<RemoteClaim, RemoteError> {
        self.put_claim(key, owner, Some(mark)).await
    }

    async fn renew(&self, key: ContentKey, _owner: &Owner, token: &mut String) -> Result<bool, RemoteError> {
        let what = format!("claim {}", key.short());
        let path = format!("v1/claims/{key}");
        let request = || {
            self.wire
                .request(Method::PATCH, &path)
                .header(CLAIM_HEADER, token.as_str())
        };
        let response = self.wire.send(&what, request).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(true),
            StatusCode::PRECONDITION_FAILED => Ok(false),
            _ => Err(self.wire.fault(&what, response).await),
        }
    }

    async fn release(&self, key: ContentKey, token: &str) -> Result<(), RemoteError> {
        let what = format!("claim {}", key.short());
        let path = format!("v1/claims/{key}");
        let request = || self.wire.request(Method::DELETE, &path).header(CLAIM_HEADER, token);
        let response = self.wire.send(&what, request).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(()),
            _ => Err(self.wire.fault(&what, response).await),
        }
    }

    async fn status(&self) -> Result<RemoteStatus, RemoteError> {
        let response = self
            .wire
            .send("the status", || self.wire.request(Method::GET, "v1/status"))
            .await?;
        if response.status() != StatusCode::OK {
            return Err(self.wire.fault("the status", response).await);
        }
        let status: Status = self.wire.json("the status", response, MOST_JSON_BYTES).await?;
        Ok(RemoteStatus {
            records: status.records,
            artifacts: status.blobs,
            stored_bytes: status.stored_bytes,
            claims: status.claims,
            writable: status.writable,
        })
    }

    async fn collect(&self, _how: RemoteGc) -> Result<RemoteCollected, RemoteError> {
        // A token lets a machine add results, never remove those of others.
        Err(RemoteError::Settings(format!(
            "{} is a cache of its own that only its machine cleans up; run `volvelle gc` there",
            self.wire.address()
        )))
    }
}

impl Http {
    async fn put_claim(&self, key: ContentKey, owner: &Owner, mark: Option<&str>) -> Result<RemoteClaim, RemoteError> {
        let what = format!("claim {}", key.short());
        let path = format!("v1/claims/{key}");
        // Chosen here, so that a request that is repeated since its answer was lost finds its own claim.
        let token = wire::random_text()?;
        let body = serde_json::to_vec(owner).map_err(|error| RemoteError::Settings(error.to_string()))?;
        let request = || {
            let request = self.wire.request(Method::PUT, &path).header(CLAIM_HEADER, &token);
            match mark {
                None => request.header("if-none-match", "*"),
                Some(mark) => request.header("if-match", format!("\"{mark}\"")),
            }
            .body(body.clone())
        };
        let response = self.wire.send(&what, request).await?;
        match response.status() {
            StatusCode::CREATED => Ok(RemoteClaim::Held(token)),
            StatusCode::CONFLICT => {
                let taken: Taken = self.wire.json(&what, response, MOST_JSON_BYTES).await?;
                Ok(RemoteClaim::Taken {
                    owner: taken.owner,
                    mark: taken.mark,
                })
            }
            _ => Err(self.wire.fault(&what, response).await),
        }
    }

    /// Does transfers side by side and adds up what they did; the first that fails ends all.
    async fn all(&self, transfers: Vec<BoxFuture<'_, Result<Moved, RemoteError>>>) -> Result<Moved, RemoteError> {
        stream::iter(transfers)
            .buffer_unordered(self.parallel)
            .try_fold(Moved::default(), |mut sum, moved| async move {
                sum += moved;
                Ok(sum)
            })
            .await
    }
}

/// Calls what waits for the disk, away from the threads that serve connections.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        // It only fails where the call panicked, and then the panic goes on here; nothing cancels it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Returns groups of blobs of which each is small enough for one request.
fn groups(blobs: &[(Digest, u64)], most_bytes: u64, most: usize) -> Vec<Vec<(Digest, u64)>> {
    let mut groups: Vec<Vec<(Digest, u64)>> = Vec::new();
    let mut bytes = 0;
    for blob in blobs {
        match groups.last_mut() {
            Some(group) if group.len() < most && bytes + blob.1 <= most_bytes => group.push(*blob),
            _ => {
                bytes = 0;
                groups.push(vec![*blob]);
            }
        }
        bytes += blob.1;
    }
    groups
}
