// Programs of steps as a Python class: mirrors program.h.
//
// A step is 1 us of work, so what is around it counts: arguments come as tuples of objects with the
// buffer protocol, and whatever doesn't fit is not an error here but a False, upon which Python
// converts it or says what is wrong with it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "step/program.h"
#include "reading.h"

namespace ostinato {
namespace {

// From some microseconds of work on other Python threads may run meanwhile; giving them their turn
// takes a tenth of a microsecond.
constexpr double kWorthReleasing = 4e5;

void raise(const std::string& error) {
  if (error == Program::kBusy) throw std::runtime_error(error);
  if (!error.empty()) throw nb::value_error(error.c_str());
}

// The memory of some arrays, for one call.
class Buffers {
 public:
  explicit Buffers(size_t most) { views_.reserve(most), data.reserve(most); }
  ~Buffers() {
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  // Whether the object is a dense array of `count` times so many bytes, of elements of this format.
  bool add(PyObject* object, bool writable, char format, int64_t bytes, int64_t count = 1) {
    if (__builtin_mul_overflow(bytes, count, &bytes)) return false;
    Py_buffer view;
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &view, flags) != 0) {
      PyErr_Clear();
      return false;
    }
    views_.push_back(view);
    data.push_back(view.buf);
    const char* got = view.format == nullptr ? "B" : view.format;
    if (got[0] != format || got[1] != '\0' || view.len != bytes) return false;
    return reinterpret_cast<uintptr_t>(view.buf) % size_t(view.itemsize) == 0;
  }

  std::vector<void*> data;

 private:
  std::vector<Py_buffer> views_;
};

class PyProgram {
 public:
  PyProgram(int64_t dtype, nb::handle spec, nb::handle weights) {
    const Tensors read(weights, "weights");
    std::string error;
    format_ = dtype_of(dtype) == Dtype::f64 ? 'd' : 'f';
    const std::vector<int64_t> numbers = integers(spec, "spec");
    program_ = Program::make(dtype_of(dtype), numbers, read.tensors.data(), read.tensors.size(),
                             &error);
    raise(error);
  }

  bool run(nb::tuple inputs, nb::tuple outputs, int64_t T) {
    const std::vector<int64_t>& in_bytes = program_->input_bytes();
    const std::vector<int64_t>& out_bytes = program_->output_bytes();
    if (T < 0 || T > INT32_MAX) throw nb::value_error("timesteps: expected 0 to 2147483647");
    if (inputs.size() != in_bytes.size() || outputs.size() != out_bytes.size()) return false;
    Buffers in(in_bytes.size()), out(out_bytes.size());
    for (size_t i = 0; i < in_bytes.size(); ++i) {
      const char format = program_->reads_ids(i) ? 'i' : format_;
      if (!in.add(item(inputs, i), false, format, in_bytes[i], T)) return false;
    }
    for (size_t i = 0; i < out_bytes.size(); ++i)
      if (!out.add(item(outputs, i), true, format_, out_bytes[i], T)) return false;
    std::string error;
    if (double(program_->work()) * double(T) < kWorthReleasing) {
      error = program_->run(in.data.data(), out.data.data(), T);
    } else {
      nb::gil_scoped_release released;
      error = program_->run(in.data.data(), out.data.data(), T);
    }
    raise(error);
    return true;
  }

  bool read_states(nb::tuple to) { return states(to, true); }
  bool write_states(nb::tuple from) { return states(from, false); }

  void set_weights(nb::handle weights) {
    const Tensors read(weights, "weights");
    const std::string error = program_->set_weights(read.tensors.data(), read.tensors.size());
    raise(error);
  }

 private:
  bool states(const nb::tuple& arrays, bool reads) {
    const std::vector<int64_t>& bytes = program_->state_bytes();
    if (arrays.size() != bytes.size()) return false;
    Buffers buffers(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) {
      const char format = program_->is_flags(i) ? '?' : format_;
      if (!buffers.add(item(arrays, i), reads, format, bytes[i])) return false;
    }
    const std::string error = reads ? program_->read_states(buffers.data.data())
                                    : program_->write_states(buffers.data.data());
    raise(error);
    return true;
  }

  std::unique_ptr<Program> program_;
  char format_ = 'f';
};

}  // namespace

void bind_program(nb::module_& module) {
  nb::class_<PyProgram>(module, "Program")
      .def(nb::init<int64_t, nb::handle, nb::handle>(), nb::arg("dtype"), nb::arg("spec"),
           nb::arg("weights"))
      .def("run", &PyProgram::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("timesteps"))
      .def("read_states", &PyProgram::read_states, nb::arg("to"))
      .def("write_states", &PyProgram::write_states, nb::arg("from_"))
      .def("set_weights", &PyProgram::set_weights, nb::arg("weights"));
}

}  // namespace ostinato
