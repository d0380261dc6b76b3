//! What can go wrong in the store, as data. It knows paths and digests, never what a stage wanted with them.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// A fault of the store, or of what was given to it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused; `action` is what was tried, such as "read".
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The cache was written by a later version of the program.
    #[error("{} has cache format {found}, and this volvelle reads up to {supported}; use a newer volvelle", path.display())]
    NewerFormat { path: PathBuf, found: u64, supported: u64 },
    /// The cache uses something that came later than this program.
    #[error("{} says that the cache needs `{need}`, which this volvelle does not know; use a newer volvelle", path.display())]
    NewerNeed { path: PathBuf, need: String },
    /// The folder has a `format` file that is not ours.
    #[error(
        "{} is not that of a volvelle cache: its first line should be `volvelle cache N`; if the folder is one and this \
         file was damaged, remove the file, and it is written again",
        path.display()
    )]
    NotACache { path: PathBuf },
    /// The cache can be read but not written, and something has to be written.
    #[error("the cache {} can't be written ({source}); `plan`, `status`, `show` and the like can read it, and --cache DIR \
             names another one", path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
    /// Something that only one process may do at a time is being done by another.
    #[error("another process is at work on it: {what}")]
    Busy { what: &'static str },
    /// An artifact holds something that is neither a regular file nor a folder.
    #[error("{} is {what}; an artifact may hold only regular files and folders", path.display())]
    OddFile { path: PathBuf, what: &'static str },
    /// A file name in an artifact is not Unicode, so it has no canonical form.
    #[error("{} has a name that is not valid UTF-8", path.display())]
    BadName { path: PathBuf },
    /// A blob that a record names is not in the store, or has another size.
    #[error("blob {} is missing from the cache", digest.short())]
    MissingBlob { digest: Digest },
    /// What was received is not what was asked for.
    #[error("what was received for blob {} has another digest; it was not let in", digest.short())]
    WrongBytes { digest: Digest },
    /// A folder's manifest blob does not read as one.
    #[error("the manifest {} is damaged", digest.short())]
    BadManifest { digest: Digest },
    /// A file of `pins/` does not read as one.
    #[error("{} is no pin that this volvelle can read; put it right or remove it, for nothing is removed until then", path.display())]
    BadPin { path: PathBuf },
    /// A path inside an artifact that the artifact does not have.
    #[error("no `{subpath}` in the artifact{}", listing(.has))]
    NoSubpath { subpath: String, has: Vec<String> },
}

impl StoreError {
    /// Returns what the operating system said, if it was asked.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            StoreError::Io { source, .. } | StoreError::ReadOnly { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}

/// Returns whether a place can't be written at all: a read-only filesystem, or a folder of somebody else.
pub(crate) fn is_read_only(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

/// Shows what a folder has, for whoever asked for something else.
fn listing(has: &[String]) -> String {
    match has {
        [] => String::new(),
        _ => format!(", which has {}", has.join(", ")),
    }
}

/// Attaches the action and the path to an I/O result.
pub(crate) trait IoContext<T> {
    /// Names what was tried and on which path.
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io {
            action,
            path: path.to_path_buf(),
            source,
        })
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|errno| StoreError::Io {
            action,
            path: path.to_path_buf(),
            source: errno.into(),
        })
    }
}
