//! The kinds: each reads its inputs, calls the leaves, and writes its outputs. `plugin.yaml` declares them.

mod asking;
mod checkpoints;
mod data_benchmark;
mod data_countdown;
mod data_filter;
mod data_jsonl;
mod eval;
mod eval_samples;
mod feedback;
mod grpo;
mod kto;
mod linearize;
mod lm_checkpoint;
mod lm_endpoint;
mod lm_load;
mod lm_pretrain;
mod measure;
mod meter;
mod problem_lines;
mod problems;
mod report_analysis;
mod report_compare;
mod report_graph;
mod rewrite;
mod sampling;
mod saver;
mod search;
mod self_eval;
mod sft;
mod spoc;
mod train_state;
mod training;

use anyhow::{Result, bail};

use crate::lm::train::memory_errors;
use crate::policy;
use crate::worker::Job;

/// Runs the kind that the job asks for.
///
/// # Errors
/// The kind is unknown, or fails.
pub fn run(job: &Job) -> Result<()> {
    // Where a kind can go on with less it does so itself; what arrives here must not be taken for a bug.
    memory_errors(|| run_kind(job))
}

fn run_kind(job: &Job) -> Result<()> {
    match job.kind() {
        "data.benchmark" => data_benchmark::run(job),
        "data.countdown" => data_countdown::run(job),
        "data.filter" => data_filter::run(job),
        "data.jsonl" => data_jsonl::run(job),
        "lm.checkpoint" => lm_checkpoint::run(job),
        "lm.endpoint" => lm_endpoint::run(job),
        "lm.load" => lm_load::run(job),
        "lm.pretrain" => lm_pretrain::run(job),
        "astro.search" => search::run(job),
        "astro.self_eval" => self_eval::run(job),
        "astro.linearize" => linearize::run(job),
        "astro.rewrite" => rewrite::run(job),
        "astro.feedback" => feedback::run(job),
        "astro.spoc" => spoc::run(job),
        "astro.sft" => with_weights(job, sft::run),
        "astro.kto" => with_weights(job, kto::run),
        "astro.grpo" => with_weights(job, grpo::run),
        "eval" => eval::run(job),
        "eval.samples" => eval_samples::run(job),
        "report.analysis" => report_analysis::run(job),
        "report.compare" => report_compare::run(job),
        "report.graph" => report_graph::run(job),
        other => bail!("this program has no kind {other:?}; plugin.yaml and the program disagree"),
    }
}

/// Runs a kind that trains the model it gets.
fn with_weights(job: &Job, run: fn(&Job) -> Result<()>) -> Result<()> {
    policy::require_weights(&job.input("model")?)?;
    run(job)
}
