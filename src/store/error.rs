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
    /// The folder has a `format` file that is not ours.
    #[error("{} is not a volvelle cache: its first line should be `volvelle cache N`", path.display())]
    NotACache { path: PathBuf },
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
    /// A path inside an artifact that the artifact does not have.
    #[error("no `{subpath}` in the artifact{}", listing(.has))]
    NoSubpath { subpath: String, has: Vec<String> },
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
