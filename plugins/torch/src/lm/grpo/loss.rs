//! Advantages of groups of rollouts, and the clipped loss.
//!
//! Shapes: `B` rollouts of at most `T` completion tokens. Names and variants are TRL's (`GRPOConfig`).

use serde::Deserialize;
use tch::{Kind, Tensor};

/// How per-token losses become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over the tokens of each rollout, then over rollouts (DeepSeekMath, arXiv:2402.03300).
    Grpo,
    /// Mean over the tokens of what one call of [`loss`] sees: TRL's batch of a device. In an [`update`](super::update) that
    /// is the whole step, because its micro-batches are cut for memory alone.
    Bnpo,
    /// Sum over tokens divided by rollouts times the length cap (Dr. GRPO, arXiv:2503.20783).
    DrGrpo,
    /// Mean over the tokens of the whole batch of the optimizer step (DAPO, arXiv:2503.14476).
    Dapo,
}

/// What the rewards of a group, less their mean, are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    Group,
    /// The standard deviation of all rewards of the batch.
    Batch,
    None,
}

/// Added to a standard deviation before it divides, as in TRL.
const STD_EPSILON: f64 = 1e-4;

/// Returns the advantage of each rollout; `rewards` has one slice for each group.
///
/// The mean is the group's; the standard deviation is the sample's (divisor n - 1).
pub fn advantages(rewards: &[Vec<f64>], scale: ScaleRewards) -> Vec<f64> {
    let batch: Vec<f64> = rewards.concat();
    let batch_std = standard_deviation(&batch);
    rewards
        .iter()
        .flat_map(|group| {
            let mean = group.iter().sum::<f64>() / group.len().max(1) as f64;
            let divisor = match scale {
                ScaleRewards::Group => standard_deviation(group) + STD_EPSILON,
                ScaleRewards::Batch => batch_std + STD_EPSILON,
                ScaleRewards::None => 1.0,
            };
            group.iter().map(move |reward| (reward - mean) / divisor)
        })
        .collect()
}

/// Returns the sample's standard deviation (divisor n - 1); 0 for less than two values.
pub fn standard_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// What the importance ratio is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingLevel {
    /// Each token has its own ratio.
    Token,
    /// A completion has one, exp of the mean over its tokens of new - old (GSPO, arXiv:2507.18071).
    Sequence,
}

/// The constants of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSettings {
    pub loss_type: LossType,
    pub importance_sampling_level: ImportanceSamplingLevel,
    /// The ratio is clipped below at 1 - epsilon.
    pub epsilon: f64,
    /// The ratio is clipped above at 1 + epsilon_high.
    pub epsilon_high: f64,
    /// Where the advantage is negative the ratio counts as this at most, which bounds a loss that the clip leaves unbounded
    /// (two-sided clipping, INTELLECT-2, arXiv:2505.07291; the dual clip of arXiv:1912.09729). Greater than 1.
    pub delta: Option<f64>,
    /// Weight of the KL term towards the reference policy.
    pub beta: f64,
    /// Multiplies the KL term by the ratio, gradient included, which makes it unbiased off policy (DeepSeek-V3.2,
    /// arXiv:2512.02556).
    pub use_bias_correction_kl: bool,
    /// Length cap in tokens, for `dr_grpo`.
    pub max_completion_length: usize,
}

impl LossSettings {
    /// Returns the settings with which micro-batches of any size add up to the loss of the step as one batch.
    ///
    /// All but `bnpo` do so as they are; over one batch `bnpo` and `dapo` are the same mean.
    #[must_use]
    pub fn of_whole_step(&self) -> Self {
        let loss_type = match self.loss_type {
            LossType::Bnpo => LossType::Dapo,
            other => other,
        };
        Self { loss_type, ..*self }
    }
}

/// The size of the whole batch of an optimizer step, of which the loss may see a part at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    pub num_rollouts: usize,
    pub num_tokens: usize,
}

/// The tensors of one micro-batch.
pub struct Rollouts<'a> {
    /// `[B, T]`: natural log, under the policy being trained.
    pub logprobs: &'a Tensor,
    /// `[B, T]`: under the policy that sampled; carries no gradient.
    pub old_logprobs: &'a Tensor,
    /// `[B, T]`: under the reference policy; needed where beta is not 0.
    pub ref_logprobs: Option<&'a Tensor>,
    /// `[B]`
    pub advantages: &'a Tensor,
    /// `[B, T]`: 1 for completion tokens, 0 for padding.
    pub mask: &'a Tensor,
}

/// Sums over a micro-batch, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSums {
    pub num_tokens: f64,
    /// Tokens, or completions where these have one ratio each.
    pub num_ratios: f64,
    pub ratio: f64,
    /// Ratios below 1 - epsilon at a negative advantage.
    pub clip_low: f64,
    /// Ratios above 1 + epsilon_high at a positive advantage.
    pub clip_high: f64,
    /// Ratios above delta at a negative advantage.
    pub clip_delta: f64,
    /// Over tokens, as it enters the loss.
    pub kl: f64,
}

