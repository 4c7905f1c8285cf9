// Reads a routine's tables, and in their terms its instructions.
#include <algorithm>

#include "routine/encoding.h"
#include "spec.h"

namespace ostinato {
namespace {

constexpr int64_t kMostRank = 6;  // of dims: with B and T no more than a call's tensors have

std::vector<int64_t> read_dims(Numbers& numbers) {
  const int64_t rank = numbers.next("rank", 0, kMostRank);
  std::vector<int64_t> dims;
  for (int64_t i = 0; i < rank; ++i) dims.push_back(numbers.next("dims", 0, kMostOfAWeight));
  return dims;
}

int64_t product_of(const std::vector<int64_t>& dims, int64_t most) {
  int64_t size = 1;
  for (int64_t dim : dims)
    if (__builtin_mul_overflow(size, dim, &size) || size > most)
      refuse("dims: expected at most " + std::to_string(most) + " elements");
  return size;
}

class TableReader {
 public:
  TableReader(Numbers& numbers, Routine& routine) : in_(numbers), routine_(routine) {}

  void read() {
    in_.next("version", kVersion, kVersion);
    routine_.plan.reverse = in_.flag("reverse");
    routine_.plan.mask = routine_.plan.saved_tensor = -1;
    each("n_operands", "operand", 3, &TableReader::read_operand);
    each("n_results", "result", 4, &TableReader::read_result);
    each("n_carries", "carry", 3, &TableReader::read_carry);
    each("n_saved", "saved value", 2, &TableReader::read_saved);
    each("n_scratch", "scratch", 3, &TableReader::read_scratch);
    routine_.plan.arena = in_.next("arena", 0, kMostOfARow);
    check_together();
  }

 private:
  void each(const char* count, const char* one, size_t numbers, void (TableReader::*read)(size_t)) {
    const size_t n = in_.count(count, numbers);
    for (size_t i = 0; i < n; ++i) within(one, i, [&] { (this->*read)(i); });
  }

  void read_operand(size_t number) {
    RoutineOperand operand{};
    operand.kind = OperandKind(in_.next("kind", 0, 5));
    const bool takes_order = operand.kind == OperandKind::sequence ||
                             operand.kind == OperandKind::output ||
                             operand.kind == OperandKind::mask;
    operand.in_output_order = in_.next("order", 0, takes_order ? 1 : 0) != 0;
    std::vector<int64_t> dims = read_dims(in_);
    const bool is_weight = operand.kind == OperandKind::weight;
    operand.size = product_of(dims, is_weight ? kMostOfAWeight : kMostOfARow);
    if (operand.kind == OperandKind::mask) hold(routine_.plan.mask, number, dims);
    if (operand.kind == OperandKind::saved) hold(routine_.plan.saved_tensor, number, dims);
    routine_.operands.push_back(operand);
    routine_.operand_shapes.push_back({"operand " + std::to_string(number), std::move(dims)});
  }

  void read_result(size_t number) {
    RoutineResult result{};
    result.kind = ResultKind(in_.next("kind", 0, 5));
    const bool takes_order =
        result.kind == ResultKind::sequence || result.kind == ResultKind::output;
    result.in_output_order = in_.next("order", 0, takes_order ? 1 : 0) != 0;
    result.which = in_.next("which");
    std::vector<int64_t> dims = read_dims(in_);
    const bool is_weight = result.kind == ResultKind::weight;
    result.size = product_of(dims, is_weight ? kMostOfAWeight : kMostOfARow);
    if (result.kind == ResultKind::saved) {
      hold(routine_.plan.saved_tensor, number, dims);
      routine_.plan.keeps = true;
    }
    routine_.results.push_back(result);
    routine_.result_shapes.push_back({"result " + std::to_string(number), std::move(dims)});
  }

  // The only one of its kind.
  void hold(int32_t& place, size_t number, const std::vector<int64_t>& dims) {
    if (place >= 0) refuse("kind: expected one MASK and one SAVED at most, got a second");
    if (!dims.empty()) refuse("rank: expected 0 of a MASK or SAVED, got " + std::to_string(dims.size()));
    place = int32_t(number);
  }

