//! Against llama.cpp's Python package: `tests/fixtures/gguf/make_gguf.py` made the files and the expected numbers.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::formats::Message;
use crate::lm::model::attention::Packed;
use crate::lm::{self, Tokenizer};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> PathBuf {
    fixtures().join("gguf").join(name)
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    let list = Tensor::read_safetensors(path).expect("the fixture is there");
    list.into_iter().collect()
}

/// The model folder that a file becomes.
fn imported(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    import(&fixture(name), dir.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
    dir
}

#[test]
fn blocks_of_every_format() {
    let expected = tensors(&fixture("blocks.safetensors"));
    let formats = [
        ("F16", 1),
        ("Q4_0", 2),
        ("Q4_1", 3),
        ("Q5_0", 6),
        ("Q5_1", 7),
        ("Q8_0", 8),
        ("Q4_K", 12),
        ("Q5_K", 13),
        ("Q6_K", 14),
        ("BF16", 30),
    ];
    for (name, type_id) in formats {
        let format = Format::of(type_id).expect("supported");
        let bytes = Vec::<u8>::try_from(&expected[&format!("{name}.bytes")]).expect("bytes");
        let values = Vec::<f32>::try_from(&expected[&format!("{name}.values")]).expect("floats");
        let mut got = Vec::new();
        format.decode(&bytes, &mut got);
        assert!(!values.is_empty() && got == values, "{name}");
    }
}

#[test]
fn a_llama_has_its_rows_and_its_rotary_scaling_back() {
    let dir = imported("llama3-bf16.gguf");
    let got = lm::load(dir.path(), Device::Cpu, Kind::BFloat16).expect("it loads");
    let folder = fixtures().join("models/llama3-gqa-bf16");
    let expected = lm::load(&folder, Device::Cpu, Kind::BFloat16).expect("it loads");
    for ((name, a), (other, b)) in got.named_parameters().into_iter().zip(expected.named_parameters()) {
        // Norms are kept in single precision in the file.
        assert!(name == other && a.equal(&b), "{name}");
    }
    let mut config = got.config.clone();
    config.raw = expected.config.raw.clone();
    // A GGUF file names one end token.
    config.eos_token_ids = expected.config.eos_token_ids.clone();
    assert_eq!(config, expected.config);
}

#[test]
fn quantized_weights_give_the_logits_of_transformers() {
    let dir = imported("qwen3-q8.gguf");
    let model = lm::load(dir.path(), Device::Cpu, Kind::Float).expect("it loads");
    assert_eq!(model.config.dtype, Kind::BFloat16);
    let expected = tensors(&fixture("qwen3-q8.safetensors"));
    let ids = expected["input_ids"].squeeze_dim(0);
    let length = ids.size()[0] as usize;
    let _no_grad = tch::no_grad_guard();
    let positions = Packed::positions(&[length], Device::Cpu);
    let hidden = model.hidden_states(&ids, &positions, &mut Packed::new(&[length], Device::Cpu));
    let difference = (model.logits(&hidden) - expected["logits"].squeeze_dim(0)).abs().max();
    assert!(difference.double_value(&[]) <= 2e-4, "{difference:?}");
}

#[test]
fn tokenizers_cut_and_join_text_as_those_they_were_made_from() {
    for (name, folder) in [
        ("llama3-bf16.gguf", "llama3-gqa-bf16"),
        ("qwen3-q8.gguf", "qwen3-qknorm"),
    ] {
        let dir = imported(name);
        let got = Tokenizer::load(dir.path()).expect("it loads");
        let folder = fixtures().join("models").join(folder);
        let expected = Tokenizer::load(&folder).expect("it loads");
        for text in [
            "It's we'll THEY'RE don't, 1234567 + 3.14 = ?\n\n  def f(x):\n\treturn x  ",
            "cafe\u{301} naïve 数学は楽しい 🙂👩‍👩‍👧 <|im_start|>user<|im_end|><think> <|eot_id|><|begin_of_text|>",
            "",
        ] {
            for special in [true, false] {
                let ids = got.encode(text, special).expect("it encodes");
                assert_eq!(
                    ids,
                    expected.encode(text, special).expect("it encodes"),
                    "{name} {text:?}"
                );
                for skip in [true, false] {
                    assert_eq!(
                        got.decode(&ids, skip).ok(),
                        expected.decode(&ids, skip).ok(),
                        "{name} {text:?}"
                    );
                }
            }
        }
        let messages = [Message::new("user", "What is 12 + 30?")];
        let chat = |tokenizer: &Tokenizer| tokenizer.render_chat(&messages, true).expect("it renders");
        assert_eq!(chat(&got), chat(&expected), "{name}");
        assert_eq!(got.pad_token_id, expected.pad_token_id, "{name}");
        assert!(expected.eos_token_ids.contains(&got.eos_token_ids[0]), "{name}");
    }
}

#[test]
fn a_llama_3_that_says_nothing_of_its_begin_token_adds_it() {
    let bytes = fs::read(fixture("llama3-bf16.gguf")).expect("the fixture is there");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("silent.gguf");
    let silent = replaced(&bytes, b"tokenizer.ggml.add_bos_token", b"tokenizer.ggml.add_bos_other");
    fs::write(&path, silent).expect("it is written");
    import(&path, &dir.path().join("silent")).expect("it is read");
    let load = |dir: &Path| Tokenizer::load(dir).expect("it loads");
    let (silent, told) = (
        load(&dir.path().join("silent")),
        load(imported("llama3-bf16.gguf").path()),
    );
    let ids = silent.encode("Hello", true).expect("it encodes");
    assert_eq!(ids, told.encode("Hello", true).expect("it encodes"));
    assert_eq!(ids.len(), silent.encode("Hello", false).expect("it encodes").len() + 1);
}

#[test]
fn tokenizer_files_beside_a_file_come_first() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("model.gguf");
    // A tokenizer that can't be converted.
    let damaged = replaced(
        &fs::read(fixture("llama3-bf16.gguf")).expect("the fixture"),
        b"gpt2",
        b"bert",
    );
    fs::write(&file, damaged).expect("it is written");
    let out = dir.path().join("out");
    let message = import(&file, &out).map(|_| ()).expect_err("no tokenizer").to_string();
    for part in ["model.gguf", "bert", "tokenizer.json", "beside"] {
        assert!(message.contains(part), "{message}");
    }
    let folder = fixtures().join("models/llama3-gqa-bf16");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(folder.join(name), dir.path().join(name)).expect("it is copied");
    }
    import(&file, &out).expect("it has a tokenizer now");
    Tokenizer::load(&out).expect("it came along");
}

