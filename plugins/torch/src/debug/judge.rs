//! `volvelle-torch judge`: scores a file of stored samples, ours or anyone's.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::input_path;
use crate::formats::{Problem, read_jsonl, read_jsonl_numbered};
use crate::scoring::stored::judge_stored;
use crate::scoring::{self, Settings};

#[derive(Args)]
pub struct JudgeArgs {
    /// JSON Lines {"id": "...", "problem": "...", "answer": "..."}.
    #[arg(long)]
    problems: PathBuf,
    /// JSON Lines {"problem_id": "...", "completion": "..."}, in the order in which they were drawn; `-` reads standard
    /// input. "sample_idx", "num_tokens", "truncated" and "correct" (the verdict it came with) are used where they are there.
    #[arg(long)]
    samples: PathBuf,
    /// Leaves out problems without a sample, instead of failing.
    #[arg(long)]
    allow_missing: bool,
    /// Of the bootstrap.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Prints the scores as one JSON object.
///
/// # Errors
/// A file can't be read, a sample fits no problem, or a problem has no sample.
pub fn judge(args: &JudgeArgs) -> Result<()> {
    let problems: Vec<Problem> = read_jsonl(&args.problems, "problem")?;
    let stored = read_jsonl_numbered(input_path(&args.samples), "sample")?;
    let judged =
        judge_stored(&problems, stored, args.allow_missing).with_context(|| args.samples.display().to_string())?;
    if judged.num_missing > 0 {
        let (missing, all) = (judged.num_missing, problems.len());
        eprintln!("warning: {missing} of {all} problems have no sample and are left out");
    }
    let settings = Settings {
        seed: args.seed,
        changed: (judged.changed.num_judged_before > 0).then_some(judged.changed),
        ..Settings::default()
    };
    let scores = scoring::score(&judged.problems, &judged.samples, &settings);
    let mut out = BufWriter::new(std::io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, &scores)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
