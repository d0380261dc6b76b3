//! Artifacts: a file or a folder that a node made, named by the digest of its content.
//!
//! A folder is the manifest of its files: canonical JSON with each file's path, digest, size and executable bit, sorted
//! by path, and itself a blob. A folder's digest is BLAKE3 in key-derivation mode over that manifest, so no file can
//! have the digest of a folder. Empty folders inside an artifact are not kept, nor are times and owners.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Store;
use super::blob::Prepared;
use super::error::{IoContext, StoreError};
use crate::digest::Digest;

const TREE_CONTEXT: &str = "volvelle 2026-11-22 artifact tree manifest v1";

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

/// What a folder consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The files, sorted by path.
    pub files: Vec<TreeFile>,
    /// The version of this format.
    pub format: u32,
}

/// One file of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeFile {
    /// The digest of its bytes: the name of its blob.
    pub digest: Digest,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Relative, with `/` between its parts, none of them `.`, `..` or empty.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
}

impl Manifest {
    /// Returns the canonical text. The fields stand in the order of their names, and paths keep their bytes: a name
    /// is not text to be normalized, or it could not be given back as it was.
    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).expect("a manifest holds only strings, integers and booleans")
    }

    pub(super) fn artifact(&self, text: &str) -> Artifact {
        Artifact {
            digest: Digest(blake3::derive_key(TREE_CONTEXT, text.as_bytes())),
            manifest: Some(Digest::of(text.as_bytes())),
            size_bytes: self.files.iter().map(|file| file.size).sum(),
            files: self.files.len() as u64,
        }
    }

    /// Returns whether this is the manifest of an artifact.
    pub(super) fn is_of(&self, artifact: &Artifact) -> bool {
        self.artifact(&self.encode()) == *artifact
    }

    /// Returns what lies at a path inside: one file, or a folder as a manifest of its own.
    fn at(&self, subpath: &str) -> Option<Part> {
        let subpath = subpath.trim_matches('/');
        if let Some(file) = self.files.iter().find(|file| file.path == subpath) {
            return Some(Part::File {
                digest: file.digest,
                size: file.size,
                executable: file.executable,
            });
        }
        let inside = |file: &TreeFile| {
            let path = file.path.strip_prefix(subpath)?.strip_prefix('/')?;
            Some(TreeFile {
                path: path.to_owned(),
                ..file.clone()
            })
        };
        let files: Vec<TreeFile> = self.files.iter().filter_map(inside).collect();
        (!files.is_empty()).then_some(Part::Folder(Manifest {
            format: self.format,
            files,
        }))
    }
}

/// An artifact, or something inside one, with what is needed to lay it out on disk.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    File {
        digest: Digest,
        size: u64,
        executable: bool,
    },
    Folder(Manifest),
}

impl Store {
    /// Takes the outputs of a node over, all durable when it returns. The files are moved, not copied.
    ///
    /// # Errors
    /// A link, a device, a socket or a name that is not UTF-8 inside an output is refused, with its path.
    pub fn admit(&self, outputs: &[(String, PathBuf)]) -> Result<BTreeMap<String, Artifact>, StoreError> {
        let mut prepared = Vec::new();
        let mut artifacts = BTreeMap::new();
        for (name, path) in outputs {
            artifacts.insert(name.clone(), self.prepare_artifact(path, &mut prepared)?);
        }
        self.commit_blobs(prepared)?;
        Ok(artifacts)
    }

    /// Returns the digest of what an input refers to: the artifact, or a file or folder inside it.
    pub fn digest_at(&self, artifact: &Artifact, subpath: Option<&str>) -> Result<Digest, StoreError> {
        if subpath.is_none() {
            return Ok(artifact.digest);
        }
        Ok(match self.part(artifact, subpath)? {
            Part::File { digest, .. } => digest,
            Part::Folder(manifest) => manifest.artifact(&manifest.encode()).digest,
        })
    }

