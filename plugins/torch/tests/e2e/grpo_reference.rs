//! The GRPO loss against TRL: every variant on fixed numbers, and three updates of a small model.

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use volvelle_torch::lm::CausalLm;
use volvelle_torch::lm::grpo::{BatchSize, LossSettings, LossType, Rollouts, ScaleRewards, advantages, loss};
use volvelle_torch::lm::learner::Learner;
use volvelle_torch::lm::optimizer::{AdamwSettings, Decay};
use volvelle_torch::lm::train::{Batch, Example, IGNORE, label_logits, label_logprobs};

use crate::fixtures::{Golden, assert_close, fixtures_dir, from_json, load, max_difference};

/// float64 inputs with six decimals.
const EXACT: f64 = 1e-9;

fn cases() -> Value {
    let path = fixtures_dir().join("grpo/cases.json");
    serde_json::from_slice(&std::fs::read(path).expect("the cases are in the fixtures")).expect("valid JSON")
}

fn matrix(value: &Value) -> Tensor {
    let rows: Vec<Vec<f64>> = from_json(value);
    Tensor::from_slice2(&rows)
}

/// The variants that the loss has: ratios per token and the classic KL term.
fn is_covered(case: &Value) -> bool {
    case["importance_sampling_level"].as_str().unwrap_or("token") == "token" && case["kl_times_ratio"] != true
}

fn settings(case: &Value, constants: &Value) -> LossSettings {
    let number = |name: &str| constants[name].as_f64().expect("a number");
    LossSettings {
        loss_type: from_json(&case["loss_type"]),
        epsilon: number("epsilon_low"),
        epsilon_high: number("epsilon_high"),
        beta: case["beta"].as_f64().expect("a number"),
        max_completion_length: number("max_completion_length") as usize,
    }
}

#[test]
fn advantages_of_groups() {
    let cases = cases();
    let rewards: Vec<Vec<f64>> = from_json(&cases["inputs"]["rewards"]);
    for (name, scale) in [
        ("group", ScaleRewards::Group),
        ("batch", ScaleRewards::Batch),
        ("none", ScaleRewards::None),
    ] {
        let expected: Vec<f64> = from_json(&cases["advantages"][name]);
        assert_close(
            name,
            &Tensor::from_slice(&advantages(&rewards, scale)),
            &Tensor::from_slice(&expected),
            EXACT,
        );
    }
}

#[test]
fn losses_gradients_and_metrics_of_all_variants() {
    let cases = cases();
    let mut num_compared = 0;
    for case in cases["cases"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|case| is_covered(case))
    {
        let what = format!(
            "{} beta {} {} {}",
            case["loss_type"], case["beta"], case["scale_rewards"], case["old"]
        );
        let (new, sums, value) = loss_of_rows(&cases, case, 0, 12);
        assert!(
            (value - case["loss"].as_f64().expect("a number")).abs() <= EXACT,
            "{what}: loss {value}"
        );
        assert_close(&what, &new.grad(), &matrix(&case["grad_logprobs_new"]), EXACT);
        let share = |count: f64| count / sums.num_tokens;
        for (metric, got) in [
            ("clip_low", share(sums.clip_low)),
            ("clip_high", share(sums.clip_high)),
            ("kl_mean", share(sums.kl)),
        ] {
            let expected = case["metrics"][metric].as_f64().expect("a number");
            assert!(
                (got - expected).abs() <= 1e-6,
                "{what}: {metric} {got}, expected {expected}"
            );
        }
        num_compared += 1;
    }
    assert!(num_compared >= 20, "only {num_compared} cases were compared");
}

#[test]
fn micro_batches_add_up_to_the_whole() {
    let cases = cases();
    for case in cases["micro_batches"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|case| is_covered(case))
    {
        let what = format!("{} beta {}", case["loss_type"], case["beta"]);
        let losses: Vec<f64> = from_json(&case["losses"]);
        let mut gradients = Vec::new();
        for (part, expected) in losses.iter().enumerate() {
            let (new, _, value) = loss_of_rows(&cases, case, 6 * part as i64, 6);
            assert!(
                (value - expected).abs() <= EXACT,
                "{what} part {part}: {value}, expected {expected}"
            );
            gradients.push(new.grad());
        }
        assert_close(
            &what,
            &Tensor::cat(&gradients, 0),
            &matrix(&case["grad_logprobs_new"]),
            EXACT,
        );
    }
}

