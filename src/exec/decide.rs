//! Whether a node has to run, once its inputs are settled.
//!
//! A recipe key alone could promise a result that was made from other bytes than the inputs have now, for instance
//! after a forced rerun upstream that gave something new and was then interrupted. So a record counts only if it was made from
//! exactly these inputs: its content key must be the one computed from their digests. Nothing here runs or waits.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::event::Reason;
use crate::digest::{ContentKey, Digest};
use crate::graph::{InputItem, Node};
use crate::store::{Artifact, Lookup, Record, Store, StoreError};

/// A node that has its outputs.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) record: Arc<Record>,
    /// Whether something happened in this run to the node or upstream of it: it was executed, or cut off.
    pub(crate) fresh: bool,
}

/// What is to be done about a node.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing: the record is complete. `cut_off` tells that something upstream is fresh or has another recipe now,
    /// `by_content` that the record is not yet known under the node's recipe.
    Hit {
        record: Arc<Record>,
        cut_off: bool,
        by_content: bool,
    },
    /// Run it.
    Run(Pending),
}

/// A node that has to run, with the key that it runs under.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) reason: Reason,
    pub(crate) content_key: ContentKey,
    pub(crate) content: Value,
    /// Whether it was said that another process runs it.
    pub(crate) announced: bool,
}

/// Returns the artifact that an input item names.
pub(crate) fn artifact_of<'a>(item: &InputItem, settled: &'a [Option<Settled>]) -> &'a Artifact {
    let producer = settled[item.node]
        .as_ref()
        .expect("a node is decided after its inputs are settled");
    &producer.record.artifacts[&item.output]
}

/// Decides about a node whose inputs are all settled.
///
/// # Errors
/// An input names a path that the artifact does not have, or a manifest blob vanished meanwhile.
pub(crate) fn decide(
    store: &Store,
    node: &Node,
    settled: &[Option<Settled>],
    forced: bool,
) -> Result<Decision, StoreError> {
    if forced {
        let (content_key, content) = content_key(store, node, settled)?;
        return Ok(Decision::Run(Pending {
            reason: Reason::Forced,
            content_key,
            content,
            announced: false,
        }));
    }
    match look_up(store, node, settled)? {
        Decision::Hit {
            record,
            cut_off,
            by_content: true,
        } => {
            // Under its recipe the result is found at once the next time. A full disk does not make it less true.
            let written = store.put_same(&record, node.recipe_key, &node.recipe, &node.id.0);
            let record = written.map(Arc::new).unwrap_or_else(|error| {
                tracing::warn!(node = %node.id, %error, "the record could not be written under its recipe");
                record
            });
            Ok(Decision::Hit {
                record,
                cut_off,
                by_content: true,
            })
        }
        decision => Ok(decision),
    }
}

/// Decides as [`decide`] does, without writing anything.
pub(crate) fn look_up(store: &Store, node: &Node, settled: &[Option<Settled>]) -> Result<Decision, StoreError> {
    let (content_key, content) = content_key(store, node, settled)?;
    let pending = |reason| {
        Ok(Decision::Run(Pending {
            reason,
            content_key,
            content: content.clone(),
            announced: false,
        }))
    };
    let items = node.inputs.iter().flat_map(|input| &input.items);
    let fresh = items
        .filter_map(|item| settled[item.node].as_ref())
        .any(|input| input.fresh);
    let serves = |record: &Record| {
        record.content_key == content_key
            && node
                .outputs
                .iter()
                .all(|output| record.artifacts.contains_key(&output.name))
    };
    match store.lookup(node.recipe_key) {
        Lookup::Hit(record) if serves(&record) => {
            return Ok(Decision::Hit {
                record: Arc::new(*record),
                cut_off: fresh,
                by_content: false,
            });
        }
        Lookup::Incomplete { record, missing } if serves(&record) => {
            return pending(Reason::BlobMissing { digest: missing });
        }
        _ => {}
    }
    match store.lookup_content(content_key) {
        Lookup::Hit(record) if serves(&record) => {
            // Its own record, found under one of its two names only, was written by a process that died in between.
            let cut_off = fresh || record.recipe_key != node.recipe_key;
            Ok(Decision::Hit {
                record: Arc::new(*record),
                cut_off,
                by_content: true,
            })
        }
        Lookup::Incomplete { record, missing } if serves(&record) => pending(Reason::BlobMissing { digest: missing }),
        _ => pending(Reason::NoRecord),
    }
}

fn content_key(store: &Store, node: &Node, settled: &[Option<Settled>]) -> Result<(ContentKey, Value), StoreError> {
    let mut digests: HashMap<(usize, &str, Option<&str>), Digest> = HashMap::new();
    for item in node.inputs.iter().flat_map(|input| &input.items) {
        let digest = store.digest_at(artifact_of(item, settled), item.subpath.as_deref())?;
        digests.insert((item.node, &item.output, item.subpath.as_deref()), digest);
    }
    Ok(node.content_key(|item| digests[&(item.node, item.output.as_str(), item.subpath.as_deref())]))
}
