// What reads an encoding: numbers in order, each checked, and errors that say where.
#pragma once

#include <cstdint>
#include <string>

#include "routine/routine.h"
#include "signature.h"

namespace ostinato {

// No value of a row has more elements than this, and no weight; nor is an offset or stride larger.
// So no size in bytes overflows, whatever rows a tile has.
constexpr int64_t kMostOfARow = int64_t{1} << 31;
constexpr int64_t kMostOfAWeight = int64_t{1} << 40;

// f(), whose refusals then begin with where it was.
template <class F>
void within(const char* what, F f) {
  try {
    f();
  } catch (const Refusal& refusal) {
    refuse(std::string(what) + ": " + refusal.what);
  }
}
template <class F>
void within(const char* what, size_t number, F f) {
  try {
    f();
  } catch (const Refusal& refusal) {
    refuse(std::string(what) + " " + std::to_string(number) + ": " + refusal.what);
  }
}

class Numbers {
 public:
  Numbers(const int64_t* at, size_t count) : at_(at), left_(count) {}

  size_t left() const { return left_; }

  int64_t next(const char* what) {
    if (left_ == 0) refuse(std::string(what) + ": expected a number, got the end");
    --left_;
    return *at_++;
  }
  int64_t next(const char* what, int64_t low, int64_t high) {
    const int64_t value = next(what);
    if (value < low || value > high)
      refuse(std::string(what) + ": expected " + std::to_string(low) + " to " +
             std::to_string(high) + ", got " + std::to_string(value));
    return value;
  }
  bool flag(const char* what) { return next(what, 0, 1) != 0; }

  // How many of something follow, each of at least `each` numbers.
  size_t count(const char* what, size_t each) {
    const int64_t value = next(what);
    if (value < 0 || uint64_t(value) > left_ / each)
      refuse(std::string(what) + ": expected as many as there are numbers for, got " +
             std::to_string(value));
    return size_t(value);
  }

  // The next `count` numbers as a list of their own.
  Numbers part(size_t count, const char* what) {
    if (count > left_)
      refuse(std::string(what) + ": expected " + std::to_string(count) + " numbers more, got " +
             std::to_string(left_));
    const Numbers result(at_, count);
    at_ += count, left_ -= count;
    return result;
  }

 private:
  const int64_t* at_;
  size_t left_;
};

// A dimension of what a reference reaches.
struct Reach {
  int64_t size, stride;
};

// Reads instructions, and checks what they refer to against the tables of a routine.
class InstructionReader {
 public:
  InstructionReader(Routine& routine, const double* floats, size_t n_floats)
      : routine_(routine), floats_(floats), n_floats_(n_floats) {}

  void read(Numbers& numbers, std::vector<RoutineStep>& steps);

 private:
  // What is done with what is referred to: `put_off` reads what must outlive the step.
  enum class Use { read, put_off, write, add };

  void read_product(Numbers& numbers, ProductStep& step);
  void read_outer(Numbers& numbers, OuterStep& step);
  void read_map(Numbers& numbers, MapStep& step);
  void read_map_inputs(Numbers& numbers, const std::vector<int64_t>& dims,
                       std::vector<MapInput>& inputs);
  void read_map_operations(Numbers& numbers, size_t n_inputs,
                           std::vector<MapOperation>& operations);
  void read_map_outputs(Numbers& numbers, const std::vector<int64_t>& dims, size_t registers,
                        std::vector<MapOutput>& outputs);

  Place read_place(Numbers& numbers);
  // Checks that it may be used so, and that all that is reached lies within a row.
  void check(const Place& place, Use use, const std::vector<Reach>& reach) const;
  int64_t size_of(const Place& place, Use use) const;
  int64_t size_of_operand(const Place& place, Use use) const;
  int64_t size_of_result(const Place& place, Use use) const;
  int64_t size_of_saved(const Place& place, Use use) const;
  int32_t packed(int64_t operand, bool transposed, int64_t depth, int64_t columns);

  Routine& routine_;
  const double* floats_;
  const size_t n_floats_;
};

// Calls f for each place in memory that an instruction reads or writes, but for biases and weights.
template <class F>
void each_place(const Routine& routine, const RoutineStep& step, F f) {
  if (step.code == RoutineStep::product) {
    f(step.product_step.a), f(step.product_step.out);
  } else if (step.code == RoutineStep::outer) {
    f(step.outer_step.a), f(step.outer_step.z);
  } else {
    const size_t number = size_t(step.map_step.number);
    for (const MapInput& input : routine.map_inputs[number]) f(input.place);
    for (const MapOutput& output : routine.map_outputs[number]) f(output.place);
  }
}

// Drops what the MAPs of a list compute for nobody.
void drop_unread(Routine& routine, std::vector<RoutineStep>& steps);

// Places scratch values side by side where those that are used take less so than the arena: tiles have
// the more rows the less a row takes.
void shrink_arena(Routine& routine);

// Marks the products that may be computed ahead of their timestep, and the scratch values that they go to.
void hoist_products(Routine& routine);

// Decides how a MAP runs: see MapLoop. Its lists are in the order of the encoding, with the strides of
// all dimensions in `outer`; on return those of the last one, the columns, are apart.
void plan_map(Routine& routine, MapStep& step);

// Joins pairs of operations, whose shapes are known, into one each.
void fuse_operations(size_t n_inputs, std::vector<MapOperation>& operations,
                     std::vector<MapOutput>& outputs);

// Whether two references may be to the same memory.
bool may_share(const Routine& routine, const Place& a, const Place& b);

// Decides when each output is put where it goes, in the order of which it leaves them, and in which slot
// each operation's values lie; how many there are.
int32_t order_map(const Routine& routine, const std::vector<MapInput>& inputs,
                  std::vector<MapOperation>& operations, std::vector<MapOutput>& outputs);

// What an operation takes a vector, in cycles, about.
double operation_cost(int32_t number);

}  // namespace ostinato
