//! The fixture folders, their golden values, and comparisons that say where two tensors differ.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use volvelle_torch::lm::{self, CausalLm};

/// The folders with golden values of their own: one for each family, and for each way to lay a Llama out.
pub const FAMILIES: [&str; 4] = ["llama3-gqa", "smollm-tied", "qwen2-bias-tied", "qwen3-qknorm"];

/// The folders that hold the weights of `llama3-gqa` in two layouts.
pub const LLAMA3_LAYOUTS: [&str; 2] = ["llama3-gqa", "llama3-gqa-sharded"];

pub fn fixtures_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn model_dir(name: &str) -> PathBuf {
    fixtures_dir().join("models").join(name)
}

pub fn load(name: &str, kind: Kind) -> CausalLm {
    lm::load(&model_dir(name), Device::Cpu, kind).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The golden values of one folder.
pub struct Golden {
    pub json: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub fn read(dir: &Path, stem: &str) -> Self {
        let text = std::fs::read(dir.join(stem).with_extension("json")).expect("the golden JSON is in the fixtures");
        let tensors = Tensor::read_safetensors(dir.join(stem).with_extension("safetensors"))
            .expect("the golden tensors are in the fixtures");
        Self {
            json: serde_json::from_slice(&text).expect("the golden JSON is valid"),
            tensors: tensors.into_iter().collect(),
        }
    }

    pub fn of_model(name: &str) -> Self {
        Self::read(&model_dir(name), "golden")
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("no golden tensor {name}"))
    }

    /// The golden tensors whose names begin with `prefix`, by the rest of the name.
    pub fn tensors_under(&self, prefix: &str) -> Vec<(&str, &Tensor)> {
        let mut list: Vec<_> = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
            .collect();
        list.sort_by_key(|(name, _)| *name);
        assert!(!list.is_empty(), "no golden tensor begins with {prefix}");
        list
    }
}

/// Lists of token ids, and other nested numbers, out of a golden JSON.
pub fn from_json<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("the golden value has the documented shape")
}

/// Asserts that two tensors differ by at most `bound` everywhere.
#[track_caller]
pub fn assert_close(what: &str, got: &Tensor, expected: &Tensor, bound: f64) {
    let worst = max_difference(what, got, expected);
    assert!(
        worst <= bound,
        "{what}: the largest difference is {worst:.3e}, allowed {bound:.1e}"
    );
}

/// Returns the largest absolute difference; NaN counts as infinite.
#[track_caller]
pub fn max_difference(what: &str, got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.size(), expected.size(), "{what}: shapes");
    let difference = (got.detach().to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs();
    difference.nan_to_num(f64::INFINITY, None, None).max().double_value(&[])
}

/// Returns the rows of `[B, T, ..]` where `mask` `[B, T]` is 1, `[N, ..]`.
pub fn masked(tensor: &Tensor, mask: &Tensor) -> Tensor {
    let rows = mask.flatten(0, 1).nonzero().squeeze_dim(-1);
    tensor.flatten(0, 1).index_select(0, &rows)
}

pub fn vec_i64(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.to_kind(Kind::Int64).contiguous().view(-1)).expect("a flat tensor of integers")
}
