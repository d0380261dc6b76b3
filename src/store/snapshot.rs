//! The snapshot: what is known of every record, in one file that is read at once.
//!
//! Record files stay the truth. The snapshot remembers the time of the last change of each of their 256 folders; where
//! that is still the same, no record was added, replaced or removed and an entry is good as it is, elsewhere the record
//! file is looked at before its entry is believed. A snapshot that is missing, torn or old costs time, never a result.
//! It is read without any lock and replaced by rename.
//!
//! ```text
//! magic  digest of the rest  journal length  time of writing  times of 256 folders
//! number of entries, artifacts, signers, names
//! entries, sorted by recipe key: recipe key, content key, inputs digest, stamp, seconds, first artifact, number of them,
//!     number of the signer from 1, or 0
//! artifacts: digest, manifest, size, files, name, whether there is a manifest
//! signers: public key
//! names: length, bytes
//! ```
//! All numbers are little-endian.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;

use super::Store;
use super::artifact::Artifact;
use super::known::{InputsDigest, Known};
use super::signature::PublicKey;
use super::{durable, record};
use crate::digest::{ContentKey, Digest, RecipeKey};

const MAGIC: &[u8; 8] = b"vvsnap02";
const SHARDS: usize = 256;
const HEADER: usize = 8 + 32 + 8 + 8 + SHARDS * 8 + 16;
const ENTRY: usize = 32 + 32 + 16 + 8 + 4 + 4 + 4 + 4;
const ARTIFACT: usize = 32 + 32 + 8 + 8 + 2 + 2;

/// A folder that was changed this shortly before the snapshot was written may have been changed again within the same
/// tick of the clock that stamps it.
const TICK_NS: u64 = 50_000_000;

/// Fewer new records than this are cheaper to read one by one the next time than to write the snapshot anew.
const WORTH_WRITING: usize = 64;

/// A longer journal is shortened after a run, if that costs nothing.
const LONG_JOURNAL: u64 = 1 << 20;

/// What is known of all records at some time.
#[derive(Debug, Default)]
pub struct Snapshot {
    bytes: Vec<u8>,
    num_entries: usize,
    artifacts_at: usize,
    signers_at: usize,
    names: Vec<Box<str>>,
    journal_len: u64,
    /// For each folder of records, whether nothing in it was changed since.
    is_same: Vec<bool>,
}

/// Something found: in the snapshot, or in a record.
#[derive(Clone, Debug)]
pub enum Found {
    /// The number of an entry of the snapshot.
    Entry(u32),
    /// What a record says.
    Record(std::sync::Arc<Known>),
}

