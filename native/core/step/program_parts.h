// What makes a program out of a spec and weights: private to program*.cpp.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "kernels.h"
#include "program.h"

namespace ostinato {

// Bounds that keep every product of sizes far from overflow.
constexpr int64_t kMostStreams = int64_t{1} << 24, kMostWidth = int64_t{1} << 24;
constexpr int64_t kMostValues = int64_t{1} << 40;
constexpr int64_t kMostSteps = 1 << 16;

// Thrown inside, and turned into a text at the door.
struct ProgramFailure {
  std::string text;
};
[[noreturn]] void fail_program(const std::string& text);
void expect(bool holds, const char* what, int64_t got);
bool within(int64_t value, int64_t low, int64_t high);

// Reads a spec front to back, checks it, and lays out the memory of its values, masks and states.
class ProgramLayout {
 public:
  // A draft has no memory: it's there to see whether the weights fit, before their spec is believed.
  ProgramLayout(Program& program, const std::vector<int64_t>& spec, bool is_draft)
      : program_(program), spec_(spec), is_draft_(is_draft) {}
  void build();
  void* floats(int64_t elements);
  void* take(int64_t elements, size_t size);

 private:
  struct Value {
    int64_t width;
    void* data;
    int32_t* ids;
  };

  int64_t streams() const { return program_.memory_.N; }
  int64_t integer();
  void* matrix(int64_t width);
  const Value& value(int64_t number) const;
  const uint8_t* mask(int64_t number) const;
  void read_inputs();
  std::vector<int64_t> read_outputs();
  void add_step();
  void make_value(Step& step);
  void read_operands(Step& step);
  void read_second(Step& step);
  void make_cell(Step& step);
  void make_int8(Step& step);
  void make_mask(Step& step);
  void make_window(Step& step);
  void make_pool(Step& step);
  int64_t record(int64_t bytes);
  void add_state(int64_t row_elements);
  void read_routines();
  void make_routine(Step& step);
  void finish(const std::vector<int64_t>& outputs);

  Program& program_;
  const std::vector<int64_t>& spec_;
  const bool is_draft_;
  size_t next_ = 0;
  std::vector<Value> values_;
  std::vector<uint8_t*> masks_;
  int64_t scratch_ = 0, record_ = 0;
};

// One step's weights as they were given; null where it has none.
struct StepWeights {
  const void *kernel = nullptr, *recurrent = nullptr, *bias = nullptr, *number = nullptr;
  const void *kernel_scales = nullptr, *recurrent_scales = nullptr;  // where those are of int8
  int64_t rows = 0;  // of an embedding's table
  std::vector<const void*> operands;  // of a routine, null of those that are no weights
};

// The weights of all steps, checked against the program.
class ProgramWeights {
 public:
  static std::vector<StepWeights> read(const Program& program, const Tensor* tensors, size_t count);
  // Memory for them, once.
  static void make_room(Program& program, ProgramLayout& layout,
                        const std::vector<StepWeights>& all);
  // Copies them into that memory.
  static void pack(Program& program, const std::vector<StepWeights>& all);
};

}  // namespace ostinato