/// The bytes with the first occurrence of one text replaced by another of the same length.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes
        .windows(from.len())
        .position(|part| part == from)
        .expect("it occurs");
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn files_that_are_no_model() {
    let bytes = fs::read(fixture("qwen3-q8.gguf")).expect("the fixture");
    let at = |start: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[start..start + value.len()].copy_from_slice(value);
        bytes
    };
    let huge = u64::MAX.to_le_bytes();
    let swap = |from: &str, to: &str| replaced(&bytes, from.as_bytes(), to.as_bytes());
    let cases: [(Vec<u8>, &str); 12] = [
        (Vec::new(), "is empty"),
        (b"GG".to_vec(), "cut short"),
        (b"PK\x03\x04....".to_vec(), "is no GGUF file"),
        (at(4, &1_u32.to_le_bytes()), "version 1"),
        (at(4, &3_u32.to_be_bytes()), "big-endian"),
        (at(8, &huge), "has 0 dimensions"),
        (at(16, &huge), "cut short"),
        (at(24, &huge), "cut short"),
        (bytes[..bytes.len() / 2].to_vec(), "cut short"),
        (bytes[..bytes.len() - 40].to_vec(), "cut short"),
        (swap("qwen3", "gemma"), "architecture"),
        (
            swap("blk.1.ffn_up.weight", "blk.7.ffn_up.weight"),
            "lacks the tensor blk.1.ffn_up.weight",
        ),
    ];
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("model.gguf");
    for (bytes, part) in cases {
        fs::write(&path, bytes).expect("it is written");
        let message = load(&path).map(|_| ()).expect_err(part).to_string();
        assert!(
            message.contains(part) && message.contains("model.gguf"),
            "{message:?} lacks {part:?}"
        );
    }
}

#[test]
fn rotary_factors_are_not_decoded_at_any_size() {
    let bytes = fs::read(fixture("llama3-bf16.gguf")).expect("the fixture is there");
    let bytes = replaced(&bytes, b"rope_freqs.weight", b"rope_other.weight");
    let bytes = replaced(&bytes, b"token_embd.weight", b"rope_freqs.weight");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("swapped.gguf");
    fs::write(&path, bytes).expect("it is written");
    let error = load(&path).map(drop).expect_err("it is refused").to_string();
    assert!(error.contains("rope_freqs.weight has 32768 elements"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever happens to the head of a file, reading ends with a model or with a message.
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((0..24_000_usize, any::<u8>()), 1..6),
        cut in prop::option::of(0..24_000_usize),
    ) {
        let mut bytes = fs::read(fixture("qwen3-q8.gguf")).expect("the fixture");
        for (place, value) in changes {
            bytes[place] = value;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("model.gguf");
        fs::write(&path, bytes).expect("it is written");
        let _ = import(&path, &dir.path().join("out"));
    }
}
