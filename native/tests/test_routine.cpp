// Routines against plain loops in double (naive_routine.cpp): random ones of all instructions, odd
// sizes, every operation; and encodings and calls that must be refused.
//
//   test_routine [cases]     OSTINATO_TARGET chooses the target, OSTINATO_NUM_THREADS the threads
#include <cmath>
#include <cstring>

#include "../core/kernels.h"
#include "../core/threads.h"
#include "routine_calls.h"

using namespace ostinato;
using namespace ostinato::tests;

namespace {

double tolerance(float) { return 2e-5; }
double tolerance(double) { return 2e-12; }

double worst = 0;  // of the tolerance

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

void test_random_routines(int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Random random{uint64_t(i)};
    const int64_t batches[] = {1, 2, 5, 17, 70}, steps[] = {1, 2, 3, 19};
    const Encoding e = random_routine(random);
    check(e, random.pick(batches), random.pick(steps), random, "routine " + std::to_string(i));
  }
}

// The numbers of the first B rows, of operands that have rows.
RoutineNumbers first_rows(const Encoding& e, const RoutineNumbers& n, int64_t B) {
  RoutineNumbers fewer = n;
  fewer.B = B;
  const auto cut = [&](Numbers64& values) { values.resize(values.size() / size_t(n.B) * size_t(B)); };
  for (size_t i = 0; i < e.operands.size(); ++i)
    if (e.operands[i].kind != 2) cut(fewer.operands[i]);
  for (size_t r = 0; r < e.results.size(); ++r)
    if (e.results[r].kind != 4) cut(fewer.results[r]);
  return fewer;
}

// A row's results are the same to the bit whatever rows are beside it, so that what is computed again may
// be in other tiles. (A row all by itself is summed otherwise.)
template <class F>
void check_rows_beside(const Encoding& e, const RoutineNumbers& all, const RoutineHash& hash, int64_t number) {
  Bound<F> whole(e, all, hash);
  CHECK(whole.run().empty(), "routine %d", int(number));
  for (int64_t B : {2, 7, 40}) {
    Bound<F> some(e, first_rows(e, all, B), hash);
    CHECK(some.run().empty(), "routine %d", int(number));
    for (size_t r = 0; r < e.results.size(); ++r) {
      if (e.results[r].kind == 4) continue;
      const size_t bytes = all.results[r].size() / size_t(all.B) * size_t(B) * sizeof(F);
      CHECK(std::memcmp(whole.out.tensors[r].data, some.out.tensors[r].data, bytes) == 0,
            "routine %d, result %zu of kind %d in float%zu: %d rows of %d differ", int(number), r,
            int(e.results[r].kind), 8 * sizeof(F), int(B), int(all.B));
    }
  }
}

void test_rows_beside(int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Random random{uint64_t(i) + 2000};
    const Encoding e = random_routine(random);
    bool has_saved = false;  // which begins with timesteps, and has parts that nobody writes
    for (const Encoding::Operand& operand : e.operands) has_saved |= operand.kind == 4;
    for (const Encoding::Result& result : e.results) has_saved |= result.kind == 5;
    if (has_saved) continue;
    RoutineHash hash{};
    CHECK(register_it(e, &hash).empty(), "routine %d", int(i));
    RoutineNumbers all = random_numbers(e, 130, 3, random);
    for (size_t k = 0; k < e.operands.size(); ++k) {
      if (e.operands[k].kind != 0) continue;
      for (double& value : all.operands[k])  // where some formulas aren't good
        if (random.chance(0.02)) value *= 1e5;
    }
    check_rows_beside<float>(e, all, hash, i);
    check_rows_beside<double>(e, all, hash, i);
  }
}

// Few rows, on whose columns all threads work together, however small a product is.
void test_shared_columns(int64_t count) {
  share_products_from(0);
  for (int64_t i = 0; i < count; ++i) {
    Random random{uint64_t(i) + 1000};
    const int64_t batches[] = {1, 2, 4}, steps[] = {2, 3, 35};
    const Encoding e = random_routine(random);
    check(e, random.pick(batches), random.pick(steps), random, "shared routine " + std::to_string(i));
  }
  share_products_from(2.5e4);
}

