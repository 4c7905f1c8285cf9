// A program of steps (step.h) for some streams: made once, run a timestep or many at a time.
//
// Its weights are packed once for all streams that are opened beside it. Each stream is a row: its states lie
// in a record, and go into a tile of rows to be run, all of them or some.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "ostinato.h"
#include "step.h"

namespace ostinato {

struct StepKernels;
struct ProgramModel;
struct ProgramTile;
class Pace;
class Pipeline;

// Which rows a call is for, in the order of its arrays: `count` of them, no two alike; or all, and then how
// many the caller takes that for, if it matters, as another thread may have resized them.
struct ChosenRows {
  const int64_t* rows = nullptr;
  int64_t count = -1;
};

class Program {
 public:
  typedef ChosenRows Chosen;

  // spec: the number of streams; of inputs, and the width of each (0: ids, which is no value, but
  // takes a number); of outputs, and each one's value; of routines, and of each how many integers,
  // these, how many floats, and these as the integers of the same bits (double's); then the
  // operations' fields. `weights` are the operations', in order; they're copied. Null, and `error`
  // set, where something is wrong. States begin as zeros.
  static std::unique_ptr<Program> make(Dtype dtype, const std::vector<int64_t>& spec,
                                       const Tensor* weights, size_t n_weights, std::string* error);
  ~Program();

  // What a call returns while another one is under way.
  static const char* const kBusy;

  // The same for other streams, at the initial states; it shares the weights.
  std::unique_ptr<Program> another(int64_t streams, std::string* error);

  // Other values for all weights, for these streams alone; or those of another program of the same spec,
  // shared, with its initial states. Returns "" or what is wrong; nothing is changed then.
  std::string set_weights(const Tensor* weights, size_t n_weights);
  std::string share_weights(Program& other);

  // What a row begins with: of each state one row, as in write_states. Not of programs that share weights
  // already. States that there are stay.
  std::string set_initial(const void* const* from);

  // Runs T timesteps of n rows: inputs (n, T, width) or ids (n, T) as int32, outputs (n, T, width). Before a
  // timestep with `resets` (n, T) a row's states are the initial ones. Returns "" or what is wrong; no state
  // is changed then. One call at a time: another is refused.
  std::string run(const void* const* inputs, void* const* outputs, int64_t T, Chosen chosen = {},
                  const uint8_t* resets = nullptr);

  // The rows as they begin; one may be named twice.
  std::string reset(Chosen chosen = {});

  // More streams or less; new ones at the initial states, the others as they are.
  std::string resize(int64_t streams);

  int64_t streams() const { return streams_; }

  // Bytes of a timestep of a row of all inputs and outputs, in their order.
  const std::vector<int64_t>& input_bytes() const { return input_bytes_; }
  const std::vector<int64_t>& output_bytes() const { return output_bytes_; }
  bool reads_ids(size_t input) const { return reads_ids_[input]; }

  // Products of a row's timestep, in multiplications and additions.
  int64_t work() const { return work_; }

  // States, and the bytes of a row of each: of each cell in order h, for lstm c, each (N, U); then, under a
  // mask, (N,) bytes of 0 or 1 that say which rows have begun. Of a routine its carries, (N, size) each. Of a
  // window (N, span, D), the oldest first; of a pool of the largest these, (N, width); of a mean the sum, what
  // its roundings lost, and (N, 2) how many there were, in 4096s and ones.
  const std::vector<int64_t>& state_bytes() const { return state_bytes_; }
  bool is_flags(size_t state) const { return state_is_flags_[state]; }
  std::string read_states(void* const* to, Chosen chosen = {});
  std::string write_states(const void* const* from, Chosen chosen = {});

 private:
  Program() = default;
  class Turn;

  void describe();
  void make_tiles(int64_t streams);
  void rest();
  void grow(int64_t streams);
  uint8_t* record(int64_t row) const;
  std::string choose(Chosen& chosen, bool once = true);
  std::string why_not_ids(const void* const* inputs, int64_t count) const;
  void run_few(const void* const* inputs, void* const* outputs, int64_t T, const uint8_t* resets);
  bool make_pipeline(int64_t T);
  void gather(StepMemory& tile);
  void adopt(std::shared_ptr<ProgramModel> model);
  void run_tiles(const void* const* inputs, void* const* outputs, int64_t T, Chosen chosen,
                 const uint8_t* resets);

  Dtype dtype_ = Dtype::f32;
  const StepKernels* kernels_ = nullptr;
  std::shared_ptr<ProgramModel> model_;
  int64_t streams_ = 0, capacity_ = 0;  // rows, and how many there's room for
  std::unique_ptr<Buffer> records_;
  std::vector<std::unique_ptr<ProgramTile>> tiles_;  // one for each thread that may run rows
  std::unique_ptr<ProgramTile> second_;  // of the pipeline, once there was a long call
  std::unique_ptr<Pipeline> pipeline_;
  std::unique_ptr<Pace> pace_;  // of the pipeline beside one thread
  bool is_resident_ = false;  // whether the states of all rows are those in the first tile
  std::vector<uint32_t> seen_;  // (streams,) in which of the calls a row was asked for last
  uint32_t calls_ = 0;
  std::vector<int64_t> input_bytes_, output_bytes_, state_bytes_;
  std::vector<bool> reads_ids_, state_is_flags_;
  int64_t work_ = 0;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

}  // namespace ostinato
