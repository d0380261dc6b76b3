//! Whether a node has to run, once its inputs are settled.
//!
//! A recipe key alone could promise a result that was made from other bytes than the inputs have now, for instance
//! after a forced rerun upstream that gave something new and was then interrupted. So a record counts only if it was made
//! from exactly these inputs. Nothing here runs or waits.

use std::num::NonZero;
use std::sync::Arc;

use super::event::Reason;
use crate::digest::{ContentKey, Digest};
use crate::graph::{Graph, Item};
use crate::store::{Artifact, Found, InputsDigest, Known, Lookup, PublicKey, Record, Snapshot, Store, StoreError};

/// From this many nodes on, several threads look at what the store has.
const WORTH_THREADS: usize = 512;

/// A node that has its outputs.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) found: Found,
    /// Whether something happened in this run to the node or upstream of it: it was executed, or cut off.
    pub(crate) fresh: bool,
}

/// What is to be done about a node.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing: the result is complete. `cut_off` tells that something upstream is fresh or has another recipe now;
    /// the record is there if it is not yet known under the node's recipe.
    Hit {
        found: Found,
        cut_off: bool,
        by_content: Option<Box<Record>>,
    },
    /// Run it.
    Run(Pending),
}

/// A node that has to run, with the key that it runs under.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) reason: Reason,
    pub(crate) content_key: ContentKey,
    /// Whether it was said that another process runs it.
    pub(crate) announced: bool,
}

/// What the store has under a recipe key.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    /// The node is not wanted, so nobody looked.
    NotAsked,
    Absent,
    Complete(Found),
    Incomplete(Found, Digest),
    /// A record that nobody signed whom the project trusts.
    Untrusted(Option<PublicKey>),
}

/// What decisions are made from.
#[derive(Clone, Copy)]
pub(crate) struct Decider<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) store: &'a Store,
    pub(crate) snapshot: &'a Snapshot,
}

