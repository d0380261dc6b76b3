//! What is reported of a step.

use super::Params;
use crate::formats::{MetricsLine, Sample};
use crate::lm::grpo::Update;

/// Describes the step number `step` on the rollouts `samples`, one list for each prompt.
pub fn describe(
    step: usize,
    samples: &[Vec<Sample>],
    params: &Params,
    update: &Update,
    learning_rate: f64,
) -> MetricsLine {
    let count = samples.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    let mean = |value: &dyn Fn(&Sample) -> f64| samples.iter().flatten().map(value).sum::<f64>() / count;
    let is_flat = |group: &&Vec<Sample>| {
        group
            .windows(2)
            .all(|pair| params.reward(&pair[0]) == params.reward(&pair[1]))
    };
    let num_flat = samples.iter().filter(is_flat).count();
    let sums = &update.sums;
    let (tokens, ratios) = (sums.num_tokens.max(1.0), sums.num_ratios.max(1.0));
    let values = [
        ("reward", mean(&|sample| params.reward(sample))),
        ("pass_rate", mean(&|sample| f64::from(sample.correct))),
        ("completion_length", mean(&|sample| sample.num_tokens as f64)),
        ("backtracks", mean(&|sample| sample.num_backtracks as f64)),
        ("truncated", mean(&|sample| f64::from(sample.truncated))),
        ("zero_variance_groups", num_flat as f64 / samples.len().max(1) as f64),
        ("entropy", update.neg_logprob / tokens),
        ("kl", sums.kl / tokens),
        ("ratio", sums.ratio / ratios),
        ("clip_low", sums.clip_low / ratios),
        ("clip_high", sums.clip_high / ratios),
        ("loss", update.loss),
        ("grad_norm", update.grad_norm),
        ("learning_rate", learning_rate),
    ];
    MetricsLine {
        step,
        values: values.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}
