//! In which order nodes go: the least seconds to recompute per byte first.
//!
//! A blob counts in equal parts for all units that need it, so that two that share a checkpoint are each worth half its
//! bytes, and the one that is left all of them. A unit costs its own seconds and those of all that would have to be
//! computed before it because it is gone too; so with each removal what is above it becomes dearer. What is needed by
//! something that stays frees nothing, and stays.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::census::Census;

/// A blob that more units share than this is not followed when one of them goes: its part hardly changes.
const MAX_SHARED: usize = 64;

/// So many units above one that is gone are looked at.
const MAX_ABOVE: usize = 4096;

/// A unit in the queue, by its worth when it was put there.
#[derive(PartialEq)]
struct Queued {
    seconds_per_byte: f64,
    used: u64,
    unit: u32,
}

impl Eq for Queued {}

impl Ord for Queued {
    fn cmp(&self, other: &Queued) -> std::cmp::Ordering {
        // Of two that are worth the same the one that was not used for longer goes first.
        let worth = self.seconds_per_byte.total_cmp(&other.seconds_per_byte);
        worth.then(self.used.cmp(&other.used)).then(self.unit.cmp(&other.unit))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The state of a choice.
struct Choice<'a> {
    census: &'a Census,
    may_go: &'a [bool],
    gone: Vec<bool>,
    /// For each blob, how many units that are not gone need it.
    holders: Vec<u32>,
    /// For each blob, whether something needs it that can't go.
    is_held: Vec<bool>,
}

/// Returns the units that have to go so that no more bytes are left, in their order; more are left if there are no more
/// units that may go. `gone` go anyway.
pub(super) fn choose(census: &Census, gone: &[u32], may_go: &[bool], max_bytes: u64) -> Vec<u32> {
    let mut choice = Choice::new(census, gone, may_go);
    let left_bytes = choice.left_bytes();
    let excess_bytes = left_bytes.saturating_sub(max_bytes);
    let sharing = sharing(census, may_go);
    let may_go = (0..).zip(may_go).filter(|(_, may_go)| **may_go);
    let mut queue: BinaryHeap<Reverse<Queued>> = may_go
        .filter_map(|(unit, _)| choice.queued(unit).map(Reverse))
        .collect();
    let (mut chosen, mut freed_bytes) = (Vec::new(), 0);
    while freed_bytes < excess_bytes
        && let Some(Reverse(next)) = queue.pop()
    {
        if choice.gone[next.unit as usize] {
            continue;
        }
        // What went meanwhile can have made it dearer.
        let Some(now) = choice.queued(next.unit) else { continue };
        if now.seconds_per_byte > next.seconds_per_byte {
            queue.push(Reverse(now));
            continue;
        }
        freed_bytes += choice.remove(next.unit);
        chosen.push(next.unit);
        let others = census.units[next.unit as usize]
            .blobs
            .iter()
            .filter_map(|blob| sharing.get(blob))
            .flatten();
        // What shared something with it has a larger part now.
        queue.extend(others.filter_map(|&other| choice.queued(other).map(Reverse)));
    }
    choice.put_back(&mut chosen, freed_bytes.saturating_sub(excess_bytes));
    chosen
}

/// Returns the units that share each blob that a few units share.
fn sharing(census: &Census, may_go: &[bool]) -> HashMap<u32, Vec<u32>> {
    let mut sharing: HashMap<u32, Vec<u32>> = HashMap::new();
    for (idx, unit) in (0..).zip(&census.units).filter(|(idx, _)| may_go[*idx as usize]) {
        for &blob in &unit.blobs {
            if (2..=MAX_SHARED as u32).contains(&census.blobs[blob as usize].holders) {
                sharing.entry(blob).or_default().push(idx);
            }
        }
    }
    sharing
}

impl<'a> Choice<'a> {
    fn new(census: &'a Census, gone: &[u32], may_go: &'a [bool]) -> Choice<'a> {
        let mut choice = Choice {
            census,
            may_go,
            gone: vec![false; census.units.len()],
            holders: census.blobs.iter().map(|blob| blob.holders).collect(),
            is_held: vec![false; census.blobs.len()],
        };
        for &unit in gone {
            choice.remove(unit);
        }
        for (idx, unit) in census.units.iter().enumerate() {
            if !may_go[idx] && !choice.gone[idx] {
                unit.blobs.iter().for_each(|&blob| choice.is_held[blob as usize] = true);
            }
        }
        choice
    }

    /// Returns the bytes of all blobs that something needs. A node must not go for those that nothing needs, because they
    /// go anyway, sooner or later.
    fn left_bytes(&self) -> u64 {
        let needed = self.census.blobs.iter().zip(&self.holders);
        needed
            .filter(|(_, holders)| **holders > 0)
            .map(|(blob, _)| blob.size)
            .sum()
    }

    /// Returns a unit with what it is worth now; none if it frees nothing or can't go.
    fn queued(&self, unit: u32) -> Option<Queued> {
        if self.gone[unit as usize] || !self.may_go[unit as usize] {
            return None;
        }
        let part = |&blob: &u32| match self.is_held[blob as usize] {
            true => 0.0,
            false => self.census.blobs[blob as usize].size as f64 / f64::from(self.holders[blob as usize].max(1)),
        };
        let found = &self.census.units[unit as usize];
        let bytes: f64 = found.blobs.iter().map(part).sum();
        (bytes > 0.0).then(|| Queued {
            seconds_per_byte: self.seconds(unit) / bytes,
            used: found.used.0,
            unit,
        })
    }

    /// Returns the seconds to compute a unit anew, with all above it that is gone.
    fn seconds(&self, unit: u32) -> f64 {
        let mut seen = HashSet::from([unit]);
        let mut stack = vec![unit];
        let mut seconds = 0.0;
        while let Some(unit) = stack.pop() {
            let found = &self.census.units[unit as usize];
            // A clock that was set back must not make a node worth less than nothing.
            seconds += found.seconds.max(0.0);
            for input in found.inputs.iter().filter_map(|key| self.census.by_recipe.get(key)) {
                if self.gone[*input as usize] && seen.len() < MAX_ABOVE && seen.insert(*input) {
                    stack.push(*input);
                }
            }
        }
        seconds
    }

    /// Lets a unit go and returns how many bytes that frees.
    fn remove(&mut self, unit: u32) -> u64 {
        self.gone[unit as usize] = true;
        let mut freed_bytes = 0;
        for &blob in &self.census.units[unit as usize].blobs {
            self.holders[blob as usize] -= 1;
            if self.holders[blob as usize] == 0 {
                freed_bytes += self.census.blobs[blob as usize].size;
            }
        }
        freed_bytes
    }

    /// Takes back what went in vain, the last first: what freed less than there is too much by now.
    fn put_back(&mut self, chosen: &mut Vec<u32>, mut spare_bytes: u64) {
        for &unit in chosen.iter().rev() {
            let blobs = &self.census.units[unit as usize].blobs;
            let freed = blobs.iter().filter(|&&blob| self.holders[blob as usize] == 0);
            let bytes: u64 = freed.map(|&blob| self.census.blobs[blob as usize].size).sum();
            if bytes <= spare_bytes {
                spare_bytes -= bytes;
                blobs.iter().for_each(|&blob| self.holders[blob as usize] += 1);
                self.gone[unit as usize] = false;
            }
        }
        chosen.retain(|&unit| self.gone[unit as usize]);
    }
}