// z = b + x W + w S + h R;  h = tanh(z) / 50 where the mask is True;  y = h V;  the sum of x' h over all
// timesteps; and h times another product of inputs alone.
Encoding wide_cell(int64_t D, int64_t U, int64_t more, bool reverse) {
  Encoding e;
  e.reverse = reverse;
  e.operands = {{0, 0, {D}}, {2, 0, {D, U}}, {2, 0, {U, U}}, {2, 0, {U}},   {1, 0, {U}},
                {3, 0, {}},  {2, 0, {more, U}}, {0, 1, {D}}, {2, 0, {U, D}}};
  e.results = {{1, 0, 0, {more}}, {3, 0, 0, {U}}, {4, 0, 0, {D * U}}, {0, 0, 0, {U}}};
  e.carries = {{U, 4, -1}};
  const int64_t z = e.add_scratch(U, false), kept = e.add_scratch(U, true);
  const int64_t other = e.add_scratch(U, false);
  e.product({kOperand, 0}, 0, 1, D, U, 1, false, {kScratch, z}, 0, 2, 3, 0);
  e.product({kOperand, 7}, 0, 1, D, U, 8, true, {kScratch, z}, 0, 1, 3, 0);
  e.product({kOperand, 7}, 0, 1, D, U, 1, false, {kScratch, other}, 0, 0, 3, 0);
  e.product({kCarry, 0}, 0, 1, U, U, 2, true, {kScratch, z}, 0, 1, 3, 0);
  Map step;
  step.dims = {U};
  const int64_t at = step.input({kScratch, z, 0, {1}});
  const int64_t small = step.input({kLiteral, e.literal(0.02), 0, {0}});
  const int64_t beside = step.input({kScratch, other, 0, {1}});
  const int64_t mask = step.input({kOperand, 5, 0, {0}}), before = step.input({kCarry, 0, 0, {1}});
  const int64_t h = step.operation("mul", step.operation("tanh", at), small);
  const auto masked = [&](int64_t value) { return step.operation("select", mask, value, before); };
  step.outputs = {{masked(h), 0, {kNext, 0, 0, {1}}},
                  {step.operation("mul", h, mask), 0, {kScratch, kept, 0, {1}}},
                  {masked(step.operation("mul", beside, h)), 0, {kResult, 3, 0, {1}}}};
  e.body.push_back(step.ints());
  e.product({kScratch, kept}, 0, 1, U, more, 6, true, {kResult, 0}, 0, 0, 3, 0);
  e.outer({kOperand, 0}, 0, {kScratch, kept}, 0, 1, D, U, 2, 0);
  Map hold, nothing;
  hold.dims = {U}, nothing.dims = {more};
  const int64_t old = hold.input({kCarry, 0, 0, {1}});
  hold.outputs = {{old, 0, {kNext, 0, 0, {1}}}, {old, 0, {kResult, 3, 0, {1}}}};
  nothing.outputs = {{nothing.input({kLiteral, e.literal(0), 0, {0}}), 0, {kResult, 0, 0, {1}}}};
  e.idle = {hold.ints(), nothing.ints()};
  return e;
}

void test_few_rows() {
  for (double from : {0.0, 2.5e4, 1e9}) {
    share_products_from(from);
    for (int64_t B : {1, 2, 3, 6})
      for (int64_t T : {2, 16, 37}) {
        Random random{uint64_t(100 * B + T)};
        const Encoding e = wide_cell(70 - B, 150 + B, B == 1 ? 130 : 9, T == 37);
        check(e, B, T, random, "wide cell, B " + std::to_string(B) + ", T " + std::to_string(T) +
                                   ", shared from " + std::to_string(from));
      }
  }
  share_products_from(2.5e4);
}

// --- bfloat16 ---------------------------------------------------------------------------------------

