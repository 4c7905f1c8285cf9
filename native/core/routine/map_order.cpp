// Decides in which order a MAP does what it does with a chunk, and where its values lie meanwhile. An output
// is put where it goes as soon as may be: its slot is free for other values then, and a chunk, whose slots
// stay in L1, can be the longer.
#include <algorithm>

#include "routine/encoding.h"

namespace ostinato {
namespace {

class MapOrder {
 public:
  MapOrder(const Routine& routine, const std::vector<MapInput>& inputs,
           std::vector<MapOperation>& operations, std::vector<MapOutput>& outputs)
      : routine_(routine), inputs_(inputs), operations_(operations), outputs_(outputs) {}

  int32_t decide() {
    for (MapOutput& output : outputs_) output.after = earliest(output);
    std::stable_sort(outputs_.begin(), outputs_.end(), [](const MapOutput& a, const MapOutput& b) {
      return a.after < b.after;
    });
    find_last_uses();
    return assign_slots();
  }

 private:
  // After the value is known, and after all have read what is written over.
  int32_t earliest(const MapOutput& output) const {
    const int32_t n_inputs = int32_t(inputs_.size());
    int32_t after = output.from < n_inputs ? 0 : output.from - n_inputs + 1;
    for (int32_t k = after; k < int32_t(operations_.size()); ++k)
      for (int32_t i = 0; i < operations_[size_t(k)].arity; ++i) {
        const int32_t from = operations_[size_t(k)].from[i];
        if (from < n_inputs && may_share(routine_, inputs_[size_t(from)].place, output.place)) after = k + 1;
      }
    return after;
  }

  // As moments: operation k is at 2 k + 1, an output after k operations at 2 k.
  void find_last_uses() {
    last_use_.assign(inputs_.size() + operations_.size(), 0);
    for (size_t k = 0; k < operations_.size(); ++k) {
      last_use_[inputs_.size() + k] = 2 * int32_t(k) + 1;
      for (int32_t i = 0; i < operations_[k].arity; ++i)
        last_use_[size_t(operations_[k].from[i])] = 2 * int32_t(k) + 1;
    }
    for (const MapOutput& output : outputs_) {
      int32_t& last = last_use_[size_t(output.from)];
      last = std::max(last, 2 * output.after);
    }
  }

  int32_t assign_slots() {
    std::vector<int32_t> busy_until;  // of each slot
    for (size_t k = 0; k < operations_.size(); ++k) {
      const int32_t now = 2 * int32_t(k) + 1;
      const auto is_free = [&](int32_t until) { return until < now; };
      auto slot = std::find_if(busy_until.begin(), busy_until.end(), is_free);
      if (slot == busy_until.end()) slot = busy_until.insert(slot, 0);
      *slot = last_use_[inputs_.size() + k];
      operations_[k].slot = int32_t(slot - busy_until.begin());
    }
    return int32_t(busy_until.size());
  }

  const Routine& routine_;
  const std::vector<MapInput>& inputs_;
  std::vector<MapOperation>& operations_;
  std::vector<MapOutput>& outputs_;
  std::vector<int32_t> last_use_;  // of each register
};

}  // namespace

bool may_share(const Routine& routine, const Place& a, const Place& b) {
  if (a.space == Space::scratch && b.space == Space::scratch) {
    const ScratchValue &one = routine.scratch[size_t(a.index)],
                       &two = routine.scratch[size_t(b.index)];
    return one.ring == two.ring && one.offset < two.offset + two.size &&
           two.offset < one.offset + one.size;
  }
  const auto is_carried = [](const Place& place) {  // carries may live in saved values
    return place.space == Space::carry || place.space == Space::next ||
           place.space == Space::saved || place.space == Space::saved_next;
  };
  return (is_carried(a) && is_carried(b)) || (a.space == b.space && a.index == b.index);
}

int32_t order_map(const Routine& routine, const std::vector<MapInput>& inputs,
                  std::vector<MapOperation>& operations, std::vector<MapOutput>& outputs) {
  return MapOrder(routine, inputs, operations, outputs).decide();
}

}  // namespace ostinato
