// The selected kernels against the plain loops in double: values and gradients of every kind and
// activation, options crossed at random, odd sizes, any mask, any number of threads.
//
//   test_kernels [cases]     OSTINATO_TARGET chooses the target, OSTINATO_NUM_THREADS the threads
#include <cmath>
#include <cstring>
#include <deque>

#include "../core/threads.h"
#include "cases.h"
#include "naive.h"

using namespace ostinato;
using namespace ostinato::tests;

namespace {

// Of the tensor's largest magnitude. What goes in is of the size of one: a tensor smaller than
// kLeastScale has lost it to cancelling, in a dead zone or next to a zero of the activation.
constexpr double kLeastScale = 1e-2;
double tolerance(float) { return 2e-6; }
double tolerance(double) { return 1e-13; }
// A bfloat16 is exact to 2^-9: what products take of the states and of gradients, and results.
double tolerance(Single) { return 1e-2; }
double tolerance(Bfloat16) { return 1e-2; }
double unit(float) { return 0x1p-24; }
double unit(double) { return 0x1p-53; }
double unit(Single) { return 0x1p-9; }
double unit(Bfloat16) { return 0x1p-9; }

RunAll forward_of(const Kernels& k, float) { return k.forward_f32; }
RunAll forward_of(const Kernels& k, double) { return k.forward_f64; }
RunAll forward_of(const Kernels& k, Single) { return k.forward_bf16_products; }
RunAll forward_of(const Kernels& k, Bfloat16) { return k.forward_bf16; }
RunAll backward_of(const Kernels& k, float) { return k.backward_f32; }
RunAll backward_of(const Kernels& k, double) { return k.backward_f64; }
RunAll backward_of(const Kernels& k, Single) { return k.backward_bf16_products; }
RunAll backward_of(const Kernels& k, Bfloat16) { return k.backward_bf16; }

double worst = 0;  // of the tolerance, for the report
int failures = 0;  // tensors that differ
int ill_conditioned = 0;
constexpr int kShown = 20;

// A result may be worth less than its last digits: what cancels, as in the slope of a dead zone. So
// where one is beyond the tolerance, half a unit in the last place of the inputs must move it by a
// eighth as much or more.
constexpr double kMoves = 8;

template <class Change>
Case changed(const Case& c, Change change) {
  Case result = c;
  for (Numbers* all : {&result.x, &result.initial[0], &result.initial[1], &result.fresh[0],
                       &result.fresh[1], &result.kernel,
                       &result.recurrent_kernel, &result.bias, &result.d_ys, &result.d_final[0],
                       &result.d_final[1]})
    for (double& value : *all) value = change(value);
  return result;
}

Case moved(const Case& c, double unit, uint64_t seed) {
  Random random(seed);
  return changed(c, [&](double value) { return value * (1 + (random.chance(0.5) ? unit : -unit)); });
}

// What goes in as bfloat16s, so that only what is made of it is rounded.
Case rounded(const Case& c) {
  return changed(c, [](double value) { return double(Bfloat16(value)); });
}

// How far `got` is off.
template <class F>
double error_of(F got, double expected) {
  if (std::isnan(expected) && std::isnan(double(got))) return 0;
  if (std::isinf(expected) && double(got) == expected) return 0;
  double error = std::abs(double(got) - expected);
  return std::isnan(error) ? INFINITY : error;
}

template <class A, class B>
double largest_error(const std::vector<A>& got, const std::vector<B>& expected, size_t* where) {
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    double error = error_of(got[i], expected[i]);
    if (error > largest) largest = error, *where = i;
  }
  return largest;
}

// The plain loops' results on moved inputs.
template <class F>
std::vector<Numbers> moved_results(const Case& c, bool backward, uint64_t seed) {
  Case other = moved(c, unit(F()), seed);
  Bound<double> bound(other);
  Run run = bound.for_forward();
  CHECK(kernels_naive()->forward_f64(&run, 1, 1), "out of memory");
  if (backward) {
    run = bound.for_backward();
    CHECK(kernels_naive()->backward_f64(&run, 1, 1), "out of memory");
  }
  std::vector<Numbers> results;
  for (const auto& [name, values] : bound.results()) results.push_back(values);
  return results;
}

