//! Laying artifacts out on disk: read-only for a worker, or as a copy for a person.
//!
//! A worker gets its inputs by reflink where the filesystem has that, else by read-only hard link, else by copy. A
//! hard link shares its bytes with the blob, so the stamps of both are taken before and compared after: a change fails
//! the node, and a blob that changed is moved aside before anyone can read it again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::Store;
use super::artifact::{Artifact, Manifest, Part};
use super::blob::Stamp;
use super::durable;
use super::error::{IoContext, StoreError};
use super::seal;
use crate::digest::Digest;

/// An artifact as it was handed to a worker.
#[derive(Debug)]
pub struct Placed {
    root: PathBuf,
    files: Vec<PlacedFile>,
    folder: bool,
}

#[derive(Debug)]
struct PlacedFile {
    path: PathBuf,
    digest: Digest,
    stamp: Option<Stamp>,
    blob_stamp: Option<Stamp>,
}

impl Store {
    /// Lays an artifact, or a part of it, out read-only at `to`, which must not exist.
    pub fn place(&self, artifact: &Artifact, subpath: Option<&str>, to: &Path) -> Result<Placed, StoreError> {
        self.ensure(artifact, subpath)?;
        let part = self.part(artifact, subpath)?;
        let mut placed = Placed {
            root: to.to_path_buf(),
            files: Vec::new(),
            folder: false,
        };
        match &part {
            Part::File {
                digest,
                size,
                executable,
            } => {
                placed.files.push(self.place_file(*digest, *size, *executable, to)?);
            }
            Part::Folder(manifest) => {
                placed.folder = true;
                self.lay_out(manifest, to, |store, digest, size, executable, path| {
                    placed.files.push(store.place_file(digest, size, executable, path)?);
                    Ok(())
                })?;
                lock_folders(to)?;
            }
        }
        Ok(placed)
    }

    /// Returns what a worker changed in an input: the paths, relative to the input. Changed blobs are moved aside.
    pub fn changes(&self, placed: &Placed) -> Vec<PathBuf> {
        let mut changed = BTreeSet::new();
        let mut expected = BTreeSet::new();
        for file in &placed.files {
            let blob_path = self.blob_path(file.digest);
            // A seal that came meanwhile is no change: whoever set it has read the bytes.
            if Stamp::read(&blob_path) != file.blob_stamp && !seal::has_seal(&blob_path, file.digest) {
                // A blob that is gone was removed by someone else, which leaves the worker's own link whole.
                if blob_path.exists() {
                    self.quarantine(file.digest);
                    changed.insert(file.path.clone());
                }
            }
            if Stamp::read(&file.path) != file.stamp && !seal::has_seal(&file.path, file.digest) {
                changed.insert(file.path.clone());
            }
            expected.insert(file.path.clone());
        }
        if placed.folder {
            let mut found = BTreeSet::new();
            list_files(&placed.root, &mut found);
            changed.extend(found.difference(&expected).cloned());
        }
        let relative = |path: PathBuf| match path.strip_prefix(&placed.root) {
            Ok(inside) => inside.to_path_buf(),
            Err(_) => path,
        };
        changed.into_iter().map(relative).collect()
    }

