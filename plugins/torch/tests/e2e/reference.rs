//! The model runtime against transformers: forward passes, tokenizer, chat template, sampling filters, generation.

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use volvelle_torch::formats::Message;
use volvelle_torch::lm::generate::backend::Draw;
use volvelle_torch::lm::generate::{self, Finish, Options, Request};
use volvelle_torch::lm::model::attention::Packed;
use volvelle_torch::lm::model::rope::inverse_frequencies;
use volvelle_torch::lm::sampler::{Sampling, filtered};
use volvelle_torch::lm::train::{Batch, Example, label_logprobs};
use volvelle_torch::lm::{self, CausalLm, Tokenizer};

use crate::fixtures::{
    FAMILIES, Golden, LLAMA3_LAYOUTS, assert_close, from_json, load, masked, max_difference, model_dir, vec_i64,
};

const LOGITS: f64 = 2e-4;
const LOGPROBS: f64 = 1e-4;

/// The golden values that each folder is held against.
const FORWARD: [(&str, &str); 5] = [
    ("llama3-gqa", "llama3-gqa"),
    ("llama3-gqa-sharded", "llama3-gqa"),
    ("smollm-tied", "smollm-tied"),
    ("qwen2-bias-tied", "qwen2-bias-tied"),
    ("qwen3-qknorm", "qwen3-qknorm"),
];

/// Small folders for one setting each; see `make/make_variants.py`.
pub const VARIANTS: [&str; 7] = [
    "variants/mistral-window",
    "variants/mistral-full",
    "variants/llama-biases",
    "variants/llama-linear",
    "variants/qwen2-windows",
    "variants/qwen3-layer-types",
    "variants/qwen2-nested",
];

/// The two sides that rows are padded on.
const SIDES: [&str; 2] = ["right", "left"];

#[test]
fn logits_and_hidden_states() {
    for (name, golden) in FORWARD {
        let (model, golden) = (load(name, Kind::Float), Golden::of_model(golden));
        let _no_grad = tch::no_grad_guard();
        for side in SIDES {
            let mask = golden.tensor(&format!("inputs.{side}.attention_mask"));
            let ids = golden.tensor(&format!("inputs.{side}.input_ids"));
            let close = |what: &str, got: &Tensor| {
                let expected = masked(golden.tensor(&format!("{what}.{side}")), mask);
                assert_close(&format!("{name} {what}.{side}"), got, &expected, LOGITS);
            };
            close("hidden.layer0", &after_first_layer(&model, ids, mask));
            let hidden = hidden_states(&model, ids, mask);
            close("logits", &model.logits(&hidden));
            if side == "right" {
                close("hidden.final_norm", &hidden);
            }
        }
    }
}

#[test]
fn windows_biases_and_rotary_settings_of_each_family() {
    for name in VARIANTS {
        let (model, golden) = (load(name, Kind::Float), Golden::of_model(name));
        let (ids, mask) = (
            golden.tensor("inputs.right.input_ids"),
            golden.tensor("inputs.right.attention_mask"),
        );
        let _no_grad = tch::no_grad_guard();
        let logits = model.logits(&hidden_states(&model, ids, mask));
        assert_close(name, &logits, &masked(golden.tensor("logits.right"), mask), LOGITS);
        let expected = masked(&golden.tensor("logprobs.right").unsqueeze(-1), &both_real(mask));
        assert_close(name, &logprobs(&model, ids, mask), &expected.squeeze_dim(-1), LOGPROBS);
    }
}

/// The hidden states `[N, H]` of the real tokens of padded rows `[B, T]`.
pub fn hidden_states(model: &CausalLm, input_ids: &Tensor, mask: &Tensor) -> Tensor {
    let (positions, mut attend) = packed(mask);
    model.hidden_states(&masked(input_ids, mask), &positions, &mut attend)
}

/// The output `[N, H]` of the first layer.
fn after_first_layer(model: &CausalLm, input_ids: &Tensor, mask: &Tensor) -> Tensor {
    let (positions, mut attend) = packed(mask);
    let embedded = model.embed(&masked(input_ids, mask));
    model.layer(0, &embedded, &model.rotation(&positions), &mut attend)
}

