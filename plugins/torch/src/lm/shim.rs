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
    fn volvelle_shim_backward(root: Handle, grad: Handle) -> c_int;
    fn volvelle_shim_add_product_to_grad(param: Handle, left: Handle, right: Handle) -> c_int;
    fn volvelle_shim_take_grad(param: Handle, grad: *mut Handle) -> c_int;
    fn volvelle_shim_swiglu(gate: Handle, up: Handle, a: Handle, gated: *mut Handle, low: *mut Handle) -> c_int;
    fn volvelle_shim_cuda_memory(index: c_int, allocated: *mut i64, peak: *mut i64) -> c_int;
    fn volvelle_shim_cuda_reset_peak(index: c_int) -> c_int;
    fn volvelle_shim_cuda_empty_cache() -> c_int;
    fn volvelle_shim_allow_tf32(allowed: bool) -> c_int;
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

/// Runs the backward pass from `root` with the gradient `grad` of the same shape, down to the leaves.
pub fn backward(root: &Tensor, grad: &Tensor) -> Result<(), LmError> {
    // SAFETY: live tensors that libtorch borrows during the call.
    check(unsafe { volvelle_shim_backward(root.as_ptr().cast_mut(), grad.as_ptr().cast_mut()) })
}

/// Adds `left^T right` to the gradient of `param` `[M, N]`, for `left` `[K, M]` and `right` `[K, N]`. The gradient begins
/// in f32 if there is none.
pub fn add_product_to_grad(param: &Tensor, left: &Tensor, right: &Tensor) -> Result<(), LmError> {
    let [param, left, right] = [param, left, right].map(|tensor| tensor.as_ptr().cast_mut());
    // SAFETY: as in `backward`; the gradient belongs to this thread's `param`.
    check(unsafe { volvelle_shim_add_product_to_grad(param, left, right) })
}

/// Takes the gradient away from a parameter, without a copy; none where none flowed.
pub fn take_grad(param: &Tensor) -> Result<Option<Tensor>, LmError> {
    let mut grad: Handle = std::ptr::null_mut();
    // SAFETY: as in `backward`; `grad` outlives the call.
    check(unsafe { volvelle_shim_take_grad(param.as_ptr().cast_mut(), &raw mut grad) })?;
    // SAFETY: a tensor of its own on the heap, which nobody else frees.
    Ok((!grad.is_null()).then(|| unsafe { Tensor::from_ptr(grad) }))
}

/// Returns `silu(gate) * up` `[N, I]`, and its product with `a^T`, `[N, r]`, where there is an `a` `[r, I]`; in the kind of
/// `a`. A graph keeps `gate` and `up` alone, and computes the rest again.
pub fn swiglu(gate: &Tensor, up: &Tensor, a: Option<&Tensor>) -> Result<(Tensor, Option<Tensor>), LmError> {
    let (mut gated, mut low): (Handle, Handle) = (std::ptr::null_mut(), std::ptr::null_mut());
    let [gate, up] = [gate, up].map(|tensor| tensor.as_ptr().cast_mut());
    let a = a.map_or(std::ptr::null_mut(), |a| a.as_ptr().cast_mut());
    // SAFETY: as in `backward`; both results outlive the call.
    check(unsafe { volvelle_shim_swiglu(gate, up, a, &raw mut gated, &raw mut low) })?;
    // SAFETY: tensors of their own on the heap, which nobody else frees.
    let owned = |handle: Handle| unsafe { Tensor::from_ptr(handle) };
    Ok((owned(gated), (!low.is_null()).then(|| owned(low))))
}

/// Returns the bytes that tensors take on a GPU, and took at most since [`cuda_reset_peak`].
pub fn cuda_memory(index: usize) -> Result<(u64, u64), LmError> {
    let (mut allocated, mut peak) = (0, 0);
    // SAFETY: both numbers outlive the call.
    check(unsafe { volvelle_shim_cuda_memory(index as c_int, &raw mut allocated, &raw mut peak) })?;
    Ok((allocated.try_into().unwrap_or(0), peak.try_into().unwrap_or(0)))
}

/// Lets the peak of [`cuda_memory`] begin again.
pub fn cuda_reset_peak(index: usize) -> Result<(), LmError> {
    // SAFETY: no pointers.
    check(unsafe { volvelle_shim_cuda_reset_peak(index as c_int) })
}

/// Gives GPU memory that no tensor uses back to the driver.
pub fn cuda_empty_cache() -> Result<(), LmError> {
    // SAFETY: no pointers.
    check(unsafe { volvelle_shim_cuda_empty_cache() })
}

/// Says whether products of f32 matrices on a GPU may round their inputs to TF32.
pub fn allow_tf32(allowed: bool) -> Result<(), LmError> {
    // SAFETY: no pointers.
    check(unsafe { volvelle_shim_allow_tf32(allowed) })
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
    Err(LmError::from_torch(message.to_string_lossy().into_owned()))
}
