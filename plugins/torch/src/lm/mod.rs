//! The model runtime: language models of the Llama family on libtorch, in the Hugging Face layout.
//!
//! The only module that computes with `tch`: others name its devices and kinds of numbers, and pass tensors along. It knows
//! nothing of pipelines, nodes or kinds of stages: it takes folders, token ids and options, and gives folders, token ids and
//! numbers. Weights are read by mapping the safetensors file, text goes
//! through `tokenizers`, chat templates through minijinja.

pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod device;
mod files;
pub mod generate;
pub mod gguf;
pub mod grpo;
pub mod kto;
pub mod learner;
pub mod learner_state;
pub mod lora;
pub mod model;
pub mod native;
pub mod optimizer;
pub mod sampler;
pub mod schedule;
mod shim;
pub mod text;
pub mod tokenizer;
pub mod train;
mod weights;

pub use checkpoint::{load, save};
pub use config::Config;
pub use model::CausalLm;
pub use tokenizer::Tokenizer;

use std::path::PathBuf;

/// What can go wrong in the model runtime.
#[derive(Debug, thiserror::Error)]
pub enum LmError {
    #[error("{path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}")]
    Invalid { path: PathBuf, message: String },
    #[error("{path}: architecture {architecture:?} is not supported; supported: {supported}")]
    Architecture {
        path: PathBuf,
        architecture: String,
        supported: String,
    },
    #[error("chat template: {0}")]
    Template(String),
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    #[error("adapter: {0}")]
    Adapter(String),
    #[error("libtorch: {0}")]
    Torch(String),
    #[error("generation: {0}")]
    Generation(String),
    /// Memory of the machine or of a GPU ran out.
    #[error("{0}")]
    OutOfMemory(String),
    /// The worker was asked to end (`stop`); nothing is wrong.
    #[error("stopped before it was done")]
    Stopped,
}

impl From<tch::TchError> for LmError {
    /// Keeps libtorch's own sentence and drops the C++ stack that follows it.
    fn from(error: tch::TchError) -> Self {
        let text = error.to_string();
        let message = text.split("\nException raised from").next().unwrap_or(&text);
        Self::from_torch(message.trim().to_owned())
    }
}

impl LmError {
    /// Tells memory that ran out from libtorch's other complaints; it only says so in words.
    fn from_torch(message: String) -> Self {
        const WORDS: [&str; 3] = ["out of memory", "DefaultCPUAllocator", "std::bad_alloc"];
        if WORDS.iter().any(|words| message.contains(words)) {
            Self::OutOfMemory(message)
        } else {
            Self::Torch(message)
        }
    }
}
