//! The backend against the model's own forward pass, and against itself in other batches.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::NativeBackend;
use super::simd::Isa;
use crate::lm::generate::backend::{Backend, Chunk, Draw, PAGE_SIZE, PageId};
use crate::lm::model::attention::Packed;
use crate::lm::model::linear::Adapter;
use crate::lm::sampler::Sampling;
use crate::lm::{self, CausalLm, Config, LmError};

const FIXTURES: [&str; 4] = ["llama3-gqa", "smollm-tied", "qwen2-bias-tied", "qwen3-qknorm"];

/// By how much logits of a small model may differ in f32; see the fixtures' README.
const LOGITS: f32 = 2e-4;

fn greedy() -> Vec<Draw<'static>> {
    vec![Draw {
        sampling: Sampling::GREEDY,
        uniform: 0.0,
        seen: &[],
    }]
}

/// New tokens of a sequence: its pages, how many tokens it has, and the new ones.
type Piece<'a> = (&'a [PageId], usize, &'a [i64]);

/// Computes the pieces as one batch and returns the logits after each.
fn logits(backend: &mut NativeBackend, pieces: &[Piece<'_>]) -> Vec<Vec<f32>> {
    let chunks: Vec<Chunk<'_>> = pieces
        .iter()
        .map(|&(pages, start, ids)| Chunk {
            pages,
            start,
            ids,
            draws: greedy(),
        })
        .collect();
    let drawn = backend.step(&chunks).unwrap();
    let vocab_size = backend.model.config.vocab_size as usize;
    let rows: Vec<Vec<f32>> = backend.scratch.logits()[..pieces.len() * vocab_size]
        .chunks(vocab_size)
        .map(<[f32]>::to_vec)
        .collect();
    for (row, drawn) in rows.iter().zip(drawn) {
        let best = row.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(row[drawn[0].id as usize], best);
    }
    rows
}

fn pages_of(num_tokens: usize, first: PageId) -> Vec<PageId> {
    (0..num_tokens.div_ceil(PAGE_SIZE) as PageId)
        .map(|idx| first + idx)
        .collect()
}

/// A sequence alone, in one piece on one thread: what everything else must equal.
fn alone(model: &CausalLm, isa: Isa, ids: &[i64]) -> Vec<f32> {
    let mut backend = NativeBackend::with_isa(model, 1, isa).unwrap().unwrap();
    let pages = pages_of(ids.len(), 0);
    backend.reserve(pages.len()).unwrap();
    logits(&mut backend, &[(&pages, 0, ids)]).remove(0)
}

/// The logits `[T][V]` after each token by the model's own forward pass.
fn reference(model: &CausalLm, ids: &[i64]) -> Vec<Vec<f32>> {
    let _no_grad = tch::no_grad_guard();
    let mut attend = Packed::new(&[ids.len()], Device::Cpu);
    let positions = Packed::positions(&[ids.len()], Device::Cpu);
    let hidden = model.hidden_states(&Tensor::from_slice(ids), &positions, &mut attend);
    Vec::<Vec<f32>>::try_from(model.logits(&hidden)).unwrap()
}

fn assert_close(name: &str, got: &[f32], expected: &[f32]) {
    let worst = got
        .iter()
        .zip(expected)
        .map(|(a, b)| if a.is_nan() { f32::MAX } else { (a - b).abs() })
        .fold(0.0, f32::max);
    assert!(worst <= LOGITS, "{name}: off by {worst}");
}

/// Prefills half of a sequence and decodes the rest.
fn check_against_reference(name: &str, model: &CausalLm, ids: &[i64]) {
    let expected = reference(model, ids);
    for isa in Isa::available() {
        let name = format!("{name} with {isa:?}");
        let mut backend = NativeBackend::with_isa(model, 1, isa).unwrap().unwrap();
        let pages = pages_of(ids.len(), 0);
        backend.reserve(pages.len()).unwrap();
        let half = ids.len() / 2;
        let got = logits(&mut backend, &[(&pages, 0, &ids[..half])]).remove(0);
        assert_close(&name, &got, &expected[half - 1]);
        for position in half..ids.len() {
            let got = logits(&mut backend, &[(&pages, position, &ids[position..=position])]).remove(0);
            assert_close(&format!("{name}, position {position}"), &got, &expected[position]);
        }
    }
}

fn fixture(name: &str) -> CausalLm {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(name);
    lm::load(&dir, Device::Cpu, Kind::Float).unwrap()
}

/// Token ids without a pattern that a model could make use of.
fn noise(seed: usize, len: usize, vocab_size: i64) -> Vec<i64> {
    (0..len)
        .map(|idx| ((seed * 7_919 + idx * idx * 31 + idx * 104_729) as i64) % vocab_size)
        .collect()
}

#[test]
fn fixtures_in_prefill_and_decode() {
    for name in FIXTURES {
        let model = fixture(name);
        check_against_reference(name, &model, &noise(1, 45, 512));
    }
}

/// A small model of any family; `changes` are fields of its config.json.
fn random(seed: u64, changes: &Value) -> CausalLm {
    let mut config = json!({
        "model_type": "llama",
        "hidden_size": 72,
        "intermediate_size": 120,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "vocab_size": 515,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    });
    for (name, value) in changes.as_object().unwrap() {
        config[name] = value.clone();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let config = Config::read(dir.path()).unwrap();
    let model = CausalLm::random(config, seed, Device::Cpu).unwrap();
    let _no_grad = tch::no_grad_guard();
    for (name, mut tensor) in model.named_parameters() {
        if name.ends_with("bias") {
            tensor.copy_(&(Tensor::randn_like(&tensor) * 0.2));
        } else if name.contains("norm") {
            tensor += Tensor::randn_like(&tensor) * 0.2;
        }
    }
    model
}

fn add_adapters(model: &mut CausalLm) {
    for (idx, layer) in model.layers.iter_mut().enumerate() {
        let adapter = |linear: &crate::lm::model::linear::Linear, r: i64| {
            let (out, input) = linear.weight.size2().unwrap();
            let options = (Kind::Float, Device::Cpu);
            Some(Adapter {
                a: Tensor::randn([r, input], options) * 0.1,
                b: Tensor::randn([out, r], options) * 0.1,
                scaling: 1.7,
                dropout: None,
            })
        };
        layer.q_proj.adapter = adapter(&layer.q_proj, 4);
        layer.v_proj.adapter = adapter(&layer.v_proj, 3);
        layer.up_proj.adapter = adapter(&layer.up_proj, 17);
        if idx == 1 {
            layer.o_proj.adapter = adapter(&layer.o_proj, 1);
            layer.down_proj.adapter = adapter(&layer.down_proj, 5);
        }
    }
}

#[test]
fn every_option_of_the_architectures() {
    let cases = [
        ("biases everywhere", json!({"attention_bias": true, "mlp_bias": true})),
        ("tied", json!({"tie_word_embeddings": true})),
        ("one head each", json!({"num_key_value_heads": 6})),
        ("all heads share one", json!({"num_key_value_heads": 1, "head_dim": 20})),
        ("large heads", json!({"head_dim": 80})),
        ("window of two", json!({"model_type": "mistral", "sliding_window": 2})),
        (
            "window of a page and some",
            json!({"model_type": "mistral", "sliding_window": 21}),
        ),
        (
            "qwen2, the second layer with a window",
            json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1}),
        ),
        ("qwen3", json!({"model_type": "qwen3", "head_dim": 20})),
    ];
    for (seed, (name, changes)) in cases.iter().enumerate() {
        let model = random(seed as u64, changes);
        check_against_reference(name, &model, &noise(seed, 70, 515));
    }
}

