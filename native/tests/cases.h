// A run with its numbers in double, and the same run bound to arrays of a dtype.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../core/kernels.h"
#include "../core/spec.h"
#include "check.h"
#include "naive_activations.h"

namespace ostinato::tests {

// A number of bfloat16_tensors: a float's upper half, rounded to nearest even.
struct Bfloat16 {
  uint16_t bits = 0;

  Bfloat16() = default;
  explicit Bfloat16(double value) {
    uint32_t word;
    const float single = float(value);
    std::memcpy(&word, &single, sizeof(word));
    if (value == value) word += 0x7fff + (word >> 16 & 1);
    bits = uint16_t(word >> 16);
  }
  explicit operator double() const {
    const uint32_t word = uint32_t(bits) << 16;
    float single;
    std::memcpy(&single, &word, sizeof(single));
    return single;
  }
};

// A number of bfloat16_products: a float.
struct Single {
  float value = 0;

  Single() = default;
  explicit Single(double number) : value(float(number)) {}
  explicit operator double() const { return value; }
};

inline Precision precision_of(float) { return of_tensors; }
inline Precision precision_of(double) { return of_tensors; }
inline Precision precision_of(Single) { return bfloat16_products; }
inline Precision precision_of(Bfloat16) { return bfloat16_tensors; }

using Numbers = std::vector<double>;

struct Case {
  RunSpec spec{};
  int64_t B = 0, T = 0, D = 0, U = 0;
  Numbers x, initial[2], kernel, recurrent_kernel, bias, fresh[2], input_masks, recurrent_masks;
  std::vector<uint8_t> mask, resets;
  Numbers d_ys, d_final[2];

  // Neighbours' columns in ys are never touched: they stay NaN.
  int64_t ys_stride() const { return spec.ys_before + U + spec.ys_after; }

