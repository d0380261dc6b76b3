//! Records in the remote, whose place it is, and whether it keeps what is there when asked to.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::requests::Created;
use super::{Objects, nonce};
use crate::digest::{ContentKey, Digest, RecipeKey};
use crate::remote::{RecordPut, RemoteError};

/// The layout that this program writes, and the newest that it reads.
const FORMAT: u64 = 1;

/// The name of the object that says so.
const MARKER: &str = "volvelle-remote";

/// No record is longer.
pub(super) const MAX_RECORD: u64 = 64 << 20;

/// A probe counts for a week: a server may be updated.
const PROBE_SECONDS: u64 = 7 * 86_400;

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u64,
}

/// What a probe found out, as it is remembered in the cache.
#[derive(Serialize, Deserialize)]
struct Probed {
    is_conditional: bool,
    seconds: u64,
}

/// Checks, once, that the place is ours and of a layout that we know; returns whether it was used before.
pub(super) async fn is_ours(objects: &Objects) -> Result<bool, RemoteError> {
    let looked = objects.is_marked.get_or_try_init(|| async {
        let bucket = &objects.bucket;
        let Some(bytes) = bucket.get(&bucket.at(MARKER), 64 << 10).await? else {
            return Ok(false);
        };
        let address = &bucket.context.address;
        match serde_json::from_slice::<Marker>(&bytes) {
            Ok(Marker { format: 1..=FORMAT }) => Ok(true),
            Ok(Marker { format }) => Err(RemoteError::Format(format!(
                "{address} has remote format {format}, and this volvelle reads up to {FORMAT}; use a newer volvelle"
            ))),
            Err(_) => Err(RemoteError::Format(format!(
                "{address} is no remote of volvelle's: its object `{MARKER}` says something else"
            ))),
        }
    });
    looked.await.copied()
}

/// Makes the place ours if it is nobody's.
pub(super) async fn make_ready(objects: &Objects) -> Result<(), RemoteError> {
    let made = objects.is_ready.get_or_try_init(|| async {
        if !is_ours(objects).await? {
            let path = objects.bucket.at(MARKER);
            let text = serde_json::to_string(&Marker { format: FORMAT }).unwrap_or_default();
            // Whoever is first writes the same.
            objects.bucket.create(&path, Bytes::from(text)).await?;
        }
        Ok(())
    });
    made.await.copied()
}

/// Finds out, once and then again after a week, whether an object that is there stays when a write asks for that.
///
/// Some servers take such a write and replace the object, without a word.
pub(super) async fn is_conditional(objects: &Objects) -> Result<bool, RemoteError> {
    let probed = objects.is_conditional.get_or_try_init(|| async {
        let file = objects.folder.join("probed.json");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let remembered: Option<Probed> = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(probed) = remembered
            && now.checked_sub(probed.seconds).is_some_and(|age| age < PROBE_SECONDS)
        {
            return Ok(probed.is_conditional);
        }
        make_ready(objects).await?;
        let is_conditional = probe(objects).await?;
        if !is_conditional {
            tracing::warn!(
                remote = %objects.bucket.context.address,
                "the remote ignores conditional writes, so it can't tell which machine runs a node: two may run the same"
            );
        }
        let probed = Probed {
            is_conditional,
            seconds: now,
        };
        let text = serde_json::to_string(&probed).unwrap_or_default();
        if let Err(error) = fs::create_dir_all(&objects.folder).and_then(|()| fs::write(&file, text)) {
            tracing::debug!(%error, "what a probe found could not be remembered");
        }
        Ok(is_conditional)
    });
    probed.await.copied()
}

async fn probe(objects: &Objects) -> Result<bool, RemoteError> {
    let bucket = &objects.bucket;
    let path = bucket.at("probe").join(nonce());
    bucket.put(&path, Bytes::from_static(b"first")).await?;
    let again = bucket.create(&path, Bytes::from_static(b"second")).await;
    bucket.delete(&path).await?;
    match again {
        Ok(created) => Ok(created == Created::Exists),
        // What it can't do it says so.
        Err(error) if !error.is_down() => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn get(objects: &Objects, key: Digest) -> Result<Option<Bytes>, RemoteError> {
    is_ours(objects).await?;
    let path = objects.bucket.named("records", key);
    objects.bucket.get(&path, MAX_RECORD).await
}

pub(super) async fn put(
    objects: &Objects,
    recipe: RecipeKey,
    content: ContentKey,
    bytes: Bytes,
    replace: bool,
) -> Result<RecordPut, RemoteError> {
    make_ready(objects).await?;
    let by_recipe = objects.bucket.named("records", recipe.0);
    let by_content = objects.bucket.named("records", content.0);
    if replace {
        objects.bucket.put(&by_content, bytes.clone()).await?;
        objects.bucket.put(&by_recipe, bytes).await?;
        return Ok(RecordPut::Stored);
    }
    // Which record a content key finds makes no difference: they have the same inputs and so the same result.
    put_new(objects, &by_content, bytes.clone()).await?;
    put_new(objects, &by_recipe, bytes).await
}

async fn put_new(objects: &Objects, path: &Path, bytes: Bytes) -> Result<RecordPut, RemoteError> {
    let bucket = &objects.bucket;
    let put = async {
        bucket.put(path, bytes.clone()).await?;
        Ok(RecordPut::Stored)
    };
    if !is_conditional(objects).await? {
        return match bucket.get(path, MAX_RECORD).await? {
            Some(found) => Ok(RecordPut::Exists(found)),
            None => put.await,
        };
    }
    let lost = match bucket.create(path, bytes.clone()).await {
        Ok(Created::New) => return Ok(RecordPut::Stored),
        Ok(Created::Exists) => None,
        // It may have been written all the same.
        Err(error @ RemoteError::Unreachable { .. }) => Some(error),
        Err(error) => return Err(error),
    };
    match (bucket.get(path, MAX_RECORD).await?, lost) {
        (Some(found), _) if found == bytes => Ok(RecordPut::Stored),
        (Some(found), _) => Ok(RecordPut::Exists(found)),
        (None, Some(error)) => Err(error),
        // Removed in between.
        (None, None) => put.await,
    }
}
