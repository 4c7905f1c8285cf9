// Routines: passes over time of cells that aren't built in.
//
// A *routine* is one pass (inference, forward for training, or backward) of any cell: a list of
// instructions for one timestep, for any number of rows of a batch, with tables of what they read and
// write. Python makes it (src/ostinato/programs); the core checks it once, keeps it under a hash of its
// encoding for as long as the process lives, and runs it as often as it's called. Rows never mix but in
// the sums of weights' gradients, so threads split the rows and run all timesteps without a barrier; where
// there are fewer rows than threads they share the columns of wide products (timesteps.inl).
//
// Shape letters: B batch, T timesteps, s a step of the run (0 to T-1).
//
// --- Encoding ---
//
// `ints`, and `floats` for the literals. In order:
//   kVersion; reverse: 0, or 1 where steps go from T-1 down to 0
//   n_operands, then each: kind, order, rank, dims...          (dims without B and T)
//   n_results,  then each: kind, order, which, rank, dims...
//   n_carries,  then each: size, initial operand, kept
//   n_saved,    then each: size, steps                         (0: T of them, 1: T+1)
//   n_scratch,  then each: size, offset, ring
//   arena
//   body: n, then n instructions;  idle: likewise
// An instruction is its opcode, the length of what follows, and that.
//
// Operands are the inputs of a call:
//   0 SEQUENCE (B, T, *dims)
//   1 ROWS     (B, *dims)
//   2 WEIGHT   (*dims)
//   3 MASK     (B, T) booleans, read as 0 or 1 of size 1; one at most
//   4 SAVED    (T+1, B, all saved sizes): what the routine for training kept
//   5 OUTPUT   (B, T, *dims) where the call returns sequences, else (B, *dims): a gradient, that reads
//              as zeros at all steps but T-1 where the call doesn't
// Results are its outputs:
//   0 SEQUENCE (B, T, *dims), written whole by the instructions
//   1 OUTPUT   as above; where the call doesn't return sequences each step writes over it
//   2 ROWS     (B, *dims): zero before the first step, instructions add to it
//   3 CARRY    (B, *dims): carry number `which` after the last step of the run
//   4 WEIGHT   (*dims): zero before the first step, instructions add to it, over all rows
//   5 SAVED    (T+1, B, all saved sizes)
// `order`, of SEQUENCE, OUTPUT and MASK: 0, the inputs': step s is at time T-1-s where the call goes
// backwards, else s; 1, the outputs': likewise where it flips outputs. A routine needs an operand that
// says what T is: a SEQUENCE, a MASK or a SAVED.
//
// Carries go from a step to the next in the direction of the run. The initial operand is a ROWS of the
// same size. Where `kept` isn't -1 the carry lives in that saved value, of T+1 steps.
// Saved value v at step s and row b begins at (T+1) B (sizes before v) + (s B + b) size(v): the
// caller's arrays keep what lies beyond T steps as it was.
// Scratch lives for a step, and is written before it's read there; what is never read may not be written
// at all. `offset` is its place in the arena, whose elements count a row; values that overlap may share
// memory. With ring 1 it lives apart from the arena, for as long as an OUTER that was put off needs it.
//
// A reference is `space, index, offset`; the elements of a row are at offset + sum(stride * coordinate):
//   0 operand   1 result   2 carry, before the step   3 carry, after it   4 scratch
//   5 saved at s   6 saved at s+1   7 literal: floats[index], in a MAP's inputs only
// WEIGHTs and literals have no row. An operand or result SAVED is referred to by 5 and 6 only.
//
// --- Instructions ---
//
// 1 PRODUCT: out = init + a W, for each row and each of m middle places, of K values next to each other:
//   a: space index offset, a_stride between places;  m, K, N;
//   weight: an operand of K*N elements, transposed: 0 where it's (K, N), 1 where (N, K);
//   out: space index offset, out_stride;
//   init: 0 zeros, 1 what is there, 2 bias;  bias: a WEIGHT operand, offset.
// 2 OUTER: out(k, n) += a(k) z(n), summed over rows and places:
//   a: space index offset a_stride;  z: likewise;  m, K, N;  out: a WEIGHT result, offset of (K, N).
//   It may be put off: a and z are operands (not the MASK), saved, or scratch with a ring, and nothing
//   writes to them after it.
// 3 MAP: elementwise over (rows, d1..dn), n <= 6:
//   n, d1..dn;
//   n_in, each: space index offset stride1..striden;
//   n_ops, each: number in operations.def, a, b, c: registers, -1 where not used;
//   n_out, each: register, mode, space index offset stride1..striden.
//   Registers are the inputs and then the operations' values. Modes: 0 store; 1 add up, beginning with
//   zeros, over axes whose stride is 0 or whose places are the same; 2 add to what is there; 3 the
//   largest over the axes of stride 0, beginning with -infinity. A WEIGHT result takes mode 2 only, and
//   is summed over rows. An output may be an input's memory at the very same places, with modes 0 and
//   2; outputs of one MAP don't overlap.
//
// Where the idle list has instructions, a step in which the mask is False for all rows of a tile of
// rows runs that list instead of the body.
//
// --- A call ---
//
// forward and backward (ostinato.h) take it alike, with the spec [kRoutine, high, low, go_backwards,
// flip_outputs, return_sequences, precision, checkpoint, truncate, again high, again low]: the routine
// itself says what it does. Without a timestep a
// CARRY is its initial operand; all other results are zero then. `precision` is of_tensors, or
// bfloat16_products: of float32 tensors what PRODUCTs and OUTERs multiply is rounded to bfloat16.
//
// With a `checkpoint` of k, as in ostinato.h, a routine for training has carries that are kept, all of
// them, and its SAVED is (windows, B, all carries' sizes): the carries before every k-th step. A routine
// that goes back takes that, and runs the one that `again` names (0, 0 else) once more, window by window; its
// inputs are those of that routine, then its own from the SAVED on: its operands before that are those of
// the other but for the initial ones of carries. `truncate`, of a routine that goes back: its carries are
// zero after each step that is a multiple of so many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "ostinato.h"
#include "routine/plan.h"
#include "signature.h"

