//! Black-box tests: the real program in temporary folders. One binary, a module per area.

mod cache;
mod compare;
mod diff;
mod faults;
mod graph;
mod language;
mod lineage;
mod mistakes;
mod plan;
mod project;
mod watch;
