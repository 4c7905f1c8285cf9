// A program's weights: checked, given memory, packed.
#include <cstring>
#include <new>

#include "program_parts.h"
#include "spec.h"

namespace ostinato {
namespace {

int64_t gates_of(const StepOp& op) { return is_cell(op) ? layout_of(op.kind).gates : 1; }

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
    return take(name, shape, dtype);
  }

  const void* take(const char* name, const std::vector<int64_t>& shape, Dtype dtype) {
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

std::vector<int64_t> bias_of(const StepOp& op, int64_t columns) {
  if (is_cell(op) && layout_of(op.kind).bias_rows == 2) return {2, columns};
  return {columns};
}

StepWeights read_one(const Step& step, const Routines& routines, Queue& queue) {
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
      if (op.has_bias) w.bias = queue.take("bias", bias_of(op, columns));
      break;
    case step_dense:
      w.kernel = queue.take("kernel", {step.D, columns});
      if (op.has_bias) w.bias = queue.take("bias", {columns});
      break;
    case step_int8_cell:
    case step_int8_dense:
      w.kernel = queue.take("kernel", {step.D, columns}, Dtype::i8);
      w.kernel_scales = queue.take("kernel's scales", {columns});
      if (is_cell(op)) {
        w.recurrent = queue.take("recurrent kernel", {op.width, columns}, Dtype::i8);
        w.recurrent_scales = queue.take("recurrent kernel's scales", {columns});
      }
      if (op.has_bias) w.bias = queue.take("bias", bias_of(op, columns));
      break;
    case step_routine: w.operands = read_operands(*routines[size_t(op.kind)], queue); break;
    case step_window:
      if (op.kind == window_weighted) w.kernel = queue.take("kernel", {op.taps, op.width});
      break;
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

std::vector<StepWeights> ProgramWeights::read(const ProgramModel& model, const Tensor* tensors,
                                              size_t count) {
  Queue queue{tensors, count, model.dtype};
  std::vector<StepWeights> all;
  for (const Step& step : model.steps)
    all.push_back(read_one(step, *model.routines, queue));
  if (queue.next != count) fail_program("expected fewer weights");
  return all;
}

namespace {

Int8Kernel int8_of(const void* values, const void* scales) {
  return {static_cast<const int8_t*>(values), static_cast<const float*>(scales)};
}

struct Room {
  ProgramModel& model;

  void* floats(int64_t elements) const {
    if (elements > kMostValues) fail_program("expected sizes that fit in memory");
    return model.blocks.take(elements * int64_t(dtype_size(model.dtype)));
  }
};

// A kernel of int8 with its scales and starts: int8.h.
void* int8_kernel(const Room& layout, int64_t depth, int64_t columns, float*& scales, int32_t*& starts) {
  scales = static_cast<float*>(layout.floats(columns));
  starts = static_cast<int32_t*>(layout.model.blocks.take(columns * int64_t(sizeof(int32_t))));
  return layout.model.blocks.take((depth + 3) / 4 * 4 * columns);
}

void make_int8_room(const Room& layout, Step& step, int64_t columns) {
  StepInt8& int8 = step.int8;
  const int64_t U = step.op.width;
  step.kernel = int8_kernel(layout, step.D, columns, int8.kernel_scales, int8.kernel_starts);
  step.bias = layout.floats(4 * padded(U));
  if (!is_cell(step.op)) return;
  step.recurrent = int8_kernel(layout, U, columns, int8.recurrent_scales, int8.recurrent_starts);
  if (layout_of(step.op.kind).has_late())
    step.late = int8_kernel(layout, U, padded(U), int8.late_scales, int8.late_starts);
}

}  // namespace

void ProgramWeights::make_room(ProgramModel& model, const std::vector<StepWeights>& all) {
  const Room layout{model};
  for (size_t i = 0; i < all.size(); ++i) {
    Step& step = model.steps[i];
    const StepOp& op = step.op;
    if (op.code == step_either) continue;  // its width is nothing's
    const int64_t columns = gates_of(op) * padded(op.width);
    switch (op.code) {
      case step_int8_cell:
      case step_int8_dense:
        make_int8_room(layout, step, columns);
        model.work += 2 * columns * (step.D + (is_cell(op) ? op.width : 0));
        break;
      case step_embed:
        step.D = all[i].rows;
        step.kernel = layout.floats(step.D * op.width);
        if (step.D < model.inputs[size_t(op.first)].vocabulary)
          model.inputs[size_t(op.first)].vocabulary = step.D;
        break;
      case step_mask: step.bias = layout.floats(1); break;
      case step_cell:
        step.recurrent = layout.floats(columns * op.width);
        if (layout_of(op.kind).has_late())
          step.late = layout.floats(padded(op.width) * op.width);
        model.work += 2 * columns * op.width;
        [[fallthrough]];
      case step_dense:
        step.kernel = layout.floats(columns * step.D);
        step.bias = layout.floats(4 * padded(op.width));
        model.work += 2 * columns * step.D;
        break;
      case step_routine:
        step.routine = model.kernels->make_routine((*model.routines)[size_t(op.kind)]->plan, 1, 1, true);
        if (step.routine == nullptr) throw std::bad_alloc();
        model.routine_weights.emplace_back(step.routine, DropRoutine{model.kernels});
        model.work += int64_t(2 * (*model.routines)[size_t(op.kind)]->plan.work);
        break;
      case step_window:
        if (op.kind == window_weighted) step.kernel = layout.floats(op.taps * op.width);
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

void ProgramWeights::pack(ProgramModel& model, const std::vector<StepWeights>& all) {
  const StepKernels& kernels = *model.kernels;
  const size_t size = dtype_size(model.dtype);
  for (size_t i = 0; i < all.size(); ++i) {
    const Step& step = model.steps[i];
    const StepWeights& w = all[i];
    const size_t row = size_t(step.op.width) * size;
    switch (step.op.code) {
      case step_embed: std::memcpy(step.kernel, w.kernel, size_t(w.rows) * row); break;
      case step_mask: std::memcpy(step.bias, w.number, size); break;
      case step_cell:
      case step_dense: kernels.pack(step, w.kernel, w.recurrent, w.bias); break;
      case step_int8_cell:
      case step_int8_dense:
        kernels.pack_int8(step, int8_of(w.kernel, w.kernel_scales),
                          int8_of(w.recurrent, w.recurrent_scales), w.bias);
        break;
      case step_routine:
        kernels.set_routine_weights(step.routine, w.operands.data());
        break;
      case step_window:
        if (w.kernel != nullptr) std::memcpy(step.kernel, w.kernel, size_t(step.op.taps) * row);
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
