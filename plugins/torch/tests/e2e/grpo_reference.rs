//! The GRPO loss against TRL: every variant on fixed numbers, and three updates of a small model.

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use volvelle_torch::lm::CausalLm;
use volvelle_torch::lm::grpo::{
    BatchSize, Completion, Group, GroupBatch, ImportanceSamplingLevel, LossSettings, LossType, Objective, Reference,
    Rollouts, ScaleRewards, advantages, loss, score_old, update,
};
use volvelle_torch::lm::learner::Learner;
use volvelle_torch::lm::lora::LoraParams;
use volvelle_torch::lm::optimizer::{AdamwSettings, Decay};
use volvelle_torch::lm::train::{AdapterDropout, Batch, Compute, Example, IGNORE, label_logits, label_logprobs};

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

fn settings(case: &Value, constants: &Value) -> LossSettings {
    let number = |name: &str| constants[name].as_f64().expect("a number");
    LossSettings {
        loss_type: from_json(&case["loss_type"]),
        importance_sampling_level: match case.get("importance_sampling_level") {
            Some(level) => from_json(level),
            None => ImportanceSamplingLevel::Token,
        },
        use_bias_correction_kl: case["kl_times_ratio"] == true,
        epsilon: number("epsilon_low"),
        epsilon_high: number("epsilon_high"),
        delta: case.get("delta").and_then(Value::as_f64),
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
    for case in cases["cases"].as_array().expect("a list") {
        let what = format!(
            "{} beta {} {} {} {} {}",
            case["loss_type"],
            case["beta"],
            case["scale_rewards"],
            case["old"],
            case["importance_sampling_level"],
            case["kl_times_ratio"]
        );
        let (new, sums, value) = loss_of_rows(&cases, case, 0, 12);
        assert!(
            (value - case["loss"].as_f64().expect("a number")).abs() <= EXACT,
            "{what}: loss {value}"
        );
        assert_close(&what, &new.grad(), &matrix(&case["grad_logprobs_new"]), EXACT);
        let share = |count: f64| count / sums.num_ratios;
        for (metric, got) in [
            ("clip_low", share(sums.clip_low)),
            ("clip_high", share(sums.clip_high)),
            ("kl_mean", sums.kl / sums.num_tokens),
        ] {
            let expected = case["metrics"][metric].as_f64().expect("a number");
            assert!(
                (got - expected).abs() <= 1e-6,
                "{what}: {metric} {got}, expected {expected}"
            );
        }
        num_compared += 1;
    }
    assert_eq!(num_compared, 44);
}

#[test]
fn micro_batches_add_up_to_the_whole() {
    let cases = cases();
    for case in cases["micro_batches"].as_array().expect("a list") {
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

/// Two-sided clipping, by TRL's own loss.
#[test]
fn losses_with_a_bound_on_the_ratio_follow_trl() {
    let path = fixtures_dir().join("grpo/delta.json");
    let bounded: Value = serde_json::from_slice(&std::fs::read(path).expect("the fixture")).expect("valid JSON");
    let (cases, mut num_over) = (cases(), 0.0);
    for case in bounded["cases"].as_array().expect("a list") {
        let what = format!(
            "{} {} beta {} delta {}",
            case["loss_type"], case["importance_sampling_level"], case["beta"], case["delta"]
        );
        let (new, sums, value) = loss_of_rows(&cases, case, 0, 12);
        assert!(
            (value - case["loss"].as_f64().expect("a number")).abs() <= EXACT,
            "{what}: loss {value}"
        );
        assert_close(&what, &new.grad(), &matrix(&case["grad_logprobs_new"]), EXACT);
        if let Some(expected) = case["num_over"].as_f64() {
            assert_eq!(sums.clip_delta, expected, "{what}");
            num_over += expected;
        }
    }
    assert!(num_over > 0.0, "no ratio is bounded, so this shows nothing");
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
    prompts: Vec<Vec<i64>>,
    completions: Vec<Vec<i64>>,
    /// `[B, T]`
    mask: Tensor,
    advantages: Vec<f64>,
}

impl Fixed {
    fn read(json: &Value, scale: ScaleRewards) -> Self {
        let lists = |name: &str| -> Vec<Vec<i64>> { from_json(&json[name]) };
        let real = |ids: &str, mask: &str| -> Vec<Vec<i64>> {
            let kept = |(ids, mask): (Vec<i64>, Vec<i64>)| {
                let pairs = ids.into_iter().zip(mask);
                pairs.filter(|(_, keep)| *keep == 1).map(|(id, _)| id).collect()
            };
            lists(ids).into_iter().zip(lists(mask)).map(kept).collect()
        };
        let rewards: Vec<Vec<f64>> = from_json(&json["rewards"]);
        Self {
            prompts: real("prompt_ids", "prompt_mask"),
            completions: real("completion_ids", "completion_mask"),
            mask: Tensor::from_slice2(&lists("completion_mask")).to_kind(Kind::Float),
            advantages: advantages(&rewards, scale),
        }
    }

    /// Rows of prompt and completion, one behind the other.
    fn rows(&self) -> Batch {
        let examples: Vec<Example> = self.prompts.iter().zip(&self.completions).map(example).collect();
        Batch::new(&examples.iter().collect::<Vec<_>>(), Device::Cpu)
    }

    /// Each prompt with its completions, or again for each completion.
    fn groups(&self, is_shared: bool) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (row, prompt) in self.prompts.iter().enumerate() {
            if !is_shared || groups.last().is_none_or(|group| group.prompt != *prompt) {
                groups.push(Group {
                    prompt: prompt.clone(),
                    completions: Vec::new(),
                });
            }
            let completion = Completion::new(self.completions[row].clone(), self.advantages[row], false);
            groups.last_mut().expect("just pushed").completions.push(completion);
        }
        groups
    }

    fn whole(&self) -> BatchSize {
        BatchSize {
            num_rollouts: self.completions.len(),
            num_tokens: self.completions.iter().map(Vec::len).sum(),
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
        self.spread(&label_logprobs(model, &self.rows(), 1.0))
    }
}

fn example((prompt, completion): (&Vec<i64>, &Vec<i64>)) -> Example {
    Example {
        labels: [vec![IGNORE; prompt.len()], completion.clone()].concat(),
        ids: [prompt.as_slice(), completion].concat(),
    }
}

const NO_DROPOUT: AdapterDropout = AdapterDropout {
    probability: 0.0,
    seed: 0,
};

/// AdamW as the fixture was made with.
const SETTINGS: AdamwSettings = AdamwSettings {
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.0,
    decay: Decay::All,
    max_grad_norm: 1.0,
};

const RUNS: [&str; 3] = ["dapo_kl", "dapo_kl_times_ratio", "dr_grpo"];

#[test]
fn log_probabilities_entropies_and_first_gradients_follow_trl() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    for run in RUNS {
        let expected = &golden.json["runs"][run];
        let fixed = Fixed::read(&golden.json, from_json(&expected["scale"]));
        let model = load("smollm-tied", Kind::Float);
        let old = tch::no_grad(|| fixed.logprobs(&model));
        assert_close(run, &old, golden.tensor("logprobs_old"), 1e-4);
        assert_close(run, &entropy(&model, &fixed), golden.tensor("entropy_before"), 1e-4);
        let wanted: Vec<f64> = from_json(&expected["advantages"]);
        assert_close(
            run,
            &Tensor::from_slice(&fixed.advantages),
            &Tensor::from_slice(&wanted),
            1e-5,
        );
        for (_, tensor) in model.named_parameters() {
            let _ = tensor.set_requires_grad(true);
        }
        let rollouts = Rollouts {
            logprobs: &fixed.logprobs(&model),
            old_logprobs: &old,
            ref_logprobs: Some(&old),
            advantages: &Tensor::from_slice(&fixed.advantages).to_kind(Kind::Float),
            mask: &fixed.mask,
        };
        loss(&rollouts, &settings(expected, &golden.json), fixed.whole())
            .0
            .backward();
        for (key, gradient) in golden.tensors_under(&format!("{run}.grad.")) {
            let what = format!("{run} gradient of {key}");
            assert_close(&what, &parameter(&model, key).grad(), gradient, 1e-4);
        }
    }
}

/// Of all completions, in one chunk of logits or several, whether the gradient is known before the logits or not.
#[test]
fn the_entropy_of_an_update_is_that_of_trl() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    let expected = golden.tensor("entropy_before").sum(Kind::Double).double_value(&[]);
    for run in ["dapo_kl", "dr_grpo"] {
        let fixed = Fixed::read(&golden.json, ScaleRewards::Group);
        let objective = Objective {
            temperature: 1.0,
            settings: settings(&golden.json["runs"][run], &golden.json),
            dropout: NO_DROPOUT,
            log_kl: true,
        };
        let start = load("smollm-tied", Kind::Float);
        let chunked = Compute {
            logits_bytes: 20_000,
            ..Compute::new(60)
        };
        for compute in [Compute::new(usize::MAX), chunked] {
            let mut learner = Learner::new(&load("smollm-tied", Kind::Float), SETTINGS, 2);
            let reference = (run == "dapo_kl").then_some(Reference::Model(&start));
            let mut groups = fixed.groups(true);
            let done = update(&mut learner, &objective, reference, &mut groups, &compute, 1e-4).expect("a step");
            assert_eq!(done.sums.num_tokens as usize, fixed.whole().num_tokens);
            let off = (done.entropy - expected).abs() / expected;
            assert!(off <= 1e-5, "{run}, {compute:?}: {}, expected {expected}", done.entropy);
        }
    }
}

#[test]
fn three_updates_of_a_model_follow_trl() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    // Each prompt once, once for each completion, one completion at a time, and spread over threads.
    let ways = [
        (true, Compute::new(usize::MAX), 1),
        (false, Compute::new(usize::MAX), 1),
        (true, Compute::new(1), 2),
        (
            true,
            Compute {
                gradient_checkpointing: true,
                logits_bytes: 20_000,
                ..Compute::new(60)
            },
            2,
        ),
    ];
    for run in RUNS {
        for (is_shared, compute, num_threads) in ways {
            let what = format!("{run}, prompts once: {is_shared}, {compute:?}");
            three_updates(&golden, run, is_shared, &compute, num_threads, &what);
        }
    }
}