  void read_carry(size_t) {
    CarryValue carry{};
    carry.size = in_.next("size", 0, kMostOfARow);
    carry.operand = in_.next("initial operand", 0, int64_t(routine_.operands.size()) - 1);
    carry.kept = in_.next("kept", -1, int64_t(in_.left()));
    const RoutineOperand& operand = routine_.operands[size_t(carry.operand)];
    if (operand.kind != OperandKind::rows || operand.size != carry.size)
      refuse("initial operand: expected a ROWS of " + std::to_string(carry.size) +
             " elements, got operand " + std::to_string(carry.operand));
    routine_.carries.push_back(carry);
  }

  void read_saved(size_t) {
    SavedValue value{};
    value.size = in_.next("size", 0, kMostOfARow);
    value.before = routine_.plan.saved_size;
    routine_.plan.saved_size += value.size;
    if (routine_.plan.saved_size > kMostOfARow)
      refuse("size: expected at most " + std::to_string(kMostOfARow) + " elements in all");
    routine_.saved_last.push_back(in_.flag("steps"));
    routine_.saved.push_back(value);
  }

  void read_scratch(size_t) {
    ScratchValue value{};
    value.size = in_.next("size", 0, kMostOfARow);
    value.offset = in_.next("offset", 0, kMostOfARow);
    value.ring = in_.flag("ring");
    if (value.ring) {
      value.offset = routine_.plan.ring;
      routine_.plan.ring += value.size;
      if (routine_.plan.ring > kMostOfARow)
        refuse("size: expected at most " + std::to_string(kMostOfARow) + " elements in all rings");
    }
    routine_.scratch.push_back(value);
  }

  // What one table says of another.
  void check_together() const {
    const RoutinePlan& plan = routine_.plan;
    for (size_t i = 0; i < routine_.scratch.size(); ++i) {
      const ScratchValue& value = routine_.scratch[i];
      if (!value.ring && value.offset + value.size > plan.arena)
        within("scratch", i, [&] {
          refuse("offset: expected " + std::to_string(value.size) + " elements within an arena of " +
                 std::to_string(plan.arena) + ", got offset " + std::to_string(value.offset));
        });
    }
    if (!routine_.saved.empty() && plan.saved_tensor < 0)
      refuse("n_saved: expected an operand or result SAVED, got none");
    for (size_t i = 0; i < routine_.results.size(); ++i)
      within("result", i, [&] { check_which(routine_.results[i]); });
    for (size_t i = 0; i < routine_.carries.size(); ++i)
      within("carry", i, [&] { check_kept(i); });
    const auto has_steps = [](const RoutineOperand& operand) {
      return operand.kind == OperandKind::sequence || operand.kind == OperandKind::mask ||
             operand.kind == OperandKind::saved;
    };
    if (!std::any_of(routine_.operands.begin(), routine_.operands.end(), has_steps))
      refuse("n_operands: expected a SEQUENCE, a MASK or a SAVED, which say how many timesteps "
             "there are, got none");
  }

  void check_which(const RoutineResult& result) const {
    if (result.kind != ResultKind::carry) return;
    const int64_t count = int64_t(routine_.carries.size());
    if (result.which < 0 || result.which >= count)
      refuse("which: expected a carry, 0 to " + std::to_string(count - 1) + ", got " +
             std::to_string(result.which));
    const int64_t size = routine_.carries[size_t(result.which)].size;
    if (result.size != size)
      refuse("dims: expected " + std::to_string(size) + " elements, as the carry has, got " +
             std::to_string(result.size));
  }

