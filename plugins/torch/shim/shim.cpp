// What tch 0.24 does not generate, as thin C functions. torch-sys' C_tensor is a torch::Tensor*, so its pointers pass
// straight through. Each function returns 0, or 1 with the message in volvelle_shim_error(): no C++ exception may
// cross into Rust.
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <string>
#include <vector>

typedef at::Tensor* Handle;

static thread_local std::string last_error;

#define GUARDED(...)                              \
  try {                                           \
    __VA_ARGS__;                                  \
    return 0;                                     \
  } catch (const c10::Error& error) {             \
    last_error = error.what_without_backtrace();  \
  } catch (const std::exception& error) {         \
    last_error = error.what();                    \
  } catch (...) {                                 \
    last_error = "unknown C++ exception";         \
  }                                               \
  return 1

static std::vector<at::Tensor> tensors(const Handle* handles, int count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (int i = 0; i < count; i++) list.push_back(*handles[i]);
  return list;
}

extern "C" {

const char* volvelle_shim_error() { return last_error.c_str(); }

// One AdamW step (torch.optim.AdamW, fused) on parameters that share their hyperparameters. `steps` are f32 scalars
// that the caller has already incremented.
int volvelle_shim_adamw(const Handle* params, const Handle* grads, const Handle* exp_avgs, const Handle* exp_avg_sqs,
                        const Handle* steps, int count, double lr, double beta1, double beta2, double weight_decay,
                        double eps) {
  GUARDED(auto p = tensors(params, count); auto g = tensors(grads, count); auto m = tensors(exp_avgs, count);
          auto v = tensors(exp_avg_sqs, count); auto s = tensors(steps, count);
          at::_fused_adamw_(p, g, m, v, {}, s, lr, beta1, beta2, weight_decay, eps, false, false));
}

// The L2 norm of all tensors taken as one vector.
int volvelle_shim_global_norm(const Handle* list, int count, double* norm) {
  GUARDED(auto norms = at::_foreach_norm(tensors(list, count), 2.0, at::kFloat);
          *norm = at::linalg_vector_norm(at::stack(norms)).item<double>());
}

// Multiplies each tensor in place.
int volvelle_shim_scale(const Handle* list, int count, double factor) {
  GUARDED(auto all = tensors(list, count); at::_foreach_mul_(all, factor));
}
}
