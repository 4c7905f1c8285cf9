// Programs of steps against plain loops in double: every code, kind and activation, masks, one and
// many streams, sequences cut anywhere; states read and written; specs that are refused.
//
//   test_program [cases]     OSTINATO_TARGET chooses the target
#include "../core/step/program.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "programs.h"

using namespace ostinato;
using namespace ostinato::tests;

namespace {

// Digits are within half a step, 1/8192 of the largest number of a row.
constexpr double kOfDigits = 2e-3;
double tolerance(float, const Model& m) { return m.scales.empty() ? 2e-6 : kOfDigits; }
double tolerance(double, const Model&) { return 1e-13; }
Dtype dtype_of(float) { return Dtype::f32; }
Dtype dtype_of(double) { return Dtype::f64; }

double worst = 0;  // of the tolerance, for the report
uint64_t seeds = 12;  // of each kind of cell; the sixth has many units

// Weights in F, and tensors of them.
template <class F>
struct Weights {
  std::vector<std::vector<F>> data;
  std::vector<std::vector<int8_t>> whole;
  std::vector<Tensor> tensors;

  explicit Weights(const Model& m) {
    data.reserve(m.weights.size()), whole.reserve(m.weights.size());
    for (size_t i = 0; i < m.weights.size(); ++i) {
      const std::vector<int64_t>& shape = m.shapes[i];
      if (i < m.scales.size() && !m.scales[i].empty()) {
        const Numbers& scales = m.scales[i];
        data.emplace_back(scales.begin(), scales.end()), whole.emplace_back();
        for (size_t k = 0; k < m.weights[i].size(); ++k)
          whole.back().push_back(int8_t(std::lround(m.weights[i][k] / scales[k % scales.size()])));
        tensors.push_back({whole.back().data(), Dtype::i8, 2, shape.data()});
        tensors.push_back({data.back().data(), dtype_of(F{}), 1, shape.data() + 1});
        continue;
      }
      data.emplace_back(m.weights[i].begin(), m.weights[i].end());
      tensors.push_back({data.back().data(), dtype_of(F{}), int32_t(shape.size()), shape.data()});
    }
  }
};

template <class F>
std::unique_ptr<Program> make(const Model& m) {
  const Weights<F> weights(m);
  std::string error;
  auto program = Program::make(dtype_of(F{}), m.spec(), weights.tensors.data(),
                               weights.tensors.size(), &error);
  CHECK(program != nullptr, "%s", error.c_str());
  return program;
}

// Sequences for a model: (N, T, width) of each input, with padded timesteps; ids as whole numbers.
std::vector<Numbers> sequences(const Model& m, int64_t T, int64_t rows, Random& random) {
  const std::vector<uint8_t> valid = random_mask(random, m.N, T);
  std::vector<Numbers> all;
  for (size_t i = 0; i < m.n_inputs; ++i) {
    const int64_t width = std::max<int64_t>(1, m.widths[i]);
    Numbers made = numbers(random, m.N * T * width, 2);
    for (int64_t k = 0; k < m.N * T * width; ++k) {
      double& x = made[size_t(k)];
      if (m.widths[i] == 0) x = double(random.below(rows));
      if (!valid[size_t(k / width)]) x = 0;
    }
    all.push_back(made);
  }
  return all;
}

// Runs timesteps [from, to) of sequences of T; arrays exactly as large as they must be.
template <class F>
std::vector<std::vector<F>> run(Program& program, const Model& m, const std::vector<Numbers>& data,
                                int64_t T, int64_t from, int64_t to) {
  std::vector<std::vector<F>> floats(m.n_inputs), results;
  std::vector<std::vector<int32_t>> ids(m.n_inputs);
  std::vector<const void*> in;
  std::vector<void*> out;
  for (size_t i = 0; i < m.n_inputs; ++i) {
    const int64_t width = std::max<int64_t>(1, m.widths[i]);
    for (int64_t r = 0; r < m.N; ++r)
      for (int64_t k = (r * T + from) * width; k < (r * T + to) * width; ++k)
        m.widths[i] == 0 ? ids[i].push_back(int32_t(data[i][size_t(k)]))
                         : floats[i].push_back(F(data[i][size_t(k)]));
    in.push_back(m.widths[i] == 0 ? static_cast<void*>(ids[i].data()) : floats[i].data());
  }
  for (int64_t number : m.outputs())
    results.emplace_back(size_t(m.N * (to - from) * m.widths[size_t(number)]), F(NAN));
  for (auto& result : results) out.push_back(result.data());
  const std::string error = program.run(in.data(), out.data(), to - from);
  CHECK(error.empty(), "%s", error.c_str());
  return results;
}

// Runs timesteps [from, to) of some rows of sequences of T.
template <class F>
std::vector<std::vector<F>> run_some(Program& program, const Model& m, const std::vector<Numbers>& data,
                                     const std::vector<uint8_t>& resets, int64_t T,
                                     const std::vector<int64_t>& rows, int64_t from, int64_t to) {
  const int64_t width = m.widths[0], length = to - from, count = int64_t(rows.size());
  std::vector<F> x;
  std::vector<uint8_t> some;
  for (int64_t r : rows) {
    for (int64_t k = (r * T + from) * width; k < (r * T + to) * width; ++k) x.push_back(F(data[0][size_t(k)]));
    some.insert(some.end(), resets.begin() + r * T + from, resets.begin() + r * T + to);
  }
  std::vector<std::vector<F>> results;
  std::vector<void*> out;
  for (int64_t number : m.outputs())
    results.emplace_back(size_t(count * length * m.widths[size_t(number)]), F(NAN));
  for (auto& result : results) out.push_back(result.data());
  const void* in = x.data();
  static const int64_t none = 0;
  const Program::Chosen chosen{rows.empty() ? &none : rows.data(), count};
  const std::string error = program.run(&in, out.data(), length, chosen, some.data());
  CHECK(error.empty(), "%s", error.c_str());
  return results;
}

// All values of a model at each timestep, by the plain loops.
std::vector<std::vector<Numbers>> plain_values(const Model& m, const std::vector<Numbers>& data,
                                               int64_t T) {
  Plain plain(m);
  std::vector<std::vector<Numbers>> all;
  for (int64_t t = 0; t < T; ++t) {
    std::vector<Numbers> values(m.n_inputs);
    for (size_t i = 0; i < m.n_inputs; ++i) {
      const int64_t width = std::max<int64_t>(1, m.widths[i]);
      for (int64_t k = 0; k < m.N * width; ++k)
        values[i].push_back(data[i][size_t((k / width * T + t) * width + k % width)]);
    }
    plain.step(values);
    all.push_back(values);
  }
  return all;
}

// A model in F, its sequences cut at random, against the plain loops: all of its values, to a part
// of each one's largest magnitude.
template <class F>
void check(const Model& m, int64_t T, int64_t rows, uint64_t seed, const char* name) {
  Random random(seed);
  const std::vector<Numbers> data = sequences(m, T, rows, random);
  const auto expected = plain_values(m, data, T);
  const std::vector<int64_t> shown = m.outputs();
  Numbers scales(shown.size(), 1e-2);
  for (size_t o = 0; o < shown.size(); ++o)
    for (const auto& values : expected)
      for (double value : values[size_t(shown[o])])
        scales[o] = std::max(scales[o], std::abs(value));

  auto program = make<F>(m);
  for (int64_t from = 0, to; from < T; from = to) {
    to = from + random.below(T - from + 1);
    const auto got = run<F>(*program, m, data, T, from, to);
    for (size_t o = 0; o < shown.size(); ++o) {
      const int64_t width = m.widths[size_t(shown[o])], count = to - from;
      for (int64_t k = 0; k < m.N * count * width; ++k) {
        const int64_t r = k / width / count, t = from + k / width % count;
        const double wanted = expected[size_t(t)][size_t(shown[o])][size_t(r * width + k % width)];
        const double error = std::abs(double(got[o][size_t(k)]) - wanted) / scales[o];
        const double allowed = tolerance(F{}, m);
        if (error > worst * allowed) worst = error / allowed;
        CHECK(error <= allowed, "%s of %zu bytes, N %lld, value %lld, row %lld, "
              "timestep %lld: %.9g, expected %.9g", name, sizeof(F), (long long)m.N,
              (long long)shown[o], (long long)r, (long long)t, double(got[o][size_t(k)]), wanted);
      }
    }
  }
}

void check_both(const Model& m, int64_t T, int64_t rows, uint64_t seed, const char* name) {
  check<float>(m, T, rows, seed, name);
  check<double>(m, T, rows, seed, name);
}

int64_t any_bounded(Random& random) {
  size_t count = 0;
  activation_names(&count);
  for (;;) {
    const int64_t activation = random.below(int64_t(count));
    if (bounded(activation)) return activation;
  }
}

const int64_t kStreams[] = {1, 2, 7, 65};
const int64_t kWidths[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 48, 65};

void test_cells() {
  for (int64_t kind = 0; kind < kind_count(); ++kind)
    for (int64_t N : kStreams)
      for (uint64_t seed = 0; seed < seeds; ++seed) {
        Model m(N, 100 * seed + uint64_t(kind));
        const int64_t x = m.mask(m.input(m.random.pick(kWidths)), 0);
        const int64_t mask = seed % 3 == 0 ? -1 : 0;
        m.cell(kind, x, m.random.pick(kWidths), mask, m.random.chance(0.7), seed % 3 == 1,
               any_bounded(m.random), any_bounded(m.random));
        check_both(m, 9, 1, seed, "a cell");
      }
}

// Weights beyond a core's cache, where another thread may help.
void test_large_cells() {
  for (int64_t kind = 0; kind < kind_count(); ++kind) {
    Model m(1, uint64_t(kind));
    m.cell(kind, m.input(257), 300, -1, true, false, 1, 2);
    check_both(m, 40, 1, 3, "a large cell");
  }
}

// Kernels of int8, large ones among them, against the same numbers in double.
void test_int8_cells() {
  for (int64_t kind = 0; kind < kind_count(); ++kind)
    for (int64_t N : kStreams)
      for (uint64_t seed = 0; seed < seeds; ++seed) {
        Model m(N, 100 * seed + uint64_t(kind));
        const int64_t x = m.mask(m.input(m.random.pick(kWidths)), 0);
        const int64_t mask = seed % 3 == 0 ? -1 : 0, units = seed == 5 && N == 1 ? 900 : 0;
        const int64_t h = m.cell(kind, x, units ? units : m.random.pick(kWidths), mask,
                                 m.random.chance(0.7), seed % 3 == 1, 1, 2, true);
        m.dense(h, m.random.pick(kWidths), seed % 2 == 0, 1, true);
        check<float>(m, 9, 1, seed, "a cell of int8");
      }
}

// A dense layer of int8, bit by bit: digits by rounding, sums of whole numbers, and two roundings.
float plain_int8(const float* x, const Numbers& w, const Numbers& scales, int64_t D, int64_t width,
                 int64_t j) {
  float largest = 0;
  for (int64_t k = 0; k < D; ++k) {
    if (!std::isfinite(x[k])) return NAN;
    largest = std::max(largest, std::abs(x[k]));
  }
  if (largest < 0x1p-114f) return 0;
  const double step = std::ldexp(1.0, std::ilogb(largest) - 12);
  int64_t high = 0, low = 0;
  for (int64_t k = 0; k < D; ++k) {
    const int64_t whole = int64_t(std::nearbyint(double(x[k]) / step)) + 8192;
    const int64_t q = std::lround(w[size_t(k * width + j)] / scales[size_t(j)]);
    high += (whole / 128 - 64) * q, low += whole % 128 * q;
  }
  const double sum = float(double(float(high)) * 128 + double(float(low)));
  return float(step * scales[size_t(j)] * sum);
}

void test_int8_bits() {
  const int64_t depths[] = {1, 2, 3, 4, 5, 15, 16, 17, 64, 333, 20000};
  int64_t largest_sum = 0;
  for (int64_t D : depths)
    for (int64_t N : {1, 2, 3, 7}) {
      Model m(N, uint64_t(D));
      const int64_t width = D > 1000 ? 18 : m.random.pick(kWidths);
      m.dense(m.input(D), width, false, 0, true);
      const bool extreme = N == 3;  // all weights and numbers as large as may be
      if (extreme)
        for (size_t i = 0; i < m.weights[0].size(); ++i)
          m.weights[0][i] = 127 * m.scales[0][i % size_t(width)];
      auto program = make<float>(m);
      std::vector<float> x(size_t(N * D)), y(size_t(N * width));
      for (float& value : x)
        value = extreme ? 1.99999f : float(m.random.between(-3, 3) * std::exp(m.random.between(-9, 0)));
      if (N == 7) {
        x[size_t(1 * D)] = NAN, x[size_t(2 * D + D - 1)] = INFINITY;
        for (int64_t k = 0; k < D; ++k)
          x[size_t(3 * D + k)] = 0, x[size_t(4 * D + k)] = 1e-36f, x[size_t(5 * D + k)] *= 1e38f;
      }
      const void* in = x.data();
      std::vector<float> same(x.size());  // all values are outputs
      void* out[] = {same.data(), y.data()};
      CHECK(program->run(&in, out, 1).empty(), "refused");
      for (int64_t r = 0; r < N; ++r)
        for (int64_t j = 0; j < width; ++j) {
          const float got = y[size_t(r * width + j)];
          const float wanted = plain_int8(&x[size_t(r * D)], m.weights[0], m.scales[0], D, width, j);
          CHECK(std::memcmp(&got, &wanted, 4) == 0 || (std::isnan(got) && std::isnan(wanted)),
                "D %lld, N %lld, row %lld, column %lld: %.9g, expected %.9g", (long long)D,
                (long long)N, (long long)r, (long long)j, double(got), double(wanted));
          if (extreme) largest_sum = std::max(largest_sum, D * 127 * 8191);
        }
    }
  CHECK(largest_sum > INT32_MAX, "no sum is larger than 32 bits hold");
}

void test_activations() {
  size_t count = 0;
  activation_names(&count);
  for (int64_t activation = 0; activation < int64_t(count); ++activation)
    for (int64_t N : kStreams) {
      Model m(N, uint64_t(activation));
      const int64_t x = m.input(m.random.pick(kWidths));
      m.elementwise(step_activate, x, activation);
      m.dense(m.dense(x, m.random.pick(kWidths), N != 2, 0), 17, true, any_bounded(m.random));
      check_both(m, 3, 1, 5, "an activation");
    }
}

void test_everything_at_once() {
  for (uint64_t seed = 0; seed < 5 * seeds; ++seed) {
    Random random(seed);
    Model m(random.pick(kStreams), seed);
    const int64_t width = random.pick(kWidths), rows = 1 + random.below(9);
    const int64_t a = m.input(width), ids = m.input(0), b = m.input(width);
    const int64_t x = m.mask(a, 0), e = m.embed(ids, rows, random.pick(kWidths));
    const int64_t mask = m.either(0, 1);
    m.scale(a), m.normalize(a, 0), m.normalize(b, 1), m.elementwise(step_softmax, b);
    for (int64_t kind = 0; kind < 5; ++kind) m.combine(x, b, kind);
    const int64_t joined = m.concatenate(e, x);
    m.concatenate(m.concatenate(joined, b), e);
    const int64_t units = random.pick(kWidths);
    const int64_t h = m.cell(random.below(kind_count()), joined, units, mask, true, false, 1, 2);
    m.cell(random.below(kind_count()), h, random.pick(kWidths), mask, true, random.chance(0.5), 1, 2);
    m.own_cell(m.own_cell(h, random.pick(kWidths), mask), random.pick(kWidths), -1);
    m.dense(h, random.pick(kWidths), random.chance(0.5), 1);
    check_both(m, 8, rows, seed, "everything");
  }
}

// One of each that looks back, and behind it what there was before.
Model looking_back(int64_t N, uint64_t seed) {
  Model m(N, seed);
  const int64_t x = m.mask(m.input(m.random.pick(kWidths)), 0);
  int64_t y = m.dense(m.window(x, window_all, 3, 1 + m.random.below(3)), m.random.pick(kWidths), true, 1);
  y = m.window(y, window_largest, 1 + m.random.below(4), 1);
  y = m.window(y, window_mean, 2, 1);
  y = m.window(y, window_weighted, 4, 2);
  y = m.cell(m.random.below(kind_count()), y, m.random.pick(kWidths), 0, true, false, 1, 2);
  y = m.own_cell(y, m.random.pick(kWidths), seed % 2 == 0 ? 0 : -1);
  m.pool(y, pool_largest), m.pool(y, pool_mean), m.pool(y, pool_mean, 0);
  return m;
}

// What its rows begin with: zeros, and of the largest so far less than any number.
template <class F>
void set_initial(Program& program) {
  std::vector<std::vector<F>> states;
  std::vector<const void*> places;
  for (int64_t bytes : program.state_bytes()) states.emplace_back(size_t(bytes) / sizeof(F) + 1, F{0});
  std::vector<F>& largest = states[states.size() - 7];  // before the two means, of three states each
  largest.assign(largest.size(), F(-INFINITY));
  for (auto& state : states) places.push_back(state.data());
  CHECK(program.set_initial(places.data()).empty(), "refused");
  CHECK(program.reset().empty(), "refused");
}

// Rows that come when they like, some of them reset before a timestep; some streams closed and others opened.
template <class F>
void test_arrivals_of(int64_t N, uint64_t seed) {
  const int64_t T = 7;
  const Model m = looking_back(N, seed);
  Random random(seed);
  const std::vector<Numbers> data = sequences(m, T, 1, random);
  std::vector<uint8_t> resets(size_t(N * T));
  for (uint8_t& each : resets) each = random.chance(0.2);
  Plain plain(m);
  std::vector<std::vector<Numbers>> expected;
  for (int64_t t = 0; t < T; ++t) {
    std::vector<Numbers> values(1);
    const int64_t width = m.widths[0];
    for (int64_t k = 0; k < N * width; ++k)
      values[0].push_back(data[0][size_t((k / width * T + t) * width + k % width)]);
    for (int64_t r = 0; r < N; ++r)
      if (resets[size_t(r * T + t)]) plain.reset(r);
    plain.step(values);
    expected.push_back(values);
  }
  const std::vector<int64_t> shown = m.outputs();
  auto first = make<F>(m);
  set_initial<F>(*first);
  std::string error;
  auto program = first->another(1 + random.below(N), &error);
  CHECK(error.empty(), "%s", error.c_str());
  if (program->streams() > 1) run_some<F>(*program, m, data, resets, T, {0}, 0, 3);  // forgotten below
  CHECK(program->resize(N).empty() && program->reset().empty(), "refused");
  std::vector<int64_t> at(size_t(N), 0);
  for (;;) {
    std::vector<int64_t> rows;
    int64_t from = T, length = T;
    const bool all = random.chance(0.3);
    const int64_t clock = random.below(T);  // those rows that are there
    for (int64_t r = 0; r < N; ++r)
      if (at[size_t(r)] == clock && (all || random.chance(0.5))) rows.insert(rows.begin(), r);
    from = clock, length = 1 + random.below(T - clock);
    if (rows.empty() && std::all_of(at.begin(), at.end(), [&](int64_t t) { return t == T; })) break;
    const auto got = run_some<F>(*program, m, data, resets, T, rows, from, from + length);
    for (size_t o = 0; o < shown.size(); ++o) {
      const int64_t width = m.widths[size_t(shown[o])];
      for (int64_t k = 0; k < int64_t(rows.size()) * length * width; ++k) {
        const int64_t r = rows[size_t(k / width / length)], t = from + k / width % length;
        const double wanted = expected[size_t(t)][size_t(shown[o])][size_t(r * width + k % width)];
        const double value = double(got[o][size_t(k)]);
        const bool close = std::abs(value - wanted) <= 10 * tolerance(F{}, m) * std::max(1.0, std::abs(wanted));
        CHECK(close || (std::isnan(value) && std::isnan(wanted)),
              "N %lld, value %lld, row %lld, timestep %lld: %.9g, expected %.9g", (long long)N,
              (long long)shown[o], (long long)r, (long long)t, value, wanted);
      }
    }
    for (int64_t r : rows) at[size_t(r)] += length;
  }
}

void test_arrivals() {
  for (int64_t N : {1, 2, 7, 128, 129, 300})
    for (uint64_t seed = 0; seed < (N > 7 ? 2 : 10); ++seed) {
      test_arrivals_of<float>(N, seed);
      test_arrivals_of<double>(N, seed);
    }
}

// Long calls, whose timesteps two threads share, are short ones.
void test_long_calls() {
  for (uint64_t seed = 0; seed < std::min(uint64_t(4), seeds / 3); ++seed) {
    Model m(1 + int64_t(seed) * 3, seed);
    const int64_t a = m.input(48), ids = m.input(0), e = m.embed(ids, 5, 40);
    int64_t x = m.concatenate(m.mask(a, 0), e);
    x = m.dense(m.window(x, window_all, 3, 2), 96, true, 1);
    x = m.cell(int64_t(seed) % kind_count(), x, 96, m.either(0, 1), true, false, 1, 2);
    x = m.own_cell(m.combine(x, m.dense(e, 96, false, 0), 0), 96, 0);
    x = m.cell(lstm, m.window(x, window_mean, 2, 1), 96, 1, true, true, 1, 2);
    m.pool(m.concatenate(x, a), pool_mean, 0);
    Random random(seed);
    const int64_t T = 1301, call = 500;  // the second call at the latest is on two threads
    const std::vector<Numbers> data = sequences(m, T, 5, random);
    auto one = make<float>(m), two = make<float>(m);
    std::vector<std::vector<float>> got, expected;
    for (int64_t from = 0; from < T; from += call) {
      const int64_t to = std::min(T, from + call);
      for (int64_t t = from; t < to; ++t) {
        const auto step = run<float>(*one, m, data, T, t, t + 1);
        if (t == from) expected.assign(step.size(), {});
        for (size_t o = 0; o < step.size(); ++o) expected[o].insert(expected[o].end(), step[o].begin(), step[o].end());
      }
      got = run<float>(*two, m, data, T, from, to);
      for (size_t o = 0; o < got.size(); ++o) {  // (N, T, width), and (T, N, width)
        const int64_t width = m.widths[size_t(m.outputs()[o])], length = to - from;
        for (int64_t k = 0; k < int64_t(got[o].size()); ++k) {
          const int64_t r = k / width / length, t = k / width % length;
          const float wanted = expected[o][size_t((t * m.N + r) * width + k % width)], value = got[o][size_t(k)];
          CHECK(value == wanted || (std::isnan(value) && std::isnan(wanted)), "value %zu, timestep %lld", o,
                (long long)(from + t));
        }
      }
    }
  }
}

// Rows that there aren't, or twice, are refused, and change nothing.
void test_rows_refused() {
  const Model m = looking_back(5, 1);
  auto program = make<float>(m);
  const std::vector<Numbers> data = {Numbers(size_t(5 * m.widths[0]), 1)};
  const std::vector<uint8_t> resets(5, 0);
  std::vector<std::vector<uint8_t>> before, after;
  const auto states = [&](std::vector<std::vector<uint8_t>>& to) {
    std::vector<void*> places;
    for (int64_t bytes : program->state_bytes()) to.emplace_back(size_t(5 * bytes));
    for (auto& state : to) places.push_back(state.data());
    CHECK(program->read_states(places.data()).empty(), "refused");
  };
  run<float>(*program, m, data, 1, 0, 1);
  states(before);
  std::vector<std::vector<float>> ys;
  std::vector<void*> out;
  for (int64_t number : m.outputs()) ys.emplace_back(size_t(5 * m.widths[size_t(number)]));
  for (auto& y : ys) out.push_back(y.data());
  const std::vector<float> x(size_t(5 * m.widths[0]));
  const void* in = x.data();
  for (const std::vector<int64_t>& rows :
       std::vector<std::vector<int64_t>>{{5}, {-1}, {0, 0}, {1, 2, 1}, {INT64_MIN}, {INT64_MAX}}) {
    const Program::Chosen chosen{rows.data(), int64_t(rows.size())};
    CHECK(!program->run(&in, out.data(), 1, chosen).empty(), "taken");
    if (rows.size() == 1) CHECK(!program->reset(chosen).empty(), "taken");
  }
  for (int64_t streams : {int64_t{0}, int64_t{-1}, (int64_t{1} << 24) + 1})
    CHECK(!program->resize(streams).empty(), "taken");
  states(after);
  CHECK(before == after, "they have changed");
}

// To the bit, so that what is not a number is the same, too.
bool same(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0) return false;
  return true;
}