#[test]
fn adapters() {
    let mut model = random(3, &json!({"attention_bias": true}));
    let ids = noise(5, 40, 515);
    let before = alone(&model, Isa::best(), &ids);
    add_adapters(&mut model);
    assert_ne!(alone(&model, Isa::best(), &ids), before);
    check_against_reference("adapters", &model, &ids);
}

#[test]
fn weights_changed_in_place_are_seen() {
    let model = random(4, &json!({}));
    let ids = noise(6, 20, 515);
    let mut backend = NativeBackend::new(&model, 1).unwrap().unwrap();
    let pages = pages_of(ids.len(), 0);
    backend.reserve(pages.len()).unwrap();
    let before = logits(&mut backend, &[(&pages, 0, &ids)]);
    {
        let _no_grad = tch::no_grad_guard();
        let mut weight = model.layers[0].gate_proj.weight.shallow_clone();
        weight *= -1.5;
    }
    let after = logits(&mut backend, &[(&pages, 0, &ids)]);
    assert_ne!(before, after);
    assert_close("changed", &after[0], &reference(&model, &ids)[19]);
}

#[test]
fn only_f32_is_taken() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama3-gqa");
    let model = lm::load(&dir, Device::Cpu, Kind::BFloat16).unwrap();
    assert!(NativeBackend::new(&model, 1).unwrap().is_none());
}