impl LossSums {
    /// Adds the sums of another micro-batch.
    pub fn add(&mut self, other: &Self) {
        self.num_tokens += other.num_tokens;
        self.num_ratios += other.num_ratios;
        self.ratio += other.ratio;
        self.clip_low += other.clip_low;
        self.clip_high += other.clip_high;
        self.clip_delta += other.clip_delta;
        self.kl += other.kl;
    }
}

/// Returns the loss of a micro-batch, a scalar whose sum over the micro-batches of a step is the step's loss.
///
/// Per token, with ratio = exp(new - old): -min(ratio A, clip(ratio) A) + beta KL, where KL is the k3 estimator
/// exp(ref - new) - (ref - new) - 1 (Schulman; DeepSeekMath eq. 4). The clip range may be asymmetric (DAPO, sec. 3.1), and
/// the ratio that is not clipped bounded by `delta`, but not the one that may multiply the KL term.
/// The variants are those of TRL's `GRPOTrainer._compute_loss`.
pub fn loss(rollouts: &Rollouts<'_>, settings: &LossSettings, whole: BatchSize) -> (Tensor, LossSums) {
    let Rollouts {
        logprobs,
        advantages,
        mask,
        ..
    } = *rollouts;
    let advantages = advantages.unsqueeze(-1); // [B, 1]
    let ratio = ratio(rollouts, settings.importance_sampling_level); // [B, T] or [B, 1]
    let clipped = ratio.clamp(1.0 - settings.epsilon, 1.0 + settings.epsilon_high);
    let bounded = match settings.delta {
        Some(delta) => ratio.clamp_max(delta),
        None => ratio.shallow_clone(),
    };
    let policy_loss = -(bounded * &advantages).minimum(&(clipped * &advantages));
    let mut sums = ratio_sums(&ratio.detach(), &advantages, mask, settings);
    let penalty = rollouts.ref_logprobs.map(|ref_logprobs| {
        let difference = ref_logprobs - logprobs;
        let kl = difference.exp() - &difference - 1.0;
        let kl = if settings.use_bias_correction_kl {
            kl * &ratio
        } else {
            kl
        };
        sums.kl = (kl.detach() * mask).sum(Kind::Double).double_value(&[]);
        kl * settings.beta
    });
    let per_token = match penalty {
        Some(penalty) if settings.beta != 0.0 => policy_loss + penalty,
        _ => policy_loss,
    };
    (reduce(&(per_token * mask), mask, settings, whole), sums)
}

/// Returns the importance ratios, `[B, T]` or `[B, 1]`.
fn ratio(rollouts: &Rollouts<'_>, level: ImportanceSamplingLevel) -> Tensor {
    let log_ratio = rollouts.logprobs - rollouts.old_logprobs;
    match level {
        ImportanceSamplingLevel::Token => log_ratio.exp(),
        ImportanceSamplingLevel::Sequence => {
            let sums = row_sums(&(log_ratio * rollouts.mask));
            (sums / row_sums(rollouts.mask).clamp_min(1.0)).exp().unsqueeze(-1)
        }
    }
}

fn ratio_sums(ratio: &Tensor, advantages: &Tensor, mask: &Tensor, settings: &LossSettings) -> LossSums {
    let (num_tokens, num_rows) = (mask.sum(Kind::Double).double_value(&[]), mask.size()[0] as f64);
    let (num_ratios, weights) = match settings.importance_sampling_level {
        ImportanceSamplingLevel::Token => (num_tokens, mask.shallow_clone()),
        ImportanceSamplingLevel::Sequence => (num_rows, ratio.ones_like()),
    };
    let sum = |values: Tensor| {
        (values.to_kind(weights.kind()) * &weights)
            .sum(Kind::Double)
            .double_value(&[])
    };
    LossSums {
        num_tokens,
        num_ratios,
        ratio: sum(ratio.shallow_clone()),
        clip_low: sum(ratio.lt(1.0 - settings.epsilon).logical_and(&advantages.lt(0.0))),
        clip_high: sum(ratio.gt(1.0 + settings.epsilon_high).logical_and(&advantages.gt(0.0))),
        clip_delta: settings
            .delta
            .map_or(0.0, |delta| sum(ratio.gt(delta).logical_and(&advantages.lt(0.0)))),
        kl: 0.0,
    }
}

/// Returns the loss of per-token losses `[B, T]` that are 0 where the mask is.
fn reduce(masked: &Tensor, mask: &Tensor, settings: &LossSettings, whole: BatchSize) -> Tensor {
    let total = || masked.sum(masked.kind());
    let num_rollouts = whole.num_rollouts.max(1) as f64;
    match settings.loss_type {
        LossType::Grpo => {
            let lengths = row_sums(mask).clamp_min(1.0);
            (row_sums(masked) / lengths).sum(masked.kind()) / num_rollouts
        }
        LossType::Bnpo => {
            let num_tokens = mask.sum(Kind::Double).double_value(&[]).max(1.0);
            total() / num_tokens * (mask.size()[0] as f64 / num_rollouts)
        }
        LossType::DrGrpo => total() / (num_rollouts * settings.max_completion_length as f64),
        LossType::Dapo => total() / whole.num_tokens.max(1) as f64,
    }
}

