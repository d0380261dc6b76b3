//! Digests of files and folders that lie outside the store: data sets, model folders, a plugin's code.
//!
//! Only names and bytes count, never a path outside the folder, a time or a mode. A [`DigestCache`] spares reading
//! what has not changed; who keeps it is not known here. What has changed is read on all cores. Symbolic links are
//! followed, as the folders of the Hugging Face cache consist of them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Digest, read_digest};

/// A folder that is nested deeper than this is taken for a loop of symbolic links.
const MAX_DEPTH: usize = 64;

/// A file younger than this may still change without its times changing, so its digest is not remembered.
const SETTLED_NS: i64 = 2_000_000_000;

/// Less than this in fewer files than that is read before other threads have even started.
const WORTH_THREADS_BYTES: u64 = 1 << 20;
const WORTH_THREADS_FILES: usize = 64;

/// What tells cheaply whether a file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStat {
    /// Length in bytes.
    pub size_bytes: u64,
    /// Time of the last change of the content, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of content or metadata, in nanoseconds since 1970; unlike `mtime_ns`, it can't be set.
    pub ctime_ns: i64,
    /// Number of the file on its device.
    pub inode: u64,
    /// Number of the device.
    pub device: u64,
}

impl FileStat {
    /// Returns the stat that `metadata` describes.
    pub fn of(metadata: &fs::Metadata) -> FileStat {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        FileStat {
            size_bytes: metadata.len(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos().min(i64::MAX as u128) as i64);
        now.saturating_sub(self.ctime_ns.max(self.mtime_ns)) > SETTLED_NS
    }
}

/// What tells cheaply whether all files of a folder are still those that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderStat {
    /// The digest of the names and stats of all its files.
    pub stats: Digest,
    /// The number of its files.
    pub num_files: u64,
    /// Their length in bytes together.
    pub size_bytes: u64,
}

/// Remembers the digests of files outside the store, so that a large file is read once.
pub trait DigestCache {
    /// Returns the digest of the file if it was remembered with the very same stat.
    fn get(&self, path: &Path, stat: &FileStat) -> Option<Digest>;

    /// Remembers the digest of a file; best effort.
    fn put(&self, path: &Path, stat: &FileStat, digest: Digest);

    /// Returns the digest of the folder if it was remembered with the very same stat.
    fn get_folder(&self, path: &Path, stat: &FolderStat) -> Option<Digest>;

    /// Remembers the digest of a folder; best effort.
    fn put_folder(&self, path: &Path, stat: &FolderStat, digest: Digest);
}

/// A file or folder that can't be digested.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading failed.
    #[error("can't read {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket, device or pipe.
    #[error("{} is neither a file nor a folder", path.display())]
    Odd {
        /// What it is.
        path: PathBuf,
    },
    /// A name that is not UTF-8.
    #[error("the name {} is not UTF-8", path.display())]
    Name {
        /// The file or folder.
        path: PathBuf,
    },
    /// Nested too deeply.
    #[error("{} is nested more than {MAX_DEPTH} folders deep; is there a loop of symbolic links?", path.display())]
    Depth {
        /// Where the walk was stopped.
        path: PathBuf,
    },
}

/// Returns the digest of the content of a file or folder.
///
/// A file's is that of its bytes; a folder's is that of the names, sizes and digests of the files in it, under a tag
/// of its own, so that the two can't be equal.
///
/// # Errors
/// Something can't be read, or is no file or folder.
pub fn path_digest(path: &Path, cache: Option<&dyn DigestCache>) -> Result<Digest, FileError> {
    let metadata = fs::metadata(path).map_err(|source| FileError::Io {
        path: path.into(),
        source,
    })?;
    if !metadata.is_dir() {
        return file_digest(path, cache);
    }
    let mut files = Vec::new();
    walk(path, "", 0, &mut files)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let stat = folder_stat(&files);
    if let Some(digest) = cache.and_then(|cache| cache.get_folder(path, &stat)) {
        return Ok(digest);
    }
    let is_settled = files.iter().all(|file| file.stat.is_settled());
    let read = read_all(&files, cache)?;
    let is_same = files.iter().zip(&read).all(|(file, read)| read.is_still(&file.stat));
    let tree: Map<String, Value> = files
        .into_iter()
        .zip(&read)
        .map(|(file, read)| (file.name, json!({"size": read.stat.size_bytes, "digest": read.digest})))
        .collect();
    let digest = Digest::of_value("volvelle folder v1", &Value::Object(tree))
        // Two names that differ in normalization only can't both be told apart on every file system.
        .map_err(|_| FileError::Name { path: path.into() })?;
    if let Some(cache) = cache
        && is_settled
        && is_same
    {
        cache.put_folder(path, &stat, digest);
    }
    Ok(digest)
}

