//! Completions cut into parts, and the log-probabilities of these.

use tch::{Device, Kind, Tensor};

use crate::lm::train::{Batch, Compute, Example, IGNORE, micro_batches, score as label_logprobs};
use crate::lm::{CausalLm, LmError};
use crate::stop;

/// A completion of a prompt, each of whose tokens is of one part: of a step, or of the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    example: Example,
    /// The part of each token of the completion: the number of its step, or `num_steps`.
    parts: Vec<usize>,
    num_steps: usize,
}

impl Sequence {
    /// `steps` tells for each token of the completion which of the `num_steps` steps it is of.
    ///
    /// # Errors
    /// The prompt has no tokens, so that nothing predicts the first of the completion.
    pub fn new(prompt: &[i64], completion: &[i64], steps: &[Option<usize>], num_steps: usize) -> Result<Self, LmError> {
        assert_eq!(completion.len(), steps.len(), "each token is of a step or of none");
        if prompt.is_empty() {
            return Err(LmError::Torch(
                "a prompt has no tokens, so nothing predicts a completion".to_owned(),
            ));
        }
        let mut labels = vec![IGNORE; prompt.len()];
        labels.extend_from_slice(completion);
        Ok(Self {
            example: Example {
                ids: [prompt, completion].concat(),
                labels,
            },
            parts: steps
                .iter()
                .map(|step| step.map_or(num_steps, |step| step.min(num_steps)))
                .collect(),
            num_steps,
        })
    }

    /// Returns the completion of another sequence after this one's prompt, cut after `max_length` tokens.
    #[must_use]
    pub fn followed_by(&self, other: &Self, max_length: usize) -> Self {
        let prompt_length = |sequence: &Self| sequence.example.ids.len() - sequence.parts.len();
        let join = |own: &[i64], others: &[i64]| {
            let mut joined = [&own[..prompt_length(self)], &others[prompt_length(other)..]].concat();
            joined.truncate(max_length);
            joined
        };
        let ids = join(&self.example.ids, &other.example.ids);
        let mut parts = other.parts.clone();
        parts.truncate(ids.len() - prompt_length(self).min(ids.len()));
        Self {
            example: Example {
                labels: join(&self.example.labels, &other.example.labels),
                ids,
            },
            parts,
            num_steps: other.num_steps,
        }
    }

    /// Returns the number of tokens, the prompt's included.
    pub fn num_tokens(&self) -> usize {
        self.example.ids.len()
    }

    pub fn num_steps(&self) -> usize {
        self.num_steps
    }

    /// Returns the text of each part, that of the rest last.
    #[cfg(test)]
    pub fn texts_of_parts(&self, tokenizer: &crate::lm::Tokenizer) -> Vec<String> {
        let completion = &self.example.ids[self.num_tokens() - self.parts.len()..];
        let of_part = |part: usize| {
            let own = completion
                .iter()
                .zip(&self.parts)
                .filter(|&(_, &it)| it == part)
                .map(|(&id, _)| id);
            tokenizer.decode(&own.collect::<Vec<_>>(), false).expect("it decodes")
        };
        (0..=self.num_steps).map(of_part).collect()
    }

    /// Returns the number of tokens of the completion.
    pub fn num_labels(&self) -> usize {
        self.parts.len()
    }
}

/// Sequences that are computed together.
pub(super) struct Joined {
    pub batch: Batch,
    /// The part of each label, counted through all sequences, `[L]`.
    parts: Tensor,
    /// Parts of each sequence: its steps and one more.
    pub num_parts: Vec<usize>,
}

impl Joined {
    pub fn new(sequences: &[&Sequence], device: Device) -> Self {
        let num_parts: Vec<usize> = sequences.iter().map(|sequence| sequence.num_steps + 1).collect();
        let mut parts = Vec::new();
        let mut first = 0;
        for (sequence, count) in sequences.iter().zip(&num_parts) {
            parts.extend(sequence.parts.iter().map(|part| (first + part) as i64));
            first += count;
        }
        let examples: Vec<&Example> = sequences.iter().map(|sequence| &sequence.example).collect();
        Self {
            batch: Batch::new(&examples, device),
            parts: Tensor::from_slice(&parts).to_device(device),
            num_parts,
        }
    }

    /// Returns the sum over each part, `[P]` in f64, of values of the labels `[L]`.
    pub fn sums(&self, values: &Tensor) -> Tensor {
        let count = self.num_parts.iter().sum::<usize>() as i64;
        let zeros = Tensor::zeros([count], (Kind::Double, values.device()));
        zeros.index_add(0, &self.parts, &values.to_kind(Kind::Double))
    }
}

/// Returns for each sequence the log p of its parts: of each step, and of the rest.
///
/// # Errors
/// Memory runs out, or the worker was asked to stop.
pub fn score(model: &CausalLm, sequences: &[&Sequence], compute: &Compute) -> Result<Vec<Vec<f64>>, LmError> {
    let _no_grad = tch::no_grad_guard();
    let mut found = vec![Vec::new(); sequences.len()];
    for run in micro_batches(sequences, |sequence| sequence.num_tokens(), compute.micro_batch_tokens) {
        if stop::is_asked() {
            return Err(LmError::Stopped);
        }
        let together: Vec<&Sequence> = run.iter().map(|&idx| sequences[idx]).collect();
        let joined = Joined::new(&together, model.device());
        let logprobs = match joined.batch.targets.numel() {
            0 => Tensor::zeros([0], (Kind::Float, model.device())),
            _ => label_logprobs(model, &joined.batch, 1.0, compute.logits_bytes)?,
        };
        let sums: Vec<f64> = Vec::try_from(joined.sums(&logprobs))?;
        let mut rest = sums.as_slice();
        for (&idx, &count) in run.iter().zip(&joined.num_parts) {
            let (own, after) = rest.split_at(count);
            found[idx] = own.to_vec();
            rest = after;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatched_sequence_has_one_prompt_and_the_others_completion() {
        let a = Sequence::new(&[1, 2, 3], &[4, 5], &[Some(0), None], 1).unwrap();
        let b = Sequence::new(&[6], &[7, 8, 9], &[Some(0), Some(1), Some(1)], 2).unwrap();
        let whole = Sequence::new(&[1, 2, 3], &[7, 8, 9], &[Some(0), Some(1), Some(1)], 2).unwrap();
        assert_eq!(a.followed_by(&b, 9), whole);
        let cut = a.followed_by(&b, 4);
        assert_eq!(
            (cut.example.ids.as_slice(), cut.parts.as_slice()),
            (&[1, 2, 3, 7][..], &[0][..])
        );
        assert_eq!(cut.example.labels, [IGNORE, IGNORE, IGNORE, 7]);
        assert_eq!(a.followed_by(&b, 2).num_labels(), 0);
    }

    #[test]
    fn sums_go_to_the_parts_that_their_labels_are_of() {
        let a = Sequence::new(&[1], &[2, 3, 4], &[Some(1), None, Some(1)], 2).unwrap();
        let b = Sequence::new(&[1], &[5], &[None], 0).unwrap();
        let joined = Joined::new(&[&a, &b], Device::Cpu);
        let sums = joined.sums(&Tensor::from_slice(&[1.0_f32, 10.0, 100.0, 7.0]));
        assert_eq!(Vec::<f64>::try_from(&sums).unwrap(), [0.0, 101.0, 10.0, 7.0]);
        assert!(Sequence::new(&[], &[1], &[None], 0).is_err());
    }
}
