//! The kinds: each reads its inputs, calls the leaves, and writes its outputs. `plugin.yaml` declares them.

mod data_countdown;
mod data_jsonl;
mod eval;
mod grpo;
mod linearize;
mod lm_load;
mod lm_pretrain;
mod meter;
mod report_compare;
mod report_graph;
mod rewrite;
mod sampling;
mod saver;
mod search;
mod sft;
mod train_state;
mod training;

use anyhow::{Result, bail};

use crate::worker::Job;

/// Runs the kind that the job asks for.
///
/// # Errors
/// The kind is unknown, or fails.
pub fn run(job: &Job) -> Result<()> {
    match job.kind() {
        "data.countdown" => data_countdown::run(job),
        "data.jsonl" => data_jsonl::run(job),
        "lm.load" => lm_load::run(job),
        "lm.pretrain" => lm_pretrain::run(job),
        "astro.search" => search::run(job),
        "astro.linearize" => linearize::run(job),
        "astro.rewrite" => rewrite::run(job),
        "astro.sft" => sft::run(job),
        "astro.grpo" => grpo::run(job),
        "eval" => eval::run(job),
        "report.compare" => report_compare::run(job),
        "report.graph" => report_graph::run(job),
        other => bail!("this program has no kind {other:?}; plugin.yaml and the program disagree"),
    }
}