// Streams that share weights: other weights of one aren't the other's.
void test_sharing() {
  const Model m = looking_back(2, 1);
  auto one = make<float>(m);
  std::string error;
  auto two = one->another(2, &error), three = one->another(2, &error);
  Random random(1);
  const std::vector<Numbers> data = sequences(m, 4, 1, random);
  const auto expected = run<float>(*one, m, data, 4, 0, 4);
  Model others = m;
  for (Numbers& weight : others.weights)
    for (double& value : weight) value *= 0.5;
  const Weights<float> weights(others);
  CHECK(two->set_weights(weights.tensors.data(), weights.tensors.size()).empty(), "refused");
  CHECK(same(run<float>(*three, m, data, 4, 0, 4), expected), "they differ");
  const auto halves = run<float>(*two, m, data, 4, 0, 4);
  CHECK(!same(halves, expected), "they are the same");
  CHECK(three->share_weights(*two).empty() && three->reset().empty(), "refused");
  one.reset(), two.reset();
  CHECK(same(run<float>(*three, m, data, 4, 0, 4), halves), "they differ");
}

Model small(int64_t N, uint64_t seed, bool is_int8 = false) {
  Model m(N, seed);
  const int64_t x = m.mask(m.input(3), 0);
  const int64_t h = m.cell(lstm, x, 5, 0, true, false, 1, 2, is_int8);
  m.dense(m.own_cell(m.cell(gru, h, 17, 0, true, true, 1, 2), 6, 0), 2, true, 0);
  return m;
}

