// Decides how a MAP runs: which dimensions are one, which is the columns, and what the lines are.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "routine/encoding.h"

namespace ostinato {
namespace {

// Cycles for what isn't an operation: a reference's address or store, and an element that must be
// gathered, of a vector of kLanes.
constexpr double kReference = 1.5, kGathered = 1.5, kLanes = 16;
constexpr double kRows = 32;  // of a tile, about

// From one row to the next, where that's known before the call; kUnknown where it isn't.
constexpr int64_t kUnknown = -1;

// The operation that gives what it takes.
int32_t copying() {
  size_t count = 0;
  const char* const* names = routine_operations(&count);
  size_t number = 0;
  while (std::strcmp(names[number], "linear") != 0) ++number;
  return int32_t(number);
}

class MapPlanner {
 public:
  MapPlanner(const Routine& routine, std::vector<int64_t> dims, std::vector<MapInput>& inputs,
             std::vector<MapOperation>& operations, std::vector<MapOutput>& outputs)
      : routine_(routine), dims_(std::move(dims)), inputs_(inputs), operations_(operations),
        outputs_(outputs) {}

  void plan(MapStep& step) {
    keep_inputs();
    merge_dims();
    choose_columns();
    step.loop = choose_loop();
    step.columns = dims_.empty() ? 1 : dims_.back();
    step.outer_count = int32_t(dims_.empty() ? 0 : dims_.size() - 1);
    std::copy_n(dims_.begin(), step.outer_count, step.outer);
    split_strides(step);
    find_shapes();
    fuse_operations(inputs_.size(), operations_, outputs_);
    step.slots = order_map(routine_, inputs_, operations_, outputs_);
    step.inputs = inputs_.data(), step.n_inputs = int32_t(inputs_.size());
    step.operations = operations_.data(), step.n_operations = int32_t(operations_.size());
    step.outputs = outputs_.data(), step.n_outputs = int32_t(outputs_.size());
  }

 private:
  // An input that is itself an output is read where it lies: it's copied first where another output may
  // have written there before.
  void keep_inputs() {
    for (MapOutput& output : outputs_) {
      if (size_t(output.from) >= inputs_.size()) continue;
      const Place& from = inputs_[size_t(output.from)].place;
      const auto writes_there = [&](const MapOutput& other) {
        return &other != &output && may_share(routine_, from, other.place);
      };
      if (std::none_of(outputs_.begin(), outputs_.end(), writes_there)) continue;
      MapOperation copy{};
      copy.number = copying();
      copy.arity = 1;
      copy.from[0] = output.from, copy.from[1] = copy.from[2] = -1;
      output.from = int32_t(inputs_.size() + operations_.size());
      operations_.push_back(copy);
    }
  }

  // f(place, strides) for all references; whether all say yes.
  template <class F>
  bool all(F f) {
    for (MapInput& input : inputs_)
      if (!f(input.place, input.outer)) return false;
    for (MapOutput& output : outputs_)
      if (!f(output.place, output.outer)) return false;
    return true;
  }

  void remove_dim(size_t dim) {
    dims_.erase(dims_.begin() + std::ptrdiff_t(dim));
    all([&](const Place&, int64_t* strides) {
      std::copy(strides + dim + 1, strides + kMostDims, strides + dim);
      strides[kMostDims - 1] = 0;
      return true;
    });
  }

  // Neighbours that all references pass over as over one, and what has one element.
  void merge_dims() {
    for (size_t dim = dims_.size(); dim-- > 0;)
      if (dims_[dim] == 1) remove_dim(dim);
    for (size_t dim = dims_.size(); dim-- > 1;) {
      const int64_t size = dims_[dim];
      const bool merges = size > 0 && all([&](const Place&, const int64_t* strides) {
        int64_t span = 0;
        return !__builtin_mul_overflow(strides[dim], size, &span) && strides[dim - 1] == span;
      });
      if (!merges) continue;
      all([&](const Place&, int64_t* strides) {
        strides[dim - 1] = strides[dim];
        return true;
      });
      dims_[dim - 1] *= size;
      remove_dim(dim);
    }
  }

  double operations_cost() const {
    double cost = 0;
    for (const MapOperation& operation : operations_) cost += operation_cost(operation.number);
    return cost + kReference * double(inputs_.size() + outputs_.size());
  }

  // Cycles of an element, with columns of this size, whose strides f(place, strides) tells.
  template <class F>
  double cost(int64_t size, F stride_of) {
    const double lanes = double((size + int64_t(kLanes) - 1) / int64_t(kLanes)) * kLanes;
    double gathered = 0;
    all([&](const Place& place, const int64_t* strides) {
      const int64_t stride = stride_of(place, strides);
      if (stride != 0 && stride != 1) gathered += kGathered;
      return true;
    });
    return operations_cost() / kLanes * (lanes / double(std::max<int64_t>(size, 1))) + gathered;
  }

  double cost_of_dim(size_t dim) {
    return cost(dims_[dim], [&](const Place&, const int64_t* strides) { return strides[dim]; });
  }

  // Puts the dimension that is the best for columns last.
  void choose_columns() {
    if (dims_.size() < 2) return;
    size_t best = dims_.size() - 1;
    for (size_t dim = best; dim-- > 0;)
      if (cost_of_dim(dim) < 0.9 * cost_of_dim(best)) best = dim;
    std::rotate(dims_.begin() + std::ptrdiff_t(best), dims_.begin() + std::ptrdiff_t(best) + 1,
                dims_.end());
    const size_t count = dims_.size();
    all([&](const Place&, int64_t* strides) {
      std::rotate(strides + best, strides + best + 1, strides + count);
      return true;
    });
  }