impl Snapshot {
    fn parse(bytes: Vec<u8>) -> Option<(Snapshot, [u64; SHARDS])> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (digest, rest) = rest.split_at_checked(32)?;
        if Digest::of(rest).0 != digest {
            return None;
        }
        let mut at = 40;
        let journal_len = u64_at(&bytes, take(&mut at, 8))?;
        let written_ns = u64_at(&bytes, take(&mut at, 8))?;
        let mut times = [0; SHARDS];
        for time in &mut times {
            let changed_ns = u64_at(&bytes, take(&mut at, 8))?;
            *time = if changed_ns.saturating_add(TICK_NS) > written_ns {
                0
            } else {
                changed_ns
            };
        }
        let num_entries = u32_at(&bytes, take(&mut at, 4))? as usize;
        let num_artifacts = u32_at(&bytes, take(&mut at, 4))? as usize;
        let num_signers = u32_at(&bytes, take(&mut at, 4))? as usize;
        let num_names = u32_at(&bytes, take(&mut at, 4))?;
        let artifacts_at = num_entries.checked_mul(ENTRY)?.checked_add(at)?;
        let signers_at = num_artifacts.checked_mul(ARTIFACT)?.checked_add(artifacts_at)?;
        at = num_signers.checked_mul(32)?.checked_add(signers_at)?;
        let mut names = Vec::new();
        for _ in 0..num_names {
            let len = u16_at(&bytes, take(&mut at, 2))? as usize;
            let name = bytes.get(at..at + len)?;
            names.push(std::str::from_utf8(name).ok()?.into());
            at += len;
        }
        if at != bytes.len() {
            return None;
        }
        let snapshot = Snapshot {
            num_entries,
            artifacts_at,
            signers_at,
            names,
            journal_len,
            is_same: Vec::new(),
            bytes,
        };
        Some((snapshot, times))
    }

    /// Returns the number of the entry of a recipe key, whether or not it still holds.
    fn position(&self, key: RecipeKey) -> Option<u32> {
        // Keys are evenly spread, so the place is known but for a few entries.
        let first = u64::from_be_bytes(key.0.0[..8].try_into().ok()?);
        let guess = ((u128::from(first) * self.num_entries as u128) >> 64) as usize;
        let mut idx = guess.min(self.num_entries.checked_sub(1)?);
        while idx > 0 && self.key(idx) > key.0 {
            idx -= 1;
        }
        while idx < self.num_entries && self.key(idx) < key.0 {
            idx += 1;
        }
        (idx < self.num_entries && self.key(idx) == key.0).then_some(idx as u32)
    }

    fn entry(&self, idx: usize) -> &[u8] {
        &self.bytes[HEADER + idx * ENTRY..HEADER + (idx + 1) * ENTRY]
    }

    fn key(&self, idx: usize) -> Digest {
        digest_at(self.entry(idx), 0)
    }

    fn stamp(&self, idx: usize) -> u64 {
        u64_at(self.entry(idx), 80).unwrap_or_default()
    }

    fn artifacts(&self, idx: u32) -> impl Iterator<Item = (&str, Artifact)> {
        let entry = self.entry(idx as usize);
        let first = u32_at(entry, 92).unwrap_or_default() as usize;
        let count = u32_at(entry, 96).unwrap_or_default() as usize;
        (first..first + count).filter_map(|artifact| {
            let at = self.artifacts_at + artifact * ARTIFACT;
            let bytes = self.bytes.get(at..at + ARTIFACT)?;
            let name = self.names.get(u16_at(bytes, 80)? as usize)?;
            let has_manifest = u16_at(bytes, 82)? == 1;
            let artifact = Artifact {
                digest: digest_at(bytes, 0),
                manifest: has_manifest.then(|| digest_at(bytes, 32)),
                size_bytes: u64_at(bytes, 64)?,
                files: u64_at(bytes, 72)?,
            };
            Some((&**name, artifact))
        })
    }

    /// Returns all that is known of something that was found.
    pub fn known(&self, found: &Found) -> Known {
        match found {
            Found::Entry(idx) => self.entry_known(*idx),
            Found::Record(known) => Known::clone(known),
        }
    }

    fn entry_known(&self, idx: u32) -> Known {
        let entry = self.entry(idx as usize);
        Known {
            recipe_key: RecipeKey(digest_at(entry, 0)),
            content_key: ContentKey(digest_at(entry, 32)),
            inputs: self.inputs(&Found::Entry(idx)),
            artifacts: self
                .artifacts(idx)
                .map(|(name, artifact)| (name.into(), artifact))
                .collect(),
            seconds: f32::from_bits(u32_at(entry, 88).unwrap_or_default()),
            signer: self.signer(&Found::Entry(idx)),
        }
    }

    /// Returns who signed the record of something that was found.
    pub fn signer(&self, found: &Found) -> Option<PublicKey> {
        match found {
            Found::Record(known) => known.signer,
            Found::Entry(idx) => {
                let number = u32_at(self.entry(*idx as usize), 100)?.checked_sub(1)? as usize;
                let at = self.signers_at + number * 32;
                let key = self.bytes.get(at..at + 32)?.try_into().ok()?;
                Some(PublicKey(key))
            }
        }
    }

    /// Returns whether it knows of no record.
    pub(super) fn is_empty(&self) -> bool {
        self.num_entries == 0
    }

    /// Returns all recipe keys that it knows, whether or not they still hold.
    pub(super) fn recipe_keys(&self) -> impl Iterator<Item = RecipeKey> + '_ {
        (0..self.num_entries).map(|idx| RecipeKey(self.key(idx)))
    }

    /// Returns the inputs that something was made from.
    pub fn inputs(&self, found: &Found) -> InputsDigest {
        match found {
            Found::Record(known) => known.inputs,
            Found::Entry(idx) => {
                let mut half = [0; 16];
                half.copy_from_slice(&self.entry(*idx as usize)[64..80]);
                InputsDigest(half)
            }
        }
    }

    /// Returns the artifact of an output of something that was found.
    pub fn artifact(&self, found: &Found, output: &str) -> Option<Artifact> {
        match found {
            Found::Record(known) => known.artifact(output).cloned(),
            Found::Entry(idx) => self
                .artifacts(*idx)
                .find(|(name, _)| *name == output)
                .map(|(_, artifact)| artifact),
        }
    }

    /// Returns the time that the worker took.
    pub fn seconds(&self, found: &Found) -> f64 {
        match found {
            Found::Record(known) => f64::from(known.seconds),
            Found::Entry(idx) => {
                let bits = u32_at(self.entry(*idx as usize), 88).unwrap_or_default();
                f64::from(f32::from_bits(bits))
            }
        }
    }

    /// Returns the recipe key under which something was found.
    pub fn recipe_key(&self, found: &Found) -> RecipeKey {
        match found {
            Found::Record(known) => known.recipe_key,
            Found::Entry(idx) => RecipeKey(self.key(*idx as usize)),
        }
    }
}

