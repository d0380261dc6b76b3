//! Folders as they should be, and as damage, mistakes and malice make them.

use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::lm::config::NewModel;
use crate::lm::{self, CausalLm, Config};

const SIZES: NewModel = NewModel {
    hidden_size: 8,
    intermediate_size: 12,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    max_position_embeddings: 32,
    rope_theta: 10_000.0,
    tie_word_embeddings: false,
    initializer_range: 0.5,
};

fn model() -> CausalLm {
    let config = Config::new(&SIZES, 20, 1, 0).expect("the sizes fit each other");
    CausalLm::random(config, 3, Device::Cpu).expect("it fits the memory")
}

/// A folder with a model in one file.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    lm::checkpoint::write_weights(&model(), dir.path()).expect("the folder is written");
    dir
}

/// A folder with the same model in shards.
fn sharded() -> tempfile::TempDir {
    let dir = folder();
    write_model(model().named_parameters(), dir.path(), Kind::Float, 1500).expect("the shards are written");
    dir
}

fn load(dir: &Path) -> Result<CausalLm, LmError> {
    lm::load(dir, Device::Cpu, Kind::Float)
}

#[track_caller]
fn assert_same(got: &CausalLm, expected: &CausalLm) {
    for ((name, a), (other, b)) in got.named_parameters().into_iter().zip(expected.named_parameters()) {
        assert!(name == other && a.equal(&b), "{name}");
    }
}

fn is_mapped(file: &Path) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").expect("the process's own mappings");
    maps.contains(
        file.canonicalize()
            .expect("the file is there")
            .to_str()
            .expect("an ASCII path"),
    )
}

#[test]
fn weights_are_the_memory_of_the_file_as_long_as_one_of_them_lives() {
    let dir = folder();
    let file = dir.path().join(SINGLE);
    let model = load(dir.path()).expect("it loads");
    assert!(is_mapped(&file));
    let (_, last) = model.named_parameters().pop().expect("some parameters");
    drop(model);
    assert!(is_mapped(&file));
    let sum = std::thread::spawn(move || last.sum(Kind::Double).double_value(&[])).join();
    assert!(sum.expect("no panic").is_finite());
    assert!(!is_mapped(&file));
}

#[test]
fn what_is_converted_leaves_the_file() {
    let dir = folder();
    let half = lm::load(dir.path(), Device::Cpu, Kind::BFloat16).expect("it loads");
    assert!(!is_mapped(&dir.path().join(SINGLE)));
    for ((name, got), (_, wanted)) in half.named_parameters().into_iter().zip(model().named_parameters()) {
        assert!(got.equal(&wanted.to_kind(Kind::BFloat16)), "{name}");
    }
}

#[test]
fn a_tensor_longer_than_a_stride_is_converted_whole() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("long.safetensors");
    let long = Tensor::arange(5_000_000, (Kind::Float, Device::Cpu))
        .fmod(256.0)
        .to_kind(Kind::BFloat16);
    write_tensors(vec![("long".to_owned(), long.shallow_clone())], &path).expect("it is written");
    let file = mapped::Mapped::open(&path).expect("it opens");
    let got = file.load("long", Device::Cpu, Kind::Float).expect("it loads");
    assert!(got.equal(&long.to_kind(Kind::Float)));
    // The pages that were given back come from the file again.
    assert!(file.tensor("long").expect("it is there").equal(&long));
}

#[test]
fn changes_in_place_stay_out_of_the_file() {
    let dir = folder();
    let before = fs::read(dir.path().join(SINGLE)).expect("the file");
    let changed = load(dir.path()).expect("it loads");
    for (_, tensor) in changed.named_parameters() {
        let _ = tensor.detach().fill_(7.0);
    }
    assert_same(&load(dir.path()).expect("it loads"), &model());
    assert!(fs::read(dir.path().join(SINGLE)).expect("the file") == before);
    assert!(changed.embed_tokens.eq(7.0).all().int64_value(&[]) == 1);
}

#[test]
fn a_model_can_be_saved_over_the_file_that_it_is_mapped_from() {
    let dir = folder();
    let loaded = load(dir.path()).expect("it loads");
    lm::checkpoint::write_weights(&loaded, dir.path()).expect("it is written");
    assert_same(&loaded, &model());
    assert_same(&load(dir.path()).expect("it loads"), &model());
}

