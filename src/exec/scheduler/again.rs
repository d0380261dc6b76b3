//! Nodes that were taken for done and have to be made again, because a blob of their result is gone.
//!
//! Somebody removed it, or the remote that had it can't be reached any more. What reads from such a node waits again.

use super::super::attempt::AttemptError;
use super::super::decide::Pending;
use super::super::event::{Event, NodeState, Reason};
use super::Scheduler;
use crate::digest::Digest;
use crate::graph::Item;
use crate::store::StoreError;

/// How often a node waits again for an input that is gone.
const MAX_PUT_BACK: u32 = 3;

impl Scheduler {
    /// Handles that nothing could be decided about a node: an input is gone and is made again, or the node fails.
    pub(super) fn undecided(&mut self, idx: usize, error: StoreError, events: &mut Vec<Event>) {
        self.pending.remove(&idx);
        let StoreError::MissingBlob { digest } = error else {
            return self.fail(idx, error.into(), Vec::new(), events);
        };
        // What is read to decide are the manifests of folders of which a part is an input.
        let decider = self.decider();
        let is_gone = |item: &Item<'_>| decider.artifact_of(*item, &self.settled).manifest == Some(digest);
        let producer = self.graph.items(idx).find(is_gone).map(|item| item.node);
        match producer {
            Some(producer) if self.may_put_back(idx, producer) => {
                self.states[idx] = NodeState::Waiting;
                self.make_again(producer, digest, events);
            }
            _ => self.fail(idx, error.into(), Vec::new(), events),
        }
    }

    /// Returns whether a node may wait for an input again; one that is gone again and again is a fault of the disk, and
    /// one whose producer has failed meanwhile won't come.
    pub(super) fn may_put_back(&mut self, idx: usize, producer: usize) -> bool {
        let times = self.put_back.entry(idx).or_default();
        *times += 1;
        let is_lost = self.settled[producer].is_none() && self.states[producer].is_final();
        *times <= MAX_PUT_BACK && !is_lost
    }

    /// Runs a node after all that was taken for done, because a blob of its result is gone: somebody removed it, or the
    /// remote that had it can't be reached any more. What reads from it waits again.
    pub(super) fn make_again(&mut self, producer: usize, digest: Digest, events: &mut Vec<Event>) {
        if self.settled[producer].take().is_none() {
            // Another node that reads from it has found out already.
            return;
        }
        for consumer in self.consumers(producer) {
            self.unsettled[consumer] += 1;
            if self.states[consumer] == NodeState::Ready {
                self.states[consumer] = NodeState::Waiting;
                self.pending.remove(&consumer);
                // Before the order is known, nothing is in it.
                if let Some(rank) = self.ranks.get(consumer) {
                    self.ready.remove(rank);
                }
                self.contended.retain(|&idx| idx != consumer);
            }
        }
        if !self.choices[producer].may_run {
            let error = AttemptError::InputGone { producer, digest };
            return self.fail(producer, error, Vec::new(), events);
        }
        if self.unsettled[producer] > 0 {
            // What it was made from is made again as well, and then it is considered like any other.
            self.states[producer] = NodeState::Waiting;
            return;
        }
        events.push(Event::Note {
            message: format!(
                "{} runs again: blob {} is gone",
                self.graph.id(producer),
                digest.short()
            ),
        });
        match self.decider().content(producer, &self.settled) {
            Ok((content_key, _)) => {
                self.states[producer] = NodeState::Ready;
                let reason = Reason::BlobMissing { digest };
                let pending = Pending {
                    reason,
                    content_key,
                    announced: false,
                };
                self.pending.insert(producer, pending);
                self.ready.extend(self.ranks.get(producer));
            }
            Err(error) => self.undecided(producer, error, events),
        }
    }
}