  bool has_row(const Place& place) const {
    if (place.space == Space::literal) return false;
    if (place.space == Space::operand)
      return routine_.operands[size_t(place.index)].kind != OperandKind::weight;
    if (place.space == Space::result)
      return routine_.results[size_t(place.index)].kind != ResultKind::weight;
    return true;
  }

  int64_t row_stride(const Place& place) const {
    if (!has_row(place)) return 0;
    const size_t index = size_t(place.index);
    switch (place.space) {
      case Space::operand: {
        const RoutineOperand& operand = routine_.operands[index];
        if (operand.kind == OperandKind::mask) return 1;
        return operand.kind == OperandKind::rows ? operand.size : kUnknown;
      }
      case Space::result: {
        const RoutineResult& result = routine_.results[index];
        return result.kind == ResultKind::rows ? result.size : kUnknown;
      }
      case Space::scratch: return routine_.scratch[index].size;
      case Space::saved:
      case Space::saved_next: return routine_.saved[index].size;
      default: return routine_.carries[index].size;
    }
  }

  MapLoop choose_loop() {
    const int64_t columns = dims_.empty() ? 1 : dims_.back();
    const size_t last = dims_.empty() ? 0 : dims_.size() - 1;
    const bool is_dense = dims_.size() <= 1 && all([&](const Place& place, const int64_t* strides) {
      const int64_t row = row_stride(place), stride = dims_.empty() ? 0 : strides[0];
      if (row == 0 && stride == 0) return true;
      return row == columns && (columns == 1 || stride == 1);
    });
    if (is_dense && columns > 0) return MapLoop::one_line;
    const double by_columns = dims_.empty() ? cost(1, [](const Place&, const int64_t*) { return 0; })
                                            : cost_of_dim(last);
    const double by_rows = cost(int64_t(kRows), [&](const Place& place, const int64_t*) {
      return row_stride(place);
    });
    return by_rows < 0.8 * by_columns ? MapLoop::columns_by_rows : MapLoop::rows_by_columns;
  }

  Varies varies(const Place& place, int64_t stride, MapLoop loop) const {
    const bool row = has_row(place);
    if (loop == MapLoop::one_line) return {false, row};
    if (loop == MapLoop::columns_by_rows) return {stride != 0, row};
    return {row, stride != 0};
  }

  // The arena, carries and registers have room for a vector beyond their end.
  bool has_spare(const Place& place) const {
    if (place.space == Space::scratch) return true;
    const bool is_carry = place.space == Space::carry || place.space == Space::next;
    return is_carry && routine_.carries[size_t(place.index)].kept < 0;
  }

  void split_strides(const MapStep& step) {
    const int32_t outer = step.outer_count;
    const auto take_last = [&](int64_t* strides) {
      const int64_t stride = dims_.empty() ? 0 : strides[outer];
      if (!dims_.empty()) strides[outer] = 0;
      return stride;
    };
    for (MapInput& input : inputs_) {
      input.stride = take_last(input.outer);
      if (step.loop == MapLoop::one_line) input.stride = has_row(input.place) ? 1 : 0;
      input.varies = varies(input.place, input.stride, step.loop);
      input.has_spare = has_spare(input.place);
    }
    for (MapOutput& output : outputs_) {
      output.stride = take_last(output.outer);
      if (step.loop == MapLoop::one_line) output.stride = has_row(output.place) ? 1 : 0;
      output.visits_once = visits_once(output);
    }
  }

  // Whether each place is visited once, but for sums over lines or columns.
  bool visits_once(const MapOutput& output) const {
    std::vector<std::pair<int64_t, int64_t>> axes;  // stride, size
    for (size_t dim = 0; dim < dims_.size(); ++dim) {
      const bool is_last = dim + 1 == dims_.size();
      const int64_t stride = std::llabs(is_last ? output.stride : output.outer[dim]);
      if (stride == 0 && !is_last) return false;  // dims of one element are gone
      if (stride != 0) axes.push_back({stride, dims_[dim]});
    }
    std::sort(axes.begin(), axes.end());
    int64_t reached = 0;
    for (const auto& [stride, size] : axes) {
      if (stride <= reached) return false;
      reached += stride * (size - 1);
    }
    return true;
  }

  void find_shapes() {
    for (MapOperation& operation : operations_) {
      operation.varies = {false, false};
      for (int32_t i = 0; i < operation.arity; ++i) {
        const size_t from = size_t(operation.from[i]);
        const Varies& of = from < inputs_.size() ? inputs_[from].varies
                                                 : operations_[from - inputs_.size()].varies;
        operation.varies.lines |= of.lines, operation.varies.columns |= of.columns;
      }
    }
  }

  const Routine& routine_;
  std::vector<int64_t> dims_;
  std::vector<MapInput>& inputs_;
  std::vector<MapOperation>& operations_;
  std::vector<MapOutput>& outputs_;
};

}  // namespace

void plan_map(Routine& routine, MapStep& step) {
  const size_t number = size_t(step.number);
  MapPlanner(routine, routine.map_dims[number], routine.map_inputs[number],
             routine.map_operations[number], routine.map_outputs[number])
      .plan(step);
}

}  // namespace ostinato