/// What a look at the whole snapshot tells.
pub(super) enum SnapshotState {
    /// It says what the records say, or there is none.
    Good,
    /// It is not what was written, which is noticed by whoever reads it.
    Torn,
    /// It claims to know a record and says something else.
    Wrong(RecipeKey),
}

impl Store {
    /// Compares the snapshot with the records that are good.
    pub(super) fn check_snapshot(&self, is_good: impl Fn(RecipeKey) -> bool + Sync) -> SnapshotState {
        let Ok(bytes) = fs::read(self.snapshot_path()) else {
            return SnapshotState::Good;
        };
        let Some((snapshot, _)) = Snapshot::parse(bytes) else {
            return SnapshotState::Torn;
        };
        let wrong = (0..snapshot.num_entries).into_par_iter().find_map_any(|idx| {
            let key = RecipeKey(snapshot.key(idx));
            let path = self.sharded("records", key.0);
            // An entry of another stamp is not believed anyway.
            let is_same = || stamp(&path) == Some(snapshot.stamp(idx));
            if !is_good(key) || !is_same() {
                return None;
            }
            let known = record::read_known(&path, self.trust())?;
            // Of several signers the entry has one that was trusted when it was written.
            let entry = Known {
                signer: known.signer,
                ..snapshot.entry_known(idx as u32)
            };
            (known != entry && is_same()).then_some(key)
        });
        wrong.map_or(SnapshotState::Good, SnapshotState::Wrong)
    }

    /// Removes the snapshot, which is written again by the next run; returns whether it is gone.
    pub(super) fn remove_snapshot(&self) -> bool {
        fs::remove_file(self.snapshot_path()).is_ok()
    }

