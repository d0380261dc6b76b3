//! Model folders in the Hugging Face layout: read, and written so that transformers opens them.

use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;
use tch::{Device, Kind};

use super::chat::TEMPLATES_FOLDER;
pub use super::chat::further_templates;
use super::files::{replace, write_json};
use super::model::expected_shapes;
use super::weights::{Weights, write_model};
pub(super) use super::weights::{read_tensors, write_tensors};
use super::{CausalLm, Config, LmError};

/// Files beside the weights that travel from a model to the ones trained from it.
const COMPANIONS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

const EMBEDDINGS: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Weights in files of at most this size, as transformers 4 writes them.
const MAX_SHARD_BYTES: usize = 5_000_000_000;

/// Loads a model folder; weights are converted to `kind`.
///
/// On the CPU, weights that are of `kind` already are the file's own memory: they are read once, to see that they
/// are finite, take no more memory than the file, and what is changed in place later never reaches the file.
///
/// # Errors
/// A file is missing or broken, the architecture is unknown, a tensor does not fit the config or holds a value that is
/// not finite, or the memory is full.
pub fn load(dir: &Path, device: Device, kind: Kind) -> Result<CausalLm, LmError> {
    let mut config = Config::read(dir)?;
    let weights = Weights::open(dir)?;
    let embeddings = settle_tying(&mut config, &weights)?;
    let stored = |name: &str| match name {
        EMBEDDINGS => embeddings.to_owned(),
        name => name.to_owned(),
    };
    let mut expected = expected_shapes(&config);
    for (name, _) in &mut expected {
        *name = stored(name);
    }
    weights.check(&expected)?;
    if !config.names_dtype() {
        config.dtype = weights.kind(&expected[0].0)?;
    }
    CausalLm::build(config, device, kind, |name, _| {
        weights.load(&stored(name), device, kind)
    })
}

/// Decides what a config that ties the embeddings to the head means where the weights have a head, and returns the name that
/// the embeddings are stored by: a head of its own is not tied, a head alone is both (transformers' `tie_weights`).
fn settle_tying(config: &mut Config, weights: &Weights) -> Result<&'static str, LmError> {
    if !config.tie_word_embeddings || !weights.has(HEAD) {
        return Ok(EMBEDDINGS);
    }
    if !weights.has(EMBEDDINGS) {
        return Ok(HEAD);
    }
    if !weights.are_equal(EMBEDDINGS, HEAD)? {
        config.untie();
    }
    Ok(EMBEDDINGS)
}

/// Returns the names of the files in a model folder that hold its weights, the index of shards not counted.
///
/// # Errors
/// As [`load`].
pub fn weight_files(dir: &Path) -> Result<Vec<OsString>, LmError> {
    Ok(Weights::open(dir)?.file_names())
}

/// Writes a model folder: config and weights of `model`, tokenizer and the like as in the folder `like`, which may be the
/// same.
///
/// # Errors
/// A file can't be read or written.
pub fn save(model: &CausalLm, dir: &Path, like: &Path) -> Result<(), LmError> {
    write_weights(model, dir)?;
    for name in COMPANIONS {
        let from = like.join(name);
        if from.is_file() {
            copy(&from, &dir.join(name))?;
        }
    }
    copy_further_templates(like, dir)
}

/// Copies the chat templates beside the default one into another folder.
///
/// # Errors
/// A file can't be read or written.
pub fn copy_further_templates(from: &Path, to: &Path) -> Result<(), LmError> {
    let templates = further_templates(from);
    let folder = to.join(TEMPLATES_FOLDER);
    if !templates.is_empty() {
        std::fs::create_dir_all(&folder).map_err(|source| LmError::Io {
            path: folder.clone(),
            source,
        })?;
    }
    for (name, path) in templates {
        copy(&path, &folder.join(name + ".jinja"))?;
    }
    Ok(())
}

/// Writes `config.json` and the weights, in the kind that the config names.
///
/// # Errors
/// A file can't be written.
pub fn write_weights(model: &CausalLm, dir: &Path) -> Result<(), LmError> {
    std::fs::create_dir_all(dir).map_err(|source| LmError::Io {
        path: dir.to_owned(),
        source,
    })?;
    write_model(model.named_parameters(), dir, model.config.dtype, MAX_SHARD_BYTES)?;
    write_json(&dir.join("config.json"), &Value::Object(model.config.to_json()))
}

/// Copies a file; a copy of a read-only one can be written.
fn copy(from: &Path, to: &Path) -> Result<(), LmError> {
    use std::os::unix::fs::PermissionsExt;
    replace(to, |partial| {
        std::fs::copy(from, partial)?;
        std::fs::set_permissions(partial, std::fs::Permissions::from_mode(0o644))
    })
}
