// Drops what a list computes and nobody reads: outputs of MAPs to scratch, what only they need, and so
// on upwards. Of LayerNormLSTM's inference 35 of 51 values were such.
#include <algorithm>

#include "routine/encoding.h"

namespace ostinato {
namespace {

class Pruner {
 public:
  explicit Pruner(Routine& routine) : routine_(routine), is_read_(routine.scratch.size(), false) {}

  // From the last to the first: a scratch value is written before it's read.
  void run(std::vector<RoutineStep>& steps) {
    for (size_t i = steps.size(); i-- > 0;) {
      RoutineStep& step = steps[i];
      if (step.code == RoutineStep::map) {
        if (!keeps(step.map_step)) steps.erase(steps.begin() + std::ptrdiff_t(i));
      } else if (step.code == RoutineStep::product) {
        read(step.product_step.a);
        if (step.product_step.init == ProductStep::add) read(step.product_step.out);
      } else {
        read(step.outer_step.a);
        read(step.outer_step.z);
      }
    }
  }

 private:
  void read(const Place& place) {
    if (place.space == Space::scratch) is_read_[size_t(place.index)] = true;
  }

  // Prunes a MAP; false where nothing of it is left.
  bool keeps(const MapStep& step) {
    const size_t number = size_t(step.number);
    std::vector<MapInput>& inputs = routine_.map_inputs[number];
    std::vector<MapOutput>& outputs = routine_.map_outputs[number];
    const auto unread = [&](const MapOutput& output) {
      return output.place.space == Space::scratch && !is_read_[size_t(output.place.index)];
    };
    outputs.erase(std::remove_if(outputs.begin(), outputs.end(), unread), outputs.end());
    for (const MapOutput& output : outputs)
      if (output.mode == MapOutput::add) read(output.place);
    prune(inputs, routine_.map_operations[number], outputs);
    for (const MapInput& input : inputs) read(input.place);
    return !outputs.empty();
  }

  // Leaves the inputs and operations that the outputs need, and numbers their registers anew.
  static void prune(std::vector<MapInput>& inputs, std::vector<MapOperation>& operations,
                    std::vector<MapOutput>& outputs) {
    const size_t n_inputs = inputs.size(), registers = n_inputs + operations.size();
    std::vector<bool> is_needed(registers, false);
    for (const MapOutput& output : outputs) is_needed[size_t(output.from)] = true;
    for (size_t k = operations.size(); k-- > 0;)
      for (int32_t i = 0; is_needed[n_inputs + k] && i < operations[k].arity; ++i)
        is_needed[size_t(operations[k].from[i])] = true;
    std::vector<int32_t> now(registers, -1);
    int32_t left = 0;
    for (size_t r = 0; r < registers; ++r)
      if (is_needed[r]) now[r] = left++;
    size_t to = 0;
    for (size_t i = 0; i < n_inputs; ++i)
      if (is_needed[i]) inputs[to++] = inputs[i];
    inputs.resize(to), to = 0;
    for (size_t k = 0; k < operations.size(); ++k) {
      if (!is_needed[n_inputs + k]) continue;
      MapOperation operation = operations[k];
      for (int32_t i = 0; i < operation.arity; ++i)
        operation.from[i] = now[size_t(operation.from[i])];
      operations[to++] = operation;
    }
    operations.resize(to);
    for (MapOutput& output : outputs) output.from = now[size_t(output.from)];
  }

  Routine& routine_;
  std::vector<bool> is_read_;
};

void mark_used(const Routine& routine, const std::vector<RoutineStep>& steps,
               std::vector<bool>& is_used) {
  for (const RoutineStep& step : steps)
    each_place(routine, step, [&](const Place& place) {
      if (place.space == Space::scratch) is_used[size_t(place.index)] = true;
    });
}

}  // namespace

void shrink_arena(Routine& routine) {
  std::vector<bool> is_used(routine.scratch.size(), false);
  mark_used(routine, routine.body, is_used);
  mark_used(routine, routine.idle, is_used);
  int64_t used = 0;
  for (size_t i = 0; i < is_used.size(); ++i)
    if (is_used[i] && !routine.scratch[i].ring) used += routine.scratch[i].size;
  if (used >= routine.plan.arena) return;
  routine.plan.arena = used, used = 0;
  for (size_t i = 0; i < is_used.size(); ++i) {
    ScratchValue& value = routine.scratch[i];
    if (value.ring) continue;
    value.offset = is_used[i] ? used : 0;
    if (is_used[i]) used += value.size;
  }
}

void drop_unread(Routine& routine, std::vector<RoutineStep>& steps) { Pruner(routine).run(steps); }

}  // namespace ostinato
