//! `lm.load`: takes a Hugging Face model folder into the pipeline.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tch::Device;

use crate::lm::{self, Tokenizer};
use crate::worker::Job;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The model's folder.
    path: PathBuf,
}

/// Files of other frameworks and of the hub, which would only fill the cache.
const SKIPPED: &[&str] = &["bin", "pth", "pt", "onnx", "gguf", "h5", "msgpack", "md"];

/// Checks that the model computes, and copies it to `model`.
pub fn run(job: &Job) -> Result<()> {
    let Params { path } = job.params()?;
    if !path.is_dir() {
        bail!("{} is not a folder", path.display());
    }
    let config = lm::Config::read(&path)?;
    let model = lm::load(&path, Device::Cpu, config.dtype)?;
    Tokenizer::load(&path)?;
    job.info(&format!("{} parameters", model.num_parameters()));
    copy_files(&path, &job.output("model")?)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        if let Some(name) = path.file_name()
            && path.is_file()
            && !SKIPPED.contains(&extension)
        {
            std::fs::copy(&path, to.join(name)).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
