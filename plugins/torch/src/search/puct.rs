//! PUCT: the priors of siblings, and the score by which selection descends.

use serde::{Deserialize, Serialize};

use super::Candidate;
use crate::formats::TreeNode;

/// How the probability of a step of several tokens becomes its prior among the siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prior {
    /// Softmax of the mean log-probability per token: long steps aren't punished.
    MeanLogprob,
    /// Softmax of the summed log-probability: the policy's own probability, up to what was not sampled.
    SumLogprob,
    /// All candidates alike, so that only how often each was sampled counts.
    Uniform,
}

/// Returns Q + c * P * sqrt(N(state)) / (1 + N(edge)), the score of an edge (ASTRO, equation 1).
///
/// `virtual_visits` are those without success that have been added to N for choices of the same round: they take their
/// share of Q. `state_visits` is N(state), with those of the state among them.
pub(super) fn score(edge: &TreeNode, virtual_visits: f64, state_visits: f64, c_puct: f64) -> f64 {
    let visits = f64::from(edge.visit_count);
    let all_visits = visits + virtual_visits;
    // Without virtual visits the product and the quotient would round Q.
    let q_value = if virtual_visits > 0.0 {
        edge.q_value * visits / all_visits
    } else {
        edge.q_value
    };
    q_value + c_puct * state_visits.sqrt() * edge.prior / (1.0 + all_visits)
}

/// Returns each candidate's share of the probability among its siblings, duplicates still apart.
pub(super) fn priors(candidates: &[Candidate], prior: Prior) -> Vec<f64> {
    let score = |candidate: &Candidate| match prior {
        Prior::MeanLogprob => candidate.sum_logprob / candidate.num_tokens.max(1) as f64,
        Prior::SumLogprob => candidate.sum_logprob,
        Prior::Uniform => 0.0,
    };
    let scores: Vec<f64> = candidates.iter().map(score).collect();
    let highest = scores
        .iter()
        .copied()
        .filter(|score| score.is_finite())
        .fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores
        .iter()
        .map(|score| {
            if score.is_finite() {
                (score - highest).exp()
            } else {
                0.0
            }
        })
        .collect();
    let total: f64 = weights.iter().sum();
    if total > 0.0 {
        weights.iter().map(|weight| weight / total).collect()
    } else {
        vec![1.0 / candidates.len().max(1) as f64; candidates.len()]
    }
}
