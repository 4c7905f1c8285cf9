// A model's timestep as a program: operations over N streams, their weights packed once, their
// states kept from one timestep to the next.
//
// Values are matrices (N, width) of one dtype, f32 or f64; masks are booleans (N,). Both are numbered
// in the order in which they're made: the program's inputs first, then each operation's result. An
// operation reads what was made before it.
#pragma once

#include <cstdint>

namespace ostinato {

struct Int8Product;

enum StepCode : int64_t {
  step_embed = 0,      // rows of a table (V, width) by the ids of an input; mask: id != 0
  step_mask = 1,       // the value, zero in rows where all of it equals the number (1,); mask: those
                       // where it doesn't
  step_either = 2,     // a mask: first or second
  step_cell = 3,       // kernel (D, G*U), recurrent kernel (U, G*U), bias as in ostinato.h
  step_dense = 4,      // kernel (D, width), bias (width,)
  step_scale = 5,      // times a row (width,), plus a row (width,)
  step_normalize = 6,  // to mean 0 (kind 0) or not (kind 1) and variance 1 over the width, then as
                       // step_scale; the number (1,) is added to the variance
  step_activate = 7,
  step_softmax = 8,
  step_combine = 9,    // two values: added, subtracted, multiplied, the larger, the smaller (kind)
  step_concatenate = 10,
  step_routine = 11,   // a cell's pass for inference (routine/routine.h): its weights as there
  // The same with kernels of int8, each followed by the scales of its columns in float32: int8.h. Of float32
  // programs only.
  step_int8_cell = 12,
  step_int8_dense = 13,
  // The last `taps` timesteps of a value, `dilation` apart, zeros before the first: side by side, the oldest
  // first (kind 0, taps * D wide), the largest (1), their mean (2), their sum times a kernel (taps, D) (3).
  step_window = 14,
  // Of a value's timesteps so far, those that its mask leaves: the mean (kind 0). Of all: the largest (1).
  step_pool = 15,
};
enum WindowKind : int64_t { window_all = 0, window_largest = 1, window_mean = 2, window_weighted = 3 };
enum PoolKind : int64_t { pool_mean = 0, pool_largest = 1 };

// One operation, as `kStepFields` integers in this order. -1 where a mask or operand is absent.
struct StepOp {
  int64_t code;
  int64_t kind;                  // of a cell, a Kind; of step_routine its number; else see above
  int64_t activation;
  int64_t recurrent_activation;
  int64_t has_bias;
  int64_t zero_output_for_mask;  // of a cell: whether the output of a masked row is zero, or held
  int64_t mask_in;               // of cells: the rows that take part; of step_either: the first mask
  int64_t mask_out;              // the number of the mask that it makes
  int64_t first;                 // the value that it reads (of step_embed the input; of step_either a mask)
  int64_t second;
  int64_t out;                   // the number of the value that it makes
  int64_t width;                 // of that value
  int64_t taps;                  // of step_window; else 0
  int64_t dilation;              // likewise
};
constexpr size_t kStepFields = 14;

// How many timesteps before this one a window reaches back.
static inline int64_t span_of(const StepOp& op) { return (op.taps - 1) * op.dilation; }

// What a cell or a dense layer of int8 weights has beside them: scales and starts (int8.h) by column, and
// the digits of what it reads, of its state, and of what takes the state's place in a late product.
struct StepInt8 {
  void (*multiply)(const Int8Product& product);  // a MultiplyDigits
  float *kernel_scales, *recurrent_scales, *late_scales;
  int32_t *kernel_starts, *recurrent_starts, *late_starts;
  uint8_t *x_digits, *h_digits;  // (N, 2, the width in 16s)
  float *x_steps, *h_steps;      // (N,)
  // The inputs' product with the bias, where it has been done: a tile (N, columns, L) of each panel, this
  // far apart; else null.
  const float* projected;
  int64_t projected_stride;
};

// One operation with its memory. Values and states lie as the kernels like them, in blocks of as many
// columns as a vector has lanes: [block][row][lane]; lanes beyond the width hold anything.
struct Step {
  StepOp op;
  int64_t D;  // width of what it reads
  void *kernel, *recurrent, *late, *bias;
  void *state[2], *next[2];
  uint8_t* started;  // (N,) whether a row has had a valid timestep
  const void *first, *second;
  void* out;
  const uint8_t *mask_in, *mask_second;
  uint8_t* mask_out;
  const int32_t* ids;
  void* routine;  // what kernels.h makes for step_routine
  int64_t record, record_bytes;  // where its states begin in a row's record, and how much they are
  void* taps;     // of a window: a row of what it holds, with room for a vector more
  StepInt8 int8;  // of the codes with int8 weights
};

// (static: see kernels.h)
static inline bool has_int8(const StepOp& op) {
  return op.code == step_int8_cell || op.code == step_int8_dense;
}
static inline bool is_cell(const StepOp& op) { return op.code == step_cell || op.code == step_int8_cell; }
static inline bool is_dense(const StepOp& op) { return op.code == step_dense || op.code == step_int8_dense; }

// What a timestep reads from the caller or gives to it: a matrix of a value, (N, T, width).
struct StepPort {
  int64_t width;  // 0 of ids, int32 (N, T)
  void* value;
  int64_t vocabulary;  // ids are less than this
};

// Some rows on their way through a timestep, a tile: of N rows, which may be less than there's room for.
struct StepMemory {
  int64_t N;
  Step* steps;
  int64_t count;
  StepPort *inputs, *outputs;
  int64_t n_inputs, n_outputs;
  int32_t** ids;  // (n_inputs,) this timestep's, (N,) each; null of values
  uint8_t** records;  // (N,) each row's states, where windows and pools keep them, and others between calls
  const uint8_t* initial;  // a record as they begin
  void* scratch;
  uint64_t timestep;  // how many have been run
  bool alone;         // whether other threads have tiles of their own, and can't help
  bool may_share;     // whether other threads may help
  int64_t ended;      // when the last timestep was, in microseconds, if so
  bool hurried;       // whether this one followed at once
};

}  // namespace ostinato
