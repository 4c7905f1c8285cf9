// A program's weights: checked, given memory, packed.
#include <cstring>

#include "program_parts.h"
#include "spec.h"

namespace ostinato {
namespace {

int64_t gates_of(const StepOp& op) { return op.code == step_cell ? layout_of(op.kind).gates : 1; }

struct Queue {
  const Tensor* tensors;
  size_t count;
  Dtype dtype;
  size_t next = 0;

  const Tensor& look(const char* name) const {
    if (next == count) fail_program(std::string(name) + ": expected one more weight");
    return tensors[next];
  }

  const void* take(const char* name, const std::vector<int64_t>& shape) {
    const Tensor& tensor = look(name);
    ++next;
    bool same = tensor.dtype == dtype && size_t(tensor.rank) == shape.size();
    for (size_t i = 0; same && i < shape.size(); ++i) same = tensor.shape[i] == shape[i];
    const bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % dtype_size(dtype) == 0;
    if (!same || tensor.data == nullptr || !aligned)
      fail_program(std::string(name) + ": expected a weight of another shape or dtype");
    return tensor.data;
  }
};

std::vector<const void*> read_operands(const Routine& routine, Queue& queue) {
  std::vector<const void*> found(routine.operands.size(), nullptr);
  for (size_t i = 0; i < found.size(); ++i)
    if (routine.operands[i].kind == OperandKind::weight)
      found[i] = queue.take(routine.operand_shapes[i].name.c_str(), routine.operand_shapes[i].dims);
  return found;
}

StepWeights read_one(const Step& step, const std::vector<std::unique_ptr<Routine>>& routines,
                     Queue& queue) {
  const StepOp& op = step.op;
  const int64_t columns = gates_of(op) * op.width;
  StepWeights w;
  switch (op.code) {
    case step_embed: {
      const Tensor& table = queue.look("table");
      w.rows = table.rank == 2 ? table.shape[0] : 0;
      expect(within(w.rows, 1, kMostValues / op.width), "a table of at least one row", w.rows);
      w.kernel = queue.take("table", {w.rows, op.width});
      break;
    }
    case step_mask: w.number = queue.take("mask value", {1}); break;
    case step_cell:
      w.kernel = queue.take("kernel", {step.D, columns});
      w.recurrent = queue.take("recurrent kernel", {op.width, columns});
      if (op.has_bias && layout_of(op.kind).bias_rows == 2) w.bias = queue.take("bias", {2, columns});
      else if (op.has_bias) w.bias = queue.take("bias", {columns});
      break;
    case step_dense:
      w.kernel = queue.take("kernel", {step.D, columns});
      if (op.has_bias) w.bias = queue.take("bias", {columns});
      break;
    case step_routine: w.operands = read_operands(*routines[size_t(op.kind)], queue); break;
    case step_normalize: w.number = queue.take("epsilon", {1}); [[fallthrough]];
    case step_scale:
      w.kernel = queue.take("factor", {op.width});
      w.bias = queue.take("offset", {op.width});
      break;
    default: break;
  }
  return w;
}

}  // namespace

std::vector<StepWeights> ProgramWeights::read(const Program& program, const Tensor* tensors,
                                              size_t count) {
  Queue queue{tensors, count, program.dtype_};
  std::vector<StepWeights> all;
  for (const Step& step : program.steps_)
    all.push_back(read_one(step, program.routines_, queue));
  if (queue.next != count) fail_program("expected fewer weights");
  return all;
}

void ProgramWeights::make_room(Program& program, ProgramLayout& layout,
                               const std::vector<StepWeights>& all) {
  for (size_t i = 0; i < all.size(); ++i) {
    Step& step = program.steps_[i];
    const StepOp& op = step.op;
    if (op.code == step_either) continue;  // its width is nothing's
    const int64_t columns = gates_of(op) * padded(op.width);
    switch (op.code) {
      case step_embed:
        step.D = all[i].rows;
        step.kernel = layout.floats(step.D * op.width);
        if (step.D < program.inputs_[size_t(op.first)].vocabulary)
          program.inputs_[size_t(op.first)].vocabulary = step.D;
        break;
      case step_mask: step.bias = layout.floats(1); break;
      case step_cell:
        step.recurrent = layout.floats(columns * op.width);
        if (layout_of(op.kind).has_late())
          step.late = layout.floats(padded(op.width) * op.width);
        program.work_ += 2 * program.memory_.N * columns * op.width;
        [[fallthrough]];
      case step_dense:
        step.kernel = layout.floats(columns * step.D);
        step.bias = layout.floats(4 * padded(op.width));
        program.work_ += 2 * program.memory_.N * columns * step.D;
        break;
      case step_routine:
        program.work_ += int64_t(2 * double(program.memory_.N) *
                                 program.routines_[size_t(op.kind)]->plan.work);
        break;
      case step_normalize: step.late = layout.floats(1); [[fallthrough]];
      case step_scale:
        step.kernel = layout.floats(padded(op.width));
        step.bias = layout.floats(padded(op.width));
        break;
      default: break;
    }
  }
}

void ProgramWeights::pack(Program& program, const std::vector<StepWeights>& all) {
  const StepKernels& kernels = *program.kernels_;
  const size_t size = dtype_size(program.dtype_);
  for (size_t i = 0; i < all.size(); ++i) {
    const Step& step = program.steps_[i];
    const StepWeights& w = all[i];
    const size_t row = size_t(step.op.width) * size;
    switch (step.op.code) {
      case step_embed: std::memcpy(step.kernel, w.kernel, size_t(w.rows) * row); break;
      case step_mask: std::memcpy(step.bias, w.number, size); break;
      case step_cell:
      case step_dense: kernels.pack(step, w.kernel, w.recurrent, w.bias); break;
      case step_routine:
        kernels.set_routine_weights(step.routine, w.operands.data());
        break;
      case step_normalize: std::memcpy(step.late, w.number, size); [[fallthrough]];
      case step_scale:
        std::memcpy(step.kernel, w.kernel, row);
        std::memcpy(step.bias, w.bias, row);
        break;
      default: break;
    }
  }
}

}  // namespace ostinato
