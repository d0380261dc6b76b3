//! The graph of a pipeline: stages at the points of their axes, joined by inputs, each with its key.
//!
//! It is a pure function of the pipeline, the kinds and the content of the files that parameters name: it doesn't
//! know the store, what ran before, or how anything is run.

mod axes;
mod build;
mod contents;
#[expect(clippy::module_inception, reason = "the graph is what the folder is about")]
mod graph;
mod key;
#[cfg(test)]
mod laws;
mod model;
mod params;
mod points;
mod select;
mod stage;
#[cfg(test)]
mod tests;

pub use build::build;
pub use graph::{Graph, InputView, Item, StageView};
pub use key::axis_text;
pub use model::{Axes, InputItem, Node, NodeId, NodeInput, Output, Resources, StageName, Worker};
pub use select::SelectError;
