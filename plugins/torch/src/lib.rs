//! The libtorch plugin of Volvelle: language models, tree search, SFT, GRPO, evaluation and reports as kinds.
//!
//! A plugin like any other: it shares no Rust types with the engine, only the worker contract (`plugins/CONTRACT.md`).

pub mod card;
pub mod debug;
pub mod feedback;
pub mod formats;
pub mod kinds;
pub mod linearize;
pub mod lm;
pub mod partial;
pub mod policy;
pub mod prompts;
pub mod random;
pub mod report;
pub mod rewrite;
pub mod scoring;
pub mod search;
pub mod spoc;
pub mod stop;
pub mod template;
pub mod verify;
pub mod worker;
