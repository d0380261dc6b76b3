//! Single requests to a bucket: with a limit on time and on size each, and errors that say what to do.
//!
//! It knows paths and bytes, not what they mean. Faults that pass are tried again by object_store; a write whose answer was
//! lost is never taken for done or not done here.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};

use super::errors::Context;
use crate::digest::Digest;
use crate::remote::RemoteError;

/// The slowest link that is worth waiting for.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;

/// Room is made for so much of a body before it comes.
const EXPECTED: u64 = 4 << 20;

/// What is read as a whole where only a part is wanted is not longer; no pack is.
const MAX_WHOLE: u64 = 64 << 20;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A small request.
    pub(super) small: Duration,
}

impl Limits {
    pub(super) fn connect(self) -> Duration {
        self.small.min(Duration::from_secs(5))
    }

    /// How long a connection may be without a sign of life.
    pub(super) fn silence(self) -> Duration {
        self.small
    }

    /// A request of so many bytes.
    pub(super) fn of(self, bytes: u64) -> Duration {
        self.small + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
    }

    /// All tries of a request together, and what they wait in between.
    fn all_tries(self, bytes: u64) -> Duration {
        self.of(bytes) * 3
    }

    pub(super) fn retries(self) -> RetryConfig {
        RetryConfig {
            max_retries: 3,
            // No further try starts after this; one that runs is ended by its own limit.
            retry_timeout: self.small,
            ..RetryConfig::default()
        }
    }
}

/// What became of an object that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Created {
    New,
    /// There is one of that name.
    Exists,
}

/// A place in a bucket.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) context: Context,
    pub(super) limits: Limits,
}

impl Bucket {
    /// Returns the path of an object that a digest names: 256 folders keep lists short.
    pub(super) fn named(&self, area: &str, digest: Digest) -> Path {
        let hex = digest.to_string();
        let (shard, rest) = hex.split_at(2);
        self.prefix.clone().join(area).join(shard).join(rest)
    }

