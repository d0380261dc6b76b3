use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::Device;
use tempfile::TempDir;

use super::*;
use crate::lm;
use crate::lm::checkpoint::{read_tensors, write_tensors};

type NamedTensors = Vec<(String, Tensor)>;

fn model_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama3-gqa")
}

fn model() -> CausalLm {
    lm::load(&model_dir(), Device::Cpu, Kind::Float).unwrap()
}

fn fixture_config() -> Value {
    serde_json::from_slice(&std::fs::read(model_dir().join("lora/adapter_config.json")).unwrap()).unwrap()
}

/// The fixture's adapter with its config and its tensors changed.
fn changed(config: impl Fn(&mut Value), tensors: impl Fn(&mut NamedTensors)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut json = fixture_config();
    config(&mut json);
    std::fs::write(dir.path().join("adapter_config.json"), json.to_string()).unwrap();
    let mut map = std::collections::HashMap::new();
    read_tensors(&model_dir().join("lora/adapter_model.safetensors"), &mut map).unwrap();
    let mut list: Vec<_> = map.into_iter().collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    tensors(&mut list);
    write_tensors(list, &dir.path().join("adapter_model.safetensors")).unwrap();
    dir
}

fn error_of(dir: &TempDir) -> String {
    load(&model(), dir.path()).unwrap_err().to_string()
}

fn with_setting(name: &str, value: Value) -> String {
    error_of(&changed(|config| config[name] = value.clone(), |_| ()))
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (name, value) in [
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("bias", json!("lora_only")),
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("fan_in_fan_out", json!(true)),
        ("layer_replication", json!([[0, 1]])),
        ("trainable_token_indices", json!([1])),
        ("target_parameters", json!(["x"])),
        ("alora_invocation_tokens", json!([1])),
        ("lora_bias", json!(true)),
        ("use_qalora", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("a_setting_of_next_year", json!("on")),
    ] {
        let error = with_setting(name, value);
        assert!(
            error.contains(name) && error.contains("adapter_config.json"),
            "{name}: {error}"
        );
    }
}

#[test]
fn broken_settings_are_named() {
    for (name, value) in [
        ("r", json!(0)),
        ("r", json!(-4)),
        ("r", json!("4")),
        ("lora_alpha", json!("8")),
        ("lora_dropout", json!(1.0)),
        ("use_rslora", json!(1)),
        ("target_modules", Value::Null),
        ("target_modules", json!([1])),
        ("target_modules", json!("(")),
        ("target_modules", json!(["no_such_proj"])),
        ("layers_to_transform", json!("0")),
        ("rank_pattern", json!({"q_proj": 0})),
        ("alpha_pattern", json!({"(": 1})),
    ] {
        let error = with_setting(name, value.clone());
        assert!(
            error.contains(name) || error.contains("belongs to no module"),
            "{name} {value}: {error}"
        );
    }
}

#[test]
fn matrices_that_do_not_fit_are_named() {
    let error_with = |change: &dyn Fn(&mut NamedTensors)| error_of(&changed(|_| (), change));
    let first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let cases: [(String, &str); 5] = [
        (error_with(&|list| drop(list.remove(0))), "no tensor"),
        (
            error_with(&|list| list[0].1 = list[0].1.narrow(0, 0, 3)),
            "has shape [3, 64]",
        ),
        (
            error_with(&|list| list[0].1 = list[0].1.transpose(0, 1).contiguous()),
            "has shape [64, 4]",
        ),
        (error_with(&|list| list[0].1 = &list[0].1 * f64::NAN), "not finite"),
        (error_with(&|list| list[0].0 = format!("{first}.more")), "no tensor"),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected) && error.contains(first), "{expected}: {error}");
    }
    let error = error_with(&|list| list.push(("lm_head.lora_A.weight".to_owned(), Tensor::from(1.0f32))));
    assert!(error.contains("lm_head.lora_A.weight belongs to no module"), "{error}");
    let error = with_setting("r", json!(u64::MAX));
    assert!(error.contains("has shape [4, 64]"), "{error}");
}

#[test]
fn missing_files_are_named() {
    let dir = TempDir::new().unwrap();
    assert!(error_of(&dir).contains("adapter_config.json"));
    std::fs::write(dir.path().join("adapter_config.json"), fixture_config().to_string()).unwrap();
    assert!(error_of(&dir).contains("adapter_model.safetensors"));
    std::fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    assert!(error_of(&dir).contains("adapter_model.bin"));
    for text in ["[]", "{", ""] {
        std::fs::write(dir.path().join("adapter_config.json"), text).unwrap();
        assert!(error_of(&dir).contains("adapter_config.json"), "{text:?}");
    }
}

