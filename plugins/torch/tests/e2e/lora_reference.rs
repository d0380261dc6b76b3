//! LoRA adapters against PEFT: logits, the merged model, gradients, and three AdamW steps on the adapter alone.

use tch::Kind;
use volvelle_torch::lm::learner::Learner;
use volvelle_torch::lm::optimizer::Decay;
use volvelle_torch::lm::train::{Compute, supervised_step};
use volvelle_torch::lm::{CausalLm, lora};

use crate::fixtures::{Golden, assert_close, from_json, load, masked, model_dir};
use crate::reference::hidden_states;
use crate::sft_reference::{LEARNING_RATE, LOSS, assert_trained_parameters, examples, loss, settings, train_step};

const NAME: &str = "llama3-gqa";
const LOGITS: f64 = 2e-4;
/// What PEFT writes in front of the names of `CausalLm::adapter_parameters`.
const PREFIX: &str = "base_model.model.";

fn adapted() -> CausalLm {
    let dir = model_dir(NAME).join("lora");
    lora::load(&load(NAME, Kind::Float), &dir)
        .expect("the adapter fits the model")
        .0
}

fn golden() -> Golden {
    Golden::read(&model_dir(NAME).join("lora"), "golden")
}

fn assert_logits(what: &str, model: &CausalLm, golden: &Golden, name: &str) {
    let inputs = Golden::of_model(NAME);
    let mask = inputs.tensor("inputs.right.attention_mask");
    let _no_grad = tch::no_grad_guard();
    let logits = model.logits(&hidden_states(model, inputs.tensor("inputs.right.input_ids"), mask));
    assert_close(what, &logits, &masked(golden.tensor(name), mask), LOGITS);
}

#[test]
fn logits_with_the_adapter_beside_the_weights_in_them_and_off() {
    let (model, golden) = (adapted(), golden());
    assert_logits("adapter", &model, &golden, "logits.adapter.right");
    assert_logits("merged", &lora::merge(&model), &golden, "logits.merged.right");
    assert_logits(
        "off",
        &model.without_adapters(),
        &Golden::of_model(NAME),
        "logits.right",
    );
}

#[test]
fn merged_weights() {
    let merged = lora::merge(&adapted());
    assert!(merged.adapter_parameters().is_empty(), "a merged model has no adapters");
    for (key, expected) in golden().tensors_under("merged.") {
        let parameters = merged.named_parameters();
        let (_, got) = parameters
            .iter()
            .find(|(name, _)| name == key)
            .expect("a weight of that name");
        assert_close(key, got, expected, 1e-6);
    }
}

#[test]
fn gradients_reach_the_adapter_alone() {
    let (model, golden) = (adapted().trainable_alias(), golden());
    loss(&model, &examples(&Golden::of_model(NAME))).backward();
    for (key, parameter) in model.adapter_parameters() {
        let expected = golden.tensor(&format!("sft.grad.{PREFIX}{key}"));
        assert_close(&format!("gradient of {key}"), &parameter.grad(), expected, 5e-5);
    }
    for (key, parameter) in model.named_parameters() {
        assert!(
            !parameter.requires_grad() && !parameter.grad().defined(),
            "{key} is frozen"
        );
    }
}

#[test]
fn three_steps_change_the_adapter_alone() {
    let golden = golden();
    let examples = examples(&Golden::of_model(NAME));
    let rows: Vec<_> = examples.iter().collect();
    let losses: Vec<f64> = from_json(&golden.json["sft"]["losses"]);
    let norms: Vec<f64> = from_json(&golden.json["sft"]["grad_norms"]);
    for (micro_batch_tokens, num_threads) in [(usize::MAX, 1), (1, 2)] {
        let model = adapted();
        let mut learner = Learner::new(&model, settings(Decay::All), num_threads);
        for step in 0..3 {
            let stats =
                supervised_step(&mut learner, &rows, &Compute::new(micro_batch_tokens), LEARNING_RATE).expect("a step");
            assert!((stats.loss - losses[step]).abs() <= LOSS, "step {step}: {}", stats.loss);
            let relative = (stats.grad_norm - norms[step]).abs() / norms[step];
            assert!(relative <= 5e-5, "step {step}: gradient norm {}", stats.grad_norm);
        }
        let trained = learner.model().adapter_parameters();
        let num_trained = trained.iter().map(|(_, tensor)| tensor.numel() as i64).sum();
        let expected = golden.tensors_under(&format!("sft.after3.{PREFIX}"));
        assert_trained_parameters(&trained, num_trained, "adapter", &expected);
        let base = load(NAME, Kind::Float).named_parameters();
        for ((key, got), (_, expected)) in learner.model().named_parameters().iter().zip(&base) {
            assert_eq!(got, expected, "{key} is frozen");
        }
    }
}

#[test]
fn train_step_trains_the_adapter_it_is_given_and_saves_it_alone() {
    let (golden, adapter) = (golden(), model_dir(NAME).join("lora"));
    let losses: Vec<f64> = from_json(&golden.json["sft"]["losses"]);
    let dir = tempfile::tempdir().expect("a folder");
    let saved = dir.path().join("adapter");
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let options = ["--decay", "all", "--adapter", &text(&adapter), "--save", &text(&saved)];
    let lines = train_step(NAME, &examples(&Golden::of_model(NAME)), &options);
    for (line, expected) in lines.iter().zip(losses) {
        let loss = line["loss"].as_f64().expect("a loss");
        assert!((loss - expected).abs() <= LOSS, "{line}, expected {expected}");
    }
    let (trained, _) = lora::load(&load(NAME, Kind::Float), &saved).expect("an adapter folder");
    let parameters = trained.adapter_parameters();
    let num_trained = parameters.iter().map(|(_, tensor)| tensor.numel() as i64).sum();
    let expected = golden.tensors_under(&format!("sft.after3.{PREFIX}"));
    assert_trained_parameters(&parameters, num_trained, "adapter", &expected);
    assert!(!saved.join("model.safetensors").exists());
}
