// What makes a program out of a spec and weights: private to program*.cpp.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "program.h"
#include "routine/routine.h"
#include "spec.h"
#include "threads.h"

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

// Zeros, in blocks that are given back together; small ones share a block.
class Blocks {
 public:
  void* take(int64_t bytes);

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kBlock = 0;  // each its own, so that what is read beyond one shows
#else
  static constexpr size_t kBlock = 4096;
#endif
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
  std::vector<std::unique_ptr<Buffer>> blocks_;
};

struct DropRoutine {
  const StepKernels* kernels;
  void operator()(void* routine) const { kernels->drop_routine(routine); }
};
typedef std::unique_ptr<void, DropRoutine> RoutineMemory;

// Where a state lies in a row's record; of a window's ring how many timesteps it has, else 0.
struct StatePlace {
  int64_t offset, bytes, span;
  bool is_flags;
};

// Read once; whoever runs one has them.
typedef std::vector<std::unique_ptr<Routine>> Routines;

// Some rows at work: values, and the states of cells and routines while they run.
struct ProgramTile {
  StepMemory memory{};
  int64_t rows = 0;  // at most
  std::vector<Step> steps;
  std::vector<StepPort> inputs, outputs;
  std::vector<int32_t*> ids;
  Blocks blocks;
  std::shared_ptr<const Routines> plans;  // of the routines, which may outlive a model's weights
  std::vector<RoutineMemory> routines;
};

// What streams share: weights, and what they begin with.
struct ProgramModel {
  Dtype dtype = Dtype::f32;
  const StepKernels* kernels = nullptr;
  std::vector<int64_t> spec;
  std::shared_ptr<Routines> routines = std::make_shared<Routines>();
  std::vector<Step> steps;  // with weights alone
  std::vector<StepPort> inputs, outputs;
  std::vector<StatePlace> states;
  std::vector<uint8_t> initial;  // a row's record
  Blocks blocks;
  std::vector<RoutineMemory> routine_weights;
  int64_t work = 0;

  static std::shared_ptr<ProgramModel> make(Dtype dtype, const std::vector<int64_t>& spec,
                                            const Tensor* weights, size_t n_weights);
  // Gives a tile of the same spec these weights.
  void lend(ProgramTile& tile) const;
};

// Whether two threads are quicker than one, by what timesteps have taken lately: where other programs have the
// cores, a thread that waits for another loses what it gains and more. Both are measured as they're used, one
// thread first; two that were slower aren't tried again for a while, longer each time.
class Pace {
 public:
  bool two_are_quicker(int64_t now) const { return alone_ > 0 && now >= again_; }
  // How long a timestep has taken; all in ns.
  void report(bool two, double timestep, int64_t now);

 private:
  static constexpr int64_t kFirst = 2'000'000, kLongest = 1'000'000'000;
  double alone_ = 0;  // the quickest lately
  int64_t again_ = 0, length_ = kFirst;
};

// Two tiles of the same rows, where one runs the first `cut` steps of a timestep and the other the rest.
class Pipeline {
 public:
  // Where to cut a timestep in two for two threads; 0 where one part would have too little.
  static int64_t cut_of(const ProgramModel& model);

  Pipeline(const ProgramModel& model, ProgramTile& first, ProgramTile& second, int64_t cut);

  // The parts' rows, whose records the caller sets.
  StepMemory* parts() { return parts_; }

  // A call: T timesteps of the rows of both parts.
  struct Work {
    const void* const* inputs;
    void* const* outputs;
    int64_t T;
    const uint8_t* resets;
  };
  // Runs its timesteps from `first` to before `last`, from the rows' records and back.
  void run(const Work& work, int64_t first, int64_t last);

 private:
  struct Handed {
    const void* from;
    void* to;
    size_t bytes;
  };
  class Call;

  static StepMemory part(const ProgramTile& tile);
  static bool is_made(const ProgramTile& tile, const void* value, int64_t before);
  int64_t makes(int64_t value) const;
  uint8_t* move(uint8_t* at, bool out) const;

  const ProgramModel& model_;
  StepMemory parts_[2];
  std::vector<Handed> handed_;
  int64_t bytes_ = 0;  // of all that is handed on, a timestep
  int64_t length_ = 0;  // timesteps of a chunk
  std::unique_ptr<Buffer> buffer_;
  std::vector<size_t> outputs_[2];
  std::vector<StepPort> ports_[2];
};

// Reads a spec front to back, checks it, and lays out the memory of its values, masks and states.
class ProgramLayout {
 public:
  // A draft has no memory: it's there to see whether the weights fit, before their spec is believed. It reads
  // the routines into the model, which a tile takes from there.
  ProgramLayout(ProgramTile& tile, ProgramModel& model, const std::vector<int64_t>& spec, bool is_draft)
      : tile_(tile), model_(model), spec_(spec), is_draft_(is_draft) {}
  void build();

 private:
  struct Value {
    int64_t width;
    void* data;
    int32_t* ids;
  };

  int64_t rows() const { return tile_.rows; }
  size_t number() const { return dtype_size(model_.dtype); }
  int64_t integer();
  void* floats(int64_t elements);
  void* take(int64_t elements, size_t size);
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
  void add_state(int64_t elements, int64_t span = 0);
  void add_flags();
  void read_routines();
  void make_routine(Step& step);
  void finish(const std::vector<int64_t>& outputs);

  ProgramTile& tile_;
  ProgramModel& model_;
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

// The weights of all steps, checked against the model's steps.
class ProgramWeights {
 public:
  static std::vector<StepWeights> read(const ProgramModel& model, const Tensor* tensors, size_t count);
  // Memory for them, once.
  static void make_room(ProgramModel& model, const std::vector<StepWeights>& all);
  // Copies them into that memory.
  static void pack(ProgramModel& model, const std::vector<StepWeights>& all);
};

}  // namespace ostinato
