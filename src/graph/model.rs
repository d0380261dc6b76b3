//! A node as plain data: all that there is to know of one, with its key, inputs and resources.
//!
//! It is what is worked out of a [`Graph`](super::Graph) for nodes that run or are explained. It knows nothing of the
//! store or of what ran before.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::RecipeKey;
use crate::spec::plugin::Code;
pub use crate::spec::{Resources, StageName};

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
    pub outputs: Arc<[Output]>,
    /// What it needs while it runs; never part of a key.
    pub resources: Resources,
    /// What runs it.
    pub worker: Worker,
    /// The code of the plugin, if it declares any.
    pub code: Option<Arc<Code>>,
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
