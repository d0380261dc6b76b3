//! Attention of prompts with several continuations each, in which a prompt is computed once.
//!
//! The completions of a group differ in what follows the prompt, so everything of the model, matrix products above all,
//! is computed for its tokens once instead of once for each completion; autograd adds up what the completions send back.
//! Results are those of separate sequences up to rounding. (As "shared-prefix" or tree attention in inference engines:
//! Hydragen, arXiv:2402.05099, sec. 3.)

use std::collections::HashMap;

use tch::{Device, Tensor};

use super::attention::{Attend, Rows, attention, visible};

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
    /// Completions that have tokens; none where no one has.
    completions: Option<Rows>,
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
        Self {
            prompt: prompt as i64,
            total: lengths.iter().sum::<usize>() as i64,
            completions: (!lengths.is_empty()).then(|| Rows::new(&lengths, device)),
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
            let prompt = attention(&q, &k, &v, masked(group.prompt, group.prompt).as_ref());
            parts.push(prompt.squeeze_dim(0).transpose(0, 1));
            let Some(completions) = &group.completions else {
                continue;
            };
            let own = [&query, &key, &value].map(|x| completions.spread(&of(x, start, group.total))); // [C, .., T, D]
            start += group.total;
            let [queries, own_keys, own_values] = own;
            let num_completions = queries.size()[0];
            let after = |prompt: &Tensor, own: &Tensor| {
                Tensor::cat(&[&prompt.expand([num_completions, -1, -1, -1], false), own], 2) // [C, K, P + T, D]
            };
            let (keys, values) = (after(&k, &own_keys), after(&v, &own_values));
            let mask = masked(completions.longest, group.prompt + completions.longest);
            parts.push(completions.gather(&attention(&queries, &keys, &values, mask.as_ref())));
        }
        Tensor::cat(&parts, 0)
    }
}

/// Returns `[1, heads, T, D]` for the tokens `[T, heads, D]` of one sequence.
fn sequence(x: &Tensor) -> Tensor {
    x.transpose(0, 1).unsqueeze(0)
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
