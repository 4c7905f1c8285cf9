// TensorFlow's door to the core: the operations OstinatoForward and OstinatoBackward.
//
// Both take and give any number of tensors, and have the attribute `spec`: the inputs and outputs
// of the function of the core that has their name. tf.load_op_library loads this file; they are
// registered while it's loaded, as TensorFlow asks. If this TensorFlow lacks a function that we
// need, nothing is registered, and the door in Python tells so.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "ostinato.h"
#include "routine/routine.h"
#include "signature.h"
#include "spec.h"
#include "tensorflow_c_api.h"

namespace ostinato::tensorflow {
namespace {

using Core = std::string (*)(const int64_t* spec, size_t spec_size, const Tensor* inputs,
                             size_t n_inputs, const Tensor* outputs, size_t n_outputs);
using Shape = std::vector<int64_t>;

Api api;

// An error that becomes the operation's status.
struct Failure {
  TF_Code code;
  std::string message;
};

class Status {
 public:
  Status() : status_(api.TF_NewStatus()) {}
  ~Status() { api.TF_DeleteStatus(status_); }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;
  TF_Status* get() const { return status_; }
  bool ok() const { return api.TF_GetCode(status_) == TF_OK; }
  void set(const Failure& failure) {
    api.TF_SetStatus(status_, failure.code, failure.message.c_str());
  }

 private:
  TF_Status* status_;
};

// A TensorFlow tensor as the core sees it.
class Held {
 public:
  explicit Held(TF_Tensor* tensor) : tensor_(tensor) {}
  ~Held() {
    if (tensor_ != nullptr) api.TF_DeleteTensor(tensor_);
  }
  Held(Held&& other) noexcept
      : tensor_(std::exchange(other.tensor_, nullptr)), shape_(std::move(other.shape_)) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  Tensor view() {
    const int rank = api.TF_NumDims(tensor_);
    shape_.resize(rank);
    for (int i = 0; i < rank; ++i) shape_[i] = api.TF_Dim(tensor_, i);
    return {api.TF_TensorData(tensor_), dtype(), rank, shape_.data()};
  }

 private:
  Dtype dtype() const {
    switch (api.TF_TensorType(tensor_)) {
      case TF_FLOAT: return Dtype::f32;
      case TF_DOUBLE: return Dtype::f64;
      case TF_BOOL: return Dtype::boolean;
      case TF_BFLOAT16: return Dtype::bf16;
      case TF_INT8: return Dtype::i8;
    }
    refuse("expected tensors of float32, float64, bfloat16, int8 or bool");
  }

  TF_Tensor* tensor_;
  Shape shape_;
};

int64_t bytes_of(const Argument& output, TF_DataType dtype) {
  int64_t count = 1;
  for (int32_t i = 0; i < output.rank; ++i) {
    const int64_t size = output.shape[i];
    if (size == 0) return 0;
    if (__builtin_mul_overflow(count, size, &count) || count > kMostElements)
      throw Failure{TF_RESOURCE_EXHAUSTED, "an output would not fit into any memory"};
  }
  return count * (dtype == TF_DOUBLE ? 8 : dtype == TF_FLOAT ? 4 : 2);
}

// TensorFlow keeps freed memory for the next call, as the core's pool does: outputs over blocks of
// that were no faster (LSTM B64 T100 D128 U512, training step, CPU time: 215 ms and 214 ms).
Held allocate(TF_OpKernelContext* context, int index, TF_DataType dtype,
              const Argument& output) {
  const int64_t bytes = bytes_of(output, dtype);
  Status status;
  Held tensor(
      api.TF_AllocateOutput(context, index, dtype, output.shape, output.rank, bytes, status.get()));
  if (!status.ok()) throw Failure{TF_RESOURCE_EXHAUSTED, "no memory for the outputs"};
  return tensor;
}

// The dtype that all floats have: that of the first input of floats.
TF_DataType floats_of(const std::vector<Tensor>& inputs) {
  for (const Tensor& input : inputs) {
    switch (input.dtype) {
      case Dtype::f32: return TF_FLOAT;
      case Dtype::f64: return TF_DOUBLE;
      case Dtype::bf16: return TF_BFLOAT16;
      case Dtype::i8:
      case Dtype::boolean: break;
    }
  }
  return TF_FLOAT;
}

struct Kernel {
  std::vector<int64_t> spec;
};

// What differs between the two operations.
struct Forward {
  static constexpr const char* name = "OstinatoForward";
  static constexpr auto operation = Operation::forward;
  static constexpr Core core = ostinato::forward;
};
struct Backward {
  static constexpr const char* name = "OstinatoBackward";
  static constexpr auto operation = Operation::backward;
  static constexpr Core core = ostinato::backward;
};

template <class Door>
void run(const Kernel& kernel, TF_OpKernelContext* context) {
  std::vector<Held> held;
  std::vector<Tensor> inputs, outputs;
  const int n_inputs = api.TF_NumInputs(context), n_outputs = api.TF_NumOutputs(context);
  held.reserve(n_inputs + n_outputs);
  for (int i = 0; i < n_inputs; ++i) {
    Status status;
    TF_Tensor* tensor = nullptr;
    api.TF_GetInput(context, i, &tensor, status.get());
    if (!status.ok()) refuse("input " + std::to_string(i) + " can't be read");
    inputs.push_back(held.emplace_back(tensor).view());
  }
  const std::vector<Argument> wanted =
      read_outputs(Door::operation, kernel.spec.data(), kernel.spec.size(), inputs.data(),
                   inputs.size());
  if (size_t(n_outputs) != wanted.size())
    refuse("expected a Tout of " + std::to_string(wanted.size()) + " dtypes, got " +
           std::to_string(n_outputs));
  const TF_DataType dtype = floats_of(inputs);
  for (int i = 0; i < n_outputs; ++i)
    if (api.TF_ExpectedOutputDataType(context, i) != dtype)
      refuse("expected a Tout of the dtype of the inputs");
  for (int i = 0; i < n_outputs; ++i) {
    held.push_back(allocate(context, i, dtype, wanted[i]));
    outputs.push_back(held.back().view());
  }
  const std::string error =
      Door::core(kernel.spec.data(), kernel.spec.size(), inputs.data(), inputs.size(),
                      outputs.data(), outputs.size());
  if (!error.empty()) refuse(error);
}

// TensorFlow is built without exceptions: none may leave these functions.
template <class Door>
void compute(void* kernel, TF_OpKernelContext* context) {
  Failure failure{TF_OK, ""};
  try {
    run<Door>(*static_cast<const Kernel*>(kernel), context);
    return;
  } catch (const Failure& refused) {
    failure = refused;
  } catch (const Refusal& refused) {
    failure = {TF_INVALID_ARGUMENT, refused.what};
  } catch (const std::exception& error) {
    failure = {TF_RESOURCE_EXHAUSTED, error.what()};
  }
  Status status;
  failure.message = std::string("[") + Door::name + "] " + failure.message;
  status.set(failure);
  api.TF_OpKernelContext_Failure(context, status.get());
}

void* create(TF_OpKernelConstruction* construction) {
  auto* kernel = new Kernel;
  Status status;
  int32_t size = 0, total = 0;
  api.TF_OpKernelConstruction_GetAttrSize(construction, "spec", &size, &total, status.get());
  if (status.ok() && size > 0) {
    kernel->spec.resize(size);
    api.TF_OpKernelConstruction_GetAttrInt64List(construction, "spec", kernel->spec.data(), size,
                                                 status.get());
  }
  if (!status.ok()) api.TF_OpKernelConstruction_Failure(construction, status.get());
  return kernel;
}

void destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }

// The C API can't read `spec` here: the door in Python sets the shapes.
void unknown_shapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  api.TF_ShapeInferenceContextSetUnknownShape(context, status);
}

