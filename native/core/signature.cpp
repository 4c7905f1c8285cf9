// Reads a call's spec and sizes, and lists the tensors of its runs.
#include "signature.h"

#include <cstring>
#include <initializer_list>

#include "kernels.h"
#include "routine/routine.h"
#include "spec.h"

namespace ostinato {
namespace {

using Shape = std::initializer_list<int64_t>;

// An upper bound of the values that a kernel keeps for a row, a timestep and a padded unit.
constexpr int64_t kMostColumns = 16;

// --- the lists ------------------------------------------------------------------------------------

#define PLACE(member) offsetof(Run, member)

// Lists one side of a run.
class List {
 public:
  List(const RunSpec& spec, const Sizes& sizes, Arguments& list)
      : spec_(spec), cell_(layout_of(spec.kind)), n_(sizes), columns_(cell_.gates * sizes.U),
        list_(list) {
    list_.count = 0;
  }

  void inputs(Operation operation) {
    if (operation == Operation::forward) forward_inputs();
    else backward_inputs();
  }
  void outputs(Operation operation) {
    if (operation == Operation::forward) forward_outputs();
    else backward_outputs();
  }

 private:
  void forward_inputs() {
    add("x", PLACE(x), {n_.B, n_.T, n_.D});
    add_states(kInitial, PLACE(initial));
    add_weights();
    if (spec_.has_bias) add_bias("bias", PLACE(bias));
    if (spec_.resets == to_fresh_states) add_states(kFresh, PLACE(fresh));
    add_masks();
  }

  void forward_outputs() {
    if (owns_ys()) add("ys", PLACE(ys), {n_.B, n_.T, ys_columns()});
    add_states(kFinal, PLACE(final));
    if (spec_.training) add_saved();
  }

  void backward_inputs() {
    add("x", PLACE(x), {n_.B, n_.T, n_.D});
    if (spec_.checkpoint) add_states(kInitial, PLACE(initial));
    add_weights();
    if (spec_.checkpoint && spec_.has_bias) add_bias("bias", PLACE(bias));
    if (spec_.checkpoint && spec_.resets == to_fresh_states) add_states(kFresh, PLACE(fresh));
    add_masks();
    add_saved();
    if (owns_ys()) add("gradient of ys", PLACE(d_ys), {n_.B, n_.T, ys_columns()});
    add_states(kFinalGradient, PLACE(d_final));
  }

  void backward_outputs() {
    if (spec_.wants_dx) add("gradient of x", PLACE(dx), {n_.B, n_.T, n_.D});
    add_states(kInitialGradient, PLACE(d_initial));
    add("gradient of kernel", PLACE(d_kernel), {n_.D, columns_});
    add("gradient of recurrent kernel", PLACE(d_recurrent_kernel), {n_.U, columns_});
    if (spec_.has_bias) add_bias("gradient of bias", PLACE(d_bias));
    if (spec_.resets == to_fresh_states) add_states(kFreshGradient, PLACE(d_fresh));
  }

  using Names = const char* const[2];
  static constexpr Names kInitial = {"initial state h", "initial state c"};
  static constexpr Names kFresh = {"fresh state h", "fresh state c"};
  static constexpr Names kFreshGradient = {"gradient of fresh state h", "gradient of fresh state c"};
  static constexpr Names kFinal = {"final state h", "final state c"};
  static constexpr Names kInitialGradient = {"gradient of initial state h",
                                             "gradient of initial state c"};
  static constexpr Names kFinalGradient = {"gradient of final state h",
                                           "gradient of final state c"};

