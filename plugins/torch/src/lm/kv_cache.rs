//! Keys and values of the tokens that generation has already passed.

use tch::{Device, Kind, Tensor};

use super::config::Config;

/// Room for this many more tokens is added when the cache is full.
const GROWTH: i64 = 64;

/// The cache of one batch: per layer, keys and values `[B, K, capacity, D]`, filled up to the same length in each row.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    len: i64,
    capacity: i64,
}

impl KvCache {
    /// Returns an empty cache for `num_rows` rows.
    pub fn new(config: &Config, num_rows: i64, capacity: i64, kind: Kind, device: Device) -> Self {
        let shape = [num_rows, config.num_key_value_heads, capacity, config.head_dim];
        let empty = || Tensor::empty(shape, (kind, device));
        Self {
            layers: (0..config.num_hidden_layers).map(|_| (empty(), empty())).collect(),
            len: 0,
            capacity,
        }
    }

    /// Number of tokens held in each row.
    pub fn len(&self) -> i64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores the new tokens' keys and values `[B, K, T, D]` of one layer and returns all of them, `[B, K, len + T, D]`.
    pub fn append(&mut self, layer_idx: usize, keys: &Tensor, values: &Tensor) -> (Tensor, Tensor) {
        let num_tokens = keys.size()[2];
        let total = self.len + num_tokens;
        if total > self.capacity {
            self.grow(total + GROWTH);
        }
        let (all_keys, all_values) = &self.layers[layer_idx];
        all_keys.narrow(2, self.len, num_tokens).copy_(keys);
        all_values.narrow(2, self.len, num_tokens).copy_(values);
        (all_keys.narrow(2, 0, total), all_values.narrow(2, 0, total))
    }

    /// Counts `num_tokens` as stored, once every layer has appended them.
    pub fn advance(&mut self, num_tokens: i64) {
        self.len += num_tokens;
    }

    /// Keeps the given rows in the given order; a row may occur more than once.
    pub fn select_rows(&mut self, rows: &Tensor) {
        for (keys, values) in &mut self.layers {
            for tensor in [keys, values] {
                let kept = tensor.narrow(2, 0, self.len).index_select(0, rows);
                let mut shape = kept.size();
                shape[2] = self.capacity;
                let grown = Tensor::empty(&shape, (kept.kind(), kept.device()));
                grown.narrow(2, 0, self.len).copy_(&kept);
                *tensor = grown;
            }
        }
    }

    fn grow(&mut self, capacity: i64) {
        for (keys, values) in &mut self.layers {
            for tensor in [keys, values] {
                let mut shape = tensor.size();
                shape[2] = capacity;
                let grown = Tensor::empty(&shape, (tensor.kind(), tensor.device()));
                grown.narrow(2, 0, self.len).copy_(&tensor.narrow(2, 0, self.len));
                *tensor = grown;
            }
        }
        self.capacity = capacity;
    }
}
