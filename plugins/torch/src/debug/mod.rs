//! A model folder by itself, one file for each command: JSON Lines in and out.

pub mod generate;
pub mod score;
pub mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use tch::Kind;

use crate::formats::read_jsonl;
use crate::lm::{self, CausalLm, Tokenizer, device};

/// What the commands need to know.
#[derive(Args)]
pub struct ModelArgs {
    /// A Hugging Face model folder.
    #[arg(long)]
    model: PathBuf,
    /// JSON Lines; `-` reads standard input.
    #[arg(long)]
    input: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
}

#[derive(Debug, Deserialize)]
struct Prompt {
    input_ids: Option<Vec<i64>>,
    prompt: Option<String>,
}

fn open(args: &ModelArgs) -> Result<(CausalLm, Tokenizer)> {
    let device = device::parse(&args.device).map_err(anyhow::Error::msg)?;
    Ok((
        lm::load(&args.model, device, Kind::Float)?,
        Tokenizer::load(&args.model)?,
    ))
}

fn read_prompts(input: &Path, model: &CausalLm, tokenizer: &Tokenizer) -> Result<Vec<Vec<i64>>> {
    let path = if input == Path::new("-") {
        Path::new("/dev/stdin")
    } else {
        input
    };
    read_jsonl::<Prompt>(path, "prompt")?
        .into_iter()
        .enumerate()
        .map(|(idx, prompt)| {
            let place = || format!("{}: line {}", input.display(), idx + 1);
            let ids = match (prompt.input_ids, prompt.prompt) {
                (Some(ids), None) => ids,
                (None, Some(text)) => tokenizer.encode(&text, true).with_context(place)?,
                _ => return Err(anyhow!("{}: expected either \"input_ids\" or \"prompt\"", place())),
            };
            let vocab_size = model.config.vocab_size;
            match ids.iter().find(|&&id| !(0..vocab_size).contains(&id)) {
                Some(id) => Err(anyhow!("{}: token id {id} is not in 0..{vocab_size}", place())),
                None => Ok(ids),
            }
        })
        .collect()
}

fn check_length(line_idx: usize, ids: &[i64], model: &CausalLm) -> Result<()> {
    let limit = model.config.max_position_embeddings;
    if ids.len() as i64 > limit {
        bail!(
            "line {}: {} tokens, but the model's context is {limit}",
            line_idx + 1,
            ids.len()
        );
    }
    Ok(())
}