template <class F>
void compare(const Bound<F>& mine, const Bound<double>& truth, bool backward) {
  for (size_t r = 0; r < truth.results().size(); ++r) {
    const auto& [name, expected] = truth.results()[r];
    const std::vector<F>& got = mine.results()[r].second;
    double scale = kLeastScale;
    for (double value : expected)
      if (std::isfinite(value)) scale = std::fmax(scale, std::abs(value));
    size_t where = 0, ignored = 0;
    double error = largest_error(got, expected, &where), allowed = scale * tolerance(F());
    if (error > allowed) {
      // One move may leave alone what lies next to a jump of a slope, where rounding did not.
      double movement = 0;
      for (uint64_t seed = 5; seed < 13 && kMoves * movement < error; ++seed) {
        Numbers other = moved_results<F>(mine.of(), backward, seed)[r];
        movement = std::fmax(movement, largest_error(other, expected, &ignored));
      }
      if (kMoves * movement > allowed) ++ill_conditioned, allowed = kMoves * movement;
    }
    worst = std::fmax(worst, error / allowed);
    if (error <= allowed || ++failures > kShown) continue;
    std::fprintf(stderr, "%s[%zu] in %zu bits: expected %.9g, got %.9g: %.2f of what's allowed, "
                 "scale %.3g\n  %s\n", name, where, 8 * sizeof(F), expected[where],
                 double(got[where]), error / allowed, scale, mine.of().described().c_str());
  }
}

template <class F>
bool same_bits(const typename Bound<F>::Results& a, const typename Bound<F>::Results& b) {
  for (size_t r = 0; r < a.size(); ++r) {
    const size_t bytes = a[r].second.size() * sizeof(F);  // of an empty one memcmp may take no null
    if (bytes > 0 && std::memcmp(a[r].second.data(), b[r].second.data(), bytes) != 0) return false;
  }
  return true;
}

// Runs one call of all cases, and again for the same bits.
template <class F>
void check_call(const std::vector<Case>& cases, int threads) {
  const Kernels &mine = *selected_kernels(), &truth = *kernels_naive();
  std::deque<Bound<F>> got;
  std::deque<Bound<double>> expected;
  for (const Case& c : cases) got.emplace_back(c), expected.emplace_back(c);
  auto call = [&](RunAll function, auto& bounds, auto next) {
    std::vector<Run> runs;
    for (auto& bound : bounds) runs.push_back((bound.*next)());
    CHECK(function(runs.data(), int(runs.size()), threads), "out of memory");
  };
  auto twice = [&](RunAll function, auto next) {
    call(function, got, next);
    std::vector<typename Bound<F>::Results> before;
    for (auto& bound : got) before.push_back(bound.results());
    std::vector<std::vector<F>> saved;
    for (auto& bound : got) saved.push_back(bound.saved());
    call(function, got, next);
    for (size_t i = 0; i < got.size(); ++i) {
      CHECK(same_bits<F>(before[i], got[i].results()), "%s", cases[i].described().c_str());
      CHECK(saved[i].size() == got[i].saved().size(), "saved changed its size");
    }
    return saved;
  };
  call(forward_of(truth, 0.0), expected, &Bound<double>::for_forward);
  twice(forward_of(mine, F()), &Bound<F>::for_forward);
  for (size_t i = 0; i < got.size(); ++i) compare(got[i], expected[i], false);
  for (const Case& c : cases)
    if (!c.spec.training) return;
  call(backward_of(truth, 0.0), expected, &Bound<double>::for_backward);
  auto saved = twice(backward_of(mine, F()), &Bound<F>::for_backward);
  for (size_t i = 0; i < got.size(); ++i) {
    compare(got[i], expected[i], true);
    size_t bytes = saved[i].size() * sizeof(F);
    CHECK(std::memcmp(saved[i].data(), got[i].saved().data(), bytes) == 0, "saved was written");
  }
}