fn three_updates(golden: &Golden, run: &str, is_shared: bool, compute: &Compute, num_threads: usize, what: &str) {
    let expected = &golden.json["runs"][run];
    let fixed = Fixed::read(&golden.json, from_json(&expected["scale"]));
    let num_tokens = fixed.whole().num_tokens as f64;
    let objective = Objective {
        temperature: 1.0,
        settings: settings(expected, &golden.json),
        dropout: NO_DROPOUT,
        log_kl: false,
    };
    let start = load("smollm-tied", Kind::Float);
    let mut learner = Learner::new(&load("smollm-tied", Kind::Float), SETTINGS, num_threads);
    let mut groups = fixed.groups(is_shared);
    // The loss of dr_grpo has no KL term; the fixture still reports none there.
    let reference = (objective.settings.beta != 0.0).then_some(Reference::Model(&start));
    for (step, wanted) in expected["steps"].as_array().expect("a list").iter().enumerate() {
        let number = |name: &str| wanted[name].as_f64().expect("a number");
        let done = update(&mut learner, &objective, reference, &mut groups, compute, 2e-4).expect("the step is taken");
        assert!(
            (done.loss - number("loss")).abs() <= 1e-4,
            "{what}, step {step}: loss {}, expected {}",
            done.loss,
            number("loss")
        );
        let relative = (done.grad_norm - number("grad_norm")).abs() / number("grad_norm");
        assert!(
            relative <= 1e-3,
            "{what}, step {step}: gradient norm {}, expected {}",
            done.grad_norm,
            number("grad_norm")
        );
        for (metric, got) in [("clip_low", done.sums.clip_low), ("clip_high", done.sums.clip_high)] {
            let off = (got / num_tokens - number(metric)).abs();
            assert!(
                off <= 1.01 / num_tokens,
                "{what}, step {step}: {metric} is off by {off}"
            );
        }
        if reference.is_some() {
            let off = (done.sums.kl / num_tokens - number("kl_mean")).abs();
            assert!(off <= 1e-4, "{what}, step {step}: KL is off by {off}");
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
            "{what} {key}: {over} of the elements are off by more than 1e-5"
        );
        assert!(max_difference(key, &got, wanted) <= 2e-3, "{what} {key}");
    }
    let after = tch::no_grad(|| fixed.logprobs(model));
    assert_close(what, &after, golden.tensor(&format!("{run}.logprobs_after3")), 1e-3);
}

