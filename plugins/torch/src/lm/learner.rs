//! A model in training: its optimizer, and gradients computed by several threads at once.
//!
//! For small models one thread per micro-batch beats several threads in one matrix product. Each thread has a replica
//! that shares the weights and collects gradients of its own; these are added up in a fixed order, so that a run
//! depends on the number of threads by rounding only and on nothing else.

use tch::{Kind, Tensor};

use super::optimizer::{AdamW, AdamwSettings};
use super::train::memory_errors;
use super::{CausalLm, LmError, device, shim};
use crate::stop;

/// Models with more parameters, frozen ones counted, are computed one micro-batch at a time, by all threads together: each
/// replica holds gradients and the activations of a micro-batch of its own, and large matrix products gain nothing from it.
const MAX_REPLICATED_PARAMETERS: i64 = 20_000_000;

/// A model and what changes it.
pub struct Learner {
    /// All share their weights.
    replicas: Vec<Replica>,
    /// Changes the weights themselves where they are f32, else masters in f32 that the weights are rounded from.
    optimizer: AdamW,
    /// Names of what is trained.
    names: Vec<String>,
    num_threads: usize,
}

/// A model with gradients of its own.
struct Replica {
    model: CausalLm,
    /// What is trained of it.
    params: Vec<Tensor>,
    /// Gradients so far in f32, where those of the model are not.
    sums: Vec<Option<Tensor>>,
}

impl Learner {
    /// Takes a model into training with `num_threads` CPU threads; it is computed in the kind of its weights.
    pub fn new(model: &CausalLm, settings: AdamwSettings, num_threads: usize) -> Self {
        Self::computing_in(model.kind(), model, settings, num_threads)
    }

    /// Takes a model into training with `num_threads` CPU threads, computing with weights of kind `compute_kind`.
    ///
    /// With another kind than f32, the optimizer changes f32 masters and the model computes with rounded copies, as with
    /// `bf16` in transformers' `TrainingArguments`. Weights that are f32 in `model` are changed in place either way.
    pub fn computing_in(compute_kind: Kind, model: &CausalLm, settings: AdamwSettings, num_threads: usize) -> Self {
        let (names, masters): (Vec<String>, Vec<Tensor>) = model
            .trainable_parameters()
            .into_iter()
            .map(|(name, param)| (name, param.detach().to_kind(Kind::Float)))
            .unzip();
        let mut kinds = model.trainable_parameters().into_iter().map(|(_, param)| param.kind());
        let computed = if model.kind() == compute_kind && kinds.all(|kind| kind == compute_kind) {
            model.share()
        } else {
            model.to_kind(compute_kind)
        };
        let replicate = model.device() == tch::Device::Cpu && model.num_parameters() <= MAX_REPLICATED_PARAMETERS;
        let count = if replicate { num_threads.max(1) } else { 1 };
        Self {
            replicas: (0..count).map(|_| Replica::new(&computed)).collect(),
            optimizer: AdamW::new(&masters, settings),
            names,
            num_threads,
        }
    }

    /// Returns the model as it is now, in the kind that it is computed in.
    pub fn model(&self) -> &CausalLm {
        &self.replicas[0].model
    }

    /// Returns what is trained, by name, in f32; the tensors share storage.
    pub fn trained_parameters(&self) -> Vec<(String, Tensor)> {
        let params = self.optimizer.params().iter().map(Tensor::shallow_clone);
        self.names.iter().cloned().zip(params).collect()
    }

