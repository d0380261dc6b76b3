//! Taking over the outputs of a node: from files that a worker left to blobs that are durable.
//!
//! Nothing is copied that can be moved, and nothing is read twice. The files are looked over first, so that what has no
//! place in an artifact is refused before anything is touched; then they are hashed on all cores while their bytes, which
//! are still in memory, are on their way to the disk; then they are renamed, all at once. What fails in between leaves
//! the outputs where they are, and nothing in the store.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::Store;
use super::artifact::Artifact;
use super::blob::{Prepared, Source, Stamp, hash_file};
use super::durable;
use super::error::{IoContext, StoreError};
use super::tree::{LinkFault, Manifest, TreeFault, TreeFile, TreeLink};
use super::writers::Patience;
use crate::digest::Digest;

/// From this many bytes on they are sent to the disk while they are hashed.
const WORTH_OVERLAP_BYTES: u64 = 8 << 20;

/// Less than this is hashed by the thread that is here already.
const WORTH_THREADS_BYTES: u64 = 1 << 20;
const WORTH_THREADS_FILES: usize = 64;

/// A regular file of an output.
struct OutputFile {
    path: PathBuf,
    size: u64,
    /// Device and number, for files that have several names.
    inode: (u64, u64),
    num_names: u64,
}

/// What an output consists of; files are numbers in the list of all of them.
enum Shape {
    File(usize),
    Folder {
        files: Vec<(String, usize, bool)>,
        folders: Vec<String>,
        links: Vec<TreeLink>,
    },
}

/// What looks an output over.
struct Survey<'a> {
    root: &'a Path,
    all: &'a mut Vec<OutputFile>,
    files: Vec<(String, usize, bool)>,
    folders: Vec<String>,
    links: Vec<TreeLink>,
}

impl Store {
    /// Takes the outputs of a node over, all durable when it returns. The files are moved, not copied.
    ///
    /// Symbolic links are kept where they stay inside their output; an absolute one that leads into it is made relative.
    ///
    /// # Errors
    /// A device, a socket, a link that leaves, or a name that is not UTF-8 is refused, with its path.
    pub fn admit(&self, outputs: &[(String, PathBuf)]) -> Result<BTreeMap<String, Artifact>, StoreError> {
        let mut all = Vec::new();
        let mut shapes = Vec::new();
        for (name, path) in outputs {
            shapes.push((name, look_over(path, &mut all)?));
        }
        let (blobs, names) = self.take_over(&all)?;
        let id = |idx: usize| (blobs[idx].digest, blobs[idx].size);
        let mut artifacts = BTreeMap::new();
        let mut manifests = Vec::new();
        for (name, shape) in shapes {
            artifacts.insert(
                name.clone(),
                match shape {
                    Shape::File(idx) => Artifact::of_file(id(idx).0, id(idx).1),
                    Shape::Folder { files, folders, links } => {
                        let file = |(path, idx, executable): (String, usize, bool)| TreeFile {
                            digest: id(idx).0,
                            executable,
                            path,
                            size: id(idx).1,
                        };
                        let manifest = Manifest::new(files.into_iter().map(file).collect(), folders, links);
                        let text = manifest.encode();
                        manifests.push(self.prepare_bytes(text.as_bytes())?);
                        Artifact::of_folder(&manifest, &text)
                    }
                },
            );
        }
        self.commit_blobs(blobs.into_iter().chain(manifests).collect())?;
        for name in names {
            // What is left of them goes with the folder of the attempt at the latest.
            let _ = fs::remove_file(name);
        }
        Ok(artifacts)
    }