// y = b + x W + x V', for each of m places; h' = x W; and the sums of x' z.
Encoding products_and_sums(int64_t m, int64_t D, int64_t N) {
  Encoding e;
  e.operands = {{0, 0, {m, D}}, {2, 0, {D, N}}, {2, 0, {N, D}}, {2, 0, {N}}, {0, 0, {m, N}}};
  e.results = {{0, 0, 0, {m, N}}, {0, 0, 0, {N}}, {4, 0, 0, {D * N}}};
  e.product({kOperand, 0}, D, m, D, N, 1, false, {kResult, 0}, N, 2, 3, 0);
  e.product({kOperand, 0}, D, m, D, N, 2, true, {kResult, 0}, N, 1, 3, 0);
  const int64_t ahead = e.add_scratch(N, false);
  e.product({kOperand, 0}, 0, 1, D, N, 1, false, {kScratch, ahead}, 0, 0, 3, 0);
  Map copy;
  copy.dims = {N};
  copy.outputs = {{copy.input({kScratch, ahead, 0, {1}}), 0, {kResult, 1, 0, {1}}}};
  e.body.push_back(copy.ints());
  e.outer({kOperand, 0}, D, {kOperand, 4}, N, m, D, N, 2, 0);
  return e;
}

// Of whole numbers a product of bfloat16s is exact. What is given is a thousandth off, and is to be rounded.
void test_bfloat16() {
  if (!computes_bfloat16()) return;
  const int64_t sizes[][5] = {{1, 1, 1, 1, 1},    {2, 3, 1, 7, 5},    {70, 2, 1, 64, 130}, {5, 19, 2, 33, 17},
                              {130, 1, 3, 300, 9}, {17, 9, 5, 3, 64}, {3, 2, 60, 18, 16}, {1, 40, 1, 513, 70}};
  for (const auto& size : sizes) {
    Random random{uint64_t(size[0] + size[3])};
    const Encoding e = products_and_sums(size[2], size[3], size[4]);
    RoutineHash hash{};
    const std::string error = register_it(e, &hash);
    CHECK(error.empty(), "%s", error.c_str());
    RoutineNumbers expected = random_numbers(e, size[0], size[1], random);
    for (Numbers64& values : expected.operands)
      for (double& value : values) value = std::nearbyint(3 * std::fmax(-1, std::fmin(1, value)));
    RoutineNumbers fresh = expected;
    for (size_t i : {0, 1, 2, 4})
      for (double& value : fresh.operands[i]) value *= 1 + 1.0 / 1024;
    fresh.precision = bfloat16_products;
    run_plainly(e, expected);
    compare<float>(e, fresh, expected, hash, "products of bfloat16, D " + std::to_string(size[3]));
    const std::string refused = Bound<double>(e, fresh, hash).run();
    CHECK(refused.find("float64") != std::string::npos, "%s", refused.c_str());
  }
}

// --- every operation ------------------------------------------------------------------------------

// A routine of one MAP over a row: y = operation(a, b, c).
Encoding one_operation(const char* name, int arity, int64_t size) {
  Encoding e;
  Map map;
  map.dims = {size};
  for (int64_t i = 0; i < 3; ++i) {
    e.operands.push_back({0, 0, {size}});
    map.input({kOperand, i, 0, {1}});
  }
  e.results.push_back({0, 0, 0, {size}});
  const int64_t value = map.operation(name, 0, arity > 1 ? 1 : -1, arity > 2 ? 2 : -1);
  map.outputs.push_back({value, 0, {kResult, 0, 0, {1}}});
  e.body.push_back(map.ints());
  return e;
}

template <class F>
void check_operation(const Encoding& e, const RoutineNumbers& n, const RoutineHash& hash,
                     const char* name) {
  Bound<F> bound(e, n, hash);
  const std::string error = bound.run();
  CHECK(error.empty(), "%s: %s", name, error.c_str());
  const F* got = static_cast<const F*>(bound.out.tensors[0].data);
  const double allowed = sizeof(F) == 4 ? 2e-6 : 1e-14;
  for (size_t i = 0; i < n.results[0].size(); ++i) {
    const double a = n.operands[0][i], b = n.operands[1][i], c = n.operands[2][i];
    const double expected = plain_operation(name, a, b, c), x = double(got[i]);
    const bool same = std::isnan(expected) ? std::isnan(x) : F(expected) == got[i];
    // gelu's and its likes' tails are what is left of values as large as a
    const double scale = std::fmax(std::fmax(std::abs(expected), 0.2), std::fmin(std::abs(a), 10) / 4);
    const double off = std::abs(x - expected) / scale;
    CHECK(same || off < allowed, "%s(%.9g, %.9g, %.9g) in float%zu: expected %.9g, got %.9g", name,
          a, b, c, 8 * sizeof(F), expected, x);
  }
}

