//! `lm.endpoint`: a model that an OpenAI-compatible server has, as a `model` for stages that only generate.
//!
//! Nothing is asked of the server here. What is written says where the model is and names the variables that hold secrets;
//! it enters the keys of all that follows, so how a server is used (concurrency, patience) is a matter of the stages that
//! use it, where it enters no key.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::formats::write_json;
use crate::lm::Tokenizer;
use crate::policy::endpoint::{Api, tokenizer_files};
use crate::policy::{ENDPOINT_FILE, EndpointConfig};
use crate::worker::Job;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    model: String,
    api: Api,
    base_url: Option<String>,
    base_url_env: Option<String>,
    api_key_env: Option<String>,
    logprobs: bool,
    /// A folder with the tokenizer of the same model.
    tokenizer: Option<PathBuf>,
}

/// Writes `model`: `endpoint.json`, and the tokenizer where prompts are written here.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let config = EndpointConfig {
        version: EndpointConfig::VERSION,
        model: params.model,
        api: params.api,
        base_url: params.base_url,
        base_url_env: params.base_url_env,
        api_key_env: params.api_key_env,
        logprobs: params.logprobs,
    };
    config.check().map_err(anyhow::Error::msg)?;
    let output = job.output("model")?;
    std::fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
    match (config.api, &params.tokenizer) {
        (Api::Completions, Some(folder)) => copy_tokenizer(folder, &output)?,
        (Api::Completions, None) => bail!(
            "api: completions needs tokenizer, a folder with the model's tokenizer.json and chat template: prompts are \
             written with it"
        ),
        (Api::Chat, Some(_)) => {
            bail!("api: chat leaves prompts to the server; leave out tokenizer, or set api: completions")
        }
        (Api::Chat, None) => {}
    }
    Ok(write_json(&output.join(ENDPOINT_FILE), &config)?)
}

fn copy_tokenizer(folder: &Path, output: &Path) -> Result<()> {
    for path in tokenizer_files(folder) {
        copy(&path, output)?;
    }
    // What can't write a prompt is found here, not in the stage that asks first.
    Tokenizer::load(output)?.render_prompt("?")?;
    Ok(())
}

/// Copies a file, or a folder of files, into a folder.
fn copy(path: &Path, into: &Path) -> Result<()> {
    let context = || path.display().to_string();
    let to = into.join(path.file_name().with_context(context)?);
    if path.is_file() {
        std::fs::copy(path, &to).with_context(context)?;
        return Ok(());
    }
    std::fs::create_dir_all(&to).with_context(context)?;
    for entry in std::fs::read_dir(path).with_context(context)? {
        let entry = entry.with_context(context)?.path();
        if entry.is_file() {
            copy(&entry, &to)?;
        }
    }
    Ok(())
}
