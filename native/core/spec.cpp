// What a spec says about counts and shapes, and the activations that it may name.
#include "spec.h"

#include "kernels.h"

namespace ostinato {
namespace {

const char* const kActivationNames[] = {
#define ACTIVATION(name) #name,
#include "activations.def"
#undef ACTIVATION
};
constexpr int64_t kActivations = sizeof(kActivationNames) / sizeof(kActivationNames[0]);

}  // namespace

size_t dtype_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32: return 4;
    case Dtype::f64: return 8;
    case Dtype::bf16: return 2;
    default: return 1;
  }
}

// A target's table is data: that of the baseline can be read on every CPU.
int64_t kind_count() { return kernels_baseline()->kinds; }

const CellLayout& layout_of(int64_t kind) { return *kernels_baseline()->layouts[kind]; }

int64_t gate_count(const RunSpec& run) { return layout_of(run.kind).gates; }

int64_t state_count(const RunSpec& run) { return layout_of(run.kind).states; }

int64_t padded(int64_t units) { return (units + 15) / 16 * 16; }

int64_t saved_columns(const RunSpec& run) {
  const CellLayout& cell = layout_of(run.kind);
  return ((run.checkpoint ? 0 : cell.cols) + cell.states) * (run.precision == bfloat16_tensors ? 2 : 1);
}

int64_t saved_times(const RunSpec& run, int64_t T) {
  return run.checkpoint ? (T + run.checkpoint - 1) / run.checkpoint : T + 1;
}

const char* const* activation_names(size_t* count) {
  *count = size_t(kActivations);
  return kActivationNames;
}

int64_t activation_count() { return kActivations; }

}  // namespace ostinato
