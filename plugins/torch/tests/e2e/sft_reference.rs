//! Supervised training against PyTorch: loss, gradients, and three AdamW steps on a fixed batch.

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use volvelle_torch::lm::learner::Learner;
use volvelle_torch::lm::optimizer::{AdamwSettings, Decay};
use volvelle_torch::lm::train::{
    Batch, Compute, Example, backward_cross_entropy, backward_through_logprobs, evaluate, label_logprobs, score,
    supervised_step,
};
use volvelle_torch::lm::{self, CausalLm};

use crate::commands::{error_of, lines_of, volvelle_torch};
use crate::fixtures::{FAMILIES, Golden, assert_close, from_json, load, model_dir, vec_i64};

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

/// Ways to compute that must give the same: everything kept, layers computed twice, a few rows of logits at a time.
fn ways() -> [Compute; 3] {
    let plain = Compute::new(usize::MAX);
    [
        plain,
        Compute {
            gradient_checkpointing: true,
            ..plain
        },
        Compute {
            micro_batch_tokens: 1,
            gradient_checkpointing: true,
            logits_bytes: 20_000,
        },
    ]
}

fn gradients(model: &CausalLm) -> Vec<(String, Tensor)> {
    let grads = model.trainable_parameters().into_iter();
    grads.map(|(name, param)| (name, param.grad())).collect()
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
fn a_pass_that_keeps_little_has_the_gradients_of_one_that_keeps_all() {
    for name in FAMILIES {
        let (model, examples) = (load(name, Kind::Float), examples(&Golden::of_model(name)));
        let batch = Batch::new(&examples.iter().collect::<Vec<_>>(), Device::Cpu);
        let kept = model.trainable_alias();
        loss(&kept, &examples).backward();
        let expected = gradients(&kept);
        for compute in ways() {
            let supervised = model.trainable_alias();
            let num_labels = batch.targets.numel();
            let mean = backward_cross_entropy(&supervised, &batch, num_labels, &compute).expect("a pass");
            assert!(
                (mean - loss(&model, &examples).double_value(&[])).abs() < 1e-6,
                "{name} {compute:?}"
            );
            let through = model.trainable_alias();
            let mut attend = batch.attend();
            backward_through_logprobs(&through, &batch, &mut attend, 1.0, &compute, |logprobs| {
                Ok((-logprobs.mean(Kind::Float), ()))
            })
            .expect("a pass");
            for alias in [&supervised, &through] {
                for ((key, got), (_, expected)) in gradients(alias).iter().zip(&expected) {
                    assert_close(&format!("{name} {key} {compute:?}"), got, expected, 2e-6);
                }
            }
        }
    }
}

#[test]
fn gradients_through_logprobs_with_a_temperature_and_a_loss_that_is_not_linear() {
    let (model, examples) = (
        load("llama3-gqa", Kind::Float),
        examples(&Golden::of_model("llama3-gqa")),
    );
    let batch = Batch::new(&examples.iter().collect::<Vec<_>>(), Device::Cpu);
    let loss = |logprobs: &Tensor| (logprobs.exp() * logprobs).sum(Kind::Float);
    let kept = model.trainable_alias();
    loss(&label_logprobs(&kept, &batch, 0.7)).backward();
    for compute in ways() {
        let alias = model.trainable_alias();
        let mut attend = batch.attend();
        let logprobs = backward_through_logprobs(&alias, &batch, &mut attend, 0.7, &compute, |logprobs| {
            Ok((loss(logprobs), logprobs.detach().copy()))
        })
        .expect("a pass");
        let _no_grad = tch::no_grad_guard();
        assert_close(
            "log-probabilities",
            &logprobs,
            &label_logprobs(&model, &batch, 0.7),
            1e-5,
        );
        let scored = score(&model, &batch, 0.7, compute.logits_bytes).expect("scores");
        assert_close("scores", &scored, &logprobs, 1e-5);
        for ((key, got), (_, expected)) in gradients(&alias).iter().zip(gradients(&kept)) {
            assert_close(key, got, &expected, 5e-6);
        }
    }
}

#[test]
fn a_batch_without_labels_has_no_gradient() {
    let model = load("smollm-tied", Kind::Float).trainable_alias();
    let example = Example {
        ids: vec![1, 2, 3],
        labels: vec![1, -100, -100],
    };
    let batch = Batch::new(&[&example], Device::Cpu);
    assert_eq!(score(&model, &batch, 1.0, 1000).expect("scores").size(), [0]);
    for compute in ways() {
        let mut attend = batch.attend();
        backward_through_logprobs(&model, &batch, &mut attend, 1.0, &compute, |logprobs| {
            Ok((logprobs.sum(Kind::Float), ()))
        })
        .expect("a pass");
    }
    for (name, grad) in gradients(&model) {
        assert!(!grad.defined() || grad.norm().double_value(&[]) == 0.0, "{name}");
    }
}

/// bf16 has 8 bits: the masters must follow the f32 run from afar, and not be rounded themselves.
#[test]
fn bf16_follows_f32_and_keeps_f32_masters() {
    for name in FAMILIES {
        let (model, golden) = (load(name, Kind::Float), Golden::of_model(name));
        let examples = examples(&golden);
        let rows: Vec<&Example> = examples.iter().collect();
        let losses: Vec<f64> = from_json(&golden.json["sft"]["losses"]);
        let mut learner = Learner::computing_in(Kind::BFloat16, &model, settings(Decay::All), 1);
        assert_eq!(learner.model().kind(), Kind::BFloat16);
        for (compute, expected) in ways().iter().zip(&losses) {
            let stats = supervised_step(&mut learner, &rows, compute, LEARNING_RATE).expect("a step");
            assert!(
                (stats.loss - expected).abs() <= 0.02 * expected,
                "{name}: loss {}, expected about {expected}",
                stats.loss
            );
        }
        let rounded = |tensor: &Tensor| tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float);
        let computed = learner.model().named_parameters();
        for (((key, master), (_, trained)), (_, computed)) in learner
            .trained_parameters()
            .iter()
            .zip(model.named_parameters())
            .zip(computed)
        {
            assert_eq!(master.kind(), Kind::Float);
            assert_ne!(*master, rounded(master), "{name} {key} has more than bf16 can hold");
            assert_eq!(*master, trained, "{name} {key} is changed where it was");
            assert_eq!(rounded(master), computed.to_kind(Kind::Float), "{name} {key}");
        }
    }
}

