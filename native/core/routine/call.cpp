// A call of a routine: its tensors checked against the routine's tables, and run.
#include <atomic>
#include <cstring>
#include <new>

#include "kernels.h"
#include "routine/routine.h"
#include "spec.h"
#include "threads.h"

namespace ostinato {
namespace {

// Some 2 us, at 10 a ns: a barrier takes 0.2.
std::atomic<double> least_shared{2.5e4};

struct RoutineCallSizes {
  int64_t B = -1, T = -1;
  bool return_sequences = false;
  int64_t window = 0;  // 0: without checkpoints, or nothing is kept
};

bool flag(const int64_t* spec, size_t place, const char* name) {
  if (spec[place] == 0 || spec[place] == 1) return spec[place] != 0;
  refuse(std::string("spec: ") + name + ": expected 0 or 1, got " + std::to_string(spec[place]));
}

// The axes in front of the dims: of a SAVED it's (T+1, B), of what has no steps (B,), of a WEIGHT none.
struct Front {
  bool has_rows, has_steps, is_saved;
};

Front front_of(OperandKind kind, bool return_sequences) {
  switch (kind) {
    case OperandKind::sequence:
    case OperandKind::mask: return {true, true, false};
    case OperandKind::rows: return {true, false, false};
    case OperandKind::weight: return {false, false, false};
    case OperandKind::saved: return {true, true, true};
    case OperandKind::output: break;
  }
  return {true, return_sequences, false};
}

Front front_of(ResultKind kind, bool return_sequences) {
  switch (kind) {
    case ResultKind::sequence: return {true, true, false};
    case ResultKind::rows:
    case ResultKind::carry: return {true, false, false};
    case ResultKind::weight: return {false, false, false};
    case ResultKind::saved: return {true, true, true};
    case ResultKind::output: break;
  }
  return {true, return_sequences, false};
}

int64_t carries_size(const Routine& routine) {
  int64_t size = 0;
  for (const CarryValue& carry : routine.carries) size += carry.size;
  return size;
}

// Whether a routine for training can be run once more from its carries: all of them are kept, and all else
// that it gives are outputs.
bool runs_from_carries(const Routine& routine) {
  for (const CarryValue& carry : routine.carries)
    if (carry.kept < 0) return false;
  for (const RoutineResult& result : routine.results)
    if (result.kind != ResultKind::output && result.kind != ResultKind::carry &&
        result.kind != ResultKind::saved)
      return false;
  for (const RoutineOperand& operand : routine.operands)
    if (operand.kind == OperandKind::output) return false;
  return routine.plan.keeps && !routine.plan.reverse;
}

// B and T off the first operands that have them.
RoutineCallSizes read_sizes(const Routine& routine, const int64_t* spec, const Tensor* inputs,
                            size_t n_inputs) {
  RoutineCallSizes n;
  n.return_sequences = flag(spec, 5, "return_sequences");
  check_checkpoint(spec[7]);
  n.window = routine.plan.saved_tensor < 0 ? 0 : spec[7];
  if (n_inputs != routine.operands.size())
    refuse("expected " + std::to_string(routine.operands.size()) + " inputs, got " +
           std::to_string(n_inputs));
  for (size_t i = 0; i < n_inputs; ++i) {
    const Front front = front_of(routine.operands[i].kind, n.return_sequences);
    const int32_t rank = int32_t(front.has_rows) + front.has_steps;
    if (inputs[i].rank < rank)
      refuse(routine.operand_shapes[i].name + ": expected rank " + std::to_string(rank) +
             " or more, got " + std::to_string(inputs[i].rank));
    const int64_t* shape = inputs[i].shape;
    if (n.B < 0 && front.has_rows) n.B = shape[front.is_saved ? 1 : 0];
    if (n.T < 0 && front.has_steps) n.T = front.is_saved ? shape[0] - 1 : shape[1];
  }
  for (int64_t size : {n.B, n.T})
    if (size < 0 || size >= INT32_MAX)
      refuse("expected a batch and timesteps of 0 to 2147483646, got " + std::to_string(size));
  return n;
}

Argument argument(const Routine& routine, const Routine::Shape& shape, const Front& front,
                  const RoutineCallSizes& n) {
  Argument result{};
  result.name = shape.name.c_str();
  const auto add = [&](int64_t size) { result.shape[result.rank++] = size; };
  if (front.is_saved) add(n.window ? (n.T + n.window - 1) / n.window : n.T + 1);
  if (front.has_rows) add(n.B);
  if (front.has_steps && !front.is_saved) add(n.T);
  for (int64_t dim : shape.dims) add(dim);
  if (front.is_saved) add(n.window ? carries_size(routine) : routine.plan.saved_size);
  return result;
}

std::vector<Argument> outputs_of(const Routine& routine, const RoutineCallSizes& n) {
  std::vector<Argument> outputs;
  for (size_t i = 0; i < routine.results.size(); ++i)
    outputs.push_back(argument(routine, routine.result_shapes[i],
                               front_of(routine.results[i].kind, n.return_sequences), n));
  return outputs;
}

void check_inputs(const Routine& routine, const RoutineCallSizes& n, Dtype dtype, const Tensor* inputs) {
  for (size_t i = 0; i < routine.operands.size(); ++i) {
    const OperandKind kind = routine.operands[i].kind;
    Argument wanted = argument(routine, routine.operand_shapes[i], front_of(kind, n.return_sequences), n);
    wanted.dtype = kind == OperandKind::mask ? Dtype::boolean : Dtype::f32;
    check_tensor(wanted, dtype, inputs[i]);
  }
}

// The routine that a call runs once more, or null.
const Routine* routine_again(const Routine& routine, const int64_t* spec, size_t spec_size) {
  if (spec[7] == 0 || routine.plan.saved_tensor < 0) return nullptr;
  if (routine.plan.keeps) {
    if (!runs_from_carries(routine)) refuse("checkpoint: expected a routine whose carries are all kept");
    return nullptr;
  }
  std::vector<int64_t> of(spec, spec + spec_size);
  of[1] = spec[9], of[2] = spec[10];
  const Routine& again = routine_of(of.data(), of.size());
  if (!runs_from_carries(again) || again.plan.saved_size != routine.plan.saved_size ||
      carries_size(again) != carries_size(routine) || !routine.plan.reverse)
    refuse("again: expected the hash of the routine that keeps what this one reads");
  return &again;
}

// The inputs of a routine that goes back, of a call's that begin with those of the routine it runs again.
std::vector<Tensor> own_inputs(const Routine& routine, const Routine& again, const Tensor* inputs,
                               size_t n_inputs) {
  std::vector<bool> is_initial(again.operands.size());
  for (const CarryValue& carry : again.carries) is_initial[size_t(carry.operand)] = true;
  std::vector<Tensor> own;
  for (size_t i = 0; i < again.operands.size() && i < n_inputs; ++i)
    if (!is_initial[i]) own.push_back(inputs[i]);
  if (own.size() != size_t(routine.plan.saved_tensor))
    refuse("expected the inputs of the routine that is run again, and its own, got " +
           std::to_string(n_inputs));
  own.insert(own.end(), inputs + again.operands.size(), inputs + n_inputs);
  return own;
}

Dtype floats_of(const Routine& routine, const Tensor* inputs) {
  for (size_t i = 0; i < routine.operands.size(); ++i) {
    if (routine.operands[i].kind == OperandKind::mask) continue;
    const Dtype dtype = inputs[i].dtype;
    if (dtype == Dtype::f32 || dtype == Dtype::f64) return dtype;
    refuse(routine.operand_shapes[i].name + ": expected float32 or float64, got " +
           dtype_name(dtype));
  }
  return Dtype::f32;  // that of the results, if they say so
}

// Whether products' operands are rounded to bfloat16.
bool rounds_products(const int64_t* spec, Dtype dtype) {
  const int64_t precision = spec[6];
  if (precision != of_tensors && precision != bfloat16_products)
    refuse("precision: expected 0 or 1 of a routine, got " + std::to_string(precision));
  if (precision == of_tensors) return false;
  if (dtype != Dtype::f32)
    refuse(std::string("precision: expected 0, as the tensors are ") + dtype_name(dtype) + ", got 1");
  need_bfloat16(precision);
  return true;
}

// Without a row or a timestep there is nothing to compute.
void run_nothing(const Routine& routine, const RoutineCallSizes& n, Dtype dtype,
                 const Tensor* inputs, const Tensor* outputs) {
  for (size_t i = 0; i < routine.results.size(); ++i) {
    size_t bytes = dtype_size(dtype);
    for (int32_t axis = 0; axis < outputs[i].rank; ++axis) bytes *= size_t(outputs[i].shape[axis]);
    if (bytes == 0) continue;
    const RoutineResult& result = routine.results[i];
    if (result.kind == ResultKind::carry && n.T == 0) {
      const CarryValue& carry = routine.carries[size_t(result.which)];
      std::memcpy(outputs[i].data, inputs[carry.operand].data, bytes);
    } else {
      std::memset(outputs[i].data, 0, bytes);
    }
  }
}

// The call of a routine that is run once more: its outputs are nobody's, and lie in one step's memory.
class Again {
 public:
  const RoutineCall* of(const Routine& routine, const RoutineCall& back, const Tensor* inputs, Dtype dtype) {
    call_ = back;
    call_.plan = &routine.plan, call_.return_sequences = false, call_.truncate = 0, call_.again = nullptr;
    for (size_t i = 0; i < routine.operands.size(); ++i) in_.push_back(inputs[i].data);
    memory_.resize(routine.results.size());
    for (size_t i = 0; i < routine.results.size(); ++i) {
      const RoutineResult& result = routine.results[i];
      if (result.kind == ResultKind::output)
        memory_[i].resize(size_t(back.B * result.size + 16) * dtype_size(dtype));
      out_.push_back(memory_[i].data());
    }
    out_[size_t(routine.plan.saved_tensor)] =
        const_cast<void*>(back.inputs[back.plan->saved_tensor]);
    call_.inputs = in_.data(), call_.outputs = out_.data();
    return &call_;
  }

