//! How two sides differ, as plain data.

use serde::Serialize;

use crate::digest::{Change, RecipeKey};
use crate::graph::NodeId;

/// How two sides differ.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Nodes that only the new side has.
    pub added: Vec<Known>,
    /// Nodes that only the old side has.
    pub gone: Vec<Known>,
    /// Nodes that have another name and the same key.
    pub renamed: Vec<Renamed>,
    /// Nodes that both have, with another key.
    pub changed: Vec<Changed>,
    /// Nodes with the same key that differ in parameters outside of it.
    pub outside: Vec<Outside>,
    /// How many nodes have the same name and key.
    pub num_same: usize,
}

/// A node of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Known {
    pub id: NodeId,
    pub stage: String,
    pub kind: String,
    pub recipe_key: RecipeKey,
}

/// A node that has two names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Renamed {
    pub old: NodeId,
    pub new: NodeId,
    #[serde(skip)]
    pub(super) stages: [String; 2],
}

/// A node with another key.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    pub id: NodeId,
    pub stage: String,
    pub old_key: RecipeKey,
    pub new_key: RecipeKey,
    /// What differs in the node itself, with paths as the pipeline writes them; empty where only upstream does.
    pub changes: Vec<Change>,
    /// Parameters outside of the key that differ.
    pub outside: Vec<Change>,
    /// The changed nodes that it reads.
    pub after: Vec<NodeId>,
    /// The nodes that its change comes from: itself where something differs in it.
    pub roots: Vec<NodeId>,
    /// Whether a side has no preimage, as a run has of a node that never ended well: then of code and inputs nothing
    /// is known.
    pub is_incomplete: bool,
    /// The metrics that differ, where both sides have a result.
    pub metrics: Vec<MetricChange>,
    /// Which of the sides have a result: old, new.
    pub has_result: [bool; 2],
}

impl Changed {
    /// Returns whether it differs in something of its own.
    pub fn is_root(&self) -> bool {
        self.roots.contains(&self.id)
    }
}

/// A metric of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricChange {
    pub name: String,
    pub old: Option<f64>,
    pub new: Option<f64>,
    /// New minus old.
    pub difference: Option<f64>,
}

/// A node that differs only in what its key leaves out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outside {
    pub id: NodeId,
    pub stage: String,
    pub changes: Vec<Change>,
}
