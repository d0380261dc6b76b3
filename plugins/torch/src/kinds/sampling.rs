//! Solutions sampled from a model and judged: what GRPO learns from and `eval` counts.

use anyhow::Result;
use rand::Rng;

use crate::formats::{Problem, Sample};
use crate::lm::generate::{Completion, Finish, Follower, Options, Request, generate};
use crate::lm::{CausalLm, Tokenizer};
use crate::random;
use crate::verify;

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
            let mut rng = random::stream(seed, purpose, idx as u64);
            Ok(Request {
                ids: tokenizer.encode_prompt(&problem.problem)?,
                seeds: (0..num_samples).map(|_| rng.random()).collect(),
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
                .map(|(sample_idx, completion)| judge(tokenizer, problem, sample_idx, completion))
                .collect()
        })
        .collect()
}

fn judge(tokenizer: &Tokenizer, problem: &Problem, sample_idx: usize, completion: Completion) -> Result<Rollout> {
    let text = tokenizer.decode(&completion.ids, true)?;
    let truncated = completion.finish == Finish::Length;
    let verdict = verify::verify(problem, &text);
    // A truncated answer is wrong (ASTRO's reward), whatever its last words are.
    let correct = verdict.correct && !truncated;
    let failure = if truncated { Some("truncated") } else { verdict.failure };
    let sample = Sample {
        version: crate::formats::VERSION,
        problem_id: problem.id.clone(),
        sample_idx,
        prompt: problem.problem.clone(),
        completion: text,
        num_tokens: completion.ids.len(),
        answer: verdict.answer,
        correct,
        truncated,
        num_backtracks: verdict.num_backtracks,
        failure: (!correct).then(|| failure.unwrap_or("wrong_answer").to_owned()),
    };
    Ok(Rollout { completion, sample })
}
