//! Volvelle: a declarative, content-addressed experiment engine for LLM post-training.
//!
//! The layers, each importing only those before it: `digest`, `spec`, `graph`; `store` (which imports only `digest`);
//! `exec`; `inspect`; `report`; `cli`. The library exists so that the layers can be tested and documented; the program is `volvelle`.

pub mod cli;
pub mod digest;
pub mod exec;
pub mod graph;
pub mod inspect;
pub mod report;
pub mod spec;
pub mod store;
