//! End-to-end tests of the torch plugin: the program as a user starts it, and the model runtime against references.
//!
//! One binary, because each one links libtorch. The references in `../fixtures` were made with transformers and TRL;
//! their README files say how, and what tolerance each value has.

mod commands;
mod fixtures;
mod grpo_reference;
mod pipelines;
mod reference;
mod resume;
mod sft_reference;
mod verify_reference;
