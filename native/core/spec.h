// What a spec says about counts and shapes. (Functions, not inline ones: see kernels.h.)
#pragma once

#include <cstddef>
#include <cstdint>

#include "kinds/layout.h"
#include "ostinato.h"

namespace ostinato {

// No array may have more elements than this, so that no size in bytes can overflow anywhere (and
// TensorFlow aborts where a shape has more than an int64 can count).
constexpr int64_t kMostElements = int64_t{1} << 56;

int64_t gate_count(const RunSpec& run);
int64_t state_count(const RunSpec& run);

int64_t activation_count();

size_t dtype_size(Dtype dtype);

// `units` rounded up to a multiple of 16.
int64_t padded(int64_t units);

}  // namespace ostinato
