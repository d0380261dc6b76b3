//! The last part of a pass: hidden states to log-probabilities of labels and back, some rows of logits at a time.
//!
//! With a vocabulary of 128 thousand the logits of 4096 labels are 2 GB in f32, and a backward pass that keeps them holds
//! them three times. Here a chunk of rows goes through the output matrix and straight back, so that never more than a
//! budget of bytes is alive, however many labels there are (as Liger-Kernel's `fused_linear_cross_entropy`).
//!
//! For one row, with `z = W h / temperature`: `log p(y) = z_y - logsumexp(z)`, so a gradient `g` of `log p(y)` gives
//! `dz = g (onehot(y) - softmax(z))`, `dh = W^T dz / temperature` and `dW = dz h^T / temperature`.

use tch::{Kind, Tensor};

use crate::lm::{CausalLm, LmError, shim};

/// Logits of one chunk: enough that reading the output matrix costs little beside the product (on a CPU, a vocabulary of 32
/// thousand goes 7 % faster with 512 rows than with 128), and little beside the activations of a model of that vocabulary.
pub const LOGITS_BYTES: usize = 128 << 20;

const ROW_BLOCK: i64 = 64;

/// The output matrix and what is asked of it.
pub struct Head<'a> {
    model: &'a CausalLm,
    /// `[L]`
    targets: &'a Tensor,
    temperature: f64,
    /// Rows of logits at once.
    num_rows: i64,
}

/// What [`Head::backward`] finds for `L` labels.
pub struct Backward {
    /// `[L]`: log p of each label.
    pub logprobs: Tensor,
    /// `[L]`: the entropy of the distribution that each label is of, in nats; where it was asked for.
    pub entropies: Option<Tensor>,
    /// `[L, H]`: the gradient with respect to the hidden states.
    pub grad: Tensor,
}

/// Some of the rows, and what the output matrix makes of them.
struct Chunk {
    /// `[R, H]`
    hidden: Tensor,
    /// `[R, 1]`
    targets: Tensor,
    /// `[R, V]` in f32
    logprobs: Tensor,
}

impl<'a> Head<'a> {
    /// `targets` `[L]` are the labels; at most `logits_bytes` of logits, or one row, are alive at once.
    pub fn new(model: &'a CausalLm, targets: &'a Tensor, temperature: f64, logits_bytes: usize) -> Self {
        Self {
            model,
            targets,
            temperature,
            num_rows: rows_within(logits_bytes, model.config.vocab_size, model.kind()),
        }
    }

