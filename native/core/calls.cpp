// The door to the core: reads a call's spec and tensors, checks all of them, runs the kernels.
#include <cstring>
#include <new>
#include <vector>

#include "kernels.h"
#include "routine/routine.h"
#include "signature.h"
#include "spec.h"
#include "threads.h"

namespace ostinato {
namespace {

struct Call {
  Operation operation;
  const Tensor* inputs;
  size_t n_inputs;
  const Tensor* outputs;
  size_t n_outputs;
  Dtype dtype = Dtype::f32;
  int64_t precision = of_tensors;
  size_t next_input = 0, next_output = 0;
};

// Checks one side of a run against its list, and puts the addresses into the run.
void read_side(Call& call, const Arguments& list, bool is_output, Run& run) {
  size_t& next = is_output ? call.next_output : call.next_input;
  const size_t count = is_output ? call.n_outputs : call.n_inputs;
  for (const Argument& argument : list) {
    if (next == count)
      refuse(std::string(argument.name) + ": expected one more " +
             (is_output ? "output" : "input") + ", got " + std::to_string(count) + " in all");
    const Tensor& tensor = (is_output ? call.outputs : call.inputs)[next++];
    check_tensor(argument, call.dtype, tensor);
    std::memcpy(reinterpret_cast<char*>(&run) + argument.place, &tensor.data, sizeof(void*));
  }
}

// Refuses tensors that aren't of the spec's precision, and a precision that this CPU lacks.
void check_precision(Call& call, const RunSpec& spec) {
  auto expect = [&](bool is_it, const char* expected) {
    if (!is_it) refuse(std::string("x: expected ") + expected + ", got " + dtype_name(call.dtype));
  };
  switch (spec.precision) {
    case of_tensors:
      expect(call.dtype == Dtype::f32 || call.dtype == Dtype::f64, "float32 or float64");
      break;
    case bfloat16_products:
    case int8_weights: expect(call.dtype == Dtype::f32, "float32"); break;
    default: expect(call.dtype == Dtype::bf16, "bfloat16");
  }
  if (call.next_input == 0) call.precision = spec.precision;
  if (spec.precision != call.precision)
    refuse("precision: expected that of the first run, " + std::to_string(call.precision) + ", got " +
           std::to_string(spec.precision));
  if (spec.precision == bfloat16_products || spec.precision == bfloat16_tensors)
    need_bfloat16(spec.precision);
}

Run read_run(Call& call, const RunSignature& signature) {
  check_precision(call, signature.spec);
  const Sizes& n = signature.sizes;
  Run run{};
  run.spec = signature.spec;
  run.B = n.B, run.T = n.T, run.D = n.D, run.U = n.U;
  run.ys_stride = n.U + run.spec.ys_before + run.spec.ys_after;
  read_side(call, signature.inputs, false, run);
  read_side(call, signature.outputs, true, run);
  return run;
}

// The address of a run's outputs where they lie in those of the run before.
void share_outputs(const Call& call, Run& run, const Run* before, const Run* after) {
  if (run.spec.ys_after != 0 &&
      (after == nullptr || after->spec.ys_before != run.U || after->U != run.spec.ys_after ||
       after->B != run.B || after->T != run.T))
    refuse("ys_after: expected a next run of as many units and of the same batch and timesteps, "
           "whose ys_before is this one's units");
  if (run.spec.ys_before == 0) return;
  if (before == nullptr || before->spec.ys_after != run.U)
    refuse("ys_before: expected a run before whose ys_after is this one's units");
  const size_t offset = size_t(run.spec.ys_before) * dtype_size(call.dtype);
  if (before->ys != nullptr) run.ys = static_cast<char*>(before->ys) + offset;
  if (before->d_ys != nullptr) run.d_ys = static_cast<const char*>(before->d_ys) + offset;
}

std::vector<Run> read_runs(Call& call, const int64_t* spec, size_t spec_size) {
  const std::vector<RunSignature> signatures =
      read_signature(call.operation, spec, spec_size, call.inputs, call.n_inputs);
  call.dtype = call.inputs[0].dtype;
  std::vector<Run> runs(signatures.size());
  for (size_t i = 0; i < runs.size(); ++i)
    in_run(i, [&] { runs[i] = read_run(call, signatures[i]); });
  if (call.next_input != call.n_inputs)
    refuse("expected " + std::to_string(call.next_input) + " inputs, got " +
           std::to_string(call.n_inputs));
  if (call.next_output != call.n_outputs)
    refuse("expected " + std::to_string(call.next_output) + " outputs, got " +
           std::to_string(call.n_outputs));
  for (size_t i = 0; i < runs.size(); ++i)
    in_run(i, [&] {
      const Run* after = i + 1 < runs.size() ? &runs[i + 1] : nullptr;
      share_outputs(call, runs[i], i > 0 ? &runs[i - 1] : nullptr, after);
    });
  return runs;
}

void zero(const Call& call, void* data, int64_t count) {
  if (data != nullptr && count > 0) std::memset(data, 0, size_t(count) * dtype_size(call.dtype));
}

void copy(const Call& call, void* to, const void* from, int64_t count) {
  if (count > 0) std::memcpy(to, from, size_t(count) * dtype_size(call.dtype));
}

// No row or no timestep: the states stay as they are, and there is nothing to compute.
void forward_of_nothing(const Call& call, const Run& run) {
  for (int64_t i = 0; i < state_count(run.spec); ++i)
    copy(call, run.final[i], run.initial[i], run.B * run.U);
  int64_t rows = run.B == 0 ? 0 : run.B * saved_times(run.spec, run.T);
  zero(call, run.saved, rows * saved_columns(run.spec) * padded(run.U));
}

void backward_of_nothing(const Call& call, const Run& run) {
  int64_t columns = gate_count(run.spec) * run.U;
  for (int64_t i = 0; i < state_count(run.spec); ++i)
    copy(call, run.d_initial[i], run.d_final[i], run.B * run.U);
  zero(call, run.d_kernel, run.D * columns);
  zero(call, run.d_recurrent_kernel, run.U * columns);
  zero(call, run.d_bias, layout_of(run.spec.kind).bias_rows * columns);
  for (void* fresh : run.d_fresh) zero(call, fresh, run.B * run.U);
}

RunAll kernel_of(const Call& call, const Kernels& k) {
  const bool backwards = call.operation == Operation::backward;
  switch (call.precision) {
    case bfloat16_products: return backwards ? k.backward_bf16_products : k.forward_bf16_products;
    case bfloat16_tensors: return backwards ? k.backward_bf16 : k.forward_bf16;
  }
  if (call.dtype == Dtype::f32) return backwards ? k.backward_f32 : k.forward_f32;
  return backwards ? k.backward_f64 : k.forward_f64;
}

void run_all(Call& call, const int64_t* spec, size_t spec_size) {
  if (spec_size > 0 && spec[0] == kRoutine)
    return run_routine(spec, spec_size, call.inputs, call.n_inputs, call.outputs, call.n_outputs);
  const bool backwards = call.operation == Operation::backward;
  const std::vector<Run> runs = read_runs(call, spec, spec_size);
  const Kernels* kernels = &runnable_kernels();
  std::vector<Run> full;
  for (const Run& run : runs) {
    if (run.B > 0 && run.T > 0) full.push_back(run);
    else if (backwards) backward_of_nothing(call, run);
    else forward_of_nothing(call, run);
  }
  if (full.empty()) return;
  const int count = int(full.size()), threads = thread_count();
  const bool done = call.precision == int8_weights
                        ? kernels->forward_int8(full.data(), count, threads, kernels->multiply_digits)
                        : kernel_of(call, *kernels)(full.data(), count, threads);
  if (!done) throw std::bad_alloc();
}

std::string run_call(Call call, const int64_t* spec, size_t spec_size) {
  const char* name = call.operation == Operation::backward ? "backward: " : "forward: ";
  try {
    run_all(call, spec, spec_size);
    return "";
  } catch (const Refusal& refusal) {
    return name + refusal.what;
  } catch (const std::bad_alloc&) {
    return std::string(name) + "out of memory";
  }
}

}  // namespace

std::string forward(const int64_t* spec, size_t spec_size, const Tensor* inputs, size_t n_inputs,
                    const Tensor* outputs, size_t n_outputs) {
  return run_call({Operation::forward, inputs, n_inputs, outputs, n_outputs}, spec, spec_size);
}

std::string backward(const int64_t* spec, size_t spec_size, const Tensor* inputs, size_t n_inputs,
                     const Tensor* outputs, size_t n_outputs) {
  return run_call({Operation::backward, inputs, n_inputs, outputs, n_outputs}, spec, spec_size);
}

}  // namespace ostinato
