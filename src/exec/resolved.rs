//! The resolved pipeline of a run: which nodes it was about, with their keys and parameters.
//!
//! `pipeline.json` in the folder of the run names the stages; the nodes of a stage are in a file that is named by what is
//! in it, under `runs/resolved/`, so that a thousand runs of a sweep keep it once. It lets a run be read without the
//! file that it came from. `gc` reads the keys in it as well, to know what runs need: see `store/uses.rs`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::{Digest, RecipeKey};
use crate::graph::{Axes, Graph, NodeId, StageView};
use crate::store::{RunFolder, Store};

const FORMAT: u32 = 2;

/// `pipeline.json`.
#[derive(Serialize, Deserialize)]
struct Resolved {
    format: u32,
    pipeline: String,
    file: PathBuf,
    stages: Vec<ResolvedStage>,
}

#[derive(Serialize, Deserialize)]
struct ResolvedStage {
    stage: String,
    kind: String,
    kind_version: u64,
    /// Names the file of its nodes.
    nodes: Digest,
}

/// A line of a file of nodes.
#[derive(Serialize, Deserialize)]
struct Line {
    id: NodeId,
    axes: Axes,
    recipe_key: RecipeKey,
    seed: u64,
    params: Map<String, Value>,
}

/// A node that a run was about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunNode {
    pub id: NodeId,
    pub stage: String,
    pub kind: String,
    pub kind_version: u64,
    pub axes: Axes,
    pub recipe_key: RecipeKey,
    pub seed: u64,
    /// All parameters, defaults filled in.
    pub params: Map<String, Value>,
}

/// Writes what a run is about.
pub(crate) fn write(store: &Store, run: &RunFolder, graph: &Graph) -> io::Result<()> {
    let folder = store.lists_folder();
    fs::create_dir_all(&folder)?;
    let mut stages = Vec::new();
    for stage in graph.stages() {
        let digest = graph.fingerprint(stage);
        let path = folder.join(format!("{digest}.jsonl"));
        if !path.exists() {
            let temporary = folder.join(format!(".{digest}.{}", std::process::id()));
            write_nodes(&temporary, graph, stage)?;
            fs::rename(&temporary, &path)?;
        }
        stages.push(ResolvedStage {
            stage: stage.name().0.clone(),
            kind: stage.kind().to_owned(),
            kind_version: stage.kind_version(),
            nodes: digest,
        });
    }
    let resolved = Resolved {
        format: FORMAT,
        pipeline: graph.pipeline.clone(),
        file: graph.file.clone(),
        stages,
    };
    let mut file = BufWriter::new(File::create(run.path.join("pipeline.json"))?);
    serde_json::to_writer_pretty(&mut file, &resolved)?;
    file.flush()
}

fn write_nodes(path: &std::path::Path, graph: &Graph, stage: StageView<'_>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for idx in stage.nodes() {
        let node = graph.node(idx);
        let line = Line {
            id: node.id,
            axes: node.axes,
            recipe_key: node.recipe_key,
            seed: node.seed,
            params: node.params,
        };
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    // Later runs trust the file by its name.
    file.get_ref().sync_data()
}

/// Returns the pipeline of a run and the nodes that it was about, each after those it depended on.
///
/// # Errors
/// The run kept none that can be read, in words.
pub fn run_nodes(store: &Store, run: &RunFolder) -> Result<(String, Vec<RunNode>), String> {
    let path = run.path.join("pipeline.json");
    let unreadable =
        |error: &dyn std::fmt::Display| format!("the resolved pipeline of run {} can't be read: {error}", run.id);
    let text = fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
    let resolved: Resolved = serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
    let mut nodes = Vec::new();
    for stage in resolved.stages {
        let path = store.lists_folder().join(format!("{}.jsonl", stage.nodes));
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
        for line in text.lines() {
            let line: Line = serde_json::from_str(line).map_err(|error| unreadable(&error))?;
            nodes.push(RunNode {
                id: line.id,
                stage: stage.stage.clone(),
                kind: stage.kind.clone(),
                kind_version: stage.kind_version,
                axes: line.axes,
                recipe_key: line.recipe_key,
                seed: line.seed,
                params: line.params,
            });
        }
    }
    Ok((resolved.pipeline, nodes))
}
