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
mod lineage;
mod mistakes;
mod objects;
mod plan;
mod project;
mod proxy;
mod s3;
mod watch;