    /// Writes a copy of an artifact, or of a part of it, that the owner may change. Refuses to overwrite.
    pub fn export(&self, artifact: &Artifact, subpath: Option<&str>, to: &Path) -> Result<(), StoreError> {
        if fs::symlink_metadata(to).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists)).at("write", to);
        }
        self.ensure(artifact, subpath)?;
        match self.part(artifact, subpath)? {
            Part::File {
                digest,
                size,
                executable,
            } => self.copy_file(digest, size, executable, to),
            Part::Folder(manifest) => self.lay_out(&manifest, to, Store::copy_file),
        }
    }

    /// Returns where a person can read an artifact, or a part of it: the blob of a file, a laid out copy of a folder.
    pub fn readable_path(&self, artifact: &Artifact, subpath: Option<&str>) -> Result<PathBuf, StoreError> {
        self.ensure(artifact, subpath)?;
        match self.part(artifact, subpath)? {
            Part::File { digest, size, .. } => self.checked_blob(digest, size),
            Part::Folder(_) => {
                let name = self.digest_at(artifact, subpath)?.to_string();
                let path = self.root().join("outputs").join("by-digest").join(name);
                if !path.exists() {
                    let fresh = durable::unique_path(&self.tmp());
                    self.place(artifact, subpath, &fresh)?;
                    // The folder itself has to be writable for its rename, where we are not root.
                    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).at("unlock", &fresh)?;
                    durable::make_folder(&self.root().join("outputs").join("by-digest"))?;
                    match fs::rename(&fresh, &path) {
                        // Somebody else was faster, with the same content.
                        Err(_) if path.exists() => durable::remove_tree(&fresh)?,
                        renamed => renamed.at("rename into", &path)?,
                    }
                }
                Ok(path)
            }
        }
    }

    /// Returns the bytes of a file artifact or of a file inside one; none for a folder.
    pub fn read_file(&self, artifact: &Artifact, subpath: Option<&str>) -> Result<Option<Vec<u8>>, StoreError> {
        self.ensure(artifact, subpath)?;
        match self.part(artifact, subpath)? {
            Part::File { digest, .. } => self.read_blob(digest).map(Some),
            Part::Folder(_) => Ok(None),
        }
    }

    fn lay_out(
        &self,
        manifest: &Manifest,
        to: &Path,
        mut lay: impl FnMut(&Store, Digest, u64, bool, &Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        fs::create_dir(to).at("create", to)?;
        for file in &manifest.files {
            let path = to.join(&file.path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).at("create", folder)?;
            }
            lay(self, file.digest, file.size, file.executable, &path)?;
        }
        Ok(())
    }

    fn place_file(&self, digest: Digest, size: u64, executable: bool, to: &Path) -> Result<PlacedFile, StoreError> {
        let blob = self.checked_blob(digest, size)?;
        let blob_stamp = Stamp::read(&blob);
        let mode = if executable { 0o555 } else { 0o444 };
        // A hard link shares the blob's mode, so an executable file needs bytes of its own.
        if !self.reflink(&blob, to, mode) && (executable || fs::hard_link(&blob, to).is_err()) {
            fs::copy(&blob, to).at("copy", &blob)?;
            fs::set_permissions(to, fs::Permissions::from_mode(mode)).at("make read-only", to)?;
        }
        Ok(PlacedFile {
            path: to.to_path_buf(),
            digest,
            stamp: Stamp::read(to),
            blob_stamp,
        })
    }

    fn copy_file(&self, digest: Digest, size: u64, executable: bool, to: &Path) -> Result<(), StoreError> {
        let blob = self.checked_blob(digest, size)?;
        let mode = if executable { 0o755 } else { 0o644 };
        if !self.reflink(&blob, to, mode) {
            fs::copy(&blob, to).at("copy", &blob)?;
            fs::set_permissions(to, fs::Permissions::from_mode(mode)).at("change the mode of", to)?;
        }
        Ok(())
    }

    /// Makes `to` share the blocks of `from`; false, and nothing left behind, where the filesystem can't.
    fn reflink(&self, from: &Path, to: &Path, mode: u32) -> bool {
        // Asked once where the answer is no: it is the same for every file of a cache.
        if self.no_reflinks.load(Ordering::Relaxed) {
            return false;
        }
        let cloned = (|| -> io::Result<()> {
            let source = File::open(from)?;
            let target = File::options().write(true).create_new(true).open(to)?;
            if let Err(errno) = rustix::fs::ioctl_ficlone(&target, &source) {
                fs::remove_file(to)?;
                return Err(errno.into());
            }
            fs::set_permissions(to, fs::Permissions::from_mode(mode))
        })();
        let is_unable = |error: &io::Error| {
            let errno = rustix::io::Errno::from_io_error(error);
            errno.is_some_and(|errno| [rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::NOTTY].contains(&errno))
        };
        if cloned.as_ref().is_err_and(is_unable) {
            self.no_reflinks.store(true, Ordering::Relaxed);
        }
        cloned.is_ok()
    }

    fn checked_blob(&self, digest: Digest, size: u64) -> Result<PathBuf, StoreError> {
        if self.has_sealed(digest, size, true) {
            Ok(self.blob_path(digest))
        } else {
            Err(StoreError::MissingBlob { digest })
        }
    }
}

/// Makes a folder and those in it read-only, which stops an honest mistake early; `Store::changes` finds the rest.
fn lock_folders(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).at("list", folder)? {
        let path = entry.at("list", folder)?.path();
        if fs::symlink_metadata(&path).at("read", &path)?.is_dir() {
            lock_folders(&path)?;
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).at("make read-only", folder)
}

/// Collects what is not a folder. What can't be listed was made unreadable, and its files differ by their stamps.
fn list_files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => list_files(&path, found),
            _ => {
                found.insert(path);
            }
        }
    }
}
