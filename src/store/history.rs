//! What was run before, in the order in which it is asked for: the records of a node, of its neighbours, of a kind.
//!
//! It is kept in chunks of a few hundred records that stand together in the order of their nodes' names, since one entry
//! for each record would cost the index many times the memory. The chunks are in the index; where that can't be had, the
//! same chunks are made from the record files. It knows names as they were recorded, and nothing of a pipeline.

use std::collections::{BTreeMap, HashSet};

use super::Store;
use crate::digest::{Digest, RecipeKey};

/// Between the names in a key; no name has it.
const END: u8 = 0;

/// A chunk with more records is cut in two.
const CHUNK: usize = 256;

/// Of one node so many records are kept, and of one kind: the latest.
const MAX_OF_NODE: usize = 32;
const MAX_OF_KIND: usize = 64;

/// What history keeps of a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Summary {
    pub recipe_key: RecipeKey,
    pub kind: String,
    pub pipeline: String,
    pub stage: String,
    pub node: String,
    /// Milliseconds since 1970.
    pub started: u64,
    /// The time that the execution took.
    pub seconds: f64,
}

/// Where chunks are kept, in the order of their keys.
pub(super) trait Chunks {
    /// Returns the last chunk whose key is at most `key`.
    fn at_or_before(&self, key: &[u8]) -> Option<Chunk>;

    /// Returns the first chunk whose key is greater than `key`.
    fn after(&self, key: &[u8]) -> Option<Chunk>;

    /// Puts a chunk in the place of what has its key.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);
}

/// A key and packed entries.
pub(super) type Chunk = (Vec<u8>, Vec<u8>);

impl Chunks for BTreeMap<Vec<u8>, Vec<u8>> {
    fn at_or_before(&self, key: &[u8]) -> Option<Chunk> {
        self.range(..=key.to_vec())
            .next_back()
            .map(|(key, value)| (key.clone(), value.clone()))
    }

    fn after(&self, key: &[u8]) -> Option<Chunk> {
        let bounds = (std::ops::Bound::Excluded(key.to_vec()), std::ops::Bound::Unbounded);
        self.range(bounds)
            .next()
            .map(|(key, value)| (key.clone(), value.clone()))
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.insert(key, value);
    }
}

/// An entry of a chunk.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    node: String,
    started: u64,
    seconds: f64,
    recipe_key: RecipeKey,
}

impl Entry {
    /// Orders entries by node, the latest first.
    fn order(&self) -> (&str, u64, RecipeKey) {
        (&self.node, !self.started, self.recipe_key)
    }

    fn earlier(&self) -> Earlier {
        Earlier {
            recipe_key: self.recipe_key,
            seconds: self.seconds,
        }
    }
}

fn pack(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&(entry.node.len() as u32).to_be_bytes());
        bytes.extend_from_slice(entry.node.as_bytes());
        bytes.extend_from_slice(&entry.started.to_be_bytes());
        bytes.extend_from_slice(&entry.seconds.to_be_bytes());
        bytes.extend_from_slice(&entry.recipe_key.0.0);
    }
    bytes
}

/// Reads a chunk as far as it makes sense.
fn unpack(mut bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some((entry, rest)) = unpack_one(bytes) {
        entries.push(entry);
        bytes = rest;
    }
    entries
}

fn unpack_one(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (len, bytes) = bytes.split_first_chunk::<4>()?;
    let (node, bytes) = bytes.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    let (started, bytes) = bytes.split_first_chunk::<8>()?;
    let (seconds, bytes) = bytes.split_first_chunk::<8>()?;
    let (key, bytes) = bytes.split_first_chunk::<32>()?;
    let entry = Entry {
        node: String::from_utf8(node.to_vec()).ok()?,
        started: u64::from_be_bytes(*started),
        seconds: f64::from_be_bytes(*seconds),
        recipe_key: RecipeKey(Digest(*key)),
    };
    Some((entry, bytes))
}

