//! What loading a model costs beyond its weights.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tch::{Device, Kind};
use volvelle_torch::lm::config::NewModel;
use volvelle_torch::lm::{CausalLm, Config, checkpoint};

use crate::commands::copy_model;

/// Shares of the weights that a load may need at its worst moment, weights included.
const BOUND: f64 = 1.1;

/// What two runs of the same program may differ by.
const NOISE_BYTES: f64 = 4e6;

const SIZES: NewModel = NewModel {
    hidden_size: 512,
    intermediate_size: 2048,
    num_hidden_layers: 4,
    num_attention_heads: 8,
    num_key_value_heads: 8,
    max_position_embeddings: 131_072,
    rope_theta: 10_000.0,
    tie_word_embeddings: true,
    initializer_range: 0.02,
};

#[test]
fn a_load_needs_hardly_more_memory_than_the_weights() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    copy_model("smollm-tied", dir.path());
    let baseline = peak_bytes(dir.path());
    let config = Config::new(&SIZES, 512, 2, 2).expect("the sizes fit each other");
    let mut model = CausalLm::random(config, 1, Device::Cpu).expect("it fits the memory");
    let weights = model.num_parameters() as f64 * 4.0;
    // Converted while it is read; and mapped.
    for kind in [Kind::BFloat16, Kind::Float] {
        model.config.dtype = kind;
        checkpoint::write_weights(&model, dir.path()).expect("it is written");
        let share = (peak_bytes(dir.path()) - baseline - NOISE_BYTES) / weights;
        assert!(share <= BOUND, "{kind:?}: {share:.2} times the weights");
    }
}

/// The most memory that the program has held when it has loaded a model and computed nothing yet.
fn peak_bytes(model: &Path) -> f64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_volvelle-torch"))
        .args(["score", "--device", "cpu", "--input", "-", "--model"])
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut input = child.stdin.take().expect("piped");
    // More than a pipe holds: when it is written, the program has begun to read, and that is after it has loaded.
    let lines = "{\"input_ids\": [5]}\n".repeat(8000);
    input.write_all(lines.as_bytes()).expect("the program reads its input");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it is still running");
    drop(input);
    assert!(child.wait().expect("it ends").success());
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    peak.and_then(|number| number.trim().parse::<f64>().ok())
        .expect("a number of kB")
        * 1024.0
}