    /// Hashes files and makes them ready to become blobs. Returns those, and the names that are not needed then: of files
    /// that the store has already, and further names of one file.
    fn take_over(&self, files: &[OutputFile]) -> Result<(Vec<Prepared>, Vec<PathBuf>), StoreError> {
        let groups = by_inode(files);
        let size = |group: &Vec<usize>| files[group[0]].size;
        let total = groups
            .iter()
            .fold(0u64, |total, group| total.saturating_add(size(group)));
        let patience = Patience::default();
        let is_known: Vec<AtomicBool> = groups.iter().map(|_| AtomicBool::new(false)).collect();
        let take = |(idx, group): (usize, &Vec<usize>)| {
            let blob = self.take_file(&files[group[0]], group.len() as u64, &patience)?;
            is_known[idx].store(blob.source.is_none(), Ordering::Relaxed);
            Ok(blob)
        };
        let take_all = || match total < WORTH_THREADS_BYTES && groups.len() < WORTH_THREADS_FILES {
            true => groups
                .iter()
                .enumerate()
                .map(take)
                .collect::<Result<Vec<_>, StoreError>>(),
            false => groups.par_iter().enumerate().map(take).collect(),
        };
        let taken = if total < WORTH_OVERLAP_BYTES {
            take_all()?
        } else {
            let paths: Vec<&Path> = groups.iter().map(|group| files[group[0]].path.as_path()).collect();
            let is_needed = |idx: usize| !is_known[idx].load(Ordering::Relaxed);
            let flush = || durable::flush_ahead(&paths, &is_needed);
            std::thread::scope(|scope| {
                let flushing = std::thread::Builder::new().spawn_scoped(scope, flush);
                let taken = take_all()?;
                // A failure to write that the kernel has told of once is not told again.
                let flushed = flushing.map_or(Ok(()), |flushing| flushing.join().expect("flushing does not panic"));
                flushed.map(|()| taken)
            })?
        };
        Ok(spread(files, groups, taken))
    }

    /// Takes a regular file over: makes it read-only and hashes it. A file that somebody else could still change is
    /// copied instead: one with a name elsewhere, or one that is open for writing.
    fn take_file(&self, file: &OutputFile, num_names: u64, patience: &Patience) -> Result<Prepared, StoreError> {
        let path = &file.path;
        // Before the hash is taken: who wants to write now has to open the file first.
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).at("make read-only", path)?;
        let is_written = patience.is_written(path).at("open", path)?;
        if is_written {
            tracing::warn!(
                path = %path.display(),
                "an output is still open for writing, by a process that the stage left running; a copy of it is kept"
            );
        }
        let source = if is_written || file.num_names > num_names {
            let copy = self.temporary();
            self.copier.copy(path, copy.path(), 0o444)?;
            Source::Temporary(copy)
        } else {
            Source::Output(path.clone())
        };
        let before = Stamp::read(source.path());
        let (digest, size) = hash_file(source.path())?;
        // Renaming and linking aside, nothing may happen to it from here on.
        if before.is_none() || Stamp::read(source.path()) != before {
            return Err(StoreError::Changing { path: path.clone() });
        }
        Ok(Prepared {
            digest,
            size,
            source: (!self.is_usable(digest, size)).then_some(source),
        })
    }
}

