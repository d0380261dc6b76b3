//! Artifacts: a file or a folder that a node made, named by the digest of its content.
//!
//! A folder is the manifest of what is in it (`tree`), which is itself a blob. A folder's digest is BLAKE3 in
//! key-derivation mode over that manifest, so no file can have the digest of a folder. Times and owners are not kept.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Store;
use super::error::StoreError;
use super::tree::{Inside, Manifest, TreeFile};
use crate::digest::Digest;

const TREE_CONTEXT: &str = "volvelle 2026-11-22 artifact tree manifest v1";

/// From this many files on, several threads look whether they are there.
const WORTH_THREADS: usize = 1024;

/// One output of a node, as its record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// The identity of the content: of a file the digest of its bytes, of a folder that of its tree.
    pub digest: Digest,
    /// The blob that holds the folder's manifest; none for a file.
    pub manifest: Option<Digest>,
    /// The bytes of all its files together.
    pub size_bytes: u64,
    /// The number of its files; 1 for a file.
    pub files: u64,
}

impl Artifact {
    /// Returns a single blob as an artifact.
    pub fn of_file(digest: Digest, size: u64) -> Artifact {
        Artifact {
            digest,
            manifest: None,
            size_bytes: size,
            files: 1,
        }
    }

    /// `text` is the manifest as it is stored.
    pub(crate) fn of_folder(manifest: &Manifest, text: &str) -> Artifact {
        Artifact {
            digest: tree_digest(text.as_bytes()),
            manifest: Some(Digest::of(text.as_bytes())),
            size_bytes: manifest.size_bytes(),
            files: manifest.files.len() as u64,
        }
    }
}

fn tree_digest(text: &[u8]) -> Digest {
    Digest(blake3::derive_key(TREE_CONTEXT, text))
}

/// An artifact, or something inside one, with what is needed to lay it out on disk.
#[derive(Clone, Debug)]
pub enum Part {
    /// A file.
    File {
        /// The digest of its bytes.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A folder; the paths are relative to it.
    Folder(Manifest),
}

impl Store {
    /// Returns the digest of what an input refers to: the artifact, or a file or folder inside it.
    pub fn digest_at(&self, artifact: &Artifact, subpath: Option<&str>) -> Result<Digest, StoreError> {
        if subpath.is_none() {
            return Ok(artifact.digest);
        }
        Ok(match self.part(artifact, subpath)? {
            Part::File { digest, .. } => digest,
            Part::Folder(manifest) => tree_digest(manifest.encode().as_bytes()),
        })
    }

    /// Returns the manifest of a folder artifact, if it is in this store; none for a file. It may come from elsewhere, so it is checked: what it
    /// names can be laid out without leaving a folder.
    ///
    /// # Errors
    /// The blob is missing or damaged, is no manifest that can be trusted, or is that of another artifact.
    pub(super) fn manifest_here(&self, artifact: &Artifact) -> Result<Option<Manifest>, StoreError> {
        let Some(digest) = artifact.manifest else {
            return Ok(None);
        };
        let bytes = self.read_blob(digest)?;
        if tree_digest(&bytes) != artifact.digest {
            return Err(StoreError::BadManifest { digest });
        }
        match Manifest::read(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(fault) => Err(StoreError::RefusedManifest { digest, fault }),
        }
    }

    /// Returns the first blob of an artifact that the store does not have. If it is paranoid, all are read, and a damaged
    /// one counts as missing.
    pub fn missing_blob(&self, artifact: &Artifact) -> Option<Digest> {
        let files = match self.manifest_here(artifact) {
            Err(_) => return artifact.manifest,
            Ok(None) => {
                return (!self.is_usable(artifact.digest, artifact.size_bytes)).then_some(artifact.digest);
            }
            Ok(Some(manifest)) => manifest.files,
        };
        let is_missing = |file: &&TreeFile| !self.is_usable(file.digest, file.size);
        let first = if self.is_paranoid() {
            // To the end, so that one run makes good what several blobs have suffered.
            files.par_iter().filter(is_missing).min_by(|a, b| a.path.cmp(&b.path))
        } else if files.len() < WORTH_THREADS {
            files.iter().find(is_missing)
        } else {
            files.par_iter().find_first(is_missing)
        };
        first.map(|file| file.digest)
    }

    /// Returns what an artifact is, or what lies at a path inside one, links followed.
    ///
    /// # Errors
    /// As [`Store::manifest`], and where there is nothing at the path.
    pub fn part(&self, artifact: &Artifact, subpath: Option<&str>) -> Result<Part, StoreError> {
        let missing = |subpath: &str, has| StoreError::NoSubpath {
            subpath: subpath.to_owned(),
            has,
        };
        let manifest = match (self.manifest(artifact)?, subpath) {
            (None, None) => {
                return Ok(Part::File {
                    digest: artifact.digest,
                    size: artifact.size_bytes,
                    executable: false,
                });
            }
            (None, Some(subpath)) => return Err(missing(subpath, Vec::new())),
            (Some(manifest), None) => return Ok(Part::Folder(manifest)),
            (Some(manifest), Some(_)) => manifest,
        };
        let subpath = subpath.unwrap_or_default();
        match manifest.at(subpath) {
            Some(Inside::File(file)) => Ok(Part::File {
                digest: file.digest,
                size: file.size,
                executable: file.executable,
            }),
            Some(Inside::Folder(manifest)) => Ok(Part::Folder(manifest)),
            None => {
                let has = manifest.files.iter().take(12).map(|file| file.path.clone()).collect();
                Err(missing(subpath, has))
            }
        }
    }
}

impl Manifest {
    /// Returns whether this is the manifest of an artifact.
    pub(super) fn is_of(&self, artifact: &Artifact) -> bool {
        Artifact::of_folder(self, &self.encode()) == *artifact
    }
}
