//! Laying artifacts out on disk: read-only for a worker, or as a copy for a person.
//!
//! A worker gets its inputs by reflink where the filesystem has that, else by read-only hard link, else by copy. A
//! hard link shares its bytes with the blob, so the stamp of each file is taken before and compared after: a change fails
//! the node, and a blob that changed is moved aside before anyone can read it again. A time of last change (ctime) that
//! the store's own links don't explain is looked into by reading the file.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::Store;
use super::artifact::{Artifact, Part};
use super::blob::{Stamp, hash_file};
use super::durable;
use super::error::{IoContext, StoreError};
use super::seal;
use super::tree::{Manifest, TreeFile};
use crate::digest::Digest;

/// From this many files on, several threads lay them out and look at them again.
const WORTH_THREADS: usize = 256;

/// An artifact as it was handed to a worker.
#[derive(Debug)]
pub struct Placed {
    root: PathBuf,
    files: Vec<PlacedFile>,
    /// The links of a folder and what they say; none for a file.
    folder: Option<Vec<(PathBuf, PathBuf)>>,
}

#[derive(Debug)]
struct PlacedFile {
    path: PathBuf,
    digest: Digest,
    /// Whether it is a hard link of the blob.
    is_shared: bool,
    stamp: Option<Stamp>,
}

/// What became of a file that was handed out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Same,
    /// The file under this name is another one, or changed.
    Changed,
    /// The same, and the blob shares the change.
    BlobChanged,
}

impl Store {
    /// Lays an artifact, or a part of it, out read-only at `to`, which must not exist.
    ///
    /// # Errors
    /// A blob is missing, or something can't be written; nothing is left at `to` then.
    pub fn place(&self, artifact: &Artifact, subpath: Option<&str>, to: &Path) -> Result<Placed, StoreError> {
        self.ensure(artifact, subpath)?;
        let (files, folder) = match self.part(artifact, subpath)? {
            Part::File {
                digest,
                size,
                executable,
            } => (vec![self.place_file(digest, size, executable, to)?], None),
            Part::Folder(manifest) => {
                let place =
                    |file: &TreeFile, path: &Path| self.place_file(file.digest, file.size, file.executable, path);
                let files = lay_out(&manifest, to, place, true)?;
                let link = |link: &super::tree::TreeLink| (to.join(&link.path), PathBuf::from(&link.target));
                (files, Some(manifest.links.iter().map(link).collect()))
            }
        };
        Ok(Placed {
            root: to.to_path_buf(),
            files,
            folder,
        })
    }

    /// Returns what a worker changed in an input: the paths, relative to the input. Changed blobs are moved aside.
    pub fn changes(&self, placed: &Placed) -> Vec<PathBuf> {
        let fates: Vec<Fate> = match placed.files.len() < WORTH_THREADS {
            true => placed.files.iter().map(|file| self.fate(file)).collect(),
            false => placed.files.par_iter().map(|file| self.fate(file)).collect(),
        };
        let mut changed = BTreeSet::new();
        for (file, fate) in placed.files.iter().zip(fates) {
            if fate == Fate::BlobChanged {
                self.quarantine(file.digest);
            }
            if fate != Fate::Same {
                changed.insert(file.path.as_path());
            }
        }
        let mut found = BTreeSet::new();
        if let Some(links) = &placed.folder {
            let is_same = |link: &Path, target: &Path| fs::read_link(link).is_ok_and(|found| found == target);
            let others = links.iter().filter(|(link, target)| !is_same(link, target));
            changed.extend(others.map(|(link, _)| link.as_path()));
            list_files(&placed.root, &mut found);
            placed.files.iter().for_each(|file| {
                found.remove(&file.path);
            });
            links.iter().for_each(|(link, _)| {
                found.remove(link);
            });
        }
        let all: BTreeSet<&Path> = changed.into_iter().chain(found.iter().map(PathBuf::as_path)).collect();
        all.into_iter()
            .map(|path| path.strip_prefix(&placed.root).unwrap_or(path).to_path_buf())
            .collect()
    }

    /// Takes an input back that a worker is done with, so that the change which that makes to the blobs it shares is
    /// known to be the store's own. What can't be removed here goes with the folder of the attempt.
    pub fn take_back(&self, placed: &Placed) {
        let mut unlocked = BTreeSet::new();
        for file in placed.files.iter().filter(|file| file.is_shared) {
            let folder = file.path.parent().unwrap_or(Path::new("."));
            if placed.folder.is_some() && unlocked.insert(folder) {
                let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
            }
            let _ = self
                .shared
                .unlink(file.digest, &file.path, &self.blob_path(file.digest));
        }
    }

    /// Writes a copy of an artifact, or of a part of it, that the owner may change. Refuses to overwrite.
    ///
    /// # Errors
    /// As [`Store::place`].
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
            Part::Folder(manifest) => {
                let copy = |file: &TreeFile, path: &Path| self.copy_file(file.digest, file.size, file.executable, path);
                lay_out(&manifest, to, copy, false).map(|_| ())
            }
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