/// Groups the names of each file that has several; largest first, so that the last thread is not left with the largest.
fn by_inode(files: &[OutputFile]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<(u64, u64), usize> = HashMap::new();
    for (idx, file) in files.iter().enumerate() {
        match known.get(&file.inode) {
            Some(group) if file.num_names > 1 => groups[*group].push(idx),
            _ => {
                known.insert(file.inode, groups.len());
                groups.push(vec![idx]);
            }
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(files[group[0]].size));
    groups
}

/// Gives each file what was found for its group. Of equal files one becomes the blob.
fn spread(files: &[OutputFile], groups: Vec<Vec<usize>>, taken: Vec<Prepared>) -> (Vec<Prepared>, Vec<PathBuf>) {
    let mut blobs: Vec<Option<Prepared>> = files.iter().map(|_| None).collect();
    let mut unneeded = Vec::new();
    let mut sources: HashMap<Digest, ()> = HashMap::new();
    for (group, mut blob) in groups.into_iter().zip(taken) {
        if blob.source.is_some() && sources.insert(blob.digest, ()).is_some() {
            blob.source = None;
        }
        for (nth, idx) in group.into_iter().enumerate() {
            let is_moved = nth == 0 && matches!(blob.source, Some(Source::Output(_)));
            if !is_moved {
                unneeded.push(files[idx].path.clone());
            }
            blobs[idx] = Some(Prepared {
                digest: blob.digest,
                size: blob.size,
                source: blob.source.take(),
            });
        }
    }
    (blobs.into_iter().flatten().collect(), unneeded)
}

fn look_over(path: &Path, all: &mut Vec<OutputFile>) -> Result<Shape, StoreError> {
    let metadata = fs::symlink_metadata(path).at("read", path)?;
    if metadata.is_file() {
        all.push(OutputFile::new(path.to_path_buf(), &metadata));
        return Ok(Shape::File(all.len() - 1));
    }
    refuse_odd(path, &metadata)?;
    let mut survey = Survey {
        root: path,
        all,
        files: Vec::new(),
        folders: Vec::new(),
        links: Vec::new(),
    };
    survey.folder(path, "", &metadata)?;
    let Survey {
        files, folders, links, ..
    } = survey;
    // The links alone are a manifest in which everything else is not there, which is as good to tell where they lead.
    let alone = Manifest::new(Vec::new(), Vec::new(), links);
    alone.check().map_err(|fault| refused_link(path, fault))?;
    Ok(Shape::Folder {
        files,
        folders,
        links: alone.links,
    })
}

fn refused_link(root: &Path, fault: TreeFault) -> StoreError {
    match fault {
        TreeFault::Link { path, target, fault } => StoreError::BadLink {
            path: root.join(path),
            target,
            fault,
        },
        fault => StoreError::BadTree {
            path: root.to_path_buf(),
            fault,
        },
    }
}

impl OutputFile {
    fn new(path: PathBuf, metadata: &fs::Metadata) -> OutputFile {
        OutputFile {
            path,
            size: metadata.len(),
            inode: (metadata.dev(), metadata.ino()),
            num_names: metadata.nlink(),
        }
    }
}

impl Survey<'_> {
    fn folder(&mut self, folder: &Path, prefix: &str, metadata: &fs::Metadata) -> Result<(), StoreError> {
        // A worker may have made it read-only, and its files are about to be moved.
        if metadata.permissions().mode() & 0o700 != 0o700 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).at("unlock", folder)?;
        }
        let mut is_empty = true;
        for entry in fs::read_dir(folder).at("list", folder)? {
            is_empty = false;
            let path = entry.at("list", folder)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                return Err(StoreError::BadName { path });
            };
            let relative = format!("{prefix}{name}");
            let metadata = fs::symlink_metadata(&path).at("read", &path)?;
            if metadata.is_file() {
                let executable = metadata.permissions().mode() & 0o100 != 0;
                self.files.push((relative, self.all.len(), executable));
                self.all.push(OutputFile::new(path, &metadata));
            } else if metadata.is_symlink() {
                let target = self.target(&path, &relative)?;
                self.links.push(TreeLink { path: relative, target });
            } else {
                refuse_odd(&path, &metadata)?;
                self.folder(&path, &format!("{relative}/"), &metadata)?;
            }
        }
        if is_empty && !prefix.is_empty() {
            self.folders.push(prefix.trim_end_matches('/').to_owned());
        }
        Ok(())
    }

    /// Returns what a link says. Programs often write the whole path of what lies beside the link; the folder of the
    /// attempt is no part of a result, so such a target is made relative.
    fn target(&self, path: &Path, relative: &str) -> Result<String, StoreError> {
        let target = fs::read_link(path).at("read", path)?;
        let inside = target.strip_prefix(self.root).ok().map(Path::to_path_buf);
        let inside = inside.or_else(|| {
            let root = self.root.canonicalize().ok()?;
            Some(target.strip_prefix(root).ok()?.to_path_buf())
        });
        let kept = match inside {
            Some(inside) => Path::new(&"../".repeat(relative.matches('/').count())).join(inside),
            None => target,
        };
        match kept.to_str() {
            Some("") => Ok(".".to_owned()),
            Some(text) => Ok(text.to_owned()),
            None => Err(StoreError::BadLink {
                path: path.to_path_buf(),
                target: kept.to_string_lossy().into_owned(),
                fault: LinkFault::NoPath,
            }),
        }
    }
}

/// Refuses what is neither a file nor a folder.
fn refuse_odd(path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        return Ok(());
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    };
    Err(StoreError::OddFile {
        path: path.to_path_buf(),
        what,
    })
}
