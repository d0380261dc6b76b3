//! `eval`: samples solutions of held-out problems and counts.
//!
//! Problems that were finished by an attempt that was stopped are not sampled again (`saver`).

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rand::Rng;
use serde::Deserialize;

use super::sampling::{report_usage, sample_from_policy};
use super::saver::{Saver, is_stop};
use crate::formats::{Problem, ProblemScore, Sample, Scores, Tally, VERSION, read_jsonl, write_json, write_jsonl};
use crate::lm::device;
use crate::lm::sampler::Sampling;
use crate::policy::{self, Limits, Means, Options};
use crate::random;
use crate::verify;
use crate::worker::Job;

#[derive(Debug, Deserialize)]
struct Params {
    seed: u64,
    /// Problems taken from the front; 0 takes all.
    num_problems: usize,
    /// Samples of each problem.
    num_samples: usize,
    temperature: f64,
    top_p: f64,
    /// In tokens; a longer sample is truncated and counts as wrong.
    max_completion_length: usize,
    /// Computes a model of ours in bf16; an endpoint computes in what it is served in.
    bf16: bool,
    /// Rows generated at once.
    generation_batch_size: usize,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    device: String,
}

/// Resamples of the problems behind a confidence interval.
const NUM_RESAMPLES: usize = 2000;

/// Reads `model` and `problems`, writes `scores` and `samples`.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let model_dir = job.input("model")?;
    device::set_num_threads(job.resources().cpu);
    let device = device::parse(&params.device).map_err(anyhow::Error::msg)?;
    let mut problems: Vec<Problem> = read_jsonl(&job.input("problems")?, "problem")?;
    if params.num_problems > 0 {
        problems.truncate(params.num_problems);
    }
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
    let total = problems.len() * params.num_samples;
    let sampled = sample_from_policy(
        policy.as_mut(),
        &problems,
        params.num_samples,
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
    let scores = score(&params, &problems, &samples);
    job.metric("pass@1", scores.pass_at_1, None);
    job.metric("backtracks", scores.mean_backtracks, None);
    job.metric("truncated", scores.truncated, None);
    write_json(&job.output("scores")?, &scores)?;
    write_jsonl(&job.output("samples")?, samples.iter().flatten())?;
    Ok(())
}

fn score(params: &Params, problems: &[Problem], lists: &[Vec<Sample>]) -> Scores {
    let samples: Vec<&Sample> = lists.iter().flatten().collect();
    let count = samples.len().max(1) as f64;
    let mean = |value: &dyn Fn(&Sample) -> f64| samples.iter().map(|sample| value(sample)).sum::<f64>() / count;
    let per_problem: Vec<ProblemScore> = problems
        .iter()
        .zip(lists)
        .map(|(problem, list)| ProblemScore {
            id: problem.id.clone(),
            num_samples: list.len(),
            num_correct: list.iter().filter(|sample| sample.correct).count(),
            num_tokens: list.iter().map(|sample| sample.num_tokens).sum(),
        })
        .collect();
    let rates: Vec<f64> = per_problem
        .iter()
        .map(|p| p.num_correct as f64 / p.num_samples.max(1) as f64)
        .collect();
    let mut failures = BTreeMap::<String, f64>::new();
    let mut by_backtracks = BTreeMap::<String, Tally>::new();
    for sample in &samples {
        if let Some(failure) = &sample.failure {
            *failures.entry(failure.clone()).or_default() += 1.0 / count;
        }
        let bucket = if sample.num_backtracks >= 3 {
            "3+".to_owned()
        } else {
            sample.num_backtracks.to_string()
        };
        let tally = by_backtracks.entry(bucket).or_default();
        tally.num_samples += 1;
        tally.num_correct += usize::from(sample.correct);
    }
    let ks = 1..=params.num_samples;
    Scores {
        version: VERSION,
        num_problems: problems.len(),
        num_samples: params.num_samples,
        temperature: params.temperature,
        max_completion_length: params.max_completion_length,
        pass_at_1: rates.iter().sum::<f64>() / rates.len() as f64,
        pass_at_1_ci95: bootstrap_interval(&rates, params.seed),
        pass_at_k: ks.clone().map(|k| (k, pass_at_k(&per_problem, k))).collect(),
        maj_at_k: ks.map(|k| (k, maj_at_k(problems, lists, k))).collect(),
        mean_tokens: mean(&|sample| sample.num_tokens as f64),
        mean_backtracks: mean(&|sample| sample.num_backtracks as f64),
        truncated: mean(&|sample| f64::from(sample.truncated)),
        failures,
        by_backtracks,
        problems: per_problem,
    }
}

