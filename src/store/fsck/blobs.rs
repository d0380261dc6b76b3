//! The pass over blobs: every one is hashed, on all cores, and what records need must be there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rayon::prelude::*;

use super::records::list;
use super::{Check, Entry, FsckStep, Progress};
use crate::digest::Digest;
use crate::store::error::StoreError;
use crate::store::seal;

/// What is read at once: large enough for the hash to use wide instructions.
const CHUNK_BYTES: u64 = 1 << 20;

/// A blob that there is.
struct Found {
    digest: Digest,
    path: std::path::PathBuf,
    size: u64,
    is_reread: bool,
}

impl Check<'_> {
    pub(super) fn read_blobs(&mut self) -> Result<(), StoreError> {
        let (paths, strangers) = list(&self.store.root().join("blobs"), &[])?;
        self.note_strangers(&strangers);
        let sample = Sample::new(self.options.sample);
        let found: Vec<Found> = paths
            .into_iter()
            .filter_map(|(digest, path)| {
                let size = fs::symlink_metadata(&path).ok()?.len();
                let is_reread = sample.has(digest);
                Some(Found {
                    digest,
                    path,
                    size,
                    is_reread,
                })
            })
            .collect();
        self.report.blobs = found.len() as u64;
        let reread = || found.iter().filter(|blob| blob.is_reread);
        self.report.reread = reread().count() as u64;
        self.report.reread_bytes = reread().map(|blob| blob.size).sum();
        (self.progress)(FsckStep::Blobs(self.report.reread_bytes));
        let damaged: Vec<(Digest, (u64, String))> = found
            .par_iter()
            .filter(|blob| blob.is_reread)
            .filter_map(|blob| {
                let before = fs::symlink_metadata(&blob.path).ok()?;
                let why = wrong(blob.digest, &blob.path, self.progress);
                if why.is_none() && self.options.repair {
                    guard_again(blob, &before);
                }
                Some((blob.digest, (blob.size, why?)))
            })
            .collect();
        self.damaged.extend(damaged);
        self.compare(&found);
        Ok(())
    }

    /// Compares what is there with what records need.
    fn compare(&mut self, found: &[Found]) {
        for blob in found {
            match self.wanted.get(&blob.digest) {
                None => {
                    self.report.orphans += 1;
                    self.report.orphan_bytes += blob.size;
                }
                Some(Some(size)) if *size != blob.size => {
                    let why = || format!("it has {} bytes where a record says {size}", blob.size);
                    self.damaged.entry(blob.digest).or_insert_with(|| (blob.size, why()));
                }
                Some(_) => {}
            }
        }
        let is_here = |digest: &Digest| found.binary_search_by_key(digest, |blob| blob.digest).is_ok();
        let absent = self.wanted.iter().filter(|(digest, _)| !is_here(digest));
        let absent: Vec<(Digest, u64)> = absent.map(|(digest, size)| (*digest, size.unwrap_or(0))).collect();
        let promised = self.promised(&absent.iter().map(|(digest, _)| *digest).collect());
        let mut logs = 0;
        for (digest, size) in absent {
            if promised.contains(&digest) {
                self.report.elsewhere += 1;
            } else if self.logs.contains(&digest) {
                logs += 1;
            } else {
                self.missing.insert(digest, size);
            }
        }
        if logs > 0 {
            self.note(format!("logs that are gone, of nodes whose results are there: {logs}"));
        }
    }
}

impl Check<'_> {
    /// Returns, of the blobs that are not here, those that another place has for us, as it has the records that need them.
    fn promised(&self, absent: &HashSet<Digest>) -> HashSet<Digest> {
        let Some(elsewhere) = self.elsewhere.filter(|_| !absent.is_empty()) else {
            return HashSet::new();
        };
        let parts = |entry: &Entry| -> Vec<Digest> {
            let artifacts = entry.artifacts.values();
            artifacts
                .flat_map(|artifact| self.parts_of(artifact))
                .map(|(digest, _)| digest)
                .chain(entry.log)
                .collect()
        };
        let needing = self.entries.iter().map(|entry| (entry, parts(entry)));
        let needing: Vec<(&Entry, Vec<Digest>)> = needing
            .filter(|(_, parts)| parts.iter().any(|part| absent.contains(part)))
            .collect();
        let keys: Vec<Digest> = needing.iter().map(|(entry, _)| entry.recipe_key.0).collect();
        elsewhere.look_ahead(&keys);
        let is_there = |entry: &Entry| elsewhere.has(entry.recipe_key, &entry.artifacts);
        let there = needing.into_iter().filter(|(entry, _)| is_there(entry));
        there.flat_map(|(_, parts)| parts).collect()
    }
}

/// Gives a blob that is right its seal and its mode again, where something took them away.
fn guard_again(blob: &Found, before: &fs::Metadata) {
    if !seal::is_sealed(before, blob.digest) {
        seal::seal_again(&blob.path, blob.digest, before);
    }
    if before.permissions().mode() & 0o222 != 0
        && let Err(error) = fs::set_permissions(&blob.path, fs::Permissions::from_mode(0o444))
    {
        tracing::debug!(blob = %blob.digest, %error, "a blob can't be made read-only again");
    }
}

/// Returns what is wrong with a blob, if anything; one that is gone by now is not.
pub(super) fn wrong(digest: Digest, path: &Path, progress: &Progress<'_>) -> Option<String> {
    match hash(path, progress) {
        Ok(found) if found == digest => None,
        Ok(_) => Some("its bytes are not what its name says".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("it can't be read: {error}")),
    }
}

fn hash(path: &Path, progress: &Progress<'_>) -> io::Result<Digest> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; metadata.len().clamp(1, CHUNK_BYTES) as usize];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Digest(*hasher.finalize().as_bytes())),
            Ok(len) => {
                hasher.update(&chunk[..len]);
                progress(FsckStep::Done(len as u64));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Which blobs are reread: those whose digest, hashed with the time, falls under the share.
struct Sample {
    share: Option<f64>,
    salt: [u8; 16],
}

impl Sample {
    fn new(share: Option<f64>) -> Sample {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Sample {
            share,
            salt: now.unwrap_or_default().as_nanos().to_le_bytes(),
        }
    }

    fn has(&self, digest: Digest) -> bool {
        let Some(share) = self.share else { return true };
        let mut salted = self.salt.to_vec();
        salted.extend_from_slice(&digest.0);
        let hash = Digest::of(&salted).0;
        let place = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
        f64::from(place) < share * (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_about_its_share_and_another_one_each_time() {
        let digests: Vec<Digest> = (0..4000u32).map(|i| Digest::of(&i.to_le_bytes())).collect();
        let chosen = |sample: Sample| -> Vec<bool> { digests.iter().map(|&digest| sample.has(digest)).collect() };
        let count = |chosen: &[bool]| chosen.iter().filter(|&&chosen| chosen).count();
        let (first, second) = (chosen(Sample::new(Some(0.1))), chosen(Sample::new(Some(0.1))));
        assert!((250..550).contains(&count(&first)), "{}", count(&first));
        assert_ne!(first, second);
        assert_eq!(count(&chosen(Sample::new(None))), digests.len());
        assert_eq!(count(&chosen(Sample::new(Some(1.0)))), digests.len());
        assert_eq!(count(&chosen(Sample::new(Some(0.0)))), 0);
    }
}
