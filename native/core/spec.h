// What a spec says about counts and shapes. (Functions, not inline ones: see kernels.h.)
#pragma once

#include <cstddef>
#include <cstdint>

#include "ostinato.h"

namespace ostinato {

int64_t gate_count(const RunSpec& run);
int64_t state_count(const RunSpec& run);

int64_t activation_count();

size_t dtype_size(Dtype dtype);

// `units` rounded up to a multiple of 16.
int64_t padded(int64_t units);

}  // namespace ostinato
