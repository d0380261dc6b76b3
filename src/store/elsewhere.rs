//! What this store lacks and another place may have: records to look at, and the bytes of artifacts when they are read.
//!
//! The store asks through a trait and knows no network, so that whoever reads an artifact (a worker's input, `show`,
//! the last outputs of a run) gets it wherever it lies, and downloads no more than that.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::artifact::Part;
use super::error::StoreError;
use super::tree::Manifest;
use super::{Artifact, Store};
use crate::digest::{Digest, RecipeKey};

/// Another place that has records and artifacts. It never fails: what it can't give, it doesn't have.
pub trait Elsewhere: Send + Sync + fmt::Debug {
    /// Looks for the records of recipe and content keys, many at once, and writes those it finds into the store.
    fn look_ahead(&self, keys: &[Digest]);

    /// Returns whether these are the artifacts of a record that is there, so that their blobs can be had from there.
    fn has(&self, key: RecipeKey, artifacts: &BTreeMap<String, Artifact>) -> bool;

    /// Brings an artifact, or what lies at a path inside it, into the store; false if that is not possible.
    fn fetch(&self, artifact: &Artifact, subpath: Option<&str>) -> bool;
}

impl Store {
    /// Makes a store that asks another place for what it lacks.
    pub fn with_elsewhere(self, elsewhere: Arc<dyn Elsewhere>) -> Store {
        Store {
            elsewhere: Some(elsewhere),
            ..self
        }
    }

    /// Returns the other place that is asked for what this store lacks.
    pub fn elsewhere(&self) -> Option<&dyn Elsewhere> {
        self.elsewhere.as_deref()
    }

    /// Brings an artifact, or what lies at a path inside it, from elsewhere, unless it is here.
    ///
    /// # Errors
    /// It is neither here nor to be had.
    pub fn ensure(&self, artifact: &Artifact, subpath: Option<&str>) -> Result<(), StoreError> {
        // What is nowhere else is told by whoever reads it.
        let Some(elsewhere) = self.elsewhere() else {
            return Ok(());
        };
        let part = self.part(artifact, subpath)?;
        match self.missing_of(&part) {
            None => Ok(()),
            Some(_) if elsewhere.fetch(artifact, subpath) && self.missing_of(&part).is_none() => Ok(()),
            Some(digest) => Err(StoreError::MissingBlob { digest }),
        }
    }

    /// Looks elsewhere for the records of those recipe keys that have none here.
    pub fn look_ahead(&self, keys: impl IntoIterator<Item = RecipeKey>) {
        if let Some(elsewhere) = self.elsewhere() {
            let is_lacking = |key: &RecipeKey| self.record(*key).is_none();
            let keys: Vec<Digest> = keys.into_iter().filter(is_lacking).map(|key| key.0).collect();
            elsewhere.look_ahead(&keys);
        }
    }

    /// Reads a blob as [`Store::read_blob`] does, after bringing it from elsewhere if it is not here.
    pub fn read_blob_anywhere(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        match (self.read_blob(digest), self.elsewhere()) {
            // A blob's size matters only to whoever counts progress.
            (Err(StoreError::MissingBlob { .. }), Some(elsewhere))
                if elsewhere.fetch(&Artifact::of_file(digest, 0), None) =>
            {
                self.read_blob(digest)
            }
            (bytes, _) => bytes,
        }
    }

    /// Returns the manifest of a folder artifact, brought from elsewhere if it is not here; none for a file.
    pub fn manifest(&self, artifact: &Artifact) -> Result<Option<Manifest>, StoreError> {
        let is_absent = |digest: &Digest| self.elsewhere().is_some() && self.blob_size(*digest).is_none();
        if let Some(digest) = artifact.manifest.filter(is_absent) {
            self.read_blob_anywhere(digest)?;
        }
        self.manifest_here(artifact)
    }

    /// Returns the first blob of a part that the store does not have.
    fn missing_of(&self, part: &Part) -> Option<Digest> {
        match part {
            Part::File { digest, size, .. } => (!self.has_blob(*digest, *size)).then_some(*digest),
            Part::Folder(manifest) => {
                let mut files = manifest.files.iter();
                files
                    .find(|file| !self.has_blob(file.digest, file.size))
                    .map(|file| file.digest)
            }
        }
    }
}