fn parameter(model: &CausalLm, key: &str) -> Tensor {
    let found = model.named_parameters().into_iter().find(|(name, _)| name == key);
    found.expect("a parameter of that name").1
}

/// The entropy at each completion token, `[B, T]`.
fn entropy(model: &CausalLm, fixed: &Fixed) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let logprobs = label_logits(model, &fixed.rows()).log_softmax(-1, Kind::Float);
    fixed.spread(&-(logprobs.exp() * &logprobs).sum_dim_intlist(-1, false, Kind::Float))
}

/// Windows that some tokens of the prompt are outside of.
fn windowed(mut model: CausalLm, window: Option<i64>) -> CausalLm {
    model.config.sliding_windows.fill(window);
    model
}

#[test]
fn prompts_computed_once_give_the_logprobs_and_gradients_of_separate_rows() {
    let groups: [(&[i64], Vec<&[i64]>); 3] = [
        (
            &[5, 9, 17, 3, 101, 44],
            vec![&[7, 8, 9], &[], &[10, 11, 12, 13, 14], &[300]],
        ),
        (&[33], vec![&[4, 5], &[6, 7]]),
        (&[60, 61, 62], vec![&[63, 64]]),
    ];
    let examples: Vec<Example> = groups
        .iter()
        .flat_map(|(prompt, list)| {
            list.iter()
                .map(|completion| example((&prompt.to_vec(), &completion.to_vec())))
        })
        .filter(|example| example.num_labels() > 0)
        .collect();
    for name in ["llama3-gqa", "smollm-tied", "qwen2-bias-tied", "qwen3-qknorm"] {
        for window in [None, Some(3), Some(7), Some(100)] {
            let what = format!("{name}, window {window:?}");
            let model = windowed(load(name, Kind::Float), window);
            let (rows, shared) = (model.trainable_alias(), model.trainable_alias());
            let batch = Batch::new(&examples.iter().collect::<Vec<_>>(), Device::Cpu);
            let expected = label_logprobs(&rows, &batch, 0.7);
            let joined = GroupBatch::new(&groups, Device::Cpu);
            let logits = shared.logits(&joined.predictors(&shared)) / 0.7;
            let got = logits
                .log_softmax(-1, Kind::Float)
                .gather(-1, &joined.batch.targets.unsqueeze(-1), false)
                .squeeze_dim(-1);
            assert_close(&what, &got, &expected, 1e-4);
            let weights = Tensor::arange(got.size()[0], (Kind::Float, Device::Cpu)) / 10.0 - 0.5;
            (expected * &weights).sum(Kind::Float).backward();
            (got * &weights).sum(Kind::Float).backward();
            let pairs = rows.named_parameters().into_iter().zip(shared.named_parameters());
            for ((key, rows), (_, shared)) in pairs {
                assert_close(
                    &format!("{what}, gradient of {key}"),
                    &shared.grad(),
                    &rows.grad(),
                    5e-5,
                );
            }
        }
    }
}

