//! Claims: which machine runs a key just now, so that no other one does.
//!
//! A claim lives as long as it is renewed within [`CLAIM_LEASE`] by this server's own clock, which nobody can set back.
//! It is also a small file, so that a server that was restarted still knows who holds what; each holder then has a full
//! lease to say that it lives. What renews is not written: only who holds has to be remembered.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::body::Incoming;
use super::refusal::Refusal;
use super::routes::{Name, blocking, json_answer};
use super::shared::Shared;
use crate::digest::Digest;
use crate::remote::CLAIM_LEASE;
use crate::remote::http::protocol::CLAIM_HEADER;
use crate::store::{Owner, Store, StoreError};

/// More than all machines of a team hold; a client that claims without end must not fill the memory.
const MOST_CLAIMS: usize = 50_000;

const MOST_OWNER_BYTES: u64 = 4096;

#[derive(Clone, Debug)]
struct Held {
    owner: Owner,
    /// The digest of the token that the holder chose.
    token: Digest,
    /// Changes whenever the holder renews.
    mark: u64,
    renewed: Instant,
}

impl Held {
    fn is_over(&self) -> bool {
        self.renewed.elapsed() >= CLAIM_LEASE
    }

    fn mark_text(&self) -> String {
        format!("{:016x}", self.mark)
    }
}

/// A claim as its file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    owner: Owner,
    token: Digest,
}

/// All claims of a server.
#[derive(Debug)]
pub(super) struct Claims {
    store: Arc<Store>,
    held: Mutex<HashMap<Digest, Held>>,
}

/// The answer to an attempt to claim a key.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Held,
    Taken { owner: Owner, mark: String },
    TooMany,
}

impl Claims {
    /// Reads which claims there were when the server ended. A file that doesn't read is no claim.
    pub fn open(store: Arc<Store>) -> Result<Claims, StoreError> {
        let claims = Claims {
            store,
            held: Mutex::default(),
        };
        let files = fs::read_dir(claims.folder()).into_iter().flatten().flatten();
        let read = |file: fs::DirEntry| {
            let key = file.file_name().to_str()?.parse::<Digest>().ok()?;
            let written: Written = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
            let held = Held {
                owner: written.owner,
                token: written.token,
                mark: new_mark(),
                renewed: Instant::now(),
            };
            (written.format == 1).then_some((key, held))
        };
        claims.lock().extend(files.filter_map(read).take(MOST_CLAIMS));
        Ok(claims)
    }

    fn folder(&self) -> PathBuf {
        self.store.root().join("serve/claims")
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a key, or takes a claim over whose mark is `seen`. One that ran out belongs to whoever asks.
    fn claim(&self, key: Digest, token: Digest, owner: Owner, seen: Option<&str>) -> Result<Answer, StoreError> {
        // Held while the file is written, too: what is answered has to be what is on disk.
        let mut held = self.lock();
        if let Some(found) = held.get_mut(&key) {
            if found.token == token {
                // The same claim again: its answer was lost.
                found.renewed = Instant::now();
                return Ok(Answer::Held);
            }
            let is_seen = seen.is_none_or(|seen| seen == found.mark_text());
            if !found.is_over() || !is_seen {
                return Ok(Answer::Taken {
                    owner: found.owner.clone(),
                    mark: found.mark_text(),
                });
            }
        } else if held.len() >= MOST_CLAIMS {
            held.retain(|_, found| !found.is_over());
            if held.len() >= MOST_CLAIMS {
                return Ok(Answer::TooMany);
            }
        }
        let written = Written {
            format: 1,
            owner: owner.clone(),
            token,
        };
        let text = serde_json::to_vec(&written).unwrap_or_default();
        self.store.write_file(&self.folder().join(key.to_string()), &text)?;
        let claimed = Held {
            owner,
            token,
            mark: new_mark(),
            renewed: Instant::now(),
        };
        held.insert(key, claimed);
        Ok(Answer::Held)
    }

    /// Says that a claim still holds; false if it is no longer that token's.
    fn renew(&self, key: Digest, token: Digest) -> bool {
        let mut held = self.lock();
        // A claim whose lease ran out and that nobody took is still its holder's.
        let Some(found) = held.get_mut(&key).filter(|found| found.token == token) else {
            return false;
        };
        found.renewed = Instant::now();
        found.mark = found.mark.wrapping_add(1);
        true
    }

    /// Gives a claim up; one that is somebody else's stays.
    fn release(&self, key: Digest, token: Digest) {
        let mut held = self.lock();
        if held.get(&key).is_some_and(|found| found.token == token) {
            held.remove(&key);
            let path = self.folder().join(key.to_string());
            if let Err(error) = fs::remove_file(&path) {
                // After a restart it costs others the length of a lease.
                tracing::warn!(path = %path.display(), %error, "a claim that was given up could not be removed");
            }
        }
    }
}

/// Returns a mark that no earlier run of the server gave.
fn new_mark() -> u64 {
    let mut random = [0; 8];
    // Without randomness the time will do: a mark only has to differ from the last one.
    match getrandom::fill(&mut random) {
        Ok(()) => u64::from_le_bytes(random),
        Err(_) => crate::store::Timestamp::now().0 << 20,
    }
}

/// `PUT /v1/claims/KEY`: 201 and the claim is held, or 409 with its holder and mark. With `If-None-Match: *` it is a new
/// claim; with `If-Match: MARK` one is taken over that ran out.
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Name(key): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let token = token(&headers)?;
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let seen = match (text(header::IF_NONE_MATCH), text(header::IF_MATCH)) {
        (Some(any), None) if any == "*" => None,
        (None, Some(mark)) => Some(mark.trim_matches('"').to_owned()),
        _ => return Err(Refusal::bad("a claim needs `If-None-Match: *` or `If-Match: MARK`")),
    };
    let body = Incoming::new(&headers, body, MOST_OWNER_BYTES, shared.pace)?
        .whole()
        .await?;
    let owner: Owner = serde_json::from_slice(&body).map_err(|error| Refusal::bad(format!("not an owner: {error}")))?;
    let answer = blocking(move || Ok(shared.claims.claim(key, token, owner, seen.as_deref())?)).await?;
    Ok(match answer {
        Answer::Held => json_answer(StatusCode::CREATED, &json!({"lease_seconds": CLAIM_LEASE.as_secs()})),
        Answer::Taken { owner, mark } => json_answer(
            StatusCode::CONFLICT,
            &json!({"error": "another machine holds this key", "owner": owner, "mark": mark}),
        ),
        Answer::TooMany => Refusal::busy("there are too many claims").into_response(),
    })
}

