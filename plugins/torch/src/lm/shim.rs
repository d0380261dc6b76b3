//! The Rust side of `shim/shim.cpp`: the few functions of libtorch that tch lacks.

use std::ffi::{CStr, c_char, c_int};

use tch::Tensor;

use super::LmError;

type Handle = *mut torch_sys::C_tensor;

unsafe extern "C" {
    fn volvelle_shim_error() -> *const c_char;
    fn volvelle_shim_adamw(
        params: *const Handle,
        grads: *const Handle,
        exp_avgs: *const Handle,
        exp_avg_sqs: *const Handle,
        steps: *const Handle,
        count: c_int,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> c_int;
    fn volvelle_shim_global_norm(list: *const Handle, count: c_int, norm: *mut f64) -> c_int;
    fn volvelle_shim_scale(list: *const Handle, count: c_int, factor: f64) -> c_int;
}

/// The hyperparameters of one AdamW step.
#[derive(Debug, Clone, Copy)]
pub struct AdamwStep {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
    pub epsilon: f64,
}

/// Updates `params` in place; all slices have one entry per parameter, `steps` are f32 scalars already incremented.
pub fn adamw(
    params: &[&Tensor],
    grads: &[&Tensor],
    exp_avgs: &[&Tensor],
    exp_avg_sqs: &[&Tensor],
    steps: &[&Tensor],
    step: AdamwStep,
) -> Result<(), LmError> {
    let count = params.len();
    assert!(
        [grads.len(), exp_avgs.len(), exp_avg_sqs.len(), steps.len()]
            .iter()
            .all(|&len| len == count)
    );
    // SAFETY: each list holds `count` live tensors, and libtorch only borrows them during the call.
    check(unsafe {
        volvelle_shim_adamw(
            handles(params).as_ptr(),
            handles(grads).as_ptr(),
            handles(exp_avgs).as_ptr(),
            handles(exp_avg_sqs).as_ptr(),
            handles(steps).as_ptr(),
            count as c_int,
            step.learning_rate,
            step.beta1,
            step.beta2,
            step.weight_decay,
            step.epsilon,
        )
    })
}

/// Returns the L2 norm of all tensors taken as one vector.
pub fn global_norm(tensors: &[&Tensor]) -> Result<f64, LmError> {
    let mut norm = 0.0;
    // SAFETY: as in `adamw`; `norm` outlives the call.
    check(unsafe { volvelle_shim_global_norm(handles(tensors).as_ptr(), tensors.len() as c_int, &raw mut norm) })?;
    Ok(norm)
}

/// Multiplies each tensor by `factor` in place.
pub fn scale(tensors: &[&Tensor], factor: f64) -> Result<(), LmError> {
    // SAFETY: as in `adamw`.
    check(unsafe { volvelle_shim_scale(handles(tensors).as_ptr(), tensors.len() as c_int, factor) })
}

fn handles(tensors: &[&Tensor]) -> Vec<Handle> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}

fn check(status: c_int) -> Result<(), LmError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: a NUL-terminated string that lives until the next failing call on this thread.
    let message = unsafe { CStr::from_ptr(volvelle_shim_error()) };
    Err(LmError::Torch(message.to_string_lossy().into_owned()))
}
