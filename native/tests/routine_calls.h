// A call of a routine: its tensors, and the core called with them.
#pragma once

#include <memory>
#include <string>

#include "routines.h"

namespace ostinato::tests {

// Memory of a call, each tensor by itself and no larger than it is, so that AddressSanitizer watches.
template <class F>
struct Memory {
  std::vector<std::unique_ptr<F[]>> floats;
  std::vector<std::unique_ptr<uint8_t[]>> bytes;
  std::vector<Ints> shapes;
  std::vector<Tensor> tensors;

  static constexpr Dtype dtype = sizeof(F) == 4 ? Dtype::f32 : Dtype::f64;

  void reserve(size_t count) { shapes.reserve(count); }
  void add(Ints shape, const Numbers64& values, bool is_mask) {
    void* data;
    if (is_mask) {
      bytes.emplace_back(new uint8_t[values.size()]);
      for (size_t i = 0; i < values.size(); ++i) bytes.back()[i] = uint8_t(values[i]);
      data = bytes.back().get();
    } else {
      floats.emplace_back(new F[values.size()]);
      for (size_t i = 0; i < values.size(); ++i) floats.back()[i] = F(values[i]);
      data = floats.back().get();
    }
    shapes.push_back(std::move(shape));
    tensors.push_back({data, is_mask ? Dtype::boolean : dtype, int32_t(shapes.back().size()),
                       shapes.back().data()});
  }
};

inline std::string register_it(const Encoding& e, RoutineHash* hash) {
  const Ints ints = e.ints();
  return register_routine(ints.data(), ints.size(), e.floats.data(), e.floats.size(), hash);
}

template <class F>
struct Bound {
  Memory<F> in, out;
  Ints spec;

  Bound(const Encoding& e, const RoutineNumbers& n, const RoutineHash& hash)
      : spec{kRoutine,       hash.high,          hash.low,   n.go_backwards,
             n.flip_outputs, n.return_sequences, n.precision, 0, 0, 0, 0} {
    in.reserve(e.operands.size()), out.reserve(e.results.size());
    for (size_t i = 0; i < e.operands.size(); ++i)
      in.add(n.shape(e, e.operands[i]), n.operands[i], e.operands[i].kind == 3);
    for (size_t i = 0; i < e.results.size(); ++i)
      out.add(n.shape(e, e.results[i]), n.results[i], false);
  }

  std::string run() {
    return forward(spec.data(), spec.size(), in.tensors.data(), in.tensors.size(),
                   out.tensors.data(), out.tensors.size());
  }
};

}  // namespace ostinato::tests