#[test]
fn three_steps_with_decay_on_every_parameter() {
    for name in FAMILIES {
        let golden = Golden::of_model(name);
        // In one micro-batch, one row at a time, and rows spread over threads: gradients add up.
        let apart = Compute::new(1);
        for (compute, num_threads) in ways().into_iter().map(|way| (way, 1)).chain([(apart, 2), (apart, 4)]) {
            let cut = Cut { compute, num_threads };
            let learner = three_steps(name, &golden, Decay::All, cut, &golden.json["sft"]);
            assert_trained(learner.model(), name, &golden.tensors_under("sft.after3."));
        }
    }
}

#[test]
fn three_steps_with_decay_on_matrices_only() {
    for name in FAMILIES {
        let golden = Golden::of_model(name);
        let cut = Cut {
            compute: Compute::new(usize::MAX),
            num_threads: 1,
        };
        let learner = three_steps(
            name,
            &golden,
            Decay::Matrices,
            cut,
            &golden.json["sft"]["decay_matrices_only"],
        );
        let expected = golden.tensors_under("sft.after3_decay_matrices_only.");
        assert_trained(learner.model(), name, &expected);
    }
}

/// The fixture's batch, padding left out, on standard input of `train-step` with these options.
pub fn train_step(name: &str, examples: &[Example], options: &[&str]) -> Vec<Value> {
    const SETTINGS: [&str; 10] = [
        "--learning-rate",
        "1e-3",
        "--adam-beta2",
        "0.95",
        "--weight-decay",
        "0.1",
        "--max-grad-norm",
        "1",
        "--steps",
        "3",
    ];
    let lines: Vec<Value> = examples
        .iter()
        .map(|example| json!({"input_ids": example.ids, "labels": example.labels}))
        .collect();
    lines_of(&volvelle_torch(
        "train-step",
        &model_dir(name),
        &[&SETTINGS, options].concat(),
        &lines,
    ))
}

#[test]
fn train_step_prints_the_steps_and_saves_the_model() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in FAMILIES {
        let golden = Golden::of_model(name);
        let examples = examples(&golden);
        let saved = dir.path().join(name);
        let save: [&str; 2] = ["--save", saved.to_str().expect("UTF-8")];
        let all = [&["--decay", "all", "--micro-batch-tokens", "1"], &save[..]].concat();
        let runs = [
            (train_step(name, &examples, &all), &golden.json["sft"]),
            (
                train_step(name, &examples, &["--gradient-checkpointing"]),
                &golden.json["sft"]["decay_matrices_only"],
            ),
        ];
        for (lines, expected) in runs {
            let (losses, norms): (Vec<f64>, Vec<f64>) =
                (from_json(&expected["losses"]), from_json(&expected["grad_norms"]));
            assert_eq!(lines.len(), 4);
            for (idx, line) in lines.iter().enumerate() {
                let number = |key: &str| {
                    line[key]
                        .as_f64()
                        .unwrap_or_else(|| panic!("{name}: no {key} in {line}"))
                };
                assert_eq!(line["step"], idx + 1);
                assert!(
                    (number("loss") - losses[idx]).abs() <= LOSS,
                    "{name}: {line}, expected {}",
                    losses[idx]
                );
                if idx < 3 {
                    assert!(
                        (number("grad_norm") - norms[idx]).abs() <= 5e-5 * norms[idx],
                        "{name}: {line}"
                    );
                    assert_eq!(line["num_tokens"], golden.json["sft"]["supervised_tokens"]);
                    assert_eq!(line["learning_rate"], LEARNING_RATE);
                }
            }
        }
        let trained = lm::load(&saved, Device::Cpu, Kind::Float).expect("a model folder");
        assert_trained(&trained, name, &golden.tensors_under("sft.after3."));
    }
}

