//! `astro.self_eval`: a model votes on each right solution in the trees, several times.
//!
//! The trees come out as they were, with the votes at their right terminals; `astro.linearize` leaves out what was voted
//! down. Votes that an attempt that was stopped has are not asked for again (`saver`).

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use rand::Rng;
use serde::Deserialize;

use super::asking::Asking;
use crate::formats::{Tree, read_jsonl, write_jsonl};
use crate::linearize::{defect, self_eval};
use crate::policy::{Completion, Finish, Request};
use crate::prompts::PromptFile;
use crate::random;
use crate::worker::Job;

#[derive(Debug, Deserialize)]
struct Params {
    seed: u64,
    /// Votes on each solution; 0 passes the trees on as they are.
    votes: u32,
    /// Votes for a solution that make it a good one.
    agree: u32,
    /// With {problem} and {solution}; none: the built-in one.
    prompt: Option<PathBuf>,
    /// In tokens, of one vote.
    max_completion_length: usize,
}

/// Reads `policy` (model) and `trees`, writes `trees`.
///
/// # Errors
/// A tree is broken, the prompt is not usable, or the policy's own.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    ensure!(
        params.votes == 0 || params.agree <= params.votes,
        "agree is {}, but there are {} votes; no solution could be good",
        params.agree,
        params.votes
    );
    let mut trees: Vec<Tree> = read_jsonl(&job.input("trees")?, "tree")?;
    for tree in &trees {
        if let Some(defect) = defect(tree) {
            bail!("the tree of problem {:?} is broken: {defect}", tree.problem.id);
        }
    }
    if params.votes > 0 {
        vote(job, &params, &mut trees)?;
    }
    write_jsonl(&job.output("trees")?, trees)?;
    Ok(())
}

fn vote(job: &Job, params: &Params, trees: &mut [Tree]) -> Result<()> {
    let prompt = PromptFile::open(params.prompt.as_deref(), self_eval::PROMPT)?.whole(&self_eval::PLACES)?;
    let asking = Asking::open(job, &job.input("policy")?, Vec::new())?;
    let asked: Vec<(usize, usize)> = (trees.iter().enumerate())
        .flat_map(|(idx, tree)| self_eval::solutions(tree).into_iter().map(move |node| (idx, node)))
        .collect();
    let requests: Vec<Request> = (asked.iter())
        .map(|&(tree_idx, node)| {
            let tree = &trees[tree_idx];
            let purpose = format!("self_eval {}", tree.problem.id);
            let mut rng = random::stream(params.seed, &purpose, node as u64);
            Request {
                prompt: self_eval::question(&prompt, tree, node),
                partial: String::new(),
                seeds: (0..params.votes).map(|_| rng.random()).collect(),
            }
        })
        .collect();
    let replies = asking.ask(&requests, "vote")?;
    keep(job, params, trees, &asked, &replies);
    Ok(())
}

/// Puts the votes into the trees and says how they came out.
fn keep(job: &Job, params: &Params, trees: &mut [Tree], asked: &[(usize, usize)], replies: &[Vec<Completion>]) {
    let (mut num_good, mut num_for, mut num_unread) = (0, 0, 0);
    for (&(tree_idx, node), list) in asked.iter().zip(replies) {
        let vote = |reply: &Completion| self_eval::vote(&reply.text, reply.finish == Finish::Length);
        let votes: Vec<Option<bool>> = list.iter().map(vote).collect();
        let counted = self_eval::count(&votes, params.agree);
        num_good += usize::from(counted.good);
        num_for += counted.agree as usize;
        num_unread += votes.iter().filter(|vote| vote.is_none()).count();
        trees[tree_idx].nodes[node].self_eval = Some(counted);
    }
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    let num_votes = asked.len() * params.votes as usize;
    job.metric("good", share(num_good, asked.len()), None);
    job.metric("agree", share(num_for, num_votes), None);
    job.metric("unreadable_votes", share(num_unread, num_votes), None);
    let num_tokens: usize = replies.iter().flatten().map(|reply| reply.num_tokens).sum();
    job.metric("generated_tokens", num_tokens as f64, None);
    job.info(&format!(
        "{num_good} of {} right solutions are good: at least {} of {} votes for them",
        asked.len(),
        params.agree,
        params.votes
    ));
    if 2 * num_unread > num_votes {
        job.warning(&format!(
            "{num_unread} of {num_votes} votes could not be read and count against their solutions; the model may be too \
             weak for the prompt, or max_completion_length ({}) too short",
            params.max_completion_length
        ));
    }
}
