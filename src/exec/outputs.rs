//! The last results of a pipeline under readable names: `outputs/PIPELINE/NODE/OUTPUT.html`.
//!
//! Only what nothing else in the pipeline reads is laid out: that is what a person wants to open. These are copies, or
//! read-only links where they are large; whatever happens to them, the cache keeps its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::decide::{Decider, Settled};
use super::request::file_name;
use crate::digest::Digest;
use crate::graph::NodeId;
use crate::store::{Artifact, Store, StoreError};

/// Up to this size a result is copied, so that it can be edited without harm.
const COPIED_BYTES: u64 = 32 << 20;

/// So much in all of what lies in the remote is fetched unasked; `volvelle show` and `pull` fetch the others.
const FETCHED_BYTES: u64 = 256 << 20;

/// Of more nodes than this nobody opens the results one by one; `volvelle show` has them all.
const MAX_NODES: usize = 1000;

/// A result that lies under a readable name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedOutput {
    pub node: NodeId,
    pub output: String,
    pub path: PathBuf,
}

/// Lays out the outputs of the nodes that no other node reads. What can't be laid out is left out, with a warning.
pub(crate) fn publish(decider: Decider<'_>, settled: &[Option<Settled>]) -> Vec<PublishedOutput> {
    let Decider { graph, store, snapshot } = decider;
    let root = store.root().join("outputs").join(file_name(&graph.pipeline));
    let mut published = Vec::new();
    let mut may_fetch = FETCHED_BYTES;
    let is_read = |idx: &usize| graph.consumers(*idx).next().is_some();
    for idx in (0..graph.len()).filter(|idx| !is_read(idx)).take(MAX_NODES) {
        let Some(settled) = &settled[idx] else { continue };
        let id = graph.id(idx);
        for output in graph.outputs(idx) {
            let Some(artifact) = snapshot.artifact(&settled.found, &output.name) else {
                continue;
            };
            if store.elsewhere().is_some() && store.missing_blob(&artifact).is_some() {
                if artifact.size_bytes > may_fetch {
                    continue;
                }
                may_fetch -= artifact.size_bytes;
            }
            let folder = root.join(file_name(&id.0));
            let path = folder.join(format!("{}{}", file_name(&output.name), extension(&output.type_name)));
            match lay_out(store, &artifact, &folder, &path) {
                Ok(()) => published.push(PublishedOutput {
                    node: id.clone(),
                    output: output.name.clone(),
                    path,
                }),
                Err(error) => {
                    tracing::warn!(node = %id, output = output.name, %error, "the result has no readable name");
                }
            }
        }
    }
    published
}

/// Browsers and editors go by the end of a name.
fn extension(type_name: &str) -> &'static str {
    match type_name {
        "html" => ".html",
        "svg" => ".svg",
        "csv" => ".csv",
        "json" | "scores" => ".json",
        "text" | "txt" => ".txt",
        "problems" | "trees" | "traces" | "chats" | "texts" | "metrics" | "samples" => ".jsonl",
        _ => "",
    }
}

/// Returns which artifact was laid out at a path by a run; none for any other path.
pub fn published_digest(path: &Path) -> Option<Digest> {
    let text = fs::read_to_string(marker(path.parent()?, path)).ok()?;
    text.parse().ok()
}

/// Returns the path of the hidden file beside a result that says which artifact it is.
fn marker(folder: &Path, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder.join(format!(".{name}.digest"))
}

/// The marker spares doing anything twice.
fn lay_out(store: &Store, artifact: &Artifact, folder: &Path, path: &Path) -> Result<(), StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let marker = marker(folder, path);
    let digest = artifact.digest.to_string();
    if fs::read_to_string(&marker).is_ok_and(|text| text == digest) && path.exists() {
        return Ok(());
    }
    let io = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| StoreError::Io { action, path, source }
    };
    fs::create_dir_all(folder).map_err(io("create", folder))?;
    let fresh = folder.join(format!(".{name}.{}", std::process::id()));
    store.remove_folder(&fresh)?;
    if artifact.size_bytes <= COPIED_BYTES {
        store.export(artifact, None, &fresh)?;
    } else {
        store.place(artifact, None, &fresh)?;
    }
    store.remove_folder(path)?;
    fs::rename(&fresh, path).map_err(io("rename into", path))?;
    fs::write(&marker, digest).map_err(io("write", &marker))
}