/// The positions `[N]` and the attention of the real tokens of padded rows.
fn packed(mask: &Tensor) -> (Tensor, Packed) {
    let lengths: Vec<usize> = vec_i64(&mask.sum_dim_intlist(-1, false, Kind::Int64))
        .into_iter()
        .map(|length| length as usize)
        .collect();
    (
        Packed::positions(&lengths, Device::Cpu),
        Packed::new(&lengths, Device::Cpu),
    )
}

#[test]
fn label_logprobs_of_whole_rows() {
    for (name, golden) in FORWARD {
        let (model, golden) = (load(name, Kind::Float), Golden::of_model(golden));
        for side in SIDES {
            let mask = golden.tensor(&format!("inputs.{side}.attention_mask"));
            let got = logprobs(&model, golden.tensor(&format!("inputs.{side}.input_ids")), mask);
            let expected = golden.tensor(&format!("logprobs.{side}")).unsqueeze(-1);
            let expected = masked(&expected, &both_real(mask)).squeeze_dim(-1);
            assert_close(&format!("{name} logprobs.{side}"), &got, &expected, LOGPROBS);
        }
    }
}

/// Where a token and the one before it are no padding, `[B, T - 1]`.
fn both_real(mask: &Tensor) -> Tensor {
    let width = mask.size()[1] - 1;
    mask.narrow(1, 0, width) * mask.narrow(1, 1, width)
}

/// Log p of every token but each row's first, rows one after the other.
fn logprobs(model: &CausalLm, input_ids: &Tensor, mask: &Tensor) -> Tensor {
    let examples: Vec<Example> = (0..input_ids.size()[0])
        .map(|row| {
            let ids = vec_i64(&masked(&input_ids.narrow(0, row, 1), &mask.narrow(0, row, 1)));
            Example {
                labels: ids.clone(),
                ids,
            }
        })
        .collect();
    let batch = Batch::new(&examples.iter().collect::<Vec<_>>(), Device::Cpu);
    let _no_grad = tch::no_grad_guard();
    label_logprobs(model, &batch, 1.0)
}

#[test]
fn bf16_weights_in_float32_arithmetic() {
    let golden = Golden::of_model("llama3-gqa-bf16");
    let (ids, mask) = (
        golden.tensor("inputs.right.input_ids"),
        golden.tensor("inputs.right.attention_mask"),
    );
    let model = load("llama3-gqa-bf16", Kind::Float);
    let _no_grad = tch::no_grad_guard();
    let logits = model.logits(&hidden_states(&model, ids, mask));
    let expected = masked(golden.tensor("logits.float32_compute.right"), mask);
    assert_close("bf16 file, float32", &logits, &expected, LOGITS);
}

#[test]
fn bf16_arithmetic_stays_near_its_reference() {
    let golden = Golden::of_model("llama3-gqa-bf16");
    let (ids, mask) = (
        golden.tensor("inputs.right.input_ids"),
        golden.tensor("inputs.right.attention_mask"),
    );
    let model = load("llama3-gqa-bf16", Kind::BFloat16);
    let _no_grad = tch::no_grad_guard();
    let logits = model.logits(&hidden_states(&model, ids, mask));
    let expected = masked(golden.tensor("logits.bfloat16_compute.right"), mask);
    let worst = max_difference("bf16 logits", &logits, &expected);
    assert!(worst <= 0.6, "the largest difference is {worst}");
    let mean = (logits.to_kind(Kind::Float) - expected.to_kind(Kind::Float))
        .abs()
        .mean(Kind::Float)
        .double_value(&[]);
    assert!(mean <= 0.06, "the mean difference is {mean}");
}

#[test]
fn rotary_embeddings() {
    for name in FAMILIES {
        let (model, golden) = (load(name, Kind::Float), Golden::of_model(name));
        let frequencies = Tensor::from_slice(&inverse_frequencies(&model.config));
        assert_close(name, &frequencies, golden.tensor("rope.inv_freq"), 0.0);
        let cos = golden.tensor("rope.cos");
        let (got_cos, got_sin) = model.rotation(&Tensor::arange(cos.size()[0], (Kind::Int64, Device::Cpu)));
        assert_close(name, &got_cos.squeeze_dim(1), cos, 1e-6);
        assert_close(name, &got_sin.squeeze_dim(1), golden.tensor("rope.sin"), 1e-6);
    }
}

