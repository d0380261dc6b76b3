//! Remotes in object stores: `s3://`, `gs://`, `az://` and `file://`.
//!
//! The store knows nothing of us, so what makes it fast and safe is how things lie there:
//!
//! ```text
//! volvelle-remote   {"format":1}: whose place this is, and which layout
//! records/ab/cdef   record files as in a local store, under their recipe key and under their content key
//! maps/ab/cdef      one per artifact, by its digest: which chunks its blobs consist of, and where those lie
//! large/ab/cdef     an object per artifact that has packs; listing them tells what new artifacts may share with
//! packs/ab/cdef     chunks one after the other, by the digest of all of it, some 16 MiB
//! claims/ab/cdef.0  who runs a key just now, and in which generation of claims (`claims`)
//! condemned         the packs and maps that a collection is about to remove
//! probe/            what finds out whether conditional writes hold
//! ```
//!
//! **Order.** Packs, then the map, then the record: whatever is there, all that it needs is there. Everything but records
//! and claims is named by its content, so that writing it twice is writing it once, and a push that broke goes on where it
//! was. **Sharing.** A chunk that any known map has a place for is not sent again, and one that lies in a local blob is not
//! asked for. **Trust.** Nothing is believed: maps and records check themselves, each chunk has to have its digest, and so
//! has the whole blob before it is let in. **Collections** remove what no record needs and what is older than any push can
//! be; what a push found there and a collection was about to remove is sent again (`collect`).

mod address;
mod aws_profile;
mod chunks;
mod claims;
mod collect;
mod errors;
mod fetch;
mod known;
mod making;
mod map;
mod pack;
mod push;
mod records;
mod requests;
mod s3;
mod safetensors;
mod transport;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};

use self::known::{Copies, Known};
use self::map::Map;
use self::requests::{Bucket, Limits};
use super::{
    Content, Meter, Moved, RecordPut, Remote, RemoteClaim, RemoteCollected, RemoteError, RemoteGc, RemoteStatus,
};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::settings::RemoteSettings;
use crate::store::{Owner, Store};

/// How many transfers go on at once where nothing is set.
const PARALLEL: u32 = 16;

/// How long a small request may take where nothing is set.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A remote in an object store.
struct Objects {
    bucket: Bucket,
    /// What is remembered of this remote, in the cache.
    folder: PathBuf,
    copies: Copies,
    parallel: usize,
    /// Of all transfers of this remote together, so many at once.
    transfers: Semaphore,
    known: Arc<RwLock<Known>>,
    /// Only one at a time asks the remote what there is.
    listing: tokio::sync::Mutex<()>,
    /// Whether the remote has been used before, once its format was looked at.
    is_marked: OnceCell<bool>,
    is_ready: OnceCell<()>,
    is_conditional: OnceCell<bool>,
    can_claim: OnceCell<bool>,
}

/// Opens the remote that the settings name, without asking it anything yet. What is remembered of it lies in the cache.
///
/// # Errors
/// The settings are wrong, no credentials can be found, or the folder of a `file://` can't be made.
pub fn open(settings: &RemoteSettings, cache_root: &Path) -> Result<Arc<dyn Remote>, RemoteError> {
    let limits = Limits {
        small: settings.timeout.unwrap_or(TIMEOUT),
    };
    let bucket = address::open(settings, limits)?;
    Ok(Arc::new(Objects::new(bucket, cache_root, settings.parallel)))
}

impl Objects {
    fn new(bucket: Bucket, cache_root: &Path, parallel: Option<u32>) -> Objects {
        let parallel = parallel.unwrap_or(PARALLEL).clamp(1, 256) as usize;
        let id = Digest::of(bucket.context.address.as_bytes()).to_string();
        let folder = cache_root.join("remote").join(&id[..16]);
        Objects {
            bucket,
            copies: Copies(folder.join("maps")),
            folder,
            parallel,
            transfers: Semaphore::new(parallel),
            known: Arc::default(),
            listing: tokio::sync::Mutex::default(),
            is_marked: OnceCell::new(),
            is_ready: OnceCell::new(),
            is_conditional: OnceCell::new(),
            can_claim: OnceCell::new(),
        }
    }

    /// Reads the map of some content; none where there is none, and none where it is another content's.
    async fn map(&self, content: Content) -> Result<Option<Arc<Map>>, RemoteError> {
        let path = self.bucket.named("maps", content.digest);
        let Some(bytes) = self.bucket.get(&path, map::MAX_STORED).await? else {
            return Ok(None);
        };
        let copies = self.copies.clone();
        let read = blocking(move || {
            let map = Map::decode(&bytes)?;
            if map.content != content {
                return Err("it is of something else");
            }
            if !map.packs.is_empty() {
                copies.keep(content.digest, &bytes);
            }
            Ok(Arc::new(map))
        });
        match read.await {
            Ok(map) => Ok(Some(map)),
            Err(why) => Err(self.bucket.context.damaged(&path, why)),
        }
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn known_mut(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The object store in it holds credentials.
        f.debug_tuple("Objects").field(&self.bucket.context.address).finish()
    }
}

/// Runs what takes the processor or the disk for long where that holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It is never cancelled, so it panicked, and that goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Returns a text that nobody else has ever had.
fn nonce() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut random = [0; 16];
    // Where the system has no random numbers, process, time and count still tell two apart.
    let _ = getrandom::fill(&mut random);
    let mut hasher = blake3::Hasher::new();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    hasher.update(&random).update(&now.as_nanos().to_le_bytes());
    hasher.update(crate::store::host_name().as_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    hasher.update(&COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

#[async_trait]
impl Remote for Objects {
    fn address(&self) -> &str {
        &self.bucket.context.address
    }

    async fn record(&self, key: Digest) -> Result<Option<Bytes>, RemoteError> {
        records::get(self, key).await
    }

    async fn put_record(
        &self,
        recipe: RecipeKey,
        content: ContentKey,
        bytes: Bytes,
        replace: bool,
    ) -> Result<RecordPut, RemoteError> {
        records::put(self, recipe, content, bytes, replace).await
    }

    async fn has(&self, content: Content) -> Result<bool, RemoteError> {
        records::is_ours(self).await?;
        let path = self.bucket.named("maps", content.digest);
        Ok(self.bucket.head(&path).await?.is_some())
    }

    async fn fetch(
        &self,
        store: &Arc<Store>,
        content: Content,
        subpath: Option<&str>,
        meter: &Meter,
    ) -> Result<Moved, RemoteError> {
        fetch::fetch(self, store, content, subpath, meter).await
    }

    async fn push(&self, store: &Arc<Store>, content: Content, meter: &Meter) -> Result<Moved, RemoteError> {
        push::push(self, store, content, meter).await
    }

    async fn claim(&self, key: ContentKey, owner: &Owner) -> Result<RemoteClaim, RemoteError> {
        claims::claim(self, key, owner).await
    }

    async fn take_over(&self, key: ContentKey, owner: &Owner, mark: &str) -> Result<RemoteClaim, RemoteError> {
        claims::take_over(self, key, owner, mark).await
    }

    async fn renew(&self, key: ContentKey, owner: &Owner, token: &mut String) -> Result<bool, RemoteError> {
        claims::renew(self, key, owner, token).await
    }

    async fn release(&self, key: ContentKey, token: &str) -> Result<(), RemoteError> {
        claims::release(self, key, token).await
    }

    async fn status(&self) -> Result<RemoteStatus, RemoteError> {
        collect::status(self).await
    }

    async fn collect(&self, how: RemoteGc) -> Result<RemoteCollected, RemoteError> {
        collect::collect(self, how).await
    }
}
