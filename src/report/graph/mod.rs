//! The graph of a pipeline as a drawing: for the terminal, in Mermaid's and Graphviz' languages, and in SVG.
//!
//! `diagram` turns a graph and its plan into boxes and links; everything else draws those and knows nothing more.

mod diagram;
mod dot;
mod layers;
mod layout;
mod markup;
mod mermaid;
mod place;
mod svg;
mod tree;

pub use diagram::{Diagram, Extent, Figure, Link, Use, num_nodes};
pub use dot::draw_dot;
pub use mermaid::draw_mermaid;
pub use svg::draw_svg;
pub use tree::draw_tree;
