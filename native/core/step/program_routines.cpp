// The routines in a program's spec: read, checked, and given memory for their streams.
#include <cstring>
#include <new>

#include "program_parts.h"
#include "signature.h"
#include "spec.h"
#include "threads.h"

namespace ostinato {
namespace {

// How many operands or results there are of a kind, and the last one's size.
template <class Kind, class All>
int64_t count_of(const All& all, Kind kind, int64_t* size) {
  int64_t count = 0;
  for (const auto& one : all)
    if (one.kind == kind) *size = one.size, ++count;
  return count;
}

void expect_of_routine(bool holds, const char* what, int64_t number) {
  if (!holds) fail_program("routine " + std::to_string(number) + ": expected " + what);
}

// Whether a routine is one of a stream's: it reads a value, perhaps a mask and weights, and makes a
// value and its carries.
void check_routine(const Routine& routine, const StepOp& op, int64_t D) {
  const RoutinePlan& plan = routine.plan;
  int64_t read = 0, made = 0, other = 0;
  const bool reads_one = count_of(routine.operands, OperandKind::sequence, &read) == 1;
  expect_of_routine(reads_one && read == D, "one SEQUENCE, as wide as the value read", op.kind);
  const bool makes_one = count_of(routine.results, ResultKind::output, &made) == 1;
  expect_of_routine(makes_one && made == op.width, "one OUTPUT, as wide as the value", op.kind);
  expect_of_routine((plan.mask >= 0) == (op.mask_in >= 0), "a MASK where its step has one", op.kind);
  const int64_t others = count_of(routine.operands, OperandKind::output, &other) +
                         count_of(routine.operands, OperandKind::saved, &other) +
                         count_of(routine.results, ResultKind::sequence, &other) +
                         count_of(routine.results, ResultKind::rows, &other) +
                         count_of(routine.results, ResultKind::weight, &other) +
                         count_of(routine.results, ResultKind::saved, &other);
  expect_of_routine(others == 0 && !plan.reverse && plan.ring == 0, "a pass for inference", op.kind);
  bool fits = plan.arena <= kMostWidth;
  for (const CarryValue& carry : routine.carries) fits = fits && carry.size <= kMostWidth;
  for (const RoutineOperand& operand : routine.operands)
    fits = fits && (operand.kind == OperandKind::weight || operand.size <= kMostWidth);
  expect_of_routine(fits, "sizes that fit in memory", op.kind);
}

}  // namespace

void ProgramLayout::read_routines() {
  const int64_t count = integer();
  expect(within(count, 0, kMostSteps), "at most 65536 routines", count);
  for (int64_t i = 0; i < count; ++i) {
    const auto part = [&] {
      const int64_t size = integer();
      expect(within(size, 0, int64_t(spec_.size() - next_)), "as many numbers as there are", size);
      const int64_t* begin = spec_.data() + next_;
      next_ += size_t(size);
      return std::vector<int64_t>(begin, begin + size);
    };
    const std::vector<int64_t> ints = part(), bits = part();
    std::vector<double> floats(bits.size());
    if (!bits.empty()) std::memcpy(floats.data(), bits.data(), bits.size() * sizeof(double));
    try {
      if (is_draft_)
        model_.routines->push_back(
            read_routine(ints.data(), ints.size(), floats.data(), floats.size()));
    } catch (const Refusal& refusal) {
      fail_program("routine " + std::to_string(i) + ": " + refusal.what);
    }
  }
}

void ProgramLayout::make_routine(Step& step) {
  const StepOp& op = step.op;
  expect(within(op.kind, 0, int64_t(model_.routines->size()) - 1), "the number of a routine",
         op.kind);
  const Routine& routine = *(*model_.routines)[size_t(op.kind)];
  check_routine(routine, op, step.D);
  if (op.mask_in >= 0) step.mask_in = mask(op.mask_in);
  for (const CarryValue& carry : routine.carries) add_state(carry.size);
  if (is_draft_) return;
  const int64_t threads = tile_.memory.alone ? 1 : thread_count();
  tile_.plans = model_.routines;
  step.routine = model_.kernels->make_routine(routine.plan, rows(), threads, false);
  if (step.routine == nullptr) throw std::bad_alloc();
  tile_.routines.emplace_back(step.routine, DropRoutine{model_.kernels});
}

}  // namespace ostinato
