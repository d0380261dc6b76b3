//! `volvelle-torch generate`: continuations of prompts.

use std::io::{BufWriter, Write};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::{ModelArgs, check_length, open, read_prompts};
use crate::lm::generate::{self, Options, Request};
use crate::lm::sampler::Sampling;

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
            ..Sampling::PLAIN
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
        cache_memory: None,
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
