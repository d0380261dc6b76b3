//! Claims: which machine runs a key just now.
//!
//! All that is asked of the store is that of several who create an object one succeeds. So a claim has generations: the
//! objects `KEY.0`, `KEY.1` and so on, of which the highest that is there holds. A claim is taken over by creating the next
//! generation, which one alone can do. A holder renews by writing its own object, which nobody else ever writes, and then
//! looks for a higher one. It releases by removing its own and the lower ones, lowest first, so that at no moment a lower
//! one seems to hold. Whoever created `KEY.0` looks whether there are higher ones before it counts.
//!
//! No clock is compared with another. A waiter takes a claim over whose mark, the digest of the object, has not changed for
//! a lease by its own clock.

use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::requests::Created;
use super::{Objects, nonce, records};
use crate::digest::{ContentKey, Digest};
use crate::remote::{RemoteClaim, RemoteError};
use crate::store::Owner;

/// No claim is longer.
const MAX_CLAIM: u64 = 64 << 10;

/// What is answered where claims don't work: everybody holds everything.
const UNCLAIMED: &str = "unclaimed";

#[derive(Serialize, Deserialize)]
struct Held {
    format: u32,
    owner: Owner,
    /// Tells the holder's own object from anybody else's.
    nonce: String,
    /// Counts renewals, so that each changes the mark.
    renewed: u64,
}

/// What the holder has to know, as the text that it is given.
struct Token {
    generation: u64,
    nonce: String,
    renewed: u64,
}

