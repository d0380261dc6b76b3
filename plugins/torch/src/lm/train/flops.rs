//! The arithmetic that training needs, to be held against what a device can do.

use crate::lm::CausalLm;

/// Floating-point operations of a model's training step, without what checkpointing computes twice.
///
/// As in PaLM (arXiv:2204.02311, appendix B): two operations for each parameter of a matrix product and token, in the
/// forward pass, for the gradient of its input, and for its own gradient if it is trained; attention on top. Here only
/// the half of attention that causality leaves counts, and an embedding that is only looked up does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flops {
    per_token: f64,
    /// For each pair of tokens of a sequence.
    per_pair: f64,
}

impl Flops {
    pub fn of(model: &CausalLm) -> Self {
        let matrices = |list: Vec<(String, tch::Tensor)>| -> f64 {
            let looked_up = |name: &str| name == "model.embed_tokens.weight" && !model.config.tie_word_embeddings;
            list.iter()
                .filter(|(name, tensor)| tensor.dim() >= 2 && !looked_up(name))
                .map(|(_, tensor)| tensor.numel() as f64)
                .sum()
        };
        let (adapters, trained) = (
            matrices(model.adapter_parameters()),
            matrices(model.trainable_parameters()),
        );
        let all = matrices(model.named_parameters()) + adapters;
        let width = (model.config.num_attention_heads * model.config.head_dim) as f64;
        Self {
            per_token: 4.0 * all + 2.0 * trained,
            per_pair: 6.0 * width * model.config.num_hidden_layers as f64,
        }
    }

    /// Returns the operations of a step on sequences of these lengths, in tokens.
    pub fn of_step(&self, lengths: &[usize]) -> f64 {
        lengths
            .iter()
            .map(|&length| length as f64)
            .map(|length| self.per_token * length + self.per_pair * length * length)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::lm::config::{Config, NewModel};

    #[test]
    fn counts_as_by_hand() {
        let shape = |tie_word_embeddings| NewModel {
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 3,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 32,
            rope_theta: 10_000.0,
            tie_word_embeddings,
            initializer_range: 0.2,
        };
        // Queries and output 8x8, keys and values 8x4, and three times 8x16, in each layer; 10x8 for the logits.
        let per_token = 3 * (2 * 64 + 2 * 32 + 3 * 128) + 80;
        for tied in [true, false] {
            let config = Config::new(&shape(tied), 10, 1, 0).unwrap();
            let flops = Flops::of(&CausalLm::random(config, 0, Device::Cpu).unwrap());
            let expected = 6 * per_token * (5 + 7) + 6 * 8 * 3 * (25 + 49);
            assert_eq!(flops.of_step(&[5, 7]), f64::from(expected));
        }
    }
}
