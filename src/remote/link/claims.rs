//! Claims of keys in the remote, so that two machines don't run one node at once.
//!
//! A claim is a courtesy between machines, not what results rely on: where claims can't be had, a node may run twice and
//! both results are right. A claim is held until its result is pushed, or its node failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::{CLAIM_LEASE, RemoteClaim, RemoteError};
use super::{Link, Shared, locked};
use crate::digest::ContentKey;
use crate::store::Owner;

/// How long the remote may take to answer whether a key is free, and to be told that all are.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a claim that another machine holds is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The answer to an attempt to claim a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkClaim {
    /// No other machine runs it, as far as can be known.
    Free,
    /// Another machine runs it.
    Taken(Option<Owner>),
}

#[derive(Debug, Default)]
pub(super) struct Claims {
    held: Arc<Mutex<HashMap<ContentKey, String>>>,
    waited: Mutex<HashMap<ContentKey, Waited>>,
    /// Whether a task renews what is held: two would take each other's renewals for a stranger's.
    is_renewing: Arc<Mutex<bool>>,
}

/// What is known of a claim that another machine holds.
#[derive(Debug)]
struct Waited {
    owner: Option<Owner>,
    mark: String,
    /// When the mark was first seen, and when it was last looked at, by our own clock.
    since: Instant,
    looked: Instant,
}

impl Link {
    /// Tries to claim a key for this process, without waiting.
    pub fn claim(&self, key: ContentKey) -> LinkClaim {
        let settings = &self.shared.settings;
        // Who does not push has nothing to offer to those who would wait.
        if !(self.shared.is_pushing() && settings.claims && settings.pull) {
            return LinkClaim::Free;
        }
        if locked(&self.claims.held).contains_key(&key) {
            // Ours already: another node of this run has the same key, and its result is on its way there.
            return LinkClaim::Free;
        }
        let mut waited = locked(&self.claims.waited);
        let known = waited.get(&key);
        if let Some(known) = known.filter(|known| known.looked.elapsed() < LOOK_AGAIN) {
            return LinkClaim::Taken(known.owner.clone());
        }
        let dead = known
            .filter(|known| known.since.elapsed() >= CLAIM_LEASE)
            .map(|known| known.mark.clone());
        let shared = Arc::clone(&self.shared);
        let answer = self.wait(async move {
            let owner = Owner::current();
            let claim = async {
                match dead {
                    Some(mark) => shared.remote.take_over(key, &owner, &mark).await,
                    None => shared.remote.claim(key, &owner).await,
                }
            };
            // The run waits for this with all that it does.
            tokio::time::timeout(PATIENCE, claim).await.unwrap_or_else(|_| {
                Err(RemoteError::Unreachable {
                    what: shared.remote.address().to_owned(),
                    why: format!("no answer within {} s", PATIENCE.as_secs()),
                })
            })
        });
        match answer {
            Some(Ok(RemoteClaim::Held(token))) => {
                locked(&self.claims.held).insert(key, token);
                self.keep_renewing();
                waited.remove(&key);
                LinkClaim::Free
            }
            Some(Ok(RemoteClaim::Taken { owner, mark })) => {
                let now = Instant::now();
                let since = waited
                    .get(&key)
                    .filter(|known| known.mark == mark)
                    .map_or(now, |known| known.since);
                waited.insert(
                    key,
                    Waited {
                        owner: owner.clone(),
                        mark,
                        since,
                        looked: now,
                    },
                );
                LinkClaim::Taken(owner)
            }
            Some(Err(error)) => {
                self.shared.write_fault("claiming a node", &error);
                LinkClaim::Free
            }
            None => LinkClaim::Free,
        }
    }

    /// Gives up the claim of a key whose node did not succeed, or needn't run after all.
    pub fn release(&self, key: ContentKey) {
        if let (Some(token), Some(runtime)) = (locked(&self.claims.held).remove(&key), self.runtime()) {
            runtime.spawn(release(Arc::clone(&self.shared), key, token));
        }
    }

    /// Gives up all claims, and waits for that: a claim that is left behind makes others wait for its lease.
    pub fn release_all(&self) {
        let held: Vec<_> = locked(&self.claims.held).drain().collect();
        if held.is_empty() || self.is_down() {
            return;
        }
        let releases = held
            .into_iter()
            .map(|(key, token)| release(Arc::clone(&self.shared), key, token));
        let all = futures::future::join_all(releases.collect::<Vec<_>>());
        self.wait(tokio::time::timeout(PATIENCE, all));
    }

    /// Returns what a push needs to release the claim of what it pushed.
    pub(super) fn held(&self) -> Arc<Mutex<HashMap<ContentKey, String>>> {
        Arc::clone(&self.claims.held)
    }

    /// Renews all claims as long as there are any.
    fn keep_renewing(&self) {
        let is_renewing = Arc::clone(&self.claims.is_renewing);
        if std::mem::replace(&mut *locked(&is_renewing), true) {
            return;
        }
        if let Some(runtime) = self.runtime() {
            runtime.spawn(renew_all(Arc::clone(&self.shared), self.held(), is_renewing));
        }
    }
}

async fn renew_all(shared: Arc<Shared>, held: Arc<Mutex<HashMap<ContentKey, String>>>, is_renewing: Arc<Mutex<bool>>) {
    loop {
        tokio::time::sleep(CLAIM_LEASE / 4).await;
        let claims: Vec<_> = {
            let mut is_renewing = locked(&is_renewing);
            let held = locked(&held);
            *is_renewing = !held.is_empty();
            held.iter().map(|(key, token)| (*key, token.clone())).collect()
        };
        if claims.is_empty() {
            return;
        }
        for (key, mut token) in claims {
            match shared.remote.renew(key, &Owner::current(), &mut token).await {
                // Released meanwhile, it stays so.
                Ok(true) => drop(locked(&held).get_mut(&key).map(|held| *held = token)),
                // Somebody thought us dead. Both will come to the same result.
                Ok(false) => drop(locked(&held).remove(&key)),
                Err(error) => shared.write_fault("renewing a claim", &error),
            }
        }
    }
}

/// Releases a claim; one that can't be released ends with its lease.
pub(super) async fn release(shared: Arc<Shared>, key: ContentKey, token: String) {
    let released: Result<(), RemoteError> = shared.remote.release(key, &token).await;
    if let Err(error) = released {
        tracing::debug!(key = %key.short(), %error, "a claim in the remote could not be released");
    }
}