  void add(const char* name, size_t place, Shape shape, Dtype dtype = Dtype::f32) {
    Argument& argument = list_.at[list_.count++];
    argument.name = name, argument.place = place, argument.dtype = dtype;
    argument.rank = int32_t(shape.size());
    std::memcpy(argument.shape, shape.begin(), shape.size() * sizeof(int64_t));
  }
  void add_states(const Names& names, size_t place) {
    for (int64_t s = 0; s < cell_.states; ++s)
      add(names[s], place + size_t(s) * sizeof(void*), {n_.B, n_.U});
  }
  void add_weights() {
    const bool is_int8 = spec_.precision == int8_weights;
    add("kernel", PLACE(kernel), {n_.D, columns_}, is_int8 ? Dtype::i8 : Dtype::f32);
    if (is_int8) add("kernel's scales", PLACE(kernel_scales), {columns_});
    add("recurrent kernel", PLACE(recurrent_kernel), {n_.U, columns_}, is_int8 ? Dtype::i8 : Dtype::f32);
    if (is_int8) add("recurrent kernel's scales", PLACE(recurrent_scales), {columns_});
  }
  void add_bias(const char* name, size_t place) {
    if (cell_.bias_rows == 1) add(name, place, {columns_});
    else add(name, place, {cell_.bias_rows, columns_});
  }
  void add_masks() {
    if (spec_.has_mask) add("mask", PLACE(mask), {n_.B, n_.T}, Dtype::boolean);
    if (spec_.resets) add("resets", PLACE(resets), {n_.B, n_.T}, Dtype::boolean);
    if (spec_.input_masks)
      add("input dropout masks", PLACE(input_masks), {spec_.input_masks, n_.B, n_.D});
    if (spec_.recurrent_masks)
      add("recurrent dropout masks", PLACE(recurrent_masks), {spec_.recurrent_masks, n_.B, n_.U});
  }
  void add_saved() {
    add("saved", PLACE(saved), {saved_times(spec_, n_.T), n_.B, saved_columns(spec_) * padded(n_.U)});
  }
  bool owns_ys() const { return spec_.return_sequences && spec_.ys_before == 0; }
  int64_t ys_columns() const { return n_.U + spec_.ys_after; }

  const RunSpec& spec_;
  const CellLayout& cell_;
  const Sizes n_;
  const int64_t columns_;
  Arguments& list_;
};

// --- the spec -------------------------------------------------------------------------------------

void check_count(const char* field, int64_t value, Shape allowed) {
  std::string text;
  for (int64_t one : allowed) {
    if (value == one) return;
    text += (text.empty() ? "" : " or ") + std::to_string(one);
  }
  refuse(std::string(field) + ": expected " + text + ", got " + std::to_string(value));
}

void check_range(const char* field, int64_t value, int64_t count) {
  if (value >= 0 && value < count) return;
  refuse(std::string(field) + ": expected 0 to " + std::to_string(count - 1) + ", got " +
         std::to_string(value));
}

void check_shared(const RunSpec& spec) {
  const bool is_one = spec.ys_before == 0 || spec.ys_after == 0;
  const bool in_range = spec.ys_before >= 0 && spec.ys_before < kMostElements &&
                        spec.ys_after >= 0 && spec.ys_after < kMostElements;
  const bool is_used = spec.ys_before != 0 || spec.ys_after != 0;
  if (in_range && is_one && (spec.return_sequences || !is_used)) return;
  refuse("ys_before and ys_after: expected units of one neighbour, of runs with return_sequences, "
         "got " + std::to_string(spec.ys_before) + " and " + std::to_string(spec.ys_after));
}

void check_spec(const RunSpec& spec) {
  check_range("kind", spec.kind, kind_count());
  const CellLayout& cell = layout_of(spec.kind);
  check_range("activation", spec.activation, activation_count());
  if (cell.has_gates)
    check_range("recurrent_activation", spec.recurrent_activation, activation_count());
  check_range("has_bias", spec.has_bias, 2);
  check_range("has_mask", spec.has_mask, 2);
  check_count("input_masks", spec.input_masks, {0, 1, cell.gates});
  check_count("recurrent_masks", spec.recurrent_masks, {0, cell.gates});
  check_range("go_backwards", spec.go_backwards, 2);
  check_range("flip_outputs", spec.flip_outputs, 2);
  check_range("return_sequences", spec.return_sequences, 2);
  check_range("zero_output_for_mask", spec.zero_output_for_mask, 2);
  check_range("training", spec.training, 2);
  check_range("wants_dx", spec.wants_dx, 2);
  check_range("precision", spec.precision, 4);
  check_range("resets", spec.resets, 3);
  check_checkpoint(spec.checkpoint);
  check_range("truncate", spec.truncate, kMostElements);
  if (spec.precision == int8_weights && (spec.training || spec.input_masks || spec.recurrent_masks))
    refuse("precision: weights of int8 are for inference: expected no training and no dropout");
  check_shared(spec);
}

// --- the sizes ------------------------------------------------------------------------------------

// The inputs of a call from some run's first on.
struct Inputs {
  const Tensor* tensors;
  size_t count, all;