// What activations make of large and odd numbers is for test_kernels.
bool is_activation(const char* name) {
  size_t count = 0;
  const char* const* names = activation_names(&count);
  for (size_t i = 0; i < count; ++i)
    if (std::strcmp(names[i], std::strncmp(name, "d_", 2) == 0 ? name + 2 : name) == 0) return true;
  return false;
}

void test_every_operation() {
  const double odd[] = {0.0, -0.0, 1, -1, 0.5, 2.5, -3.5, 1e-30, 40, -60, 89, 200, 1e10, NAN, INFINITY, -INFINITY};
  size_t count = 0;
  const char* const* names = routine_operations(&count);
  for (size_t k = 0; k < count; ++k) {
    const int64_t size = 37;
    const Encoding e = one_operation(names[k], routine_arity(int64_t(k)), size);
    RoutineHash hash{};
    const std::string error = register_it(e, &hash);
    CHECK(error.empty(), "%s: %s", names[k], error.c_str());
    Random random{k};
    RoutineNumbers n = random_numbers(e, 3, 9, random);
    n.go_backwards = n.flip_outputs = 0;
    for (Numbers64& values : n.operands)
      for (double& value : values) {
        if (random.chance(0.3)) value = float(random.pick(odd));
        else if (random.chance(0.5)) value = float(value * 12);
        if (is_activation(names[k]) && !(std::abs(value) < 80)) value = 7;
      }
    check_operation<float>(e, n, hash, names[k]);
    check_operation<double>(e, n, hash, names[k]);
  }
}

// A MAP that writes over what it still has to read: in scratch memory, as itself or as another value that
// shares its place, and in carries, some of which live in saved values.
void test_written_over() {
  enum { scratch, shared_scratch, carry, kept_carry, kinds };
  for (int kind = 0; kind < kinds; ++kind)
    for (int64_t size : {16, 37}) {
      Encoding e;
      e.operands = {{0, 0, {size}}, {1, 0, {size}}};
      e.results = {{1, 0, 0, {size}}, {3, 0, 0, {size}}};
      if (kind == kept_carry) e.results.push_back({5, 0, 0, {}}), e.saved = {{size, 1, 0}};
      e.carries = {{size, 1, kind == kept_carry ? 0 : -1}};
      e.add_scratch(size, false);
      e.scratch.push_back({size, 0, 0});  // in the same place
      const bool is_scratch = kind == scratch || kind == shared_scratch;
      const Ref old = is_scratch ? Ref{kScratch, 0, 0, {1}} : Ref{kNext, 0, 0, {1}};
      const Ref fresh = kind == shared_scratch ? Ref{kScratch, 1, 0, {1}} : old;
      const auto copy = [&](const Ref& from, const Ref& to) {
        Map map;
        map.dims = {size};
        map.outputs = {{map.input(from), 0, to}};
        e.body.push_back(map.ints());
      };
      copy({kOperand, 0, 0, {1}}, old);
      Map map;
      map.dims = {size};
      const int64_t x = map.input(old), h = map.input({kCarry, 0, 0, {1}});
      const int64_t y = map.operation("tanh", map.operation("add", x, h));
      map.outputs = {{y, 0, fresh}, {map.operation("max", y, x), 0, {kResult, 0, 0, {1}}}};
      e.body.push_back(map.ints());
      if (is_scratch) copy(fresh, {kNext, 0, 0, {1}});
      Random random{uint64_t(kind)};
      check(e, 5, 3, random, "written over, kind " + std::to_string(kind));
    }
}

}  // namespace

int main(int argc, char** argv) {
  if (selected_kernels() == nullptr) {
    std::printf("skipped: no such target here\n");
    return kSkipped;
  }
  const int64_t count = argc > 1 ? std::atoll(argv[1]) : 300;
  test_every_operation();
  test_written_over();
  test_random_routines(count / 2);  // the plain loops take most of the time
  test_shared_columns(count / 4);
  test_rows_beside(count);
  test_few_rows();
  test_bfloat16();
  std::printf("%s, %d threads: at most %.2f of what's allowed\n", target().c_str(), thread_count(), worst);
  return 0;
}