    pub(super) fn at(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Reads a whole object; none where there is none.
    pub(super) async fn get(&self, path: &Path, at_most: u64) -> Result<Option<Bytes>, RemoteError> {
        let result = match self
            .timed(path, 0, self.store.get_opts(path, GetOptions::default()))
            .await
        {
            Ok(result) => result,
            Err(RemoteError::Absent { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = result.meta.size;
        let too_long = || self.context.damaged(path, "it is longer than anything of its kind");
        if size > at_most {
            return Err(too_long());
        }
        let bytes = self.timed(path, size, self.collect(result.into_stream(), size)).await?;
        if bytes.len() as u64 > size {
            return Err(too_long());
        }
        Ok(Some(bytes))
    }

    /// Reads a part of an object, and exactly that.
    pub(super) async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes, RemoteError> {
        let (start, len) = (range.start, range.end - range.start);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let result = match self.timed(path, 0, self.store.get_opts(path, options)).await {
            Err(RemoteError::Unreachable { why, .. }) if why.contains("non-partial response") => {
                return self.get_slice(path, start..start + len).await;
            }
            other => other?,
        };
        let bytes = self.timed(path, len, self.collect(result.into_stream(), len)).await?;
        if bytes.len() as u64 != len {
            return Err(self.context.damaged(path, "it is shorter or longer than it was"));
        }
        Ok(bytes)
    }

    /// Reads a part of an object from a server that has no parts, only wholes.
    async fn get_slice(&self, path: &Path, range: Range<u64>) -> Result<Bytes, RemoteError> {
        let whole = self
            .get(path, MAX_WHOLE)
            .await?
            .ok_or_else(|| self.context.absent(path))?;
        if range.end > whole.len() as u64 {
            return Err(self.context.damaged(path, "it is shorter than it was"));
        }
        Ok(whole.slice(range.start as usize..range.end as usize))
    }

    /// Returns what is known of an object without reading it; none where there is none.
    pub(super) async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, RemoteError> {
        match self.timed(path, 0, self.store.head(path)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(RemoteError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes an object, whether or not there is one.
    pub(super) async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), RemoteError> {
        let len = bytes.len() as u64;
        let put = self.store.put(path, PutPayload::from_bytes(bytes));
        match self.timed(path, len, put).await {
            Ok(_) => Ok(()),
            // A write needs nothing to be there but the bucket.
            Err(RemoteError::Absent { .. }) => Err(self.context.no_container()),
            Err(error) => Err(error),
        }
    }

    /// Writes an object unless there is one. An error leaves open whether it was written.
    pub(super) async fn create(&self, path: &Path, bytes: Bytes) -> Result<Created, RemoteError> {
        let len = bytes.len() as u64;
        let options = PutOptions::from(PutMode::Create);
        let put = self.store.put_opts(path, PutPayload::from_bytes(bytes), options);
        let created = self.timed(path, len, async {
            match put.await {
                Ok(_) => Ok(Created::New),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(Created::Exists)
                }
                Err(error) => Err(error),
            }
        });
        match created.await {
            Err(RemoteError::Absent { .. }) => Err(self.context.no_container()),
            created => created,
        }
    }

    /// Lists the objects of an area.
    pub(super) async fn list(&self, area: &str) -> Result<Vec<ObjectMeta>, RemoteError> {
        let path = self.at(area);
        let mut stream = self.store.list(Some(&path));
        let mut found = Vec::new();
        // Each page has its own limit, since nobody knows how many there are.
        while let Some(meta) = self.timed(&path, 0, stream.try_next()).await? {
            found.push(meta);
        }
        Ok(found)
    }

    /// Lists the names of the objects directly in a folder.
    pub(super) async fn list_folder(&self, folder: &Path) -> Result<Vec<String>, RemoteError> {
        let listed = self
            .timed(folder, 0, self.store.list_with_delimiter(Some(folder)))
            .await?;
        let names = listed.objects.iter().filter_map(|meta| meta.location.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// Removes an object; one that is not there is fine.
    pub(super) async fn delete(&self, path: &Path) -> Result<(), RemoteError> {
        match self.timed(path, 0, self.store.delete(path)).await {
            Ok(()) | Err(RemoteError::Absent { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gathers a body, and no more than a byte beyond what is wanted of it. It may be slow, but not silent.
    async fn collect(
        &self,
        mut body: BoxStream<'static, object_store::Result<Bytes>>,
        at_most: u64,
    ) -> object_store::Result<Bytes> {
        let mut bytes = BytesMut::with_capacity(at_most.min(EXPECTED) as usize);
        loop {
            let piece = tokio::time::timeout(self.limits.silence(), body.try_next()).await;
            let piece = piece.map_err(|elapsed| object_store::Error::Generic {
                store: "body",
                source: Box::new(HttpError::new(HttpErrorKind::Timeout, elapsed)),
            })?;
            let Some(piece) = piece? else { return Ok(bytes.freeze()) };
            let left = (at_most as usize + 1).saturating_sub(bytes.len());
            bytes.extend_from_slice(&piece[..piece.len().min(left)]);
        }
    }

    async fn timed<T>(
        &self,
        path: &Path,
        bytes: u64,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, RemoteError> {
        match tokio::time::timeout(self.limits.all_tries(bytes), work).await {
            Ok(done) => done.map_err(|error| self.context.fault(path, error)),
            Err(_) => Err(self.context.unreachable("no answer in time")),
        }
    }
}

/// Returns the digest that a path of [`Bucket::named`] is for; none for other paths.
pub(super) fn digest_of(path: &Path) -> Option<Digest> {
    let text = path.as_ref();
    let (rest, name) = text.rsplit_once('/')?;
    let (_, shard) = rest.rsplit_once('/')?;
    format!("{shard}{name}").parse().ok()
}
