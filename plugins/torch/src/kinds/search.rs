//! `astro.search`: one search tree for each problem, grown by the policy itself.
//!
//! All trees grow by one simulation at a time, so a search that was stopped goes on from the last simulation that all of
//! them have, and within it without generating again what was finished (`saver`).

use std::cell::{Cell, RefCell};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::sampling::report_usage;
use super::saver::{self, is_stop};
use crate::formats::{Problem, read_json, read_jsonl, write_json, write_jsonl};
use crate::lm::device;
use crate::lm::sampler::Sampling;
use crate::policy::{self, Completion, Finish, Limits, Means, Options, Request};
use crate::random;
use crate::search::{
    Candidate, Observer, Policy, Prior, Progress, Rollout, SavedSearch, SavedTree, SearchConfig, State, StopWhen,
    search,
};
use crate::verify::{self, Wording};
use crate::worker::Job;

type Saver<'a> = saver::Saver<'a, Completion>;

#[derive(Debug, Deserialize)]
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
    /// Computes a model of ours in bf16; an endpoint computes in what it is served in.
    bf16: bool,
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
    let settings = [("generation_batch_size", params.generation_batch_size)];
    let mut saver = Saver::keeping(job, device, &settings)?;
    let saved = saver.resume(|folder, step, _| read(folder, step, problems.len()));
    let (saved, num_calls) = saved.unzip();
    let num_calls = Cell::new(num_calls.unwrap_or(0));
    let means = Means {
        device,
        bf16: params.bf16,
        num_threads: saver.num_threads(),
        generation_batch_size: params.generation_batch_size,
        limits: job.params::<Limits>()?,
    };
    let saver = RefCell::new(saver);
    let mut policy = Player {
        policy: policy::open(&model_dir, &means)?,
        saver: &saver,
        num_calls: &num_calls,
        params,
    };
    let mut keeper = Keeper {
        job,
        saver: &saver,
        num_calls: &num_calls,
        num_calls_before: num_calls.get(),
        num_problems: problems.len(),
    };
    job.progress(saver.borrow().step(), config.num_simulations as usize, "simulation", "");
    let trees = search(&problems, &config, &mut policy, saved, &mut keeper)?;
    report_usage(job, policy.policy.as_ref());
    saver.into_inner().finish();
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

/// Saves a search between simulations, and tells how far it is.
struct Keeper<'a, 'j> {
    job: &'j Job,
    saver: &'a RefCell<Saver<'j>>,
    num_calls: &'a Cell<u64>,
    /// Calls before the simulation that is running.
    num_calls_before: u64,
    num_problems: usize,
}

/// What the trees don't say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    num_simulations: u32,
    num_calls: u64,
}

impl Observer for Keeper<'_, '_> {
    fn simulated(&mut self, progress: Progress, save: &dyn Fn() -> SavedSearch) -> Result<()> {
        self.num_calls_before = self.num_calls.get();
        let (simulation, total) = (progress.simulation as usize, progress.num_simulations as usize);
        let (done, last) = match progress.num_active {
            0 => (total, simulation),
            _ => (simulation, total),
        };
        let message = format!("{} of {} problems solved", progress.num_solved, self.num_problems);
        self.job.progress(done, total, "simulation", &message);
        self.saver
            .borrow_mut()
            .step_done(simulation, last, |folder| write(folder, save(), self.num_calls_before))
    }

    fn interrupted(&mut self, error: anyhow::Error, save: &dyn Fn() -> SavedSearch) -> anyhow::Error {
        if !is_stop(&error) {
            return error;
        }
        self.saver
            .borrow_mut()
            .stopped(|folder| write(folder, save(), self.num_calls_before))
    }
}

fn write(folder: &Path, search: SavedSearch, num_calls: u64) -> Result<()> {
    let counts = Counts {
        num_simulations: search.num_simulations,
        num_calls,
    };
    write_json(&folder.join("counts.json"), &counts)?;
    Ok(write_jsonl(&folder.join("trees.jsonl"), search.trees)?)
}

