// The door to the core: reads a call's spec and tensors, checks all of them, runs the kernels.
#include "spec.h"

#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace ostinato {
namespace {

// An upper bound of the values that a kernel keeps for a row, a timestep and a padded unit.
constexpr int64_t kMostColumns = 16;

struct Call {
  const char* operation;  // "forward" or "backward", for errors
  const Tensor* inputs;
  size_t n_inputs;
  const Tensor* outputs;
  size_t n_outputs;
  Dtype dtype = Dtype::f32;
  size_t next_input = 0, next_output = 0;
  int run = 0;
  std::string error = {};

  bool fail(const std::string& what) {
    if (error.empty()) error = std::string(operation) + ": " + what;
    return false;
  }
  bool fail_in_run(const std::string& what) {
    return fail("run " + std::to_string(run) + ": " + what);
  }
};

using Shape = std::initializer_list<int64_t>;

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32: return "float32";
    case Dtype::f64: return "float64";
    case Dtype::boolean: return "bool";
  }
  return "of an unknown dtype";
}

std::string described(const int64_t* shape, size_t rank) {
  std::string text = "(";
  for (size_t i = 0; i < rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + (rank == 1 ? ",)" : ")");
}

// The number of elements, or -1 where a dimension is negative or the number is too large.
int64_t elements(const int64_t* shape, size_t rank) {
  int64_t count = 1;
  for (size_t i = 0; i < rank; ++i)
    if (shape[i] == 0) return 0;
  for (size_t i = 0; i < rank; ++i)
    if (shape[i] < 0 || __builtin_mul_overflow(count, shape[i], &count) || count > kMostElements)
      return -1;
  return count;
}

bool check(Call& call, const char* name, const Tensor& tensor, Dtype dtype, Shape shape) {
  bool same = tensor.rank >= 0 && size_t(tensor.rank) == shape.size();
  for (size_t i = 0; same && i < shape.size(); ++i) same = tensor.shape[i] == shape.begin()[i];
  if (!same || tensor.dtype != dtype)
    return call.fail_in_run(
        std::string(name) + ": expected " + dtype_name(dtype) + " " +
        described(shape.begin(), shape.size()) + ", got " + dtype_name(tensor.dtype) + " " +
        (tensor.rank < 0 ? "of a negative rank" : described(tensor.shape, size_t(tensor.rank))));
  int64_t count = elements(shape.begin(), shape.size());
  if (count < 0)
    return call.fail_in_run(std::string(name) + ": expected an array that fits in memory, got " +
                            described(shape.begin(), shape.size()));
  if (count > 0 && tensor.data == nullptr)
    return call.fail_in_run(std::string(name) + ": expected data, got a null pointer");
  if (reinterpret_cast<uintptr_t>(tensor.data) % dtype_size(dtype) != 0)
    return call.fail_in_run(std::string(name) + ": expected data aligned to its elements, got " +
                            std::to_string(reinterpret_cast<uintptr_t>(tensor.data)));
  return true;
}

// Null where the call has failed.
const Tensor* next(Call& call, bool output, const char* name) {
  size_t& index = output ? call.next_output : call.next_input;
  size_t count = output ? call.n_outputs : call.n_inputs;
  if (!call.error.empty()) return nullptr;
  if (index == count) {
    call.fail_in_run(std::string(name) + ": expected one more " +
                     (output ? "output" : "input") + ", got " + std::to_string(count) +
                     " in all");
    return nullptr;
  }
  return &(output ? call.outputs : call.inputs)[index++];
}

const void* input(Call& call, const char* name, Shape shape) {
  const Tensor* tensor = next(call, false, name);
  return tensor && check(call, name, *tensor, call.dtype, shape) ? tensor->data : nullptr;
}

void* output(Call& call, const char* name, Shape shape) {
  const Tensor* tensor = next(call, true, name);
  return tensor && check(call, name, *tensor, call.dtype, shape) ? tensor->data : nullptr;
}

const uint8_t* mask(Call& call, const Run& run) {
  const Tensor* tensor = next(call, false, "mask");
  bool good = tensor && check(call, "mask", *tensor, Dtype::boolean, {run.B, run.T});
  return good ? static_cast<const uint8_t*>(tensor->data) : nullptr;
}

bool check_range(Call& call, const char* field, int64_t value, int64_t count) {
  if (value >= 0 && value < count) return true;
  return call.fail_in_run(std::string(field) + ": expected 0 to " + std::to_string(count - 1) +
                          ", got " + std::to_string(value));
}

bool check_count(Call& call, const char* field, int64_t value, Shape allowed) {
  std::string text;
  for (int64_t one : allowed) {
    if (value == one) return true;
    text += (text.empty() ? "" : " or ") + std::to_string(one);
  }
  return call.fail_in_run(std::string(field) + ": expected " + text + ", got " +
                          std::to_string(value));
}

bool check_shared(Call& call, const RunSpec& spec) {
  const bool is_one = spec.ys_before == 0 || spec.ys_after == 0;
  const bool in_range = spec.ys_before >= 0 && spec.ys_before < kMostElements &&
                        spec.ys_after >= 0 && spec.ys_after < kMostElements;
  const bool is_used = spec.ys_before + spec.ys_after != 0;
  if (in_range && is_one && (spec.return_sequences || !is_used)) return true;
  return call.fail_in_run("ys_before and ys_after: expected units of one neighbour, of runs with "
                          "return_sequences, got " + std::to_string(spec.ys_before) + " and " +
                          std::to_string(spec.ys_after));
}

bool check_spec(Call& call, const RunSpec& spec) {
  if (!check_range(call, "kind", spec.kind, gru_reset_before + 1)) return false;
  if (!check_range(call, "activation", spec.activation, activation_count())) return false;
  if (spec.kind != simple_rnn &&
      !check_range(call, "recurrent_activation", spec.recurrent_activation, activation_count()))
    return false;
  int64_t gates = gate_count(spec);
  return check_range(call, "has_bias", spec.has_bias, 2) &&
         check_range(call, "has_mask", spec.has_mask, 2) &&
         check_count(call, "input_masks", spec.input_masks, {0, 1, gates}) &&
         check_count(call, "recurrent_masks", spec.recurrent_masks, {0, gates}) &&
         check_range(call, "go_backwards", spec.go_backwards, 2) &&
         check_range(call, "flip_outputs", spec.flip_outputs, 2) &&
         check_range(call, "return_sequences", spec.return_sequences, 2) &&
         check_range(call, "zero_output_for_mask", spec.zero_output_for_mask, 2) &&
         check_range(call, "training", spec.training, 2) &&
         check_range(call, "wants_dx", spec.wants_dx, 2) && check_shared(call, spec);
}

// Reads B, T, D off x, and U off the other tensor, whose `axis` has it.
bool read_sizes(Call& call, Run& run, const Tensor* x, const Tensor& sized, size_t axis) {
  if (x->rank != 3)
    return call.fail_in_run("x: expected rank 3 (batch, timesteps, features), got rank " +
                            std::to_string(x->rank));
  if (sized.rank != 2)
    return call.fail_in_run("units: expected a matrix to read them from, got rank " +
                            std::to_string(sized.rank));
  if (call.run == 0) call.dtype = x->dtype;
  if (call.dtype != Dtype::f32 && call.dtype != Dtype::f64)
    return call.fail_in_run(std::string("x: expected float32 or float64, got ") +
                            dtype_name(call.dtype));
  run.B = x->shape[0], run.T = x->shape[1], run.D = x->shape[2], run.U = sized.shape[axis];
  if (run.U < 1)
    return call.fail_in_run("expected at least one unit, got " + std::to_string(run.U));
  if (!check(call, "x", *x, call.dtype, {run.B, run.T, run.D})) return false;
  if (run.U > kMostElements) return call.fail_in_run("expected sizes that fit in memory");
  if (run.T >= INT32_MAX)  // the kernels count timesteps in 32 bits
    return call.fail_in_run("expected fewer than 2147483647 timesteps, got " +
                            std::to_string(run.T));
  int64_t kept[] = {run.T + 1, run.B, kMostColumns, padded(run.U)};
  if (elements(kept, 4) < 0)
    return call.fail_in_run("expected sizes that fit in memory, got batch " +
                            std::to_string(run.B) + ", timesteps " + std::to_string(run.T) +
                            ", units " + std::to_string(run.U));
  run.x = x->data;
  return true;
}

void read_weights(Call& call, Run& run) {
  int64_t columns = gate_count(run.spec) * run.U;
  run.kernel = input(call, "kernel", {run.D, columns});
  run.recurrent_kernel = input(call, "recurrent kernel", {run.U, columns});
}

void read_masks(Call& call, Run& run) {
  const RunSpec& spec = run.spec;
  if (spec.has_mask) run.mask = mask(call, run);
  if (spec.input_masks)
    run.input_masks = input(call, "input dropout masks", {spec.input_masks, run.B, run.D});
  if (spec.recurrent_masks)
    run.recurrent_masks =
        input(call, "recurrent dropout masks", {spec.recurrent_masks, run.B, run.U});
}

const char* const kInitial[] = {"initial state h", "initial state c"};
const char* const kFinal[] = {"final state h", "final state c"};
const char* const kInitialGradient[] = {"gradient of initial state h",
                                        "gradient of initial state c"};
const char* const kFinalGradient[] = {"gradient of final state h", "gradient of final state c"};

// A run's tensors of `forward`; in case of failure call.error is set.
void read_forward(Call& call, Run& run) {
  const Tensor* x = next(call, false, "x");
  const Tensor* h = next(call, false, kInitial[0]);
  if (h == nullptr || !read_sizes(call, run, x, *h, 1)) return;
  --call.next_input;  // h is read again, now with its shape known
  const RunSpec& spec = run.spec;
  for (int64_t i = 0; i < state_count(spec); ++i)
    run.initial[i] = input(call, kInitial[i], {run.B, run.U});
  read_weights(call, run);
  if (spec.has_bias && spec.kind == gru) run.bias = input(call, "bias", {2, 3 * run.U});
  else if (spec.has_bias) run.bias = input(call, "bias", {gate_count(spec) * run.U});
  read_masks(call, run);
  run.ys_stride = run.U + spec.ys_before + spec.ys_after;
  if (spec.return_sequences && spec.ys_before == 0) run.ys = output(call, "ys", {run.B, run.T, run.ys_stride});
  for (int64_t i = 0; i < state_count(spec); ++i)
    run.final[i] = output(call, kFinal[i], {run.B, run.U});
  int64_t width = saved_columns(spec) * padded(run.U);
  if (spec.training) run.saved = output(call, "saved", {run.T + 1, run.B, width});
}

// A run's tensors of `backward`.
void read_backward(Call& call, Run& run) {
  const Tensor* x = next(call, false, "x");
  next(call, false, "kernel");
  const Tensor* recurrent = next(call, false, "recurrent kernel");
  if (recurrent == nullptr || !read_sizes(call, run, x, *recurrent, 0)) return;
  call.next_input -= 2;
  run.spec.training = 1;  // of `forward`; the kernels look at it here too
  const RunSpec& spec = run.spec;
  read_weights(call, run);
  read_masks(call, run);
  int64_t width = saved_columns(spec) * padded(run.U);
  run.saved = const_cast<void*>(input(call, "saved", {run.T + 1, run.B, width}));
  run.ys_stride = run.U + spec.ys_before + spec.ys_after;
  if (spec.return_sequences && spec.ys_before == 0)
    run.d_ys = input(call, "gradient of ys", {run.B, run.T, run.ys_stride});
  for (int64_t i = 0; i < state_count(spec); ++i)
    run.d_final[i] = input(call, kFinalGradient[i], {run.B, run.U});
  int64_t columns = gate_count(spec) * run.U;
  if (spec.wants_dx) run.dx = output(call, "gradient of x", {run.B, run.T, run.D});
  for (int64_t i = 0; i < state_count(spec); ++i)
    run.d_initial[i] = output(call, kInitialGradient[i], {run.B, run.U});
  run.d_kernel = output(call, "gradient of kernel", {run.D, columns});
  run.d_recurrent_kernel = output(call, "gradient of recurrent kernel", {run.U, columns});
  if (spec.has_bias && spec.kind == gru)
    run.d_bias = output(call, "gradient of bias", {2, columns});
  else if (spec.has_bias) run.d_bias = output(call, "gradient of bias", {columns});
}

// The addresses of the outputs that lie in those of the run before.
void share_outputs(Call& call, std::vector<Run>& runs) {
  for (size_t i = 0; i < runs.size(); ++i) {
    Run& run = runs[i];
    call.run = int(i);
    const Run* next = i + 1 < runs.size() ? &runs[i + 1] : nullptr;
    if (run.spec.ys_after != 0 && (next == nullptr || next->spec.ys_before != run.U ||
                                   next->U != run.spec.ys_after || next->B != run.B ||
                                   next->T != run.T)) {
      call.fail_in_run("ys_after: expected a next run of as many units and of the same batch and "
                       "timesteps, whose ys_before is this one's units");
      return;
    }
    if (run.spec.ys_before == 0) continue;
    if (i == 0 || runs[i - 1].spec.ys_after != run.U) {
      call.fail_in_run("ys_before: expected a run before whose ys_after is this one's units");
      return;
    }
    const size_t offset = size_t(run.spec.ys_before) * dtype_size(call.dtype);
    const Run& before = runs[i - 1];
    if (before.ys != nullptr) run.ys = static_cast<char*>(before.ys) + offset;
    if (before.d_ys != nullptr) run.d_ys = static_cast<const char*>(before.d_ys) + offset;
  }
}

// All runs of a call; empty where call.error is set.
std::vector<Run> read_runs(Call& call, const int64_t* spec, size_t spec_size,
                           void (*read)(Call&, Run&)) {
  if (spec_size == 0 || spec_size % kSpecFields != 0) {
    call.fail("spec: expected " + std::to_string(kSpecFields) + " integers a run, got " +
              std::to_string(spec_size));
    return {};
  }
  std::vector<Run> runs(spec_size / kSpecFields);
  for (size_t i = 0; i < runs.size() && call.error.empty(); ++i) {
    runs[i] = Run{};
    std::memcpy(&runs[i].spec, spec + i * kSpecFields, sizeof(RunSpec));
    call.run = int(i);
    if (check_spec(call, runs[i].spec)) read(call, runs[i]);
  }
  if (call.error.empty() && call.next_input != call.n_inputs)
    call.fail("expected " + std::to_string(call.next_input) + " inputs, got " +
              std::to_string(call.n_inputs));
  if (call.error.empty() && call.next_output != call.n_outputs)
    call.fail("expected " + std::to_string(call.next_output) + " outputs, got " +
              std::to_string(call.n_outputs));
  if (call.error.empty()) share_outputs(call, runs);
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
  int64_t rows = run.B == 0 ? 0 : run.B * (run.T + 1);
  zero(call, run.saved, rows * saved_columns(run.spec) * padded(run.U));
}

void backward_of_nothing(const Call& call, const Run& run) {
  int64_t columns = gate_count(run.spec) * run.U;
  for (int64_t i = 0; i < state_count(run.spec); ++i)
    copy(call, run.d_initial[i], run.d_final[i], run.B * run.U);
  zero(call, run.d_kernel, run.D * columns);
  zero(call, run.d_recurrent_kernel, run.U * columns);
  zero(call, run.d_bias, run.spec.kind == gru ? 2 * columns : columns);
}

std::string no_target(const Call& call) {
  std::string text = std::string(call.operation) + ": OSTINATO_TARGET: expected ";
  size_t count = 0;
  const char* const* names = runnable_targets(&count);
  for (size_t i = 0; i < count; ++i) text += (i == 0 ? "" : " or ") + std::string(names[i]);
  return text + ", got one that this build or this CPU doesn't have";
}

std::string run_all(Call& call, const int64_t* spec, size_t spec_size, bool backwards) {
  std::vector<Run> runs =
      read_runs(call, spec, spec_size, backwards ? read_backward : read_forward);
  if (!call.error.empty()) return call.error;
  const Kernels* kernels = selected_kernels();
  if (kernels == nullptr) return no_target(call);
  std::vector<Run> full;
  for (const Run& run : runs) {
    if (run.B > 0 && run.T > 0) full.push_back(run);
    else if (backwards) backward_of_nothing(call, run);
    else forward_of_nothing(call, run);
  }
  if (full.empty()) return "";
  bool single = call.dtype == Dtype::f32;
  RunAll kernel = backwards ? (single ? kernels->backward_f32 : kernels->backward_f64)
                            : (single ? kernels->forward_f32 : kernels->forward_f64);
  if (kernel(full.data(), int(full.size()), thread_count())) return "";
  return std::string(call.operation) + ": out of memory";
}

std::string run_call(Call call, const int64_t* spec, size_t spec_size, bool backwards) {
  try {
    return run_all(call, spec, spec_size, backwards);
  } catch (const std::bad_alloc&) {
    return std::string(call.operation) + ": out of memory";
  }
}

}  // namespace

static_assert(sizeof(RunSpec) == kSpecFields * sizeof(int64_t), "a spec is a RunSpec's fields");

std::string forward(const int64_t* spec, size_t spec_size, const Tensor* inputs, size_t n_inputs,
                    const Tensor* outputs, size_t n_outputs) {
  return run_call({"forward", inputs, n_inputs, outputs, n_outputs}, spec, spec_size, false);
}

std::string backward(const int64_t* spec, size_t spec_size, const Tensor* inputs, size_t n_inputs,
                     const Tensor* outputs, size_t n_outputs) {
  return run_call({"backward", inputs, n_inputs, outputs, n_outputs}, spec, spec_size, true);
}

}  // namespace ostinato
