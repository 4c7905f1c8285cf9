// What a spec says about counts and shapes, and the activations that it may name.
#include "spec.h"

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
  return dtype == Dtype::f64 ? sizeof(double) : dtype == Dtype::f32 ? sizeof(float) : 1;
}

int64_t gate_count(const RunSpec& run) {
  return run.kind == simple_rnn ? 1 : run.kind == lstm ? 4 : 3;
}

int64_t state_count(const RunSpec& run) { return run.kind == lstm ? 2 : 1; }

int64_t padded(int64_t units) { return (units + 15) / 16 * 16; }

// The gates; for gru also what the candidate has from the state; and the states.
int64_t saved_columns(const RunSpec& run) {
  return gate_count(run) + (run.kind == gru ? 1 : 0) + state_count(run);
}

const char* const* activation_names(size_t* count) {
  *count = size_t(kActivations);
  return kActivationNames;
}

int64_t activation_count() { return kActivations; }

}  // namespace ostinato
