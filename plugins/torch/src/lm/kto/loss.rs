//! The loss of judged completions, as a function of the log-probabilities of their parts.

use serde::Deserialize;
use tch::{Kind, Tensor};

/// What a completion's gain over the reference policy is measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// From an estimate of the KL divergence (KTO, arXiv:2402.01306, eq. 7).
    Kto,
    /// From 0: for completions that are better than what the model says by itself (the unpaired variant of APO-zero,
    /// arXiv:2408.06266, eq. 7).
    ApoZeroUnpaired,
}

/// The constants of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossSettings {
    pub loss_type: LossType,
    /// How fast the value of a gain saturates.
    pub beta: f64,
    /// Weight of what is right, completions and steps.
    pub desirable_weight: f64,
    /// Weight of what is wrong.
    pub undesirable_weight: f64,
    /// Weight of the steps of a completion beside the completion; 0 is KTO.
    pub step_weight: f64,
}

/// What gains are measured from; no gradient flows through it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReferencePoints {
    /// z0: the KL divergence of a completion, at least 0.
    pub kl: f64,
    /// The same of a step.
    pub step_kl: f64,
}

/// What is known of one completion.
#[derive(Debug, Clone, Copy)]
pub struct Feedback<'a> {
    pub label: bool,
    /// Of each step, where it was judged.
    pub steps: &'a [Option<bool>],
    /// Log p of each step and of the rest under the reference policy.
    pub reference: &'a [f64],
}

/// Sums over completions, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSums {
    /// Of completions, before their share in the batch.
    pub outcome_loss: f64,
    /// Of steps, as means over those of a completion, without `step_weight`.
    pub step_loss: f64,
    pub num_chosen: f64,
    pub num_rejected: f64,
    /// beta (log p - log p of the reference).
    pub chosen_rewards: f64,
    pub rejected_rewards: f64,
    pub chosen_logprobs: f64,
    pub rejected_logprobs: f64,
    /// Steps that were judged.
    pub num_steps: f64,
    /// Those of them whose gain lies on the side of the reference point that their verdict asks for.
    pub num_steps_right: f64,
}

impl LossSums {
    /// Adds the sums of another micro-batch.
    pub fn add(&mut self, other: &Self) {
        self.outcome_loss += other.outcome_loss;
        self.step_loss += other.step_loss;
        self.num_chosen += other.num_chosen;
        self.num_rejected += other.num_rejected;
        self.chosen_rewards += other.chosen_rewards;
        self.rejected_rewards += other.rejected_rewards;
        self.chosen_logprobs += other.chosen_logprobs;
        self.rejected_logprobs += other.rejected_logprobs;
        self.num_steps += other.num_steps;
        self.num_steps_right += other.num_steps_right;
    }
}

