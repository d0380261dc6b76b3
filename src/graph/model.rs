//! The resolved graph as plain data: nodes with their keys, inputs and resources.
//!
//! It is what `spec` and the axes were turned into and what the scheduler, `plan` and `why` read. It knows nothing of
//! the store or of what ran before.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use petgraph::graph::DiGraph;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::{ContentKey, Digest, RecipeKey};
pub use crate::spec::{Resources, StageName};

use super::key;

/// The coordinates of a node or an artifact: axis -> value.
pub type Axes = BTreeMap<String, Value>;

/// Names a node: the stage and, in brackets, its coordinates, as in `sft[learning_rate=0.0001,style=search]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub String);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A pipeline with every stage at every point of its axes.
#[derive(Debug)]
pub struct Graph {
    /// The name of the pipeline.
    pub pipeline: String,
    /// The file it was read from.
    pub file: PathBuf,
    /// All nodes, each after those it depends on. Everywhere, a node is named by its index here.
    pub nodes: Vec<Node>,
    /// The dependencies: one graph node per node, with the same index; edges lead from producer to consumer.
    pub dag: DiGraph<usize, ()>,
}

/// One stage at one point of its axes: the unit that is keyed, cached and run.
#[derive(Debug, Clone)]
pub struct Node {
    /// The name, unique in the graph.
    pub id: NodeId,
    /// The stage it belongs to.
    pub stage: StageName,
    /// What it does.
    pub kind: String,
    /// The version of the kind.
    pub kind_version: u64,
    /// Its coordinates.
    pub axes: Axes,
    /// All parameters as the worker gets them: defaults filled in, paths absolute.
    pub params: Map<String, Value>,
    /// The defaults of the identity parameters: what a parameter is that the recipe leaves out.
    pub defaults: Arc<Map<String, Value>>,
    /// The seed, in 63 bits, from kind, version and identity parameters.
    pub seed: u64,
    /// What it reads, in the order of names.
    pub inputs: Vec<NodeInput>,
    /// What it makes, in the order of the kind's declaration.
    pub outputs: Vec<Output>,
    /// What it needs while it runs; never part of a key.
    pub resources: Resources,
    /// What runs it.
    pub worker: Worker,
    /// The key that is known before anything runs.
    pub recipe_key: RecipeKey,
    /// The preimage of `recipe_key`.
    pub recipe: Value,
}

/// An input of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInput {
    /// The name that the kind gave it.
    pub name: String,
    /// Whether the worker gets a list.
    pub gathered: bool,
    /// The artifacts; exactly one if the input is not gathered.
    pub items: Vec<InputItem>,
}

/// One artifact that a node reads.
#[derive(Debug, Clone, PartialEq)]
pub struct InputItem {
    /// The index of the node that makes it.
    pub node: usize,
    /// The output of that node.
    pub output: String,
    /// A file or folder inside the artifact, if the pipeline names one; relative, without `..`.
    pub subpath: Option<String>,
    /// The coordinates of the node that makes it.
    pub axes: Axes,
    /// The label that the pipeline gave the reference.
    pub label: Option<String>,
}

/// An artifact that a node makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The name that the kind gave it.
    pub name: String,
    /// The type, which must match where it is read.
    pub type_name: String,
}

/// What runs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Worker {
    /// The program of a plugin.
    Plugin {
        /// Program and arguments; a program that was not found is still a bare word.
        program: Vec<String>,
        /// The name of the plugin.
        plugin: String,
        /// The folder of the plugin.
        dir: PathBuf,
    },
    /// The command line in the parameter `run`.
    Command {
        /// Where it runs: the folder of the pipeline file.
        directory: PathBuf,
    },
}

impl Node {
    /// Returns the content key and its preimage: the recipe with the digest of each input in place of its recipe.
    ///
    /// `digest_of` returns the digest of what an item names: the artifact or, with a `subpath`, what lies there.
    pub fn content_key(&self, digest_of: impl Fn(&InputItem) -> Digest) -> (ContentKey, Value) {
        key::content(&self.recipe, &self.inputs, digest_of)
    }
}

/// A text that names no single node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No node matches.
    #[error("there is no node `{text}`{}", nearest.as_ref().map(|id| format!("; did you mean `{id}`?")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        text: String,
        /// The nearest name.
        nearest: Option<String>,
    },
    /// Several nodes match.
    #[error("`{text}` names {num} nodes, such as {}", examples.join(" and "))]
    Several {
        /// What was asked for.
        text: String,
        /// How many match.
        num: usize,
        /// Two of them.
        examples: Vec<String>,
    },
}

impl Graph {
    /// Returns the index of the node that `text` names.
    ///
    /// A node is named by its id, by its stage if that has one node, or by the stage and enough of its coordinates in
    /// any order: `sft[style=search]`.
    ///
    /// # Errors
    /// None or several nodes match.
    pub fn select(&self, text: &str) -> Result<usize, SelectError> {
        let found = self.select_all(text)?;
        if let [only] = found[..] {
            return Ok(only);
        }
        let examples = found
            .iter()
            .take(2)
            .map(|&idx| format!("`{}`", self.nodes[idx].id))
            .collect();
        Err(SelectError::Several {
            text: text.to_owned(),
            num: found.len(),
            examples,
        })
    }

    /// Returns the indices of all nodes that `text` names, at least one; see [`Graph::select`].
    ///
    /// # Errors
    /// No node matches.
    pub fn select_all(&self, text: &str) -> Result<Vec<usize>, SelectError> {
        if let Some(idx) = self.nodes.iter().position(|node| node.id.0 == text) {
            return Ok(vec![idx]);
        }
        let (stage, wanted) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
            Some((stage, coordinates)) => (stage, coordinates.split(',').map(str::trim).collect()),
            None => (text, Vec::new()),
        };
        let matches = |node: &Node| {
            let has = |wanted: &str| {
                wanted.split_once('=').is_some_and(|(axis, value)| {
                    let value = value.trim();
                    node.axes
                        .get(axis.trim())
                        .is_some_and(|v| key::axis_text(v) == value || same_number(v, value))
                })
            };
            node.stage.0 == stage && wanted.iter().all(|wanted| has(wanted))
        };
        let found: Vec<usize> = (0..self.nodes.len()).filter(|&idx| matches(&self.nodes[idx])).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let names = self
            .nodes
            .iter()
            .flat_map(|node| [node.id.0.as_str(), node.stage.0.as_str()]);
        let nearest = crate::spec::nearest(text, names).map(str::to_owned);
        Err(SelectError::Unknown {
            text: text.to_owned(),
            nearest,
        })
    }
}

/// Tells whether an axis value and a text are the same number, so that `1e-4` finds `0.0001`.
fn same_number(value: &Value, text: &str) -> bool {
    matches!((value.as_f64(), text.parse::<f64>()), (Some(a), Ok(b)) if a == b)
}
