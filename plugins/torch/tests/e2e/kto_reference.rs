//! KTO against TRL, and Step-KTO against a plain loop: four updates of a small model (`tests/fixtures/kto`).

use serde_json::Value;
use tch::{Device, Kind};
use volvelle_torch::lm::CausalLm;
use volvelle_torch::lm::kto::{Item, LossSettings, Mismatched, Objective, Sequence, Update, mismatched, score, update};
use volvelle_torch::lm::learner::Learner;
use volvelle_torch::lm::optimizer::{AdamwSettings, Decay};
use volvelle_torch::lm::train::{AdapterDropout, Compute};

use crate::fixtures::{fixtures_dir, from_json, load};

/// Sums of float32 log-probabilities; AdamW turns what is left of a gradient near 0 into a whole step.
const FIRST: f64 = 2e-5;
const LATER: f64 = 2e-3;

fn golden() -> Value {
    let path = fixtures_dir().join("kto/kto.json");
    serde_json::from_slice(&std::fs::read(path).expect("the fixture is there")).expect("valid JSON")
}

fn number(value: &Value, name: &str) -> f64 {
    value[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no number {name} in {value}"))
}

fn settings(case: &Value) -> LossSettings {
    LossSettings {
        loss_type: from_json(&case["loss_type"]),
        beta: number(case, "beta"),
        desirable_weight: number(case, "desirable_weight"),
        undesirable_weight: number(case, "undesirable_weight"),
        step_weight: number(case, "step_weight"),
    }
}

/// The items of the fixture with what a reference makes of them, and the pairs that do not belong together.
fn data(golden: &Value, reference: &CausalLm) -> (Vec<Item>, Vec<Mismatched>) {
    let compute = Compute::new(64);
    let scored = |sequence: &Sequence| score(reference, &[sequence], &compute).expect("it is scored").remove(0);
    let items: Vec<Item> = golden["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| {
            let (prompt, completion): (Vec<i64>, Vec<i64>) =
                (from_json(&item["prompt"]), from_json(&item["completion"]));
            let steps: Vec<(usize, usize, Option<bool>)> = from_json(&item["steps"]);
            let step_of = |at: usize| steps.iter().position(|&(from, to, _)| (from..to).contains(&at));
            let of_tokens: Vec<Option<usize>> = (0..completion.len()).map(step_of).collect();
            let sequence = Sequence::new(&prompt, &completion, &of_tokens, steps.len()).expect("there is a prompt");
            Item {
                reference: scored(&sequence),
                sequence,
                label: from_json(&item["label"]),
                steps: steps.iter().map(|step| step.2).collect(),
            }
        })
        .collect();
    let prompts: Vec<usize> = (0..items.len()).collect();
    let pair = |(own, other): (usize, usize)| {
        let sequence = items[own].sequence.followed_by(&items[other].sequence, 100);
        Mismatched {
            reference: scored(&sequence),
            sequence,
        }
    };
    let pairs = mismatched(&prompts).into_iter().enumerate().map(pair).collect();
    (items, pairs)
}

fn learner(model: &CausalLm, num_threads: usize) -> Learner {
    let settings = AdamwSettings {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        decay: Decay::Matrices,
        max_grad_norm: 1.0,
    };
    Learner::new(model, settings, num_threads)
}

fn objective(case: &Value) -> Objective {
    Objective {
        settings: settings(case),
        dropout: AdapterDropout {
            probability: 0.0,
            seed: 0,
        },
    }
}

#[track_caller]
fn assert_near(what: &str, got: f64, expected: f64, bound: f64) {
    let allowed = bound * expected.abs().max(1.0);
    assert!((got - expected).abs() <= allowed, "{what}: {got}, expected {expected}");
}

