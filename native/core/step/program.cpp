// Programs of steps: made, run, and their states read and written.
#include "program.h"

#include <cstring>
#include <new>

#include "program_parts.h"
#include "spec.h"

namespace ostinato {
namespace {

const StepKernels& step_kernels_of(Dtype dtype) {
  const Kernels* all = selected_kernels();
  if (all == nullptr) fail_program("OSTINATO_TARGET: expected a target that can run here");
  return dtype == Dtype::f64 ? all->steps_f64 : all->steps_f32;
}

template <class F>
std::string text_of_failure(F f) {
  try {
    f();
    return "";
  } catch (const ProgramFailure& failure) {
    return failure.text;
  } catch (const Refusal& refusal) {
    return "program: " + refusal.what;
  } catch (const std::bad_alloc&) {
    return "program: out of memory";
  }
}

// of_cell(step, s) for each state of a cell and of_routine(step, k) for each carry of a routine, in
// order; of_rows(step) where it keeps which rows have begun; of_window(step); and of_pool(step, from, count)
// for each part of a pool's state.
template <class Cell, class Rows, class Carry, class Window, class Pool>
void each_state(const std::vector<Step>& steps,
                const std::vector<std::unique_ptr<Routine>>& routines, Cell of_cell, Rows of_rows,
                Carry of_routine, Window of_window, Pool of_pool) {
  for (const Step& step : steps) {
    if (is_cell(step.op)) {
      for (int64_t s = 0; s < layout_of(step.op.kind).states; ++s) of_cell(step, s);
      if (step.started != nullptr) of_rows(step);
    } else if (step.op.code == step_routine) {
      const int64_t count = routines[size_t(step.op.kind)]->plan.n_carries;
      for (int64_t k = 0; k < count; ++k) of_routine(step, k);
    } else if (step.op.code == step_window && span_of(step.op) > 0) {
      of_window(step);
    } else if (step.op.code == step_pool) {
      const int64_t width = step.op.width;
      of_pool(step, 0, width);
      if (step.op.kind == pool_mean) of_pool(step, width, width), of_pool(step, 2 * width, 2);
    }
  }
}

// A row's window between its ring (windows.inl) and (span, D) in order.
struct RingBytes {
  uint8_t* record;
  size_t span, row;  // bytes of a timestep

  uint8_t* slot(size_t i) const {
    int64_t oldest;
    std::memcpy(&oldest, record, sizeof(oldest));
    return record + sizeof(oldest) + (size_t(oldest) + i) % span * row;
  }
  void read(uint8_t* to) const {
    for (size_t i = 0; i < span; ++i) std::memcpy(to + i * row, slot(i), row);
  }
  void write(const uint8_t* from) const {
    for (size_t i = 0; i < span; ++i) std::memcpy(slot(i), from + i * row, row);
  }
};

}  // namespace

// One call at a time: another one is refused, and changes nothing.
class Program::Turn {
 public:
  explicit Turn(Program& program) : busy_(program.busy_), mine_(!busy_.test_and_set()) {}
  ~Turn() {
    if (mine_) busy_.clear();
  }
  bool mine() const { return mine_; }

