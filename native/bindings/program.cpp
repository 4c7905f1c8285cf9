// Programs of steps as a Python class: mirrors program.h.
//
// A step is 1 us of work, so what is around it counts: arguments come as tuples of objects with the
// buffer protocol, and whatever doesn't fit is not an error here but a False, upon which Python
// converts it or says what is wrong with it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
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

  std::unique_ptr<PyProgram> another(int64_t streams) {
    std::string error;
    std::unique_ptr<PyProgram> made(new PyProgram);
    made->format_ = format_;
    made->program_ = program_->another(streams, &error);
    raise(error);
    return made;
  }

  bool run(nb::tuple inputs, nb::tuple outputs, int64_t T, nb::handle rows, nb::handle resets) {
    const std::vector<int64_t>& in_bytes = program_->input_bytes();
    const std::vector<int64_t>& out_bytes = program_->output_bytes();
    if (T < 0 || T > INT32_MAX) throw nb::value_error("timesteps: expected 0 to 2147483647");
    if (inputs.size() != in_bytes.size() || outputs.size() != out_bytes.size()) return false;
    Rows chosen(rows);
    const int64_t n = chosen.rows.count = chosen.count_of(*program_);
    int64_t timesteps;
    if (!chosen.fits || __builtin_mul_overflow(n, T, &timesteps)) return false;
    Buffers in(in_bytes.size()), out(out_bytes.size()), reset(1);
    for (size_t i = 0; i < in_bytes.size(); ++i) {
      const char format = program_->reads_ids(i) ? 'i' : format_;
      if (!in.add(item(inputs, i), false, format, in_bytes[i], timesteps)) return false;
    }
    for (size_t i = 0; i < out_bytes.size(); ++i)
      if (!out.add(item(outputs, i), true, format_, out_bytes[i], timesteps)) return false;
    if (!resets.is_none() && !reset.add(resets.ptr(), false, '?', 1, timesteps)) return false;
    const uint8_t* flags = reset.data.empty() ? nullptr : static_cast<uint8_t*>(reset.data[0]);
    std::string error;
    if (double(program_->work()) * double(timesteps) < kWorthReleasing) {
      error = program_->run(in.data.data(), out.data.data(), T, chosen.rows, flags);
    } else {
      nb::gil_scoped_release released;
      error = program_->run(in.data.data(), out.data.data(), T, chosen.rows, flags);
    }
    raise(error);
    return true;
  }

  bool reset(nb::handle rows) {
    const Rows chosen(rows);
    if (!chosen.fits) return false;
    raise(program_->reset(chosen.rows));
    return true;
  }

  bool read_states(nb::tuple to, nb::handle rows) { return states(to, true, rows); }
  bool write_states(nb::tuple from, nb::handle rows) { return states(from, false, rows); }

  bool set_initial(nb::tuple from) {
    Buffers buffers(from.size());
    if (!add_states(buffers, from, false, 1)) return false;
    raise(program_->set_initial(buffers.data.data()));
    return true;
  }

  void resize(int64_t streams) { raise(program_->resize(streams)); }
  void share_weights(PyProgram& other) { raise(program_->share_weights(*other.program_)); }

  void set_weights(nb::handle weights) {
    const Tensors read(weights, "weights");
    const std::string error = program_->set_weights(read.tensors.data(), read.tensors.size());
    raise(error);
  }

 private:
  PyProgram() = default;

  // An array of int64, for one call; None: all rows.
  struct Rows {
    Buffers buffers{1};
    ChosenRows rows;
    bool fits = true;

    explicit Rows(nb::handle object) {
      if (object.is_none()) return;
      Py_buffer view;
      fits = PyObject_GetBuffer(object.ptr(), &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) == 0;
      if (!fits) PyErr_Clear();
      if (!fits) return;
      const int64_t count = view.len / int64_t(sizeof(int64_t));
      const char format = view.format == nullptr ? 'B' : view.format[0];
      PyBuffer_Release(&view);
      fits = (format == 'l' || format == 'q') &&
             buffers.add(object.ptr(), false, format, int64_t(sizeof(int64_t)), count);
      static const int64_t none = 0;
      if (fits) rows = {count == 0 ? &none : static_cast<int64_t*>(buffers.data[0]), count};
    }
    int64_t count_of(const Program& program) const {
      return rows.rows == nullptr ? program.streams() : rows.count;
    }
  };

  bool add_states(Buffers& buffers, const nb::tuple& arrays, bool reads, int64_t rows) const {
    const std::vector<int64_t>& bytes = program_->state_bytes();
    if (arrays.size() != bytes.size()) return false;
    for (size_t i = 0; i < bytes.size(); ++i) {
      const char format = program_->is_flags(i) ? '?' : format_;
      if (!buffers.add(item(arrays, i), reads, format, bytes[i], rows)) return false;
    }
    return true;
  }

  bool states(const nb::tuple& arrays, bool reads, nb::handle rows) {
    const Rows chosen(rows);
    Buffers buffers(arrays.size());
    if (!chosen.fits || !add_states(buffers, arrays, reads, chosen.count_of(*program_))) return false;
    raise(reads ? program_->read_states(buffers.data.data(), chosen.rows)
                : program_->write_states(buffers.data.data(), chosen.rows));
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
      .def("another", &PyProgram::another, nb::arg("streams"))
      .def("run", &PyProgram::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("timesteps"),
           nb::arg("rows").none() = nb::none(), nb::arg("resets").none() = nb::none())
      .def("reset", &PyProgram::reset, nb::arg("rows").none() = nb::none())
      .def("resize", &PyProgram::resize, nb::arg("streams"))
      .def("read_states", &PyProgram::read_states, nb::arg("to"), nb::arg("rows").none() = nb::none())
      .def("write_states", &PyProgram::write_states, nb::arg("from_"), nb::arg("rows").none() = nb::none())
      .def("set_initial", &PyProgram::set_initial, nb::arg("from_"))
      .def("share_weights", &PyProgram::share_weights, nb::arg("other"))
      .def("set_weights", &PyProgram::set_weights, nb::arg("weights"));
}

}  // namespace ostinato
