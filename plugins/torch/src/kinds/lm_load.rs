//! `lm.load`: takes a Hugging Face model folder, or a GGUF file, into the pipeline.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tch::Device;

use crate::lm::{self, CausalLm, Tokenizer};
use crate::worker::Job;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The model's folder, or its GGUF file.
    path: PathBuf,
}

/// Files of other frameworks and of the hub, which would only fill the cache. Weights in safetensors are copied where
/// they are the model's: some folders have them a second time in another layout.
const SKIPPED: &[&str] = &["bin", "pth", "pt", "onnx", "gguf", "h5", "msgpack", "md", "safetensors"];

/// Checks that the model computes, and puts it as a folder at `model`.
pub fn run(job: &Job) -> Result<()> {
    let Params { path } = job.params()?;
    let output = job.output("model")?;
    let model = if path.extension() == Some(OsStr::new("gguf")) {
        let model = lm::gguf::import(&path, &output)?;
        Tokenizer::load(&output)?;
        model
    } else if path.is_dir() {
        take_folder(&path, &output)?
    } else {
        bail!("{} is neither a folder nor a .gguf file", path.display());
    };
    job.info(&format!("{} parameters", model.num_parameters()));
    Ok(())
}

fn take_folder(path: &Path, output: &Path) -> Result<CausalLm> {
    let config = lm::Config::read(path)?;
    let model = lm::load(path, Device::Cpu, config.dtype)?;
    Tokenizer::load(path)?;
    copy_files(path, output)?;
    Ok(model)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let weights: BTreeSet<OsString> = lm::checkpoint::weight_files(from)?.into_iter().collect();
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or("");
        if let Some(name) = path.file_name()
            && path.is_file()
            && (weights.contains(name) || !SKIPPED.contains(&extension))
        {
            check_place(&path, from)?;
            std::fs::copy(&path, to.join(name)).with_context(|| path.display().to_string())?;
        }
    }
    for path in lm::checkpoint::further_templates(from).values() {
        check_place(path, from)?;
    }
    Ok(lm::checkpoint::copy_further_templates(from, to)?)
}

/// Refuses a link that leads out of the folder: what it leads to would be copied, and shared with whoever shares the
/// cache. In the cache of the Hugging Face hub all files are links to a folder beside.
fn check_place(path: &Path, folder: &Path) -> Result<()> {
    let resolve = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
    let (target, folder) = (resolve(path)?, resolve(folder)?);
    let hub = folder.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = hub.and_then(Path::parent).map(|repository| repository.join("blobs"));
    if target.starts_with(&folder) || blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(());
    }
    bail!(
        "{} is a link to {}, outside of the model's folder; put the file itself there",
        path.display(),
        target.display()
    )
}