impl Token {
    fn parse(text: &str) -> Option<Token> {
        let mut parts = text.split(' ');
        let token = Token {
            generation: parts.next()?.parse().ok()?,
            nonce: parts.next()?.to_owned(),
            renewed: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(token)
    }

    fn text(&self) -> String {
        format!("{} {} {}", self.generation, self.nonce, self.renewed)
    }

    fn object(&self, owner: &Owner) -> Bytes {
        let held = Held {
            format: 1,
            owner: owner.clone(),
            nonce: self.nonce.clone(),
            renewed: self.renewed,
        };
        Bytes::from(serde_json::to_vec(&held).unwrap_or_default())
    }
}

/// Returns whether claims work there: not where conditional writes don't, nor for whoever may only read.
async fn can_claim(objects: &Objects) -> Result<bool, RemoteError> {
    let can = objects.can_claim.get_or_try_init(|| async {
        match records::is_conditional(objects).await {
            Err(RemoteError::Denied { .. } | RemoteError::Full { .. }) => Ok(false),
            found => found,
        }
    });
    can.await.copied()
}

/// Returns the folder of a key's claims and the name that they begin with.
fn place(objects: &Objects, key: ContentKey) -> (Path, String) {
    let hex = key.to_string();
    let (shard, rest) = hex.split_at(2);
    (objects.bucket.at("claims").join(shard), rest.to_owned())
}

fn path(objects: &Objects, key: ContentKey, generation: u64) -> Path {
    let (folder, name) = place(objects, key);
    folder.join(format!("{name}.{generation}"))
}

/// Returns the generations that are there, in ascending order.
async fn generations(objects: &Objects, key: ContentKey) -> Result<Vec<u64>, RemoteError> {
    let (folder, name) = place(objects, key);
    let names = objects.bucket.list_folder(&folder).await?;
    let generation = |found: &String| found.strip_prefix(&name)?.strip_prefix('.')?.parse().ok();
    let mut generations: Vec<u64> = names.iter().filter_map(generation).collect();
    generations.sort_unstable();
    Ok(generations)
}

pub(super) async fn claim(objects: &Objects, key: ContentKey, owner: &Owner) -> Result<RemoteClaim, RemoteError> {
    if !can_claim(objects).await? {
        return Ok(RemoteClaim::Held(UNCLAIMED.to_owned()));
    }
    // Again for one that is released just now.
    for _ in 0..3 {
        let token = Token {
            generation: 0,
            nonce: nonce(),
            renewed: 0,
        };
        let is_new = create(objects, key, &token, owner).await?;
        let highest = generations(objects, key).await?.last().copied();
        match highest {
            Some(0) if is_new => return Ok(RemoteClaim::Held(token.text())),
            None => continue,
            Some(highest) => {
                if is_new {
                    objects.bucket.delete(&path(objects, key, 0)).await?;
                }
                if let Some(taken) = taken(objects, key, highest).await? {
                    return Ok(taken);
                }
            }
        }
    }
    Ok(RemoteClaim::Taken {
        owner: None,
        mark: String::new(),
    })
}

/// Returns who holds a generation; none where it is not there any more.
async fn taken(objects: &Objects, key: ContentKey, generation: u64) -> Result<Option<RemoteClaim>, RemoteError> {
    let bytes = objects.bucket.get(&path(objects, key, generation), MAX_CLAIM).await?;
    Ok(bytes.map(|bytes| RemoteClaim::Taken {
        owner: serde_json::from_slice::<Held>(&bytes).ok().map(|held| held.owner),
        mark: mark(generation, &bytes),
    }))
}

fn mark(generation: u64, bytes: &[u8]) -> String {
    format!("{generation} {}", Digest::of(bytes))
}

/// Creates the object of a generation; false if there is one, which an answer that was lost does not count as.
async fn create(objects: &Objects, key: ContentKey, token: &Token, owner: &Owner) -> Result<bool, RemoteError> {
    let path = path(objects, key, token.generation);
    let lost = match objects.bucket.create(&path, token.object(owner)).await {
        Ok(Created::New) => return Ok(true),
        Ok(Created::Exists) => None,
        Err(error @ RemoteError::Unreachable { .. }) => Some(error),
        Err(error) => return Err(error),
    };
    // The answer to an earlier try may have been lost, so what counts is whose it is.
    let found = objects.bucket.get(&path, MAX_CLAIM).await?;
    let is_ours = found
        .as_deref()
        .and_then(|bytes| serde_json::from_slice::<Held>(bytes).ok());
    match (is_ours.is_some_and(|held| held.nonce == token.nonce), found, lost) {
        (true, ..) => Ok(true),
        (false, None, Some(error)) => Err(error),
        _ => Ok(false),
    }
}

pub(super) async fn take_over(
    objects: &Objects,
    key: ContentKey,
    owner: &Owner,
    stale: &str,
) -> Result<RemoteClaim, RemoteError> {
    if !can_claim(objects).await? {
        return Ok(RemoteClaim::Held(UNCLAIMED.to_owned()));
    }
    let Some(highest) = generations(objects, key).await?.last().copied() else {
        return claim(objects, key, owner).await;
    };
    let Some(now) = taken(objects, key, highest).await? else {
        return claim(objects, key, owner).await;
    };
    if !matches!(&now, RemoteClaim::Taken { mark, .. } if mark == stale) {
        return Ok(now);
    }
    let token = Token {
        generation: highest + 1,
        nonce: nonce(),
        renewed: 0,
    };
    if create(objects, key, &token, owner).await? {
        return Ok(RemoteClaim::Held(token.text()));
    }
    // Somebody else was faster; if that one is done already, it is for the next try to find out.
    Ok(taken(objects, key, highest + 1).await?.unwrap_or(now))
}

pub(super) async fn renew(
    objects: &Objects,
    key: ContentKey,
    owner: &Owner,
    text: &mut String,
) -> Result<bool, RemoteError> {
    if text == UNCLAIMED {
        return Ok(true);
    }
    let Some(mut token) = Token::parse(text) else {
        return Ok(false);
    };
    if generations(objects, key).await?.last() != Some(&token.generation) {
        return Ok(false);
    }
    token.renewed += 1;
    let own = path(objects, key, token.generation);
    objects.bucket.put(&own, token.object(owner)).await?;
    *text = token.text();
    Ok(generations(objects, key).await?.last() == Some(&token.generation))
}

pub(super) async fn release(objects: &Objects, key: ContentKey, token: &str) -> Result<(), RemoteError> {
    let Some(token) = Token::parse(token) else {
        return Ok(());
    };
    for generation in generations(objects, key).await? {
        if generation <= token.generation {
            objects.bucket.delete(&path(objects, key, generation)).await?;
        }
    }
    Ok(())
}
