//! What lies in the remote, and removing what nobody needs.
//!
//! Records need artifacts, maps need packs; what no record needs goes, records first, then maps, then packs, so that what is
//! left is always whole. Three things keep a collection from taking what a push is about to rely on:
//!
//! - What is younger than a grace period stays: a push writes packs and maps before its record.
//! - A collection first says what it is about to remove (`condemned`), then looks for maps that came meanwhile, and only then
//!   removes. A push writes its map first and then reads what is condemned. So either the collection sees the map, or the
//!   push sees that what it relies on goes, and sends it again.
//! - Just before an object is removed it is looked at once more; one that was written again stays.
//!
//! Packs that are mostly dead are kept whole; they could be written anew, which nobody has needed yet.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::map::{self, Map};
use super::requests::digest_of;
use super::{Objects, blocking, nonce, records};
use crate::digest::Digest;
use crate::remote::{RemoteCollected, RemoteError, RemoteGc, RemoteStatus};

/// Where a collection says what it is about to remove.
const CONDEMNED: &str = "condemned";

/// No list of what is condemned is longer.
const MAX_CONDEMNED: u64 = 256 << 20;

/// What is younger stays, where nothing else is said.
const GRACE: Duration = Duration::from_secs(86_400);

#[derive(Default, Serialize, Deserialize)]
struct Condemned {
    digests: HashSet<Digest>,
}

/// Between the JSON of a record and its check.
const CHECK: &str = "\nblake3 ";

/// What a record needs. A newer program's record has that too, and what it needs stays.
#[derive(Deserialize)]
struct Needs {
    artifacts: HashMap<String, Needed>,
    log: Option<Digest>,
}

#[derive(Deserialize)]
struct Needed {
    digest: Digest,
}

/// Returns the packs and maps that a collection is about to remove.
pub(super) async fn condemned(objects: &Objects) -> Result<HashSet<Digest>, RemoteError> {
    let path = objects.bucket.at(CONDEMNED);
    let bytes = objects.bucket.get(&path, MAX_CONDEMNED).await?.unwrap_or_default();
    let condemned: Condemned = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(condemned.digests)
}

pub(super) async fn status(objects: &Objects) -> Result<RemoteStatus, RemoteError> {
    records::is_ours(objects).await?;
    let records = objects.bucket.list("records").await?;
    let maps = objects.bucket.list("maps").await?;
    let packs = objects.bucket.list("packs").await?;
    let bytes = |list: &[ObjectMeta]| list.iter().map(|meta| meta.size).sum::<u64>();
    let writable = is_writable(objects).await?;
    Ok(RemoteStatus {
        // Each has two names.
        records: (records.len() as u64).div_ceil(2),
        artifacts: maps.len() as u64,
        stored_bytes: bytes(&records) + bytes(&maps) + bytes(&packs),
        claims: writable && records::is_conditional(objects).await?,
        writable,
    })
}

