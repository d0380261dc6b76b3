//! `eval.samples`: scores samples that are there already, by the verifier as it is now.
//!
//! For samples of an earlier `eval`, to see what a better verifier makes of them, and for samples from elsewhere.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::eval::write_results;
use super::problems;
use crate::formats::read_jsonl_numbered;
use crate::scoring::stored::judge_stored;
use crate::scoring::{self, Settings};
use crate::worker::Job;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Leave out problems without a sample, instead of failing.
    allow_missing: bool,
    /// What the samples were drawn with, where it is known; reported, not used.
    temperature: Option<f64>,
    max_completion_length: Option<usize>,
    /// Seed of the bootstrap.
    seed: u64,
}

/// Reads `problems` and `samples`, writes `scores` and `samples`.
///
/// # Errors
/// An input can't be read, a sample fits no problem, or a problem has no sample.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let problems = problems::read_distinct(&job.input("problems")?, 0)?;
    let path = job.input("samples")?;
    let stored = read_jsonl_numbered(&path, "sample")?;
    let judged = judge_stored(&problems, stored, params.allow_missing).with_context(|| path.display().to_string())?;
    if judged.num_missing > 0 {
        let (missing, all) = (judged.num_missing, problems.len());
        job.warning(&format!("{missing} of {all} problems have no sample and are left out"));
    }
    let changed = judged.changed;
    if changed.num_judged_before > 0 {
        job.info(&format!(
            "of {} verdicts, {} changed to correct and {} to wrong",
            changed.num_judged_before, changed.num_to_correct, changed.num_to_wrong
        ));
        let all = changed.num_to_correct + changed.num_to_wrong;
        job.metric("changed_verdicts", all as f64, None);
    }
    let settings = Settings {
        temperature: params.temperature,
        max_completion_length: params.max_completion_length,
        seed: params.seed,
        changed: (changed.num_judged_before > 0).then_some(changed),
    };
    let scores = scoring::score(&judged.problems, &judged.samples, &settings);
    write_results(job, &scores, &judged.samples)
}
