//! A model in training: its optimizer, and gradients computed by several threads at once.
//!
//! For small models one thread per micro-batch beats several threads in one matrix product. Each thread has a replica
//! that shares the weights and collects gradients of its own; these are added up in a fixed order, so that a run
//! depends on the number of threads by rounding only and on nothing else.

use tch::Tensor;

use super::optimizer::{AdamW, AdamwSettings};
use super::{CausalLm, LmError, device};
use crate::stop;

/// Models with more parameters are computed one micro-batch at a time, by all threads together: the gradients of each
/// replica would cost more memory than the threads gain.
const MAX_REPLICATED_PARAMETERS: i64 = 20_000_000;

/// A model and what changes it.
pub struct Learner {
    /// The first is the model itself; all share their weights.
    replicas: Vec<CausalLm>,
    optimizer: AdamW,
    num_threads: usize,
}

impl Learner {
    /// Takes a model into training with `num_threads` CPU threads.
    pub fn new(model: &CausalLm, settings: AdamwSettings, num_threads: usize) -> Self {
        let replicate = model.device() == tch::Device::Cpu && model.num_parameters() <= MAX_REPLICATED_PARAMETERS;
        let count = if replicate { num_threads.max(1) } else { 1 };
        let replicas: Vec<CausalLm> = (0..count).map(|_| model.trainable_alias()).collect();
        let optimizer = AdamW::new(&parameters(&replicas[0]), settings);
        Self {
            replicas,
            optimizer,
            num_threads,
        }
    }

    /// Returns the model as it is now.
    pub fn model(&self) -> &CausalLm {
        &self.replicas[0]
    }

    /// Returns every tensor that a step changes, by name: weights and the optimizer's state. They share storage.
    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let named = self.replicas[0].trainable_parameters();
        let mut list = Vec::with_capacity(4 * named.len());
        for (part, tensors) in self.optimizer.state() {
            let names = named.iter().map(|(name, _)| format!("{part}.{name}"));
            list.extend(names.zip(tensors.iter().map(Tensor::shallow_clone)));
        }
        list
    }

    /// Takes one optimizer step on the sum of the gradients that `backward` leaves for each of the `batches`.
    ///
    /// Returns what `backward` returned, in order, and the gradient's global L2 norm before clipping.
    ///
    /// # Errors
    /// `backward` or the optimizer fails, or the worker is asked to stop; the weights are then as before.
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
        for replica in &self.replicas {
            for mut param in parameters(replica) {
                param.zero_grad();
            }
        }
        let results = if self.replicas.len() == 1 {
            device::set_num_threads(self.num_threads);
            batches
                .into_iter()
                .map(|batch| unless_stopped(|| backward(&self.replicas[0], batch)))
                .collect::<Result<Vec<_>, _>>()?
        } else {
            self.spread(batches, &backward)?
        };
        let grad_norm = self.optimizer.step(&self.gradients(), learning_rate)?;
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
                        share
                            .into_iter()
                            .map(|batch| unless_stopped(|| backward(replica, batch)))
                            .collect::<Result<Vec<_>, _>>()
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

    /// Returns the sum over the replicas of each parameter's gradient; zeros where none flowed.
    fn gradients(&self) -> Vec<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let mut sums: Vec<Option<Tensor>> = vec![];
        sums.resize_with(parameters(&self.replicas[0]).len(), || None);
        for replica in &self.replicas {
            for (sum, param) in sums.iter_mut().zip(parameters(replica)) {
                let grad = param.grad();
                if !grad.defined() {
                    continue;
                }
                match sum {
                    Some(sum) => drop(sum.g_add_(&grad)),
                    None => *sum = Some(grad),
                }
            }
        }
        sums.into_iter()
            .zip(parameters(&self.replicas[0]))
            .map(|(sum, param)| sum.unwrap_or_else(|| param.zeros_like()))
            .collect()
    }
}

/// A step of a large model takes longer than the engine waits after SIGTERM, so it is given up between micro-batches.
fn unless_stopped<R>(backward: impl FnOnce() -> Result<R, LmError>) -> Result<R, LmError> {
    if stop::is_asked() {
        return Err(LmError::Stopped);
    }
    backward()
}

fn parameters(model: &CausalLm) -> Vec<Tensor> {
    model
        .trainable_parameters()
        .into_iter()
        .map(|(_, tensor)| tensor)
        .collect()
}
