//! Supervised training against PyTorch: loss, gradients, and three AdamW steps on a fixed batch.

use tch::{Device, Kind, Tensor};
use volvelle_torch::lm::CausalLm;
use volvelle_torch::lm::learner::Learner;
use volvelle_torch::lm::optimizer::{AdamwSettings, Decay};
use volvelle_torch::lm::train::{Batch, Example, label_logprobs, supervised_step};

use crate::fixtures::{FAMILIES, Golden, assert_close, from_json, load, vec_i64};

pub const LOSS: f64 = 5e-5;
pub const LEARNING_RATE: f64 = 1e-3;

pub fn examples(golden: &Golden) -> Vec<Example> {
    let tensor = |name: &str| golden.tensor(&format!("sft.{name}"));
    (0..tensor("input_ids").size()[0])
        .map(|row| {
            let len = tensor("attention_mask").get(row).sum(Kind::Int64).int64_value(&[]);
            let part = |name: &str| vec_i64(&tensor(name).get(row).narrow(0, 0, len));
            Example {
                ids: part("input_ids"),
                labels: part("labels"),
            }
        })
        .collect()
}

/// The mean loss over all labels, with gradients.
pub fn loss(model: &CausalLm, examples: &[Example]) -> Tensor {
    let batch = Batch::new(&examples.iter().collect::<Vec<_>>(), Device::Cpu);
    -label_logprobs(model, &batch, 1.0).mean(Kind::Float)
}

pub fn settings(decay: Decay) -> AdamwSettings {
    AdamwSettings {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        decay,
        max_grad_norm: 1.0,
    }
}

#[test]
fn gradients_before_clipping() {
    for name in FAMILIES {
        let (model, golden) = (load(name, Kind::Float), Golden::of_model(name));
        let parameters: Vec<(String, Tensor)> = model
            .named_parameters()
            .into_iter()
            .map(|(key, tensor)| (key, tensor.set_requires_grad(true)))
            .collect();
        loss(&model, &examples(&golden)).backward();
        let norms = &golden.json["sft"]["grad_l2_per_parameter"];
        assert_eq!(
            parameters.len(),
            norms.as_object().expect("an object").len(),
            "{name}: as many parameters"
        );
        for (key, parameter) in &parameters {
            let norm = parameter.grad().norm().double_value(&[]);
            let expected = norms[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{name}: no golden norm of {key}"));
            assert!(
                (norm - expected).abs() <= 5e-5 * expected.max(1.0),
                "{name} {key}: {norm}, expected {expected}"
            );
        }
        for (key, expected) in golden.tensors_under("sft.grad.") {
            let (_, parameter) = parameters
                .iter()
                .find(|(name, _)| name == key)
                .expect("a parameter of that name");
            assert_close(&format!("{name} gradient of {key}"), &parameter.grad(), expected, 5e-5);
        }
    }
}

#[test]
fn three_steps_with_decay_on_every_parameter() {
    for name in FAMILIES {
        let golden = Golden::of_model(name);
        // In one micro-batch, one row at a time, and rows spread over threads: gradients add up.
        for (micro_batch_tokens, num_threads) in [(usize::MAX, 1), (1, 1), (1, 2), (1, 4)] {
            let cut = Cut {
                micro_batch_tokens,
                num_threads,
            };
            let learner = three_steps(name, &golden, Decay::All, cut, &golden.json["sft"]);
            for (key, expected) in golden.tensors_under("sft.after3.") {
                assert_trained(learner.model(), name, key, expected);
            }
        }
    }
}

#[test]
fn three_steps_with_decay_on_matrices_only() {
    for name in FAMILIES {
        let golden = Golden::of_model(name);
        let cut = Cut {
            micro_batch_tokens: usize::MAX,
            num_threads: 1,
        };
        let learner = three_steps(
            name,
            &golden,
            Decay::Matrices,
            cut,
            &golden.json["sft"]["decay_matrices_only"],
        );
        for (key, expected) in golden.tensors_under("sft.after3_decay_matrices_only.") {
            assert_trained(learner.model(), name, key, expected);
        }
    }
}

/// How a batch is divided; it must not matter beyond rounding.
#[derive(Clone, Copy)]
struct Cut {
    micro_batch_tokens: usize,
    num_threads: usize,
}

/// Takes the steps, and compares losses and gradient norms with `expected`.
fn three_steps(name: &str, golden: &Golden, decay: Decay, cut: Cut, expected: &serde_json::Value) -> Learner {
    let examples = examples(golden);
    let rows: Vec<&Example> = examples.iter().collect();
    let (losses, norms): (Vec<f64>, Vec<f64>) = (from_json(&expected["losses"]), from_json(&expected["grad_norms"]));
    let mut learner = Learner::new(&load(name, Kind::Float), settings(decay), cut.num_threads);
    for step in 0..3 {
        let stats = supervised_step(&mut learner, &rows, cut.micro_batch_tokens, LEARNING_RATE).expect("a step");
        let (loss, norm) = (losses[step], norms[step]);
        assert!(
            (stats.loss - loss).abs() <= LOSS,
            "{name} step {step}: loss {}, expected {loss}",
            stats.loss
        );
        let relative = (stats.grad_norm - norm).abs() / norm;
        assert!(
            relative <= 5e-5,
            "{name} step {step}: gradient norm {}, expected {norm}",
            stats.grad_norm
        );
        assert_eq!(stats.num_label_tokens, golden.json["sft"]["supervised_tokens"]);
    }
    let _no_grad = tch::no_grad_guard();
    let last = loss(learner.model(), &examples).double_value(&[]);
    assert!(
        (last - losses[3]).abs() <= LOSS,
        "{name} after three steps: loss {last}, expected {}",
        losses[3]
    );
    learner
}

fn assert_trained(model: &CausalLm, name: &str, key: &str, expected: &Tensor) {
    let parameters = model.named_parameters();
    let (_, got) = parameters
        .iter()
        .find(|(name, _)| name == key)
        .expect("a parameter of that name");
    assert_trained_tensor(&format!("{name} {key}"), got, expected);
}

/// Asserts that 99.9 % of the elements lie within 1e-5, their rms within 5e-6 and the largest within 2e-3.
///
/// AdamW moves an element by about the learning rate however small its gradient, so single elements may differ.
pub fn assert_trained_tensor(what: &str, got: &Tensor, expected: &Tensor) {
    let difference = (got.detach().to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs();
    let share = difference
        .gt(1e-5)
        .to_kind(Kind::Double)
        .mean(Kind::Double)
        .double_value(&[]);
    let rms = difference.square().mean(Kind::Double).sqrt().double_value(&[]);
    let worst = difference.max().double_value(&[]);
    assert!(
        share <= 1e-3 && rms <= 5e-6 && worst <= 2e-3,
        "{what}: {share} over 1e-5, rms {rms}, max {worst}"
    );
}
