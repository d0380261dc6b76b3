//! `lm.load`: what it takes into the pipeline, and what it refuses.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use tch::{Device, Kind};
use volvelle_torch::lm::{self, Tokenizer};

use crate::commands::copy_model;
use crate::fixtures::{fixtures_dir, load};
use crate::resume::stage::Stage;

fn stage(path: &Path) -> Stage {
    Stage::new("lm.load", json!({"path": path}), &[], &["model"])
}

#[test]
fn a_folder_is_taken_without_what_nobody_reads() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    copy_model("llama3-gqa-sharded", dir.path());
    for name in ["consolidated.safetensors", "pytorch_model.bin", "README.md", "LICENSE"] {
        fs::write(dir.path().join(name), "text").expect("it is written");
    }
    let templates = dir.path().join("chat_templates");
    fs::create_dir(&templates).expect("a folder");
    fs::write(templates.join("tool_use.jinja"), "{{ tools }}").expect("it is written");
    fs::write(templates.join("notes.txt"), "text").expect("it is written");
    let stage = stage(dir.path());
    stage.run().assert_done().assert_says("parameters");
    let has = |name: &str| stage.output("model").join(name).exists();
    for name in [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "chat_template.jinja",
        "chat_templates/tool_use.jinja",
        "LICENSE",
    ] {
        assert!(has(name), "{name}");
    }
    for name in [
        "consolidated.safetensors",
        "pytorch_model.bin",
        "README.md",
        "chat_templates/notes.txt",
    ] {
        assert!(!has(name), "{name}");
    }
    let got = lm::load(&stage.output("model"), Device::Cpu, Kind::Float).expect("it loads");
    let expected = load("llama3-gqa-sharded", Kind::Float);
    for ((name, a), (_, b)) in got.named_parameters().into_iter().zip(expected.named_parameters()) {
        assert!(a.equal(&b), "{name}");
    }
}

#[test]
fn the_layout_of_the_hubs_cache_is_a_folder_too() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshots/1f2e"));
    for folder in [&blobs, &snapshot] {
        fs::create_dir_all(folder).expect("a folder");
    }
    copy_model("smollm-tied", &blobs);
    for entry in fs::read_dir(&blobs).expect("a folder").flatten() {
        let target = Path::new("../../blobs").join(entry.file_name());
        symlink(target, snapshot.join(entry.file_name())).expect("a link");
    }
    let stage = stage(&snapshot);
    stage.run().assert_done();
    let weights = stage.output("model").join("model.safetensors");
    assert!(fs::symlink_metadata(weights).expect("it is there").is_file());
}

#[test]
fn links_out_of_a_folder_are_not_followed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let secret = dir.path().join("secret");
    fs::write(&secret, "a key").expect("it is written");
    let folder = dir.path().join("model");
    fs::create_dir(&folder).expect("a folder");
    copy_model("smollm-tied", &folder);
    symlink(&secret, folder.join("LICENSE")).expect("a link");
    let ended = stage(&folder).run();
    assert!(!ended.status.success());
    ended
        .assert_says("LICENSE is a link to")
        .assert_says("outside of the model's folder");
}

#[test]
fn a_gguf_file_becomes_a_folder() {
    let stage = stage(&fixtures_dir().join("gguf/qwen3-q8.gguf"));
    stage.run().assert_done().assert_says("parameters");
    let folder = stage.output("model");
    let model = lm::load(&folder, Device::Cpu, Kind::Float).expect("it loads");
    assert!(model.config.qk_norm && model.config.dtype == Kind::BFloat16);
    let tokenizer = Tokenizer::load(&folder).expect("it has a tokenizer");
    assert_eq!(tokenizer.encode("<|im_end|>", false).expect("it encodes").len(), 1);
}

#[test]
fn what_is_no_model_is_refused_with_its_path() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let refused = |path: &Path, part: &str| {
        let ended = stage(path).run();
        assert!(!ended.status.success());
        ended.assert_says(part);
    };
    refused(
        &dir.path().join("nowhere"),
        "nowhere is neither a folder nor a .gguf file",
    );
    refused(dir.path(), "config.json");
    let file = dir.path().join("small.gguf");
    fs::write(&file, "GGUF").expect("it is written");
    refused(&file, "small.gguf: ends in the middle of its head");
    copy_model("smollm-tied", dir.path());
    fs::remove_file(dir.path().join("tokenizer.json")).expect("it was there");
    refused(dir.path(), "tokenizer.json");
}
