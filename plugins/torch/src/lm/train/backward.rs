//! Forward and backward through a model, with as little kept in between as is asked for.

use tch::Tensor;

use super::{Batch, Compute, Head};
use crate::lm::model::attention::Attend;
use crate::lm::{CausalLm, LmError, shim};

/// Leaves the gradient of a loss of the labels' log-probabilities in the model's parameters; returns what `loss` adds.
///
/// `loss` gets log p of each label, `[L]` in f32, a leaf that needs a gradient, in the order of rows and positions, and
/// returns a scalar that depends on it. It is called once. The logits are computed twice, in chunks
/// (`train::head`): once for the values, once for their gradients.
///
/// # Errors
/// `loss` fails, or memory runs out: gradients of some parameters may then be there already.
pub fn backward_through_logprobs<R>(
    model: &CausalLm,
    batch: &Batch,
    attend: &mut dyn Attend,
    temperature: f64,
    compute: &Compute,
    loss: impl FnOnce(&Tensor) -> Result<(Tensor, R), LmError>,
) -> Result<R, LmError> {
    let head = Head::new(model, &batch.targets, temperature, compute.logits_bytes);
    Ok(through_logprobs(&head, model, batch, attend, compute, false, loss)?.0)
}

/// As [`backward_through_logprobs`]; also returns the entropy, in nats, of the distribution that each label is of, `[L]`.
///
/// # Errors
/// As [`backward_through_logprobs`].
pub fn backward_with_entropies<R>(
    model: &CausalLm,
    batch: &Batch,
    attend: &mut dyn Attend,
    temperature: f64,
    compute: &Compute,
    loss: impl FnOnce(&Tensor) -> Result<(Tensor, R), LmError>,
) -> Result<(R, Tensor), LmError> {
    let head = Head::new(model, &batch.targets, temperature, compute.logits_bytes);
    let (more, entropies) = through_logprobs(&head, model, batch, attend, compute, true, loss)?;
    Ok((more, entropies.expect("they were asked for")))
}

fn through_logprobs<R>(
    head: &Head<'_>,
    model: &CausalLm,
    batch: &Batch,
    attend: &mut dyn Attend,
    compute: &Compute,
    with_entropies: bool,
    loss: impl FnOnce(&Tensor) -> Result<(Tensor, R), LmError>,
) -> Result<(R, Option<Tensor>), LmError> {
    backward_from_hidden(model, batch, attend, compute.gradient_checkpointing, |hidden| {
        let logprobs = head.logprobs(hidden)?.set_requires_grad(true);
        let (loss, more) = loss(&logprobs)?;
        loss.f_backward()?;
        let grads = logprobs.grad();
        let grads = if grads.defined() { grads } else { logprobs.zeros_like() };
        let done = head.backward(hidden, &grads, with_entropies)?;
        Ok((done.grad, (more, done.entropies)))
    })
}

/// Leaves the gradient of a function of the hidden states in the model's parameters.
///
/// `head` gets the hidden states `[L, H]` that predict the labels, without a graph, and returns the gradient with
/// respect to them, `[L, H]`.
///
/// # Errors
/// `head` fails, or libtorch does.
pub fn backward_from_hidden<R>(
    model: &CausalLm,
    batch: &Batch,
    attend: &mut dyn Attend,
    gradient_checkpointing: bool,
    head: impl FnOnce(&Tensor) -> Result<(Tensor, R), LmError>,
) -> Result<R, LmError> {
    if gradient_checkpointing {
        return backward_in_segments(model, batch, attend, head);
    }
    let hidden = model.hidden_states(&batch.input_ids, &batch.positions, attend);
    let predictors = hidden.f_index_select(0, &batch.predictors)?;
    let (grad, more) = head(&predictors.detach())?;
    backward(&predictors, &grad)?;
    Ok(more)
}

/// Keeps the input of each layer only, and computes a layer again when its backward pass comes (activation
/// checkpointing, arXiv:1604.06174, one segment for each layer): the same operations, so the same gradients.
fn backward_in_segments<R>(
    model: &CausalLm,
    batch: &Batch,
    attend: &mut dyn Attend,
    head: impl FnOnce(&Tensor) -> Result<(Tensor, R), LmError>,
) -> Result<R, LmError> {
    let rotation = model.rotation(&batch.positions);
    let num_layers = model.config.num_hidden_layers;
    let mut inputs = Vec::with_capacity(num_layers + 1);
    {
        let _no_grad = tch::no_grad_guard();
        let mut x = model.embed(&batch.input_ids);
        for layer_idx in 0..num_layers {
            let next = model.layer(layer_idx, &x, &rotation, attend);
            inputs.push(x);
            x = next;
        }
        inputs.push(x);
    }
    let last = inputs.pop().expect("one more than layers").set_requires_grad(true);
    let predictors = model.final_norm(&last).f_index_select(0, &batch.predictors)?;
    let (grad, more) = head(&predictors.detach())?;
    backward(&predictors, &grad)?;
    drop(predictors);
    let mut grad = last.grad();
    for (layer_idx, input) in inputs.into_iter().enumerate().rev() {
        let input = input.set_requires_grad(true);
        let output = model.layer(layer_idx, &input, &rotation, attend);
        backward(&output, &grad)?;
        grad = input.grad();
    }
    backward(&model.embed(&batch.input_ids), &grad)?;
    Ok(more)
}

/// Nothing to do where nothing below is trained.
fn backward(root: &Tensor, grad: &Tensor) -> Result<(), LmError> {
    if root.requires_grad() {
        shim::backward(root, grad)?;
    }
    Ok(())
}
