//! `volvelle-torch bench`, with the flags that bench/lm gives it.

use serde_json::Value;

use crate::commands::{command_on, lines_of};
use crate::fixtures::model_dir;

fn bench(flags: &[&str]) -> Value {
    let common = [
        "--dtype",
        "float32",
        "--num-threads",
        "2",
        "--warmup",
        "0",
        "--repeats",
        "2",
        "--json",
    ];
    let output = command_on("bench", &model_dir("smollm-tied"), &common)
        .args(flags)
        .output()
        .expect("the program starts");
    let lines = lines_of(&output);
    assert_eq!(lines.len(), 1, "a line for the one batch size");
    for what in ["seconds", "cpu_seconds"] {
        assert_eq!(
            lines[0][what].as_array().map(Vec::len),
            Some(2),
            "{what} of each repeat"
        );
    }
    lines[0].clone()
}

fn lengths(line: &Value) -> Vec<usize> {
    let rows = line["output_ids"].as_array().expect("a list for each sequence");
    rows.iter().map(|row| row.as_array().expect("ids").len()).collect()
}

#[test]
fn unequal_generations_have_their_own_lengths() {
    let line = bench(&[
        "--task",
        "generate",
        "--batch-size",
        "4",
        "--prompt-length",
        "16",
        "--max-new-tokens",
        "16",
        "--unequal",
    ]);
    // As bench/lm/workload.py: an eighth of the length to all of it, mixed.
    assert_eq!(lengths(&line), [2, 16, 11, 6]);
    assert_eq!(line["num_tokens"], 35);
}

#[test]
fn samples_of_a_shared_prompt_differ() {
    let line = bench(&[
        "--task",
        "generate",
        "--batch-size",
        "4",
        "--prompt-length",
        "20",
        "--max-new-tokens",
        "8",
        "--shared-prefix",
    ]);
    assert_eq!(lengths(&line), [8; 4]);
    assert_ne!(line["output_ids"][0], line["output_ids"][1]);
}

#[test]
fn steps_of_training_are_timed() {
    let sft = bench(&[
        "--task",
        "sft",
        "--batch-size",
        "2",
        "--prompt-length",
        "24",
        "--max-new-tokens",
        "128",
    ]);
    assert_eq!(sft["num_tokens"], 48);
    assert!(sft["loss"].as_f64().is_some_and(|loss| loss > 0.0), "{sft}");
    let grpo = bench(&[
        "--task",
        "grpo",
        "--batch-size",
        "4",
        "--prompt-length",
        "8",
        "--max-new-tokens",
        "8",
        "--num-generations",
        "2",
    ]);
    assert_eq!(grpo["num_tokens"], 64);
}
