//! Who runs a node: this process, another one on this machine, or another machine.
//!
//! A node is locked here first, then claimed in the remote, and looked up again after each: whoever had it may have left
//! its result.

use super::super::decide::{Decision, Stored};
use super::super::event::{Event, NodeState, Reason};
use super::super::journal::Journal;
use super::Scheduler;
use crate::digest::ContentKey;
use crate::remote::link::LinkClaim;
use crate::store::{Claim, KeyLock, Owner};

/// A node that this process is to run.
pub(super) struct Claimed {
    pub(super) lock: KeyLock,
    pub(super) content_key: ContentKey,
    /// The preimage of the content key.
    pub(super) content: String,
}

impl Scheduler {
    /// Locks a node's key and looks once more: another process may just have finished it.
    ///
    /// None if there is nothing to start: the node was settled, failed, or is run by somebody else.
    pub(super) fn claim(&mut self, idx: usize, journal: &mut Journal<'_>) -> Option<Claimed> {
        let pending = &self.pending[&idx];
        let is_forced = pending.reason == Reason::Forced;
        let mut events = Vec::new();
        let claimed = match self.store.claim(pending.content_key) {
            Ok(Claim::Held(lock)) if is_forced => Some(lock),
            Ok(Claim::Held(lock)) => self.claim_everywhere(idx, lock, &mut events),
            Ok(Claim::Taken(holder)) => {
                self.contended.push(idx);
                self.announce_wait(idx, holder, &mut events);
                None
            }
            Err(error) => {
                self.pending.remove(&idx);
                self.fail(idx, error.into(), Vec::new(), &mut events);
                None
            }
        };
        let claimed = claimed.and_then(|lock| match self.decider().content(idx, &self.settled) {
            Ok((content_key, content)) => Some(Claimed {
                lock,
                content_key,
                content,
            }),
            Err(error) => {
                let key = self.pending.get(&idx).map(|pending| pending.content_key);
                key.iter().for_each(|key| self.release(*key));
                self.undecided(idx, error, &mut events);
                None
            }
        });
        events.iter().for_each(|event| journal.emit(event));
        claimed
    }

    /// Makes sure, with the lock of this machine held, that a node has no result by now and no other machine runs it.
    fn claim_everywhere(&mut self, idx: usize, lock: KeyLock, events: &mut Vec<Event>) -> Option<KeyLock> {
        // What another process here has just finished is found without asking anybody else.
        if !self.is_still_to_run(idx, self.decider().stored_at(idx), events) {
            return None;
        }
        let Some(link) = self.link.clone() else {
            return Some(lock);
        };
        let content_key = self.pending[&idx].content_key;
        if let LinkClaim::Taken(owner) = link.claim(content_key) {
            self.contended.push(idx);
            self.announce_wait(idx, owner, events);
            return None;
        }
        // Since the run began another machine may have finished it.
        link.forget(&[self.graph.recipe_key(idx).0, content_key.0]);
        if self.is_still_to_run(idx, self.stored_anywhere(idx), events) {
            return Some(lock);
        }
        self.release(content_key);
        None
    }

    /// Decides about a ready node once more; one that needn't run any more is settled.
    fn is_still_to_run(&mut self, idx: usize, stored: Stored, events: &mut Vec<Event>) -> bool {
        match self.decider().decide(idx, &self.settled, stored, false) {
            Ok(Decision::Run(_)) => return true,
            Ok(Decision::Hit { found, .. }) => {
                self.pending.remove(&idx);
                self.settle(idx, found, NodeState::Cached, events);
                self.consider_consumers(idx, events);
            }
            Err(error) => self.undecided(idx, error, events),
        }
        false
    }

    /// Returns what is stored of a node now, here or in the remote.
    fn stored_anywhere(&self, idx: usize) -> Stored {
        let decider = self.decider();
        let stored = decider.stored_at(idx);
        match (&stored, self.store.elsewhere()) {
            (Stored::Absent | Stored::Incomplete(..), Some(elsewhere)) => {
                elsewhere.look_ahead(&[self.graph.recipe_key(idx).0]);
                decider.stored_at(idx)
            }
            _ => stored,
        }
    }

    /// Says once that a node waits for another process.
    fn announce_wait(&mut self, idx: usize, holder: Option<Owner>, events: &mut Vec<Event>) {
        let pending = self.pending.get_mut(&idx);
        let pending = pending.expect("a ready node knows what it would run as");
        if !std::mem::replace(&mut pending.announced, true) {
            events.push(Event::NodeWaiting {
                id: self.graph.id(idx),
                holder,
            });
        }
    }

    /// Gives up what keeps other machines from running a key.
    pub(super) fn release(&self, key: ContentKey) {
        if let Some(link) = &self.link {
            link.release(key);
        }
    }
}
