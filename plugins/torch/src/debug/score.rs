//! `volvelle-torch score`: log-probabilities of given tokens.

use std::io::{BufWriter, Write};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tch::Kind;

use super::{InputArgs, ModelArgs, Opened};
use crate::lm::train::{Batch, Example, LOGITS_BYTES, micro_batches, score as score_batch};
use crate::lm::{CausalLm, LmError};

/// `volvelle-torch score`.
#[derive(Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    input: InputArgs,
    /// Tokens computed at once: the longest line of a batch times its lines.
    #[arg(long, default_value_t = 2048)]
    micro_batch_tokens: usize,
}

/// Prints the log-probability of each token after the first of each line, in the order of the lines.
pub fn score(args: &ScoreArgs) -> Result<()> {
    let opened = Opened::new(&args.model)?;
    let lines = opened.read_lines(&args.input.input)?;
    let rows = lines.into_iter().map(|line| line.ids).collect();
    let logprobs = logprobs_of(&opened.model, rows, args.micro_batch_tokens)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for logprobs in logprobs {
        writeln!(out, "{}", json!({"logprobs": logprobs}))?;
    }
    Ok(out.flush()?)
}

/// Returns log p of each token but the first of each line; lines of similar length are computed together.
fn logprobs_of(model: &CausalLm, lines: Vec<Vec<i64>>, micro_batch_tokens: usize) -> Result<Vec<Vec<f32>>, LmError> {
    let mut logprobs = vec![Vec::new(); lines.len()];
    let examples: Vec<(usize, Example)> = lines
        .into_iter()
        .enumerate()
        .filter(|(_, ids)| ids.len() > 1)
        .map(|(idx, ids)| {
            (
                idx,
                Example {
                    labels: ids.clone(),
                    ids,
                },
            )
        })
        .collect();
    for run in micro_batches(&examples, |(_, example)| example.ids.len(), micro_batch_tokens) {
        let batch: Vec<&Example> = run.iter().map(|&at| &examples[at].1).collect();
        let batch = Batch::new(&batch, model.device());
        let flat = score_batch(model, &batch, 1.0, LOGITS_BYTES)?.to_kind(Kind::Float);
        let mut rest = Vec::<f32>::try_from(flat)?;
        for &at in run.iter().rev() {
            let (line_idx, example) = &examples[at];
            logprobs[*line_idx] = rest.split_off(rest.len() - example.num_labels());
        }
    }
    Ok(logprobs)
}