/// Returns `[B]` for `[B, T]`.
fn row_sums(x: &Tensor) -> Tensor {
    x.sum_dim_intlist(-1, false, x.kind())
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const LOSS_TYPES: [LossType; 4] = [LossType::Grpo, LossType::Bnpo, LossType::DrGrpo, LossType::Dapo];

    /// Length cap of the tests, in tokens.
    const CAP: usize = 8;

    fn settings(loss_type: LossType) -> LossSettings {
        LossSettings {
            loss_type,
            importance_sampling_level: ImportanceSamplingLevel::Token,
            epsilon: 0.2,
            epsilon_high: 0.28,
            delta: None,
            beta: 0.0,
            use_bias_correction_kl: false,
            max_completion_length: CAP,
        }
    }

    /// The gradient on policy with respect to log p, `[B, T]`, of rollouts with these lengths.
    fn gradient(rewards: &[Vec<f64>], scale: ScaleRewards, lengths: &[i64], loss_type: LossType) -> Tensor {
        let shape = [lengths.len() as i64, *lengths.iter().max().unwrap()];
        let logprobs = -(Tensor::arange(shape[0] * shape[1], (Kind::Double, Device::Cpu)).sin() + 1.5).view(shape);
        let columns = Tensor::arange(shape[1], (Kind::Int64, Device::Cpu));
        let mask = columns
            .lt_tensor(&Tensor::from_slice(lengths).unsqueeze(-1))
            .to_kind(Kind::Double);
        let logprobs = logprobs.set_requires_grad(true);
        let rollouts = Rollouts {
            logprobs: &logprobs,
            old_logprobs: &logprobs.detach(),
            ref_logprobs: None,
            advantages: &Tensor::from_slice(&advantages(rewards, scale)),
            mask: &mask,
        };
        let whole = BatchSize {
            num_rollouts: lengths.len(),
            num_tokens: lengths.iter().sum::<i64>() as usize,
        };
        loss(&rollouts, &settings(loss_type), whole).0.backward();
        logprobs.grad()
    }

    #[track_caller]
    fn assert_close(got: &Tensor, expected: &Tensor, relative: f64) {
        let off = (got - expected).abs().max().double_value(&[]);
        let scale = expected.abs().max().double_value(&[]);
        assert!(off <= relative * scale, "off by {off} of {scale}");
    }

    fn rewards(right: f64, wrong: f64) -> [Vec<f64>; 2] {
        [vec![right, wrong, wrong, right], vec![wrong, right, wrong, wrong]]
    }

    #[test]
    fn for_rollouts_of_one_length_all_loss_types_have_one_gradient() {
        for length in [3, CAP as i64] {
            let of = |loss_type| gradient(&rewards(1.0, -1.0), ScaleRewards::Group, &[length; 8], loss_type);
            let expected = of(LossType::Grpo);
            assert!(expected.abs().max().double_value(&[]) > 0.0);
            assert_close(&of(LossType::Bnpo), &expected, 1e-14);
            assert_close(&of(LossType::Dapo), &expected, 1e-14);
            // It divides by the cap instead of the length.
            assert_close(&of(LossType::DrGrpo), &(expected * (length as f64 / CAP as f64)), 1e-14);
        }
    }

    #[test]
    fn a_group_of_equal_rewards_has_no_gradient() {
        let lengths = [1, 5, 3, 2];
        for loss_type in LOSS_TYPES {
            for scale in [ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None] {
                let grad = gradient(&[vec![0.7; 4]], scale, &lengths, loss_type);
                assert_eq!(grad.abs().max().double_value(&[]), 0.0);
            }
        }
    }

    #[test]
    fn a_shift_of_rewards_changes_nothing_and_a_factor_what_it_should() {
        let lengths = [1, 5, 3, 2, 8, 4, 4, 6];
        for loss_type in LOSS_TYPES {
            let of = |right: f64, wrong: f64, scale| gradient(&rewards(right, wrong), scale, &lengths, loss_type);
            for scale in [ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None] {
                assert_close(&of(4.0, 2.0, scale), &of(1.0, -1.0, scale), 1e-12);
            }
            let none = ScaleRewards::None;
            assert_eq!(of(1.0, -1.0, none), of(1.0, 0.0, none) * 2.0);
            // Up to what is added to the standard deviation, which is 0.5 at least.
            for scale in [ScaleRewards::Group, ScaleRewards::Batch] {
                assert_close(&of(1.0, -1.0, scale), &of(1.0, 0.0, scale), STD_EPSILON / 0.4);
            }
        }
    }
}