namespace ostinato {

constexpr int64_t kRoutine = -1;      // the first number of a spec
constexpr size_t kRoutineFields = 11;  // of a spec
constexpr int64_t kVersion = 1;

// By which a call names its routine: two numbers of 31 bits.
struct RoutineHash {
  int64_t high, low;
};

// The operations of a MAP in the order of their numbers; and how many registers each reads.
const char* const* routine_operations(size_t* count);
int routine_arity(int64_t operation);

// Checks a routine and keeps it; again is no more than a look-up. Returns "" or what is wrong. From any
// thread.
std::string register_routine(const int64_t* ints, size_t n_ints, const double* floats,
                             size_t n_floats, RoutineHash* hash);

// A checked routine: what its plan points to, and the shapes of what it takes and gives.
struct Routine {
  struct Shape {
    std::string name;          // as errors call it
    std::vector<int64_t> dims;
  };

  RoutinePlan plan{};
  std::vector<RoutineOperand> operands;
  std::vector<RoutineResult> results;
  std::vector<Shape> operand_shapes, result_shapes;
  std::vector<CarryValue> carries;
  std::vector<SavedValue> saved;
  std::vector<bool> saved_last;  // whether there are T+1 steps of it
  std::vector<ScratchValue> scratch;
  std::vector<PackedWeight> packed;
  std::vector<RoutineStep> body, idle;
  // Of each MAP.
  std::deque<std::vector<int64_t>> map_dims;
  std::deque<std::vector<MapInput>> map_inputs;
  std::deque<std::vector<MapOperation>> map_operations;
  std::deque<std::vector<MapOutput>> map_outputs;
};

// Reads an encoding. Throws a Refusal where it isn't as it should be.
std::unique_ptr<Routine> read_routine(const int64_t* ints, size_t n_ints, const double* floats,
                                      size_t n_floats);

// Of how many multiplications on threads may share the columns of a product; tests share small ones.
void share_products_from(double multiplications);

// The routine that a spec names, or a Refusal.
const Routine& routine_of(const int64_t* spec, size_t spec_size);

// The shapes of a call's outputs, from its inputs.
std::vector<Argument> routine_outputs(const int64_t* spec, size_t spec_size, const Tensor* inputs,
                                      size_t n_inputs);

// Checks all tensors and runs. Throws a Refusal before anything is written.
void run_routine(const int64_t* spec, size_t spec_size, const Tensor* inputs, size_t n_inputs,
                 const Tensor* outputs, size_t n_outputs);

}  // namespace ostinato