 private:
  RoutineCall call_{};
  std::vector<const void*> in_;
  std::vector<void*> out_;
  std::vector<std::vector<char>> memory_;
};

}  // namespace

void share_products_from(double multiplications) { least_shared.store(multiplications); }

std::vector<Argument> routine_outputs(const int64_t* spec, size_t spec_size, const Tensor* inputs,
                                      size_t n_inputs) {
  const Routine& routine = routine_of(spec, spec_size);
  const Routine* again = routine_again(routine, spec, spec_size);
  std::vector<Tensor> own;
  if (again != nullptr) {
    own = own_inputs(routine, *again, inputs, n_inputs);
    inputs = own.data(), n_inputs = own.size();
  }
  return outputs_of(routine, read_sizes(routine, spec, inputs, n_inputs));
}

void run_routine(const int64_t* spec, size_t spec_size, const Tensor* inputs, size_t n_inputs,
                 const Tensor* outputs, size_t n_outputs) {
  const Routine& routine = routine_of(spec, spec_size);
  const Routine* again = routine_again(routine, spec, spec_size);
  const Tensor* given = inputs;
  std::vector<Tensor> own;
  if (again != nullptr) {
    own = own_inputs(routine, *again, inputs, n_inputs);
    inputs = own.data(), n_inputs = own.size();
  }
  const RoutineCallSizes n = read_sizes(routine, spec, inputs, n_inputs);
  RoutineCall call{};
  call.plan = &routine.plan, call.B = n.B, call.T = n.T;
  call.least_shared = least_shared.load(std::memory_order_relaxed);
  call.go_backwards = flag(spec, 3, "go_backwards");
  call.flip_outputs = flag(spec, 4, "flip_outputs");
  call.return_sequences = n.return_sequences;
  call.window = n.window;
  if (spec[8] < 0) refuse("truncate: expected 0 or more, got " + std::to_string(spec[8]));
  call.truncate = routine.plan.reverse ? spec[8] : 0;
  const Dtype dtype = floats_of(routine, inputs);
  const bool in_bfloat16 = rounds_products(spec, dtype);
  check_inputs(routine, n, dtype, inputs);
  if (again != nullptr) check_inputs(*again, n, dtype, given);
  std::vector<const void*> in;
  for (size_t i = 0; i < n_inputs; ++i) in.push_back(inputs[i].data);
  if (n_outputs != routine.results.size())
    refuse("expected " + std::to_string(routine.results.size()) + " outputs, got " +
           std::to_string(n_outputs));
  const std::vector<Argument> wanted = outputs_of(routine, n);
  std::vector<void*> out;
  for (size_t i = 0; i < n_outputs; ++i) {
    check_tensor(wanted[i], dtype, outputs[i]);
    out.push_back(outputs[i].data);
  }
  const Kernels& kernels = runnable_kernels();
  if (n.B == 0 || n.T == 0) return run_nothing(routine, n, dtype, inputs, outputs);
  call.inputs = in.data(), call.outputs = out.data();
  Again once_more;
  if (again != nullptr) call.again = once_more.of(*again, call, given, dtype);
  const RunRoutine run = in_bfloat16           ? kernels.routine_bf16_products
                         : dtype == Dtype::f32 ? kernels.routine_f32
                                               : kernels.routine_f64;
  if (!run(call, thread_count())) throw std::bad_alloc();
}

}  // namespace ostinato