#[test]
fn what_the_model_does_not_know_is_an_error() {
    let model = random(5, &json!({}));
    let mut backend = NativeBackend::new(&model, 1).unwrap().unwrap();
    backend.reserve(20).unwrap();
    let pages = pages_of(300, 0);
    let mut step = |start, ids: &[i64]| {
        let chunk = Chunk {
            pages: &pages,
            start,
            ids,
            draws: greedy(),
        };
        match backend.step(&[chunk]) {
            Err(LmError::Torch(message)) => message,
            other => panic!("expected an error, got {other:?}"),
        }
    };
    assert!(step(0, &[515]).contains("515"));
    assert!(step(0, &[-1]).contains("-1"));
    assert!(step(250, &[1; 7]).contains("257 tokens"));
    assert!(step(0, &[]).contains("no tokens"));
}

/// A sequence in a batch: its tokens and the lengths of the pieces that it is computed in.
#[derive(Debug, Clone)]
struct Sequence {
    ids: Vec<i64>,
    pieces: Vec<usize>,
}

fn sequence() -> impl Strategy<Value = Sequence> {
    (
        prop::collection::vec(0i64..515, 1..80),
        any::<prop::sample::Index>(),
        1usize..40,
    )
        .prop_map(|(ids, first, size)| {
            let first = first.index(ids.len()) + 1;
            let mut pieces = vec![first];
            let mut left = ids.len() - first;
            while left > 0 {
                pieces.push(size.min(left));
                left -= size.min(left);
            }
            Sequence { ids, pieces }
        })
}

