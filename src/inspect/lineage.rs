//! Where a result came from: the records upstream of one, up to the data.

use std::collections::{HashMap, VecDeque};

use serde::Serialize;
use serde_json::{Map, Value};

use super::Listing;
use super::census::{EntryRead, reads_of};
use crate::digest::{Digest, RecipeKey, leaves};
use crate::store::{Record, Store};

/// A node upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its key.
    pub recipe_key: RecipeKey,
    /// Its record; none if that is no longer there.
    pub record: Option<Record>,
    /// How many steps upstream it is at least; 0 is where the question began.
    pub depth: usize,
    /// What it read.
    pub sources: Vec<Source>,
    /// The files and folders outside the cache that its parameters name.
    pub files: Vec<OutsideFile>,
    /// Whether what it read lies deeper than was asked for.
    pub is_cut: bool,
}

/// An artifact that a step read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Source {
    /// The input, in a list with label and coordinates.
    pub input: String,
    /// The recipe that made it.
    pub recipe_key: RecipeKey,
    /// The output of that recipe.
    pub output: String,
    /// The path inside it, if only a part was read.
    pub path: Option<String>,
    /// The digest of what was read.
    pub digest: Option<Digest>,
    /// Whether that recipe was run again since, and made other bytes than those that were read.
    pub is_replaced: bool,
}

/// A file or folder outside the cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutsideFile {
    /// The parameter that names it.
    pub param: String,
    /// The digest of its content.
    pub digest: Digest,
    /// Where the present pipeline has it; a record does not say.
    pub path: Option<String>,
}

/// Returns a node and everything upstream of it up to a depth, nearest first.
///
/// `listing` is that of the present pipeline, if one is at hand: it knows the paths of files outside.
pub fn upstream(store: &Store, start: RecipeKey, listing: Option<&Listing>, max_depth: usize) -> Vec<Step> {
    let params: HashMap<RecipeKey, &Map<String, Value>> = listing
        .into_iter()
        .flat_map(|listing| &listing.nodes)
        .map(|node| (node.recipe_key, &node.params))
        .collect();
    let mut steps: Vec<Step> = Vec::new();
    let mut known: HashMap<RecipeKey, usize> = HashMap::from([(start, 0)]);
    let mut queue = VecDeque::from([start]);
    while let Some(recipe_key) = queue.pop_front() {
        let depth = known[&recipe_key];
        let record = store.record(recipe_key);
        let reads = record.as_ref().map(reads_of).unwrap_or_default();
        let is_cut = depth >= max_depth && !reads.is_empty();
        let reads = if is_cut { Vec::new() } else { reads };
        for next in reads.iter().filter_map(|read| read.recipe) {
            known.entry(next).or_insert_with(|| {
                queue.push_back(next);
                depth + 1
            });
        }
        steps.push(Step {
            files: record
                .as_ref()
                .map(|record| outside_files(record, params.get(&recipe_key).copied()))
                .unwrap_or_default(),
            sources: reads.into_iter().filter_map(Source::of).collect(),
            recipe_key,
            record,
            depth,
            is_cut,
        });
    }
    mark_replaced(store, &mut steps);
    steps
}

impl Source {
    fn of(read: EntryRead) -> Option<Source> {
        Some(Source {
            recipe_key: read.recipe?,
            input: read.input,
            output: read.output,
            path: read.path,
            digest: read.digest,
            is_replaced: false,
        })
    }
}

/// Tells where the record upstream no longer has the bytes that were read.
fn mark_replaced(store: &Store, steps: &mut [Step]) {
    let artifacts: HashMap<RecipeKey, _> = steps
        .iter()
        .filter_map(|step| Some((step.recipe_key, step.record.as_ref()?.artifacts.clone())))
        .collect();
    for source in steps.iter_mut().flat_map(|step| &mut step.sources) {
        let artifact = artifacts
            .get(&source.recipe_key)
            .and_then(|outputs| outputs.get(&source.output));
        // Where a manifest is gone nothing can be said about a part of it.
        let now = artifact.and_then(|artifact| store.digest_at(artifact, source.path.as_deref()).ok());
        source.is_replaced = now.is_some() && source.digest.is_some() && now != source.digest;
    }
}

/// Returns the parameters that name something outside: a key holds `{"content": DIGEST}` in place of the path.
fn outside_files(record: &Record, params: Option<&Map<String, Value>>) -> Vec<OutsideFile> {
    let now = params.map(|params| Value::Object(params.clone()));
    let file = |(leaf, value): (String, Value)| {
        let param = leaf.strip_suffix(".content")?;
        let digest = value.as_str()?.parse().ok()?;
        let pointer = format!("/{}", param.replace(['.', '['], "/").replace(']', ""));
        let path = now.as_ref().and_then(|now| now.pointer(&pointer)?.as_str());
        Some(OutsideFile {
            param: param.to_owned(),
            digest,
            path: path.map(str::to_owned),
        })
    };
    leaves(&record.recipe["params"]).into_iter().filter_map(file).collect()
}
