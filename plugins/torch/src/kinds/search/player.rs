//! A language model as the policy of a search: proposes steps by sampling up to the end of one, and rolls out.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rand::Rng;

use super::meter::Meter;
use super::{Params, Saver, TruncatedSteps};
use crate::lm::sampler::Sampling;
use crate::policy::{self, Completion, Finish, Options, Request};
use crate::random;
use crate::search::{Candidate, Policy, Prior, Rollout, State, step_end};
use crate::verify::{self, Wording};

/// What a model is asked for, with the numbers that generations are saved under.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Steps,
    Rollouts,
}

/// A policy that proposes steps by sampling up to the next separator.
pub(super) struct Player<'a, 'j> {
    pub(super) policy: &'a mut dyn policy::Policy,
    pub(super) saver: &'a RefCell<Saver<'j>>,
    pub(super) meter: &'a Meter<'j>,
    pub(super) params: &'a Params,
}

impl Player<'_, '_> {
    /// Samples `count` continuations of each state. The random numbers of a state depend on the seed, its problem's id, the
    /// purpose and the state's number alone.
    fn sample(
        &mut self,
        states: &[State<'_>],
        count: usize,
        purpose: Purpose,
        stop: Vec<String>,
    ) -> Result<Vec<Vec<Completion>>> {
        let (name, max_new_tokens) = match purpose {
            Purpose::Steps => ("search steps of", self.params.max_step_length),
            Purpose::Rollouts => ("search rollouts of", self.params.max_completion_length),
        };
        let request = |state: &State<'_>| {
            let stream = format!("{name} {}", state.problem.id);
            let mut rng = random::stream(self.params.seed, &stream, state.draw as u64);
            Request {
                prompt: state.problem.problem.clone(),
                partial: partial(state),
                seeds: (0..count).map(|_| rng.random()).collect(),
            }
        };
        let requests: Vec<Request> = states.iter().map(request).collect();
        let options = Options {
            max_new_tokens,
            sampling: Sampling {
                temperature: self.params.temperature,
                top_k: self.params.top_k,
                top_p: self.params.top_p,
                ..Sampling::PLAIN
            },
            stop,
        };
        let keys = states
            .iter()
            .map(|state| (2 * state.problem_idx as u64 + purpose as u64, state.draw))
            .collect();
        let meter = self.meter;
        let mut saver = self.saver.borrow_mut();
        let mut follower = saver.follow_named(keys, |_, num_tokens| meter.generating(num_tokens));
        let completions = self.policy.complete(&requests, &options, &mut follower)?;
        let num_tokens = |list: &Vec<Completion>| list.iter().map(|it| it.num_tokens as u64).sum::<u64>();
        meter.generated(completions.iter().map(num_tokens).sum());
        Ok(completions)
    }
}

/// The steps so far as the beginning of the answer.
fn partial(state: &State<'_>) -> String {
    if state.steps.is_empty() {
        return String::new();
    }
    let verifier = state.problem.verifier;
    verify::join_steps(verifier, &state.steps) + &Wording::of(verifier).separator
}

impl Policy for Player<'_, '_> {
    fn propose(&mut self, states: &[State<'_>], k: usize) -> Result<Vec<Vec<Candidate>>> {
        // One call for each verifier: what ends a step of one set of problems may stand within a step of another, and a
        // tree must not depend on what is searched beside it.
        let mut by_end: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (idx, state) in states.iter().enumerate() {
            by_end.entry(step_end(state.problem.verifier)).or_default().push(idx);
        }
        let mut proposed = vec![Vec::new(); states.len()];
        for (end, places) in by_end {
            let of_verifier: Vec<State<'_>> = places.iter().map(|&idx| states[idx].clone()).collect();
            let completions = self.sample(&of_verifier, k, Purpose::Steps, vec![end.clone()])?;
            for (idx, list) in places.into_iter().zip(completions) {
                let candidates = list.iter().map(|completion| self.candidate(completion, &end));
                proposed[idx] = candidates.collect::<Result<_>>()?;
            }
        }
        Ok(proposed)
    }

    fn rollout(&mut self, states: &[State<'_>], m: usize) -> Result<Vec<Vec<Rollout>>> {
        let completions = self.sample(states, m, Purpose::Rollouts, Vec::new())?;
        let rollout = |completion: Completion| Rollout {
            text: completion.text,
            num_tokens: completion.num_tokens,
            truncated: completion.finish == Finish::Length,
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
    fn candidate(&self, completion: &Completion, step_end: &str) -> Result<Candidate> {
        let text = &completion.text;
        let end = text.find(step_end);
        let is_cut = completion.finish == Finish::Length && end.is_none();
        self.meter.proposed(is_cut);
        let sum_logprob = match (completion.sum_logprob, self.params.prior) {
            (Some(sum), _) => sum,
            (None, Prior::Uniform) => 0.0,
            (None, _) => bail!(
                "the server gives no log-probabilities, which the prior of a step is made from; set prior: uniform, or \
                 logprobs: true where the server has them"
            ),
        };
        Ok(Candidate {
            text: text[..end.unwrap_or(text.len())].trim().to_owned(),
            sum_logprob,
            num_tokens: completion.num_tokens,
            ended: completion.finish == Finish::Eos,
            truncated: is_cut && self.params.truncated_steps == TruncatedSteps::Drop,
        })
    }
}
