//! One checkpoint: a folder of files, and the manifest that makes it one.
//!
//! The manifest is written last, by rename, when all the rest is on the disk. It has the length and digest of every file,
//! so that a folder is either the state as it was saved or noticed not to be.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{FORMAT, Owner, Setup, Unusable, checked, io, remove, sync, write_file};

const PREFIX: &str = "checkpoint-";
const MANIFEST: &str = "manifest.json";

/// A checkpoint that is whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub path: PathBuf,
    /// Steps whose work it holds.
    pub step: usize,
    pub setup: Setup,
    /// Of the manifest, and so of everything in it.
    pub digest: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    owner: Owner,
    step: usize,
    setup: Setup,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    blake3: String,
}

/// Returns the folders that may be checkpoints, newest first.
///
/// # Errors
/// The folder can't be listed.
pub fn candidates(folder: &Path) -> Result<Vec<PathBuf>, Unusable> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| io(folder, source))? {
        let path = entry.map_err(|source| io(folder, source))?.path();
        let step = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse::<usize>().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Opens a checkpoint and reads every byte of it, to see that it is what was written.
///
/// # Errors
/// It is not whole, not of this format, or not of this owner.
pub fn open(path: &Path, owner: &Owner) -> Result<Checkpoint, Unusable> {
    let manifest_path = path.join(MANIFEST);
    let line = match fs::read(&manifest_path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Unusable::Unfinished),
        Err(source) => return Err(io(&manifest_path, source)),
    };
    let damaged = |file: &str| Unusable::Damaged { file: file.to_owned() };
    let text = checked::decode(&line).ok_or_else(|| damaged(MANIFEST))?;
    super::check_format(text).map_err(|got| got.map_or_else(|| damaged(MANIFEST), |got| Unusable::Format { got }))?;
    let manifest: Manifest = serde_json::from_str(text).map_err(|_| damaged(MANIFEST))?;
    owner.check(manifest.owner)?;
    for (name, stated) in &manifest.files {
        // A length that is wrong is seen at once, without reading gigabytes.
        let length = fs::metadata(path.join(name)).map_or(0, |metadata| metadata.len());
        if length != stated.bytes || entry(&path.join(name))? != *stated {
            return Err(damaged(name));
        }
    }
    Ok(Checkpoint {
        path: path.to_owned(),
        step: manifest.step,
        setup: manifest.setup,
        digest: checked::digest(text),
    })
}

/// Writes the checkpoint of a step; `fill` puts its files into the folder that it is given.
///
/// # Errors
/// `fill` fails, or a file can't be written: then there is no checkpoint of this step, and older ones are as they were.
pub fn write<E: From<Unusable>>(
    folder: &Path,
    owner: &Owner,
    setup: &Setup,
    step: usize,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<Checkpoint, E> {
    let path = folder.join(format!("{PREFIX}{step}"));
    // What an attempt left there was found unusable, or it would have been continued.
    remove(&path)?;
    fs::create_dir_all(&path).map_err(|source| io(&path, source))?;
    if let Err(error) = fill(&path) {
        // A full disk is a likely reason; half a checkpoint must not keep it full.
        let _ = remove(&path);
        return Err(error);
    }
    let mut files = BTreeMap::new();
    for file in fs::read_dir(&path).map_err(|source| io(&path, source))? {
        let file = file.map_err(|source| io(&path, source))?;
        let name = file.file_name().to_string_lossy().into_owned();
        files.insert(name, synced_entry(&file.path())?);
    }
    let manifest = Manifest {
        format: FORMAT,
        owner: owner.clone(),
        step,
        setup: setup.clone(),
        files,
    };
    let line = checked::encode(&manifest);
    let digest = checked::decode(&line).map(checked::digest).unwrap_or_default();
    sync(folder)?;
    write_file(&path.join(MANIFEST), &line)?;
    Ok(Checkpoint {
        path,
        step,
        setup: setup.clone(),
        digest,
    })
}

/// Reads a file while the disk still writes it: of a large model both take seconds, and after SIGTERM there are ten.
fn synced_entry(path: &Path) -> Result<Entry, Unusable> {
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| sync(path));
        let entry = entry(path);
        synced.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        entry
    })
}

fn entry(path: &Path) -> Result<Entry, Unusable> {
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(|_| ()))
        .map_err(|source| io(path, source))?;
    Ok(Entry {
        bytes: hasher.count(),
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner() -> Owner {
        Owner {
            kind: "k".to_owned(),
            key: "1f".to_owned(),
        }
    }

    fn write_two_files(folder: &Path, step: usize) -> Result<Checkpoint, Unusable> {
        let setup = Setup {
            num_threads: 2,
            device: "cpu".to_owned(),
            settings: BTreeMap::from([("tokens".to_owned(), 8.into())]),
        };
        write(folder, &owner(), &setup, step, |folder| {
            for (name, text) in [("a", "some text"), ("b", "")] {
                let path = folder.join(name);
                fs::write(&path, text).map_err(|source| io(&path, source))?;
            }
            Ok(())
        })
    }

    #[test]
    fn a_checkpoint_opens_as_it_was_written_and_newer_ones_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let written = [9, 10].map(|step| write_two_files(dir.path(), step).unwrap());
        fs::write(dir.path().join("failures.json"), "").unwrap();
        let found: Vec<Checkpoint> = candidates(dir.path())
            .unwrap()
            .iter()
            .map(|path| open(path, &owner()).unwrap())
            .collect();
        assert_eq!(found, [written[1].clone(), written[0].clone()]);
        super::super::remove_others(dir.path(), &written[1].path).unwrap();
        assert_eq!(candidates(dir.path()).unwrap(), [&*written[1].path]);
    }

    #[test]
    fn what_can_not_be_filled_leaves_nothing_and_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let before = write_two_files(dir.path(), 1).unwrap();
        let failed = write(dir.path(), &owner(), &before.setup, 2, |_| Err(Unusable::Unfinished));
        assert!(matches!(failed, Err(Unusable::Unfinished)));
        assert_eq!(candidates(dir.path()).unwrap(), [&*before.path]);
        assert_eq!(open(&before.path, &owner()).unwrap(), before);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever byte of whatever file is another, and wherever a file is cut: it is noticed.
        #[test]
        fn a_change_is_noticed(file in 0usize..2, at in any::<prop::sample::Index>(), flip in any::<Option<u8>>()) {
            let dir = tempfile::tempdir().unwrap();
            let checkpoint = write_two_files(dir.path(), 4).unwrap();
            let path = checkpoint.path.join([MANIFEST, "a"][file]);
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            match flip {
                Some(flip) => bytes[at] ^= flip.max(1),
                None => bytes.truncate(at),
            }
            fs::write(&path, bytes).unwrap();
            let is_damaged = matches!(open(&checkpoint.path, &owner()), Err(Unusable::Damaged { .. }));
            prop_assert!(is_damaged);
        }
    }
}
