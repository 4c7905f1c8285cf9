// Reads what Python passes: integers, and tensors as (address, dtype number, shape).
//
// Addresses are between a door and this module: the door has made sure that the memory is dense, on
// the CPU, and outlives the call.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <vector>

#include "ostinato.h"

namespace nb = nanobind;

namespace ostinato {

inline int64_t integer(PyObject* object) {
  long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) throw nb::python_error();
  return value;
}

// A dtype by its number; of a number that stands for none the core says that it knows it not.
inline Dtype dtype_of(int64_t number) { return Dtype(number == int32_t(number) ? number : -1); }

// The items of a tuple or list, as a tuple that keeps them.
inline nb::tuple items(nb::handle object, const char* what) {
  if (!PyTuple_Check(object.ptr()) && !PyList_Check(object.ptr())) {
    std::string got = nb::cast<std::string>(object.type().attr("__name__"));
    throw nb::type_error((std::string(what) + ": expected a tuple or list, got " + got).c_str());
  }
  return nb::steal<nb::tuple>(PySequence_Tuple(object.ptr()));
}

inline PyObject* item(const nb::tuple& tuple, size_t index) {  // borrowed
  return PyTuple_GetItem(tuple.ptr(), Py_ssize_t(index));
}

inline std::vector<int64_t> integers(nb::handle object, const char* what) {
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
    return {data, dtype_of(integer(item(triple, 1))), int32_t(rank), shape};
  }
};

}  // namespace ostinato
