// What tch 0.24 does not generate, as thin C functions. torch-sys' C_tensor is a torch::Tensor*, so its pointers pass
// straight through. Each function returns 0, or 1 with the message in volvelle_shim_error(): no C++ exception may
// cross into Rust.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/Context.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/stack.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
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

// silu(gate) * up and, where there is an `a`, the product of that with a^T. Kept for the backward pass are gate and up alone;
// what lies between is cheap to compute again.
struct Swiglu : torch::autograd::Function<Swiglu> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& gate,
                                                const at::Tensor& up, const std::optional<at::Tensor>& a) {
    context->save_for_backward({gate, up, a.value_or(at::Tensor())});
    auto gated = at::silu(gate).mul_(up);
    if (!a) return {gated};
    return {gated, at::linear(gated.to(a->scalar_type()), *a)};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto &gate = saved[0], &up = saved[1], &a = saved[2];
    auto silu = at::silu(gate);
    auto grad = grads[0];
    at::Tensor a_grad, gate_grad, up_grad;
    if (a.defined()) {
      const auto& low_grad = grads[1];
      if (context->needs_input_grad(2)) a_grad = at::mm(low_grad.t(), silu.mul(up).to(a.scalar_type()));
      grad = grad.add(at::mm(low_grad, a).to(grad.scalar_type()));
    }
    if (context->needs_input_grad(0)) {
      gate_grad = grad.mul(up);
      at::silu_backward_out(gate_grad, gate_grad, gate);
    }
    if (context->needs_input_grad(1)) up_grad = silu.mul_(grad);
    return {gate_grad, up_grad, a_grad};
  }
};

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

// The backward pass from `root` with the gradient `grad`, down to the leaves.
int volvelle_shim_backward(Handle root, Handle grad) { GUARDED(torch::autograd::backward({*root}, {*grad})); }

// Adds left^T right to the gradient of `param`, which begins as that product if there is none. It is kept in f32 where the
// product is of another kind: sums over many products lose little then.
int volvelle_shim_add_product_to_grad(Handle param, Handle left, Handle right) {
  GUARDED(at::NoGradGuard no_grad; auto& grad = param->mutable_grad();
          if (grad.defined() && grad.scalar_type() == left->scalar_type()) { grad.addmm_(left->t(), *right); } else {
            auto product = at::mm(left->t(), *right);
            if (grad.defined()) { grad.add_(product); } else { grad = product.to(at::kFloat); }
          });
}

// Takes the gradient away from `param`; null where there is none.
int volvelle_shim_take_grad(Handle param, Handle* grad) {
  GUARDED(auto& held = param->mutable_grad(); *grad = held.defined() ? new at::Tensor(std::move(held)) : nullptr;
          held.reset());
}

// Bytes that tensors on a GPU take now and took at most since the start or the last reset.
int volvelle_shim_cuda_memory(int index, int64_t* allocated, int64_t* peak) {
  GUARDED(auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(index);
          auto& bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
          *allocated = bytes.current; *peak = bytes.peak);
}

int volvelle_shim_cuda_reset_peak(int index) { GUARDED(at::getDeviceAllocator(at::kCUDA)->resetPeakStats(index)); }

// Gives memory that no tensor uses back to the driver.
int volvelle_shim_cuda_empty_cache() { GUARDED(at::getDeviceAllocator(at::kCUDA)->emptyCache()); }

// Whether products of f32 matrices on a GPU may round their inputs to TF32.
int volvelle_shim_allow_tf32(bool allowed) {
  GUARDED(at::globalContext().setAllowTF32CuBLAS(allowed); at::globalContext().setAllowTF32CuDNN(allowed));
}

// See Swiglu; `a` may be null, and `low` stays null then.
int volvelle_shim_swiglu(Handle gate, Handle up, Handle a, Handle* gated, Handle* low) {
  GUARDED(auto outputs = Swiglu::apply(*gate, *up, a ? std::optional<at::Tensor>(*a) : std::nullopt); *gated = new at::Tensor(outputs[0]);
          if (a) *low = new at::Tensor(outputs[1]));
}
}
