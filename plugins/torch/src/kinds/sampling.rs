//! Solutions sampled from a model and judged: what GRPO learns from and `eval` counts.

use anyhow::Result;
use rand::Rng;

use crate::formats::{Problem, Sample};
use crate::lm::generate::{Completion, Finish, Follower, Options, Request, generate};
use crate::lm::{CausalLm, Tokenizer};
use crate::policy::{self, Policy};
use crate::random;
use crate::scoring::{self, Finished};
use crate::template::Template;
use crate::worker::Job;

/// A sampled solution with its tokens and its verdict.
#[derive(Debug, Clone)]
pub struct Rollout {
    pub completion: Completion,
    pub sample: Sample,
}

/// Samples `num_samples` solutions of each problem; the random numbers depend on `seed`, `purpose` and the problem's
/// place in the list alone.
///
/// # Errors
/// A problem can't be tokenized, or the worker was asked to stop.
pub fn sample_solutions(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    problems: &[&Problem],
    num_samples: usize,
    options: &Options,
    (seed, purpose): (u64, &str),
    follower: &mut impl Follower,
) -> Result<Vec<Vec<Rollout>>> {
    let requests = problems
        .iter()
        .enumerate()
        .map(|(idx, problem)| {
            Ok(Request {
                ids: tokenizer.encode_prompt(&problem.problem)?,
                seeds: seeds(seed, purpose, idx, num_samples),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let completions = generate(model, tokenizer, &requests, options, follower)?;
    problems
        .iter()
        .zip(completions)
        .map(|(problem, list)| {
            list.into_iter()
                .enumerate()
                .map(|(sample_idx, completion)| {
                    let text = tokenizer.decode(&completion.ids, true)?;
                    let finished = Finished {
                        sample_idx,
                        prompt: problem.problem.clone(),
                        completion: text,
                        num_tokens: completion.ids.len(),
                        truncated: completion.finish == Finish::Length,
                    };
                    let sample = scoring::judge(problem, finished);
                    Ok(Rollout { completion, sample })
                })
                .collect()
        })
        .collect()
}

/// As [`sample_solutions`], from any policy, which is shown each problem in `prompt`: the texts and verdicts alone.
///
/// # Errors
/// The policy's own, a problem lacks what the prompt asks for, or the worker was asked to stop.
pub fn sample_from_policy(
    policy: &mut dyn Policy,
    problems: &[Problem],
    prompt: &Template,
    num_samples: usize,
    options: &policy::Options,
    (seed, purpose): (u64, &str),
    follower: &mut dyn policy::Follower,
) -> Result<Vec<Vec<Sample>>> {
    let requests = problems
        .iter()
        .enumerate()
        .map(|(idx, problem)| {
            Ok(policy::Request {
                prompt: prompt.fill(problem)?,
                partial: String::new(),
                seeds: seeds(seed, purpose, idx, num_samples),
            })
        })
        .collect::<Result<Vec<policy::Request>>>()?;
    let completions = policy.complete(&requests, options, follower)?;
    let judged = |((problem, request), list): ((&Problem, &policy::Request), Vec<policy::Completion>)| {
        let sample = |(sample_idx, completion): (usize, policy::Completion)| {
            let finished = Finished {
                sample_idx,
                prompt: request.prompt.clone(),
                completion: completion.text,
                num_tokens: completion.num_tokens,
                truncated: completion.finish == Finish::Length,
            };
            scoring::judge(problem, finished)
        };
        list.into_iter().enumerate().map(sample).collect()
    };
    Ok(problems.iter().zip(&requests).zip(completions).map(judged).collect())
}

/// Reports what a server counted, where the policy is one.
pub fn report_usage(job: &Job, policy: &dyn Policy) {
    if let Some(usage) = policy.usage() {
        job.metric("prompt_tokens", usage.prompt_tokens as f64, None);
        job.metric("completion_tokens", usage.completion_tokens as f64, None);
    }
}

/// The random seeds of a problem's samples.
fn seeds(seed: u64, purpose: &str, problem_idx: usize, num_samples: usize) -> Vec<u64> {
    let mut rng = random::stream(seed, purpose, problem_idx as u64);
    (0..num_samples).map(|_| rng.random()).collect()
}
