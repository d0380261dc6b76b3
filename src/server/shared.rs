//! What all requests share: the store, who may come in, and how much of everything there is.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::Pace;
use super::census::{self, Census};
use super::claims::Claims;
use super::metrics::Metrics;
use super::refusal::Refusal;
use super::tokens::Accepted;
use super::{Access, Options};
use crate::digest::Digest;
use crate::store::{Store, StoreError};

/// What has to come of a body on average, in bytes per second; see [`Pace`].
const LEAST_RATE: u64 = 1024;

/// How many answers may be compressed at once: each keeps a thread and a core.
const MOST_COMPRESSING: usize = 8;

/// One server.
#[derive(Debug)]
pub(super) struct Shared {
    pub store: Arc<Store>,
    /// None where everybody on this machine may come in.
    pub tokens: Option<Accepted>,
    pub metrics: Metrics,
    pub census: Arc<Census>,
    pub claims: Claims,
    pub pace: Pace,
    pub max_blob_bytes: u64,
    keep_free_bytes: u64,
    reserved_bytes: AtomicU64,
    uploads: Arc<Semaphore>,
    compressing: Arc<Semaphore>,
    /// The blobs that are being uploaded, each by one request.
    uploading: Mutex<HashSet<Digest>>,
}

impl Shared {
    pub fn new(store: Arc<Store>, options: &Options) -> Result<Shared, StoreError> {
        Ok(Shared {
            tokens: match &options.access {
                Access::Tokens(file) => Some(Accepted::new(file.clone())),
                Access::Open => None,
            },
            metrics: Metrics::default(),
            census: Arc::default(),
            claims: Claims::open(Arc::clone(&store))?,
            pace: Pace {
                patience: options.patience,
                least_rate: LEAST_RATE,
            },
            max_blob_bytes: options.max_blob_bytes,
            keep_free_bytes: options.keep_free_bytes,
            reserved_bytes: AtomicU64::new(0),
            uploads: Arc::new(Semaphore::new(options.max_uploads)),
            compressing: Arc::new(Semaphore::new(MOST_COMPRESSING)),
            uploading: Mutex::default(),
            store,
        })
    }

    /// Takes one of the places for requests that bring content, once there is one.
    pub async fn upload_slot(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        // A client that is not heard for the whole of its patience would take us for dead.
        let slot = tokio::time::timeout(self.pace.patience / 3, Arc::clone(&self.uploads).acquire_owned());
        match slot.await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(Refusal::busy("too many uploads at once")),
        }
    }

    /// Takes one of the places for answers that are compressed; none if all are taken.
    pub fn compressing_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.compressing).try_acquire_owned().ok()
    }

    /// Makes a request the only one that uploads a blob; none if there is one.
    pub fn sole_uploader(self: &Arc<Self>, digest: Digest) -> Option<SoleUploader> {
        let mut uploading = self.uploading.lock().unwrap_or_else(PoisonError::into_inner);
        uploading.insert(digest).then(|| SoleUploader {
            shared: Arc::clone(self),
            digest,
        })
    }

    /// Keeps room on the disk for bytes that are to come.
    ///
    /// # Errors
    /// The disk would be left with less than is to stay free.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reserved, Refusal> {
        let free = census::free_bytes(self.store.root())?;
        let others = self.reserved_bytes.fetch_add(bytes, Ordering::AcqRel);
        let reserved = Reserved {
            shared: Arc::clone(self),
            bytes,
        };
        let needed = self.keep_free_bytes.saturating_add(others).saturating_add(bytes);
        if free < needed {
            tracing::warn!(free, needed, "an upload was refused: the disk would be full");
            return Err(Refusal::full());
        }
        Ok(reserved)
    }
}

/// Room on the disk that is spoken for.
#[derive(Debug)]
pub(super) struct Reserved {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reserved {
    /// Says that bytes were written, which the disk itself counts from now on.
    pub fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.shared.reserved_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shared.reserved_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Held by the one request that uploads a blob.
#[derive(Debug)]
pub(super) struct SoleUploader {
    shared: Arc<Shared>,
    digest: Digest,
}

impl Drop for SoleUploader {
    fn drop(&mut self) {
        let mut uploading = self.shared.uploading.lock().unwrap_or_else(PoisonError::into_inner);
        uploading.remove(&self.digest);
    }
}