// A program takes the states of another and goes on as that one does; and its weights.
void test_states_and_weights() {
  const Model m = small(7, 1);
  Model other = small(7, 2);
  auto one = make<float>(m), two = make<float>(other);
  Random random(1);
  const std::vector<Numbers> data = sequences(m, 8, 1, random);
  run<float>(*one, m, data, 8, 0, 5);
  std::vector<std::vector<uint8_t>> states;
  std::vector<void*> places;
  const int64_t sizes[] = {5 * 4, 5 * 4, 1, 17 * 4, 1, 6 * 4};
  CHECK(one->state_bytes() == std::vector<int64_t>(sizes, sizes + 6), "other sizes of states");
  for (int64_t bytes : one->state_bytes()) states.emplace_back(size_t(7 * bytes));
  for (auto& state : states) places.push_back(state.data());
  CHECK(one->read_states(places.data()).empty(), "busy");
  CHECK(two->write_states(places.data()).empty(), "busy");
  const Weights<float> weights(m);
  CHECK(two->set_weights(weights.tensors.data(), weights.tensors.size()).empty(), "refused");
  CHECK(run<float>(*one, m, data, 8, 5, 8) == run<float>(*two, m, data, 8, 5, 8), "they differ");
  CHECK(!two->set_weights(weights.tensors.data(), weights.tensors.size() - 1).empty(), "taken");
}

