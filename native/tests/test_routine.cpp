// Routines against plain loops in double (naive_routine.cpp): random ones of all instructions, odd
// sizes, every operation; and encodings and calls that must be refused.
//
//   test_routine [cases]     OSTINATO_TARGET chooses the target, OSTINATO_NUM_THREADS the threads
#include <cmath>
#include <cstring>
#include <memory>

#include "../core/kernels.h"
#include "../core/threads.h"
#include "routines.h"

using namespace ostinato;
using namespace ostinato::tests;

namespace {

double tolerance(float) { return 2e-5; }
double tolerance(double) { return 2e-12; }

double worst = 0;  // of the tolerance

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

std::string register_it(const Encoding& e, RoutineHash* hash) {
  const Ints ints = e.ints();
  return register_routine(ints.data(), ints.size(), e.floats.data(), e.floats.size(), hash);
}

template <class F>
struct Bound {
  Memory<F> in, out;
  Ints spec;

  Bound(const Encoding& e, const RoutineNumbers& n, const RoutineHash& hash)
      : spec{kRoutine, hash.high, hash.low, n.go_backwards, n.flip_outputs, n.return_sequences} {
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

// A saved value of T steps has room for one more, that nobody writes or reads.
bool is_unused(const Encoding& e, const RoutineNumbers& n, const Encoding::Result& result, size_t at) {
  if (result.kind != 5) return false;
  int64_t before = 0;
  for (const Encoding::Three& value : e.saved) {
    const int64_t first = (n.T + 1) * n.B * before, room = (n.T + 1) * n.B * value.a;
    before += value.a;
    if (int64_t(at) >= first + room) continue;
    return value.b == 0 && int64_t(at) >= first + n.T * n.B * value.a;
  }
  return true;
}

template <class F>
void compare(const Encoding& e, const RoutineNumbers& fresh, const RoutineNumbers& expected,
             const RoutineHash& hash, const std::string& name) {
  Bound<F> bound(e, fresh, hash);
  const std::string error = bound.run();
  CHECK(error.empty(), "%s: %s", name.c_str(), error.c_str());
  for (size_t r = 0; r < e.results.size(); ++r) {
    const Numbers64& truth = expected.results[r];
    double scale = 1;
    for (double value : truth)
      if (std::isfinite(value)) scale = std::fmax(scale, std::abs(value));
    const F* got = static_cast<const F*>(bound.out.tensors[r].data);
    for (size_t i = 0; i < truth.size(); ++i) {
      if (is_unused(e, fresh, e.results[r], i)) continue;
      const double error_of = std::abs(double(got[i]) - truth[i]);
      worst = std::fmax(worst, error_of / scale / tolerance(F()));
      CHECK(error_of <= scale * tolerance(F()),
            "%s, result %zu of kind %d, B %d, T %d, [%zu] in float%zu: expected %.9g, got %.9g",
            name.c_str(), r, int(e.results[r].kind), int(fresh.B), int(fresh.T), i, 8 * sizeof(F),
            truth[i], double(got[i]));
    }
  }
}

void check(const Encoding& e, int64_t B, int64_t T, Random& random, const std::string& name) {
  RoutineHash hash{};
  const std::string error = register_it(e, &hash);
  CHECK(error.empty(), "%s: %s", name.c_str(), error.c_str());
  const RoutineNumbers fresh = random_numbers(e, B, T, random);
  RoutineNumbers expected = fresh;
  run_plainly(e, expected);
  compare<float>(e, fresh, expected, hash, name);
  compare<double>(e, fresh, expected, hash, name);
}

void show(const Encoding& e) {
  for (const auto& o : e.operands) {
    std::printf("operand kind %d order %d:", int(o.kind), int(o.order));
    for (int64_t d : o.dims) std::printf(" %d", int(d));
    std::printf("\n");
  }
  for (const auto& o : e.results) {
    std::printf("result kind %d order %d which %d:", int(o.kind), int(o.order), int(o.which));
    for (int64_t d : o.dims) std::printf(" %d", int(d));
    std::printf("\n");
  }
  for (const auto& s : e.scratch) std::printf("scratch %d at %d ring %d\n", int(s.a), int(s.b), int(s.c));
  for (const auto& s : e.body) {
    for (int64_t d : s) std::printf(" %d", int(d));
    std::printf("\n");
  }
}

void test_random_routines(int64_t count) {
  const char* only = std::getenv("ONLY");
  for (int64_t i = only ? std::atoll(only) : 0; i < count; ++i) {
    Random random{uint64_t(i)};
    const int64_t batches[] = {1, 2, 5, 17, 70}, steps[] = {1, 2, 3, 11};
    const Encoding e = random_routine(random);
    if (only) show(e);
    check(e, random.pick(batches), random.pick(steps), random, "routine " + std::to_string(i));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (selected_kernels() == nullptr) {
    std::printf("skipped: no such target here\n");
    return kSkipped;
  }
  const int64_t count = argc > 1 ? std::atoll(argv[1]) : 300;
  test_random_routines(count);
  std::printf("%s, %d threads: at most %.2f of what's allowed\n", target().c_str(), thread_count(), worst);
  return 0;
}
