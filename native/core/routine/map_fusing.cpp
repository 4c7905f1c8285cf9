// Joins operations of a MAP in pairs.
#include <cstring>

#include "routine/encoding.h"

namespace ostinato {
namespace {

struct Pair {
  int32_t first, second, operand;
};

int32_t number_of(const char* name) {
  size_t count = 0;
  const char* const* names = routine_operations(&count);
  size_t number = 0;
  while (std::strcmp(names[number], name) != 0) ++number;
  return int32_t(number);
}

const std::vector<Pair>& pairs() {
  static const std::vector<Pair> all = {
#define FUSED(first, second, operand) {number_of(#first), number_of(#second), operand},
#define FUSED_VALUE(first, second, operand) {number_of(#first), number_of(#second), operand},
#include "routine/fused.def"
#undef FUSED
#undef FUSED_VALUE
  };
  return all;
}

class Fuser {
 public:
  Fuser(size_t n_inputs, std::vector<MapOperation>& operations, std::vector<MapOutput>& outputs)
      : n_inputs_(n_inputs), operations_(operations), outputs_(outputs),
        uses_(n_inputs + operations.size(), 0), is_gone_(operations.size(), false) {}

  void run() {
    count_uses();
    for (MapOperation& operation : operations_) join(operation);
    renumber();
  }

 private:
  void count_uses() {
    for (const MapOperation& operation : operations_)
      for (int32_t i = 0; i < operation.arity; ++i) ++uses_[size_t(operation.from[i])];
    for (const MapOutput& output : outputs_) ++uses_[size_t(output.from)];
  }

  // Takes the one of its operands that can be joined with it into an operation.
  void join(MapOperation& second) {
    if (second.arity != 2 || second.from[0] == second.from[1]) return;
    for (int32_t i = 0; i < 2; ++i) {
      const size_t from = size_t(second.from[i]);
      if (from < n_inputs_ || uses_[from] != 1) continue;
      const MapOperation& first = operations_[from - n_inputs_];
      if (first.varies.lines != second.varies.lines || first.varies.columns != second.varies.columns)
        continue;  // the first is computed on fewer values
      const int32_t number = fused(first.number, second.number, i);
      if (number < 0) continue;
      const int32_t other = second.from[1 - i];
      second.number = number;
      second.arity = first.arity + 1;
      for (int32_t k = 0; k < first.arity; ++k) second.from[k] = first.from[k];
      second.from[first.arity] = other;
      is_gone_[from - n_inputs_] = true;
      return;
    }
  }

  static int32_t fused(int32_t first, int32_t second, int32_t operand) {
    static const int32_t subtraction = number_of("sub");
    size_t count = 0;
    routine_operations(&count);
    const int32_t wanted = second == subtraction ? operand : 0;
    for (size_t i = 0; i < pairs().size(); ++i)
      if (pairs()[i].first == first && pairs()[i].second == second && pairs()[i].operand == wanted)
        return int32_t(count + i);
    return -1;
  }

  void renumber() {
    std::vector<int32_t> now(uses_.size(), -1);
    std::vector<MapOperation> left;
    for (size_t i = 0; i < n_inputs_; ++i) now[i] = int32_t(i);
    for (size_t k = 0; k < operations_.size(); ++k) {
      if (is_gone_[k]) continue;
      now[n_inputs_ + k] = int32_t(n_inputs_ + left.size());
      left.push_back(operations_[k]);
      for (int32_t i = 0; i < left.back().arity; ++i)
        left.back().from[i] = now[size_t(left.back().from[i])];
    }
    for (MapOutput& output : outputs_) output.from = now[size_t(output.from)];
    operations_ = std::move(left);
  }

  const size_t n_inputs_;
  std::vector<MapOperation>& operations_;
  std::vector<MapOutput>& outputs_;
  std::vector<int32_t> uses_;
  std::vector<bool> is_gone_;
};

}  // namespace

void fuse_operations(size_t n_inputs, std::vector<MapOperation>& operations,
                     std::vector<MapOutput>& outputs) {
  Fuser(n_inputs, operations, outputs).run();
}

}  // namespace ostinato
