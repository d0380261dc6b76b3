//! The graph of a pipeline: stages at the points of their axes, joined by inputs, each with its key.
//!
//! It is a pure function of the pipeline, the kinds and the content of the files that parameters name: it doesn't
//! know the store, what ran before, or how anything is run.

mod axes;
mod build;
mod key;
mod model;
#[cfg(test)]
mod tests;

pub use build::build;
pub use model::{Axes, Graph, InputItem, Node, NodeId, NodeInput, Output, Resources, SelectError, StageName, Worker};