/// Adds records to chunks. They are sorted first, so that each chunk is read and written once.
pub(super) fn add(mut summaries: Vec<Summary>, chunks: &mut impl Chunks) {
    let place = |summary: &Summary| {
        (
            stage_prefix(&summary.kind, &summary.pipeline, &summary.stage),
            summary.node.clone(),
        )
    };
    summaries.sort_by_cached_key(place);
    let mut open: Option<Open> = None;
    for summary in summaries {
        let (prefix, node) = place(&summary);
        let key = [prefix.as_slice(), node.as_bytes()].concat();
        if !open.as_ref().is_some_and(|open| open.takes(&prefix, &key)) {
            open.take().into_iter().for_each(|open| open.write(chunks));
            open = Some(Open::at(&prefix, &key, chunks));
        }
        if let Some(open) = &mut open {
            open.entries.push(Entry {
                node,
                started: summary.started,
                seconds: summary.seconds,
                recipe_key: summary.recipe_key,
            });
        }
        add_to_kind(&summary, chunks);
    }
    open.into_iter().for_each(|open| open.write(chunks));
}

/// A chunk to which entries are added.
struct Open {
    prefix: Vec<u8>,
    key: Vec<u8>,
    /// The key of the next chunk of the same stage.
    end: Option<Vec<u8>>,
    entries: Vec<Entry>,
}

impl Open {
    /// Opens the chunk in which a key belongs.
    fn at(prefix: &[u8], key: &[u8], chunks: &impl Chunks) -> Open {
        let is_here = |chunk: &Chunk| chunk.0.starts_with(prefix);
        let found = chunks.at_or_before(key).filter(is_here);
        // What comes before the first chunk of a stage goes into that one, under the key that it has.
        let found = found.or_else(|| chunks.after(key).filter(is_here));
        let (key, bytes) = found.unwrap_or_else(|| (prefix.to_vec(), Vec::new()));
        Open {
            end: chunks.after(&key).filter(is_here).map(|(key, _)| key),
            prefix: prefix.to_vec(),
            entries: unpack(&bytes),
            key,
        }
    }

    fn takes(&self, prefix: &[u8], key: &[u8]) -> bool {
        self.prefix == prefix && self.end.as_ref().is_none_or(|end| key < end.as_slice())
    }

    fn write(mut self, chunks: &mut impl Chunks) {
        self.entries.sort_by(|a, b| a.order().cmp(&b.order()));
        // Of one recipe that was run again and again the latest says it all.
        let mut seen = HashSet::new();
        self.entries
            .retain(|entry| seen.insert((entry.node.clone(), entry.recipe_key)));
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for entry in self.entries {
            let is_old = kept.len() >= MAX_OF_NODE && kept[kept.len() - MAX_OF_NODE].node == entry.node;
            if !is_old {
                kept.push(entry);
            }
        }
        let (mut start, mut key) = (0, self.key);
        while start < kept.len() {
            // A node's records stay together.
            let mut end = (start + CHUNK).min(kept.len());
            while end < kept.len() && kept[end].node == kept[end - 1].node {
                end += 1;
            }
            chunks.put(key, pack(&kept[start..end]));
            key = kept
                .get(end)
                .map_or_else(Vec::new, |next| [&self.prefix, next.node.as_bytes()].concat());
            start = end;
        }
    }
}

fn add_to_kind(summary: &Summary, chunks: &mut impl Chunks) {
    let key = kind_key(&summary.kind);
    let found = chunks.at_or_before(&key).filter(|(found, _)| *found == key);
    let mut entries = found.map(|(_, bytes)| unpack(&bytes)).unwrap_or_default();
    let entry = Entry {
        node: String::new(),
        started: summary.started,
        seconds: summary.seconds,
        recipe_key: summary.recipe_key,
    };
    if entries.len() >= MAX_OF_KIND && entries.last().is_some_and(|last| last.order() < entry.order()) {
        return;
    }
    entries.push(entry);
    entries.sort_by(|a, b| a.order().cmp(&b.order()));
    entries.dedup_by(|a, b| a.recipe_key == b.recipe_key);
    entries.truncate(MAX_OF_KIND);
    chunks.put(key, pack(&entries));
}

/// An earlier record, as far as history tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Earlier {
    pub recipe_key: RecipeKey,
    /// The time that the execution took.
    pub seconds: f64,
}

