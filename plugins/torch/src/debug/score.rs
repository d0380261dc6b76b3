//! `volvelle-torch score`: log-probabilities of given tokens.

use std::io::{BufWriter, Write};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{ModelArgs, check_length, open, read_prompts};
use crate::lm;
use crate::lm::train::{Batch, Example, label_logprobs};

/// `volvelle-torch score`.
#[derive(Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,
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
            let batch = Batch::new(&[&example], model.device());
            Vec::<f32>::try_from(label_logprobs(&model, &batch, 1.0)).map_err(lm::LmError::from)?
        };
        writeln!(out, "{}", json!({"logprobs": logprobs}))?;
    }
    Ok(out.flush()?)
}