#[test]
fn a_second_pass_over_rollouts_uses_the_policy_that_sampled_them() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    let fixed = Fixed::read(&golden.json, ScaleRewards::Group);
    let objective = Objective {
        temperature: 1.0,
        settings: settings(&golden.json["runs"]["dr_grpo"], &golden.json),
        dropout: NO_DROPOUT,
        log_kl: false,
    };
    let compute = Compute::new(64);
    let learner = |kind| Learner::new(&load("smollm-tied", kind), SETTINGS, 1);
    // Noted by the first step on the way, or by a pass of their own before it.
    let (mut noted, mut scored) = (fixed.groups(true), fixed.groups(true));
    let (mut first, mut second) = (learner(Kind::Float), learner(Kind::Float));
    score_old(second.model(), &objective, &mut scored, &compute).expect("scores");
    for step in 0..2 {
        let take = |learner: &mut Learner, groups: &mut [Group]| {
            update(learner, &objective, None, groups, &compute, 2e-4).expect("a step")
        };
        let (a, b) = (take(&mut first, &mut noted), take(&mut second, &mut scored));
        assert!((a.loss - b.loss).abs() <= 1e-5 && (a.grad_norm - b.grad_norm).abs() <= 1e-4 * b.grad_norm);
        let mean_ratio = a.sums.ratio / a.sums.num_ratios;
        assert_eq!(
            step == 0,
            mean_ratio == 1.0,
            "step {step}: the mean ratio is {mean_ratio}"
        );
    }
    let of = |groups: &[Group]| -> Vec<f32> {
        let completions = groups.iter().flat_map(|group| &group.completions);
        completions
            .flat_map(|it| it.old_logprobs.clone().expect("noted"))
            .collect()
    };
    assert_close(
        "old log-probabilities",
        &Tensor::from_slice(&of(&noted)),
        &Tensor::from_slice(&of(&scored)),
        1e-5,
    );
}

