//! Attention of prompts with several continuations each, in which a prompt is computed once.
//!
//! The completions of a group differ in what follows the prompt, so everything of the model, matrix products above all,
//! is computed for its tokens once instead of once for each completion; autograd adds up what the completions send back.
//! Results are those of separate sequences up to rounding. (As "shared-prefix" or tree attention in inference engines:
//! Hydragen, arXiv:2402.05099, sec. 3.)

use std::collections::HashMap;

use tch::{Device, Tensor};

use super::attention::{Attend, visible};

/// Groups one behind the other, each a prompt and then its completions, without padding. A prompt's token sees the
/// prompt up to itself, a completion's token the whole prompt and its own completion up to itself.
#[derive(Debug)]
pub struct SharedPrefix {
    groups: Vec<Group>,
    device: Device,
    masks: Masks,
}

#[derive(Debug)]
struct Group {
    /// Tokens of the prompt.
    prompt: i64,
    /// Tokens of all completions.
    total: i64,
    /// Completions that have tokens.
    count: i64,
    longest: i64,
    /// Absent where all of these completions have the same length.
    padding: Option<Padding>,
}

#[derive(Debug)]
struct Padding {
    /// `[C * T]`: the completions' token in each cell; any token where there is none.
    spread: Tensor,
    /// `[total]`: the cell of each of the completions' tokens.
    gather: Tensor,
}

impl SharedPrefix {
    /// Describes groups by the tokens of each prompt and of each of its completions, in their order.
    pub fn new(groups: &[(usize, Vec<usize>)], device: Device) -> Self {
        Self {
            groups: groups
                .iter()
                .map(|(prompt, completions)| Group::new(*prompt, completions, device))
                .collect(),
            device,
            masks: Masks::new(),
        }
    }

    /// Returns the position of each token in the sequence of prompt and completion that it is of, `[N]`.
    pub fn positions(groups: &[(usize, Vec<usize>)], device: Device) -> Tensor {
        let positions: Vec<i64> = groups
            .iter()
            .flat_map(|(prompt, completions)| {
                let after = completions.iter().flat_map(|&length| *prompt..*prompt + length);
                (0..*prompt).chain(after)
            })
            .map(|position| position as i64)
            .collect();
        Tensor::from_slice(&positions).to_device(device)
    }
}

impl Group {
    fn new(prompt: usize, completions: &[usize], device: Device) -> Self {
        let lengths: Vec<usize> = completions.iter().copied().filter(|&length| length > 0).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let padding = lengths.iter().any(|&length| length != longest).then(|| {
            let (mut spread, mut gather) = (Vec::new(), Vec::new());
            let mut start = 0;
            for (row, &length) in lengths.iter().enumerate() {
                spread.extend((0..longest).map(|column| (start + column.min(length - 1)) as i64));
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
            prompt: prompt as i64,
            total: lengths.iter().sum::<usize>() as i64,
            count: lengths.len() as i64,
            longest: longest as i64,
            padding,
        }
    }

    /// Returns `[C, heads, T, D]` for the completions' tokens `[total, heads, D]`.
    fn spread(&self, x: &Tensor) -> Tensor {
        let (heads, size) = (x.size()[1], x.size()[2]);
        let cells = match &self.padding {
            Some(padding) => x.index_select(0, &padding.spread),
            None => x.shallow_clone(),
        };
        cells.view([self.count, self.longest, heads, size]).transpose(1, 2)
    }

    /// Returns `[total, heads, D]` for `[C, heads, T, D]`.
    fn gather(&self, x: &Tensor) -> Tensor {
        let cells = x.transpose(1, 2).flatten(0, 1);
        match &self.padding {
            Some(padding) => cells.index_select(0, &padding.gather),
            None => cells,
        }
    }
}

impl Attend for SharedPrefix {
    fn attend(&mut self, _layer_idx: usize, query: Tensor, key: Tensor, value: Tensor, window: Option<i64>) -> Tensor {
        let mut parts = Vec::with_capacity(2 * self.groups.len());
        let mut start = 0;
        for group in &self.groups {
            let of = |x: &Tensor, from: i64, length: i64| x.narrow(0, from, length);
            let [q, k, v] = [&query, &key, &value].map(|x| sequence(&of(x, start, group.prompt)));
            start += group.prompt;
            let mut masked = |queries, keys| mask(&mut self.masks, queries, keys, window, self.device);
            let prompt = attention(&q, &k, &v, masked(group.prompt, group.prompt));
            parts.push(prompt.squeeze_dim(0).transpose(0, 1));
            if group.count == 0 {
                continue;
            }
            let own = [&query, &key, &value].map(|x| group.spread(&of(x, start, group.total)));
            start += group.total;
            let [queries, own_keys, own_values] = own;
            let after = |prompt: &Tensor, own: &Tensor| {
                Tensor::cat(&[&prompt.expand([group.count, -1, -1, -1], false), own], 2) // [C, K, P + T, D]
            };
            let (keys, values) = (after(&k, &own_keys), after(&v, &own_values));
            let mask = masked(group.longest, group.prompt + group.longest);
            parts.push(group.gather(&attention(&queries, &keys, &values, mask)));
        }
        Tensor::cat(&parts, 0)
    }
}

/// Returns `[1, heads, T, D]` for the tokens `[T, heads, D]` of one sequence.
fn sequence(x: &Tensor) -> Tensor {
    x.transpose(0, 1).unsqueeze(0)
}

/// Without a mask each query sees the keys up to itself.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<Tensor>) -> Tensor {
    let grouped = q.size()[1] != k.size()[1];
    let is_causal = mask.is_none();
    Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, None, grouped)
}

/// The masks that were needed so far, by numbers of queries and keys and by window.
type Masks = HashMap<(i64, i64, Option<i64>), Tensor>;

/// Returns the mask `[queries, keys]` of the last `queries` of `keys` tokens; none where causality alone decides.
fn mask(masks: &mut Masks, queries: i64, keys: i64, window: Option<i64>, device: Device) -> Option<Tensor> {
    let window = window.filter(|&window| window < keys);
    if queries == keys && window.is_none() {
        return None;
    }
    let mask = masks
        .entry((queries, keys, window))
        .or_insert_with(|| visible(queries, keys, window, device));
    Some(mask.shallow_clone())
}