#[test]
fn a_folder_can_be_saved_onto_itself() {
    let dir = sharded();
    let companions = [
        ("tokenizer_config.json", "{\"a\": 1}"),
        ("chat_template.jinja", "{{ messages }}"),
        ("chat_templates/tool_use.jinja", "{{ tools }}"),
    ];
    fs::create_dir(dir.path().join("chat_templates")).expect("a folder");
    for (name, text) in companions {
        fs::write(dir.path().join(name), text).expect("it is written");
    }
    let loaded = load(dir.path()).expect("it loads");
    // And into another one, whose companions are of the first.
    let other = tempfile::tempdir().expect("a temporary folder");
    for to in [dir.path(), other.path()] {
        lm::save(&loaded, to, dir.path()).expect("it is saved");
        assert_same(&load(to).expect("it loads"), &model());
        assert_same(&loaded, &model());
        for (name, text) in companions {
            assert_eq!(fs::read_to_string(to.join(name)).expect("it is there"), text, "{name}");
        }
        let names = fs::read_dir(to)
            .expect("the folder")
            .flatten()
            .map(|entry| entry.file_name());
        assert_eq!(names.count(), 5, "nothing of the earlier weights is left");
    }
}

#[test]
fn a_model_is_there_until_the_next_one_is_written() {
    let dir = sharded();
    // The new weights can't be written: something else has their place.
    fs::create_dir(dir.path().join(format!("{SINGLE}.partial"))).expect("a folder");
    lm::checkpoint::write_weights(&model(), dir.path())
        .map(drop)
        .expect_err("it can't be written");
    assert_same(&load(dir.path()).expect("it loads"), &model());
}

#[test]
fn a_head_in_the_file_of_a_tied_model_counts_as_in_transformers() {
    const HEAD: &str = "lm_head.weight";
    let sizes = NewModel {
        tie_word_embeddings: true,
        ..SIZES
    };
    let tied =
        CausalLm::random(Config::new(&sizes, 20, 1, 0).expect("the sizes fit"), 3, Device::Cpu).expect("a model");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let loaded = |change: &dyn Fn(&mut Vec<(String, Tensor)>)| {
        lm::checkpoint::write_weights(&tied, dir.path()).expect("it is written");
        let mut list = tied.named_parameters();
        change(&mut list);
        write_tensors(list, &dir.path().join(SINGLE)).expect("it is written");
        load(dir.path()).expect("it loads")
    };
    let head = |head: Tensor| move |list: &mut Vec<(String, Tensor)>| list.push((HEAD.to_owned(), head.copy()));
    // The same again: tied.
    let again = loaded(&head(tied.embed_tokens.shallow_clone()));
    assert!(again.lm_head.is_none());
    assert_same(&again, &tied);
    // A head alone: it is the embeddings too.
    let alone = loaded(&|list| list[0].0 = HEAD.to_owned());
    assert!(alone.lm_head.is_none());
    assert_same(&alone, &tied);
    // Another one: the config is wrong, and is right once the model was saved.
    let other = &tied.embed_tokens + 1.0;
    let untied = loaded(&head(other.shallow_clone()));
    assert!(untied.lm_head.as_ref().is_some_and(|head| head.equal(&other)));
    lm::checkpoint::write_weights(&untied, dir.path()).expect("it is written");
    assert_same(&load(dir.path()).expect("it loads"), &untied);
    assert!(!Config::read(dir.path()).expect("a config").tie_word_embeddings);
}

#[test]
fn shards_hold_what_one_file_holds() {
    let dir = sharded();
    assert!(
        !dir.path().join(SINGLE).exists(),
        "the file of the earlier model is gone"
    );
    let index = files::read_json_object(&dir.path().join(INDEX), MAX_INDEX_BYTES).expect("the index");
    let names: BTreeSet<String> = index::shard_names(&index).expect("valid").into_values().collect();
    assert!(names.len() > 2, "{names:?}");
    let bytes: usize = model()
        .named_parameters()
        .iter()
        .map(|(_, tensor)| tensor.numel() * 4)
        .sum();
    assert_eq!(index["metadata"]["total_size"], bytes);
    assert_same(&load(dir.path()).expect("it loads"), &model());
    lm::checkpoint::write_weights(&model(), dir.path()).expect("it is written as one file");
    let left: Vec<_> = fs::read_dir(dir.path())
        .expect("the folder")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left.len(), 2, "config and weights: {left:?}");
}

#[test]
fn data_that_are_not_aligned_are_copied() {
    let dir = folder();
    let path = dir.path().join(SINGLE);
    let bytes = fs::read(&path).expect("the file");
    let (header, data) = split(&bytes);
    // Blanks after the header are allowed; three of them move the data off every boundary.
    let unaligned = assemble(&format!("{header}   "), data);
    fs::write(&path, unaligned).expect("it is written");
    assert_same(&load(dir.path()).expect("it loads"), &model());
}