impl Decider<'_> {
    /// Returns what the store has of each node, or of none of those that are not wanted; what it lacks is looked for
    /// elsewhere, for all nodes at once.
    pub(crate) fn stored(&self, wanted: impl Fn(usize) -> bool + Sync) -> Vec<Stored> {
        let mut stored = self.stored_here(wanted);
        let Some(elsewhere) = self.store.elsewhere() else {
            return stored;
        };
        let is_lacking = |stored: &Stored| !matches!(stored, Stored::Complete(_) | Stored::NotAsked);
        let lacking: Vec<usize> = (0..stored.len()).filter(|&idx| is_lacking(&stored[idx])).collect();
        let keys: Vec<Digest> = lacking.iter().map(|&idx| self.graph.recipe_key(idx).0).collect();
        elsewhere.look_ahead(&keys);
        for idx in lacking {
            stored[idx] = self.stored_at(idx);
        }
        stored
    }

    /// Looks elsewhere, for all at once, for what has the content keys of the nodes that lack a result and whose inputs
    /// are there; one by one that would take a way there and back for each.
    pub(crate) fn look_ahead(&self, stored: &[Stored]) {
        let Some(elsewhere) = self.store.elsewhere() else {
            return;
        };
        let settled: Vec<Option<Settled>> = stored
            .iter()
            .map(|stored| match stored {
                Stored::Complete(found) => Some(Settled {
                    found: found.clone(),
                    fresh: false,
                }),
                _ => None,
            })
            .collect();
        let is_lacking = |idx: usize| !matches!(stored[idx], Stored::Complete(_) | Stored::NotAsked);
        let is_decidable = |idx: usize| {
            let mut items = self.graph.items(idx).peekable();
            items.peek().is_some() && items.all(|item| settled[item.node].is_some())
        };
        let nodes = (0..stored.len()).filter(|&idx| is_lacking(idx) && is_decidable(idx));
        let keys: Vec<Digest> = nodes
            .filter_map(|idx| Some(self.content(idx, &settled).ok()?.0.0))
            .collect();
        elsewhere.look_ahead(&keys);
    }

    fn stored_here(&self, wanted: impl Fn(usize) -> bool + Sync) -> Vec<Stored> {
        let num_nodes = self.graph.len();
        let look = |range: std::ops::Range<usize>| {
            let one = |idx| {
                if wanted(idx) {
                    self.stored_as(idx, false, false)
                } else {
                    Stored::NotAsked
                }
            };
            range.map(one).collect::<Vec<_>>()
        };
        let num_threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        if num_nodes < WORTH_THREADS || num_threads < 2 {
            return look(0..num_nodes);
        }
        let share = num_nodes.div_ceil(num_threads);
        let look = &look;
        std::thread::scope(|scope| {
            let start = |thread: usize| {
                let range = (thread * share).min(num_nodes)..((thread + 1) * share).min(num_nodes);
                scope.spawn(move || look(range))
            };
            let threads: Vec<_> = (0..num_threads).map(start).collect();
            let found = threads
                .into_iter()
                .flat_map(|thread| thread.join().expect("looking does not panic"));
            found.collect()
        })
    }

    /// Returns what the store has of a node now, whatever happened since the snapshot was read.
    pub(crate) fn stored_at(&self, idx: usize) -> Stored {
        self.stored_as(idx, true, true)
    }

    /// With `now`, what changed since the snapshot was read counts; with `anywhere`, what lies elsewhere does.
    fn stored_as(&self, idx: usize, now: bool, anywhere: bool) -> Stored {
        let Some(found) = self.store.find(self.snapshot, self.graph.recipe_key(idx), now) else {
            return Stored::Absent;
        };
        let has_all = |output: &crate::graph::Output| self.snapshot.artifact(&found, &output.name).is_some();
        if !self.graph.outputs(idx).iter().all(has_all) {
            return Stored::Absent;
        }
        let signer = self.snapshot.signer(&found);
        if !self.store.trust().accepts(signer) {
            return Stored::Untrusted(signer);
        }
        match self.store.missing(self.snapshot, &found) {
            None => Stored::Complete(found),
            Some(_) if anywhere && self.is_elsewhere(&self.snapshot.known(&found)) => Stored::Complete(found),
            Some(missing) => Stored::Incomplete(found, missing),
        }
    }

    /// Returns whether the artifacts of something that is known can be had from elsewhere, when they are read.
    fn is_elsewhere(&self, known: &Known) -> bool {
        let artifacts = || {
            known
                .artifacts
                .iter()
                .map(|(name, artifact)| (name.to_string(), artifact.clone()))
        };
        let elsewhere = self.store.elsewhere();
        elsewhere.is_some_and(|elsewhere| elsewhere.has(known.recipe_key, &artifacts().collect()))
    }

    /// Returns the artifact that an item names.
    pub(crate) fn artifact_of(&self, item: Item<'_>, settled: &[Option<Settled>]) -> Artifact {
        let producer = settled[item.node]
            .as_ref()
            .expect("a node is decided after its inputs are settled");
        let artifact = self.snapshot.artifact(&producer.found, item.output);
        artifact.expect("what settles a node has all of its outputs")
    }

    /// Decides about a node whose inputs are all settled.
    ///
    /// # Errors
    /// An input names a path that the artifact does not have, or a manifest blob vanished meanwhile.
    pub(crate) fn decide(
        &self,
        idx: usize,
        settled: &[Option<Settled>],
        stored: Stored,
        forced: bool,
    ) -> Result<Decision, StoreError> {
        if forced {
            return Ok(Decision::Run(self.pending(idx, settled, Reason::Forced)?));
        }
        let decision = self.look_up(idx, settled, stored.clone())?;
        if !matches!(
            &decision,
            Decision::Hit {
                by_content: Some(_),
                ..
            }
        ) {
            return Ok(decision);
        }
        // `gc` spares what this run's own recipes need, and this record is not yet one of them: it may be gone by now.
        let _guard = self.store.use_guard()?;
        let decision = self.look_up(idx, settled, stored)?;
        let Decision::Hit {
            cut_off,
            by_content: Some(record),
            ..
        } = decision
        else {
            return Ok(decision);
        };
        // Under its recipe the result is found at once the next time. A full disk does not make it less true.
        let (key, id) = (self.graph.recipe_key(idx), self.graph.id(idx));
        if !self.store.may_copy(&record) {
            return Ok(Decision::Hit {
                found: self.found(&record),
                cut_off,
                by_content: None,
            });
        }
        let written = self.store.put_same(&record, key, &self.graph.recipe(idx), &id.0);
        let record = written.unwrap_or_else(|error| {
            tracing::warn!(node = %id, %error, "the record could not be written under its recipe");
            *record
        });
        Ok(Decision::Hit {
            found: self.found(&record),
            cut_off,
            by_content: None,
        })
    }

    /// Decides as [`Decider::decide`] does, without writing anything.
    pub(crate) fn look_up(
        &self,
        idx: usize,
        settled: &[Option<Settled>],
        stored: Stored,
    ) -> Result<Decision, StoreError> {
        let is_fresh = |item: Item<'_>| settled[item.node].as_ref().is_some_and(|input| input.fresh);
        let fresh = self.graph.items(idx).any(is_fresh);
        let inputs = self.inputs(idx, settled)?;
        match stored {
            Stored::Complete(found) if self.snapshot.inputs(&found) == inputs => {
                return Ok(Decision::Hit {
                    found,
                    cut_off: fresh,
                    by_content: None,
                });
            }
            Stored::Incomplete(found, digest) if self.snapshot.inputs(&found) == inputs => {
                return Ok(Decision::Run(self.pending(
                    idx,
                    settled,
                    Reason::BlobMissing { digest },
                )?));
            }
            _ => {}
        }
        let reason = match stored {
            Stored::Untrusted(signer) => Reason::Untrusted { signer },
            _ => Reason::NoRecord,
        };
        let pending = self.pending(idx, settled, reason)?;
        let serves = |record: &Record| {
            let mut outputs = self.graph.outputs(idx).iter();
            outputs.all(|output| record.artifacts.contains_key(&output.name))
        };
        let mut lookup = self.store.lookup_content(pending.content_key);
        // Without inputs the content key says what the recipe key does.
        if !matches!(lookup, Lookup::Hit(_))
            && self.graph.items(idx).next().is_some()
            && let Some(elsewhere) = self.store.elsewhere()
        {
            elsewhere.look_ahead(&[pending.content_key.0]);
            lookup = match self.store.lookup_content(pending.content_key) {
                Lookup::Incomplete { record, .. } if elsewhere.has(record.recipe_key, &record.artifacts) => {
                    Lookup::Hit(record)
                }
                other => other,
            };
        }
        match lookup {
            Lookup::Hit(record) if serves(&record) => Ok(Decision::Hit {
                found: self.found(&record),
                // Its own record, found under one of its two names only, was written by a process that died in between.
                cut_off: fresh || record.recipe_key != self.graph.recipe_key(idx),
                by_content: Some(record),
            }),
            Lookup::Incomplete { record, missing } if serves(&record) => Ok(Decision::Run(Pending {
                reason: Reason::BlobMissing { digest: missing },
                ..pending
            })),
            Lookup::Untrusted { signer } => Ok(Decision::Run(Pending {
                reason: Reason::Untrusted { signer },
                ..pending
            })),
            _ => Ok(Decision::Run(pending)),
        }
    }

    /// Returns what is known by a record that counts.
    pub(crate) fn found(&self, record: &Record) -> Found {
        Found::Record(Arc::new(Known::of(record, self.store.signer())))
    }

    /// Returns a node's content key and its preimage.
    ///
    /// # Errors
    /// As [`Decider::decide`].
    pub(crate) fn content(&self, idx: usize, settled: &[Option<Settled>]) -> Result<(ContentKey, String), StoreError> {
        let digests: Result<Vec<Digest>, _> = self
            .graph
            .items(idx)
            .map(|item| self.digest_of(item, settled))
            .collect();
        // The preimage names the items in the order in which the graph does.
        let mut digests = digests?.into_iter();
        let mut next = |_: Item<'_>| digests.next().expect("a preimage has as many items as the node");
        Ok(self.graph.content(idx, &mut next))
    }

    fn pending(&self, idx: usize, settled: &[Option<Settled>], reason: Reason) -> Result<Pending, StoreError> {
        Ok(Pending {
            reason,
            content_key: self.content(idx, settled)?.0,
            announced: false,
        })
    }

    fn inputs(&self, idx: usize, settled: &[Option<Settled>]) -> Result<InputsDigest, StoreError> {
        let digests = self.graph.items(idx).map(|item| self.digest_of(item, settled));
        Ok(InputsDigest::of(digests.collect::<Result<Vec<_>, _>>()?))
    }

    fn digest_of(&self, item: Item<'_>, settled: &[Option<Settled>]) -> Result<Digest, StoreError> {
        self.store.digest_at(&self.artifact_of(item, settled), item.subpath)
    }
}