  void check_kept(size_t number) const {
    const CarryValue& carry = routine_.carries[number];
    if (carry.kept < 0) return;
    const size_t kept = size_t(carry.kept);
    if (kept >= routine_.saved.size() || routine_.saved[kept].size != carry.size ||
        !routine_.saved_last[kept])
      refuse("kept: expected a saved value of " + std::to_string(carry.size) +
             " elements and T+1 steps, got " + std::to_string(carry.kept));
    if (!routine_.plan.keeps || routine_.plan.reverse)
      refuse("kept: expected a routine that isn't reverse and has a result SAVED");
    for (size_t other = 0; other < number; ++other)
      if (routine_.carries[other].kept == carry.kept)
        refuse("kept: expected a saved value of its own, got that of carry " + std::to_string(other));
  }

  Numbers& in_;
  Routine& routine_;
};

// What a thread's memory must have room for.
void measure(const std::vector<RoutineStep>& steps, RoutinePlan& plan) {
  double work = 0;
  for (const RoutineStep& step : steps) {
    if (step.code == RoutineStep::product) {
      const ProductStep& p = step.product_step;
      work += double(p.places) * double(p.depth) * double(p.columns);
    } else if (step.code == RoutineStep::outer) {
      const OuterStep& p = step.outer_step;
      work += double(p.places) * double(p.depth) * double(p.columns);
      plan.most_places = std::max(plan.most_places, p.places);
    } else {
      const MapStep& m = step.map_step;
      double elements = double(m.columns), cost = 0;
      for (int32_t i = 0; i < m.outer_count; ++i) elements *= double(m.outer[i]);
      for (int32_t i = 0; i < m.n_operations; ++i) cost += operation_cost(m.operations[i].number);
      work += elements * (cost + m.n_inputs + m.n_outputs);
      plan.most_slots = std::max(plan.most_slots, int64_t(m.slots) + m.n_inputs);
      plan.most_inputs = std::max(plan.most_inputs, int64_t(m.n_inputs));
      const int64_t references = int64_t(m.n_inputs) + m.n_operations + m.n_outputs;
      plan.most_references = std::max(plan.most_references, references);
    }
  }
  plan.work = std::max(plan.work, work);
}

// The lists won't change any more: the plan may point to them.
void point(Routine& routine) {
  RoutinePlan& plan = routine.plan;
  plan.operands = routine.operands.data(), plan.n_operands = int32_t(routine.operands.size());
  plan.results = routine.results.data(), plan.n_results = int32_t(routine.results.size());
  plan.carries = routine.carries.data(), plan.n_carries = int32_t(routine.carries.size());
  plan.saved = routine.saved.data(), plan.n_saved = int32_t(routine.saved.size());
  plan.scratch = routine.scratch.data(), plan.n_scratch = int32_t(routine.scratch.size());
  plan.packed = routine.packed.data(), plan.n_packed = int32_t(routine.packed.size());
  plan.body = {routine.body.data(), int32_t(routine.body.size())};
  plan.idle = {routine.idle.data(), int32_t(routine.idle.size())};
}

}  // namespace

std::unique_ptr<Routine> read_routine(const int64_t* ints, size_t n_ints, const double* floats,
                                      size_t n_floats) {
  auto routine = std::make_unique<Routine>();
  Numbers numbers(ints, n_ints);
  TableReader(numbers, *routine).read();
  InstructionReader reader(*routine, floats, n_floats);
  const auto list = [&](const char* name, std::vector<RoutineStep>& steps) {
    try {
      reader.read(numbers, steps);
    } catch (const Refusal& refusal) {
      refuse(std::string(name) + ", " + refusal.what);
    }
    drop_unread(*routine, steps);
    for (RoutineStep& step : steps)
      if (step.code == RoutineStep::map) plan_map(*routine, step.map_step);
    measure(steps, routine->plan);
  };
  list("body", routine->body);
  list("idle", routine->idle);
  if (numbers.left() != 0)
    refuse("expected the end after the idle list, got " + std::to_string(numbers.left()) +
           " numbers more");
  if (!routine->idle.empty() && routine->plan.mask < 0)
    refuse("idle: expected a MASK among the operands, got none");
  hoist_products(*routine);
  shrink_arena(*routine);
  point(*routine);
  return routine;
}

}  // namespace ostinato
