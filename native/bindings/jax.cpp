// JAX's door to the core: XLA FFI handlers, handed to Python as capsules for jax.ffi to register.
//
// Both handlers have the attribute `spec` and take and give any number of arrays: the inputs and the
// outputs of the function of the core that has their name.
#include <nanobind/nanobind.h>

#include <exception>
#include <string>
#include <vector>

#include "memory.h"
#include "ostinato.h"
#include "xla/ffi/api/ffi.h"

namespace nb = nanobind;
namespace ffi = xla::ffi;

namespace ostinato {
namespace {

using Core = std::string (*)(const int64_t* spec, size_t spec_size, const Tensor* inputs,
                             size_t n_inputs, const Tensor* outputs, size_t n_outputs);

// From here on XLA allocates with mmap, and each call gets fresh pages.
constexpr size_t kFreshPages = size_t{4} << 20;

// False where the core knows no such dtype. The shape stays XLA's: it lives as long as the call.
bool as_tensor(const ffi::AnyBuffer& buffer, Tensor* tensor) {
  switch (buffer.element_type()) {
    case ffi::DataType::F32:
      tensor->dtype = Dtype::f32;
      break;
    case ffi::DataType::F64:
      tensor->dtype = Dtype::f64;
      break;
    case ffi::DataType::PRED:
      tensor->dtype = Dtype::boolean;
      break;
    default:
      return false;
  }
  const auto dimensions = buffer.dimensions();
  tensor->data = buffer.untyped_data();
  tensor->rank = static_cast<int32_t>(dimensions.size());
  tensor->shape = dimensions.begin();
  return true;
}

// What the core says begins with its function's name.
ffi::Error wrong(const std::string& what) { return ffi::Error::InvalidArgument("[ostinato] " + what); }

ffi::Error wrong_array(const char* name, const char* role, size_t index) {
  return wrong(std::string(name) + ": " + role + " " + std::to_string(index) +
               ": expected an array of float32, float64 or bool");
}

ffi::Error run(Core core, const char* name, ffi::Span<const int64_t> spec, ffi::RemainingArgs args,
               ffi::RemainingRets rets) {
  std::vector<Tensor> inputs(args.size()), outputs(rets.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto buffer = args.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value() || !as_tensor(*buffer, &inputs[i])) return wrong_array(name, "input", i);
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    auto buffer = rets.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value() || !as_tensor(**buffer, &outputs[i])) {
      return wrong_array(name, "output", i);
    }
    const size_t bytes = (*buffer)->size_bytes();
    if (bytes >= kFreshPages) prefer_huge_pages(outputs[i].data, bytes);
  }
  const std::string error =
      core(spec.begin(), spec.size(), inputs.data(), inputs.size(), outputs.data(), outputs.size());
  return error.empty() ? ffi::Error::Success() : wrong(error);
}

// XLA is built without exceptions: none may leave a handler.
ffi::Error run_safely(Core core, const char* name, ffi::Span<const int64_t> spec,
                      ffi::RemainingArgs args, ffi::RemainingRets rets) {
  try {
    return run(core, name, spec, args, rets);
  } catch (const std::exception& error) {
    return ffi::Error::Internal("[ostinato] " + std::string(name) + ": " + error.what());
  }
}

ffi::Error run_forward(ffi::Span<const int64_t> spec, ffi::RemainingArgs args,
                       ffi::RemainingRets rets) {
  return run_safely(forward, "forward", spec, args, rets);
}

ffi::Error run_backward(ffi::Span<const int64_t> spec, ffi::RemainingArgs args,
                        ffi::RemainingRets rets) {
  return run_safely(backward, "backward", spec, args, rets);
}

auto binding() {
  return ffi::Ffi::Bind().Attr<ffi::Span<const int64_t>>("spec").RemainingArgs().RemainingRets();
}

XLA_FFI_DEFINE_HANDLER(forward_handler, run_forward, binding());
XLA_FFI_DEFINE_HANDLER(backward_handler, run_backward, binding());

}  // namespace

void bind_jax(nb::module_& module) {
  module.def(
      "jax_handlers",
      [] {
        nb::dict handlers;
        handlers["forward"] = nb::capsule(reinterpret_cast<void*>(forward_handler));
        handlers["backward"] = nb::capsule(reinterpret_cast<void*>(backward_handler));
        return handlers;
      },
      "XLA FFI handlers by the names of the core's functions, as capsules.");
}

}  // namespace ostinato