template <class Door>
bool register_operation() {
  Status status;
  TF_OpDefinitionBuilder* builder = api.TF_NewOpDefinitionBuilder(Door::name);
  api.TF_OpDefinitionBuilderAddInput(builder, "inputs: Tin");
  api.TF_OpDefinitionBuilderAddOutput(builder, "outputs: Tout");
  api.TF_OpDefinitionBuilderAddAttr(builder, "Tin: list({float, double, bfloat16, int8, bool}) >= 1");
  api.TF_OpDefinitionBuilderAddAttr(builder, "Tout: list({float, double, bfloat16}) >= 1");
  api.TF_OpDefinitionBuilderAddAttr(builder, "spec: list(int)");
  // For whoever prints a graph's operations and doesn't know this one; TFLite's converter does.
  api.TF_OpDefinitionBuilderAddAttr(
      builder, "elsewhere: string = 'with ostinato.use_engine(\"scan\") the graph has none of these'");
  api.TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, unknown_shapes);
  api.TF_RegisterOpDefinition(builder, status.get());  // and deletes it
  if (!status.ok()) return false;
  TF_KernelBuilder* kernel =
      api.TF_NewKernelBuilder(Door::name, "CPU", create, compute<Door>, destroy);
  api.TF_RegisterKernelBuilder(Door::name, kernel, status.get());
  return status.ok();
}

// The library of this process that has TensorFlow's C API; it must be loaded already.
void* loaded_library() {
  const char* const names[] = {
      "libtensorflow_framework.so.2",
      "libtensorflow_cc.so.2",
      "@rpath/libtensorflow_framework.2.dylib",
      "libtensorflow_framework.2.dylib",
      "@rpath/libtensorflow_cc.2.dylib",
  };
  for (const char* name : names) {
    void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    if (library != nullptr && dlsym(library, "TF_RegisterOpDefinition") != nullptr) return library;
  }
  return RTLD_DEFAULT;
}

bool find_functions() {
  void* library = loaded_library();
  bool all = true;
#define OSTINATO_TF_FIND(name, result, parameters)                             \
  api.name = reinterpret_cast<result(*) parameters>(dlsym(library, #name));    \
  all = all && api.name != nullptr;
  OSTINATO_TF_FUNCTIONS(OSTINATO_TF_FIND)
#undef OSTINATO_TF_FIND
  return all;
}

[[maybe_unused]] const bool registered =
    find_functions() && register_operation<Forward>() && register_operation<Backward>();

}  // namespace
}  // namespace ostinato::tensorflow

// Registers a routine in this library's core: Python calls it by ctypes. Returns 0, or 1 where it's
// refused, with what is wrong in `error`.
extern "C" __attribute__((visibility("default"))) int ostinato_register_routine(
    const int64_t* ints, size_t n_ints, const double* floats, size_t n_floats, char* error,
    size_t error_size) {
  std::string wrong;
  try {
    ostinato::RoutineHash hash{};
    wrong = ostinato::register_routine(ints, n_ints, floats, n_floats, &hash);
  } catch (const std::exception& failure) {  // none may leave a function of C
    wrong = failure.what();
  }
  if (error != nullptr && error_size > 0) std::snprintf(error, error_size, "%s", wrong.c_str());
  return wrong.empty() ? 0 : 1;
}
