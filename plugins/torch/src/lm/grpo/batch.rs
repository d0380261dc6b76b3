//! Groups of completions as a batch: each prompt's tokens once, and what is known of the labels as `[B, T]`.

use tch::{Device, Kind, Tensor};

use crate::lm::CausalLm;
use crate::lm::model::shared_prefix::SharedPrefix;
use crate::lm::train::Batch;

/// Prompts, each followed by completions of it. All of a completion's tokens are labels; the first of them is predicted
/// by the prompt's last token, as are the first tokens of its siblings.
#[derive(Debug)]
pub struct GroupBatch {
    pub batch: Batch,
    /// Tokens of each prompt and of its completions.
    lengths: Vec<(usize, Vec<usize>)>,
    /// `[L]`: row * T + column of each label.
    cells: Tensor,
    /// `[B, T]` for `B` completions of at most `T` tokens: 1 where there is a token.
    pub mask: Tensor,
}

impl GroupBatch {
    /// Joins prompts, which must have tokens, and their completions, which may be empty.
    pub fn new(groups: &[(&[i64], Vec<&[i64]>)], device: Device) -> Self {
        let lengths: Vec<(usize, Vec<usize>)> = groups
            .iter()
            .map(|(prompt, completions)| (prompt.len(), completions.iter().map(|ids| ids.len()).collect()))
            .collect();
        let completions: Vec<&[i64]> = groups.iter().flat_map(|(_, list)| list.iter().copied()).collect();
        let width = completions.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let (mut ids, mut predictors, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (prompt, completions) in groups {
            ids.extend_from_slice(prompt);
            let last_of_prompt = (ids.len() - 1) as i64;
            for completion in completions {
                let start = ids.len() as i64;
                let own = start..start + completion.len() as i64 - 1;
                predictors.extend(std::iter::once(last_of_prompt).chain(own).take(completion.len()));
                targets.extend_from_slice(completion);
                ids.extend_from_slice(completion);
            }
        }
        let cells: Vec<i64> = completions
            .iter()
            .enumerate()
            .flat_map(|(row, ids)| (0..ids.len()).map(move |column| (row * width + column) as i64))
            .collect();
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        let cells = tensor(&cells);
        let shape = [completions.len() as i64, width as i64];
        Self {
            batch: Batch {
                input_ids: tensor(&ids),
                positions: SharedPrefix::positions(&lengths, device),
                lengths: lengths
                    .iter()
                    .flat_map(|(prompt, completions)| std::iter::once(*prompt).chain(completions.iter().copied()))
                    .collect(),
                predictors: tensor(&predictors),
                targets: tensor(&targets),
            },
            mask: Tensor::zeros([shape[0] * shape[1]], (Kind::Float, device))
                .index_fill(0, &cells, 1.0)
                .view(shape),
            lengths,
            cells,
        }
    }

    /// Returns the attention of the batch; `Batch::attend` would keep completions from seeing their prompt.
    pub fn attend(&self) -> SharedPrefix {
        SharedPrefix::new(&self.lengths, self.mask.device())
    }

    /// Returns the hidden states `[L, H]` whose next tokens are labels.
    pub fn predictors(&self, model: &CausalLm) -> Tensor {
        let hidden = model.hidden_states(&self.batch.input_ids, &self.batch.positions, &mut self.attend());
        hidden.index_select(0, &self.batch.predictors)
    }

    /// Returns `[B, T]` with the values `[L]` of the labels in their cells and 0 elsewhere.
    pub fn spread(&self, values: &Tensor) -> Tensor {
        let shape = self.mask.size();
        let empty = Tensor::zeros([shape[0] * shape[1]], (values.kind(), values.device()));
        empty.index_copy(0, &self.cells, values).view(shape.as_slice())
    }
}
