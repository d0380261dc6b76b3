use serde_json::json;

use super::*;

/// A config of the family with the keys that every file has; those of `keys` are added, or taken away by `null`.
fn config(model_type: &str, keys: Value) -> Result<Config, LmError> {
    let mut raw = json!({"model_type": model_type, "vocab_size": 64, "hidden_size": 256, "intermediate_size": 96,
                         "num_hidden_layers": 4, "num_attention_heads": 32});
    let (Some(raw), Value::Object(keys)) = (raw.as_object_mut(), keys) else {
        panic!("both are objects");
    };
    raw.extend(keys);
    Config::of(raw.clone(), Path::new("config.json"))
}

fn valid(model_type: &str, keys: Value) -> Config {
    config(model_type, keys.clone()).unwrap_or_else(|error| panic!("{model_type} {keys}: {error}"))
}

/// Asserts that a Llama with these keys is refused with a message that holds all of `parts`.
#[track_caller]
fn refused(model_type: &str, keys: Value, parts: &[&str]) {
    let message = match config(model_type, keys.clone()) {
        Ok(_) => panic!("{keys} is taken"),
        Err(error) => error.to_string(),
    };
    for part in ["config.json"].iter().chain(parts) {
        assert!(message.contains(part), "{keys}: {message:?} lacks {part:?}");
    }
}

#[test]
fn what_a_file_does_not_say_is_as_in_transformers() {
    let sizes = |model_type| {
        let c = valid(model_type, json!({}));
        (c.num_key_value_heads, c.head_dim, c.max_position_embeddings)
    };
    assert_eq!(sizes("llama"), (32, 8, 2048));
    assert_eq!(sizes("mistral"), (8, 8, 131_072));
    assert_eq!(sizes("qwen2"), (32, 8, 32_768));
    assert_eq!(sizes("qwen3"), (32, 128, 32_768));
    for model_type in SUPPORTED {
        let c = valid(model_type, json!({}));
        assert_eq!(
            (c.rms_norm_eps, c.rope_theta, c.rope_scaling),
            (1e-6, 10_000.0, RopeScaling::None)
        );
        assert!(!c.tie_word_embeddings && !c.mlp_bias && !c.o_bias);
        assert_eq!(c.qkv_bias, *model_type == "qwen2");
        assert_eq!(c.qk_norm, *model_type == "qwen3");
        let window = (*model_type == "mistral").then_some(4096);
        assert_eq!(c.sliding_windows, vec![window; 4], "{model_type}");
        assert_eq!((c.dtype, c.names_dtype()), (Kind::Float, false));
    }
}

#[test]
fn null_is_not_always_the_same_as_absent() {
    let c = valid(
        "mistral",
        json!({"num_key_value_heads": null, "sliding_window": null, "head_dim": null}),
    );
    assert_eq!((c.num_key_value_heads, c.head_dim), (32, 8));
    assert_eq!(c.sliding_windows, vec![None; 4]);
}

#[test]
fn biases_that_a_family_has_not_are_ignored() {
    let c = valid("llama", json!({"attention_bias": true, "mlp_bias": true}));
    assert!(c.qkv_bias && c.o_bias && c.mlp_bias);
    for model_type in ["mistral", "qwen2"] {
        let c = valid(model_type, json!({"attention_bias": true, "mlp_bias": true}));
        assert!(!c.o_bias && !c.mlp_bias, "{model_type}");
    }
}

#[test]
fn windows_of_qwen_layers() {
    let windows = |keys| valid("qwen2", keys).sliding_windows;
    let window = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 3});
    assert_eq!(windows(window), [None, None, None, Some(16)]);
    // 28 layers see everything where nothing is said.
    assert_eq!(
        windows(json!({"use_sliding_window": true, "sliding_window": 16})),
        [None; 4]
    );
    assert_eq!(
        windows(json!({"sliding_window": 16, "max_window_layers": 0})),
        [None; 4]
    );
    let layer_types = [
        "sliding_attention",
        "full_attention",
        "full_attention",
        "sliding_attention",
    ];
    let by_type = json!({"use_sliding_window": true, "max_window_layers": 0, "layer_types": layer_types});
    assert_eq!(windows(by_type), [Some(4096), None, None, Some(4096)]);
    refused(
        "qwen3",
        json!({"layer_types": layer_types}),
        &["sliding_attention", "use_sliding_window"],
    );
    refused(
        "qwen3",
        json!({"layer_types": ["full_attention"]}),
        &["layer_types", "1 entries", "4"],
    );
    let unknown = json!({"layer_types": ["conv", "conv", "conv", "conv"]});
    refused("qwen2", unknown, &["layer_types", "conv", "full_attention"]);
}

