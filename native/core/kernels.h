// What one target (an instruction set) offers to the rest of the core: a table of functions.
//
// kernel.cpp is compiled once per target, with that target's flags; everything in it lives in an
// anonymous namespace but the function that returns its table. No inline or template function of a
// shared header may end up in such an object, or the linker might keep the AVX-512 copy for all.
#pragma once

#include <cstdint>

#include "int8.h"
#include "kinds/layout.h"
#include "ostinato.h"
#include "routine/plan.h"
#include "step/step.h"

namespace ostinato {

// One run with its tensors, all checked. Shapes as in ostinato.h; null where absent.
struct Run {
  RunSpec spec;
  int64_t B, T, D, U;
  int64_t ys_stride;  // columns of a row of ys: U, or more where it's shared
  const void* x;
  const void* initial[2];
  const void* kernel;
  const void* recurrent_kernel;
  const void *kernel_scales, *recurrent_scales;  // of int8_weights
  const void* bias;
  const void* fresh[2];
  const uint8_t* mask;
  const uint8_t* resets;
  const void* input_masks;
  const void* recurrent_masks;
  // forward writes these; backward reads `saved` only
  void* ys;
  void* final[2];
  void* saved;
  // backward only: read
  const void* d_ys;
  const void* d_final[2];
  // backward only: written
  void* dx;
  void* d_initial[2];
  void* d_kernel;
  void* d_recurrent_kernel;
  void* d_bias;
  void* d_fresh[2];
};

// Runs all of `runs`; false where memory ran out.
using RunAll = bool (*)(const Run* runs, int count, int threads);

// What a program of steps (step.h) needs, for one dtype.
struct StepKernels {
  // Packs the weights of a cell, or of step_dense, into the step's memory.
  void (*pack)(const Step& step, const void* kernel, const void* recurrent, const void* bias);
  // The same of the codes with int8 weights; null of double.
  void (*pack_int8)(const Step& step, const Int8Kernel& kernel, const Int8Kernel& recurrent,
                    const void* bias);
  // Whether another thread may help with a timestep, so that it's worth to look at the clock (20 ns).
  bool (*may_share)(const StepMemory& memory);
  // Runs timesteps [from, to) of T; the ids have been checked. `resets`, null or (N, T): before such a
  // timestep a row's states are the initial ones.
  void (*run)(StepMemory& memory, const void* const* inputs, void* const* outputs, int64_t T,
              int64_t from, int64_t to, const uint8_t* resets);
  // The states of a tile's rows from their records, and back; those of one as they begin.
  void (*load_rows)(const StepMemory& memory);
  void (*store_rows)(const StepMemory& memory);
  void (*reset_row)(const StepMemory& memory, int64_t row);
  // The memory of step_routine for at most N rows and so many threads, null where there is none; given back
  // by `drop`. Its weights are its own, and copied: one for each operand of the routine, null where it's
  // something else; or those of another one, which has to stay.
  void* (*make_routine)(const RoutinePlan& plan, int64_t N, int64_t threads, bool has_weights);
  void (*drop_routine)(void* routine);
  void (*set_routine_weights)(void* routine, const void* const* weights);
  void (*share_routine_weights)(void* routine, const void* of);
};

// Runs a routine, of at least a row and a timestep; false where memory ran out.
using RunRoutine = bool (*)(const RoutineCall& call, int threads);

// A mask of dropout to draw: see drawing.h.
struct MaskToDraw {
  const uint32_t* key;
  uint32_t bound;
  int64_t size;
  uint64_t kept;
  void* out;
};

struct Kernels {
  const char* name;  // "baseline", "x86-64-v3", "x86-64-v4", "x86-64-v4-vnni"...
  RunAll forward_f32, backward_f32;
  RunAll forward_f64, backward_f64;
  StepKernels steps_f32, steps_f64;
  RunRoutine routine_f32, routine_f64;
  // Runs with int8 weights, by the product that is given; false where memory ran out.
  bool (*forward_int8)(const Run* runs, int count, int threads, MultiplyDigits multiply);
  MultiplyDigits multiply_digits;
  // Numbers [first, last) of a mask.
  void (*draw_mask)(const MaskToDraw& mask, int64_t first, int64_t last);
  // The kinds of cells, (kinds,): the same in every target.
  const CellLayout* const* layouts = nullptr;
  int64_t kinds = 0;
  // Those of bfloat16_products and bfloat16_tensors; null where the target has no such instructions.
  RunAll forward_bf16_products = nullptr, backward_bf16_products = nullptr;
  RunAll forward_bf16 = nullptr, backward_bf16 = nullptr;
  RunRoutine routine_bf16_products = nullptr;
};

// One for each target that was compiled; which ones is decided by the build (OSTINATO_HAS_V3...).
const Kernels* kernels_baseline();
const Kernels* kernels_x86_64_v3();
const Kernels* kernels_x86_64_v4();
// That of x86-64-v4, and products of int8 weights by AVX512_VNNI.
const Kernels* kernels_x86_64_v4_vnni();
// That of x86-64-v4-vnni, and kernels in bfloat16 (AVX512_BF16).
const Kernels* kernels_x86_64_v4_bf16();
// The same, with 16 rows of a product at once by AMX_BF16.
const Kernels* kernels_x86_64_v4_amx();

// The table in use, chosen once: the best that this CPU has, or the one that OSTINATO_TARGET names;
// null where that one is unknown or can't run here (ostinato.h's target() is then "").
const Kernels* selected_kernels();

// The same, or a Refusal (signature.h).
const Kernels& runnable_kernels();

// A Refusal of a precision where the table in use has no products of bfloat16.
void need_bfloat16(int64_t precision);

}  // namespace ostinato