    /// Returns the manifest of a folder artifact, if it is in this store; none for a file.
    pub(super) fn manifest_here(&self, artifact: &Artifact) -> Result<Option<Manifest>, StoreError> {
        let Some(digest) = artifact.manifest else {
            return Ok(None);
        };
        let bytes = self.read_blob(digest)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|_| StoreError::BadManifest { digest })?;
        // A manifest may come from elsewhere one day: a path that climbs out must never reach the disk.
        let climbs = |file: &TreeFile| file.path.split('/').any(|part| matches!(part, "" | "." | ".."));
        if manifest.format != 1 || manifest.files.iter().any(climbs) {
            return Err(StoreError::BadManifest { digest });
        }
        Ok(Some(manifest))
    }

    /// Returns the first blob of an artifact that the store does not have.
    pub fn missing_blob(&self, artifact: &Artifact) -> Option<Digest> {
        match self.manifest_here(artifact) {
            Err(_) => artifact.manifest,
            Ok(None) => (!self.has_blob(artifact.digest, artifact.size_bytes)).then_some(artifact.digest),
            Ok(Some(manifest)) => manifest
                .files
                .iter()
                .find(|file| !self.has_blob(file.digest, file.size))
                .map(|file| file.digest),
        }
    }

    pub(crate) fn part(&self, artifact: &Artifact, subpath: Option<&str>) -> Result<Part, StoreError> {
        let manifest = self.manifest(artifact)?;
        match (manifest, subpath) {
            (None, None) => Ok(Part::File {
                digest: artifact.digest,
                size: artifact.size_bytes,
                executable: false,
            }),
            (Some(manifest), None) => Ok(Part::Folder(manifest)),
            (None, Some(subpath)) => Err(StoreError::NoSubpath {
                subpath: subpath.to_owned(),
                has: Vec::new(),
            }),
            (Some(manifest), Some(subpath)) => manifest.at(subpath).ok_or_else(|| StoreError::NoSubpath {
                subpath: subpath.to_owned(),
                has: manifest.files.iter().take(12).map(|file| file.path.clone()).collect(),
            }),
        }
    }

    fn prepare_artifact(&self, path: &Path, prepared: &mut Vec<Prepared>) -> Result<Artifact, StoreError> {
        let metadata = fs::symlink_metadata(path).at("read", path)?;
        if metadata.is_file() {
            let blob = self.prepare_file(path)?;
            let artifact = Artifact {
                digest: blob.digest,
                manifest: None,
                size_bytes: blob.size,
                files: 1,
            };
            prepared.push(blob);
            return Ok(artifact);
        }
        refuse_odd(path, &metadata)?;
        let mut files = Vec::new();
        self.prepare_folder(path, "", &mut files, prepared)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Manifest { format: 1, files };
        let text = manifest.encode();
        prepared.push(self.prepare_bytes(text.as_bytes())?);
        Ok(manifest.artifact(&text))
    }

    fn prepare_folder(
        &self,
        folder: &Path,
        prefix: &str,
        files: &mut Vec<TreeFile>,
        prepared: &mut Vec<Prepared>,
    ) -> Result<(), StoreError> {
        for entry in fs::read_dir(folder).at("list", folder)? {
            let path = entry.at("list", folder)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                return Err(StoreError::BadName { path });
            };
            let relative = format!("{prefix}{name}");
            let metadata = fs::symlink_metadata(&path).at("read", &path)?;
            if metadata.is_file() {
                let executable = metadata.permissions().mode() & 0o100 != 0;
                let blob = self.prepare_file(&path)?;
                files.push(TreeFile {
                    path: relative,
                    digest: blob.digest,
                    size: blob.size,
                    executable,
                });
                prepared.push(blob);
            } else {
                refuse_odd(&path, &metadata)?;
                self.prepare_folder(&path, &format!("{relative}/"), files, prepared)?;
            }
        }
        Ok(())
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
