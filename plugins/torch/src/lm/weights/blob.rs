//! The Rust side of `shim/blob.cpp`: tensors over a mapped file, without a copy.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::Arc;

use memmap2::MmapMut;
use tch::{Kind, Tensor};

use crate::lm::LmError;

unsafe extern "C" {
    fn volvelle_blob(
        data: *mut c_void,
        dims: *const i64,
        num_dims: c_int,
        kind: c_int,
        owner: *mut c_void,
        release: extern "C" fn(*mut c_void),
    ) -> *mut torch_sys::C_tensor;
}

/// Returns a tensor over `range` of the mapping, which lives as long as the tensor; none where the bytes lie so that
/// the elements would not be aligned.
///
/// The mapping must be a private one: who writes into the tensor then has pages of his own, and the file stays as it is.
pub(super) fn view(
    mapping: &Arc<MmapMut>,
    range: &Range<usize>,
    dims: &[i64],
    kind: Kind,
) -> Result<Option<Tensor>, LmError> {
    let bytes = &mapping[range.clone()];
    let num_bytes = dims.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
    assert_eq!(bytes.len(), num_bytes, "the header was checked against the shape");
    if bytes.as_ptr().align_offset(kind.elt_size_in_bytes()) != 0 {
        return Ok(None);
    }
    let owner = Box::into_raw(Box::new(Arc::clone(mapping))).cast::<c_void>();
    // SAFETY: the memory is `num_bytes` long, aligned, and valid until `release` drops the mapping's last owner. It may
    // be written to, being private and writable; nothing in Rust reads it while tensors do, but the header's bytes.
    let handle = unsafe {
        volvelle_blob(
            bytes.as_ptr().cast_mut().cast(),
            dims.as_ptr(),
            dims.len() as c_int,
            scalar_type(kind),
            owner,
            release,
        )
    };
    if handle.is_null() {
        return Err(LmError::Torch("can't make a tensor over a mapped file".to_owned()));
    }
    // SAFETY: a new tensor, owned by the caller.
    Ok(Some(unsafe { Tensor::from_ptr(handle) }))
}

/// Gives up a tensor's share of the mapping; from any thread.
extern "C" fn release(owner: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `view`, and released once.
    drop(unsafe { Box::from_raw(owner.cast::<Arc<MmapMut>>()) });
}

/// The number of a kind in `c10/core/ScalarType.h`.
fn scalar_type(kind: Kind) -> c_int {
    match kind {
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::BFloat16 => 15,
        other => unreachable!("weights of {other:?} are refused when their file is opened"),
    }
}
