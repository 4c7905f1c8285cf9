// A routine as the kernels read it: checked, and with all that can be decided before a call decided.
//
// Plain data, that a Routine (routine.h) owns: kernel.cpp includes this file, and kernels.h says why
// nothing here may have a function.
#pragma once

#include <cstdint>

namespace ostinato {

// The numbers are those of the encoding, in routine.h.
enum class OperandKind : int32_t { sequence, rows, weight, mask, saved, output };
enum class ResultKind : int32_t { sequence, output, rows, carry, weight, saved };
enum class Space : int32_t { operand, result, carry, next, scratch, saved, saved_next, literal };

struct RoutineOperand {
  OperandKind kind;
  bool in_output_order;
  int64_t size;  // of a row and timestep; of all where it's a weight
};

struct RoutineResult {
  ResultKind kind;
  bool in_output_order;
  int64_t which;  // the carry
  int64_t size;
};

struct CarryValue {
  int64_t size;
  int64_t operand;  // of the values before the first step
  int64_t kept;     // the saved value in which it lives, or -1
};

struct SavedValue {
  int64_t size;
  int64_t before;  // sizes of the values before it
};

struct ScratchValue {
  int64_t size;
  bool ring;
  int64_t offset;  // elements a row before it: in the arena, or among the values with a ring
  int64_t ahead;   // likewise among the values computed ahead, or -1: see ProductStep::is_ahead
};

// Where a row's elements begin.
struct Place {
  Space space;
  int32_t index;
  int64_t offset;
};

struct ProductStep {
  Place a, out, bias;
  int64_t a_stride, out_stride;  // between middle places
  int64_t places, depth, columns;  // m, K, N
  int32_t weight;                  // its number among the packed ones
  bool is_ahead;  // of inputs alone: where there are few rows it's computed for several steps at once
  enum Init : int32_t { zero, add, with_bias } init;
};

struct OuterStep {
  Place a, z, out;
  int64_t a_stride, z_stride;
  int64_t places, depth, columns;
  int32_t number;  // among the routine's OUTERs
};

// --- MAP ------------------------------------------------------------------------------------------

constexpr int kMostDims = 6;

// A MAP runs in chunks of some lines of some columns each, for each element of the outer dimensions.
//   rows_by_columns: the rows are the lines, the last dimension the columns;
//   columns_by_rows: the other way round, where the last dimension is much smaller than a vector;
//   one_line: rows and dimension are one run of columns, where all lie dense.
enum class MapLoop : int32_t { rows_by_columns, columns_by_rows, one_line };

// A register's shape in a chunk: whether it has a value for each line, and for each column.
struct Varies {
  bool lines, columns;
};

struct MapInput {
  Place place;
  int64_t outer[kMostDims];  // strides
  int64_t stride;            // of the last dimension
  Varies varies;
  bool has_spare;  // whether a vector may be read beyond its last element
  double literal;
};

struct MapOperation {
  int32_t number;     // in operations.def
  int32_t arity;
  int32_t from[3];    // registers
  int32_t slot;
  Varies varies;
};

struct MapOutput {
  Place place;
  int64_t outer[kMostDims];
  int64_t stride;
  int32_t from;   // a register
  int32_t after;  // how many operations come before it's put there
  enum Mode : int32_t { store, sum, add, largest } mode;
  bool is_weight;    // has no row: a sum over rows
  bool visits_once;  // each place once, but for reductions over the lines or columns
};

struct MapStep {
  int32_t number;  // among the routine's MAPs
  MapLoop loop;
  int32_t outer_count;
  int64_t outer[kMostDims];
  int64_t columns;  // the last dimension
  int32_t n_inputs, n_operations, n_outputs;
  int32_t slots;  // of operations
  const MapInput* inputs;
  const MapOperation* operations;
  const MapOutput* outputs;
};

struct RoutineStep {
  enum Code : int32_t { product = 1, outer = 2, map = 3 } code;
  union {
    ProductStep product_step;
    OuterStep outer_step;
    MapStep map_step;
  };
};

// --- all of it ------------------------------------------------------------------------------------

// A weight as PRODUCTs read it.
struct PackedWeight {
  int32_t operand;
  bool transposed;
  int64_t depth, columns;
};

struct StepList {
  const RoutineStep* steps;
  int32_t count;
};

struct RoutinePlan {
  bool reverse;
  const RoutineOperand* operands;
  const RoutineResult* results;
  const CarryValue* carries;
  const SavedValue* saved;
  const ScratchValue* scratch;
  const PackedWeight* packed;
  int32_t n_operands, n_results, n_carries, n_saved, n_scratch, n_packed, n_outers;
  int32_t mask;        // the operand, or -1
  int32_t saved_tensor;  // the operand or result that holds the saved values, or -1
  bool keeps;          // whether it's a result
  int64_t saved_size, arena, ring, ahead;  // elements a row
  StepList body, idle;
  // Of the MAPs and OUTERs: what a thread's memory must have room for.
  int64_t most_slots, most_inputs, most_references, most_places;
  double work;  // of a row and step, in multiplications
};

// A call of it, all checked.
struct RoutineCall {
  const RoutinePlan* plan;
  int64_t B, T;
  bool go_backwards, flip_outputs, return_sequences;
  double least_shared;  // multiplications of a product whose columns threads may share
  int64_t window;    // timesteps between the carries that SAVED has: see routine.h; 0: it has all
  int64_t truncate;  // no gradient crosses a multiple of so many; 0: all do
  // With a window, of a routine that goes back: the routine that kept, to run a window of it once more.
  const RoutineCall* again;
  const void* const* inputs;
  void* const* outputs;
};

}  // namespace ostinato