/// Completions without an advantage have no gradient, but their tokens are divided by (TRL's `_compute_loss`).
#[test]
fn a_step_does_not_depend_on_how_it_is_cut_nor_on_what_is_left_out_of_the_computation() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    let mut fixed = Fixed::read(&golden.json, ScaleRewards::Group);
    fixed.advantages[0] = 0.0;
    fixed.advantages[5] = 0.0;
    for name in ["grpo", "bnpo", "dr_grpo", "dapo"] {
        let objective = Objective {
            temperature: 1.0,
            settings: LossSettings {
                loss_type: from_json(&Value::from(name)),
                ..settings(&golden.json["runs"]["dr_grpo"], &golden.json)
            },
            dropout: NO_DROPOUT,
            log_kl: false,
        };
        let model = load("smollm-tied", Kind::Float).trainable_alias();
        let logprobs = fixed.logprobs(&model);
        let rollouts = Rollouts {
            logprobs: &logprobs,
            old_logprobs: &logprobs.detach(),
            ref_logprobs: None,
            advantages: &Tensor::from_slice(&fixed.advantages).to_kind(Kind::Float),
            mask: &fixed.mask,
        };
        let (whole, _) = loss(&rollouts, &objective.settings, fixed.whole());
        whole.backward();
        let parameters = model.named_parameters();
        let squares = parameters
            .iter()
            .map(|(_, tensor)| tensor.grad().square().sum(Kind::Double));
        let norm = squares.map(|square| square.double_value(&[])).sum::<f64>().sqrt();
        for tokens in [1, 40, usize::MAX] {
            let mut learner = Learner::new(&load("smollm-tied", Kind::Float), SETTINGS, 1);
            let compute = Compute::new(tokens);
            let done = update(&mut learner, &objective, None, &mut fixed.groups(true), &compute, 1e-4).expect("a step");
            assert!(
                (done.grad_norm - norm).abs() <= 1e-4 * norm && (done.loss - whole.double_value(&[])).abs() <= 1e-5,
                "{name} with {tokens} tokens at once: {done:?}, expected the norm {norm} of {whole:?}"
            );
        }
    }
}