/// Returns the mean over problems of `1 - C(n - c, k) / C(n, k)` (Chen et al. 2021, arXiv:2107.03374, eq. 1).
fn pass_at_k(problems: &[ProblemScore], k: usize) -> f64 {
    let one = |p: &ProblemScore| {
        let (n, c) = (p.num_samples, p.num_correct);
        if n - c < k {
            return 1.0;
        }
        1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
    };
    problems.iter().map(one).sum::<f64>() / problems.len().max(1) as f64
}

/// Returns the share of problems whose most frequent answer among the first `k` samples is correct.
///
/// Ties go to the answer that came first; samples without an answer don't vote.
fn maj_at_k(problems: &[Problem], lists: &[Vec<Sample>], k: usize) -> f64 {
    let correct = problems.iter().zip(lists).filter(|(problem, list)| {
        let mut votes: Vec<(&Sample, usize)> = Vec::new();
        for sample in list.iter().take(k) {
            let Some(answer) = &sample.answer else { continue };
            let same = |other: &Sample| {
                other
                    .answer
                    .as_deref()
                    .is_some_and(|other| verify::same_answer(problem.verifier, other, answer))
            };
            match votes.iter_mut().find(|(first, _)| same(first)) {
                Some((_, count)) => *count += 1,
                None => votes.push((sample, 1)),
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max();
        votes
            .iter()
            .find(|(_, count)| Some(*count) == most)
            .is_some_and(|(sample, _)| sample.correct)
    });
    correct.count() as f64 / problems.len().max(1) as f64
}

/// Returns the 2.5th and 97.5th percentile of the mean over resampled problems.
fn bootstrap_interval(rates: &[f64], seed: u64) -> [f64; 2] {
    let mut rng = random::stream(seed, "bootstrap", 0);
    let mut means: Vec<f64> = (0..NUM_RESAMPLES)
        .map(|_| {
            (0..rates.len())
                .map(|_| rates[rng.random_range(0..rates.len())])
                .sum::<f64>()
                / rates.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    [means[NUM_RESAMPLES * 25 / 1000], means[NUM_RESAMPLES * 975 / 1000]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(num_samples: usize, num_correct: usize) -> ProblemScore {
        ProblemScore {
            id: String::new(),
            num_samples,
            num_correct,
            num_tokens: 0,
        }
    }

    #[test]
    fn pass_at_k_is_the_share_of_subsets_with_a_correct_sample() {
        // 5 samples, 2 correct: of the C(5, 2) = 10 pairs 3 have none.
        assert!((pass_at_k(&[problem(5, 2)], 2) - 0.7).abs() < 1e-12);
        assert!((pass_at_k(&[problem(5, 2)], 1) - 0.4).abs() < 1e-12);
        assert_eq!(pass_at_k(&[problem(5, 2)], 4), 1.0);
        assert_eq!(pass_at_k(&[problem(5, 0), problem(5, 5)], 3), 0.5);
    }

    #[test]
    fn bootstrap_interval_holds_the_mean_and_narrows_with_more_problems() {
        let rates = |count: usize| (0..count).map(|idx| (idx % 2) as f64).collect::<Vec<_>>();
        let width = |count| {
            let [low, high] = bootstrap_interval(&rates(count), 1);
            assert!(low < 0.5 && 0.5 < high);
            high - low
        };
        let ratio = width(100) / width(1600);
        assert!(
            (3.0..5.5).contains(&ratio),
            "16 times the problems, a quarter of the width: {ratio}"
        );
    }
}
