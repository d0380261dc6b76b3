//! An object store in memory that breaks on demand.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Faults {
    /// One in so many requests fails before it does anything.
    pub(super) drop: Option<u64>,
    /// One in so many writes is done, and its answer is lost.
    pub(super) lose_answers: Option<u64>,
    /// One in so many bodies ends early.
    pub(super) truncate: Option<u64>,
    /// One in so many bodies has a wrong bit.
    pub(super) flip: Option<u64>,
    /// After so many requests all fail.
    pub(super) die_after: Option<u64>,
    /// Each request takes so long.
    pub(super) delay: Option<Duration>,
    /// Each answer has this status.
    pub(super) status: Option<u16>,
    /// Nothing can be written.
    pub(super) is_read_only: bool,
    /// Objects that are there are replaced whatever the request says.
    pub(super) ignores_create: bool,
}

/// The store; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Faulty {
    pub(super) inner: Arc<InMemory>,
    faults: Arc<Mutex<Faults>>,
    requests: Arc<AtomicU64>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn error(text: impl Into<String>) -> Error {
    Error::Generic {
        store: "faulty",
        source: text.into().into(),
    }
}

impl Faulty {
    pub(super) fn set(&self, faults: Faults) {
        *self.faults.lock().expect("nothing panics with it") = faults;
        self.requests.store(0, Ordering::Relaxed);
    }

    pub(super) fn num_requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Counts a request, and fails it if it is its turn.
    async fn begin(&self) -> Result<(Faults, u64)> {
        let faults = *self.faults.lock().expect("nothing panics with it");
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(delay) = faults.delay {
            tokio::time::sleep(delay).await;
        }
        if let Some(status) = faults.status {
            return Err(error(format!(
                "Server returned non-2xx status code: {status} Nope: <Code>Broken</Code>"
            )));
        }
        if faults.drop.is_some_and(|one_in| number.is_multiple_of(one_in))
            || faults.die_after.is_some_and(|after| number > after)
        {
            return Err(error("connection reset"));
        }
        Ok((faults, number))
    }

    async fn begin_writing(&self, path: &Path) -> Result<(Faults, u64)> {
        let begun = self.begin().await?;
        if begun.0.is_read_only {
            return Err(Error::PermissionDenied {
                path: path.to_string(),
                source: "read-only".into(),
            });
        }
        Ok(begun)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let (faults, number) = self.begin_writing(path).await?;
        if faults.ignores_create {
            options.mode = PutMode::Overwrite;
        }
        let done = self.inner.put_opts(path, payload, options).await?;
        if faults.lose_answers.is_some_and(|one_in| number.is_multiple_of(one_in)) {
            return Err(error("connection reset"));
        }
        Ok(done)
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.begin_writing(path).await?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let (faults, number) = self.begin().await?;
        let is_head = options.head;
        let mut result = self.inner.get_opts(path, options).await?;
        if is_head {
            return Ok(result);
        }
        let meta = result.meta.clone();
        let range = result.range.clone();
        let attributes = std::mem::take(&mut result.attributes);
        let mut bytes = result.bytes().await?.to_vec();
        let is_turn = |one_in: Option<u64>| one_in.is_some_and(|one_in| number.is_multiple_of(one_in));
        if is_turn(faults.truncate) {
            bytes.truncate(bytes.len() / 2);
        }
        if is_turn(faults.flip) && !bytes.is_empty() {
            let at = number as usize * 7919 % bytes.len();
            bytes[at] ^= 1 << (number % 8);
        }
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(Bytes::from(bytes)) }).boxed()),
            meta,
            range,
            attributes,
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .and_then(move |path| {
                let this = this.clone();
                async move {
                    this.begin_writing(&path).await?;
                    let one = stream::once(async { Ok(path) }).boxed();
                    let deleted: Vec<Path> = this.inner.delete_stream(one).try_collect().await?;
                    deleted.into_iter().next().ok_or_else(|| error("nothing deleted"))
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, listed) = (self.clone(), self.inner.list(prefix));
        stream::once(async move { this.begin().await.map(|_| listed) })
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.begin().await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.begin_writing(to).await?;
        self.inner.copy_opts(from, to, options).await
    }
}