    /// Returns every tensor that a step changes, by name: weights in f32 and the optimizer's state. They share storage.
    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let mut list = Vec::with_capacity(4 * self.names.len());
        for (part, tensors) in self.optimizer.state() {
            let names = self.names.iter().map(|name| format!("{part}.{name}"));
            list.extend(names.zip(tensors.iter().map(Tensor::shallow_clone)));
        }
        list
    }

    /// Rounds the masters to the weights that the model computes with; where those are the masters, there is nothing to do.
    ///
    /// # Errors
    /// libtorch refuses.
    pub(super) fn publish(&self) -> Result<(), LmError> {
        let _no_grad = tch::no_grad_guard();
        for (param, master) in self.replicas[0].params.iter().zip(self.optimizer.params()) {
            if param.kind() != master.kind() {
                param.shallow_clone().f_copy_(master)?;
            }
        }
        Ok(())
    }

    /// Takes one optimizer step on the sum of the gradients that `backward` leaves for each of the `batches`.
    ///
    /// Returns what `backward` returned, in order, and the gradient's global L2 norm before clipping; where that is not
    /// finite nothing has changed.
    ///
    /// # Errors
    /// `backward` or the optimizer fails, memory runs out, or the worker is asked to stop; the weights are then as before,
    /// and the step can be taken again.
    pub fn step<B, R>(
        &mut self,
        batches: Vec<B>,
        learning_rate: f64,
        backward: impl Fn(&CausalLm, B) -> Result<R, LmError> + Sync,
    ) -> Result<(Vec<R>, f64), LmError>
    where
        B: Send,
        R: Send,
    {
        let results = if self.replicas.len() == 1 {
            device::set_num_threads(self.num_threads);
            self.replicas[0].work(batches, &backward)
        } else {
            self.spread(batches, &backward)
        };
        // Taken away in any case: what a failed step left must not count in the next.
        let gradients = self.take_gradients()?;
        let results = results?;
        let grad_norm = self.optimizer.step(&gradients, learning_rate)?;
        self.publish()?;
        Ok((results, grad_norm))
    }

    /// Gives batch `i` to replica `i % count`; each thread goes through its own in order.
    fn spread<B, R>(
        &mut self,
        batches: Vec<B>,
        backward: &(impl Fn(&CausalLm, B) -> Result<R, LmError> + Sync),
    ) -> Result<Vec<R>, LmError>
    where
        B: Send,
        R: Send,
    {
        let (count, num_batches) = (self.replicas.len(), batches.len());
        let mut shares: Vec<Vec<B>> = (0..count).map(|_| Vec::new()).collect();
        for (idx, batch) in batches.into_iter().enumerate() {
            shares[idx % count].push(batch);
        }
        let shares: Vec<Vec<R>> = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .replicas
                .iter_mut()
                .zip(shares)
                .map(|(replica, share)| {
                    scope.spawn(move || {
                        device::set_num_threads(1);
                        replica.work(share, backward)
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<_, _>>()
        })?;
        let mut shares: Vec<_> = shares.into_iter().map(Vec::into_iter).collect();
        Ok((0..num_batches).filter_map(|idx| shares[idx % count].next()).collect())
    }

    /// Takes the sum over the replicas of each parameter's gradient, in f32; zeros where none flowed.
    fn take_gradients(&mut self) -> Result<Vec<Tensor>, LmError> {
        let _no_grad = tch::no_grad_guard();
        let mut sums = self.replicas[0].take_gradients()?;
        for replica in &mut self.replicas[1..] {
            for (sum, grad) in sums.iter_mut().zip(replica.take_gradients()?) {
                add(sum, grad)?;
            }
        }
        sums.into_iter()
            .zip(self.optimizer.params())
            .map(|(sum, param)| sum.map_or_else(|| Ok(param.f_zeros_like()?), Ok))
            .collect()
    }
}

impl Replica {
    fn new(model: &CausalLm) -> Self {
        let model = model.trainable_alias();
        let params: Vec<Tensor> = model
            .trainable_parameters()
            .into_iter()
            .map(|(_, tensor)| tensor)
            .collect();
        let sums = params.iter().map(|_| None).collect();
        Self { model, params, sums }
    }

    /// Goes through batches in order.
    fn work<B, R>(
        &mut self,
        batches: Vec<B>,
        backward: &impl Fn(&CausalLm, B) -> Result<R, LmError>,
    ) -> Result<Vec<R>, LmError> {
        batches
            .into_iter()
            .map(|batch| {
                // A step of a large model takes longer than the engine waits after SIGTERM, so it is given up here.
                if stop::is_asked() {
                    return Err(LmError::Stopped);
                }
                // What was half done are gradients, which a failed step throws away.
                let result = memory_errors(|| backward(&self.model, batch))?;
                self.add_up()?;
                device::trim_memory();
                Ok(result)
            })
            .collect()
    }

    /// Adds up gradients in f32 over micro-batches: those of a bf16 model would lose more with each.
    fn add_up(&mut self) -> Result<(), LmError> {
        let _no_grad = tch::no_grad_guard();
        for (param, sum) in self.params.iter().zip(&mut self.sums) {
            if param.kind() != Kind::Float {
                let grad = shim::take_grad(param)?;
                add(sum, grad.map(|grad| grad.f_to_kind(Kind::Float)).transpose()?)?;
            }
        }
        Ok(())
    }

    fn take_gradients(&mut self) -> Result<Vec<Option<Tensor>>, LmError> {
        self.params
            .iter()
            .zip(&mut self.sums)
            .map(|(param, sum)| {
                let last = shim::take_grad(param)?;
                Ok(sum.take().or(last))
            })
            .collect()
    }
}

fn add(sum: &mut Option<Tensor>, more: Option<Tensor>) -> Result<(), LmError> {
    match (sum.as_mut(), more) {
        (Some(sum), Some(more)) => drop(sum.f_add_(&more)?),
        (None, more) => *sum = more,
        (Some(_), None) => (),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::lm::config::{Config, NewModel};
    use crate::lm::optimizer::Decay;
    use crate::lm::train::{Compute, Example, fitting, largest_joint, supervised_step};

    fn tiny_model() -> CausalLm {
        let shape = NewModel {
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 32,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            initializer_range: 0.2,
        };
        CausalLm::random(Config::new(&shape, 40, 1, 0).unwrap(), 5, Device::Cpu).unwrap()
    }

    const SETTINGS: AdamwSettings = AdamwSettings {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        decay: Decay::Matrices,
        max_grad_norm: 1.0,
    };

    fn examples() -> Vec<Example> {
        [3_i64, 9, 14]
            .map(|length| (0..length).map(|at| (at * 7 + length) % 40).collect::<Vec<_>>())
            .map(|ids| Example {
                labels: ids.clone(),
                ids,
            })
            .into()
    }

    fn weights(model: &CausalLm) -> Vec<Tensor> {
        let all = model.named_parameters().into_iter();
        all.map(|(_, tensor)| tensor.detach().copy()).collect()
    }

    /// More than any machine has: libtorch's own error, as a panic of a plain operator.
    fn run_out_of_memory() {
        let _ = Tensor::empty([1 << 50], (Kind::Float, Device::Cpu));
    }

    #[test]
    fn a_step_that_ran_out_of_memory_is_taken_again_in_smaller_pieces() {
        let examples = examples();
        let rows: Vec<&Example> = examples.iter().collect();
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        for kind in [Kind::Float, Kind::BFloat16] {
            for num_threads in [1, 2] {
                let (calm, disturbed) = (tiny_model(), tiny_model());
                let mut learner = Learner::computing_in(kind, &calm, SETTINGS, num_threads);
                supervised_step(&mut learner, &rows, &Compute::new(14), 0.01).unwrap();

                let mut learner = Learner::computing_in(kind, &disturbed, SETTINGS, num_threads);
                let before = weights(&disturbed);
                let mut tokens = 28;
                let mut failures = Vec::new();
                fitting(
                    &mut tokens,
                    14,
                    |tokens| largest_joint(&lengths, tokens),
                    |tokens| failures.push(tokens),
                    |tokens| {
                        if tokens < 28 {
                            return supervised_step(&mut learner, &rows, &Compute::new(tokens), 0.01).map(drop);
                        }
                        // A gradient is there already when memory runs out.
                        let done = learner.step(vec![0, 1, 2], 0.01, |model, at| {
                            let logits = model.logits(&model.embed(&Tensor::from_slice(&[at])));
                            logits.sum(Kind::Float).f_backward()?;
                            if at == 2 {
                                run_out_of_memory();
                            }
                            Ok(())
                        });
                        assert_eq!(weights(&disturbed), before);
                        done.map(drop)
                    },
                )
                .unwrap();
                // Half of the two that were computed together.
                assert_eq!(failures, [9]);
                assert_eq!(weights(&disturbed), weights(&calm), "{kind:?}, {num_threads} threads");
            }
        }
    }

    #[test]
    fn other_panics_stay_panics() {
        let mut learner = Learner::new(&tiny_model(), SETTINGS, 1);
        let step =
            std::panic::AssertUnwindSafe(|| learner.step(vec![0], 0.01, |_, _| -> Result<(), _> { panic!("a bug") }));
        assert!(std::panic::catch_unwind(step).is_err());
    }
}
