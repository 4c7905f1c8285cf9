// Routines for tests: an encoding put together part by part, random ones, the numbers of a call, and
// what the plain loops of naive_routine.cpp make of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../core/routine/routine.h"
#include "check.h"

namespace ostinato::tests {

using Ints = std::vector<int64_t>;
using Numbers64 = std::vector<double>;

enum : int64_t { kOperand, kResult, kCarry, kNext, kScratch, kSaved, kSavedNext, kLiteral };

// A reference and its strides.
struct Ref {
  int64_t space, index, offset = 0;
  Ints strides = {};
};

// The parts of an encoding; `ints` joins them.
struct Encoding {
  struct Operand {
    int64_t kind, order;
    Ints dims;
  };
  struct Result {
    int64_t kind, order, which;
    Ints dims;
  };
  struct Three {
    int64_t a, b, c;
  };
  bool reverse = false;
  std::vector<Operand> operands;
  std::vector<Result> results;
  std::vector<Three> carries;  // size, operand, kept
  std::vector<Three> saved;    // size, steps
  std::vector<Three> scratch;  // size, offset, ring
  int64_t arena = 0;
  std::vector<Ints> body, idle;
  Numbers64 floats;

  int64_t add_scratch(int64_t size, bool ring);
  int64_t literal(double value);
  void product(Ref a, int64_t a_stride, int64_t m, int64_t K, int64_t N, int64_t weight,
               bool transposed, Ref out, int64_t out_stride, int64_t init, int64_t bias,
               int64_t bias_offset);
  void outer(Ref a, int64_t a_stride, Ref z, int64_t z_stride, int64_t m, int64_t K, int64_t N,
             int64_t result, int64_t offset);

  Ints ints() const;
};

int64_t operation_number(const char* name);

// A MAP, put together input by input.
struct Map {
  Ints dims;
  std::vector<Ref> inputs;
  std::vector<Ints> operations;  // op, a, b, c
  struct Output {
    int64_t from, mode;
    Ref to;
  };
  std::vector<Output> outputs;

  int64_t input(Ref ref);  // its register; all inputs before the operations
  int64_t operation(const char* name, int64_t a, int64_t b = -1, int64_t c = -1);
  Ints ints() const;
};

// A call's numbers: of each operand and result, in the shapes of the routine's tables.
struct RoutineNumbers {
  int64_t B, T;
  int64_t go_backwards, flip_outputs, return_sequences;
  std::vector<Numbers64> operands;
  std::vector<Numbers64> results;  // NaN where nothing is written
  int64_t precision = 0;

  // The shape of an operand or a result, B and T included.
  Ints shape(const Encoding& e, const Encoding::Operand& operand) const;
  Ints shape(const Encoding& e, const Encoding::Result& result) const;
};

int64_t product_of(const Ints& dims);

// Operands of the size of one, that a float32 holds exactly, and results of NaN.
RoutineNumbers random_numbers(const Encoding& e, int64_t B, int64_t T, Random& random);

// Runs it in double, row by row and element by element.
void run_plainly(const Encoding& e, RoutineNumbers& numbers);

// The value of an operation at some numbers.
double plain_operation(const std::string& name, double a, double b, double c);

// A routine of random instructions that write all that they should.
Encoding random_routine(Random& random);

}  // namespace ostinato::tests
