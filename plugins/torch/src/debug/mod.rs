//! A model folder by itself, one file for each command: JSON Lines in and out, or a conversation.

pub mod bench;
pub mod chat;
pub mod generate;
pub mod judge;
pub mod score;
pub mod train_step;
pub mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use tch::Kind;

use crate::formats::read_jsonl_numbered;
use crate::lm::lora::AdapterConfig;
use crate::lm::{self, CausalLm, Tokenizer, device, lora};

/// The model, and how it computes.
#[derive(Args)]
pub struct ModelArgs {
    /// A Hugging Face model folder.
    #[arg(long)]
    model: PathBuf,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// The kind of number that is computed in.
    #[arg(long, value_enum, default_value_t = Dtype::Float32)]
    dtype: Dtype,
    /// A PEFT folder with a LoRA adapter for the model.
    #[arg(long)]
    adapter: Option<PathBuf>,
}

/// The lines to work on.
#[derive(Args)]
pub struct InputArgs {
    /// JSON Lines; `-` reads standard input.
    #[arg(long)]
    input: PathBuf,
}

/// A kind of floating-point number, named as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dtype {
    Float32,
    Bfloat16,
    Float16,
    /// As config.json says, else as the weights are.
    Auto,
}

#[derive(Debug, Deserialize)]
struct Prompt {
    input_ids: Option<Vec<i64>>,
    prompt: Option<String>,
    seed: Option<u64>,
    max_new_tokens: Option<usize>,
}

/// A line of the input, with its number and the file's name for messages.
struct Line {
    place: String,
    ids: Vec<i64>,
    seed: Option<u64>,
    max_new_tokens: Option<usize>,
}

impl ModelArgs {
    fn kind(&self) -> Result<Kind> {
        Ok(match self.dtype {
            Dtype::Float32 => Kind::Float,
            Dtype::Bfloat16 => Kind::BFloat16,
            Dtype::Float16 => Kind::Half,
            Dtype::Auto => lm::checkpoint::dtype(&self.model)?,
        })
    }

    /// Loads the model in a kind, with its adapter beside it where one is asked for.
    fn load(&self, kind: Kind) -> Result<(CausalLm, Option<AdapterConfig>)> {
        let device = device::parse(&self.device).map_err(anyhow::Error::msg)?;
        let model = lm::load(&self.model, device, kind)?;
        match &self.adapter {
            Some(dir) => {
                let (model, config) = lora::load(&model, dir)?;
                Ok((model, Some(config)))
            }
            None => Ok((model, None)),
        }
    }
}

/// A model folder, opened. Who works with token ids alone needs no tokenizer, so the folder may lack one.
struct Opened<'a> {
    dir: &'a Path,
    model: CausalLm,
    tokenizer: Option<Tokenizer>,
}

impl Opened<'_> {
    /// Loads the model as it is asked for, and the tokenizer if there is one.
    fn new(args: &ModelArgs) -> Result<Opened<'_>> {
        let (model, _) = args.load(args.kind()?)?;
        Ok(Opened {
            dir: &args.model,
            model,
            tokenizer: Tokenizer::find(&args.model)?,
        })
    }

    /// The tokenizer, for what can't do without.
    fn tokenizer(&self) -> Result<&Tokenizer> {
        match &self.tokenizer {
            Some(tokenizer) => Ok(tokenizer),
            None => bail!(
                "{}: there is no tokenizer.json; only \"input_ids\" can do without",
                self.dir.display()
            ),
        }
    }

    /// Reads lines of `input_ids` or `prompt`.
    fn read_lines(&self, input: &Path) -> Result<Vec<Line>> {
        read_jsonl_numbered::<Prompt>(input_path(input), "prompt")?
            .into_iter()
            .map(|(number, prompt)| {
                let place = place(input, number);
                let ids = match (prompt.input_ids, prompt.prompt) {
                    (Some(ids), None) => ids,
                    (None, Some(text)) => (self.tokenizer())
                        .and_then(|tokenizer| Ok(tokenizer.encode(&text, true)?))
                        .with_context(|| place.clone())?,
                    _ => bail!("{place}: expected either \"input_ids\" or \"prompt\""),
                };
                check_ids(&place, &ids, &self.model)?;
                check_length(&place, &ids, &self.model)?;
                Ok(Line {
                    place,
                    ids,
                    seed: prompt.seed,
                    max_new_tokens: prompt.max_new_tokens,
                })
            })
            .collect()
    }
}

/// A line of an input, in messages.
fn place(input: &Path, number: usize) -> String {
    format!("{}: line {number}", input.display())
}

/// Where the input is read from: `-` is standard input.
fn input_path(input: &Path) -> &Path {
    if input == Path::new("-") {
        Path::new("/dev/stdin")
    } else {
        input
    }
}

fn check_ids(place: &str, ids: &[i64], model: &CausalLm) -> Result<()> {
    let vocab_size = model.config.vocab_size;
    match ids.iter().find(|&&id| !(0..vocab_size).contains(&id)) {
        Some(id) => bail!("{place}: token id {id} is not in 0..{vocab_size}"),
        None => Ok(()),
    }
}

fn check_length(place: &str, ids: &[i64], model: &CausalLm) -> Result<()> {
    let limit = model.config.max_position_embeddings;
    if ids.len() as i64 > limit {
        bail!("{place}: {} tokens, but the model's context is {limit}", ids.len());
    }
    Ok(())
}
