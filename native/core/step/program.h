// A program of steps (step.h) with its memory: made once, run a timestep or many at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "ostinato.h"
#include "routine/routine.h"
#include "step.h"

namespace ostinato {

struct StepKernels;

class Program {
 public:
  // spec: the number of streams; of inputs, and the width of each (0: ids, which is no value, but
  // takes a number); of outputs, and each one's value; of routines, and of each how many integers,
  // these, how many floats, and these as the integers of the same bits (double's); then the
  // operations' fields. `weights` are the operations', in order; they're copied. Null, and `error`
  // set, where something is wrong.
  static std::unique_ptr<Program> make(Dtype dtype, const std::vector<int64_t>& spec,
                                       const Tensor* weights, size_t n_weights, std::string* error);
  ~Program();

  // What a call returns while another one is under way.
  static const char* const kBusy;

  // Other values for all weights. Returns "" or what is wrong; nothing is changed then.
  std::string set_weights(const Tensor* weights, size_t n_weights);

  // Runs T timesteps: inputs (N, T, width) or ids (N, T) as int32, outputs (N, T, width). Returns ""
  // or what is wrong; no state is changed then. One call at a time: another is refused.
  std::string run(const void* const* inputs, void* const* outputs, int64_t T);

  // Bytes of a timestep of all inputs' and outputs' buffers, in their order.
  const std::vector<int64_t>& input_bytes() const { return input_bytes_; }
  const std::vector<int64_t>& output_bytes() const { return output_bytes_; }
  bool reads_ids(size_t input) const { return inputs_[input].width == 0; }

  // Products of a timestep, in multiplications and additions.
  int64_t work() const { return work_; }

  // States: of each cell in order h, for lstm c, each (N, U); then, under a mask, (N,) bytes of 0 or
  // 1 that say which rows have begun. Of a routine its carries, (N, size) each. Of a window (N, span, D),
  // the oldest first; of a pool of the largest these, (N, width); of a mean the sum, what its roundings
  // lost, and (N, 2) how many there were, in 4096s and ones.
  const std::vector<int64_t>& state_bytes() const { return state_bytes_; }
  bool is_flags(size_t state) const { return state_is_flags_[state]; }
  std::string read_states(void* const* to);
  std::string write_states(const void* const* from);

 private:
  Program() = default;
  friend class ProgramLayout;
  friend class ProgramWeights;
  class Turn;

  struct DropRoutine {
    const StepKernels* kernels;
    void operator()(void* routine) const;
  };

  StepMemory memory_{};
  Dtype dtype_ = Dtype::f32;
  const StepKernels* kernels_ = nullptr;
  std::vector<Step> steps_;
  std::vector<StepPort> inputs_, outputs_;
  std::vector<int32_t*> ids_;
  std::vector<int64_t> input_bytes_, output_bytes_, state_bytes_;
  std::vector<bool> state_is_flags_;
  std::vector<std::unique_ptr<Buffer>> blocks_;
  std::vector<std::unique_ptr<Routine>> routines_;
  std::vector<std::unique_ptr<void, DropRoutine>> routine_memory_;  // of the steps that run one
  int64_t work_ = 0;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

}  // namespace ostinato