// Where a target computes bfloat16s, that alone is its own: the rest has been tested as another's.
bool in_bfloat16() { return selected_kernels()->forward_bf16 != nullptr; }

void check_both(std::vector<Case> cases, int threads) {
  if (in_bfloat16()) {
    for (Case& c : cases) c = rounded(c);
    check_call<Single>(cases, threads);
    return check_call<Bfloat16>(cases, threads);
  }
  check_call<float>(cases, threads);
  check_call<double>(cases, threads);
}

int64_t number_of(const char* activation) {
  size_t count = 0;
  const char* const* names = activation_names(&count);
  for (size_t i = 0; i < count; ++i)
    if (std::strcmp(names[i], activation) == 0) return int64_t(i);
  CHECK(false, "no activation %s", activation);
  return -1;
}

Case plain(int64_t kind, int64_t B, int64_t T, int64_t D, int64_t U, Random& random) {
  Case c;
  c.spec.kind = kind, c.B = B, c.T = T, c.D = D, c.U = U;
  c.spec.activation = number_of("tanh"), c.spec.recurrent_activation = number_of("sigmoid");
  c.spec.has_bias = c.spec.return_sequences = c.spec.training = c.spec.wants_dx = 1;
  fill(c, random);
  return c;
}

void test_every_activation() {
  size_t count = 0;
  activation_names(&count);
  Random random(1);
  for (int64_t kind = 0; kind < kind_count(); ++kind)
    for (int64_t number = 0; number < int64_t(count); ++number)
      for (bool recurrent : {false, true}) {
        Case c = plain(kind, 3, 4, 5, 18, random);
        (recurrent ? c.spec.recurrent_activation : c.spec.activation) = number;
        fill(c, random);
        check_both({c}, thread_count());
      }
}

// One row, one timestep, one unit, one feature or none; and sizes at which other plans may be made: weights
// beyond the caches, many rows, few.
void test_sizes() {
  const int64_t sizes[][4] = {{1, 1, 1, 1},    {1, 7, 1, 1},    {5, 1, 3, 1},   {1, 1, 40, 33},
                              {64, 6, 28, 64}, {1, 5, 20, 330}, {3, 4, 9, 300}, {17, 3, 20, 330},
                              {40, 3, 5, 257}, {8, 4, 300, 48}, {130, 2, 4, 5},
                              {3, 4, 0, 5},    {17, 2, 0, 257}};
  Random random(2);
  for (int64_t kind = 0; kind < kind_count(); ++kind)
    for (const auto& s : sizes)
      for (int64_t training : {0, 1}) {
        Case c = plain(kind, s[0], s[1], s[2], s[3], random);
        c.spec.training = training;
        check_both({c}, thread_count());
      }
}

void test_crossed_options(int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Random random(uint64_t(1000 + i));
    std::vector<Case> cases;
    int64_t runs = 1 + random.below(4) / 2;
    for (int64_t run = 0; run < runs; ++run) cases.push_back(random_case(random, random.below(kind_count())));
    if (random.chance(0.2))
      for (Case& c : cases) c.spec.training = 0;
    check_both(cases, int(1 + random.below(thread_count())));
  }
}

void test_crossed_options_of(Case (*made)(Random&, int64_t), uint64_t seed, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Random random(seed + uint64_t(i));
    const Case made_case = made(random, random.below(kind_count()));
    if (in_bfloat16() || i % 4 == 0) check_both({made_case}, thread_count());
    else check_call<float>({made_case}, thread_count());
  }
}

// Whether threads share a few rows' units depends on how busy they are just now: the bits don't.
template <typename F>
void check_any_number_of_threads(const Case& c) {
  std::deque<Bound<F>> bound;
  for (int threads : {1, 2, 3}) {
    Bound<F>& mine = bound.emplace_back(c);
    const Run forward = mine.for_forward();
    CHECK(forward_of(*selected_kernels(), F())(&forward, 1, threads), "out of memory");
    const Run backward = mine.for_backward();
    CHECK(backward_of(*selected_kernels(), F())(&backward, 1, threads), "out of memory");
    CHECK(same_bits<F>(bound[0].results(), mine.results()), "%d threads, %s", threads,
          c.described().c_str());
  }
}