// What is not a number stays in its row.
void test_nan_stays_in_its_row() {
  Model m(7, 1);
  const int64_t h = m.cell(gru_reset_before, m.input(3), 17, -1, true, false, 1, 2);
  m.normalize(m.own_cell(m.dense(h, 5, true, 0), 3, -1), 0);
  Random random(1);
  std::vector<Numbers> data = sequences(m, 4, 1, random);
  auto one = make<float>(m), two = make<float>(m);
  const auto clean = run<float>(*one, m, data, 4, 0, 4);
  data[0][size_t((2 * 4 + 1) * 3)] = NAN;  // row 2 from timestep 1 on
  const auto got = run<float>(*two, m, data, 4, 0, 4);
  for (size_t o = 1; o < got.size(); ++o) {
    const size_t width = got[o].size() / 28;
    for (size_t k = 0; k < got[o].size(); ++k) {
      const size_t row = k / width / 4, t = k / width % 4;
      if (row == 2 && t >= 1) CHECK(std::isnan(got[o][k]), "value %zu at %zu", o, k);
      else CHECK(got[o][k] == clean[o][k], "value %zu at %zu", o, k);
    }
  }
}

// One call at a time; programs of their own don't meet.
void test_threads() {
  const Model m = small(2, 1);
  Random random(1);
  const std::vector<Numbers> data = sequences(m, 50, 1, random);
  auto expected_of = make<float>(m);
  const auto expected = run<float>(*expected_of, m, data, 50, 0, 50);
  auto shared = make<float>(m);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      auto own = make<float>(m);
      if (run<float>(*own, m, data, 50, 0, 50) != expected) ++wrong;
      const std::vector<float> x(2 * 50 * 3, 0.5f);
      std::vector<std::vector<float>> ys;
      std::vector<void*> out;
      for (int64_t number : m.outputs()) ys.emplace_back(size_t(100 * m.widths[size_t(number)]));
      for (auto& y : ys) out.push_back(y.data());
      const void* in = x.data();
      for (int k = 0; k < 50; ++k) {
        const std::string error = shared->run(&in, out.data(), 50);
        if (!error.empty() && error != Program::kBusy) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0, "%d threads", wrong.load());
}

