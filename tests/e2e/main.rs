//! Black-box tests: the real program in temporary folders. One binary, a module per area.

mod cache;
mod compare;
mod completions;
mod crash;
mod diff;
mod disk_full;
mod editor;
mod faults;
mod fsck;
mod fuzzed;
mod gc;
mod graph;
mod json;
mod language;
mod lineage;
mod many;
mod mistakes;
mod mounts;
mod plan;
mod powercut;
mod project;
mod proxy;
mod share;
mod watch;