fn assert_as_trl(what: &str, step: usize, got: &Update, expected: &Value) {
    let bound = if step == 0 { FIRST } else { LATER };
    let (sums, count) = (&got.sums, got.sums.num_chosen + got.sums.num_rejected);
    for (name, value) in [
        ("loss", got.loss),
        ("outcome_loss", sums.outcome_loss / count),
        ("rewards/chosen", sums.chosen_rewards / sums.num_chosen),
        ("rewards/rejected", sums.rejected_rewards / sums.num_rejected),
        ("logps/chosen", sums.chosen_logprobs / sums.num_chosen),
        ("logps/rejected", sums.rejected_logprobs / sums.num_rejected),
        ("kl", got.points.kl),
    ] {
        assert_near(
            &format!("{what}, step {step}, {name}"),
            value,
            number(expected, name),
            bound,
        );
    }
    // Not clipped, so it shows errors that the update would hide.
    assert_near(
        &format!("{what}, step {step}, grad_norm"),
        got.grad_norm,
        number(expected, "grad_norm"),
        4.0 * bound,
    );
}

#[test]
fn updates_are_those_of_trl_and_of_a_plain_loop() {
    let golden = golden();
    for case in golden["cases"].as_array().expect("a list") {
        let name = case["name"].as_str().expect("a name");
        for (num_threads, micro_batch_tokens) in [(1, 1000), (2, 1)] {
            let model = load("llama3-gqa", Kind::Float);
            let (items, pairs) = data(
                &golden,
                &load(case["reference"].as_str().expect("a folder"), Kind::Float),
            );
            let mut learner = learner(&model, num_threads);
            let compute = Compute::new(micro_batch_tokens);
            for (step, expected) in case["steps"].as_array().expect("a list").iter().enumerate() {
                let learning_rate = number(&golden, "learning_rate");
                let done = update(&mut learner, &objective(case), &items, &pairs, &compute, learning_rate);
                let done = done.expect("a step");
                assert_as_trl(name, step, &done, expected);
                if number(case, "step_weight") > 0.0 {
                    let bound = if step == 0 { FIRST } else { LATER };
                    let count = items.len() as f64;
                    assert_near(name, done.sums.step_loss / count, number(expected, "step_loss"), bound);
                    assert_near(name, done.points.step_kl, number(expected, "step_kl"), bound);
                }
            }
            for (parameter, tensor) in model.named_parameters() {
                let norm = tensor.norm().double_value(&[]);
                let expected = number(&case["parameter_norms"], &parameter);
                assert_near(&format!("{name}, {parameter}"), norm, expected, 1e-4);
            }
        }
    }
}

#[test]
fn keeping_less_changes_the_gradient_by_rounding_only() {
    let golden = golden();
    let case = golden["cases"]
        .as_array()
        .and_then(|cases| cases.last())
        .expect("a case");
    let norm = |compute: Compute| {
        let model = load("llama3-gqa", Kind::Float);
        let (items, pairs) = data(&golden, &load("llama3-gqa-bf16", Kind::Float));
        let mut learner = learner(&model, 1);
        update(&mut learner, &objective(case), &items, &pairs, &compute, 0.0)
            .expect("a step")
            .grad_norm
    };
    let plain = norm(Compute::new(1000));
    let little = Compute {
        gradient_checkpointing: true,
        logits_bytes: 1,
        ..Compute::new(1)
    };
    assert_near("grad_norm", norm(little), plain, 1e-5);
}

#[test]
fn a_model_that_is_its_own_reference_gains_nothing() {
    let golden = golden();
    let model = load("llama3-gqa", Kind::Float);
    let (items, pairs) = data(&golden, &model);
    let done = update(
        &mut learner(&model, 1),
        &objective(&golden["cases"][3]),
        &items,
        &pairs,
        &Compute::new(64),
        0.0,
    )
    .expect("a step");
    // Half of each weight, for the outcome and for the steps of four of five completions.
    assert_near("loss", done.loss, 0.5 + 0.5 * 0.8, 1e-6);
    assert!(done.points.kl < 1e-4, "{:?}", done.points);
    assert_eq!(model.device(), Device::Cpu);
}