std::string error_of(const std::vector<int64_t>& spec, const Weights<float>& weights,
                     size_t count) {
  std::string error;
  const auto made = Program::make(Dtype::f32, spec, weights.tensors.data(), count, &error);
  CHECK((made == nullptr) == !error.empty(), "both or neither");
  CHECK(error.empty() || error.rfind("program: ", 0) == 0, "%s", error.c_str());
  return error;
}

void test_refusals(bool is_int8) {
  const Model m = small(2, 1, is_int8);
  const Weights<float> weights(m);
  const std::vector<int64_t> spec = m.spec();
  const size_t count = weights.tensors.size();
  CHECK(error_of(spec, weights, count).empty(), "refused");
  CHECK(!error_of(spec, weights, count - 1).empty(), "too few weights");
  for (size_t end = 0; end < spec.size(); ++end) {
    const std::vector<int64_t> part(spec.begin(), spec.begin() + int64_t(end));
    CHECK(!error_of(part, weights, count).empty(), "%zu numbers", end);
  }
  const int64_t odd[] = {-2, -1, 0, 1, 2, 3, 11, 12, 13, 99, int64_t{1} << 40, INT64_MAX, INT64_MIN};
  int refused = 0;
  for (size_t at = 1; at < spec.size(); ++at)
    for (int64_t number : odd) {
      std::vector<int64_t> changed = spec;
      changed[at] = number;
      refused += !error_of(changed, weights, count).empty();
    }
  CHECK(refused > 300, "%d were refused", refused);
  std::vector<int64_t> changed = spec;
  for (int64_t streams : {int64_t{0}, int64_t{-1}, (int64_t{1} << 24) + 1, INT64_MAX}) {
    changed[0] = streams;
    CHECK(error_of(changed, weights, count).find("streams") != std::string::npos, "taken");
  }
}

void test_ids() {
  Model m(2, 1);
  m.embed(m.input(0), 5, 3);
  auto program = make<float>(m);
  std::vector<float> y(2 * 3);
  void* out = y.data();
  for (int32_t id : {-1, 5, INT32_MIN, INT32_MAX}) {
    const int32_t ids[] = {1, id};
    const void* in = ids;
    const std::string expected = "expected ids of 0 to 4, got " + std::to_string(id);
    CHECK(program->run(&in, &out, 1) == expected, "id %d", id);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (selected_kernels() == nullptr) {
    std::printf("skipped: no such target here\n");
    return kSkipped;
  }
  if (argc > 1) seeds = std::max(uint64_t(6), uint64_t(std::atoll(argv[1])) / 8);
  test_cells();
  test_large_cells();
  test_int8_cells();
  test_int8_bits();
  test_activations();
  test_everything_at_once();
  test_arrivals();
  test_long_calls();
  test_rows_refused();
  test_sharing();
  test_states_and_weights();
  test_nan_stays_in_its_row();
  test_threads();
  test_refusals(false);
  test_refusals(true);
  test_ids();
  std::printf("%s: at most %.2f of what's allowed\n", target().c_str(), worst);
  return 0;
}
