//! What can go wrong in the store, as data. It knows paths and digests, never what a stage wanted with them.

use std::io;
use std::path::{Path, PathBuf};

use super::tree::{LinkFault, TreeFault};
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
    /// An output is, or holds, something that can't be kept.
    #[error("{} is {what}; an artifact is a regular file, or a folder of files, folders and links that stay inside it", path.display())]
    OddFile { path: PathBuf, what: &'static str },
    /// A symbolic link in an output that has no meaning elsewhere.
    #[error("the symbolic link {} to {target} {fault}; an artifact keeps only links that stay inside it", path.display())]
    BadLink {
        path: PathBuf,
        target: String,
        fault: LinkFault,
    },
    /// An output that no manifest can describe.
    #[error("{} can't be kept: {fault}", path.display())]
    BadTree { path: PathBuf, fault: TreeFault },
    /// An output that changed while it was read.
    #[error("{} was changed while it was taken over", path.display())]
    Changing { path: PathBuf },
    /// A file name in an artifact is not Unicode, so it has no canonical form.
    #[error("{} has a name that is not valid UTF-8", path.display())]
    BadName { path: PathBuf },
    /// A blob that a record names is not in the store, or has another size.
    #[error("blob {} is missing from the cache", digest.short())]
    MissingBlob { digest: Digest },
    /// What was received is not what was asked for.
    #[error("what was received for blob {} has another digest; it was not let in", digest.short())]
    WrongBytes { digest: Digest },
    /// A folder's manifest is that of another folder.
    #[error("the manifest {} is not that of the artifact", digest.short())]
    BadManifest { digest: Digest },
    /// A folder's manifest names what has no place in a folder.
    #[error("the manifest {} is refused: {fault}", digest.short())]
    RefusedManifest { digest: Digest, fault: TreeFault },
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

    /// Returns what the user could do about it, where that is not plain from the error.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StoreError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("the disk of the cache is full: make room on it, or put the cache elsewhere with --cache")
                }
                io::ErrorKind::ReadOnlyFilesystem => Some("the cache has to be writable; --cache names another one"),
                io::ErrorKind::PermissionDenied => Some(
                    "files that belong to another user can't be taken over: let the stage write as the user who runs volvelle",
                ),
                _ => None,
            },
            StoreError::BadLink { .. } => {
                Some("let the stage copy what the link leads to, or link it by a relative path")
            }
            StoreError::OddFile { .. } | StoreError::BadName { .. } | StoreError::BadTree { .. } => {
                Some("let the stage remove or rename it before it ends")
            }
            StoreError::Changing { .. } => {
                Some("a process that the stage left running writes to it: let the stage wait for it")
            }
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
