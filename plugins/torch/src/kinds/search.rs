//! `astro.search`: one search tree for each problem, grown by the policy itself.

use anyhow::{Context as _, Result, bail};
use rand::Rng;
use serde::Deserialize;

use crate::formats::{Problem, read_jsonl, write_jsonl};
use crate::lm::generate::{Completion, Finish, Options, Request, generate};
use crate::lm::sampler::Sampling;
use crate::lm::{self, Llama, Tokenizer, device};
use crate::random;
use crate::search::{Candidate, Policy, Prior, Rollout, SearchConfig, State, StopWhen, search};
use crate::verify::{self, Wording};
use crate::worker::Job;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    seed: u64,
    /// Problems taken from the front; 0 takes all.
    num_problems: usize,
    num_simulations: u32,
    num_candidates: usize,
    num_rollouts: usize,
    max_depth: usize,
    c_puct: f64,
    prior: Prior,
    revisit_terminals: bool,
    stop_when: Option<StopWhen>,
    temperature: f64,
    top_p: f64,
    /// Tokens of one step.
    max_step_length: usize,
    /// Tokens of one rollout.
    max_completion_length: usize,
    /// Rows generated at once.
    generation_batch_size: usize,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    device: String,
}

/// Reads `policy` (model) and `problems`, writes `trees`.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let model_dir = job.input("policy")?;
    device::set_num_threads(job.resources().cpu);
    let device = device::parse(&params.device).map_err(anyhow::Error::msg)?;
    let mut problems: Vec<Problem> = read_jsonl(&job.input("problems")?, "problem")?;
    if params.num_problems > 0 {
        problems.truncate(params.num_problems);
    }
    for problem in &problems {
        verify::check_problem(problem).with_context(|| format!("problem {}", problem.id))?;
    }
    let config = SearchConfig {
        num_simulations: params.num_simulations,
        num_candidates: params.num_candidates,
        num_rollouts: params.num_rollouts,
        max_depth: params.max_depth,
        c_puct: params.c_puct,
        prior: params.prior,
        revisit_terminals: params.revisit_terminals,
        stop_when: params.stop_when,
    };
    let mut policy = LmPolicy {
        model: lm::load(&model_dir, device, tch::Kind::Float)?,
        tokenizer: Tokenizer::load(&model_dir)?,
        num_threads: job.resources().cpu,
        num_calls: 0,
        params,
    };
    let trees = search(&problems, &config, &mut policy, &mut |progress| {
        let message = format!("{} of {} problems solved", progress.num_solved, problems.len());
        let total = progress.num_simulations as usize;
        let done = if progress.num_active == 0 {
            total
        } else {
            progress.simulation as usize
        };
        job.progress(done, total, "simulation", &message);
    })?;
    let num_solved = trees
        .iter()
        .filter(|tree| tree.nodes.iter().any(|node| node.correct == Some(true)))
        .count();
    job.metric("solved", num_solved as f64 / trees.len().max(1) as f64, None);
    let num_nodes: usize = trees.iter().map(|tree| tree.nodes.len()).sum();
    job.metric("nodes_per_tree", num_nodes as f64 / trees.len().max(1) as f64, None);
    if num_solved == 0 {
        bail!(
            "no search reached a correct answer on {} problems; the policy is too weak for them",
            trees.len()
        );
    }
    write_jsonl(&job.output("trees")?, trees)?;
    Ok(())
}

/// A language model that proposes steps by sampling up to the next separator.
struct LmPolicy {
    model: Llama,
    tokenizer: Tokenizer,
    num_threads: usize,
    /// Calls so far: each draws from random streams of its own.
    num_calls: u64,
    params: Params,
}

impl LmPolicy {
    /// Samples `count` continuations of each state.
    fn sample(
        &mut self,
        states: &[State<'_>],
        count: usize,
        max_new_tokens: usize,
        stop: Vec<String>,
    ) -> Result<Vec<Vec<Completion>>> {
        let purpose = format!("search call {}", self.num_calls);
        self.num_calls += 1;
        let requests = states
            .iter()
            .enumerate()
            .map(|(idx, state)| {
                let mut rng = random::stream(self.params.seed, &purpose, idx as u64);
                Ok(Request {
                    ids: self.encode(state)?,
                    seeds: (0..count).map(|_| rng.random()).collect(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let options = Options {
            max_new_tokens,
            sampling: Sampling {
                temperature: self.params.temperature,
                top_k: 0,
                top_p: self.params.top_p,
            },
            eos_token_ids: self.tokenizer.eos_token_ids.clone(),
            stop,
            max_batch_size: self.params.generation_batch_size,
            num_threads: self.num_threads,
        };
        Ok(generate(&self.model, &self.tokenizer, &requests, &options, |_, _| ()))
    }

    /// The prompt of the problem with the steps so far as the beginning of the answer.
    fn encode(&self, state: &State<'_>) -> Result<Vec<i64>> {
        let mut ids = self.tokenizer.encode_prompt(&state.problem.problem)?;
        if !state.steps.is_empty() {
            let mut text = verify::join_steps(state.problem.verifier, &state.steps);
            text.push_str(&separator(state));
            ids.extend(self.tokenizer.encode(&text, false)?);
        }
        Ok(ids)
    }
}

fn separator(state: &State<'_>) -> String {
    Wording::of(state.problem.verifier).separator
}

impl Policy for LmPolicy {
    fn propose(&mut self, states: &[State<'_>], k: usize) -> Result<Vec<Vec<Candidate>>> {
        // All problems of a set share a verifier; a mixed one is stopped at the first separator of any.
        let mut stops: Vec<String> = states
            .iter()
            .map(|state| separator(state).trim_end_matches(' ').to_owned())
            .collect();
        stops.sort();
        stops.dedup();
        let completions = self.sample(states, k, self.params.max_step_length, stops.clone())?;
        completions
            .into_iter()
            .map(|list| {
                list.into_iter()
                    .map(|completion| self.candidate(&completion, &stops))
                    .collect()
            })
            .collect()
    }

    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        let completions = self.sample(states, m, self.params.max_completion_length, Vec::new())?;
        completions
            .into_iter()
            .map(|list| {
                list.into_iter()
                    .map(|completion| {
                        let text = self.tokenizer.decode(&completion.ids, true)?;
                        Ok(Rollout {
                            text,
                            num_tokens: completion.ids.len(),
                        })
                    })
                    .collect()
            })
            .collect()
    }
}

impl LmPolicy {
    fn candidate(&self, completion: &Completion, stops: &[String]) -> Result<Candidate> {
        let text = self.tokenizer.decode(&completion.ids, true)?;
        let end = stops
            .iter()
            .filter_map(|stop| text.find(stop.as_str()))
            .min()
            .unwrap_or(text.len());
        Ok(Candidate {
            text: text[..end].trim().to_owned(),
            sum_logprob: completion.logprobs.iter().map(|&logprob| f64::from(logprob)).sum(),
            num_tokens: completion.ids.len(),
            ended: completion.finish == Finish::Eos,
        })
    }
}