    /// Returns log p of each label, `[L]` in f32, for hidden states `[L, H]`; without gradients.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn logprobs(&self, hidden: &Tensor) -> Result<Tensor, LmError> {
        let _no_grad = tch::no_grad_guard();
        let parts = self
            .starts()
            .map(|start| self.chunk(hidden, start).map(|chunk| chunk.of_targets()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    /// Takes the gradient `grads` `[L]` of a loss with respect to each label's log p, which may not be known yet if the
    /// gradient does not depend on it. What the output matrix gets is added to its own gradient.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn backward(&self, hidden: &Tensor, grads: &Tensor, with_entropies: bool) -> Result<Backward, LmError> {
        let _no_grad = tch::no_grad_guard();
        let (mut logprobs, mut entropies, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for start in self.starts() {
            let chunk = self.chunk(hidden, start)?;
            let size = chunk.hidden.size()[0];
            logprobs.push(chunk.of_targets());
            let of_chunk = with_entropies.then_some(&mut entropies);
            parts.push(self.backward_chunk(chunk, &grads.narrow(0, start, size), of_chunk)?);
        }
        Ok(Backward {
            logprobs: Tensor::f_cat(&logprobs, 0)?,
            entropies: with_entropies.then(|| Tensor::f_cat(&entropies, 0)).transpose()?,
            grad: Tensor::f_cat(&parts, 0)?,
        })
    }

    /// As [`Self::backward`] for a loss whose gradient is `weight` for each label's log p. Returns the sum of log p over the
    /// labels and the gradient `[L, H]`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn weighted_sum(&self, hidden: &Tensor, weight: f64) -> Result<(f64, Tensor), LmError> {
        let weights = Tensor::full(self.targets.size(), weight, (Kind::Float, self.targets.device()));
        let done = self.backward(hidden, &weights, false)?;
        Ok((done.logprobs.sum(Kind::Double).double_value(&[]), done.grad))
    }

    /// Where chunks begin; no labels are one chunk without rows.
    fn starts(&self) -> impl Iterator<Item = i64> + use<> {
        (0..self.targets.size()[0].max(1)).step_by(self.num_rows as usize)
    }

    fn chunk(&self, hidden: &Tensor, start: i64) -> Result<Chunk, LmError> {
        let size = self.num_rows.min(hidden.size()[0] - start);
        let hidden = hidden.narrow(0, start, size);
        let logits = self.model.logits(&hidden);
        let logits = logits.f_to_kind(Kind::Float)?;
        let scaled = if self.temperature == 1.0 {
            logits
        } else {
            logits / self.temperature
        };
        Ok(Chunk {
            hidden,
            targets: self.targets.narrow(0, start, size).unsqueeze(-1),
            logprobs: scaled.f_log_softmax(-1, Kind::Float)?,
        })
    }

    fn backward_chunk(
        &self,
        chunk: Chunk,
        grads: &Tensor,
        entropies: Option<&mut Vec<Tensor>>,
    ) -> Result<Tensor, LmError> {
        let Chunk {
            hidden,
            targets,
            mut logprobs,
        } = chunk;
        let mut probs = match entropies {
            // As much memory as logits and log-probabilities took together a moment ago.
            Some(entropies) => {
                let probs = logprobs.f_exp()?;
                entropies.push(entropies_of(&probs, &logprobs)?);
                drop(logprobs);
                probs
            }
            None => {
                let _ = logprobs.f_exp_()?;
                logprobs
            }
        };
        // softmax(z) - onehot(y), in place.
        let minus_one = Tensor::full(targets.size(), -1.0, (Kind::Float, targets.device()));
        let mut residual = probs.f_scatter_add_(-1, &targets, &minus_one)?;
        drop(probs);
        let scale = (grads / -self.temperature).unsqueeze(-1); // [R, 1]
        let weight = self.model.output_weight();
        if hidden.kind() == Kind::Float {
            // Rows are scaled on [R, H], which is cheaper than on [R, V].
            if weight.requires_grad() {
                shim::add_product_to_grad(weight, &residual, &(&hidden * &scale))?;
            }
            return Ok(residual.f_mm(weight)? * scale);
        }
        // Before rounding: a scale that is rounded itself would be wrong by the same factor in the whole row.
        let rounded = residual.f_mul_(&scale)?.f_to_kind(hidden.kind())?;
        drop(residual);
        if weight.requires_grad() {
            shim::add_product_to_grad(weight, &rounded, &hidden)?;
        }
        Ok(rounded.f_mm(weight)?)
    }
}

/// Returns -sum p log p of each row, `[R]`, for `[R, V]`: one product of a row with a column each, without a product of the
/// whole size in between.
fn entropies_of(probs: &Tensor, logprobs: &Tensor) -> Result<Tensor, LmError> {
    let products = probs.unsqueeze(1).f_bmm(&logprobs.unsqueeze(-1))?; // [R, 1, 1]
    Ok(products.flatten(0, -1).f_neg()?)
}

/// Returns how many rows of logits, at least one, are computed within so many bytes.
fn rows_within(logits_bytes: usize, vocab_size: i64, kind: Kind) -> i64 {
    // A logit and the log-probability made from it, in f32; what is not f32 is there in its own kind too, before and after.
    let bytes_each = if kind == Kind::Float { 2 * 4 } else { 2 * 4 + 2 * 2 };
    let logits_bytes = i64::try_from(logits_bytes).unwrap_or(i64::MAX);
    let num_rows = (logits_bytes / (bytes_each * vocab_size)).max(1);
    // Whole blocks of a matrix product, where there are several.
    if num_rows < ROW_BLOCK {
        num_rows
    } else {
        num_rows - num_rows % ROW_BLOCK
    }
}

impl Chunk {
    /// log p of the labels, `[R]`.
    fn of_targets(&self) -> Tensor {
        self.logprobs.gather(-1, &self.targets, false).squeeze_dim(-1)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::lm::config::{Config, NewModel};

    /// As the same sums in f32 over the same rounded inputs, up to the rounding of products to bf16: 1/256 of each chunk's,
    /// half of it on average.
    #[test]
    fn gradients_in_bf16_lose_nothing_from_chunk_to_chunk() {
        let shape = NewModel {
            hidden_size: 16,
            intermediate_size: 16,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            max_position_embeddings: 32,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            initializer_range: 0.2,
        };
        let config = Config::new(&shape, 40, 1, 0).unwrap();
        let rounded = CausalLm::random(config, 5, Device::Cpu)
            .unwrap()
            .to_kind(Kind::BFloat16);
        let exact = rounded.to_kind(Kind::Float);
        // Every row alike, so that sums of bf16 would stop growing.
        let hidden = Tensor::arange(16, (Kind::Float, Device::Cpu))
            .sin()
            .expand([2048, 16], false);
        let hidden = hidden.to_kind(Kind::BFloat16);
        let targets = Tensor::full([2048], 7, (Kind::Int64, Device::Cpu));
        let run = |model: &CausalLm, num_rows: i64| {
            let model = model.trainable_alias();
            let head = Head {
                num_rows,
                ..Head::new(&model, &targets, 1.0, LOGITS_BYTES)
            };
            let hidden = hidden.to_kind(model.kind());
            // In bf16 that would be 1, nearly 0.4 % less.
            let (_, grad) = head.weighted_sum(&hidden, 1.0038).unwrap();
            let weight = model.output_weight().grad().to_kind(Kind::Float);
            (weight, grad.to_kind(Kind::Float))
        };
        let (weight, grad) = run(&exact, 2048);
        let off = |got: &Tensor, wanted: &Tensor| ((got - wanted).norm() / wanted.norm()).double_value(&[]);
        for num_rows in [2048, 1] {
            let (got_weight, got_grad) = run(&rounded, num_rows);
            let (of_weight, of_grad) = (off(&got_weight, &weight), off(&got_grad, &grad));
            assert!(of_weight < 3e-3 && of_grad < 3e-3, "{num_rows}: {of_weight} {of_grad}");
        }
    }

    #[test]
    fn a_chunk_stays_within_its_bytes_but_has_a_row() {
        for vocab_size in [3, 32_000, 128_256] {
            for kind in [Kind::Float, Kind::BFloat16] {
                for budget in [1 << 20, LOGITS_BYTES, 1 << 33] {
                    let num_rows = rows_within(budget, vocab_size, kind);
                    assert!(
                        num_rows * vocab_size * 8 <= budget as i64,
                        "{budget} {vocab_size} {kind:?}"
                    );
                    assert!(num_rows < ROW_BLOCK || num_rows % ROW_BLOCK == 0);
                }
            }
        }
        assert!(rows_within(usize::MAX, 3, Kind::Float) > 1 << 50);
        assert_eq!(rows_within(0, 128_256, Kind::Float), 1);
        assert_eq!(rows_within(LOGITS_BYTES, 32_000, Kind::Float), 512);
    }
}
