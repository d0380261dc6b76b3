//! A remote that could not be opened: it says why, whatever it is asked.
//!
//! So a run meets it where it meets every other fault, goes on, and remembers what is to be pushed later.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Content, Meter, Moved, RecordPut, Remote, RemoteClaim, RemoteCollected, RemoteError, RemoteGc, RemoteStatus,
};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::store::{Owner, Store};

/// A remote that could not be opened.
#[derive(Debug)]
pub struct Unavailable {
    address: String,
    why: String,
}

impl Unavailable {
    /// Makes the remote of an address that failed to open.
    pub fn new(address: &str, error: &RemoteError) -> Unavailable {
        Unavailable {
            address: address.to_owned(),
            why: error.to_string(),
        }
    }

    fn error<T>(&self) -> Result<T, RemoteError> {
        Err(RemoteError::Unreachable {
            what: self.address.clone(),
            why: self.why.clone(),
        })
    }
}

#[async_trait]
impl Remote for Unavailable {
    fn address(&self) -> &str {
        &self.address
    }

    async fn record(&self, _: Digest) -> Result<Option<Bytes>, RemoteError> {
        self.error()
    }

    async fn put_record(&self, _: RecipeKey, _: ContentKey, _: Bytes, _: bool) -> Result<RecordPut, RemoteError> {
        self.error()
    }

    async fn has(&self, _: Content) -> Result<bool, RemoteError> {
        self.error()
    }

    async fn fetch(&self, _: &Arc<Store>, _: Content, _: Option<&str>, _: &Meter) -> Result<Moved, RemoteError> {
        self.error()
    }

    async fn push(&self, _: &Arc<Store>, _: Content, _: &Meter) -> Result<Moved, RemoteError> {
        self.error()
    }

    async fn claim(&self, _: ContentKey, _: &Owner) -> Result<RemoteClaim, RemoteError> {
        self.error()
    }

    async fn take_over(&self, _: ContentKey, _: &Owner, _: &str) -> Result<RemoteClaim, RemoteError> {
        self.error()
    }

    async fn renew(&self, _: ContentKey, _: &Owner, _: &mut String) -> Result<bool, RemoteError> {
        self.error()
    }

    async fn release(&self, _: ContentKey, _: &str) -> Result<(), RemoteError> {
        self.error()
    }

    async fn status(&self) -> Result<RemoteStatus, RemoteError> {
        self.error()
    }

    async fn collect(&self, _: RemoteGc) -> Result<RemoteCollected, RemoteError> {
        self.error()
    }
}
