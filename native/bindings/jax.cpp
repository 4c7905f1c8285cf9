// JAX's door to the core: XLA FFI handlers, handed to Python as capsules for jax.ffi to register.
//
// The two of layers have the attribute `spec` and take and give any number of arrays: the inputs and the
// outputs of the function of the core that has their name. backward's take one more, `rows`: see
// same_rows.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <exception>
#include <string>
#include <vector>

#include "drawing.h"
#include "memory.h"
#include "ostinato.h"
#include "xla/ffi/api/ffi.h"

namespace nb = nanobind;
namespace ffi = xla::ffi;

namespace ostinato {

void* cuda_handler(bool on_card);  // jax_cuda.cpp

namespace {

using Core = std::string (*)(const int64_t* spec, size_t spec_size, const Tensor* inputs,
                             size_t n_inputs, const Tensor* outputs, size_t n_outputs);

// False where the core knows no such dtype. The shape stays XLA's: it lives as long as the call.
bool as_tensor(const ffi::AnyBuffer& buffer, Tensor* tensor) {
  switch (buffer.element_type()) {
    case ffi::DataType::F32:
      tensor->dtype = Dtype::f32;
      break;
    case ffi::DataType::F64:
      tensor->dtype = Dtype::f64;
      break;
    case ffi::DataType::BF16:
      tensor->dtype = Dtype::bf16;
      break;
    case ffi::DataType::S8:
      tensor->dtype = Dtype::i8;
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
               ": expected an array of float32, float64, bfloat16, int8 or bool");
}

// On a mesh each device runs on a part of the batch. What forward saves there can't be split or
// joined; `rows` tells each row how many ran together, and a backward with another number must fail.
bool same_rows(const ffi::RemainingArgs& args) {
  const auto buffer = args.get<ffi::AnyBuffer>(args.size() - 1), x = args.get<ffi::AnyBuffer>(0);
  if (!buffer.has_value() || buffer->element_type() != ffi::DataType::S32) return false;
  if (!x.has_value() || x->dimensions().size() == 0) return false;
  const int32_t* rows = buffer->typed_data<int32_t>();
  const size_t count = buffer->element_count();
  if (size_t(x->dimensions()[0]) != count) return false;
  return std::all_of(rows, rows + count, [=](int32_t n) { return size_t(n) == count; });
}

ffi::Error run(Core core, const char* name, ffi::Span<const int64_t> spec, ffi::RemainingArgs args,
               size_t n_inputs, ffi::RemainingRets rets) {
  std::vector<Tensor> inputs(n_inputs), outputs(rets.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto buffer = args.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value() || !as_tensor(*buffer, &inputs[i])) return wrong_array(name, "input", i);
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    auto buffer = rets.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value() || !as_tensor(**buffer, &outputs[i])) {
      return wrong_array(name, "output", i);
    }
    // XLA gives fresh pages for each call
    prefer_huge_pages(outputs[i].data, (*buffer)->size_bytes());
  }
  const std::string error =
      core(spec.begin(), spec.size(), inputs.data(), inputs.size(), outputs.data(), outputs.size());
  return error.empty() ? ffi::Error::Success() : wrong(error);
}

ffi::Error run_forward(ffi::Span<const int64_t> spec, ffi::RemainingArgs args,
                       ffi::RemainingRets rets) {
  return run(forward, "forward", spec, args, args.size(), rets);
}

ffi::Error run_backward(ffi::Span<const int64_t> spec, ffi::RemainingArgs args,
                        ffi::RemainingRets rets) {
  if (args.size() == 0 || !same_rows(args)) {
    return wrong(
        "backward: expected the batch in the parts that forward ran on, got others: the mesh "
        "splits the two differently");
  }
  return run(backward, "backward", spec, args, args.size() - 1, rets);
}

// XLA is built without exceptions: none may leave a handler.
template <ffi::Error (*handler)(ffi::Span<const int64_t>, ffi::RemainingArgs, ffi::RemainingRets)>
ffi::Error safely(ffi::Span<const int64_t> spec, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  try {
    return handler(spec, args, rets);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("[ostinato] ") + error.what());
  }
}

auto binding() {
  return ffi::Ffi::Bind().Attr<ffi::Span<const int64_t>>("spec").RemainingArgs().RemainingRets();
}

// Keys (N, 2) to masks (N, ...), whose kept numbers are the lowest bytes of `kept`.
ffi::Error draw(int64_t bound, int64_t kept, ffi::Buffer<ffi::DataType::U32> keys,
                ffi::Result<ffi::AnyBuffer> masks) {
  const auto shape = keys.dimensions();
  const int64_t n = shape.size() == 2 && shape[1] == 2 ? shape[0] : 0;
  const int64_t total = static_cast<int64_t>(masks->element_count());
  if (n == 0 || total % n != 0) {
    return wrong("draw: expected keys (N, 2) and masks (N, ...)");
  }
  const int64_t size = total == 0 ? 4 : static_cast<int64_t>(masks->size_bytes()) / total;
  const std::string error = draw_masks(keys.typed_data(), n, total / n, bound, size,
                                       static_cast<uint64_t>(kept), masks->untyped_data());
  return error.empty() ? ffi::Error::Success() : wrong(error);
}

ffi::Error draw_safely(int64_t bound, int64_t kept, ffi::Buffer<ffi::DataType::U32> keys,
                       ffi::Result<ffi::AnyBuffer> masks) {
  try {
    return draw(bound, kept, keys, masks);
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("[ostinato] ") + error.what());
  }
}

XLA_FFI_DEFINE_HANDLER(draw_handler, draw_safely,
                       ffi::Ffi::Bind()
                           .Attr<int64_t>("bound")
                           .Attr<int64_t>("kept")
                           .Arg<ffi::Buffer<ffi::DataType::U32>>()
                           .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER(forward_handler, safely<run_forward>, binding());
XLA_FFI_DEFINE_HANDLER(backward_handler, safely<run_backward>, binding());

}  // namespace

void bind_jax(nb::module_& module) {
  module.def(
      "jax_handlers",
      [] {
        nb::dict handlers;
        handlers["forward"] = nb::capsule(reinterpret_cast<void*>(forward_handler));
        handlers["backward"] = nb::capsule(reinterpret_cast<void*>(backward_handler));
        handlers["draw"] = nb::capsule(reinterpret_cast<void*>(draw_handler));
        return handlers;
      },
      "XLA FFI handlers by the names of the core's functions, as capsules.");
  module.def(
      "jax_cuda_handler", [](bool on_card) { return nb::capsule(cuda_handler(on_card)); },
      nb::arg("on_card"),
      "The XLA FFI handler that launches kernels on NVIDIA's cards; the one without a stream is for "
      "tests on the CPU.");
}

}  // namespace ostinato