#[test]
fn train_step_in_bf16_stays_near_f32() {
    let golden = Golden::of_model("smollm-tied");
    let losses: Vec<f64> = from_json(&golden.json["sft"]["decay_matrices_only"]["losses"]);
    let lines = train_step("smollm-tied", &examples(&golden), &["--dtype", "bfloat16"]);
    for (line, expected) in lines.iter().zip(losses) {
        let loss = line["loss"].as_f64().expect("a loss");
        assert!(
            (loss - expected).abs() <= 0.02 * expected && loss != expected,
            "{line}, expected {expected}"
        );
    }
}

#[test]
fn train_step_says_what_is_wrong_with_its_input() {
    let cases = [
        (
            json!({"input_ids": [1, 2], "labels": [1]}),
            "line 1: 1 labels for 2 input_ids",
        ),
        (json!({"input_ids": [1, 999]}), "line 1: token id 999 is not in 0..512"),
        (
            json!({"input_ids": [1, 2], "labels": [1, -7]}),
            "line 1, labels: token id -7 is not in 0..512",
        ),
        (
            json!({"input_ids": [1, 2], "labels": [-100, -100]}),
            "no token of the batch counts in the loss",
        ),
        (json!({"labels": [1]}), "input_ids"),
    ];
    for (line, expected) in cases {
        let message = error_of(&volvelle_torch("train-step", &model_dir("smollm-tied"), &[], &[line]));
        assert!(message.contains(expected), "{message}");
    }
    let line = json!({"input_ids": [1, 2]});
    let message = error_of(&volvelle_torch(
        "train-step",
        &model_dir("smollm-tied"),
        &["--adam-beta1", "1"],
        &[line],
    ));
    assert!(message.contains("--adam-beta1 is 1"), "{message}");
}

/// How a batch is divided; it must not matter beyond rounding.
#[derive(Clone, Copy)]
struct Cut {
    compute: Compute,
    num_threads: usize,
}

/// Takes the steps, and compares losses and gradient norms with `expected`.
fn three_steps(name: &str, golden: &Golden, decay: Decay, cut: Cut, expected: &serde_json::Value) -> Learner {
    let examples = examples(golden);
    let rows: Vec<&Example> = examples.iter().collect();
    let (losses, norms): (Vec<f64>, Vec<f64>) = (from_json(&expected["losses"]), from_json(&expected["grad_norms"]));
    let mut learner = Learner::new(&load(name, Kind::Float), settings(decay), cut.num_threads);
    for step in 0..3 {
        let stats = supervised_step(&mut learner, &rows, &cut.compute, LEARNING_RATE).expect("a step");
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
    let last = evaluate(learner.model(), &rows, &cut.compute).expect("a loss");
    assert!(
        (last - losses[3]).abs() <= LOSS,
        "{name} after three steps: loss {last}, expected {}",
        losses[3]
    );
    learner
}

/// Asserts that as many elements as 0.1 % of the model at most lie over 1e-5 from what is expected, the rms of all
/// differences is within 5e-6, and the largest within 2e-3.
///
/// AdamW moves an element by about the learning rate however small its gradient. That of a bias of keys is near rounding
/// noise (softmax does not see what is added to all keys alike), so single elements may differ.
fn assert_trained(model: &CausalLm, name: &str, expected: &[(&str, &Tensor)]) {
    assert_trained_parameters(&model.named_parameters(), model.num_parameters(), name, expected);
}

/// [`assert_trained`] for some parameters of `num_parameters` that were trained.
pub fn assert_trained_parameters(
    parameters: &[(String, Tensor)],
    num_parameters: i64,
    name: &str,
    expected: &[(&str, &Tensor)],
) {
    let differences: Vec<Tensor> = expected
        .iter()
        .map(|(key, expected)| {
            let (_, got) = parameters
                .iter()
                .find(|(name, _)| name == key)
                .expect("a parameter of that name");
            (got.detach().to_kind(Kind::Double) - expected.to_kind(Kind::Double))
                .abs()
                .flatten(0, -1)
        })
        .collect();
    let differences = Tensor::cat(&differences, 0);
    let num_over = differences.gt(1e-5).sum(Kind::Int64).int64_value(&[]);
    let rms = differences.square().mean(Kind::Double).sqrt().double_value(&[]);
    let worst = differences.max().double_value(&[]);
    assert!(
        num_over <= num_parameters / 1000 && rms <= 5e-6 && worst <= 2e-3,
        "{name}: {num_over} of {} elements over 1e-5, rms {rms}, max {worst}",
        num_parameters
    );
}
