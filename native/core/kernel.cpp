// The fused kernels, compiled once for each target (OSTINATO_TARGET_FUNCTION names its table).
#include "kernels.h"

#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "memory.h"
#include "threads.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(OSTINATO_TILES) && !defined(__AMX_BF16__)
#include "emulated_tiles.h"
#endif

namespace ostinato {
namespace {

#include "simd.inl"
#if defined(__AVX512BF16__)
#include "bfloat16.inl"
#endif
#include "operands.inl"
#include "math.inl"
#include "activations.inl"
#include "tiles.inl"
#include "gemm.inl"
#include "pair.inl"
#include "packing.inl"
#include "long_sums.inl"
#include "int8.inl"
#include "int8_packing.inl"
#include "kinds/cell.inl"
#include "kinds/kinds.inl"
#include "sequence/arena.inl"
#include "sequence/schedule.inl"
#include "sequence/layer.inl"
#include "sequence/forward_places.inl"
#include "sequence/forward_products.inl"
#include "sequence/forward.inl"
#include "sequence/backward_places.inl"
#include "sequence/weight_gradients.inl"
#include "sequence/backward_products.inl"
#include "sequence/backward.inl"
#include "sequence/backward_memory.inl"
#include "sequence/running.inl"
#include "routine/elementary.inl"
#include "routine/operations.inl"
#include "routine/product.inl"
#include "routine/outer.inl"
#include "routine/tile.inl"
#include "routine/map_outputs.inl"
#include "routine/map.inl"
#include "routine/timesteps.inl"
#include "routine/passes.inl"
#include "routine/stepping.inl"
#include "step/int8.inl"
#include "step/cells.inl"
#include "step/windows.inl"
#include "step/rows.inl"
#include "step/steps.inl"
#include "sequence/int8.inl"
#if !defined(__AVX512BF16__)
#include "drawing.inl"
#endif

template <class R>
bool forward_all(const Run* runs, int count, int threads) {
  return run_all<R, ForwardPass<R>>(runs, count, threads);
}
template <class R>
bool backward_all(const Run* runs, int count, int threads) {
  return run_all<R, BackwardPass<R>>(runs, count, threads);
}

#if !defined(__AVX512BF16__)
constexpr Kernels kTable = {OSTINATO_TARGET_NAME, forward_all<F32>, backward_all<F32>,
                            forward_all<F64>, backward_all<F64>, step_kernels<F32>(),
                            step_kernels<F64>(), run_routine<F32>, run_routine<F64>, forward_int8,
                            multiply_digits, draw_mask, kLayouts, kKinds};

const Kernels* table() { return &kTable; }
#else
// All else is that of the target without bfloat16.
const Kernels* table() {
  static const Kernels made = [] {
    Kernels k = *kernels_x86_64_v4_vnni();
    k.name = OSTINATO_TARGET_NAME;
    k.forward_bf16_products = forward_all<InPairs<float>>;
    k.backward_bf16_products = backward_all<InPairs<float>>;
    k.forward_bf16 = forward_all<InPairs<Bfloat16>>;
    k.backward_bf16 = backward_all<InPairs<Bfloat16>>;
    k.routine_bf16_products = run_routine<InPairs<float>>;
    return k;
  }();
  return &made;
}
#endif

}  // namespace

const Kernels* OSTINATO_TARGET_FUNCTION() { return table(); }

}  // namespace ostinato