#[test]
fn rotary_settings_in_every_place() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 64, "rope_theta": 7.0});
    let mut old = llama3.clone();
    let old_keys = old.as_object_mut().expect("an object");
    old_keys.remove("rope_theta");
    let scaled = old_keys.remove("rope_type").expect("it was there");
    old_keys.insert("type".to_owned(), scaled);
    let wanted = valid("qwen2", json!({"rope_parameters": llama3}));
    assert_eq!(wanted.rope_theta, 7.0);
    let same = [
        json!({"rope_theta": 7, "rope_scaling": old}),
        json!({"rope_theta": 9.0, "rope_scaling": llama3}),
        json!({"rope_scaling": {}, "rope_parameters": llama3}),
        json!({"rope_parameters": {"full_attention": llama3, "sliding_attention": null}}),
        json!({"rope_scaling": llama3, "rope_parameters": {"rope_type": "linear", "factor": 2}}),
    ];
    for keys in same {
        let got = valid("qwen2", keys.clone());
        assert_eq!(
            (got.rope_theta, got.rope_scaling),
            (wanted.rope_theta, wanted.rope_scaling),
            "{keys}"
        );
    }
}

#[test]
fn the_original_length_of_llama3_scaling() {
    let original = |keys| match valid("llama", keys).rope_scaling {
        RopeScaling::Llama3 {
            original_max_position_embeddings,
            ..
        } => original_max_position_embeddings,
        other => panic!("{other:?}"),
    };
    let scaling = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    assert_eq!(original(json!({"rope_scaling": scaling})), 2048.0);
    assert_eq!(
        original(json!({"rope_scaling": scaling, "original_max_position_embeddings": 512})),
        512.0
    );
}

#[test]
fn settings_nested_by_layer_type_must_agree() {
    let layers = json!([
        "full_attention",
        "sliding_attention",
        "full_attention",
        "full_attention"
    ]);
    let keys = |full: f64, sliding: f64| {
        json!({"use_sliding_window": true, "layer_types": layers, "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": full},
            "sliding_attention": {"rope_type": "default", "rope_theta": sliding}}})
    };
    assert_eq!(valid("qwen2", keys(5.0, 5.0)).rope_theta, 5.0);
    refused(
        "qwen2",
        keys(5.0, 6.0),
        &["rope_parameters", "differs", "only one setting"],
    );
    let missing = json!({"rope_parameters": {"sliding_attention": {"rope_type": "default"}}});
    refused("qwen2", missing, &["rope_parameters", "full_attention"]);
}

#[test]
fn other_architectures_and_methods_are_refused_by_name() {
    for model_type in ["gpt2", "qwen2_moe", "mixtral", "gemma3_text", "phi3"] {
        refused(model_type, json!({}), &[model_type, "llama, mistral, qwen2, qwen3"]);
    }
    for rope_type in ["yarn", "dynamic", "longrope", "su"] {
        let keys = json!({"rope_scaling": {"rope_type": rope_type, "factor": 2.0}});
        refused(
            "llama",
            keys,
            &["rope_scaling.rope_type", rope_type, "default, linear, llama3"],
        );
    }
    refused(
        "llama",
        json!({"quantization_config": {"quant_method": "gptq"}}),
        &["gptq", "not supported", "bfloat16"],
    );
    refused("llama", json!({"num_experts": 8}), &["num_experts is 8", "experts"]);
    refused(
        "llama",
        json!({"hidden_act": "gelu"}),
        &["hidden_act is \"gelu\"", "silu"],
    );
    refused(
        "llama",
        json!({"partial_rotary_factor": 0.5}),
        &["partial_rotary_factor is 0.5"],
    );
    refused(
        "llama",
        json!({"torch_dtype": "float8_e4m3fn"}),
        &["torch_dtype", "float8", "float32, bfloat16"],
    );
}