    fn place_file(&self, digest: Digest, size: u64, executable: bool, to: &Path) -> Result<PlacedFile, StoreError> {
        let blob = self.checked_blob(digest, size)?;
        let mode = if executable { 0o555 } else { 0o444 };
        let placed = |is_shared, stamp| PlacedFile {
            path: to.to_path_buf(),
            digest,
            is_shared,
            stamp,
        };
        if self.copier.reflink(&blob, to, mode) {
            return Ok(placed(false, Stamp::read(to)));
        }
        // A hard link shares the blob's mode, so an executable file needs bytes of its own.
        if !executable && let Ok(stamp) = self.shared.link(digest, &blob, to) {
            return Ok(placed(true, Some(stamp)));
        }
        self.copier.copy(&blob, to, mode)?;
        Ok(placed(false, Stamp::read(to)))
    }

    fn copy_file(&self, digest: Digest, size: u64, executable: bool, to: &Path) -> Result<(), StoreError> {
        let blob = self.checked_blob(digest, size)?;
        self.copier.copy(&blob, to, if executable { 0o755 } else { 0o644 })
    }

    fn checked_blob(&self, digest: Digest, size: u64) -> Result<PathBuf, StoreError> {
        // Its bytes are about to be handed out, so one that was touched is read first.
        if self.has_sealed(digest, size, true) {
            Ok(self.blob_path(digest))
        } else {
            Err(StoreError::MissingBlob { digest })
        }
    }

    fn fate(&self, file: &PlacedFile) -> Fate {
        let now = Stamp::read(&file.path);
        if now == file.stamp {
            return Fate::Same;
        }
        let is_here = |now: Stamp| file.stamp.is_some_and(|then| now.inode == then.inode);
        if !file.is_shared {
            let same = now.is_some_and(|now| self.is_unharmed(file, &file.path, now));
            return if same { Fate::Same } else { Fate::Changed };
        }
        if let Some(now) = now.filter(|now| is_here(*now))
            && self.is_unharmed(file, &file.path, now)
        {
            return Fate::Same;
        }
        // Before the worker put something else in its place it may have written to what was there. A blob that is gone or
        // another one by now was removed or mended by somebody else.
        let blob = self.blob_path(file.digest);
        match Stamp::read(&blob).filter(|now| is_here(*now)) {
            Some(now) if !self.is_unharmed(file, &blob, now) => Fate::BlobChanged,
            _ => Fate::Changed,
        }
    }

    /// Returns whether the bytes under a path, which has this stamp now, are still those that were handed out.
    fn is_unharmed(&self, file: &PlacedFile, path: &Path, now: Stamp) -> bool {
        // A seal that came meanwhile moves the time of modification, and is no change: its bytes decide.
        if !file.stamp.is_some_and(|then| now.may_be(&then)) && !seal::has_seal(path, file.digest) {
            return false;
        }
        if file.is_shared && self.shared.is_known(file.digest, &now) {
            return true;
        }
        let is_sound = hash_file(path).is_ok_and(|(digest, _)| digest == file.digest);
        if is_sound && file.is_shared {
            // A worker may have made it writable, which would go for all that share it.
            let mode = fs::symlink_metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
            let locked = mode.is_ok_and(|mode| mode == 0o444)
                || fs::set_permissions(path, fs::Permissions::from_mode(0o444)).is_ok();
            if let Some(after) = Stamp::read(path).filter(|after| locked && after.may_be(&now)) {
                self.shared.found_sound(file.digest, &after);
            }
        }
        is_sound
    }
}

/// Makes the folders of a manifest, its files by `lay`, and its links, in a new folder.
///
/// The manifest was checked, so no path leads out of `to`; links come last, so nothing is written through one either.
fn lay_out<T: Send>(
    manifest: &Manifest,
    to: &Path,
    lay: impl Fn(&TreeFile, &Path) -> Result<T, StoreError> + Sync,
    read_only: bool,
) -> Result<Vec<T>, StoreError> {
    fs::create_dir(to).at("create", to)?;
    let laid = (|| {
        let folders = manifest.all_folders();
        for folder in &folders {
            let folder = to.join(folder);
            fs::create_dir(&folder).at("create", &folder)?;
        }
        let lay_one = |file: &TreeFile| lay(file, &to.join(&file.path));
        let laid: Vec<T> = match manifest.files.len() < WORTH_THREADS {
            true => manifest.files.iter().map(lay_one).collect::<Result<_, _>>()?,
            false => manifest.files.par_iter().map(lay_one).collect::<Result<_, _>>()?,
        };
        for link in &manifest.links {
            let path = to.join(&link.path);
            std::os::unix::fs::symlink(&link.target, &path).at("create", &path)?;
        }
        if read_only {
            // It stops an honest mistake early; `Store::changes` finds the rest.
            for folder in folders.iter().rev().copied().chain([""]) {
                let folder = to.join(folder);
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).at("make read-only", &folder)?;
            }
        }
        Ok(laid)
    })();
    if laid.is_err() {
        // The first error is the one to tell.
        let _ = durable::remove_tree(to);
    }
    laid
}

/// Collects what is not a folder. What can't be listed was made unreadable, and its files differ by their stamps.
fn list_files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list_files(&entry.path(), found),
            _ => {
                found.insert(entry.path());
            }
        }
    }
}
