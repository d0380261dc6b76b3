//! Volvelle: a declarative, content-addressed experiment engine for LLM post-training.
//!
//! The layers, each importing only those before it: `digest`, `settings`, `spec`, `graph`; `store` (which imports only
//! `digest`); `remote` (`settings` and `store`); `exec`; `inspect`; `report`; `server` (`remote` and `store`); `cli`. The library exists so that the layers can be tested and documented; the program is `volvelle`.

pub mod cli;
pub mod digest;
pub mod exec;
pub mod graph;
pub mod inspect;
pub mod remote;
pub mod report;
pub mod server;
pub mod settings;
pub mod spec;
pub mod store;