#[test]
fn what_adapters_drop_does_not_depend_on_how_a_step_is_cut() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    let fixed = Fixed::read(&golden.json, ScaleRewards::Group);
    let run = |compute: &Compute, dropout| {
        let params = LoraParams {
            use_peft: true,
            lora_r: 4,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            lora_target_modules: Some(vec!["all-linear".to_owned()]),
            use_rslora: false,
        };
        let model = params.begin(load("smollm-tied", Kind::Float), 3).expect("an adapter").0;
        let objective = Objective {
            temperature: 1.0,
            settings: settings(&golden.json["runs"]["dr_grpo"], &golden.json),
            dropout,
            log_kl: false,
        };
        let mut learner = Learner::new(&model, SETTINGS, 2);
        let mut groups = fixed.groups(true);
        let mut step = || {
            update(&mut learner, &objective, None, &mut groups, compute, 1e-2)
                .expect("a step")
                .grad_norm
        };
        // B is 0 before the first.
        [step(), step()]
    };
    let dropout = |seed| AdapterDropout { probability: 0.3, seed };
    let whole = run(&Compute::new(usize::MAX), dropout(1));
    let in_segments = Compute {
        gradient_checkpointing: true,
        ..Compute::new(1)
    };
    for compute in [Compute::new(1), Compute::new(60), in_segments] {
        let cut = run(&compute, dropout(1));
        for (whole, cut) in whole.iter().zip(cut) {
            assert!(
                (whole - cut).abs() <= 1e-4 * whole,
                "{compute:?}: {cut}, expected {whole}"
            );
        }
    }
    for other in [dropout(2), NO_DROPOUT] {
        let other = run(&Compute::new(usize::MAX), other);
        assert!((whole[0] - other[0]).abs() > 1e-3 * whole[0], "{whole:?} {other:?}");
    }
}

#[test]
fn a_step_without_an_advantage_still_moves_by_momentum_and_decay() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    let fixed = Fixed::read(&golden.json, ScaleRewards::Group);
    let objective = Objective {
        temperature: 1.0,
        settings: settings(&golden.json["runs"]["dr_grpo"], &golden.json),
        dropout: NO_DROPOUT,
        log_kl: false,
    };
    let mut learner = Learner::new(&load("smollm-tied", Kind::Float), SETTINGS, 2);
    let compute = Compute::new(64);
    update(&mut learner, &objective, None, &mut fixed.groups(true), &compute, 2e-4).expect("a step");
    let key = "model.norm.weight";
    let before = parameter(learner.model(), key).detach().copy();
    let mut flat = fixed.groups(true);
    for completion in flat.iter_mut().flat_map(|group| &mut group.completions) {
        completion.advantage = 0.0;
    }
    let done = update(&mut learner, &objective, None, &mut flat, &compute, 2e-4).expect("a step");
    assert_eq!((done.loss, done.grad_norm), (0.0, 0.0));
    assert!(max_difference(key, &parameter(learner.model(), key), &before) > 1e-5);
}

#[test]
fn the_reference_of_an_adapter_is_its_model_without_it() {
    let golden = Golden::read(&fixtures_dir().join("grpo"), "e2e");
    let fixed = Fixed::read(&golden.json, ScaleRewards::Group);
    let objective = Objective {
        temperature: 1.0,
        settings: settings(&golden.json["runs"]["dapo_kl"], &golden.json),
        dropout: NO_DROPOUT,
        log_kl: false,
    };
    let base = load("smollm-tied", Kind::Float);
    let params = LoraParams {
        use_peft: true,
        lora_r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.0,
        lora_target_modules: Some(vec!["all-linear".to_owned()]),
        use_rslora: false,
    };
    let model = || params.begin(load("smollm-tied", Kind::Float), 3).expect("an adapter").0;
    let run = |reference: Reference<'_>| {
        let mut learner = Learner::new(&model(), SETTINGS, 2);
        let mut groups = fixed.groups(true);
        let compute = Compute::new(64);
        let mut step =
            || update(&mut learner, &objective, Some(reference), &mut groups, &compute, 1e-2).expect("a step");
        let updates = [step(), step(), step()];
        updates.map(|update| (update.loss, update.grad_norm, update.sums.kl))
    };
    let (off, copy) = (run(Reference::WithoutAdapters), run(Reference::Model(&base)));
    assert_eq!(off, copy);
    assert!(
        off[0].2.abs() <= 1e-6 && off[2].2 > 1e-4,
        "the policy leaves its reference: {off:?}"
    );
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
