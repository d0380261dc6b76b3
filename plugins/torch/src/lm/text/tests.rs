//! Against transformers (`tests/fixtures/{models,tokenizers,chat}`), streams of any tokens, and broken folders.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::TextStream;
use crate::lm::Tokenizer;
use crate::lm::chat::ChatOptions;

const GOLDEN: [&str; 4] = ["llama3-gqa", "smollm-tied", "qwen2-bias-tied", "qwen3-qknorm"];
const MADE: [&str; 6] = [
    "byte_fallback",
    "wordpiece",
    "byte_level",
    "llama",
    "llama_legacy",
    "llama_no_prefix",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn load(name: &str) -> Tokenizer {
    let folder = if MADE.contains(&name) { "tokenizers" } else { "models" };
    Tokenizer::load(&fixtures().join(folder).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn read(path: &str) -> Json {
    let text = std::fs::read(fixtures().join(path)).expect("the fixture is there");
    serde_json::from_slice(&text).expect("the fixture is JSON")
}

fn ids(json: &Json) -> Vec<i64> {
    json.as_array().into_iter().flatten().filter_map(Json::as_i64).collect()
}

fn list(json: &Json) -> Vec<Json> {
    json.as_array().cloned().expect("a list")
}

fn check_texts(name: &str, cases: &Json, decoded_ids: &str) {
    let tokenizer = load(name);
    assert!(!list(cases).is_empty());
    for case in list(cases) {
        let text = case["text"].as_str().expect("a text");
        let encode = |special| tokenizer.encode(text, special).expect("it encodes");
        assert_eq!(encode(false), ids(&case["ids"]), "{name} {text:?}");
        assert_eq!(encode(true), ids(&case["ids_with_special"]), "{name} {text:?}");
        let decode = |skip| tokenizer.decode(&ids(&case[decoded_ids]), skip).expect("it decodes");
        assert_eq!(decode(false), case["decoded"], "{name} {text:?}");
        assert_eq!(decode(true), case["decoded_skip_special"], "{name} {text:?}");
    }
}

#[test]
fn texts_become_the_ids_of_transformers_and_back() {
    for name in GOLDEN {
        check_texts(name, &read(&format!("models/{name}/golden.json"))["tokenizer"], "ids");
    }
    let cases = read("tokenizers/cases.json");
    for name in MADE {
        check_texts(name, &cases[name], "ids_with_special");
    }
}

#[test]
fn chats_become_the_text_and_ids_of_transformers() {
    for name in GOLDEN {
        let (tokenizer, golden) = (load(name), read(&format!("models/{name}/golden.json")));
        for (chat, case) in golden["chat"].as_object().expect("an object") {
            for (variant, expected) in case
                .as_object()
                .expect("an object")
                .iter()
                .filter(|(name, _)| *name != "messages")
            {
                let mut options = ChatOptions::generation_prompt(variant.contains("add_generation_prompt=true"));
                if variant.contains("enable_thinking=false") {
                    options.variables.insert("enable_thinking".to_owned(), false.into());
                }
                let messages = list(&case["messages"]);
                let what = format!("{name} {chat} {variant}");
                let text = tokenizer.render_conversation(&messages, &options).expect("it renders");
                assert_eq!(text, expected["text"], "{what}");
                assert_eq!(
                    tokenizer.encode(&text, false).expect("it encodes"),
                    ids(&expected["ids"]),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn generation_blocks_give_the_mask_of_transformers() {
    for (idx, case) in list(&read("chat/masks.json")).iter().enumerate() {
        let dir = copy(
            &fixtures().join("models/qwen3-qknorm"),
            &["tokenizer.json", "tokenizer_config.json"],
        );
        let template = case["template"].as_str().expect("a text");
        std::fs::write(dir.path().join("chat_template.jinja"), template).expect("a file");
        let tokenizer = Tokenizer::load(dir.path()).expect("a tokenizer");
        let (got, mask) = tokenizer
            .encode_chat(&list(&case["messages"]), &ChatOptions::default())
            .expect("it encodes");
        assert_eq!(got, ids(&case["ids"]), "case {idx}");
        let mask: Vec<i64> = mask.into_iter().map(i64::from).collect();
        assert_eq!(mask, ids(&case["mask"]), "case {idx}");
    }
}

#[test]
fn without_generation_blocks_the_mask_is_the_answer_with_its_end() {
    let tokenizer = load("qwen2-bias-tied");
    let messages = [
        json!({"role": "user", "content": "Hello"}),
        json!({"role": "assistant", "content": "Hi, café"}),
    ];
    let (ids, mask) = tokenizer
        .encode_chat(&messages, &ChatOptions::default())
        .expect("it encodes");
    let assistant: Vec<i64> = ids
        .iter()
        .zip(&mask)
        .filter(|(_, mask)| **mask)
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(
        tokenizer.decode(&assistant, false).as_deref().ok(),
        Some("Hi, café<|im_end|>\n")
    );
    let prompt = tokenizer
        .render_conversation(&messages[..1], &ChatOptions::generation_prompt(true))
        .and_then(|text| tokenizer.encode(&text, false))
        .expect("it encodes");
    assert_eq!(ids[..prompt.len()], prompt[..]);
    assert!(mask[..prompt.len()].iter().all(|mask| !mask) && mask[prompt.len()..].iter().all(|mask| *mask));
}

/// The pieces that a stream gives.
fn pieces(tokenizer: &Tokenizer, ids: &[i64], skip_special_tokens: bool) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer, skip_special_tokens);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).expect("it decodes")).collect();
    pieces.push(stream.finish().expect("it decodes"));
    pieces
}

#[test]
fn a_stream_never_gives_half_a_character() {
    for name in ["llama3-gqa", "qwen3-qknorm", "byte_fallback", "byte_level", "llama"] {
        let tokenizer = load(name);
        let text = "Hi 🙂 日本語, déjà vu!";
        let pieces = pieces(&tokenizer, &tokenizer.encode(text, false).expect("it encodes"), false);
        assert!(
            pieces.iter().all(|piece| !piece.contains('\u{fffd}')),
            "{name}: {pieces:?}"
        );
        assert!(
            pieces.iter().filter(|piece| !piece.is_empty()).count() > 3,
            "{name}: {pieces:?}"
        );
        assert_eq!(pieces.concat(), text, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_pieces_of_a_stream_are_the_whole_text(
        name in prop::sample::select([&GOLDEN[..], &MADE[..]].concat()),
        ids in prop::collection::vec(0_i64..530, 0..40),
        skip in any::<bool>(),
    ) {
        let tokenizer = load(name);
        prop_assert_eq!(pieces(&tokenizer, &ids, skip).concat(), tokenizer.decode(&ids, skip).expect("it decodes"));
    }
}

fn copy(from: &Path, names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for name in names {
        std::fs::copy(from.join(name), dir.path().join(name)).expect("a copy");
    }
    dir
}

fn error_of(dir: &Path) -> String {
    Tokenizer::load(dir).err().expect("a broken folder").to_string()
}

#[test]
fn broken_folders_are_refused_with_the_file_and_what_to_do() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
    assert!(error_of(dir.path()).contains("tokenizer.json"));
    write("tokenizer.model", "sentencepiece");
    let error = error_of(dir.path());
    assert!(
        error.contains("tokenizer.model") && error.contains("save_pretrained"),
        "{error}"
    );
    write("tokenizer.json", "{\"version\": \"1.0\"");
    assert!(error_of(dir.path()).contains("tokenizer.json: not a tokenizer"));

    let dir = copy(&fixtures().join("tokenizers/byte_level"), &["tokenizer.json"]);
    let write = |json: Json| {
        std::fs::write(dir.path().join("tokenizer_config.json"), json.to_string()).expect("a file");
        error_of(dir.path())
    };
    let error = write(json!({"added_tokens_decoder": {"7": {"content": "<x>"}}}));
    assert!(
        error.contains("tokenizer_config.json") && error.contains("\"<x>\" the id 7"),
        "{error}"
    );
    let error = write(json!({"added_tokens_decoder": {"seven": {"content": "<x>"}}}));
    assert!(error.contains("expected a token id, found \"seven\""), "{error}");
    let error = write(json!({"chat_template": "{% if %}"}));
    assert!(error.contains("chat template"), "{error}");
    std::fs::write(dir.path().join("tokenizer_config.json"), "[").expect("a file");
    assert!(error_of(dir.path()).contains("tokenizer_config.json"));
}

#[test]
fn all_end_tokens_of_the_generation_config_count() {
    let dir = copy(
        &fixtures().join("tokenizers/byte_level"),
        &["tokenizer.json", "tokenizer_config.json"],
    );
    let eos = |dir: &Path| Tokenizer::load(dir).expect("a tokenizer").eos_token_ids;
    assert_eq!(eos(dir.path()), [1]);
    std::fs::write(dir.path().join("config.json"), "{\"eos_token_id\": 0}").expect("a file");
    assert_eq!(eos(dir.path()), [0]);
    std::fs::write(dir.path().join("generation_config.json"), "{\"eos_token_id\": [1, 5]}").expect("a file");
    assert_eq!(eos(dir.path()), [1, 5]);
    let tokenizer = Tokenizer::load(dir.path()).expect("a tokenizer");
    assert_eq!(
        tokenizer.encode("<pad>", false).ok(),
        Some(vec![tokenizer.pad_token_id])
    );
}