#[test]
fn saved_folders_load_to_the_same_weights() {
    for name in [
        "llama3-gqa-sharded",
        "llama3-gqa-bf16",
        "smollm-tied",
        "qwen2-bias-tied",
        "qwen3-qknorm",
    ] {
        let model = load(name, Kind::Float);
        let dir = tempfile::tempdir().expect("a temporary folder");
        lm::save(&model, dir.path(), &model_dir(name)).expect("the folder is written");
        let again = lm::load(dir.path(), Device::Cpu, Kind::Float).expect("what was saved loads");
        for ((key, a), (other, b)) in model.named_parameters().into_iter().zip(again.named_parameters()) {
            assert_eq!(key, other);
            assert_eq!(max_difference(&key, &a, &b), 0.0, "{name} {key}");
        }
        let tokenizer = Tokenizer::load(dir.path()).expect("the tokenizer came along");
        assert_eq!(
            tokenizer.encode("Once upon a time", true).ok(),
            tokenizer_of(name).encode("Once upon a time", true).ok()
        );
    }
}

#[test]
fn token_ids_and_texts() {
    for name in FAMILIES {
        let (tokenizer, golden) = (tokenizer_of(name), Golden::of_model(name));
        for case in golden.json["tokenizer"].as_array().expect("a list") {
            let text = case["text"].as_str().expect("a text");
            let ids: Vec<i64> = from_json(&case["ids"]);
            assert_eq!(tokenizer.encode(text, false).expect("encodes"), ids, "{name} {text:?}");
            let with_special: Vec<i64> = from_json(&case["ids_with_special"]);
            assert_eq!(
                tokenizer.encode(text, true).expect("encodes"),
                with_special,
                "{name} {text:?}"
            );
            assert_eq!(
                tokenizer.decode(&ids, false).expect("decodes"),
                case["decoded"],
                "{name} {text:?}"
            );
            assert_eq!(
                tokenizer.decode(&ids, true).expect("decodes"),
                case["decoded_skip_special"],
                "{name} {text:?}"
            );
        }
    }
}

#[test]
fn chats_render_as_in_transformers() {
    for (name, golden) in FORWARD {
        let (tokenizer, golden) = (tokenizer_of(name), Golden::of_model(golden));
        for (chat, case) in golden.json["chat"].as_object().expect("an object") {
            let messages: Vec<Message> = from_json(&case["messages"]);
            for add_generation_prompt in [true, false] {
                let expected = &case[format!("add_generation_prompt={add_generation_prompt}")];
                let text = tokenizer
                    .render_chat(&messages, add_generation_prompt)
                    .expect("the template renders");
                assert_eq!(text, expected["text"], "{name} {chat}");
                let ids: Vec<i64> = from_json(&expected["ids"]);
                assert_eq!(tokenizer.encode(&text, false).expect("encodes"), ids, "{name} {chat}");
            }
        }
    }
}

