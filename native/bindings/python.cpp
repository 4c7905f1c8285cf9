// The Python module ostinato._native: mirrors ostinato.h and memory.h, and holds no mathematics.
//
// Tensors come as (address, dtype number, shape). Addresses are between a door and this module: the
// door has made sure that the memory is dense, on the CPU, and outlives the call.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <new>
#include <vector>

#include "memory.h"
#include "ostinato.h"

namespace nb = nanobind;

namespace ostinato {
#if defined(OSTINATO_HAS_JAX)
void bind_jax(nb::module_& module);
#endif

namespace {

using Call = std::string (*)(const int64_t*, size_t, const Tensor*, size_t, const Tensor*, size_t);

int64_t integer(PyObject* object) {
  long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) throw nb::python_error();
  return value;
}

// The items of a tuple or list, as a tuple that keeps them.
nb::tuple items(nb::handle object, const char* what) {
  if (!PyTuple_Check(object.ptr()) && !PyList_Check(object.ptr())) {
    std::string got = nb::cast<std::string>(object.type().attr("__name__"));
    throw nb::type_error((std::string(what) + ": expected a tuple or list, got " + got).c_str());
  }
  return nb::steal<nb::tuple>(PySequence_Tuple(object.ptr()));
}

PyObject* item(const nb::tuple& tuple, size_t index) {  // borrowed
  return PyTuple_GetItem(tuple.ptr(), Py_ssize_t(index));
}

std::vector<int64_t> integers(nb::handle object, const char* what) {
  nb::tuple numbers = items(object, what);
  std::vector<int64_t> values(numbers.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = integer(item(numbers, i));
  return values;
}

// Tensors and the shapes that they point to. No framework's tensors have more dimensions than this
// that we could take; one that has is refused by its rank.
struct Tensors {
  static constexpr size_t kMostDimensions = 8;
  std::vector<Tensor> tensors;
  std::vector<int64_t> shapes;

  Tensors(nb::handle object, const char* what) {
    nb::tuple triples = items(object, what);
    tensors.resize(triples.size());
    shapes.resize(tensors.size() * kMostDimensions);
    for (size_t i = 0; i < tensors.size(); ++i)
      tensors[i] = read(item(triples, i), &shapes[i * kMostDimensions], what);
  }

  static Tensor read(nb::handle object, int64_t* shape, const char* what) {
    nb::tuple triple = items(object, what);
    if (triple.size() != 3)
      throw nb::type_error(
          (std::string(what) + ": expected (address, dtype, shape) for each tensor").c_str());
    nb::tuple dimensions = items(item(triple, 2), what);
    size_t rank = dimensions.size();
    if (rank > kMostDimensions)
      throw nb::value_error((std::string(what) + ": expected at most " +
                             std::to_string(kMostDimensions) + " dimensions, got " +
                             std::to_string(rank))
                                .c_str());
    for (size_t i = 0; i < rank; ++i) shape[i] = integer(item(dimensions, i));
    void* data = PyLong_AsVoidPtr(item(triple, 0));
    if (data == nullptr && PyErr_Occurred()) throw nb::python_error();
    return {data, Dtype(integer(item(triple, 1))), int32_t(rank), shape};
  }
};

template <Call call>
void run(nb::handle spec, nb::handle inputs, nb::handle outputs) {
  std::vector<int64_t> numbers = integers(spec, "spec");
  Tensors in(inputs, "inputs"), out(outputs, "outputs");
  std::string error;
  {
    nb::gil_scoped_release released;
    error = call(numbers.data(), numbers.size(), in.tensors.data(), in.tensors.size(),
                 out.tensors.data(), out.tensors.size());
  }
  if (!error.empty()) throw nb::value_error(error.c_str());
}

int64_t columns(nb::handle spec) {
  std::vector<int64_t> numbers = integers(spec, "spec");
  if (numbers.size() != kSpecFields)
    throw nb::value_error(("spec: expected " + std::to_string(kSpecFields) + " integers, got " +
                           std::to_string(numbers.size()))
                              .c_str());
  RunSpec run;
  std::memcpy(&run, numbers.data(), sizeof(run));
  return saved_columns(run);
}

nb::tuple names(const char* const* (*list)(size_t*)) {
  size_t count = 0;
  const char* const* all = list(&count);
  nb::list result;
  for (size_t i = 0; i < count; ++i) result.append(all[i]);
  return nb::tuple(result);
}

// Memory of the pool as a Python object: freed with it, back to the pool.
class PooledBuffer {
 public:
  explicit PooledBuffer(size_t bytes) : bytes_(bytes), memory_(bytes) {
    if (memory_.data() == nullptr) throw std::bad_alloc();
  }
  static int view(PyObject* self, Py_buffer* buffer, int flags) {
    auto* mine = nb::inst_ptr<PooledBuffer>(self);
    return PyBuffer_FillInfo(buffer, self, mine->memory_.data(), Py_ssize_t(mine->bytes_), 0,
                             flags);
  }
  size_t bytes() const { return bytes_; }
  uintptr_t address() const { return reinterpret_cast<uintptr_t>(memory_.data()); }

 private:
  size_t bytes_;
  Buffer memory_;
};

PyType_Slot buffer_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(PooledBuffer::view)},
                              {0, nullptr}};

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "Ostinato's fused recurrent layers. Private to ostinato.native and the doors.";
  module.def("forward", run<forward>, nb::arg("spec").none(), nb::arg("inputs").none(),
             nb::arg("outputs").none());
  module.def("backward", run<backward>, nb::arg("spec").none(), nb::arg("inputs").none(),
             nb::arg("outputs").none());
  module.def("saved_columns", columns, nb::arg("spec"));
  module.def("activation_names", [] { return names(activation_names); });
  module.def("runnable_targets", [] { return names(runnable_targets); });
  module.def("target", target);
  module.def("threads", threads);
  module.def("pooled_bytes", pooled_bytes);
  nb::class_<PooledBuffer>(module, "PooledBuffer", nb::type_slots(buffer_slots))
      .def(nb::init<size_t>(), nb::arg("nbytes"))
      .def("__len__", &PooledBuffer::bytes)
      .def_prop_ro("address", &PooledBuffer::address);
#if defined(OSTINATO_HAS_JAX)
  bind_jax(module);
#endif
}

}  // namespace ostinato