 private:
  std::atomic_flag& busy_;
  const bool mine_;
};

std::unique_ptr<Program> Program::make(Dtype dtype, const std::vector<int64_t>& spec,
                                       const Tensor* weights, size_t n_weights,
                                       std::string* error) {
  std::unique_ptr<Program> program(new Program);
  *error = text_of_failure([&] {
    if (dtype != Dtype::f32 && dtype != Dtype::f64) fail_program("expected float32 or float64");
    program->dtype_ = dtype;
    program->kernels_ = &step_kernels_of(dtype);
    Program draft;
    draft.dtype_ = dtype;
    ProgramLayout(draft, spec, true).build();
    const std::vector<StepWeights> all = ProgramWeights::read(draft, weights, n_weights);
    ProgramLayout layout(*program, spec, false);
    layout.build();
    ProgramWeights::make_room(*program, layout, all);
    program->memory_.may_share = program->kernels_->may_share(program->memory_);
    ProgramWeights::pack(*program, all);
  });
  if (!error->empty()) program.reset();
  return program;
}

const char* const Program::kBusy =
    "a stream takes one call at a time; this one is in use in another thread";

void Program::DropRoutine::operator()(void* routine) const { kernels->drop_routine(routine); }

Program::~Program() = default;

std::string Program::set_weights(const Tensor* weights, size_t n_weights) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  return text_of_failure([&] {
    const std::vector<StepWeights> all = ProgramWeights::read(*this, weights, n_weights);
    for (size_t i = 0; i < all.size(); ++i)
      if (steps_[i].op.code == step_embed && all[i].rows != steps_[i].D)
        fail_program("table: expected as many rows as before");
    ProgramWeights::pack(*this, all);
  });
}

std::string Program::run(const void* const* inputs, void* const* outputs, int64_t T) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (ids_[i] == nullptr) continue;
    const int32_t* ids = static_cast<const int32_t*>(inputs[i]);
    for (int64_t k = 0; k < memory_.N * T; ++k)
      if (ids[k] < 0 || ids[k] >= inputs_[i].vocabulary)
        return "expected ids of 0 to " + std::to_string(inputs_[i].vocabulary - 1) + ", got " +
               std::to_string(ids[k]);
  }
  kernels_->run(memory_, inputs, outputs, T);
  return "";
}

std::string Program::read_states(void* const* to) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  each_state(
      steps_, routines_,
      [&](const Step& step, int64_t s) {
        kernels_->show(step.state[s], memory_.N, step.op.width, *to++);
      },
      [&](const Step& step) { std::memcpy(*to++, step.started, size_t(memory_.N)); },
      [&](const Step& step, int64_t k) { kernels_->read_carry(step.routine, k, *to++); },
      [&](const Step& step) {
        uint8_t* out = static_cast<uint8_t*>(*to++);
        const size_t row = size_t(step.D) * dtype_size(dtype_), span = size_t(span_of(step.op));
        for (int64_t r = 0; r < memory_.N; ++r, out += span * row)
          RingBytes{memory_.records[r] + step.record, span, row}.read(out);
      },
      [&](const Step& step, int64_t first, int64_t count) {
        uint8_t* out = static_cast<uint8_t*>(*to++);
        const size_t size = dtype_size(dtype_), bytes = size_t(count) * size;
        for (int64_t r = 0; r < memory_.N; ++r, out += bytes)
          std::memcpy(out, memory_.records[r] + step.record + size_t(first) * size, bytes);
      });
  return "";
}

std::string Program::write_states(const void* const* from) {
  Turn turn(*this);
  if (!turn.mine()) return kBusy;
  each_state(
      steps_, routines_,
      [&](const Step& step, int64_t s) {
        kernels_->keep(*from++, memory_.N, step.op.width, step.state[s]);
      },
      [&](const Step& step) { std::memcpy(step.started, *from++, size_t(memory_.N)); },
      [&](const Step& step, int64_t k) { kernels_->write_carry(step.routine, k, *from++); },
      [&](const Step& step) {
        const uint8_t* in = static_cast<const uint8_t*>(*from++);
        const size_t row = size_t(step.D) * dtype_size(dtype_), span = size_t(span_of(step.op));
        for (int64_t r = 0; r < memory_.N; ++r, in += span * row)
          RingBytes{memory_.records[r] + step.record, span, row}.write(in);
      },
      [&](const Step& step, int64_t first, int64_t count) {
        const uint8_t* in = static_cast<const uint8_t*>(*from++);
        const size_t size = dtype_size(dtype_), bytes = size_t(count) * size;
        for (int64_t r = 0; r < memory_.N; ++r, in += bytes)
          std::memcpy(memory_.records[r] + step.record + size_t(first) * size, in, bytes);
      });
  return "";
}

}  // namespace ostinato
