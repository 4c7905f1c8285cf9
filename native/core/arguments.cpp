// Checks a call's tensors against what it takes and gives.
#include "kernels.h"
#include "signature.h"
#include "spec.h"

namespace ostinato {
namespace {

std::string described(const int64_t* shape, size_t rank) {
  std::string text = "(";
  for (size_t i = 0; i < rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + (rank == 1 ? ",)" : ")");
}

// The number of elements, or -1 where a dimension is negative or the number is too large.
int64_t elements(const int64_t* shape, size_t rank) {
  int64_t count = 1;
  for (size_t i = 0; i < rank; ++i)
    if (shape[i] == 0) return 0;
  for (size_t i = 0; i < rank; ++i)
    if (shape[i] < 0 || __builtin_mul_overflow(count, shape[i], &count) || count > kMostElements)
      return -1;
  return count;
}

[[noreturn]] void refuse_target() {
  std::string text = "OSTINATO_TARGET: expected ";
  size_t count = 0;
  const char* const* names = runnable_targets(&count);
  for (size_t i = 0; i < count; ++i) text += (i == 0 ? "" : " or ") + std::string(names[i]);
  refuse(text + ", got one that this build or this CPU doesn't have");
}

}  // namespace

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32: return "float32";
    case Dtype::f64: return "float64";
    case Dtype::boolean: return "bool";
    case Dtype::bf16: return "bfloat16";
    case Dtype::i8: return "int8";
  }
  return "of an unknown dtype";
}

void check_tensor(const Argument& argument, Dtype floats, const Tensor& tensor) {
  const Dtype dtype = argument.dtype == Dtype::f32 ? floats : argument.dtype;
  auto refuse_it = [&](const std::string& what) { refuse(std::string(argument.name) + ": " + what); };
  const size_t rank = size_t(argument.rank);
  bool same = tensor.rank == argument.rank;
  for (size_t i = 0; same && i < rank; ++i) same = tensor.shape[i] == argument.shape[i];
  if (!same || tensor.dtype != dtype)
    refuse_it(std::string("expected ") + dtype_name(dtype) + " " + described(argument.shape, rank) +
              ", got " + dtype_name(tensor.dtype) + " " +
              (tensor.rank < 0 ? "of a negative rank"
                               : described(tensor.shape, size_t(tensor.rank))));
  const int64_t count = elements(argument.shape, rank);
  if (count < 0)
    refuse_it("expected an array that fits in memory, got " + described(argument.shape, rank));
  if (count > 0 && tensor.data == nullptr) refuse_it("expected data, got a null pointer");
  if (reinterpret_cast<uintptr_t>(tensor.data) % dtype_size(dtype) != 0)
    refuse_it("expected data aligned to its elements, got " +
              std::to_string(reinterpret_cast<uintptr_t>(tensor.data)));
}

const Kernels& runnable_kernels() {
  const Kernels* kernels = selected_kernels();
  if (kernels == nullptr) refuse_target();
  return *kernels;
}

void need_bfloat16(int64_t precision) {
  if (!computes_bfloat16())
    refuse("precision: expected 0, as the target in use has no products of bfloat16, got " +
           std::to_string(precision));
}

}  // namespace ostinato
