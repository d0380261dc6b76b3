//! What a token may look at. A model computes flat lists of tokens; which of them belong together, and what is already
//! known of the tokens before them, is the business of an [`Attend`].

use tch::{Device, Kind, Tensor};

/// The attention of one forward pass.
///
/// A pass may ask for the same layer twice with the same tensors (activation checkpointing), and gets the same.
pub trait Attend {
    /// Returns what each of the `N` tokens gathers, `[N, Q, D]`, from queries `[N, Q, D]` and keys and values
    /// `[N, K, D]`, rotated already. With `window` a token sees itself and the `window - 1` tokens before it.
    fn attend(&mut self, layer_idx: usize, query: Tensor, key: Tensor, value: Tensor, window: Option<i64>) -> Tensor;
}

/// Whole sequences one behind the other, without padding; each token sees its own sequence up to itself.
///
/// Attention itself is computed on a padded copy, so that one call serves all sequences; causality keeps the padding,
/// which comes last, out of sight. Everything else of the model is computed on real tokens only.
#[derive(Debug)]
pub struct Packed {
    rows: Rows,
    device: Device,
}

impl Packed {
    /// Describes sequences of these lengths.
    pub fn new(lengths: &[usize], device: Device) -> Self {
        Self {
            rows: Rows::new(lengths, device),
            device,
        }
    }

    /// Returns the position of each token in its own sequence, `[N]`.
    pub fn positions(lengths: &[usize], device: Device) -> Tensor {
        let positions: Vec<i64> = lengths.iter().flat_map(|&length| 0..length as i64).collect();
        Tensor::from_slice(&positions).to_device(device)
    }
}

impl Attend for Packed {
    fn attend(&mut self, _layer_idx: usize, query: Tensor, key: Tensor, value: Tensor, window: Option<i64>) -> Tensor {
        let longest = self.rows.longest;
        let mask = window
            .filter(|&window| window < longest)
            .map(|window| visible(longest, longest, Some(window), self.device));
        let [q, k, v] = [&query, &key, &value].map(|x| self.rows.spread(x));
        self.rows.gather(&attention(&q, &k, &v, mask.as_ref()))
    }
}

/// Rows of tokens that lie one behind the other, and their place in a rectangle as wide as the longest.
#[derive(Debug)]
pub(super) struct Rows {
    /// `B`
    count: i64,
    /// `T`
    pub longest: i64,
    /// Absent where all rows have the same length.
    padding: Option<Padding>,
}

#[derive(Debug)]
struct Padding {
    /// `[B * T]`: the flat token in each cell; any token where there is none.
    spread: Tensor,
    /// `[N]`: the cell of each flat token.
    gather: Tensor,
}

impl Rows {
    /// Describes rows of these lengths, at least 1 each.
    pub fn new(lengths: &[usize], device: Device) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let padding = lengths.iter().any(|&length| length != longest).then(|| {
            let (mut spread, mut gather) = (Vec::new(), Vec::new());
            let mut start = 0;
            for (row, &length) in lengths.iter().enumerate() {
                spread.extend((0..longest).map(|column| (start + column.min(length.max(1) - 1)) as i64));
                gather.extend((0..length).map(|column| (row * longest + column) as i64));
                start += length;
            }
            let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
            Padding {
                spread: tensor(&spread),
                gather: tensor(&gather),
            }
        });
        Self {
            count: lengths.len() as i64,
            longest: longest as i64,
            padding,
        }
    }

    /// Returns `[B, heads, T, D]` for flat tokens `[N, heads, D]`.
    pub fn spread(&self, x: &Tensor) -> Tensor {
        let (heads, size) = (x.size()[1], x.size()[2]);
        let cells = match &self.padding {
            Some(padding) => x.index_select(0, &padding.spread),
            None => x.shallow_clone(),
        };
        cells.view([self.count, self.longest, heads, size]).transpose(1, 2)
    }

    /// Returns flat tokens `[N, heads, D]` for `[B, heads, T, D]`.
    pub fn gather(&self, x: &Tensor) -> Tensor {
        let cells = x.transpose(1, 2).flatten(0, 1);
        match &self.padding {
            Some(padding) => cells.index_select(0, &padding.gather),
            None => cells,
        }
    }
}

/// Returns `[B, Q, T, D]` for queries of that shape and keys and values `[B, K, S, D]`. Without a mask `[T, S]` each query
/// sees the keys up to itself.
pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let num_groups = q.size()[1] / k.size()[1];
    if num_groups > 1 && !knows_groups(q.device(), q.kind(), mask.is_some()) {
        let [k, v] = [k, v].map(|x| repeated(x, num_groups));
        return attention(q, &k, &v, mask);
    }
    Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, mask.is_none(), None, num_groups > 1)
}

/// Whether a fused kernel takes several heads of queries for one of keys. On a GPU only flash attention does, which knows
/// neither masks nor f32; grouped queries then fall to the kernel that writes down all `T * S` scores.
/// Source: PyTorch, `aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`.
fn knows_groups(device: Device, kind: Kind, has_mask: bool) -> bool {
    device == Device::Cpu || (kind != Kind::Float && kind != Kind::Double && !has_mask)
}

/// Returns `[B, K * G, S, D]` for `[B, K, S, D]`, each head `G` times.
fn repeated(x: &Tensor, num_groups: i64) -> Tensor {
    let (b, k, s, d) = x.size4().expect("attention has four dimensions");
    x.unsqueeze(2)
        .expand([b, k, num_groups, s, d], false)
        .reshape([b, k * num_groups, s, d])
}

/// Returns the mask `[queries, keys]` of the last `queries` of `keys` tokens: true where a row may look.
pub(super) fn visible(queries: i64, keys: i64, window: Option<i64>, device: Device) -> Tensor {
    let before = keys - queries;
    let causal = Tensor::ones([queries, keys], (Kind::Bool, device)).tril(before);
    match window {
        Some(window) => causal.triu(before + 1 - window),
        None => causal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_heads_give_what_grouped_queries_give() {
        tch::manual_seed(3);
        let options = (Kind::Double, Device::Cpu);
        let (q, k, v) = (
            Tensor::randn([2, 6, 5, 8], options),
            Tensor::randn([2, 2, 5, 8], options),
            Tensor::randn([2, 2, 5, 8], options),
        );
        for mask in [None, Some(visible(5, 5, Some(2), Device::Cpu))] {
            let grouped = attention(&q, &k, &v, mask.as_ref());
            let alone = attention(&q, &repeated(&k, 3), &repeated(&v, 3), mask.as_ref());
            assert!(grouped.allclose(&alone, 1e-12, 1e-12, false), "{mask:?}");
        }
    }

    #[test]
    fn only_flash_attention_knows_groups_on_a_gpu() {
        let gpu = Device::Cuda(0);
        assert!(knows_groups(gpu, Kind::BFloat16, false) && knows_groups(gpu, Kind::Half, false));
        assert!(!knows_groups(gpu, Kind::Float, false));
        assert!(!knows_groups(gpu, Kind::BFloat16, true));
        assert!(knows_groups(Device::Cpu, Kind::Float, true));
    }
}
