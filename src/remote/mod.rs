//! Remotes: places where a team shares records and artifacts.
//!
//! It owns how bytes travel and what a remote promises; which nodes need what is not known here. Whatever comes from a
//! remote is checked on arrival: a record checks itself, and a blob has to have the digest that it was asked for by. A
//! remote is never needed: every fault is a [`RemoteError`] that the caller turns into a miss and a warning.
//!
//! Two kinds of remotes: object stores (`objects`), which know nothing of us, so that all cleverness is in the layout
//! of what lies there; and `volvelle serve` (`http`), which speaks for a store like ours.

pub mod http;
pub mod link;
mod listing;
pub mod objects;
pub mod tls;
mod unavailable;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::settings::RemoteSettings;
use crate::store::{Artifact, Owner, Store, StoreError};
use unavailable::Unavailable;

/// Returns the remote that settings name; what it keeps to remember lies in the cache. One that can't be opened just
/// now says so when it is asked for something.
///
/// # Errors
/// The address is none, or a setting is wrong.
pub fn open(settings: &RemoteSettings, cache: &Path) -> Result<Arc<dyn Remote>, RemoteError> {
    let url = &settings.url;
    let opened = match url.split_once(':').map_or("", |(scheme, _)| scheme) {
        "s3" | "gs" | "az" | "file" => objects::open(settings, cache),
        "http" | "https" => http::open(settings),
        _ => Err(RemoteError::Settings(format!(
            "the remote should begin with s3://, gs://, az://, file:///, http:// or https://, and not with {:?}",
            url.split_once("://").map_or(url.as_str(), |(scheme, _)| scheme)
        ))),
    };
    match opened {
        Err(error) if !matches!(error, RemoteError::Settings(_)) => Ok(Arc::new(Unavailable::new(url, &error))),
        opened => opened,
    }
}

/// What is wanted of a remote: an artifact, or a blob that is no output, such as a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// The identity: of a file the digest of its bytes, of a folder that of its tree.
    pub digest: Digest,
    /// The blob of the folder's manifest; none for a file.
    pub manifest: Option<Digest>,
}

impl From<&Artifact> for Content {
    fn from(artifact: &Artifact) -> Content {
        Content {
            digest: artifact.digest,
            manifest: artifact.manifest,
        }
    }
}

impl Content {
    /// Returns a file that is known by the digest of its bytes alone.
    pub fn file(digest: Digest) -> Content {
        Content { digest, manifest: None }
    }
}

/// What became of a record that was to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordPut {
    Stored,
    /// There was one already, with these bytes, and it stays.
    Exists(Bytes),
}

/// What becomes of an attempt to claim a key for all machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteClaim {
    /// The key is ours; it has to be renewed with this token until it is released.
    Held(String),
    /// Another machine runs it. The mark changes whenever the holder renews, so a mark that stays for
    /// [`CLAIM_LEASE`] by the waiter's own clock means a holder that died, whose claim may be broken by `take_over`.
    Taken { owner: Option<Owner>, mark: String },
}

/// A claim that was not renewed for so long belongs to nobody.
pub const CLAIM_LEASE: Duration = Duration::from_secs(60);

/// What a transfer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that went over the wire as content, compressed as they were.
    pub wire_bytes: u64,
    /// Bytes of content that were there already, or were found elsewhere, and so were not sent.
    pub spared_bytes: u64,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Moved) {
        self.wire_bytes += other.wire_bytes;
        self.spared_bytes += other.spared_bytes;
    }
}

/// Counts what transfers do while they do it, for whoever shows progress.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes of content that are to be moved, as far as that is known.
    pub total_bytes: AtomicU64,
    /// Of those, what is done, by whatever way.
    pub done_bytes: AtomicU64,
    /// What went over the wire.
    pub wire_bytes: AtomicU64,
}

impl Meter {
    /// Adds to what is to be moved.
    pub fn expect(&self, bytes: u64) {
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to what is done, of which `wire` bytes went over the wire.
    pub fn advance(&self, bytes: u64, wire: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.wire_bytes.fetch_add(wire, Ordering::Relaxed);
    }
}

/// What a remote holds, for `volvelle remote status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RemoteStatus {
    pub records: u64,
    pub artifacts: u64,
    /// What lies there, compressed as it is.
    pub stored_bytes: u64,
    /// Whether conditional writes hold, so that claims work.
    pub claims: bool,
    /// Whether we may write there.
    pub writable: bool,
}

/// What a collection of a remote removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RemoteCollected {
    pub removed_records: u64,
    pub removed_objects: u64,
    pub removed_bytes: u64,
    pub kept_bytes: u64,
}

