// Tensors over memory that Rust owns: the mapped files of model weights.
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

extern "C" {

// Returns a CPU tensor over `data`, or null; `release(owner)` runs once when the last tensor over it is gone. `kind` is
// a c10::ScalarType. After a failure the owner is kept for ever: whether libtorch has released it can't be told.
at::Tensor* volvelle_blob(void* data, const int64_t* dims, int num_dims, int kind, void* owner,
                          void (*release)(void*)) {
  try {
    auto options = at::TensorOptions(static_cast<at::ScalarType>(kind));
    return new at::Tensor(at::for_blob(data, at::IntArrayRef(dims, num_dims))
                              .deleter([owner, release](void*) { release(owner); })
                              .options(options)
                              .make_tensor());
  } catch (...) {
    return nullptr;
  }
}
}
