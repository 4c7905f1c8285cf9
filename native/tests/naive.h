// The plainest loops that do what a table of kernels promises: what the fast ones are tested
// against.
#pragma once

#include "../core/kernels.h"

namespace ostinato {

const Kernels* kernels_naive();

}  // namespace ostinato