  std::string described() const {
    size_t count = 0;
    const char* const* names = activation_names(&count);
    auto number = [](const char* name, int64_t n) {
      return std::string(" ") + name + " " + std::to_string(n);
    };
    return std::string(layout_of(spec.kind).name) + number("B", B) + number("T", T) + number("D", D) +
           number("U", U) + " " + names[spec.activation] + " " +
           names[spec.recurrent_activation] + number("bias", spec.has_bias) +
           number("mask", spec.has_mask) + number("input_masks", spec.input_masks) +
           number("recurrent_masks", spec.recurrent_masks) +
           number("go_backwards", spec.go_backwards) + number("flip_outputs", spec.flip_outputs) +
           number("return_sequences", spec.return_sequences) +
           number("zero_output_for_mask", spec.zero_output_for_mask) +
           number("training", spec.training) + number("wants_dx", spec.wants_dx) +
           number("ys_before", spec.ys_before) + number("ys_after", spec.ys_after) +
           number("resets", spec.resets);
  }
};

// `count` numbers between -scale and scale, exact in float.
inline Numbers numbers(Random& random, int64_t count, double scale) {
  Numbers values(static_cast<size_t>(count));
  for (double& value : values) value = double(float(random.between(-scale, scale)));
  return values;
}

// Dropout masks: a third dropped, the rest scaled.
inline Numbers dropout(Random& random, int64_t count) {
  Numbers values(static_cast<size_t>(count));
  for (double& value : values) value = random.chance(0.33) ? 0 : 1.5;
  return values;
}

// Each row padded on the right, on the left, with holes, without a valid step, or all valid.
inline std::vector<uint8_t> random_mask(Random& random, int64_t B, int64_t T) {
  std::vector<uint8_t> mask(static_cast<size_t>(B * T));
  for (int64_t b = 0; b < B; ++b) {
    int64_t how = random.below(5), edge = random.below(T + 1);
    for (int64_t t = 0; t < T; ++t) {
      bool valid = how == 0   ? t < edge
                   : how == 1 ? t >= edge
                   : how == 2 ? random.chance(0.5)
                              : how == 3;
      mask[size_t(b * T + t)] = valid;
    }
  }
  return mask;
}

// Each row without any reset, with few or many, or with one at each timestep.
inline std::vector<uint8_t> random_resets(Random& random, int64_t B, int64_t T) {
  const double rates[] = {0, 0.1, 0.5, 1};
  std::vector<uint8_t> resets(static_cast<size_t>(B * T));
  for (int64_t b = 0; b < B; ++b) {
    const double rate = random.pick(rates);
    for (int64_t t = 0; t < T; ++t) resets[size_t(b * T + t)] = random.chance(rate);
  }
  return resets;
}

inline bool bounded(int64_t activation) {
  auto value = naive::activation(activation).value;
  return std::abs(value(9)) < 2 && std::abs(value(-9)) < 2;
}

// Fills a case whose spec and sizes are set. The weights are small enough that no activation makes
// the states explode, and large enough that all of them matter.
inline void fill(Case& c, Random& random) {
  int64_t gates = gate_count(c.spec), columns = gates * c.U;
  double per_input = 1.0 / std::max<double>(1, double(c.D) / 4);
  double per_unit = 1.0 / std::max<double>(1, double(c.U) / 4);
  if (!bounded(c.spec.activation)) {
    bool steep = naive::activation(c.spec.activation).value(9) > 100;  // exponential
    per_unit /= steep ? 20 : 4, per_input /= steep ? 4 : 1;
    c.T = std::min<int64_t>(c.T, steep ? 2 : 5);
  }
  if (layout_of(c.spec.kind).has_gates && !bounded(c.spec.recurrent_activation)) {
    // A gate beyond one multiplies the states at each step.
    per_unit /= 10, per_input /= 4;
    c.T = std::min<int64_t>(c.T, 4);
  }
  c.x = numbers(random, c.B * c.T * c.D, 1);
  c.kernel = numbers(random, c.D * columns, per_input);
  c.recurrent_kernel = numbers(random, c.U * columns, per_unit);
  if (c.spec.has_bias) c.bias = numbers(random, layout_of(c.spec.kind).bias_rows * columns, 0.5);
  if (c.spec.has_mask) c.mask = random_mask(random, c.B, c.T);
  if (c.spec.resets) c.resets = random_resets(random, c.B, c.T);
  c.input_masks = dropout(random, c.spec.input_masks * c.B * c.D);
  c.recurrent_masks = dropout(random, c.spec.recurrent_masks * c.B * c.U);
  if (c.spec.return_sequences) c.d_ys = numbers(random, c.B * c.T * c.ys_stride(), 1);
  for (int64_t i = 0; i < state_count(c.spec); ++i) {
    c.initial[i] = numbers(random, c.B * c.U, 1);
    c.d_final[i] = numbers(random, c.B * c.U, 1);
    if (c.spec.resets == to_fresh_states) c.fresh[i] = numbers(random, c.B * c.U, 1);
  }
}

// Any spec, for sizes that are set.
inline void cross_options(Case& c, Random& random, int64_t kind) {
  size_t activations = 0;
  activation_names(&activations);
  const int64_t units[] = {1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 50, 65};
  RunSpec& s = c.spec;
  s.kind = kind;
  int64_t gates = gate_count(s);
  s.activation = random.below(int64_t(activations));
  s.recurrent_activation = random.below(int64_t(activations));
  s.has_bias = random.chance(0.7);
  s.has_mask = random.chance(0.5);
  const int64_t input_masks[] = {0, 0, 1, gates};
  s.input_masks = random.pick(input_masks);
  s.recurrent_masks = random.chance(0.3) ? gates : 0;
  s.go_backwards = random.chance(0.3);
  s.flip_outputs = random.chance(0.3);
  s.return_sequences = random.chance(0.6);
  s.zero_output_for_mask = random.chance(0.3);
  s.training = 1;
  s.wants_dx = random.chance(0.7);
  s.resets = random.chance(0.5) ? no_resets : random.chance(0.5) ? to_zeros : to_fresh_states;
  if (s.return_sequences && random.chance(0.3)) {
    (random.chance(0.5) ? s.ys_before : s.ys_after) = random.pick(units);
  }
  fill(c, random);
}

// Any spec and any sizes of the lists.
inline Case random_case(Random& random, int64_t kind) {
  const int64_t batches[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 23, 33};
  const int64_t times[] = {1, 2, 3, 5, 9, 12};
  const int64_t features[] = {1, 2, 3, 8, 15, 16, 17, 33};
  const int64_t units[] = {1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 50, 65};
  Case c;
  c.B = random.pick(batches), c.T = random.pick(times);
  c.D = random.pick(features), c.U = random.pick(units);
  cross_options(c, random, kind);
  return c;
}

// Likewise, with weights beyond the caches, so that threads share the units: whole panels of them, or
// a panel's rows, too.
inline Case random_large_case(Random& random, int64_t kind) {
  const int64_t batches[] = {1, 2, 5, 8, 17};
  const int64_t times[] = {1, 2, 3, 5};
  const int64_t features[] = {1, 20, 33, 70};
  const int64_t units[] = {256, 257, 270, 290, 300};
  Case c;
  c.B = random.pick(batches), c.T = random.pick(times);
  c.D = random.pick(features), c.U = random.pick(units) * (kind == simple_rnn ? 2 : 1);
  cross_options(c, random, kind);
  return c;
}

// Likewise, with a few rows and many timesteps, so that the inputs' products of several are done at once,
// and threads may share the units of small layers.
inline Case random_case_of_few(Random& random, int64_t kind) {
  const int64_t times[] = {1, 8, 33, 70};
  const int64_t features[] = {0, 1, 20, 33};
  const int64_t units[] = {5, 40, 100, 130, 150};
  Case c;
  c.B = 1 + random.below(4), c.T = random.pick(times);
  c.D = random.pick(features), c.U = random.pick(units) * (kind == simple_rnn ? 2 : 1);
  cross_options(c, random, kind);
  return c;
}

// A case's arrays in F. Outputs are exactly as large as they must be, so that the address sanitizer
// sees a step beyond, and full of NaN, so that what isn't written shows.
template <class F>
class Bound {
 public:
  explicit Bound(const Case& c) : case_(c) {
    run_ = Run{};
    run_.spec = c.spec;
    run_.spec.precision = precision_of(F());
    run_.B = c.B, run_.T = c.T, run_.D = c.D, run_.U = c.U;
    run_.ys_stride = c.ys_stride();
    run_.x = in(c.x);
    run_.kernel = in(c.kernel);
    run_.recurrent_kernel = in(c.recurrent_kernel);
    run_.bias = in(c.bias);
    run_.input_masks = in(c.input_masks);
    run_.recurrent_masks = in(c.recurrent_masks);
    run_.mask = c.mask.empty() ? nullptr : c.mask.data();
    run_.resets = c.resets.empty() ? nullptr : c.resets.data();
    if (c.spec.return_sequences) run_.d_ys = static_cast<const F*>(in(c.d_ys)) + c.spec.ys_before;
    for (int64_t i = 0; i < state_count(c.spec); ++i) {
      run_.initial[i] = in(c.initial[i]);
      run_.fresh[i] = in(c.fresh[i]);
      run_.d_final[i] = in(c.d_final[i]);
    }
    results_.reserve(16);
  }
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;