void test_few_rows_on_any_number_of_threads() {
  Random random(5);
  for (int64_t kind = 0; kind < kind_count(); ++kind)
    for (int64_t batch : {1, 3})
      for (int64_t units : {150, 170}) {
        const Case c = plain(kind, batch, 9, 20, units * (kind == simple_rnn ? 2 : 1), random);
        if (in_bfloat16()) check_any_number_of_threads<Single>(rounded(c));
        else check_any_number_of_threads<float>(c);
      }
}

// What is computed again from checkpoints is the same to the bit.
template <typename F>
void check_checkpoints(const Case& c) {
  std::deque<Case> cases;
  std::deque<Bound<F>> bound;
  for (int64_t every : {0, 32, 64, 1024}) {
    cases.push_back(c);
    cases.back().spec.checkpoint = every;
    Bound<F>& mine = bound.emplace_back(cases.back());
    const Run forward = mine.for_forward();
    CHECK(forward_of(*selected_kernels(), F())(&forward, 1, thread_count()), "out of memory");
    const Run backward = mine.for_backward();
    CHECK(backward_of(*selected_kernels(), F())(&backward, 1, thread_count()), "out of memory");
    CHECK(same_bits<F>(bound[0].results(), mine.results()), "checkpoint %d, %s", int(every),
          c.described().c_str());
  }
}

void test_checkpoints(int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Random random(40000 + uint64_t(i));
    const int64_t batches[] = {1, 2, 3, 5, 8, 17}, times[] = {33, 64, 65, 130};
    const int64_t units[] = {1, 5, 16, 33, 150, 270};
    Case c;
    c.B = random.pick(batches), c.T = random.pick(times), c.D = 1 + random.below(20);
    c.U = random.pick(units);
    cross_options(c, random, random.below(kind_count()));
    if (!in_bfloat16()) {
      check_checkpoints<float>(c);
      continue;
    }
    check_checkpoints<Single>(rounded(c));
    check_checkpoints<Bfloat16>(rounded(c));
  }
}

// What is not a number, or infinite, goes where the mathematics takes it, and nowhere else.
void test_nan_and_infinity() {
  Random random(3);
  const double odd[] = {std::nan(""), INFINITY, -INFINITY};
  for (int64_t kind = 0; kind < kind_count(); ++kind)
    for (double value : odd) {
      Case c = plain(kind, 5, 4, 3, 20, random);
      c.spec.has_mask = 1;
      c.mask.assign(size_t(c.B * c.T), 1);
      c.mask[size_t(3 * c.T + 1)] = 0;
      c.x[size_t((1 * c.T + 2) * c.D)] = value;  // row 1 from step 2 on
      c.x[size_t((3 * c.T + 1) * c.D)] = value;  // nowhere: a masked step
      c.spec.training = 0;
      check_both({c}, thread_count());
    }
}

void test_a_long_sequence() {
  Random random(4);
  for (int64_t kind = 0; kind < kind_count(); ++kind) {
    Case c = plain(kind, 2, 3000, 2, 3, random);
    check_both({c}, thread_count());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (selected_kernels() == nullptr) {
    std::printf("skipped: no such target here\n");
    return kSkipped;
  }
  test_every_activation();
  test_sizes();
  test_few_rows_on_any_number_of_threads();
  test_nan_and_infinity();
  test_a_long_sequence();
  const int64_t count = argc > 1 ? std::atoll(argv[1]) : 300;
  test_crossed_options(count);
  test_checkpoints(count / 2);
  test_crossed_options_of(random_large_case, 9000, count / 8);
  test_crossed_options_of(random_case_of_few, 20000, count / 4);
  std::printf("%s, %d threads: at most %.2f of what's allowed; %d tensors are ill-conditioned, %d "
              "are wrong\n", target().c_str(), thread_count(), worst, ill_conditioned, failures);
  return failures == 0 ? 0 : 1;
}