/// Returns the digest of the bytes of one file.
///
/// # Errors
/// It can't be read, or is not a regular file.
pub fn file_digest(path: &Path, cache: Option<&dyn DigestCache>) -> Result<Digest, FileError> {
    let metadata = fs::metadata(path).map_err(|source| FileError::Io {
        path: path.into(),
        source,
    })?;
    let file = Outside::new(String::new(), path.into(), &metadata)?;
    let read = read_all(&[file], cache)?;
    Ok(read[0].digest)
}

/// A regular file outside the store, links followed.
struct Outside {
    /// The name inside the folder that is digested.
    name: String,
    path: PathBuf,
    stat: FileStat,
}

impl Outside {
    /// Opening a pipe would wait for a writer, so what it is is asked first.
    fn new(name: String, path: PathBuf, metadata: &fs::Metadata) -> Result<Outside, FileError> {
        match metadata.is_file() {
            true => Ok(Outside {
                name,
                path,
                stat: FileStat::of(metadata),
            }),
            false => Err(FileError::Odd { path }),
        }
    }
}

/// What a file turned out to be: remembered, or read.
struct Read {
    digest: Digest,
    stat: FileStat,
    /// Whether it was the same before and after it was read.
    is_stable: bool,
}

impl Read {
    fn is_still(&self, stat: &FileStat) -> bool {
        self.is_stable && self.stat == *stat
    }
}

/// Returns the digests of files, those that are not remembered read on all cores.
fn read_all(files: &[Outside], cache: Option<&dyn DigestCache>) -> Result<Vec<Read>, FileError> {
    // Only here is the cache asked: it need not be fit for several threads.
    let remembered: Vec<Option<Digest>> = files.iter().map(|file| cache?.get(&file.path, &file.stat)).collect();
    let digest = |(file, remembered): (&Outside, &Option<Digest>)| match remembered {
        Some(digest) => Ok(Read {
            digest: *digest,
            stat: file.stat,
            is_stable: true,
        }),
        None => read(&file.path).map_err(|source| FileError::Io {
            path: file.path.clone(),
            source,
        }),
    };
    let is_little = files.len() < WORTH_THREADS_FILES && total_bytes(files) < WORTH_THREADS_BYTES;
    let read: Vec<Read> = match is_little {
        true => files.iter().zip(&remembered).map(digest).collect::<Result<_, _>>()?,
        false => files
            .par_iter()
            .zip(&remembered)
            .map(digest)
            .collect::<Result<_, _>>()?,
    };
    for ((file, read), remembered) in files.iter().zip(&read).zip(remembered) {
        if let Some(cache) = cache
            && remembered.is_none()
            && read.is_still(&file.stat)
            && file.stat.is_settled()
        {
            cache.put(&file.path, &file.stat, read.digest);
        }
    }
    Ok(read)
}

fn read(path: &Path) -> io::Result<Read> {
    let file = File::open(path)?;
    let before = FileStat::of(&file.metadata()?);
    let (digest, size_bytes) = read_digest(&file)?;
    Ok(Read {
        digest,
        is_stable: FileStat::of(&file.metadata()?) == before,
        stat: FileStat { size_bytes, ..before },
    })
}

fn total_bytes(files: &[Outside]) -> u64 {
    files
        .iter()
        .fold(0, |total, file| total.saturating_add(file.stat.size_bytes))
}