/// What a collection of a remote may remove.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoteGc {
    /// Records that were written longer ago than this go, and then what only they needed. Without it only what nobody
    /// needs goes.
    pub older_than: Option<Duration>,
    /// What nobody needs and is younger stays, since somebody may be pushing what needs it; a day where nothing is said.
    pub grace: Option<Duration>,
    pub dry_run: bool,
}

/// Why a remote could not serve.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address or a setting is wrong.
    #[error("{0}")]
    Settings(String),
    /// Credentials are missing, wrong or not enough.
    #[error("{what}: access denied; {hint}")]
    Denied { what: String, hint: String },
    /// No connection, no answer in time, or an answer that says to come later.
    #[error("{what}: {why}")]
    Unreachable { what: String, why: String },
    /// There is no more room.
    #[error("{what}: the remote is full")]
    Full { what: String },
    /// What the remote has is not what it says; nothing of it was used.
    #[error("{what} is damaged: {why}")]
    Damaged { what: String, why: String },
    /// The remote won't have what was sent.
    #[error("{what} was refused: {why}")]
    Refused { what: String, why: String },
    /// Something that was asked for is not there.
    #[error("{what} is not in the remote")]
    Absent { what: String },
    /// The remote has a newer layout, or is no remote of ours.
    #[error("{0}")]
    Format(String),
    /// The local store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl RemoteError {
    /// Returns a word for what kind of error it is, by which it is told apart from others.
    pub fn kind(&self) -> &'static str {
        match self {
            RemoteError::Settings(_) => "settings",
            RemoteError::Denied { .. } => "denied",
            RemoteError::Unreachable { .. } => "unreachable",
            RemoteError::Full { .. } => "full",
            RemoteError::Damaged { .. } => "damaged",
            RemoteError::Refused { .. } => "refused",
            RemoteError::Absent { .. } => "absent",
            RemoteError::Format(_) => "format",
            RemoteError::Store(_) => "store",
        }
    }

    /// Returns whether the remote as a whole can be given up for this run: what comes next would fail as well.
    pub fn is_down(&self) -> bool {
        matches!(
            self,
            RemoteError::Settings(_)
                | RemoteError::Denied { .. }
                | RemoteError::Unreachable { .. }
                | RemoteError::Format(_)
        )
    }
}

/// A place where records and artifacts are shared. All methods may be called from many tasks at once.
#[async_trait]
pub trait Remote: Send + Sync + fmt::Debug {
    /// Returns the address, without anything secret.
    fn address(&self) -> &str;

    /// Returns the bytes of the record file under a recipe or content key; none where there is none. They are not
    /// checked yet.
    async fn record(&self, key: Digest) -> Result<Option<Bytes>, RemoteError>;

    /// Writes a record file under both of its keys, once all its artifacts are there. One that is there stays, unless
    /// `replace` says otherwise.
    async fn put_record(
        &self,
        recipe: RecipeKey,
        content: ContentKey,
        bytes: Bytes,
        replace: bool,
    ) -> Result<RecordPut, RemoteError>;

    /// Returns whether the remote has all of some content.
    async fn has(&self, content: Content) -> Result<bool, RemoteError>;

    /// Brings content, or what lies at a path inside it and no more, into the store: every blob checked and durable
    /// when it returns. What the store has already is not asked for. A folder's manifest blob is always brought.
    async fn fetch(
        &self,
        store: &Arc<Store>,
        content: Content,
        subpath: Option<&str>,
        meter: &Meter,
    ) -> Result<Moved, RemoteError>;

    /// Brings content of the store to the remote, all there when it returns. What is there already is not sent.
    async fn push(&self, store: &Arc<Store>, content: Content, meter: &Meter) -> Result<Moved, RemoteError>;

    /// Tries to claim a key, so that no other machine runs it meanwhile. Where the remote can't, it is held by everyone.
    async fn claim(&self, key: ContentKey, owner: &Owner) -> Result<RemoteClaim, RemoteError>;

    /// Takes over a claim whose mark did not change for [`CLAIM_LEASE`]; fails to if somebody else was faster.
    async fn take_over(&self, key: ContentKey, owner: &Owner, mark: &str) -> Result<RemoteClaim, RemoteError>;

    /// Says that a claim still holds; false if somebody took it over.
    async fn renew(&self, key: ContentKey, owner: &Owner, token: &mut String) -> Result<bool, RemoteError>;

    /// Gives a claim up.
    async fn release(&self, key: ContentKey, token: &str) -> Result<(), RemoteError>;

    /// Returns what lies there.
    async fn status(&self) -> Result<RemoteStatus, RemoteError>;

    /// Removes what nobody needs, or what is too old as well.
    async fn collect(&self, how: RemoteGc) -> Result<RemoteCollected, RemoteError>;
}