#[test]
fn values_that_make_no_sense_are_refused_with_key_value_and_expectation() {
    let cases = [
        (json!({"hidden_size": 0}), ["hidden_size is 0", "from 1 to 131072"]),
        (json!({"hidden_size": -4}), ["hidden_size is -4", "an integer"]),
        (json!({"hidden_size": "64"}), ["hidden_size is \"64\"", "an integer"]),
        (json!({"hidden_size": 64.5}), ["hidden_size is 64.5", "an integer"]),
        (
            json!({"hidden_size": null}),
            ["hidden_size is missing", "a positive integer"],
        ),
        (
            json!({"hidden_size": 250}),
            ["hidden_size is 250", "num_attention_heads, which is 32"],
        ),
        (json!({"hidden_size": 96}), ["head_dim is 3", "even"]),
        (
            json!({"vocab_size": 9_000_000_000_000_000_000_u64}),
            ["vocab_size is 9000000000000000000", "integer"],
        ),
        (
            json!({"num_hidden_layers": 1_000_000_000}),
            ["num_hidden_layers is 1000000000", "from 1 to 1024"],
        ),
        (
            json!({"num_key_value_heads": 5}),
            ["num_attention_heads is 32", "num_key_value_heads, which is 5"],
        ),
        (
            json!({"num_key_value_heads": [8]}),
            ["num_key_value_heads is [8]", "an integer"],
        ),
        (json!({"rms_norm_eps": 0}), ["rms_norm_eps is 0", "between 0 and 1"]),
        (json!({"rope_theta": -1.0}), ["rope_theta is -1.0", "a positive number"]),
        (
            json!({"rope_scaling": "linear"}),
            ["rope_scaling is \"linear\"", "an object"],
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            ["rope_scaling.factor is missing", "a positive number"],
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            ["rope_scaling.factor is 0", "a positive number"],
        ),
        (
            json!({"tie_word_embeddings": "yes"}),
            ["tie_word_embeddings is \"yes\"", "true or false"],
        ),
        (
            json!({"eos_token_id": ["</s>"]}),
            ["eos_token_id is [\"</s>\"]", "a token id"],
        ),
        (
            json!({"max_position_embeddings": 1e300}),
            ["max_position_embeddings is 1e+300", "an integer"],
        ),
    ];
    for (keys, parts) in cases {
        refused("llama", keys, &parts);
    }
    let equal = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4});
    refused(
        "llama",
        json!({"rope_scaling": equal}),
        &["high_freq_factor is 4", "more than low_freq_factor"],
    );
}

#[test]
fn long_values_are_cut_in_messages() {
    let message = config("llama", json!({"hidden_size": "é".repeat(5000)})).map_err(|error| error.to_string());
    assert!(message.expect_err("it is no number").len() < 300);
}

#[test]
fn what_is_written_names_the_kind_of_the_weights() {
    let written = |keys| {
        let mut config = valid("llama", keys);
        config.dtype = Kind::BFloat16;
        config.to_json()
    };
    let raw = written(json!({"dtype": "float32", "torch_dtype": "float16", "my_own": [1]}));
    assert_eq!(
        (&raw["dtype"], &raw["torch_dtype"]),
        (&json!("bfloat16"), &json!("bfloat16"))
    );
    assert_eq!(raw["my_own"], json!([1]));
    let raw = written(json!({"dtype": "float32"}));
    assert!(raw["dtype"] == "bfloat16" && !raw.contains_key("torch_dtype"));
    assert_eq!(written(json!({}))["torch_dtype"], "bfloat16");
}

#[test]
fn a_context_longer_than_any_memory_costs_nothing() {
    let config = valid("llama", json!({"max_position_embeddings": 1_000_000_000_000_i64}));
    let model = crate::lm::CausalLm::random(config, 1, tch::Device::Cpu).expect("it fits the memory");
    let far = tch::Tensor::from_slice(&[999_999_999_999_i64]);
    let (cos, _) = model.rotation(&far);
    assert_eq!(cos.size(), [1, 1, 8]);
}

proptest::proptest! {
    /// Whatever a value is replaced by, reading ends with a config or with a message.
    #[test]
    fn any_value_under_any_key(model_type in 0..4_usize, key in 0..KEYS.len(), value in any_json()) {
        if let Ok(config) = config(SUPPORTED[model_type], json!({KEYS[key]: value})) {
            assert_eq!(config.sliding_windows.len(), config.num_hidden_layers);
            assert_eq!(config.num_attention_heads % config.num_key_value_heads, 0);
            assert!(config.head_dim > 0 && config.rope_theta > 0.0);
        }
    }
}

const KEYS: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "dtype",
    "hidden_act",
    "quantization_config",
    "num_experts",
    "partial_rotary_factor",
    "initializer_range",
];

/// JSON of all types, among it what config files hold.
fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let names = [
        "full_attention",
        "sliding_attention",
        "rope_type",
        "type",
        "factor",
        "rope_theta",
        "linear",
        "llama3",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
        "bfloat16",
        "silu",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3..70_i64).prop_map(Value::from),
        any::<f64>().prop_map(|number| serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)),
        proptest::sample::select(names.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(names.to_vec()), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}