/// What was run before.
#[derive(Debug)]
pub struct RecordHistory<'a> {
    store: &'a Store,
    /// The chunks, where the index can't be had.
    files: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl<'a> RecordHistory<'a> {
    pub(super) fn new(store: &'a Store, files: Option<BTreeMap<Vec<u8>, Vec<u8>>>) -> RecordHistory<'a> {
        RecordHistory { store, files }
    }

    /// Returns the records of a node, the latest first.
    pub fn of_node(&self, kind: &str, pipeline: &str, stage: &str, node: &str, limit: usize) -> Vec<Earlier> {
        let entries = self.chunk(&stage_prefix(kind, pipeline, stage), node);
        let own = entries.iter().filter(|entry| entry.node == node);
        own.take(limit).map(Entry::earlier).collect()
    }

    /// Returns records of the nodes of a stage whose names come just before and after that of a node.
    pub fn near(&self, kind: &str, pipeline: &str, stage: &str, node: &str, limit: usize) -> Vec<Earlier> {
        let entries = self.chunk(&stage_prefix(kind, pipeline, stage), node);
        let (before, after) = entries.split_at(entries.partition_point(|entry| entry.node.as_str() < node));
        let half = limit.div_ceil(2);
        let near = after.iter().take(half).chain(before.iter().rev().take(half));
        near.map(Entry::earlier).collect()
    }

    /// Returns the latest records of a kind.
    pub fn of_kind(&self, kind: &str, limit: usize) -> Vec<Earlier> {
        let key = kind_key(kind);
        let found = self.at_or_before(&key).filter(|(found, _)| *found == key);
        let entries = found.map(|(_, bytes)| unpack(&bytes)).unwrap_or_default();
        entries.iter().take(limit).map(Entry::earlier).collect()
    }

    /// Returns the chunk in which a node of a stage is, or would be.
    fn chunk(&self, prefix: &[u8], node: &str) -> Vec<Entry> {
        let key = [prefix, node.as_bytes()].concat();
        let found = self.at_or_before(&key).filter(|(found, _)| found.starts_with(prefix));
        found.map(|(_, bytes)| unpack(&bytes)).unwrap_or_default()
    }

    fn at_or_before(&self, key: &[u8]) -> Option<Chunk> {
        match &self.files {
            Some(files) => files.at_or_before(key),
            None => self.store.history_chunk(key),
        }
    }
}

fn stage_prefix(kind: &str, pipeline: &str, stage: &str) -> Vec<u8> {
    [b"s".as_slice(), &name(kind), &name(pipeline), &name(stage)].concat()
}

fn kind_key(kind: &str) -> Vec<u8> {
    [b"k".as_slice(), &name(kind)].concat()
}

fn name(name: &str) -> Vec<u8> {
    let bytes = name.bytes().map(|byte| if byte == END { b' ' } else { byte });
    bytes.chain([END]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(node: usize, started: u64) -> Summary {
        let node = format!("sft[seed={node}]");
        Summary {
            recipe_key: RecipeKey(Digest::of(format!("{node} {started}").as_bytes())),
            kind: "k".to_owned(),
            pipeline: "p".to_owned(),
            stage: "sft".to_owned(),
            node,
            started,
            seconds: started as f64,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn records_are_found_in_whichever_batches_they_came(nodes in proptest::collection::vec((0..900usize, 1..50u64), 1..1500), cut in 1..7usize) {
            let mut chunks = BTreeMap::new();
            for batch in nodes.chunks(nodes.len().div_ceil(cut)) {
                add(batch.iter().map(|&(node, started)| summary(node, started)).collect(), &mut chunks);
            }
            for value in chunks.values() {
                prop_assert!(unpack(value).len() <= CHUNK + MAX_OF_NODE);
            }
            let prefix = stage_prefix("k", "p", "sft");
            for &(node, _) in &nodes {
                let id = format!("sft[seed={node}]");
                let mut times: Vec<u64> = nodes.iter().filter(|(other, _)| *other == node).map(|(_, started)| *started).collect();
                times.sort_unstable_by_key(|started| std::cmp::Reverse(*started));
                times.dedup();
                times.truncate(MAX_OF_NODE);
                let (_, bytes) = chunks.at_or_before(&[prefix.as_slice(), id.as_bytes()].concat()).expect("a chunk");
                let found: Vec<u64> = unpack(&bytes).into_iter().filter(|entry| entry.node == id).map(|entry| entry.started).collect();
                prop_assert_eq!(found, times);
            }
        }
    }
}