async fn is_writable(objects: &Objects) -> Result<bool, RemoteError> {
    let path = objects.bucket.at("probe").join(nonce());
    let written = match records::make_ready(objects).await {
        Ok(()) => objects.bucket.put(&path, Bytes::from_static(b"w")).await,
        Err(error) => Err(error),
    };
    match written {
        Ok(()) => objects.bucket.delete(&path).await.map(|()| true),
        Err(RemoteError::Denied { .. } | RemoteError::Full { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Objects of one kind, by the digest that names them.
type Listed = HashMap<Digest, ObjectMeta>;

/// One collection.
struct Collection<'a> {
    objects: &'a Objects,
    how: RemoteGc,
    /// The time by the remote's clock, in seconds since 1970.
    now: i64,
    done: RemoteCollected,
}

pub(super) async fn collect(objects: &Objects, how: RemoteGc) -> Result<RemoteCollected, RemoteError> {
    let is_used = records::is_ours(objects).await? || objects.is_ready.initialized();
    if !is_used {
        return Ok(RemoteCollected::default());
    }
    let collection = Collection {
        objects,
        how,
        now: now(objects, how.dry_run).await?,
        done: RemoteCollected::default(),
    };
    let done = collection.run().await;
    if !how.dry_run {
        // Nothing is about to be removed any more, whether or not all was.
        objects.bucket.delete(&objects.bucket.at(CONDEMNED)).await?;
    }
    done
}

/// Returns the time by the remote's clock, which is the one that stamps its objects.
async fn now(objects: &Objects, dry_run: bool) -> Result<i64, RemoteError> {
    if dry_run {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        return Ok(now.as_secs() as i64);
    }
    let path = objects.bucket.at("probe").join(nonce());
    objects.bucket.put(&path, Bytes::from_static(b"t")).await?;
    let meta = objects.bucket.head(&path).await?;
    objects.bucket.delete(&path).await?;
    let meta = meta.ok_or_else(|| {
        objects
            .bucket
            .context
            .damaged(&path, "it was just written and is not there")
    })?;
    Ok(meta.last_modified.timestamp())
}

impl Collection<'_> {
    async fn run(mut self) -> Result<RemoteCollected, RemoteError> {
        let needed = self.records().await?;
        let maps = self.list("maps").await?;
        let packs = self.list("packs").await?;
        let (live, dead): (Listed, Listed) = maps
            .into_iter()
            .partition(|(digest, meta)| needed.contains(digest) || self.is_young(meta));
        let mut needed_packs = self.packs_of(live.keys().copied().collect()).await?;
        let is_dead = |(digest, meta): &(Digest, ObjectMeta)| !needed_packs.contains(digest) && !self.is_young(meta);
        let (dead_packs, live_packs): (Listed, Listed) = packs
            .into_iter()
            .partition(|(digest, meta)| is_dead(&(*digest, meta.clone())));
        self.done.kept_bytes += live
            .values()
            .chain(live_packs.values())
            .map(|meta| meta.size)
            .sum::<u64>();
        if !self.how.dry_run {
            let digests = dead.keys().chain(dead_packs.keys()).copied().collect();
            let text = serde_json::to_vec(&Condemned { digests }).unwrap_or_default();
            self.objects
                .bucket
                .put(&self.objects.bucket.at(CONDEMNED), text.into())
                .await?;
            let again = self.list("maps").await?;
            let is_new = |digest: &&Digest| !live.contains_key(*digest) && !dead.contains_key(*digest);
            let is_rewritten = |digest: &&Digest| {
                let (then, now) = (dead.get(*digest), again.get(*digest));
                matches!((then, now), (Some(then), Some(now)) if then.last_modified != now.last_modified)
            };
            let came = again.keys().filter(|digest| is_new(digest) || is_rewritten(digest));
            needed_packs.extend(self.packs_of(came.copied().collect()).await?);
        }
        let dead_packs = dead_packs
            .into_iter()
            .filter(|(digest, _)| !needed_packs.contains(digest));
        let dead_packs: Vec<ObjectMeta> = dead_packs.map(|(_, meta)| meta).collect();
        self.remove_large(&dead).await?;
        self.remove(dead.into_values().collect()).await?;
        self.remove(dead_packs).await?;
        self.remove_leftovers().await?;
        Ok(self.done)
    }

    fn is_older(&self, meta: &ObjectMeta, age: Duration) -> bool {
        self.now - meta.last_modified.timestamp() >= age.as_secs() as i64
    }

    fn is_young(&self, meta: &ObjectMeta) -> bool {
        !self.is_older(meta, self.how.grace.unwrap_or(GRACE))
    }

    async fn list(&self, area: &str) -> Result<Listed, RemoteError> {
        let found = self.objects.bucket.list(area).await?;
        Ok(found
            .into_iter()
            .filter_map(|meta| Some((digest_of(&meta.location)?, meta)))
            .collect())
    }

    /// Removes records that are too old or can't be read by anybody, and returns the artifacts that the others need.
    async fn records(&mut self) -> Result<HashSet<Digest>, RemoteError> {
        let all = self.objects.bucket.list("records").await?;
        let is_old = |meta: &ObjectMeta| self.how.older_than.is_some_and(|age| self.is_older(meta, age));
        let (mut dead, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(is_old);
        let bucket = &self.objects.bucket;
        let mut reads = stream::iter(kept)
            .map(|meta| async move {
                let bytes = match bucket.get(&meta.location, records::MAX_RECORD).await {
                    Ok(bytes) => bytes.unwrap_or_default(),
                    Err(RemoteError::Damaged { .. }) => Bytes::new(),
                    Err(error) => return Err(error),
                };
                Ok((meta, bytes))
            })
            .buffer_unordered(self.objects.parallel);
        let mut needed = HashSet::new();
        let mut kept_bytes = 0;
        while let Some((meta, bytes)) = reads.try_next().await? {
            match needs(&bytes) {
                Read::Needs(needs) => {
                    kept_bytes += meta.size;
                    needed.extend(needs.artifacts.values().map(|artifact| artifact.digest));
                    needed.extend(needs.log);
                }
                Read::Damaged => dead.push(meta),
                Read::Unknown => {
                    return Err(RemoteError::Format(format!(
                        "{} has records of a newer volvelle; collect it with that one",
                        bucket.context.address
                    )));
                }
            }
        }
        drop(reads);
        self.done.kept_bytes += kept_bytes;
        let before = self.done.removed_objects;
        self.remove(dead).await?;
        self.done.removed_records = (self.done.removed_objects - before).div_ceil(2);
        Ok(needed)
    }

    /// Returns the packs that some maps need.
    async fn packs_of(&self, maps: Vec<Digest>) -> Result<HashSet<Digest>, RemoteError> {
        let objects = self.objects;
        let mut reads = stream::iter(maps)
            .map(|digest| async move {
                let path = objects.bucket.named("maps", digest);
                let bytes = match objects.bucket.get(&path, map::MAX_STORED).await {
                    Ok(bytes) => bytes.unwrap_or_default(),
                    Err(RemoteError::Damaged { .. }) => Bytes::new(),
                    Err(error) => return Err(error),
                };
                // A damaged map leads nowhere, so it needs nothing.
                Ok(blocking(move || Map::decode(&bytes).map(|map| map.packs).unwrap_or_default()).await)
            })
            .buffer_unordered(objects.parallel);
        let mut packs = HashSet::new();
        while let Some(found) = reads.try_next().await? {
            packs.extend(found.into_iter().map(|pack| pack.digest));
        }
        Ok(packs)
    }

    /// Removes the objects that say of maps that those have packs.
    async fn remove_large(&mut self, maps: &Listed) -> Result<(), RemoteError> {
        let large = self.list("large").await?;
        let dead = large.into_iter().filter(|(digest, _)| maps.contains_key(digest));
        let dead = dead.map(|(_, meta)| meta).collect();
        self.remove(dead).await
    }

    /// Removes what probes and holders that died left.
    async fn remove_leftovers(&mut self) -> Result<(), RemoteError> {
        for area in ["probe", "claims"] {
            let old = self.objects.bucket.list(area).await?;
            let old = old.into_iter().filter(|meta| self.is_older(meta, GRACE));
            self.remove(old.collect()).await?;
        }
        Ok(())
    }

    /// Removes objects, but for those that were written again since they were listed.
    async fn remove(&mut self, dead: Vec<ObjectMeta>) -> Result<(), RemoteError> {
        let (bucket, dry_run) = (&self.objects.bucket, self.how.dry_run);
        let mut removals = stream::iter(dead)
            .map(|meta| async move {
                if !dry_run {
                    let now = bucket.head(&meta.location).await?;
                    if !now.as_ref().is_some_and(|now| is_same(now, &meta)) {
                        return Ok(None);
                    }
                    bucket.delete(&meta.location).await?;
                }
                Ok::<_, RemoteError>(Some(meta.size))
            })
            .buffer_unordered(self.objects.parallel);
        let (mut num_removed, mut bytes) = (0, 0);
        while let Some(removed) = removals.try_next().await? {
            num_removed += u64::from(removed.is_some());
            bytes += removed.unwrap_or(0);
        }
        drop(removals);
        self.done.removed_objects += num_removed;
        self.done.removed_bytes += bytes;
        Ok(())
    }
}

/// Returns whether an object is the one that was listed. Some stores tell parts of seconds in lists only.
fn is_same(now: &ObjectMeta, listed: &ObjectMeta) -> bool {
    let has_tag = now.e_tag.is_some() && listed.e_tag.is_some();
    now.last_modified.timestamp() == listed.last_modified.timestamp()
        && now.size == listed.size
        && (!has_tag || now.e_tag == listed.e_tag)
}

/// What a record file turned out to be.
enum Read {
    Needs(Needs),
    /// Nobody can read it.
    Damaged,
    /// It checks, but what it says is not known here.
    Unknown,
}

fn needs(bytes: &[u8]) -> Read {
    let parts = || {
        let (json, rest) = std::str::from_utf8(bytes).ok()?.rsplit_once(CHECK)?;
        let check: Digest = rest.lines().next()?.parse().ok()?;
        (check == Digest::of(json.as_bytes())).then_some(json)
    };
    match parts() {
        None => Read::Damaged,
        Some(json) => serde_json::from_str(json).map_or(Read::Unknown, Read::Needs),
    }
}