#[test]
fn an_adapter_survives_a_round_trip() {
    let config = |json: &mut Value| {
        json["rank_pattern"] = json!({r"layers\.1\.self_attn\.q_proj": 2});
        json["alpha_pattern"] = json!({"v_proj": 3.5});
        json["use_rslora"] = json!(true);
        json["exclude_modules"] = json!(["layers.0.self_attn.v_proj"]);
    };
    let from = changed(config, |list| {
        list.retain(|(name, _)| !name.contains("layers.0.self_attn.v_proj"));
        for (name, tensor) in list
            .iter_mut()
            .filter(|(name, _)| name.contains("layers.1.self_attn.q_proj"))
        {
            let dim = i64::from(name.contains("lora_B"));
            *tensor = tensor.narrow(dim, 0, 2).contiguous();
        }
    });
    let (first, read) = load(&model(), from.path()).unwrap();
    let scalings: Vec<f64> = first
        .layers
        .iter()
        .flat_map(|layer| {
            layer
                .linears()
                .map(|(_, linear)| linear.adapter.as_ref().map(|it| it.scaling))
        })
        .flatten()
        .collect();
    assert_eq!(scalings, [8.0 / 2.0, 8.0 / 2f64.sqrt(), 3.5 / 2.0]);

    let to = TempDir::new().unwrap();
    save(&first, &read, to.path()).unwrap();
    let (second, read_again) = load(&model(), to.path()).unwrap();
    assert_eq!(read, read_again);
    for ((name, a), (_, b)) in first.adapter_parameters().iter().zip(second.adapter_parameters()) {
        assert_eq!(*a, b, "{name}");
    }
}

fn params(targets: Option<&[&str]>) -> LoraParams {
    LoraParams {
        use_peft: true,
        lora_r: 4,
        lora_alpha: 16.0,
        lora_dropout: 0.0,
        lora_target_modules: targets.map(|list| list.iter().map(|&name| name.to_owned()).collect()),
        use_rslora: false,
    }
}

#[test]
fn a_new_adapter_changes_nothing_and_follows_from_its_seed() {
    let begin = |seed| params(None).begin(model(), seed).unwrap().0.adapter_parameters();
    let first = begin(1);
    assert_eq!(first.len(), 2 * 2 * 2, "A and B of q and v in two layers");
    for (name, tensor) in &first {
        let largest = tensor.abs().max().double_value(&[]);
        if name.contains("lora_B") {
            assert_eq!(largest, 0.0, "{name}");
        } else {
            // The largest of 256 uniform draws within 1 / sqrt(64).
            assert!((0.115..=0.125).contains(&largest), "{name}: {largest}");
        }
    }
    assert_eq!(first, begin(1));
    assert_ne!(first, begin(2));
}

#[test]
fn only_bf16_weights_beside_an_adapter_stay_bf16() {
    let dir = TempDir::new().unwrap();
    let kind = |dtype: &str, use_peft, bf16| {
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(model_dir().join("config.json")).unwrap()).unwrap();
        config.as_object_mut().unwrap().remove("torch_dtype");
        config["dtype"] = json!(dtype);
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let params = LoraParams {
            use_peft,
            ..params(None)
        };
        params.base_kind(dir.path(), bf16).unwrap()
    };
    assert_eq!(kind("bfloat16", true, true), Kind::BFloat16);
    for (dtype, use_peft, bf16) in [
        ("float32", true, true),
        ("bfloat16", false, true),
        ("bfloat16", true, false),
    ] {
        assert_eq!(kind(dtype, use_peft, bf16), Kind::Float, "{dtype} {use_peft} {bf16}");
    }
}

#[test]
fn targets_of_a_new_adapter() {
    let count = |targets: &[&str]| {
        let begun = params(Some(targets)).begin(model(), 1);
        begun.map(|(model, _)| model.adapter_parameters().len() / 2)
    };
    assert_eq!(count(&["all-linear"]).unwrap(), 14);
    assert_eq!(count(&["gate_proj"]).unwrap(), 2);
    assert_eq!(count(&[r".*\.0\..*_proj"]).unwrap(), 7);
    assert_eq!(count(&["q_proj", "o_proj", "down_proj"]).unwrap(), 6);
    for wrong in [&["lm_head"][..], &[], &["*"]] {
        assert!(count(wrong).is_err(), "{wrong:?}");
    }
    let mut huge = params(None);
    huge.lora_r = usize::MAX / 8;
    assert!(huge.begin(model(), 1).unwrap_err().to_string().contains("lower lora_r"));
}
