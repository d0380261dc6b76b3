//! Records, and small blobs in groups, that come from elsewhere: checked in all that can be checked, and only then let in.
//!
//! A record has to be what its file says, its preimages have to hash to its keys, and its artifacts have to be there and
//! to be what their manifests say. Whether the computation was honest can't be seen here; that is what signatures are
//! for. It knows no network.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::artifact::Artifact;
use super::blob::BlobState;
use super::error::{IoContext, StoreError};
use super::record::{Lookup, Record, RecordFile};
use super::{Store, durable};
use crate::digest::{ContentKey, Digest, RecipeKey};

/// How many missing blobs are named at once; who lacks more pushes these and asks again.
const MOST_NAMED: usize = 1000;

/// Two of one recipe at once: the second has to see what the first wrote. Keys share locks, which costs nothing.
static WRITERS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// What became of a record that was to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    Stored,
    /// There was a complete one already, with these bytes, and it stays.
    Exists(Vec<u8>),
}

/// Why a record was not let in.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error("this is no record that this program can read, or it was damaged on its way")]
    Damaged,
    #[error("the record is of recipe {}, not of {}", found.short(), expected.short())]
    ForeignKey { expected: RecipeKey, found: RecipeKey },
    #[error("the record's {which} preimage does not hash to its {which} key")]
    WrongPreimage { which: &'static str },
    #[error("the record's output `{output}` is not what its manifest says")]
    WrongArtifact { output: String },
    /// Blobs that the record needs are not here; at most a thousand are named.
    #[error("{} blobs of the record are not here", missing.len())]
    Missing { missing: Vec<Digest> },
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Store {
    /// Lets a record file in that came from elsewhere, under both of its keys, durable when it returns. The bytes stay
    /// as they are. A complete record that is there already stays, unless `replace` says otherwise.
    ///
    /// # Errors
    /// The record does not check, or blobs of it are missing; then nothing was written.
    pub fn admit_record(&self, recipe: RecipeKey, bytes: &[u8], replace: bool) -> Result<Admitted, AdmitError> {
        let record = RecordFile::parse(bytes).ok_or(AdmitError::Damaged)?.record;
        if record.recipe_key != recipe {
            return Err(AdmitError::ForeignKey {
                expected: recipe,
                found: record.recipe_key,
            });
        }
        check_preimages(&record)?;
        // From the look at its blobs to the record that needs them, `gc` must not come in between.
        let _guard = self.use_guard()?;
        self.check_artifacts(&record)?;
        let _lock = writer(recipe);
        if !replace && matches!(self.lookup(recipe), Lookup::Hit(_)) {
            let path = self.record_path(recipe.0);
            let there = std::fs::read(&path).at("read", &path)?;
            return Ok(Admitted::Exists(there));
        }
        let keeps_content = !replace && matches!(self.lookup_content(record.content_key), Lookup::Hit(_));
        if keeps_content {
            self.write_recipe_record(recipe, bytes)?;
        } else {
            self.write_record(recipe, record.content_key, bytes)?;
        }
        Ok(Admitted::Stored)
    }

    /// Lets records in that came from elsewhere and checked, although their blobs may be missing, all durable when it
    /// returns. What is here stays, unless what came is of more use: nothing that is complete or trusted is lost to it.
    pub fn admit_records(&self, files: &[RecordFile]) -> Result<(), StoreError> {
        let _guard = self.use_guard()?;
        let (mut moves, mut fresh) = (Vec::new(), Vec::new());
        for file in files {
            let record = &file.record;
            // The recipe key comes last: what it finds is done.
            let names = [record.content_key.0, record.recipe_key.0];
            for key in names.into_iter().filter(|key| self.is_of_use(*key, file)) {
                if key == record.recipe_key.0 {
                    self.keep_replaced(record.recipe_key, file.bytes());
                    fresh.push(record.recipe_key);
                }
                let temporary = durable::unique_path(&self.tmp());
                std::fs::write(&temporary, file.bytes()).at("write", &temporary)?;
                moves.push((temporary, self.record_path(key)));
            }
        }
        durable::commit(&moves)?;
        fresh.iter().for_each(|key| self.append_journal(key));
        Ok(())
    }

    /// Returns whether a record that came is of more use under a name than what is there.
    fn is_of_use(&self, key: Digest, file: &RecordFile) -> bool {
        let Some(here) = self.record_file(key) else { return true };
        let is_trusted = |file: &RecordFile| self.trust().accepts(self.trust().best(&file.signers));
        if here.bytes() == file.bytes() || !is_trusted(file) {
            return false;
        }
        let mut artifacts = here.record.artifacts.values();
        let mut is_complete = || artifacts.all(|artifact| self.missing_blob(artifact).is_none());
        !is_trusted(&here) || (here.record.artifacts != file.record.artifacts && !is_complete())
    }

    /// Makes blobs of bytes that came from elsewhere, all durable when it returns.
    ///
    /// # Errors
    /// Bytes have another digest than they came with; then none of the group is let in.
    pub fn admit_bytes(&self, group: &[(Digest, impl AsRef<[u8]>)]) -> Result<(), StoreError> {
        for (digest, bytes) in group {
            if Digest::of(bytes.as_ref()) != *digest {
                return Err(StoreError::WrongBytes { digest: *digest });
            }
        }
        let mut seen = BTreeSet::new();
        let mut prepared = Vec::new();
        for (digest, bytes) in group {
            if seen.insert(*digest) {
                prepared.push(self.prepare_bytes(bytes.as_ref())?);
            }
        }
        self.commit_blobs(prepared)
    }

    /// Returns whether the store has all of an artifact, of which only the names are known.
    pub fn has_content(&self, digest: Digest, manifest: Option<Digest>) -> bool {
        match manifest {
            None => self.blob_size(digest).is_some(),
            Some(_) => self
                .blobs_of(digest, manifest)
                .is_ok_and(|blobs| blobs.iter().all(|(digest, size)| self.has_blob(*digest, *size))),
        }
    }

    /// Returns the length of a blob; none where there is no such blob.
    pub fn blob_size(&self, digest: Digest) -> Option<u64> {
        let found = std::fs::symlink_metadata(self.blob_path(digest)).ok()?;
        found.is_file().then_some(found.len())
    }

    /// Reads a blob again and tells whether it is good; a damaged one is moved aside. None where there is no such blob.
    pub fn recheck_blob(&self, digest: Digest) -> Result<Option<bool>, StoreError> {
        Ok(match self.verify_blob(digest, None)? {
            BlobState::Sound => Some(true),
            BlobState::Missing => None,
            BlobState::Damaged => {
                tracing::warn!(blob = %digest, "a blob was damaged and is moved aside");
                self.quarantine(digest);
                Some(false)
            }
        })
    }

    /// Returns the files of a folder whose manifest blob is here, each once, with their sizes; of a file itself.
    ///
    /// # Errors
    /// The blob of a file, or the manifest, is missing, or it is not that of this folder.
    pub fn blobs_of(&self, digest: Digest, manifest: Option<Digest>) -> Result<Vec<(Digest, u64)>, StoreError> {
        let Some(manifest) = manifest else {
            let size = self.blob_size(digest).ok_or(StoreError::MissingBlob { digest })?;
            return Ok(vec![(digest, size)]);
        };
        let named = Artifact {
            digest,
            manifest: Some(manifest),
            size_bytes: 0,
            files: 0,
        };
        let files = self.checked_manifest(&named)?.files;
        let distinct: BTreeSet<_> = files.into_iter().map(|file| (file.digest, file.size)).collect();
        Ok(distinct.into_iter().collect())
    }

    /// Returns the manifest of a folder, which has to be the one that the folder's digest names.
    pub fn checked_manifest(&self, artifact: &Artifact) -> Result<super::Manifest, StoreError> {
        let digest = artifact.manifest.unwrap_or(artifact.digest);
        let manifest = self
            .manifest_here(artifact)?
            .ok_or(StoreError::BadManifest { digest })?;
        let found = Artifact::of_folder(&manifest, &manifest.encode());
        if (found.digest, found.manifest) != (artifact.digest, artifact.manifest) {
            return Err(StoreError::BadManifest { digest });
        }
        Ok(manifest)
    }

    fn check_artifacts(&self, record: &Record) -> Result<(), AdmitError> {
        let mut missing = BTreeSet::new();
        for (output, artifact) in &record.artifacts {
            let wrong = || AdmitError::WrongArtifact { output: output.clone() };
            if artifact.manifest.is_none() {
                match self.blob_size(artifact.digest) {
                    Some(size) if size != artifact.size_bytes => return Err(wrong()),
                    Some(_) => {}
                    None => drop(missing.insert(artifact.digest)),
                }
                continue;
            }
            let manifest = match self.checked_manifest(artifact) {
                Ok(manifest) => manifest,
                Err(StoreError::MissingBlob { digest }) => {
                    missing.insert(digest);
                    continue;
                }
                Err(StoreError::BadManifest { .. }) => return Err(wrong()),
                Err(other) => return Err(other.into()),
            };
            if manifest.size_bytes() != artifact.size_bytes || manifest.files.len() as u64 != artifact.files {
                return Err(wrong());
            }
            let absent = manifest
                .files
                .iter()
                .filter(|file| !self.has_blob(file.digest, file.size));
            missing.extend(absent.map(|file| file.digest).take(MOST_NAMED));
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(AdmitError::Missing {
            missing: missing.into_iter().take(MOST_NAMED).collect(),
        })
    }
}

impl RecordFile {
    /// Returns whether it is the record of a key, recipe or content, and what it was made from hashes to its keys.
    pub fn is_of(&self, key: Digest) -> bool {
        let record = &self.record;
        (record.recipe_key.0 == key || record.content_key.0 == key) && check_preimages(record).is_ok()
    }
}

fn check_preimages(record: &Record) -> Result<(), AdmitError> {
    if RecipeKey::of_preimage(&record.recipe).ok() != Some(record.recipe_key) {
        return Err(AdmitError::WrongPreimage { which: "recipe" });
    }
    if ContentKey::of_preimage(&record.content).ok() != Some(record.content_key) {
        return Err(AdmitError::WrongPreimage { which: "content" });
    }
    Ok(())
}

fn writer(recipe: RecipeKey) -> MutexGuard<'static, ()> {
    // What it guards is on disk, and whole whatever happened.
    WRITERS[usize::from(recipe.0.0[0]) % WRITERS.len()]
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}