/// Returns the loss of a micro-batch, a scalar whose sum over the micro-batches of a step is the step's loss.
///
/// With r = log p(y|x) - log p_ref(y|x), s = 1 for what is right and -1 for what is wrong, and v = lambda sigmoid(beta s
/// (r - z0)), a completion's loss is lambda - v: TRL's `KTOTrainer`. To it Step-KTO adds the mean over the judged steps of
/// the same value function, with r over the tokens of the step alone. The loss is the mean over the completions of the whole
/// step, `num_completions`. The paper's weighting of the two terms was not published; nor was the reference point of a
/// step, which here is a step's share of the KL divergence ([`ReferencePoints`]), because z0 is of the size of a whole
/// completion.
///
/// Shapes: `logprobs` `[P]` in f64, of the parts of all completions one behind the other.
pub fn loss(
    logprobs: &Tensor,
    feedback: &[Feedback<'_>],
    points: ReferencePoints,
    settings: &LossSettings,
    num_completions: usize,
) -> (Tensor, LossSums) {
    let table = Table::of(feedback, logprobs, settings);
    let gains = logprobs - &table.reference; // [P]
    let whole = Tensor::zeros([feedback.len() as i64], (Kind::Double, logprobs.device()));
    let whole_gains = whole.index_add(0, &table.completion_of_part, &gains); // [B]
    let points = match settings.loss_type {
        LossType::Kto => points,
        LossType::ApoZeroUnpaired => ReferencePoints::default(),
    };
    let outcome = table.outcomes.losses(&whole_gains, points.kl, settings);
    let step_gains = gains.index_select(0, &table.judged_parts); // [J]
    let step = table.steps.losses(&step_gains, points.step_kl, settings) * &table.step_shares;
    let (outcome, step) = (outcome.sum(Kind::Double), step.sum(Kind::Double));
    let total = (&outcome + &step * settings.step_weight) / num_completions.max(1) as f64;

    let value = |tensor: &Tensor| tensor.detach().double_value(&[]);
    let sum_where = |mask: &Tensor, values: &Tensor| value(&(mask * values.detach()).sum(Kind::Double));
    let chosen = (&table.outcomes.signs + 1.0) / 2.0;
    let rejected: Tensor = 1.0 - &chosen;
    let rewards = &whole_gains * settings.beta;
    let whole_logprobs = whole.index_add(0, &table.completion_of_part, &logprobs.detach());
    let is_right = ((step_gains.detach() - points.step_kl) * &table.steps.signs).gt(0.0);
    let sums = LossSums {
        outcome_loss: value(&outcome),
        step_loss: value(&step),
        num_chosen: value(&chosen.sum(Kind::Double)),
        num_rejected: value(&rejected.sum(Kind::Double)),
        chosen_rewards: sum_where(&chosen, &rewards),
        rejected_rewards: sum_where(&rejected, &rewards),
        chosen_logprobs: sum_where(&chosen, &whole_logprobs),
        rejected_logprobs: sum_where(&rejected, &whole_logprobs),
        num_steps: table.steps.signs.numel() as f64,
        num_steps_right: value(&is_right.sum(Kind::Double)),
    };
    (total, sums)
}

/// Verdicts as tensors.
struct Verdicts {
    /// 1 for right, -1 for wrong.
    signs: Tensor,
    weights: Tensor,
}

impl Verdicts {
    fn of(labels: &[bool], settings: &LossSettings, like: &Tensor) -> Self {
        let tensor = |right: f64, wrong: f64| {
            let values: Vec<f64> = labels.iter().map(|&label| if label { right } else { wrong }).collect();
            Tensor::from_slice(&values).to_device(like.device())
        };
        Self {
            signs: tensor(1.0, -1.0),
            weights: tensor(settings.desirable_weight, settings.undesirable_weight),
        }
    }

    /// lambda - v of each gain.
    fn losses(&self, gains: &Tensor, point: f64, settings: &LossSettings) -> Tensor {
        let value = ((gains - point) * &self.signs * settings.beta).sigmoid();
        (1.0 - value) * &self.weights
    }
}

/// What the loss is computed with besides the log-probabilities.
struct Table {
    /// `[P]`
    reference: Tensor,
    /// `[P]`
    completion_of_part: Tensor,
    outcomes: Verdicts,
    /// The parts that are judged steps, `[J]`.
    judged_parts: Tensor,
    steps: Verdicts,
    /// One by the number of judged steps of the completion that each is of, `[J]`.
    step_shares: Tensor,
}

impl Table {
    fn of(feedback: &[Feedback<'_>], like: &Tensor, settings: &LossSettings) -> Self {
        let (mut reference, mut completion_of_part) = (Vec::new(), Vec::new());
        let (mut judged_parts, mut step_labels, mut step_shares) = (Vec::new(), Vec::new(), Vec::new());
        for (completion, it) in feedback.iter().enumerate() {
            assert_eq!(
                it.reference.len(),
                it.steps.len() + 1,
                "a number for each step and one for the rest"
            );
            let num_judged = it.steps.iter().flatten().count();
            for (idx, label) in it.steps.iter().enumerate() {
                if let Some(label) = label {
                    judged_parts.push((reference.len() + idx) as i64);
                    step_labels.push(*label);
                    step_shares.push(1.0 / num_judged as f64);
                }
            }
            completion_of_part.extend(std::iter::repeat_n(completion as i64, it.reference.len()));
            reference.extend_from_slice(it.reference);
        }
        let outcomes: Vec<bool> = feedback.iter().map(|it| it.label).collect();
        let device = like.device();
        Self {
            reference: Tensor::from_slice(&reference).to_device(device),
            completion_of_part: Tensor::from_slice(&completion_of_part).to_device(device),
            outcomes: Verdicts::of(&outcomes, settings, like),
            judged_parts: Tensor::from_slice(&judged_parts).to_device(device),
            steps: Verdicts::of(&step_labels, settings, like),
            step_shares: Tensor::from_slice(&step_shares).to_device(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: LossSettings = LossSettings {
        loss_type: LossType::Kto,
        beta: 0.5,
        desirable_weight: 2.0,
        undesirable_weight: 3.0,
        step_weight: 0.25,
    };

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    fn value(tensor: &Tensor) -> f64 {
        tensor.double_value(&[])
    }

    /// Two completions: one right, of a right and an unjudged step; one wrong, of a right and a wrong step.
    fn judged() -> (Tensor, [Feedback<'static>; 2]) {
        let logprobs = Tensor::from_slice(&[-1.0, -2.0, -0.5, -3.0, -4.0, 0.0]);
        let feedback = [
            Feedback {
                label: true,
                steps: &[Some(true), None],
                reference: &[-2.0, -2.0, 0.0],
            },
            Feedback {
                label: false,
                steps: &[Some(true), Some(false)],
                reference: &[-3.5, -3.0, 0.0],
            },
        ];
        (logprobs, feedback)
    }

    #[test]
    fn both_terms_are_as_by_hand() {
        let (logprobs, feedback) = judged();
        let points = ReferencePoints { kl: 0.2, step_kl: 0.1 };
        let (total, sums) = loss(&logprobs, &feedback, points, &SETTINGS, 4);
        // Gains: 1, 0 and -0.5, so 0.5; and 0.5 and -1, so -0.5.
        let outcome = 2.0 * (1.0 - sigmoid(0.5 * (0.5 - 0.2))) + 3.0 * (1.0 - sigmoid(0.5 * (0.2 + 0.5)));
        let step = 2.0 * (1.0 - sigmoid(0.5 * (1.0 - 0.1)))
            + (2.0 * (1.0 - sigmoid(0.5 * (0.5 - 0.1))) + 3.0 * (1.0 - sigmoid(0.5 * (0.1 + 1.0)))) / 2.0;
        assert!((value(&total) - (outcome + 0.25 * step) / 4.0).abs() < 1e-12);
        assert!((sums.outcome_loss - outcome).abs() < 1e-12 && (sums.step_loss - step).abs() < 1e-12);
        assert_eq!((sums.num_chosen, sums.num_rejected), (1.0, 1.0));
        assert_eq!((sums.chosen_rewards, sums.rejected_rewards), (0.25, -0.25));
        assert_eq!((sums.chosen_logprobs, sums.rejected_logprobs), (-3.5, -7.0));
        assert_eq!((sums.num_steps, sums.num_steps_right), (3.0, 3.0));
    }

    #[test]
    fn apo_measures_from_zero() {
        let (logprobs, feedback) = judged();
        let settings = LossSettings {
            loss_type: LossType::ApoZeroUnpaired,
            step_weight: 0.0,
            ..SETTINGS
        };
        let points = ReferencePoints { kl: 9.0, step_kl: 9.0 };
        let expected = 2.0 * (1.0 - sigmoid(0.25)) + 3.0 * sigmoid(-0.25);
        assert!((value(&loss(&logprobs, &feedback, points, &settings, 1).0) - expected).abs() < 1e-12);
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let (logprobs, feedback) = judged();
        let points = ReferencePoints { kl: 0.2, step_kl: 0.1 };
        let of = |at: &Tensor| loss(at, &feedback, points, &SETTINGS, 2).0;
        let leaf = logprobs.copy().set_requires_grad(true);
        of(&leaf).backward();
        for idx in 0..6 {
            let moved = |by: f64| {
                let moved = logprobs.copy();
                let _ = moved.get(idx).g_add_scalar_(by);
                value(&of(&moved))
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((leaf.grad().double_value(&[idx]) - slope).abs() < 1e-9, "part {idx}");
        }
    }

    #[test]
    fn completions_without_judged_steps_have_their_outcome_alone() {
        let logprobs = Tensor::from_slice(&[-1.0, -2.0]);
        let feedback = [Feedback {
            label: true,
            steps: &[None],
            reference: &[-1.0, -2.0],
        }];
        let (total, sums) = loss(&logprobs, &feedback, ReferencePoints::default(), &SETTINGS, 1);
        assert_eq!((value(&total), sums.step_loss, sums.num_steps), (1.0, 0.0, 0.0));
    }
}