/// The loss of `count` rows from `start` on as a part of all twelve, with the logprobs that got the gradient.
fn loss_of_rows(
    cases: &Value,
    case: &Value,
    start: i64,
    count: i64,
) -> (Tensor, volvelle_torch::lm::grpo::LossSums, f64) {
    let rows = |name: &str| matrix(&cases["inputs"][name]).narrow(0, start, count);
    let scale = case["scale_rewards"].as_str().expect("a name");
    let all_advantages: Vec<f64> = from_json(&cases["advantages"][scale]);
    let num_tokens = matrix(&cases["inputs"]["mask"]).sum(Kind::Double).double_value(&[]) as usize;
    let new = rows("logprobs_new").copy().set_requires_grad(true);
    let old = if case["old"].as_str().unwrap_or("logprobs_old") == "logprobs_old" {
        rows("logprobs_old")
    } else {
        new.detach()
    };
    let rollouts = Rollouts {
        logprobs: &new,
        old_logprobs: &old,
        ref_logprobs: Some(&rows("logprobs_ref")),
        advantages: &Tensor::from_slice(&all_advantages).narrow(0, start, count),
        mask: &rows("mask"),
    };
    let (value, sums) = loss(
        &rollouts,
        &settings(case, &cases["constants"]),
        BatchSize {
            num_rollouts: 12,
            num_tokens,
        },
    );
    value.backward();
    let value = value.double_value(&[]);
    (new, sums, value)
}

/// The fixed completions of the end-to-end fixture.
struct Fixed {
    batch: Batch,
    /// `[B, T]`
    mask: Tensor,
}

impl Fixed {
    fn read(json: &Value) -> Self {
        let lists = |name: &str| -> Vec<Vec<i64>> { from_json(&json[name]) };
        let (prompt_ids, prompt_mask) = (lists("prompt_ids"), lists("prompt_mask"));
        let (completion_ids, completion_mask) = (lists("completion_ids"), lists("completion_mask"));
        let real = |ids: &[i64], mask: &[i64]| -> Vec<i64> {
            ids.iter()
                .zip(mask)
                .filter(|(_, keep)| **keep == 1)
                .map(|(id, _)| *id)
                .collect()
        };
        let examples: Vec<Example> = (0..prompt_ids.len())
            .map(|row| {
                let prompt = real(&prompt_ids[row], &prompt_mask[row]);
                let completion = real(&completion_ids[row], &completion_mask[row]);
                Example {
                    labels: [vec![IGNORE; prompt.len()], completion.clone()].concat(),
                    ids: [prompt, completion].concat(),
                }
            })
            .collect();
        Self {
            batch: Batch::new(&examples.iter().collect::<Vec<_>>(), Device::Cpu),
            mask: Tensor::from_slice2(&completion_mask).to_kind(Kind::Float),
        }
    }

    fn share(&self) -> Self {
        let tensors = [
            &self.batch.input_ids,
            &self.batch.positions,
            &self.batch.predictors,
            &self.batch.targets,
        ];
        let [input_ids, positions, predictors, targets] = tensors.map(Tensor::shallow_clone);
        Self {
            batch: Batch {
                input_ids,
                positions,
                lengths: self.batch.lengths.clone(),
                predictors,
                targets,
            },
            mask: self.mask.shallow_clone(),
        }
    }

    /// Spreads one number per completion token over `[B, T]`; 0 where the mask is.
    fn spread(&self, flat: &Tensor) -> Tensor {
        let places = self.mask.flatten(0, 1).nonzero().squeeze_dim(-1);
        Tensor::zeros([self.mask.numel() as i64], (Kind::Float, Device::Cpu))
            .index_put(&[Some(places)], flat, false)
            .view_as(&self.mask)
    }

    fn logprobs(&self, model: &CausalLm) -> Tensor {
        self.spread(&label_logprobs(model, &self.batch, 1.0))
    }
}

/// AdamW as the fixture was made with.
const SETTINGS: AdamwSettings = AdamwSettings {
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.0,
    decay: Decay::All,
    max_grad_norm: 1.0,
};