#[test]
fn the_weights_say_their_kind_where_the_config_does_not() {
    let dir = folder();
    write_model(model().named_parameters(), dir.path(), Kind::Half, usize::MAX).expect("it is written");
    edit_config(dir.path(), |config| {
        config.remove("torch_dtype");
    });
    assert_eq!(load(dir.path()).expect("it loads").config.dtype, Kind::Half);
}

/// Header and data of a safetensors file.
fn split(bytes: &[u8]) -> (String, &[u8]) {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).expect("JSON is UTF-8");
    (header, &bytes[8 + length..])
}

fn assemble(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn edit_config(dir: &Path, edit: impl Fn(&mut serde_json::Map<String, Value>)) {
    let path = dir.join("config.json");
    let mut config = files::read_json_object(&path, 1 << 20).expect("the config");
    edit(&mut config);
    fs::write(path, Value::Object(config).to_string()).expect("it is written");
}

/// Asserts that a folder is refused with a message that holds all of `parts`.
#[track_caller]
fn refused(dir: &Path, parts: &[&str]) {
    let message = match load(dir) {
        Ok(_) => panic!("it loads"),
        Err(LmError::Io { path, source }) => format!("{}: {source}", path.display()),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

/// Asserts that a folder whose weights `damage` has changed is refused.
#[track_caller]
fn refused_bytes(damage: impl Fn(&[u8]) -> Vec<u8>, parts: &[&str]) {
    let dir = folder();
    let path = dir.path().join(SINGLE);
    let bytes = fs::read(&path).expect("the file");
    fs::write(&path, damage(&bytes)).expect("it is written");
    refused(dir.path(), &[&["model.safetensors"], parts].concat());
}

/// As [`refused_bytes`], with a change of the header alone.
#[track_caller]
fn refused_header(damage: impl Fn(&mut Value), parts: &[&str]) {
    refused_bytes(
        |bytes| {
            let (header, data) = split(bytes);
            let mut header: Value = serde_json::from_str(&header).expect("JSON");
            damage(&mut header);
            assemble(&header.to_string(), data)
        },
        parts,
    );
}

const NORM: &str = "model.norm.weight";

#[test]
fn files_cut_short_or_of_another_kind() {
    refused_bytes(|_| Vec::new(), &["empty"]);
    refused_bytes(|bytes| bytes[..5].to_vec(), &["too short"]);
    refused_bytes(|bytes| bytes[..100].to_vec(), &["longer than the file"]);
    refused_bytes(|bytes| bytes[..bytes.len() - 1].to_vec(), &["cut short"]);
    refused_bytes(|bytes| [bytes, &[0]].concat(), &["bytes too many"]);
    refused_bytes(|_| b"PK\x03\x04 a zip file, really".to_vec(), &["no safetensors file"]);
    refused_bytes(
        |_| b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
        &["git lfs pull"],
    );
    refused_bytes(|bytes| [&u64::MAX.to_le_bytes(), &bytes[8..]].concat(), &["100 MB"]);
    refused_bytes(|_| assemble("[1, 2]", &[]), &["no valid safetensors file"]);
    refused_bytes(|_| assemble(&"[".repeat(5000), &[]), &["no valid safetensors file"]);
    refused_bytes(|_| assemble("\u{7f}{}", &[]), &["no valid safetensors file"]);
}

#[test]
fn headers_that_lie() {
    refused_header(|header| header[NORM]["data_offsets"] = json!([0, 32]), &["offset"]);
    refused_header(
        |header| header[NORM]["data_offsets"] = json!([1_u64 << 60, (1_u64 << 60) + 32]),
        &["offset"],
    );
    refused_header(|header| header[NORM]["data_offsets"] = json!([32, 0]), &["offset"]);
    refused_header(
        |header| header[NORM]["data_offsets"] = json!([-32, 0]),
        &["no valid safetensors"],
    );
    refused_header(|header| header[NORM]["shape"] = json!([4, 3]), &["shape"]);
    refused_header(
        |header| header[NORM]["shape"] = json!([u64::MAX, u64::MAX, 8]),
        &["overflow"],
    );
    refused_header(|header| header[NORM]["shape"] = json!([1_u64 << 62, 8]), &["overflow"]);
    refused_header(|header| header[NORM]["dtype"] = json!("F8_E4M3"), &["safetensors"]);
    refused_header(
        |header| header[NORM]["dtype"] = json!("complex"),
        &["no valid safetensors"],
    );
    refused_header(|header| header[NORM] = Value::Null, &["no valid safetensors"]);
    // The same bytes as another kind, and in another shape.
    let integers = |header: &mut Value| header[NORM]["dtype"] = json!("I32");
    refused_header(integers, &[NORM, "I32", "BF16"]);
    refused_header(
        |header| header[NORM]["shape"] = json!([4, 2]),
        &[NORM, "[4, 2]", "config.json asks for [8]"],
    );
}

#[test]
fn tensors_that_are_missing_or_too_many() {
    let dir = folder();
    let with = |change: fn(&mut Vec<(String, Tensor)>)| {
        let mut tensors = model().named_parameters();
        change(&mut tensors);
        write_tensors(tensors, &dir.path().join(SINGLE)).expect("it is written");
    };
    with(|tensors| tensors.retain(|(name, _)| name != NORM && !name.contains("layers.1.mlp")));
    refused(
        dir.path(),
        &["lack model.layers.1.mlp.gate_proj.weight", "4 of 21 tensors"],
    );
    with(|tensors| tensors.retain(|(name, _)| name != "lm_head.weight"));
    refused(dir.path(), &["lack lm_head.weight", "tie_word_embeddings"]);
    with(|tensors| {
        let bias = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        tensors.push(("model.layers.0.self_attn.q_proj.bias".to_owned(), bias));
    });
    refused(dir.path(), &["model.layers.0.self_attn.q_proj.bias", "does not have"]);
    // What older files have besides, and what has no part in the logits.
    with(|tensors| {
        for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "v_head.weight"] {
            tensors.push((name.to_owned(), Tensor::zeros([2], (Kind::Float, Device::Cpu))));
        }
    });
    assert_same(&load(dir.path()).expect("it loads"), &model());
}

#[test]
fn weights_that_are_no_numbers() {
    for (value, kind) in [
        (f64::NAN, Kind::Float),
        (f64::INFINITY, Kind::BFloat16),
        (f64::NEG_INFINITY, Kind::Half),
    ] {
        let dir = folder();
        let model = model();
        let _ = model.layers[1].up_proj.weight.get(5).get(3).fill_(value);
        write_model(model.named_parameters(), dir.path(), kind, usize::MAX).expect("it is written");
        refused(dir.path(), &["model.layers.1.mlp.up_proj.weight", "NaN or infinite"]);
    }
}

#[test]
fn folders_without_weights() {
    let dir = folder();
    fs::remove_file(dir.path().join(SINGLE)).expect("it was there");
    refused(dir.path(), &["no model.safetensors"]);
    fs::write(dir.path().join("model-q8.gguf"), b"GGUF").expect("it is written");
    refused(dir.path(), &["GGUF", "model-q8.gguf"]);
    fs::remove_file(dir.path().join("model-q8.gguf")).expect("it was there");
    fs::write(dir.path().join("pytorch_model.bin"), b"PK").expect("it is written");
    refused(dir.path(), &["pickled", "save_pretrained"]);
    fs::create_dir(dir.path().join(SINGLE)).expect("a folder in place of the file");
    refused(dir.path(), &["model.safetensors", "is not a file"]);
    refused(&dir.path().join("elsewhere"), &["config.json"]);
}

#[test]
fn links_that_lead_nowhere_or_to_a_device() {
    let dir = folder();
    let path = dir.path().join(SINGLE);
    fs::remove_file(&path).expect("it was there");
    symlink(dir.path().join("nowhere"), &path).expect("a link");
    refused(dir.path(), &["model.safetensors"]);
    fs::remove_file(&path).expect("it was there");
    symlink("/dev/zero", &path).expect("a link");
    refused(dir.path(), &["is not a file"]);
}

#[test]
fn indexes_that_lead_elsewhere() {
    let dir = sharded();
    let path = dir.path().join(INDEX);
    let text = fs::read_to_string(&path).expect("the index");
    let index = files::read_json_object(&path, MAX_INDEX_BYTES).expect("the index");
    let whole = index["weight_map"][NORM].as_str().expect("a shard").to_owned();
    for name in [
        "../x.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "",
        "..",
        ".hidden.safetensors",
        "config.json",
    ] {
        fs::write(&path, text.replacen(&whole, name, 1)).expect("it is written");
        refused(dir.path(), &["index.json", "plain name"]);
    }
    fs::write(&path, text.replacen(&whole, "model-00009-of-00009.safetensors", 1)).expect("it is written");
    refused(dir.path(), &["names the shard model-00009-of-00009.safetensors"]);
    for (wrong, part) in [
        ("{}", "weight_map is missing"),
        ("[]", "not a JSON object"),
        ("{", "EOF"),
        ("", "EOF"),
        ("{\"weight_map\": {}}", "weight_map is empty"),
        ("{\"weight_map\": {\"a\": 1}}", "plain name"),
    ] {
        fs::write(&path, wrong).expect("it is written");
        refused(dir.path(), &["index.json", part]);
    }
}

#[test]
fn shards_that_contradict_their_index() {
    let dir = sharded();
    let shard = |number: usize| {
        let names = Weights::open(dir.path())
            .expect("it opens")
            .files
            .into_iter()
            .map(|file| file.path);
        let mut names: Vec<PathBuf> = names.collect();
        names.sort();
        names.swap_remove(number)
    };
    let (first, second) = (shard(0), shard(1));
    let saved = fs::read(&first).expect("a shard");
    // The first shard again under the second's name: its own tensors twice, the second's never.
    let other = fs::read(&second).expect("a shard");
    fs::write(&second, &saved).expect("it is written");
    refused(dir.path(), &["holds the tensor", "and so does"]);
    fs::write(&second, other).expect("it is written");
    write_tensors(
        vec![("nothing".to_owned(), Tensor::zeros([1], (Kind::Float, Device::Cpu)))],
        &first,
    )
    .expect("written");
    refused(dir.path(), &["lacks the tensor", "index.json says"]);
    fs::write(&first, &saved[..saved.len() / 2]).expect("it is written");
    refused(dir.path(), &["model-00001-of", "cut short"]);
    fs::remove_file(&first).expect("it was there");
    refused(dir.path(), &["names the shard model-00001-of"]);
}

#[test]
fn configs_that_do_not_fit() {
    let dir = folder();
    for (wrong, part) in [
        ("", "EOF"),
        ("[]", "not a JSON object"),
        ("3", "not a JSON object"),
        ("{\"model_type\": 1e999}", "out of range"),
        ("{\"model_type\": 3}", "no model_type"),
        ("\u{0}", "expected value"),
    ] {
        fs::write(dir.path().join("config.json"), wrong).expect("it is written");
        refused(dir.path(), &["config.json", part]);
    }
    let dir = folder();
    edit_config(dir.path(), |config| {
        config.insert("intermediate_size".to_owned(), json!(13));
    });
    refused(dir.path(), &["gate_proj.weight", "[12, 8]", "[13, 8]"]);
    edit_config(dir.path(), |config| {
        config.insert("vocab_size".to_owned(), json!(1 << 24));
        config.insert("hidden_size".to_owned(), json!(1 << 17));
    });
    refused(dir.path(), &["embed_tokens", "[20, 8]", "[16777216, 131072]"]);
    edit_config(dir.path(), |config| {
        config.insert("num_hidden_layers".to_owned(), json!(1_000_000_000_000_i64));
    });
    refused(dir.path(), &["num_hidden_layers is 1000000000000"]);
}

#[test]
fn a_config_of_no_end_is_not_read_to_its_end() {
    let dir = folder();
    let file = fs::File::create(dir.path().join("config.json")).expect("it is written");
    file.set_len(1 << 40).expect("a file with a hole");
    refused(dir.path(), &["config.json", "longer than"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens to a byte or two, loading ends with a model or with a message.
    #[test]
    fn damaged_files_never_panic(
        place in 0..2048_usize,
        value in any::<u8>(),
        other in 0..2048_usize,
        cut in prop::option::of(0..4096_usize),
    ) {
        let dir = folder();
        let path = dir.path().join(SINGLE);
        let mut bytes = fs::read(&path).expect("the file");
        bytes[place] = value;
        bytes[other] ^= 1 << (value % 8);
        bytes.truncate(cut.unwrap_or(usize::MAX));
        fs::write(&path, bytes).expect("it is written");
        if let Err(error) = load(dir.path()) {
            prop_assert!(error.to_string().contains(dir.path().to_str().expect("an ASCII path")), "{error}");
        }
    }

    /// The pure readers take any bytes.
    #[test]
    fn headers_of_any_bytes(length in 0..64_u64, bytes in prop::collection::vec(any::<u8>(), 0..96)) {
        let _ = header::parse(&[&length.to_le_bytes(), bytes.as_slice()].concat());
        let _ = header::parse(&bytes);
    }
}
