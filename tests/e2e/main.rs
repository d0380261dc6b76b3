//! Black-box tests: the real program in temporary folders. One binary, a module per area.

mod cache;
mod compare;
mod completions;
mod diff;
mod editor;
mod faults;
mod fuzzed;
mod graph;
mod json;
mod language;
mod large;
mod lineage;
mod mistakes;
mod plan;
mod project;
mod watch;
