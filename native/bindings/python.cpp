// The Python module ostinato._native: mirrors ostinato.h and memory.h, and holds no mathematics.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <new>
#include <vector>

#include "kinds/layout.h"
#include "memory.h"
#include "openmp.h"
#include "ostinato.h"
#include "reading.h"
#include "routine/routine.h"
#include "threads.h"

namespace ostinato {
void bind_program(nb::module_& module);
#if defined(OSTINATO_HAS_JAX)
void bind_jax(nb::module_& module);
#endif

namespace {

using Call = std::string (*)(const int64_t*, size_t, const Tensor*, size_t, const Tensor*, size_t);

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

// Of each kind of cell, in the order of their numbers: its name, gates, states, rows of its bias, and
// columns of `saved`.
nb::tuple kinds() {
  nb::list result;
  for (RunSpec run{}; run.kind < kind_count(); ++run.kind) {
    const CellLayout& cell = layout_of(run.kind);
    result.append(nb::make_tuple(cell.name, cell.gates, cell.states, cell.bias_rows,
                                 saved_columns(run)));
  }
  return nb::tuple(result);
}

// The addresses of the functions of openmp.h, in its order.
void lend(uintptr_t parallel, uintptr_t thread_num, uintptr_t num_threads, uintptr_t max_threads) {
  if (parallel == 0 || thread_num == 0 || num_threads == 0 || max_threads == 0)
    throw nb::value_error("lend_openmp: expected the addresses of four functions, got a null one");
  lend_openmp({reinterpret_cast<decltype(OpenMP::parallel)>(parallel),
               reinterpret_cast<decltype(OpenMP::thread_num)>(thread_num),
               reinterpret_cast<decltype(OpenMP::num_threads)>(num_threads),
               reinterpret_cast<decltype(OpenMP::max_threads)>(max_threads)});
}

nb::tuple names(const char* const* (*list)(size_t*)) {
  size_t count = 0;
  const char* const* all = list(&count);
  nb::list result;
  for (size_t i = 0; i < count; ++i) result.append(all[i]);
  return nb::tuple(result);
}

// Its hash, as two numbers of 31 bits.
nb::tuple register_one(nb::handle ints, nb::handle floats) {
  const std::vector<int64_t> numbers = integers(ints, "ints");
  nb::tuple given = items(floats, "floats");
  std::vector<double> literals(given.size());
  for (size_t i = 0; i < literals.size(); ++i) {
    literals[i] = PyFloat_AsDouble(item(given, i));
    if (literals[i] == -1 && PyErr_Occurred()) throw nb::python_error();
  }
  RoutineHash hash{};
  const std::string error = register_routine(numbers.data(), numbers.size(), literals.data(),
                                             literals.size(), &hash);
  if (!error.empty()) throw nb::value_error(error.c_str());
  return nb::make_tuple(hash.high, hash.low);
}

// Memory of the pool as a Python object: freed with it, back to the pool.
class PooledBuffer {
 public:
  explicit PooledBuffer(size_t bytes) : bytes_(bytes), memory_(bytes) {
    if (memory_.data() == nullptr) throw std::bad_alloc();
  }
  static int view(PyObject* self, Py_buffer* buffer, int flags) {
    if (!nb::inst_ready(self)) {  // made by __new__ alone
      PyErr_SetString(PyExc_BufferError, "a PooledBuffer without memory");
      return -1;
    }
    auto* mine = nb::inst_ptr<PooledBuffer>(self);
    return PyBuffer_FillInfo(buffer, self, mine->memory_.data(), Py_ssize_t(mine->bytes_), 0,
                             flags);
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  Buffer memory_;
};

PyType_Slot buffer_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(PooledBuffer::view)},
                              {0, nullptr}};

}  // namespace

NB_MODULE(_native, module) {
  // A script that an exception ends may leave a graph alive, and in it our buffers: no leak.
  nb::set_leak_warnings(false);
  module.doc() = "Ostinato's fused recurrent layers. Private to ostinato.native and the doors.";
  module.def("forward", run<forward>, nb::arg("spec").none(), nb::arg("inputs").none(),
             nb::arg("outputs").none());
  module.def("backward", run<backward>, nb::arg("spec").none(), nb::arg("inputs").none(),
             nb::arg("outputs").none());
  module.def("kinds", kinds);
  module.def("activation_names", [] { return names(activation_names); });
  module.def("register_routine", register_one, nb::arg("ints").none(), nb::arg("floats").none());
  module.def("routine_operations", [] { return names(routine_operations); });
  module.def("runnable_targets", [] { return names(runnable_targets); });
  module.def("target", target);
  module.def("computes_bfloat16", computes_bfloat16);
  module.def("threads", thread_count);
  module.def("lend_openmp", lend, nb::arg("parallel"), nb::arg("thread_num"),
             nb::arg("num_threads"), nb::arg("max_threads"));
  module.def("pooled_bytes", pooled_bytes);
  nb::class_<PooledBuffer>(module, "PooledBuffer", nb::type_slots(buffer_slots))
      .def(nb::init<size_t>(), nb::arg("nbytes"))
      .def("__len__", &PooledBuffer::bytes);
  bind_program(module);
#if defined(OSTINATO_HAS_JAX)
  bind_jax(module);
#endif
}

}  // namespace ostinato
