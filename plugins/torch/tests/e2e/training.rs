//! Supervised stages: what their parameters change, and what they must not.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind};
use volvelle_torch::lm::{self, lora};

use crate::resume::stage::{Base, Ended, Stage};

fn sft(more: Value) -> Stage {
    let mut params = json!({"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 0.003});
    for (name, value) in more.as_object().expect("an object") {
        params[name] = value.clone();
    }
    Base::get().sft(params)
}

fn run(stage: &Stage) -> Ended {
    let ended = stage.run();
    ended.assert_done();
    ended
}

/// The values of one name in the output `metrics`.
fn column(stage: &Stage, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(stage.output("metrics")).expect("the metrics");
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"))
        .map(|line| line[name].as_f64().unwrap_or_else(|| panic!("no {name} in {line}")))
        .collect()
}

#[test]
fn accumulated_batches_are_one_batch() {
    let (whole, parts) = (
        sft(json!({})),
        sft(json!({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4})),
    );
    run(&whole);
    run(&parts);
    assert_eq!(whole.digests(), parts.digests());
}

#[test]
fn checkpointing_and_smaller_micro_batches_change_rounding_only() {
    let plain = sft(json!({}));
    run(&plain);
    for more in [
        json!({"gradient_checkpointing": true}),
        json!({"gradient_checkpointing": true, "micro_batch_tokens": 1}),
    ] {
        let other = sft(more);
        run(&other);
        for name in ["loss", "grad_norm"] {
            for (got, expected) in column(&other, name).into_iter().zip(column(&plain, name)) {
                assert!(
                    (got - expected).abs() <= 1e-4 * expected,
                    "{name}: {got}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn bf16_learns_nearly_the_same() {
    let (plain, rounded) = (sft(json!({})), sft(json!({"bf16": true})));
    run(&plain);
    run(&rounded);
    assert_ne!(column(&rounded, "loss"), column(&plain, "loss"));
    for (got, expected) in column(&rounded, "loss").into_iter().zip(column(&plain, "loss")) {
        assert!(
            (got - expected).abs() <= 0.03 * expected,
            "{got}, expected about {expected}"
        );
    }
}

#[test]
fn warmup_steps_go_before_the_ratio() {
    let stage = sft(json!({"warmup_steps": 2, "warmup_ratio": 1.0, "lr_scheduler_type": "constant"}));
    run(&stage);
    assert_eq!(column(&stage, "learning_rate"), [0.0, 0.0015, 0.003, 0.003]);
}

#[test]
fn the_assistants_part_is_what_follows_the_prompt() {
    let all = sft(json!({}));
    let assistant = sft(json!({"assistant_only_loss": true}));
    let completion = sft(json!({"completion_only_loss": true}));
    for stage in [&all, &assistant, &completion] {
        run(stage);
    }
    let tokens = |stage| column(stage, "num_tokens");
    assert!(
        tokens(&assistant)
            .iter()
            .zip(tokens(&all))
            .all(|(&some, all)| 0.0 < some && some < all)
    );
    // These chats have one turn each, so that both ways to ask for it must agree.
    assert_eq!(tokens(&assistant), tokens(&completion));
    assert_eq!(column(&assistant, "loss"), column(&completion, "loss"));
}

/// Only the adapter is trained: the weights are those of before, plus what it adds.
#[test]
fn an_adapter_is_trained_beside_weights_that_stay() {
    let stage = sft(json!({"use_peft": true, "lora_r": 4, "lora_target_modules": ["q_proj", "up_proj"]}));
    run(&stage);
    let losses = column(&stage, "loss");
    assert!(losses.last() < losses.first(), "{losses:?}");
    let load = |dir: &Path| lm::load(dir, Device::Cpu, Kind::Float).expect("a model folder");
    let (before, after) = (load(&stage.input("model")), load(&stage.output("model")));
    let (adapted, config) = lora::load(&before, &stage.output("model").join("adapter")).expect("an adapter");
    assert_eq!(config.r, 4);
    let merged = lora::merge(&adapted);
    for (((name, before), (_, after)), (_, merged)) in before
        .named_parameters()
        .iter()
        .zip(after.named_parameters())
        .zip(merged.named_parameters())
    {
        let is_target = name.contains("q_proj") || name.contains("up_proj");
        assert_eq!(*before != after, is_target, "{name}");
        assert_eq!(after, merged, "{name}");
    }
}

/// Names of the metrics that were told.
fn told(ended: &Ended) -> BTreeSet<&str> {
    let metrics = ended.events.iter().filter(|event| event["event"] == "metric");
    metrics.filter_map(|event| event["name"].as_str()).collect()
}

#[test]
fn what_varies_from_run_to_run_is_told_and_not_written() {
    let with_peak = sft(json!({"peak_tflops": 0.1}));
    let without = sft(json!({}));
    let (ended, other) = (run(&with_peak), run(&without));
    let always = [
        "grad_norm",
        "learning_rate",
        "loss",
        "num_tokens",
        "peak_memory_bytes",
        "tokens_per_second",
    ];
    assert_eq!(told(&other), BTreeSet::from(always));
    assert_eq!(
        told(&ended),
        BTreeSet::from(always).union(&["mfu"].into()).copied().collect()
    );
    assert_eq!(with_peak.digests(), without.digests());
    for event in ended.events.iter().filter(|event| event["name"] == "mfu") {
        let share = event["value"].as_f64().expect("a number");
        assert!(share > 0.0, "{event}");
    }
}