#[test]
fn three_updates_of_a_model_follow_trl() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    let fixed = Fixed::read(&golden.json);
    let num_tokens = fixed.mask.sum(Kind::Double).double_value(&[]);
    let whole = BatchSize {
        num_rollouts: 8,
        num_tokens: num_tokens as usize,
    };
    for run in ["dapo_kl", "dr_grpo"] {
        let expected = &golden.json["runs"][run];
        let start = load("smollm-tied", Kind::Float);
        let old = tch::no_grad(|| fixed.logprobs(&start));
        assert_close(run, &old, golden.tensor("logprobs_old"), 1e-4);
        assert_close(run, &entropy(&start, &fixed), golden.tensor("entropy_before"), 1e-4);

        let rewards: Vec<Vec<f64>> = from_json(&golden.json["rewards"]);
        let scale: ScaleRewards = from_json(&expected["scale"]);
        let advantages = Tensor::from_slice(&advantages(&rewards, scale)).to_kind(Kind::Float);
        let wanted: Vec<f64> = from_json(&expected["advantages"]);
        assert_close(run, &advantages, &Tensor::from_slice(&wanted), 1e-5);
        let loss_settings = settings(expected, &golden.json);
        let loss_of = |logprobs: &Tensor| {
            let (old_logprobs, ref_logprobs) = (&old, Some(&old));
            let rollouts = Rollouts {
                logprobs,
                old_logprobs,
                ref_logprobs,
                advantages: &advantages,
                mask: &fixed.mask,
            };
            loss(&rollouts, &loss_settings, whole)
        };

        // A model of its own for the gradients before clipping: the learner clips them in place.
        let fresh = load("smollm-tied", Kind::Float);
        for (_, tensor) in fresh.named_parameters() {
            let _ = tensor.set_requires_grad(true);
        }
        loss_of(&fixed.logprobs(&fresh)).0.backward();
        for (key, gradient) in golden.tensors_under(&format!("{run}.grad.")) {
            assert_close(
                &format!("{run} gradient of {key}"),
                &parameter(&fresh, key).grad(),
                gradient,
                1e-4,
            );
        }

        let mut learner = Learner::new(&start, SETTINGS, 1);
        for (step, wanted) in expected["steps"].as_array().expect("a list").iter().enumerate() {
            let what = format!("{run} step {step}");
            let number = |name: &str| wanted[name].as_f64().expect("a number");
            // Handed over as data: tensors can be sent to a thread, not shared with one.
            let parts = vec![(fixed.share(), old.shallow_clone(), advantages.shallow_clone())];
            let (outcome, norm) = learner
                .step(parts, 2e-4, |model, (fixed, old, advantages)| {
                    let logprobs = fixed.logprobs(model);
                    let rollouts = Rollouts {
                        logprobs: &logprobs,
                        old_logprobs: &old,
                        ref_logprobs: Some(&old),
                        advantages: &advantages,
                        mask: &fixed.mask,
                    };
                    let (value, sums) = loss(&rollouts, &loss_settings, whole);
                    value.backward();
                    Ok((value.double_value(&[]), sums))
                })
                .expect("the step is taken");
            let (value, sums) = outcome[0];
            assert!(
                (value - number("loss")).abs() <= 1e-4,
                "{what}: loss {value}, expected {}",
                number("loss")
            );
            let relative = (norm - number("grad_norm")).abs() / number("grad_norm");
            assert!(
                relative <= 1e-3,
                "{what}: gradient norm {norm}, expected {}",
                number("grad_norm")
            );
            for (metric, got) in [("clip_low", sums.clip_low), ("clip_high", sums.clip_high)] {
                let off = (got / num_tokens - number(metric)).abs();
                assert!(off <= 1.01 / num_tokens, "{what}: {metric} is off by {off}");
            }
        }
        let model = learner.model();
        for (key, wanted) in golden.tensors_under(&format!("{run}.after3.")) {
            let got = parameter(model, key).detach();
            let over = (&got - wanted)
                .abs()
                .gt(1e-5)
                .to_kind(Kind::Float)
                .mean(Kind::Float)
                .double_value(&[]);
            assert!(
                over <= 1e-3,
                "{run} {key}: {over} of the elements are off by more than 1e-5"
            );
            assert!(max_difference(key, &got, wanted) <= 2e-3, "{run} {key}");
        }
        let after = tch::no_grad(|| fixed.logprobs(model));
        assert_close(run, &after, golden.tensor(&format!("{run}.logprobs_after3")), 1e-3);
    }
}

fn parameter(model: &CausalLm, key: &str) -> Tensor {
    let found = model.named_parameters().into_iter().find(|(name, _)| name == key);
    found.expect("a parameter of that name").1
}

/// The entropy at each completion token, `[B, T]`.
fn entropy(model: &CausalLm, fixed: &Fixed) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let logprobs = label_logits(model, &fixed.batch).log_softmax(-1, Kind::Float);
    fixed.spread(&-(logprobs.exp() * &logprobs).sum_dim_intlist(-1, false, Kind::Float))
}

#[test]
fn loss_types_are_read_by_trls_names() {
    let names = [
        ("grpo", LossType::Grpo),
        ("bnpo", LossType::Bnpo),
        ("dr_grpo", LossType::DrGrpo),
        ("dapo", LossType::Dapo),
    ];
    for (name, expected) in names {
        assert_eq!(from_json::<LossType>(&Value::from(name)), expected);
    }
}