    /// Reads the snapshot; an empty one where there is none that can be read.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(&self.shard_times())
    }

    /// Reads the snapshot as it holds for folders that were changed at these times.
    fn snapshot_at(&self, now: &[u64; SHARDS]) -> Snapshot {
        let Some((mut snapshot, times)) = fs::read(self.snapshot_path()).ok().and_then(Snapshot::parse) else {
            return Snapshot::default();
        };
        snapshot.is_same = times
            .iter()
            .zip(now)
            .map(|(&then, &now)| then != 0 && then == now)
            .collect();
        snapshot
    }

    /// Returns what is known of a recipe key, whether or not its blobs are there. It takes no lock and never waits.
    ///
    /// With `now`, what changed since the snapshot was read counts as well, for one look at the record's file.
    pub fn find(&self, snapshot: &Snapshot, key: RecipeKey, now: bool) -> Option<Found> {
        if let Some(idx) = snapshot.position(key) {
            let is_same = (!now && snapshot.is_same[key.0.0[0] as usize])
                || stamp(&self.sharded("records", key.0)) == Some(snapshot.stamp(idx as usize));
            let found = Found::Entry(idx);
            // Of several signers the entry has one, and the project may trust another one by now.
            if is_same && self.trust().accepts(snapshot.signer(&found)) {
                return Some(found);
            }
        }
        let known =
            record::read_known(&self.sharded("records", key.0), &self.trust).filter(|known| known.recipe_key == key)?;
        Some(Found::Record(known.into()))
    }

    /// Returns the first blob of something found that the store does not have.
    pub fn missing(&self, snapshot: &Snapshot, found: &Found) -> Option<Digest> {
        match found {
            Found::Entry(idx) => snapshot
                .artifacts(*idx)
                .find_map(|(_, artifact)| self.missing_blob(&artifact)),
            Found::Record(known) => known
                .artifacts
                .iter()
                .find_map(|(_, artifact)| self.missing_blob(artifact)),
        }
    }

    /// Brings snapshot and index up to date if enough records were written since, so that the next command needn't.
    pub fn refresh(&self) {
        if self.refresh_snapshot(false) {
            self.catch_up_index();
            self.shorten_journal_to_snapshot(LONG_JOURNAL, Duration::ZERO);
        }
    }

    /// Shortens a journal of more than so many bytes to what the snapshot does not have.
    pub(super) fn shorten_journal_to_snapshot(&self, max_bytes: u64, patience: Duration) {
        // Without a snapshot there is nothing to go by, and position 0 drops nothing.
        self.shorten_long_journal(self.snapshot().journal_len, max_bytes, patience);
    }

    /// Writes the snapshot anew if it is worth it, or in any case. Whoever comes last wins; all are right.
    pub(super) fn refresh_snapshot(&self, in_any_case: bool) -> bool {
        // Before anything is read: what is written meanwhile counts as changed.
        let written_ns = now_ns();
        let times = self.shard_times();
        let old = self.snapshot_at(&times);
        let journal = self.journal();
        let unread = journal.since(old.journal_len);
        let is_new = old.num_entries == 0 || unread.is_none();
        let fresh: Vec<RecipeKey> = unread.into_iter().flatten().collect();
        if !in_any_case && fresh.len() < WORTH_WRITING && (!is_new || journal.end() == 0) {
            return false;
        }
        let mut entries: Vec<(Known, u64)> = Vec::new();
        if is_new {
            self.each_record_file(|path| {
                // The same file has a second name under the content key.
                let is_by_recipe = |entry: &(Known, u64)| path == self.sharded("records", entry.0.recipe_key.0);
                entries.extend(self.read_entry(path).filter(is_by_recipe));
            });
        } else {
            let fresh: HashSet<RecipeKey> = fresh.into_iter().collect();
            for idx in 0..old.num_entries {
                let key = old.key(idx);
                let is_same = || stamp(&self.sharded("records", key)) == Some(old.stamp(idx));
                if !fresh.contains(&RecipeKey(key)) && (old.is_same[key.0[0] as usize] || is_same()) {
                    entries.push((old.entry_known(idx as u32), old.stamp(idx)));
                }
            }
            entries.extend(
                fresh
                    .iter()
                    .filter_map(|key| self.read_entry(&self.sharded("records", key.0))),
            );
        }
        drop(old);
        let Some(bytes) = encode(entries, journal.end(), written_ns, &times) else {
            return true;
        };
        let temporary = durable::unique_path(&self.tmp());
        // It need not survive a power cut: a torn one is noticed and made again.
        let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, self.snapshot_path()));
        if let Err(error) = written {
            tracing::debug!(%error, "the snapshot of records could not be written");
            let _ = fs::remove_file(&temporary);
        }
        true
    }

    /// Reads what the snapshot keeps of a record file.
    fn read_entry(&self, path: &Path) -> Option<(Known, u64)> {
        // The stamp comes first: if the file is replaced in between, it won't match.
        let stamp = stamp(path)?;
        Some((record::read_known(path, &self.trust)?, stamp))
    }

    fn snapshot_path(&self) -> std::path::PathBuf {
        self.root().join("records/snapshot")
    }

    /// Returns when each folder of records was changed, in nanoseconds; 0 for one that is not there.
    fn shard_times(&self) -> [u64; SHARDS] {
        let records = self.root().join("records");
        std::array::from_fn(|shard| {
            let metadata = fs::metadata(records.join(format!("{shard:02x}")));
            metadata.map_or(0, |metadata| mtime_ns(&metadata))
        })
    }
}

