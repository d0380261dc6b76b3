//! What was run before, in the order in which it is asked for: the records of a node, of its neighbours, of a kind.
//!
//! The index keeps it as sorted keys; where that can't be had, the same keys are made from the record files. It knows
//! names as they were recorded, and nothing of a pipeline.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Store;
use super::clock::Timestamp;
use super::record::Record;
use crate::digest::{Digest, RecipeKey};

/// Between the names in a key; no name has it.
const END: u8 = 0;

/// An entry of the index.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// Entries in the order of their keys.
pub(super) type Sorted = BTreeMap<Vec<u8>, Vec<u8>>;

/// The two orders in which records are kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Table {
    /// By kind, pipeline, stage and node, the latest of each node first.
    Nodes,
    /// By kind, the latest first.
    Kinds,
}

/// What history knows of a record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordSummary {
    pub recipe_key: RecipeKey,
    pub kind: String,
    pub node: String,
    pub stage: String,
    pub pipeline: String,
    pub started: Timestamp,
    /// The time that the execution took.
    pub seconds: f64,
}

impl RecordSummary {
    pub(super) fn of(record: &Record) -> RecordSummary {
        RecordSummary {
            recipe_key: record.recipe_key,
            kind: record.kind.clone(),
            node: record.node.clone(),
            stage: record.stage.clone(),
            pipeline: record.pipeline.clone(),
            started: record.started,
            seconds: record.seconds,
        }
    }

    /// Returns the key under which a node's records stand together, the latest first.
    pub(super) fn node_key(&self) -> Vec<u8> {
        let mut key = prefix([&self.kind, &self.pipeline, &self.stage, &self.node]);
        self.push_time(&mut key);
        key
    }

    /// Returns the key under which a kind's records stand together, the latest first.
    pub(super) fn kind_key(&self) -> Vec<u8> {
        let mut key = prefix([&self.kind]);
        self.push_time(&mut key);
        key
    }

    pub(super) fn value(&self) -> Vec<u8> {
        self.seconds.to_be_bytes().to_vec()
    }

    fn push_time(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(&(!self.started.0).to_be_bytes());
        key.extend_from_slice(&self.recipe_key.0.0);
    }
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
    /// By node and by kind, where the index can't be had.
    files: Option<(Sorted, Sorted)>,
}

impl<'a> RecordHistory<'a> {
    pub(super) fn new(store: &'a Store, files: Option<(Sorted, Sorted)>) -> RecordHistory<'a> {
        RecordHistory { store, files }
    }

    /// Returns the records of a node, the latest first.
    pub fn of_node(&self, kind: &str, pipeline: &str, stage: &str, node: &str, limit: usize) -> Vec<Earlier> {
        let prefix = prefix([kind, pipeline, stage, node]);
        self.scan(Table::Nodes, &prefix, &prefix, false, limit)
    }

    /// Returns records of the nodes of a stage whose names come just before and after that of a node.
    pub fn near(&self, kind: &str, pipeline: &str, stage: &str, node: &str, limit: usize) -> Vec<Earlier> {
        let stage_prefix = prefix([kind, pipeline, stage]);
        let from = prefix([kind, pipeline, stage, node]);
        let half = limit.div_ceil(2);
        let mut found = self.scan(Table::Nodes, &stage_prefix, &from, false, half);
        found.extend(self.scan(Table::Nodes, &stage_prefix, &from, true, half));
        found
    }

    /// Returns the latest records of a kind.
    pub fn of_kind(&self, kind: &str, limit: usize) -> Vec<Earlier> {
        let prefix = prefix([kind]);
        self.scan(Table::Kinds, &prefix, &prefix, false, limit)
    }

    fn scan(&self, table: Table, prefix: &[u8], from: &[u8], backwards: bool, limit: usize) -> Vec<Earlier> {
        let entries = match (&self.files, table) {
            (None, table) => self.store.scan_index(table, prefix, from, backwards, limit),
            (Some((sorted, _)), Table::Nodes) | (Some((_, sorted)), Table::Kinds) => {
                let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
                let has_prefix = |(key, _): &(&Vec<u8>, &Vec<u8>)| key.starts_with(prefix);
                Some(if backwards {
                    sorted
                        .range(..from.to_vec())
                        .rev()
                        .take_while(has_prefix)
                        .take(limit)
                        .map(owned)
                        .collect()
                } else {
                    sorted
                        .range(from.to_vec()..)
                        .take_while(has_prefix)
                        .take(limit)
                        .map(owned)
                        .collect()
                })
            }
        };
        let entries: Vec<Entry> = entries.unwrap_or_default();
        entries.iter().filter_map(earlier).collect()
    }
}

/// Reads an entry; the recipe key ends its key.
fn earlier((key, value): &Entry) -> Option<Earlier> {
    let digest = key.get(key.len().checked_sub(32)?..)?;
    Some(Earlier {
        recipe_key: RecipeKey(Digest(digest.try_into().ok()?)),
        seconds: f64::from_be_bytes(value.as_slice().try_into().ok()?),
    })
}

fn prefix<const N: usize>(names: [&str; N]) -> Vec<u8> {
    let mut prefix = Vec::new();
    for name in names {
        prefix.extend(name.bytes().map(|byte| if byte == END { b' ' } else { byte }));
        prefix.push(END);
    }
    prefix
}
