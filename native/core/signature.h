// What `forward` and `backward` take and give, run by run, in order: ostinato.h's lists as data. The
// core checks calls against it, and TensorFlow's door makes its outputs by it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ostinato.h"

namespace ostinato {

enum class Operation { forward, backward };

struct Sizes {
  int64_t B, T, D, U;
};

// Of a tensor.
constexpr int32_t kMostDimensions = 8;

// A tensor of a run.
struct Argument {
  const char* name;  // as errors call it
  size_t place;      // of its address in a Run; 0 of a routine's
  Dtype dtype;       // boolean or i8; else it has the dtype of x, and this is f32
  int32_t rank;
  int64_t shape[kMostDimensions];
};

struct Arguments {
  static constexpr size_t kMost = 16;
  Argument at[kMost];
  size_t count = 0;

  const Argument* begin() const { return at; }
  const Argument* end() const { return at + count; }
};

struct RunSignature {
  RunSpec spec;
  Sizes sizes;
  Arguments inputs, outputs;
};

// What is wrong with a call.
struct Refusal {
  std::string what;
};
[[noreturn]] void refuse(const std::string& what);

const char* dtype_name(Dtype dtype);

// Refuses timesteps that can't lie between the states that are kept.
void check_checkpoint(int64_t times);

// Refuses a tensor that isn't as the argument says, of these floats unless it's of another dtype.
void check_tensor(const Argument& argument, Dtype floats, const Tensor& tensor);

// f(), whose refusals then begin with the run's number.
template <class F>
void in_run(size_t run, F f) {
  try {
    f();
  } catch (const Refusal& refusal) {
    refuse("run " + std::to_string(run) + ": " + refusal.what);
  }
}

// The runs of a call, from its spec and from the inputs that have the sizes in their shapes. Throws a
// Refusal where the spec or those can't be; the other tensors may be anything.
std::vector<RunSignature> read_signature(Operation operation, const int64_t* spec, size_t spec_size,
                                         const Tensor* inputs, size_t n_inputs);

// The outputs of a call in order, of built-in runs or of a routine. Throws a Refusal likewise.
std::vector<Argument> read_outputs(Operation operation, const int64_t* spec, size_t spec_size,
                                   const Tensor* inputs, size_t n_inputs);

}  // namespace ostinato