/// `PATCH /v1/claims/KEY`: 204 if the claim holds for another lease, 412 if it is somebody else's by now.
pub(super) async fn renew(
    State(shared): State<Arc<Shared>>,
    Name(key): Name,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    let token = token(&headers)?;
    Ok(match shared.claims.renew(key, token) {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::PRECONDITION_FAILED,
    })
}

/// `DELETE /v1/claims/KEY`: gives a claim up. That it is not ours any more is fine.
pub(super) async fn release(
    State(shared): State<Arc<Shared>>,
    Name(key): Name,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    let token = token(&headers)?;
    blocking(move || {
        shared.claims.release(key, token);
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

fn token(headers: &HeaderMap) -> Result<Digest, Refusal> {
    let token = headers.get(CLAIM_HEADER).map(|token| token.as_bytes());
    match token.filter(|token| (16..=128).contains(&token.len())) {
        Some(token) => Ok(Digest::of(token)),
        None => Err(Refusal::bad(
            "a claim needs a header `volvelle-claim` of 16 to 128 characters",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Tested = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn one_holds_a_key_until_it_gives_it_up_or_its_lease_is_over() -> Tested {
        let folder = tempfile::tempdir()?;
        let store = Arc::new(Store::open(folder.path())?);
        let claims = Claims::open(Arc::clone(&store))?;
        let [key, ada, bob] = [b"key", b"ada", b"bob"].map(|text| Digest::of(text));
        let owner = Owner::current();
        assert_eq!(claims.claim(key, ada, owner.clone(), None)?, Answer::Held);
        assert_eq!(claims.claim(key, ada, owner.clone(), None)?, Answer::Held, "again");
        let Answer::Taken { mark, .. } = claims.claim(key, bob, owner.clone(), None)? else {
            return Err("two hold one key".into());
        };
        assert!(
            matches!(
                claims.claim(key, bob, owner.clone(), Some(&mark))?,
                Answer::Taken { .. }
            ),
            "too early"
        );
        assert!(!claims.renew(key, bob));
        assert!(claims.renew(key, ada));
        let Answer::Taken { mark: renewed, .. } = claims.claim(key, bob, owner.clone(), None)? else {
            return Err("two hold one key".into());
        };
        assert_ne!(mark, renewed);
        // Somebody else's claim stays.
        claims.release(key, bob);

        // A server that was restarted knows it still, and gives its holder a whole lease.
        let claims = Claims::open(store)?;
        assert!(matches!(
            claims.claim(key, bob, owner.clone(), None)?,
            Answer::Taken { .. }
        ));
        assert!(claims.renew(key, ada));

        // The lease is over: only who saw the last mark takes it over.
        if let Some(held) = claims.lock().get_mut(&key) {
            held.renewed = Instant::now()
                .checked_sub(CLAIM_LEASE)
                .ok_or("the machine has just been started")?;
        }
        assert!(
            matches!(
                claims.claim(key, bob, owner.clone(), Some(&mark))?,
                Answer::Taken { .. }
            ),
            "an old mark"
        );
        assert_eq!(claims.claim(key, bob, owner.clone(), None)?, Answer::Held);
        assert!(!claims.renew(key, ada));
        claims.release(key, bob);
        assert_eq!(claims.claim(key, ada, owner, None)?, Answer::Held);
        Ok(())
    }
}