fn mtime_ns(metadata: &fs::Metadata) -> u64 {
    (metadata.mtime() as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(metadata.mtime_nsec() as u64)
}

/// Returns what changes when a record is replaced.
fn stamp(path: &Path) -> Option<u64> {
    let metadata = fs::metadata(path).ok()?;
    Some(mtime_ns(&metadata) ^ metadata.ino().rotate_left(40) ^ metadata.len().rotate_left(52))
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

/// Returns the bytes of a snapshot; none if there are more names of outputs, or longer ones, than it has room for.
fn encode(mut entries: Vec<(Known, u64)>, journal_len: u64, written_ns: u64, times: &[u64; SHARDS]) -> Option<Vec<u8>> {
    entries.sort_unstable_by_key(|(known, _)| known.recipe_key);
    let num_artifacts: usize = entries.iter().map(|(known, _)| known.artifacts.len()).sum();
    let mut bytes = Vec::with_capacity(HEADER + entries.len() * ENTRY + num_artifacts * ARTIFACT + 1024);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[0; 32]);
    bytes.extend_from_slice(&journal_len.to_le_bytes());
    bytes.extend_from_slice(&written_ns.to_le_bytes());
    times
        .iter()
        .for_each(|time| bytes.extend_from_slice(&time.to_le_bytes()));
    let mut names: Vec<&str> = entries
        .iter()
        .flat_map(|(known, _)| known.artifacts.iter().map(|(name, _)| &**name))
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > usize::from(u16::MAX) || names.iter().any(|name| name.len() > usize::from(u16::MAX)) {
        return None;
    }
    let mut signers: Vec<PublicKey> = entries.iter().filter_map(|(known, _)| known.signer).collect();
    signers.sort_unstable();
    signers.dedup();
    for count in [entries.len(), num_artifacts, signers.len(), names.len()] {
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
    }
    let mut first = 0u32;
    for (known, stamp) in &entries {
        bytes.extend_from_slice(&known.recipe_key.0.0);
        bytes.extend_from_slice(&known.content_key.0.0);
        bytes.extend_from_slice(&known.inputs.0);
        bytes.extend_from_slice(&stamp.to_le_bytes());
        bytes.extend_from_slice(&known.seconds.to_bits().to_le_bytes());
        let count = known.artifacts.len() as u32;
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        first += count;
        let signer = known.signer.and_then(|signer| signers.binary_search(&signer).ok());
        let number = signer.map_or(0, |idx| idx as u32 + 1);
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for (name, artifact) in entries.iter().flat_map(|(known, _)| &known.artifacts) {
        bytes.extend_from_slice(&artifact.digest.0);
        bytes.extend_from_slice(&artifact.manifest.map_or([0; 32], |manifest| manifest.0));
        bytes.extend_from_slice(&artifact.size_bytes.to_le_bytes());
        bytes.extend_from_slice(&artifact.files.to_le_bytes());
        let name = names.binary_search(&&**name).unwrap_or_default() as u16;
        bytes.extend_from_slice(&name.to_le_bytes());
        bytes.extend_from_slice(&u16::from(artifact.manifest.is_some()).to_le_bytes());
    }
    signers.iter().for_each(|signer| bytes.extend_from_slice(&signer.0));
    for name in names {
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    let digest = Digest::of(&bytes[40..]);
    bytes[8..40].copy_from_slice(&digest.0);
    Some(bytes)
}

fn take(at: &mut usize, len: usize) -> usize {
    let start = *at;
    *at += len;
    start
}

fn digest_at(bytes: &[u8], at: usize) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(&bytes[at..at + 32]);
    Digest(digest)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
