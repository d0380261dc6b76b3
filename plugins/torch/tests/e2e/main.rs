//! End-to-end tests of the torch plugin: the program as a user starts it, and the model runtime against references.
//!
//! One binary, because each one links libtorch. The references in `../fixtures` were made with transformers and TRL;
//! their README files say how, and what tolerance each value has.

mod baselines;
mod bench;
mod cloning;
mod commands;
mod endpoint;
mod fixtures;
mod fuzzed;
mod grpo;
mod grpo_reference;
mod kto_reference;
mod lm_load;
mod lora_reference;
mod memory;
mod pipelines;
mod reference;
mod report;
mod resume;
mod scores;
mod search;
mod search_reference;
mod sft_reference;
mod training;
mod verify_reference;
