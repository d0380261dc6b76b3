//! What is reported of a step.

use std::ops::Range;

use super::Params;
use super::reward::Reward;
use super::round::Round;
use crate::formats::{MetricsLine, Sample};
use crate::lm::grpo::{Update, standard_deviation};

/// Describes the step number `step`, which learned from the prompts `slice` of a round.
///
/// Without anything to measure a value is left out: the entropy where no rollout was computed, since none had an advantage;
/// the KL where there is no reference.
pub fn describe(
    step: usize,
    round: &Round,
    slice: Range<usize>,
    params: &Params,
    update: &Update,
    learning_rate: f64,
) -> MetricsLine {
    let samples: Vec<&Sample> = round.samples[slice.clone()].iter().flatten().collect();
    let groups = &round.rewards[slice];
    let rewards: Vec<&Reward> = groups.iter().flatten().collect();
    let count = samples.len().max(1) as f64;
    let mean = |value: &dyn Fn(&Sample) -> f64| samples.iter().map(|sample| value(sample)).sum::<f64>() / count;
    let mean_of = |value: &dyn Fn(&Reward) -> f64| rewards.iter().map(|reward| value(reward)).sum::<f64>() / count;
    let is_flat = |group: &&Vec<Reward>| group.windows(2).all(|pair| pair[0].total() == pair[1].total());
    let num_flat = groups.iter().filter(is_flat).count();
    let totals: Vec<f64> = rewards.iter().map(|reward| reward.total()).collect();
    let sums = &update.sums;
    let ratios = sums.num_ratios.max(1.0);
    let mut values = vec![
        ("reward", mean_of(&Reward::total)),
        ("reward_std", standard_deviation(&totals)),
        ("pass_rate", mean(&|sample| f64::from(sample.correct))),
        ("completion_length", mean(&|sample| sample.num_tokens as f64)),
        (
            "completion_length_p95",
            percentile_95(samples.iter().map(|sample| sample.num_tokens).collect()),
        ),
        ("backtracks", mean(&|sample| sample.num_backtracks as f64)),
        ("truncated", mean(&|sample| f64::from(sample.truncated))),
        ("zero_variance_groups", num_flat as f64 / groups.len().max(1) as f64),
        ("ratio", sums.ratio / ratios),
        ("clip_low", sums.clip_low / ratios),
        ("clip_high", sums.clip_high / ratios),
        ("loss", update.loss),
        ("grad_norm", update.grad_norm),
        ("learning_rate", learning_rate),
    ];
    let terms = params.rewarding().terms();
    if !terms.is_empty() {
        values.push(("reward_answer", mean_of(&|reward| reward.answer)));
    }
    values.extend(terms.into_iter().map(|term| (term.name, mean_of(&term.value))));
    if sums.num_tokens > 0.0 {
        values.push(("entropy", update.entropy / sums.num_tokens));
        if params.has_reference() {
            values.push(("kl", sums.kl / sums.num_tokens));
        }
    }
    if params.delta.is_some() {
        values.push(("clip_delta", sums.clip_delta / ratios));
    }
    // Of the whole round, so with its first step only: a sum over steps is the sum over rounds.
    if params.dynamic_sampling && (step - 1).is_multiple_of(params.steps_per_round()) {
        let drawing = &round.drawing;
        values.extend([
            ("gen_batches", drawing.num_batches as f64),
            ("drawn_prompts", drawing.num_drawn as f64),
            ("discarded_groups", drawing.num_discarded as f64),
            ("surplus_groups", drawing.num_surplus as f64),
            ("drawn_pass_rate", drawing.pass_rate),
        ]);
    }
    MetricsLine {
        step,
        values: values
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

/// The least length that at least 95 % of all do not exceed.
fn percentile_95(mut lengths: Vec<usize>) -> f64 {
    lengths.sort_unstable();
    let rank = (lengths.len() * 95).div_ceil(100);
    lengths.get(rank.saturating_sub(1)).map_or(0.0, |&length| length as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_95th_percentile_is_one_of_the_lengths() {
        assert_eq!(percentile_95((1..=100).rev().collect()), 95.0);
        assert_eq!(percentile_95((1..=20).collect()), 19.0);
        assert_eq!(percentile_95((1..=19).collect()), 19.0);
        assert_eq!(percentile_95(vec![7]), 7.0);
        assert_eq!(percentile_95(Vec::new()), 0.0);
    }
}
