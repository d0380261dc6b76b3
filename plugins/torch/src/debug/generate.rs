//! `volvelle-torch generate`: continuations of prompts.

use std::io::{BufWriter, Write};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rand::Rng;
use serde_json::json;

use super::{InputArgs, Line, ModelArgs, Opened};
use crate::lm::generate::{Completion, Finish, Generator, Options, Prompt};
use crate::lm::sampler::Sampling;
use crate::lm::tokenizer::end_tokens;
use crate::random;

/// `volvelle-torch generate`.
#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    input: InputArgs,
    /// Tokens of a completion, at most; a line's own "max_new_tokens" comes first.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Takes the likeliest token each time.
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k", "min_p"])]
    greedy: bool,
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Keeps the likeliest tokens whose probabilities first reach this sum.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Keeps so many of the likeliest tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: i64,
    /// Keeps the tokens with at least this share of the likeliest one's probability; 0 keeps all.
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// Makes tokens that occurred before less likely, above 1, or more likely, below 1.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Line i draws from seed + i; a line's own "seed" comes first.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Completions of each prompt, on a line each.
    #[arg(long, default_value_t = 1)]
    num_samples: usize,
    /// A text that ends a completion, which keeps it; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Goes on after an end token.
    #[arg(long)]
    ignore_eos: bool,
    /// Completions generated at once, at most.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Adds the log-probability of each token in the distribution that it was drawn from.
    #[arg(long)]
    logprobs: bool,
}

/// Prints the continuations of each line; without their text where the folder has no tokenizer.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    check(args)?;
    let opened = Opened::new(&args.model)?;
    if !args.stop.is_empty() {
        opened.tokenizer().context("--stop")?;
    }
    let lines = opened.read_lines(&args.input.input)?;
    if let Some(line) = lines.iter().find(|line| line.ids.is_empty()) {
        bail!("{} has no tokens", line.place);
    }
    let completions = continue_lines(args, &opened, &lines)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for completion in completions.iter().flatten() {
        let mut line = json!({
            "output_ids": completion.ids,
            "finish_reason": finish_reason(completion.finish),
        });
        if let Some(tokenizer) = &opened.tokenizer {
            line["text"] = json!(tokenizer.decode(&completion.ids, true)?);
        }
        if args.logprobs {
            line["logprobs"] = json!(completion.logprobs);
        }
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

fn check(args: &GenerateArgs) -> Result<()> {
    ensure!(
        args.greedy || (args.temperature > 0.0 && args.temperature.is_finite()),
        "--temperature is {}, expected a positive number; --greedy takes the likeliest token",
        args.temperature
    );
    ensure!(
        args.top_p > 0.0 && args.top_p <= 1.0,
        "--top-p is {}, expected more than 0 and at most 1",
        args.top_p
    );
    ensure!(args.top_k >= 0, "--top-k is {}, expected 0 or more", args.top_k);
    ensure!(
        (0.0..=1.0).contains(&args.min_p),
        "--min-p is {}, expected 0 to 1",
        args.min_p
    );
    ensure!(
        args.repetition_penalty > 0.0 && args.repetition_penalty.is_finite(),
        "--repetition-penalty is {}, expected a positive number; 1 changes nothing",
        args.repetition_penalty
    );
    ensure!(args.num_samples > 0, "--num-samples is 0, expected at least 1");
    ensure!(args.batch_size > 0, "--batch-size is 0, expected at least 1");
    ensure!(
        args.stop.iter().all(|stop| !stop.is_empty()),
        "--stop is empty, expected a text that ends a completion"
    );
    Ok(())
}

/// Returns the completions of each line.
fn continue_lines(args: &GenerateArgs, opened: &Opened<'_>, lines: &[Line]) -> Result<Vec<Vec<Completion>>> {
    let options = options(args, opened)?;
    let seeds: Vec<Vec<u64>> = lines
        .iter()
        .enumerate()
        .map(|(idx, line)| {
            seeds(
                line.seed.unwrap_or(args.seed.wrapping_add(idx as u64)),
                args.num_samples,
            )
        })
        .collect();
    let prompts: Vec<Prompt<'_>> = lines
        .iter()
        .zip(&seeds)
        .map(|(line, seeds)| Prompt {
            ids: &line.ids,
            seeds,
            max_new_tokens: line.max_new_tokens.unwrap_or(args.max_new_tokens),
        })
        .collect();
    let mut completions = vec![Vec::new(); lines.len()];
    let mut generator = Generator::new(&opened.model, options.num_threads, options.cache_memory)?;
    generator.run(opened.tokenizer.as_ref(), &prompts, &options, &mut |progress| {
        for (idx, list) in progress.finished {
            completions[idx] = list;
        }
    })?;
    Ok(completions)
}

/// The first sample has the line's seed itself, so that it is the same however many there are.
fn seeds(seed: u64, num_samples: usize) -> Vec<u64> {
    let more = (1..num_samples as u64).map(|sample_idx| random::stream(seed, "sample", sample_idx).random());
    std::iter::once(seed).chain(more).collect()
}

fn options(args: &GenerateArgs, opened: &Opened<'_>) -> Result<Options> {
    let eos_token_ids = match &opened.tokenizer {
        _ if args.ignore_eos => Vec::new(),
        Some(tokenizer) => tokenizer.eos_token_ids.clone(),
        None => end_tokens(opened.dir)?,
    };
    Ok(Options {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling {
            temperature: if args.greedy { 0.0 } else { args.temperature },
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repetition_penalty: args.repetition_penalty,
        },
        eos_token_ids,
        stop: args.stop.clone(),
        max_batch_size: args.batch_size,
        num_threads: std::thread::available_parallelism().map_or(1, usize::from),
        cache_memory: None,
    })
}

/// What ended a completion, in the words of OpenAI's and vLLM's interfaces.
fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop => "stop",
        Finish::Length => "length",
    }
}