  const Tensor& get(const Arguments& list, size_t place, const char* axes) const {
    size_t i = 0;
    while (list.at[i].place != place) ++i;
    if (i >= count)
      refuse(std::string(list.at[i].name) + ": expected one more input, got " +
             std::to_string(all) + " in all");
    const Tensor& tensor = tensors[i];
    if (tensor.rank != list.at[i].rank)
      refuse(std::string(list.at[i].name) + ": expected rank " + std::to_string(list.at[i].rank) +
             " " + axes + ", got rank " + std::to_string(tensor.rank));
    return tensor;
  }
};

// B, T, D off x, and U off the recurrent kernel.
Sizes read_sizes(const RunSpec& spec, const Inputs& inputs, const Arguments& list) {
  const Tensor& x = inputs.get(list, PLACE(x), "(batch, timesteps, features)");
  const Tensor& recurrent =
      inputs.get(list, PLACE(recurrent_kernel), "(units, gates x units)");
  const Sizes n = {x.shape[0], x.shape[1], x.shape[2], recurrent.shape[0]};
  for (int64_t size : {n.B, n.T, n.D})
    if (size < 0 || size > kMostElements)
      refuse("x: expected an array that fits in memory, got a size of " + std::to_string(size));
  if (n.U < 1) refuse("expected at least one unit, got " + std::to_string(n.U));
  if (n.U > kMostElements)
    refuse("expected units that fit in memory, got " + std::to_string(n.U));
  if (n.T >= INT32_MAX)  // the kernels count timesteps in 32 bits
    refuse("expected fewer than 2147483647 timesteps, got " + std::to_string(n.T));
  int64_t kept = 1;
  for (int64_t size : {n.B, n.T + 1, kMostColumns, padded(n.U)})
    if (__builtin_mul_overflow(kept, size, &kept) || kept > kMostElements)
      refuse("expected sizes that fit in memory, got batch " + std::to_string(n.B) +
             ", timesteps " + std::to_string(n.T) + ", units " + std::to_string(n.U));
  if (spec.precision == int8_weights && (n.D > kMostInt8Depth || n.U > kMostInt8Depth))
    refuse("expected at most 131072 features and units with weights of int8, got " +
           std::to_string(n.D > n.U ? n.D : n.U));
  const int64_t columns = layout_of(spec.kind).gates * n.U;
  if (recurrent.shape[1] != columns)
    refuse("recurrent kernel: expected (units, gates x units), here (" + std::to_string(n.U) + ", " +
           std::to_string(columns) + "), got (" + std::to_string(n.U) + ", " +
           std::to_string(recurrent.shape[1]) + ")");
  return n;
}

void read_run(Operation operation, const int64_t* fields, const Inputs& inputs,
              RunSignature& run) {
  std::memcpy(&run.spec, fields, sizeof(RunSpec));
  check_spec(run.spec);
  if (operation == Operation::backward && run.spec.precision == int8_weights)
    refuse("precision: weights of int8 have no gradients");
  // Of `forward`; the kernels look at it here too.
  if (operation == Operation::backward) run.spec.training = 1;
  List(run.spec, Sizes{}, run.inputs).inputs(operation);  // where those are that have the sizes
  run.sizes = read_sizes(run.spec, inputs, run.inputs);
  List(run.spec, run.sizes, run.inputs).inputs(operation);
  List(run.spec, run.sizes, run.outputs).outputs(operation);
}

}  // namespace

void refuse(const std::string& what) { throw Refusal{what}; }

void check_checkpoint(int64_t times) {
  const bool is_power = (times & (times - 1)) == 0;
  if (times == 0 || (times >= kLeastCheckpoint && times <= kMostElements && is_power)) return;
  refuse("checkpoint: expected 0 or a power of two from " + std::to_string(kLeastCheckpoint) +
         " on, got " + std::to_string(times));
}

static_assert(sizeof(RunSpec) == kSpecFields * sizeof(int64_t), "a spec is a RunSpec's fields");

std::vector<RunSignature> read_signature(Operation operation, const int64_t* spec, size_t spec_size,
                                         const Tensor* inputs, size_t n_inputs) {
  if (spec_size == 0 || spec_size % kSpecFields != 0)
    refuse("spec: expected " + std::to_string(kSpecFields) + " integers a run, got " +
           std::to_string(spec_size));
  std::vector<RunSignature> runs(spec_size / kSpecFields);
  size_t first = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    in_run(i, [&] {
      const size_t left = first < n_inputs ? n_inputs - first : 0;
      read_run(operation, spec + i * kSpecFields, {inputs + first, left, n_inputs}, runs[i]);
    });
    first += runs[i].inputs.count;
  }
  return runs;
}

std::vector<Argument> read_outputs(Operation operation, const int64_t* spec, size_t spec_size,
                                   const Tensor* inputs, size_t n_inputs) {
  if (spec_size > 0 && spec[0] == kRoutine)
    return routine_outputs(spec, spec_size, inputs, n_inputs);
  std::vector<Argument> outputs;
  for (const RunSignature& run : read_signature(operation, spec, spec_size, inputs, n_inputs))
    outputs.insert(outputs.end(), run.outputs.begin(), run.outputs.end());
  return outputs;
}

}  // namespace ostinato