/// Which model, by its index.
fn model(idx: usize) -> CausalLm {
    let cases = [
        json!({"attention_bias": true, "mlp_bias": true}),
        json!({"model_type": "mistral", "sliding_window": 19, "num_key_value_heads": 3}),
        json!({"model_type": "qwen3", "head_dim": 20, "num_key_value_heads": 6, "tie_word_embeddings": true}),
        json!({"head_dim": 80, "num_key_value_heads": 1, "hidden_size": 65, "intermediate_size": 131}),
    ];
    let mut model = random(idx as u64, &cases[idx]);
    if idx == 0 {
        add_adapters(&mut model);
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The same bits alone and in any company, in one piece and in many, on any pages and number of threads.
    #[test]
    fn a_sequence_does_not_feel_its_batch(
        model_idx in 0usize..4,
        sequences in prop::collection::vec(sequence(), 1..7),
        num_threads in 1usize..4,
        shift in 1u32..1000,
        isa in prop::sample::select(Isa::available()),
    ) {
        let model = model(model_idx);
        let expected: Vec<Vec<f32>> = sequences.iter().map(|sequence| alone(&model, isa, &sequence.ids)).collect();
        let mut backend = NativeBackend::with_isa(&model, num_threads, isa).unwrap().unwrap();
        let mut num_pages = 0;
        let mut page_lists = Vec::new();
        for sequence in &sequences {
            let pages = pages_of(sequence.ids.len(), num_pages);
            num_pages += pages.len() as PageId;
            page_lists.push(pages);
        }
        // Somewhere else than in their order: multiplication by an odd number permutes a power of two.
        let size = num_pages.next_power_of_two();
        for pages in &mut page_lists {
            pages.iter_mut().for_each(|page| *page = *page * (2 * shift + 1) % size);
        }
        backend.reserve(size as usize).unwrap();
        let mut last = vec![Vec::new(); sequences.len()];
        let num_steps = sequences.iter().map(|sequence| sequence.pieces.len()).max().unwrap();
        for step in 0..num_steps {
            let mut who = Vec::new();
            let mut pieces: Vec<Piece<'_>> = Vec::new();
            for (idx, sequence) in sequences.iter().enumerate() {
                if let Some(&len) = sequence.pieces.get(step) {
                    let start: usize = sequence.pieces[..step].iter().sum();
                    who.push(idx);
                    pieces.push((&page_lists[idx], start, &sequence.ids[start..start + len]));
                }
            }
            for (idx, row) in who.into_iter().zip(logits(&mut backend, &pieces)) {
                last[idx] = row;
            }
        }
        for (got, expected) in last.iter().zip(&expected) {
            prop_assert_eq!(bits(got), bits(expected));
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_shared_prefix_is_as_good_as_an_own_one() {
    let model = random(7, &json!({}));
    let mut first = noise(8, 50, 515);
    let mut second = first.clone();
    first.extend(noise(9, 20, 515));
    second.extend(noise(10, 13, 515));
    for isa in Isa::available() {
        let mut backend = NativeBackend::with_isa(&model, 2, isa).unwrap().unwrap();
        backend.reserve(3).unwrap();
        let first_pages = pages_of(first.len(), 0);
        logits(&mut backend, &[(&first_pages[..4], 0, &first[..50])]);
        backend.reserve(10).unwrap();
        // The fourth page is where they part.
        backend.copy_page(3, 9);
        let second_pages = [0, 1, 2, 9];
        let got = logits(
            &mut backend,
            &[(&second_pages, 50, &second[50..]), (&first_pages, 50, &first[50..])],
        );
        assert_eq!(bits(&got[0]), bits(&alone(&model, isa, &second)));
        assert_eq!(bits(&got[1]), bits(&alone(&model, isa, &first)));
    }
}

#[test]
fn chunks_without_draws_only_fill_pages() {
    let model = random(11, &json!({}));
    let ids = noise(12, 33, 515);
    let expected = alone(&model, Isa::best(), &ids);
    let mut backend = NativeBackend::new(&model, 1).unwrap().unwrap();
    backend.reserve(3).unwrap();
    let pages = pages_of(ids.len(), 0);
    let prefill = Chunk {
        pages: &pages,
        start: 0,
        ids: &ids[..32],
        draws: Vec::new(),
    };
    assert_eq!(backend.step(&[prefill]).unwrap(), [[]]);
    let got = logits(&mut backend, &[(&pages, 32, &ids[32..])]);
    assert_eq!(bits(&got[0]), bits(&expected));
    assert_eq!(backend.step(&[]).unwrap(), Vec::<Vec<_>>::new());
}

#[test]
fn several_tokens_are_drawn_after_one_prompt() {
    let model = random(13, &json!({}));
    let ids = noise(14, 9, 515);
    let mut backend = NativeBackend::new(&model, 2).unwrap().unwrap();
    backend.reserve(1).unwrap();
    let draw = |uniform| Draw {
        sampling: Sampling::PLAIN,
        uniform,
        seen: &[],
    };
    let chunk = Chunk {
        pages: &[0],
        start: 0,
        ids: &ids,
        draws: [0.0, 0.3, 0.6, 0.999_999].map(draw).to_vec(),
    };
    let drawn = backend.step(&[chunk]).unwrap().remove(0);
    let logits = Tensor::from_slice(&reference(&model, &ids)[8]);
    let logprobs = Vec::<f32>::try_from(logits.log_softmax(-1, Kind::Float)).unwrap();
    assert_eq!(drawn.len(), 4);
    assert!(drawn.windows(2).all(|pair| pair[0].id < pair[1].id));
    for token in drawn {
        assert!((token.logprob - logprobs[token.id as usize]).abs() < 1e-4);
    }
}