#[test]
fn sampling_filters_keep_the_same_tokens() {
    let plain = Sampling::PLAIN;
    let cases = [
        (
            "temperature_0.7",
            Sampling {
                temperature: 0.7,
                ..plain
            },
        ),
        ("top_k_20", Sampling { top_k: 20, ..plain }),
        ("top_p_0.9", Sampling { top_p: 0.9, ..plain }),
        ("min_p_0.05", Sampling { min_p: 0.05, ..plain }),
        (
            "repetition_penalty_1.3",
            Sampling {
                repetition_penalty: 1.3,
                ..plain
            },
        ),
        (
            "temperature_0.7+top_k_20+top_p_0.9",
            Sampling {
                temperature: 0.7,
                top_k: 20,
                top_p: 0.9,
                ..plain
            },
        ),
    ];
    for name in FAMILIES {
        let golden = Golden::of_model(name);
        let row = golden.tensor("logits.right").get(0).get(4).unsqueeze(0);
        let seen: Vec<i64> = from_json(&golden.json["sampling"]["previous_ids"]);
        let draws = cases.map(|(_, sampling)| Draw {
            sampling,
            uniform: 0.0,
            seen: &seen,
        });
        // All of them at once: each row has settings of its own.
        let rows = row.expand([cases.len() as i64, -1], false);
        let probs = filtered(&rows, &draws.each_ref()).softmax(-1, Kind::Float);
        for (idx, (case, _)) in cases.iter().enumerate() {
            let expected = &golden.json["sampling"]["probabilities"][case];
            let probs = probs.get(idx as i64);
            let nonzero = probs.count_nonzero(0).int64_value(&[]);
            assert_eq!(nonzero, expected["nonzero"], "{name} {case}");
            let ids: Vec<i64> = from_json(&expected["ids"]);
            let wanted: Vec<f64> = from_json(&expected["p"]);
            let got = probs.index_select(0, &Tensor::from_slice(&ids));
            assert_close(&format!("{name} {case}"), &got, &Tensor::from_slice(&wanted), 1e-5);
            let alone = filtered(&row, &[&draws[idx]]).softmax(-1, Kind::Float).get(0);
            assert_close(&format!("{name} {case} alone"), &alone, &probs, 1e-6);
        }
    }
}

#[test]
fn greedy_tokens_with_a_cache_alone_and_in_padded_batches() {
    for name in FAMILIES.iter().chain(&LLAMA3_LAYOUTS[1..]) {
        let golden = Golden::of_model(if name.starts_with("llama3") { "llama3-gqa" } else { name });
        let expected: Vec<Vec<i64>> = from_json(&golden.json["generate"]["eos_ignored"]);
        // Batches of one; all three in one batch on one thread; spread over threads.
        for (max_batch_size, num_threads) in [(1, 1), (64, 1), (64, 3)] {
            let got = greedy(name, &golden.json, &[], max_batch_size, num_threads);
            let ids: Vec<Vec<i64>> = got.iter().map(|completion| completion.ids.clone()).collect();
            assert_eq!(
                ids, expected,
                "{name}, batches of {max_batch_size} on {num_threads} threads"
            );
            assert!(got.iter().all(|completion| completion.finish == Finish::Length));
        }
    }
}

#[test]
fn an_end_token_stops_its_row_and_no_other() {
    for name in FAMILIES {
        let golden = Golden::of_model(name);
        let stop = &golden.json["generate"]["with_stop"];
        let ends: Vec<i64> = from_json(&stop["eos_token_ids"]);
        let mut stopped = 0;
        let expected: Vec<Vec<i64>> = from_json(&stop["sequences"]);
        for (got, mut wanted) in greedy(name, &golden.json, &ends, 64, 1).into_iter().zip(expected) {
            if let Some(end) = wanted.iter().position(|id| ends.contains(id)) {
                wanted.truncate(end + 1);
                assert_eq!(got.finish, Finish::Eos);
                stopped += 1;
            }
            assert_eq!(got.ids, wanted, "{name}");
            assert_eq!(got.logprobs.len(), got.ids.len());
        }
        assert!(stopped > 0, "{name}: the fixture stops at least one row");
    }
}

fn greedy(
    name: &str,
    golden: &Value,
    eos_token_ids: &[i64],
    max_batch_size: usize,
    num_threads: usize,
) -> Vec<generate::Completion> {
    let prompts: Vec<Vec<i64>> = from_json(&golden["generate"]["prompt_ids"]);
    let requests: Vec<Request> = prompts.into_iter().map(|ids| Request { ids, seeds: vec![0] }).collect();
    let options = Options {
        max_new_tokens: 32,
        sampling: Sampling::GREEDY,
        eos_token_ids: eos_token_ids.to_vec(),
        stop: Vec::new(),
        max_batch_size,
        num_threads,
        cache_memory: None,
    };
    let model = load(name, Kind::Float);
    generate::generate(&model, &tokenizer_of(name), &requests, &options, &mut |_, _| ())
        .expect("nobody stops it")
        .concat()
}

fn tokenizer_of(name: &str) -> Tokenizer {
    Tokenizer::load(&model_dir(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
