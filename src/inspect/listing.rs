//! The nodes of a pipeline as it is now, or of a run as it was, in one form.
//!
//! Everything that looks at results starts here, so that neither the layout of a run's folder nor the inside of a
//! graph is known anywhere else.

use serde_json::{Map, Value};

use crate::digest::RecipeKey;
use crate::exec::{RunNode, run_nodes};
use crate::graph::{Axes, Graph, NodeId};
use crate::store::{RunFolder, Store};

/// Some nodes, each after those it depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The name of the pipeline.
    pub pipeline: String,
    /// The nodes.
    pub nodes: Vec<Listed>,
}

/// A node as a pipeline or a run lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The node.
    pub id: NodeId,
    /// Its stage.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// The version of the kind.
    pub kind_version: u64,
    /// Its coordinates.
    pub axes: Axes,
    /// All its parameters, defaults filled in.
    pub params: Map<String, Value>,
    /// Its key.
    pub recipe_key: RecipeKey,
    /// The preimage of its key; a run does not list it, its records have it.
    pub recipe: Option<Value>,
}

impl Listing {
    /// Lists the nodes of a graph.
    pub fn of_graph(graph: &Graph) -> Listing {
        let listed = |node: crate::graph::Node| Listed {
            id: node.id,
            stage: node.stage.0,
            kind: node.kind,
            kind_version: node.kind_version,
            axes: node.axes,
            params: node.params,
            recipe_key: node.recipe_key,
            recipe: Some(node.recipe),
        };
        Listing {
            pipeline: graph.pipeline.clone(),
            nodes: graph.nodes().map(listed).collect(),
        }
    }

    /// Reads which nodes a run was about.
    ///
    /// # Errors
    /// The run kept no list of them that can be read, in words.
    pub fn of_run(store: &Store, folder: &RunFolder) -> Result<Listing, String> {
        let listed = |node: RunNode| Listed {
            id: node.id,
            stage: node.stage,
            kind: node.kind,
            kind_version: node.kind_version,
            axes: node.axes,
            params: node.params,
            recipe_key: node.recipe_key,
            recipe: None,
        };
        let (pipeline, nodes) = run_nodes(store, folder)?;
        Ok(Listing {
            pipeline,
            nodes: nodes.into_iter().map(listed).collect(),
        })
    }

    /// Returns the names of the stages, in order.
    pub fn stages(&self) -> Vec<&str> {
        let mut seen = std::collections::HashSet::new();
        let names = self.nodes.iter().map(|node| node.stage.as_str());
        names.filter(|name| seen.insert(*name)).collect()
    }
}