fn folder_stat(files: &[Outside]) -> FolderStat {
    let mut hasher = blake3::Hasher::new();
    for Outside { name, stat, .. } in files {
        let numbers = [
            stat.size_bytes,
            stat.mtime_ns as u64,
            stat.ctime_ns as u64,
            stat.inode,
            stat.device,
        ];
        hasher
            .update(&(name.len() as u64).to_le_bytes())
            .update(name.as_bytes());
        numbers.iter().for_each(|number| {
            hasher.update(&number.to_le_bytes());
        });
    }
    FolderStat {
        stats: Digest(*hasher.finalize().as_bytes()),
        num_files: files.len() as u64,
        size_bytes: total_bytes(files),
    }
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Outside>) -> Result<(), FileError> {
    if depth > MAX_DEPTH {
        return Err(FileError::Depth { path: folder.into() });
    }
    let io_error = |source| FileError::Io {
        path: folder.into(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(FileError::Name { path });
        };
        let relative = format!("{prefix}{name}");
        let metadata = fs::metadata(&path).map_err(|source| FileError::Io {
            path: path.clone(),
            source,
        })?;
        if metadata.is_dir() {
            walk(&path, &format!("{relative}/"), depth + 1, files)?;
        } else {
            files.push(Outside::new(relative, path, &metadata)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Memory(
        RefCell<HashMap<(PathBuf, FileStat), Digest>>,
        RefCell<HashMap<(PathBuf, FolderStat), Digest>>,
    );

    impl DigestCache for Memory {
        fn get(&self, path: &Path, stat: &FileStat) -> Option<Digest> {
            self.0.borrow().get(&(path.into(), *stat)).copied()
        }

        fn put(&self, path: &Path, stat: &FileStat, digest: Digest) {
            self.0.borrow_mut().insert((path.into(), *stat), digest);
        }

        fn get_folder(&self, path: &Path, stat: &FolderStat) -> Option<Digest> {
            self.1.borrow().get(&(path.into(), *stat)).copied()
        }

        fn put_folder(&self, path: &Path, stat: &FolderStat, digest: Digest) {
            self.1.borrow_mut().insert((path.into(), *stat), digest);
        }
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("inside the folder")).expect("a subfolder");
            fs::write(path, text).expect("a file");
        }
        dir
    }

    #[test]
    fn a_folder_is_its_names_and_bytes_wherever_it_lies() {
        let files = [("config.json", "{}"), ("sub/weights", "abc")];
        let (a, b) = (folder(&files), folder(&files));
        let digest = |dir: &tempfile::TempDir| path_digest(dir.path(), None).expect("a plain folder");
        assert_eq!(digest(&a), digest(&b));
        assert_ne!(
            digest(&a),
            digest(&folder(&[("config.json", "{}"), ("sub/weights", "abd")]))
        );
        assert_ne!(
            digest(&a),
            digest(&folder(&[("config.json", "{}"), ("weights", "abc")]))
        );
    }

    #[test]
    fn links_are_followed_and_loops_end() {
        let dir = folder(&[("a", "x")]);
        std::os::unix::fs::symlink("a", dir.path().join("b")).expect("a link");
        let linked = path_digest(dir.path(), None).expect("a link to a file");
        assert_eq!(
            linked,
            path_digest(folder(&[("a", "x"), ("b", "x")]).path(), None).expect("a plain folder")
        );
        std::os::unix::fs::symlink(".", dir.path().join("loop")).expect("a link");
        assert!(path_digest(dir.path(), None).is_err());
    }

    #[test]
    fn only_files_that_came_to_rest_are_remembered() {
        let dir = folder(&[("a", "x"), ("sub/b", "y")]);
        let (path, memory) = (dir.path().join("a"), Memory::default());
        let of_folder = || path_digest(dir.path(), Some(&memory)).expect("a folder");
        file_digest(&path, Some(&memory)).expect("a file");
        let fresh = of_folder();
        assert!(
            memory.0.borrow().is_empty() && memory.1.borrow().is_empty(),
            "a file that was just written may change within one tick of the clock"
        );
        std::thread::sleep(Duration::from_nanos(SETTLED_NS as u64 + 50_000_000));
        let digest = file_digest(&path, Some(&memory)).expect("a file");
        assert_eq!(memory.0.borrow().len(), 1);
        assert_eq!(file_digest(&path, Some(&memory)).expect("a file"), digest);

        assert_eq!(of_folder(), fresh);
        assert_eq!(memory.1.borrow().len(), 1);
        // What is remembered is taken at its word, until a stat differs.
        let wrong = Digest::of(b"wrong");
        memory.1.borrow_mut().values_mut().for_each(|digest| *digest = wrong);
        assert_eq!(of_folder(), wrong);
        fs::write(dir.path().join("sub/b"), "z").expect("a file");
        assert_ne!(of_folder(), wrong);
    }
}