/// Returns the search that [`write`] left in a folder, and the calls that it had made.
fn read(folder: &Path, step: usize, num_problems: usize) -> Result<(SavedSearch, u64)> {
    let counts: Counts = read_json(&folder.join("counts.json"), "counts")?;
    let trees: Vec<SavedTree> = read_jsonl(&folder.join("trees.jsonl"), "saved tree")?;
    ensure!(
        counts.num_simulations as usize == step && trees.len() == num_problems,
        "it has {} trees after {} simulations, expected {num_problems} after {step}",
        trees.len(),
        counts.num_simulations
    );
    let search = SavedSearch {
        num_simulations: counts.num_simulations,
        trees,
    };
    Ok((search, counts.num_calls))
}

/// A policy that proposes steps by sampling up to the next separator.
struct Player<'a, 'j> {
    policy: Box<dyn policy::Policy>,
    saver: &'a RefCell<Saver<'j>>,
    /// Calls so far: each draws from random streams of its own.
    num_calls: &'a Cell<u64>,
    params: Params,
}

impl Player<'_, '_> {
    /// Samples `count` continuations of each state.
    fn sample(
        &mut self,
        states: &[State<'_>],
        count: usize,
        max_new_tokens: usize,
        stop: Vec<String>,
    ) -> Result<Vec<Vec<Completion>>> {
        let call = self.num_calls.get();
        self.num_calls.set(call + 1);
        let purpose = format!("search call {call}");
        let request = |(idx, state): (usize, &State<'_>)| {
            let mut rng = random::stream(self.params.seed, &purpose, idx as u64);
            Request {
                prompt: state.problem.problem.clone(),
                partial: partial(state),
                seeds: (0..count).map(|_| rng.random()).collect(),
            }
        };
        let requests: Vec<Request> = states.iter().enumerate().map(request).collect();
        let options = Options {
            max_new_tokens,
            sampling: Sampling {
                temperature: self.params.temperature,
                top_k: 0,
                top_p: self.params.top_p,
                ..Sampling::PLAIN
            },
            stop,
        };
        let mut saver = self.saver.borrow_mut();
        self.policy
            .complete(&requests, &options, &mut saver.follow(call, |_, _| ()))
    }
}

/// The steps so far as the beginning of the answer.
fn partial(state: &State<'_>) -> String {
    if state.steps.is_empty() {
        return String::new();
    }
    verify::join_steps(state.problem.verifier, &state.steps) + &separator(state)
}

fn separator(state: &State<'_>) -> String {
    Wording::of(state.problem.verifier).separator
}

impl Policy for Player<'_, '_> {
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
                list.iter()
                    .map(|completion| self.candidate(completion, &stops))
                    .collect()
            })
            .collect()
    }

    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        let completions = self.sample(states, m, self.params.max_completion_length, Vec::new())?;
        let rollout = |completion: Completion| Rollout {
            text: completion.text,
            num_tokens: completion.num_tokens,
        };
        Ok(completions
            .into_iter()
            .map(|list| list.into_iter().map(rollout).collect())
            .collect())
    }
}

impl Player<'_, '_> {
    /// # Errors
    /// The prior needs a probability, and the server told none.
    fn candidate(&self, completion: &Completion, stops: &[String]) -> Result<Candidate> {
        let text = &completion.text;
        let end = stops
            .iter()
            .filter_map(|stop| text.find(stop.as_str()))
            .min()
            .unwrap_or(text.len());
        let sum_logprob = match (completion.sum_logprob, self.params.prior) {
            (Some(sum), _) => sum,
            (None, Prior::Uniform) => 0.0,
            (None, _) => bail!(
                "the server gives no log-probabilities, which the prior of a step is made from; set prior: uniform, or \
                 logprobs: true where the server has them"
            ),
        };
        Ok(Candidate {
            text: text[..end].trim().to_owned(),
            sum_logprob,
            num_tokens: completion.num_tokens,
            ended: completion.finish == Finish::Eos,
        })
    }
}
