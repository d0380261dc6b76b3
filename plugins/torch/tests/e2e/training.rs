//! Supervised stages: what their parameters change, and what they must not.

use std::collections::BTreeSet;

use serde_json::{Value, json};

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
