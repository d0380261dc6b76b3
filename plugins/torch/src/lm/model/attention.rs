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
    num_rows: i64,
    longest: i64,
    /// Absent where all sequences have the same length.
    padding: Option<Padding>,
    device: Device,
}

#[derive(Debug)]
struct Padding {
    /// `[B * T]`: the flat token in each cell; any token where there is none.
    spread: Tensor,
    /// `[N]`: the cell of each flat token.
    gather: Tensor,
}

impl Packed {
    /// Describes sequences of these lengths.
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
            num_rows: lengths.len() as i64,
            longest: longest as i64,
            padding,
            device,
        }
    }

    /// Returns the position of each token in its own sequence, `[N]`.
    pub fn positions(lengths: &[usize], device: Device) -> Tensor {
        let positions: Vec<i64> = lengths.iter().flat_map(|&length| 0..length as i64).collect();
        Tensor::from_slice(&positions).to_device(device)
    }

    /// Returns `[B, heads, T, D]` for flat tokens `[N, heads, D]`.
    fn spread(&self, x: &Tensor) -> Tensor {
        let (heads, size) = (x.size()[1], x.size()[2]);
        let cells = match &self.padding {
            Some(padding) => x.index_select(0, &padding.spread),
            None => x.shallow_clone(),
        };
        cells.view([self.num_rows, self.longest, heads, size]).transpose(1, 2)
    }
}

impl Attend for Packed {
    fn attend(&mut self, _layer_idx: usize, query: Tensor, key: Tensor, value: Tensor, window: Option<i64>) -> Tensor {
        let grouped = query.size()[1] != key.size()[1];
        let mask = window
            .filter(|&window| window < self.longest)
            .map(|window| visible(self.longest, self.longest, Some(window), self.device));
        let [q, k, v] = [&query, &key, &value].map(|x| self.spread(x));
        let is_causal = mask.is_none();
        let out = Tensor::scaled_dot_product_attention(&q, &k, &v, mask.as_ref(), 0.0, is_causal, None, grouped);
        let cells = out.transpose(1, 2).reshape([-1, query.size()[1], query.size()[2]]);
        match &self.padding {
            Some(padding) => cells.index_select(0, &padding.gather),
            None => cells,
        }
    }
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
