//! `score` and `generate`: a model folder by itself, JSON Lines in and out.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use tch::Kind;

use crate::formats::read_jsonl;
use crate::lm::generate::{self, Options, Request};
use crate::lm::sampler::Sampling;
use crate::lm::train::{Batch, Example, label_logprobs};
use crate::lm::{self, Llama, Tokenizer, device};

/// What both commands need to know.
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

/// `volvelle-torch score`.
#[derive(Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
}

/// `volvelle-torch generate`.
#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Takes the likeliest token each time.
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k"])]
    greedy: bool,
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// 0 keeps all tokens.
    #[arg(long, default_value_t = 0)]
    top_k: i64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Goes on after an end token.
    #[arg(long)]
    ignore_eos: bool,
    /// Rows generated at once.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
}

#[derive(Debug, Deserialize)]
struct Prompt {
    input_ids: Option<Vec<i64>>,
    prompt: Option<String>,
}

/// Prints the log-probability of each token after the first of each line.
pub fn score(args: &ScoreArgs) -> Result<()> {
    let (model, tokenizer) = open(&args.model)?;
    let _no_grad = tch::no_grad_guard();
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (idx, ids) in read_prompts(&args.model.input, &model, &tokenizer)?
        .into_iter()
        .enumerate()
    {
        let logprobs = if ids.len() < 2 {
            Vec::new()
        } else {
            check_length(idx, &ids, &model)?;
            let example = Example {
                labels: ids.clone(),
                ids,
            };
            let batch = Batch::new(&[&example], tokenizer.pad_token_id, model.device());
            Vec::<f32>::try_from(label_logprobs(&model, &batch, 1.0)).map_err(lm::LmError::from)?
        };
        writeln!(out, "{}", json!({"logprobs": logprobs}))?;
    }
    Ok(out.flush()?)
}

/// Prints a continuation of each line.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let (model, tokenizer) = open(&args.model)?;
    let prompts = read_prompts(&args.model.input, &model, &tokenizer)?;
    for (idx, ids) in prompts.iter().enumerate() {
        if ids.is_empty() {
            bail!("{}: line {} has no tokens", args.model.input.display(), idx + 1);
        }
        check_length(idx, ids, &model)?;
    }
    if !args.greedy && args.temperature <= 0.0 {
        bail!(
            "--temperature is {}, expected a positive number; --greedy takes the likeliest token",
            args.temperature
        );
    }
    let sampling = if args.greedy {
        Sampling::GREEDY
    } else {
        Sampling {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
        }
    };
    let options = Options {
        max_new_tokens: args.max_new_tokens,
        sampling,
        eos_token_ids: if args.ignore_eos {
            Vec::new()
        } else {
            tokenizer.eos_token_ids.clone()
        },
        stop: Vec::new(),
        max_batch_size: args.batch_size,
        num_threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let requests: Vec<Request> = prompts
        .into_iter()
        .enumerate()
        .map(|(idx, ids)| Request {
            ids,
            seeds: vec![args.seed.wrapping_add(idx as u64)],
        })
        .collect();
    let completions = generate::generate(&model, &tokenizer, &requests, &options, &mut |_, _| ())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for completion in completions.iter().flatten() {
        let text = tokenizer.decode(&completion.ids, true)?;
        writeln!(out, "{}", json!({"output_ids": completion.ids, "text": text}))?;
    }
    Ok(out.flush()?)
}

fn open(args: &ModelArgs) -> Result<(Llama, Tokenizer)> {
    let device = device::parse(&args.device).map_err(anyhow::Error::msg)?;
    Ok((
        lm::load(&args.model, device, Kind::Float)?,
        Tokenizer::load(&args.model)?,
    ))
}

fn read_prompts(input: &Path, model: &Llama, tokenizer: &Tokenizer) -> Result<Vec<Vec<i64>>> {
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

fn check_length(line_idx: usize, ids: &[i64], model: &Llama) -> Result<()> {
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
