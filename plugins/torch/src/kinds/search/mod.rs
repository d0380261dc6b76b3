//! `astro.search`: one search tree for each problem, grown by the policy itself.
//!
//! The trees advance in rounds (`search`), so a search that was stopped goes on from the last round that it saved, with the
//! trees that were done by then, and within a round without generating again what was finished (`saver`).

mod in_order;
mod keeper;
mod meter;
mod player;

use std::cell::RefCell;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use super::sampling::report_usage;
use super::{problems, saver};
use crate::formats::Problem;
use crate::lm::device;
use crate::policy::{self, Completion, Limits, Means};
use crate::search::{self, Prior, SearchConfig, StopWhen, Strategy};
use crate::worker::Job;
use keeper::Keeper;
use meter::Meter;
use player::Player;

/// The share of steps cut at their length limit from which on that is worth a warning.
const MAX_CUT_STEPS: f64 = 0.1;

type Saver<'a> = saver::Saver<'a, Completion>;

#[derive(Debug, Deserialize)]
struct Params {
    seed: u64,
    /// Problems taken from the front; 0 takes all.
    num_problems: usize,
    /// Of these every `num_shards`-th one is searched, from `shard_index` on.
    num_shards: usize,
    shard_index: usize,
    strategy: Strategy,
    num_simulations: u32,
    num_candidates: usize,
    num_rollouts: usize,
    max_depth: usize,
    c_puct: f64,
    prior: Prior,
    revisit_terminals: bool,
    leaves_per_round: usize,
    virtual_loss: f64,
    beam_width: usize,
    min_value: f64,
    max_tokens: u64,
    /// Seconds of the whole stage, over all attempts; 0: any number.
    max_seconds: f64,
    stop_when: Option<StopWhen>,
    temperature: f64,
    top_p: f64,
    top_k: i64,
    /// Tokens of one step.
    max_step_length: usize,
    truncated_steps: TruncatedSteps,
    /// Tokens of one rollout.
    max_completion_length: usize,
    /// Computes a model of ours in bf16; an endpoint computes in what it is served in.
    bf16: bool,
    /// Rows generated at once.
    generation_batch_size: usize,
    max_active_problems: usize,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    device: String,
}

/// What becomes of a proposed step that `max_step_length` cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TruncatedSteps {
    /// It is left out, for its text stops in the middle of a sentence.
    Drop,
    /// It is a step like others, which the next one goes on from.
    Keep,
}

impl Params {
    fn config(&self) -> SearchConfig {
        SearchConfig {
            strategy: self.strategy,
            num_simulations: self.num_simulations,
            num_candidates: self.num_candidates,
            num_rollouts: self.num_rollouts,
            max_depth: self.max_depth,
            c_puct: self.c_puct,
            prior: self.prior,
            revisit_terminals: self.revisit_terminals,
            leaves_per_round: self.leaves_per_round,
            virtual_loss: self.virtual_loss,
            beam_width: self.beam_width,
            min_value: self.min_value,
            max_tokens: self.max_tokens,
            stop_when: self.stop_when,
            max_active_problems: self.max_active_problems,
        }
    }
}

/// Reads `policy` (model) and `problems`, writes `trees`.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let model_dir = job.input("policy")?;
    device::set_num_threads(job.resources().cpu);
    let device = device::parse(&params.device).map_err(anyhow::Error::msg)?;
    let problems = read_problems(job, &params)?;
    let config = params.config();
    let settings = [("generation_batch_size", params.generation_batch_size)];
    let mut saver = Saver::keeping(job, device, &settings)?;
    let found = saver.resume(|folder, step, _| keeper::read(folder, step, &problems));
    let (saved, seconds) = found.unwrap_or_default();
    let done = keeper::done(&mut saver, &problems, job);
    let means = Means {
        device,
        bf16: params.bf16,
        num_threads: saver.num_threads(),
        generation_batch_size: params.generation_batch_size,
        limits: job.params::<Limits>()?,
    };
    let mut policy = policy::open(&model_dir, &means)?;
    let saver = RefCell::new(saver);
    let meter = Meter::new(job, problems.len() * config.num_simulations as usize);
    let mut keeper = Keeper::new(job, &saver, &meter, problems.len(), &params)?;
    let earlier = keeper.begin(saved, done, seconds)?;
    let mut player = Player {
        policy: policy.as_mut(),
        saver: &saver,
        meter: &meter,
        params: &params,
    };
    search::search(&problems, &config, &mut player, earlier, &mut keeper)?;
    report_usage(job, policy.as_ref());
    if let Some(reuse) = policy.reuse() {
        job.metric("reused_prompt_tokens", reuse.share(), None);
    }
    if let Some(share) = meter.cut_steps() {
        job.metric("truncated_steps", share, None);
        if share > MAX_CUT_STEPS && params.truncated_steps == TruncatedSteps::Drop {
            job.warning(&format!(
                "{:.0} % of the proposed steps were longer than max_step_length, {} tokens, and are left out",
                100.0 * share,
                params.max_step_length
            ));
        }
    }
    let tally = keeper.end()?;
    saver.into_inner().finish();
    let num_trees = tally.num_trees.max(1) as f64;
    job.metric("solved", tally.num_solved as f64 / num_trees, None);
    job.metric("nodes_per_tree", tally.num_nodes as f64 / num_trees, None);
    job.metric("simulations_per_tree", tally.num_simulations as f64 / num_trees, None);
    job.metric("tokens_per_tree", tally.num_tokens as f64 / num_trees, None);
    if tally.num_solved == 0 {
        let message = format!(
            "no search reached a correct answer on {} problems; the policy is too weak for them",
            tally.num_trees
        );
        // Other shards may have what this one lacks.
        ensure!(params.num_shards > 1, message);
        job.warning(&message);
    }
    Ok(())
}

/// Reads the problems of this shard.
fn read_problems(job: &Job, params: &Params) -> Result<Vec<Problem>> {
    if params.shard_index >= params.num_shards {
        bail!(
            "shard_index is {}, but num_shards is {}: shards are counted from 0",
            params.shard_index,
            params.num_shards
        );
    }
    // What is drawn for a problem depends on its id.
    let problems = problems::read_distinct(&job.input("problems")?, params.num_problems)?;
    let shard = problems.into_iter().skip(params.shard_index).step_by(params.num_shards);
    Ok(shard.collect())
}