  // Makes new arrays for the outputs of `forward`.
  const Run& for_forward() {
    results_.clear();
    const int64_t width = saved_columns(run_.spec) * padded(case_.U);
    const int64_t times = saved_times(run_.spec, case_.T);
    if (case_.spec.return_sequences) {
      F* ys = static_cast<F*>(out("ys", case_.B * case_.T * case_.ys_stride()));
      run_.ys = ys + case_.spec.ys_before;
    }
    for (int64_t i = 0; i < state_count(case_.spec); ++i)
      run_.final[i] = out(i == 0 ? "h" : "c", case_.B * case_.U);
    run_.saved = nullptr;
    if (case_.spec.training) {
      saved_.assign(size_t(times * case_.B * width), nan());
      run_.saved = saved_.data();
    }
    return run_;
  }

  // Makes new arrays for the outputs of `backward`; `saved` is what `forward` wrote.
  const Run& for_backward() {
    results_.clear();
    int64_t columns = gate_count(case_.spec) * case_.U;
    run_.dx = nullptr;
    if (case_.spec.wants_dx) run_.dx = out("dx", case_.B * case_.T * case_.D);
    for (int64_t i = 0; i < state_count(case_.spec); ++i)
      run_.d_initial[i] = out(i == 0 ? "d_h" : "d_c", case_.B * case_.U);
    run_.d_kernel = out("d_kernel", case_.D * columns);
    run_.d_recurrent_kernel = out("d_recurrent_kernel", case_.U * columns);
    run_.d_bias = nullptr;
    const int64_t rows = layout_of(case_.spec.kind).bias_rows;
    if (case_.spec.has_bias) run_.d_bias = out("d_bias", rows * columns);
    for (int64_t i = 0; case_.spec.resets == to_fresh_states && i < state_count(case_.spec); ++i)
      run_.d_fresh[i] = out(i == 0 ? "d_fresh_h" : "d_fresh_c", case_.B * case_.U);
    return run_;
  }

  using Results = std::vector<std::pair<const char*, std::vector<F>>>;
  const Results& results() const { return results_; }
  const std::vector<F>& saved() const { return saved_; }
  const Case& of() const { return case_; }

 private:
  static F nan() { return F(std::numeric_limits<double>::quiet_NaN()); }

  const void* in(const Numbers& values) {
    if (values.empty()) return nullptr;
    std::vector<F>& numbers = inputs_.emplace_back();
    for (double value : values) numbers.push_back(F(value));
    return inputs_.back().data();
  }
  void* out(const char* name, int64_t count) {
    results_.emplace_back(name, std::vector<F>(size_t(count), nan()));
    return results_.back().second.data();
  }

  const Case& case_;
  Run run_;
  std::vector<std::vector<F>> inputs_;
  std::vector<F> saved_;
  Results results_;
};

}  // namespace ostinato::tests
