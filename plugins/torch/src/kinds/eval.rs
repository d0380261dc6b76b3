//! `eval`: samples solutions of held-out problems, judges and scores them.
//!
//! Every sample is kept beside the scores; `eval.samples` can judge them again. `scoring` has the formulas.
//! Problems that were finished by an attempt that was stopped are not sampled again (`saver`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::problems;
use super::sampling::{report_usage, sample_from_policy};
use super::saver::{Saver, is_stop};
use crate::formats::{Sample, Scores, write_json, write_jsonl};
use crate::lm::device;
use crate::lm::sampler::Sampling;
use crate::policy::{self, Limits, Means, Options};
use crate::scoring::{self, Settings};
use crate::template::Template;
use crate::worker::Job;

#[derive(Debug, Deserialize)]
struct Params {
    seed: u64,
    /// Problems taken from the front; 0 takes all.
    num_problems: usize,
    /// Samples of each problem.
    num_samples: usize,
    /// At 0 all samples of a problem are the same, and one is drawn.
    temperature: f64,
    top_p: f64,
    /// A file with what the policy is shown, or null: the problem as it is.
    prompt: Option<PathBuf>,
    /// In tokens; a longer sample is truncated and counts as wrong.
    max_completion_length: usize,
    /// Computes a model of ours in bf16; an endpoint computes in what it is served in.
    bf16: bool,
    /// Rows generated at once.
    generation_batch_size: usize,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    device: String,
}

/// Reads `model` and `problems`, writes `scores` and `samples`.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let num_samples = num_samples(&params, job);
    let prompt = Template::of(params.prompt.as_deref())?;
    let model_dir = job.input("model")?;
    device::set_num_threads(job.resources().cpu);
    let device = device::parse(&params.device).map_err(anyhow::Error::msg)?;
    let problems = problems::read_distinct(&job.input("problems")?, params.num_problems)?;
    if problems.is_empty() {
        bail!("there are no problems to evaluate on");
    }
    let settings = [("generation_batch_size", params.generation_batch_size)];
    let mut saver = Saver::keeping(job, device, &settings)?.counting_requests();
    saver.resume(|_, _, _| Ok(()));
    let means = Means {
        device,
        bf16: params.bf16,
        num_threads: saver.num_threads(),
        generation_batch_size: params.generation_batch_size,
        limits: job.params::<Limits>()?,
    };
    let mut policy = policy::open(&model_dir, &means)?;
    let options = Options {
        max_new_tokens: params.max_completion_length,
        sampling: Sampling {
            temperature: params.temperature,
            top_k: 0,
            top_p: params.top_p,
            ..Sampling::PLAIN
        },
        stop: Vec::new(),
    };
    let total = problems.len() * num_samples;
    let sampled = sample_from_policy(
        policy.as_mut(),
        &problems,
        &prompt,
        num_samples,
        &options,
        (params.seed, "eval"),
        &mut saver.follow(0, |done, tokens| {
            job.progress(done, total, "sample", &format!("{tokens} tokens"))
        }),
    );
    let samples = match sampled {
        Err(error) if is_stop(&error) => return Err(saver.stopped(|_| Ok(()))),
        sampled => sampled?,
    };
    saver.generated()?;
    report_usage(job, policy.as_ref());
    let settings = Settings {
        temperature: Some(params.temperature),
        max_completion_length: Some(params.max_completion_length),
        seed: params.seed,
        changed: None,
    };
    write_results(job, &scoring::score(&problems, &samples, &settings), &samples)
}

/// Returns how many samples a problem gets.
fn num_samples(params: &Params, job: &Job) -> usize {
    if params.temperature > 0.0 || params.num_samples == 1 {
        return params.num_samples;
    }
    job.warning(&format!(
        "at temperature 0 all samples of a problem are the same: one is drawn instead of {}",
        params.num_samples
    ));
    1
}

/// Writes `scores` and `samples`, and reports the scores that a run shows.
pub fn write_results(job: &Job, scores: &Scores, samples: &[Vec<Sample>]) -> Result<()> {
    job.metric("pass@1", scores.pass_at_1, None);
    let largest = |values: &BTreeMap<usize, f64>| values.last_key_value().map(|(k, v)| (*k, *v));
    for (name, found) in [("pass", largest(&scores.pass_at_k)), ("maj", largest(&scores.maj_at_k))] {
        if let Some((k, value)) = found.filter(|(k, _)| *k > 1) {
            job.metric(&format!("{name}@{k}"), value, None);
        }
    }
    job.metric("backtracks", scores.mean_backtracks, None);
    job.metric("truncated", scores.truncated, None);
    write_json(&job.output("scores")?, scores)?;
    write_jsonl(&job.output("samples")?, samples.iter().flatten())?;
    Ok(())
}
