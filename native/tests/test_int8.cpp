// Sequences with weights of int8 against the plain loops in double on the same numbers: every kind,
// options crossed at random, odd sizes, few rows and many, several runs in a call; refusals.
//
//   test_int8 [cases]     OSTINATO_TARGET chooses the target, OSTINATO_NUM_THREADS the threads
#include <cmath>
#include <cstring>
#include <deque>

#include "../core/threads.h"
#include "cases.h"
#include "naive.h"

using namespace ostinato;
using namespace ostinato::tests;

namespace {

// Digits are within half a step, 1/8192 of the largest number of a row (test_program has the bits).
constexpr double kAllowed = 2e-3;
double worst = 0;

struct Whole {
  std::vector<int8_t> values;
  std::vector<float> scales;
};

// A kernel's numbers as int8 has them; the kernel becomes those.
Whole rounded(Numbers& kernel, int64_t columns) {
  Whole whole;
  whole.scales.assign(size_t(columns), 0);
  for (size_t i = 0; i < kernel.size(); ++i) {
    float& scale = whole.scales[i % size_t(columns)];
    scale = std::fmax(scale, float(std::abs(kernel[i]) / 127));
  }
  for (size_t i = 0; i < kernel.size(); ++i) {
    const double scale = double(whole.scales[i % size_t(columns)]);
    whole.values.push_back(int8_t(std::lround(kernel[i] / scale)));
    kernel[i] = whole.values.back() * scale;
  }
  return whole;
}

void for_inference(Case& c, Random& random) {
  c.spec.training = c.spec.input_masks = c.spec.recurrent_masks = 0;
  c.spec.activation = 1, c.spec.recurrent_activation = 2;  // tanh and sigmoid
  c.input_masks.clear(), c.recurrent_masks.clear();
  fill(c, random);
}

void check(std::vector<Case> cases, int threads) {
  std::deque<Whole> wholes;
  std::deque<Bound<float>> mine;
  std::deque<Bound<double>> truth;
  std::vector<Run> runs, plain;
  for (Case& c : cases) {
    const int64_t columns = gate_count(c.spec) * c.U;
    wholes.push_back(rounded(c.kernel, columns)), wholes.push_back(rounded(c.recurrent_kernel, columns));
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    mine.emplace_back(cases[i]), truth.emplace_back(cases[i]);
    runs.push_back(mine.back().for_forward()), plain.push_back(truth.back().for_forward());
    Run& run = runs.back();
    run.spec.precision = int8_weights;
    run.kernel = wholes[2 * i].values.data(), run.kernel_scales = wholes[2 * i].scales.data();
    run.recurrent_kernel = wholes[2 * i + 1].values.data();
    run.recurrent_scales = wholes[2 * i + 1].scales.data();
  }
  const Kernels& k = *selected_kernels();
  CHECK(k.forward_int8(runs.data(), int(runs.size()), threads, k.multiply_digits), "out of memory");
  CHECK(kernels_naive()->forward_f64(plain.data(), int(plain.size()), 1), "out of memory");
  for (size_t i = 0; i < cases.size(); ++i)
    for (size_t r = 0; r < truth[i].results().size(); ++r) {
      const auto& [name, expected] = truth[i].results()[r];
      const std::vector<float>& got = mine[i].results()[r].second;
      double scale = 0.1;
      for (double value : expected)
        if (std::isfinite(value)) scale = std::fmax(scale, std::abs(value));
      for (size_t at = 0; at < expected.size(); ++at) {
        if (std::isnan(expected[at]) && std::isnan(got[at])) continue;  // a neighbour's column
        const double error = std::abs(double(got[at]) - expected[at]) / scale;
        worst = std::fmax(worst, error / kAllowed);
        CHECK(error <= kAllowed, "%s[%zu] %.9g, expected %.9g, with %d threads: %s", name, at,
              double(got[at]), expected[at], threads, cases[i].described().c_str());
      }
    }
}

template <class Make>
void test_crossed(Make make, uint64_t first, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Random random(first + uint64_t(i));
    std::vector<Case> cases;
    for (int64_t n = random.chance(0.3) ? 2 : 1; n > 0; --n) {
      cases.push_back(make(random, random.below(kind_count())));
      for_inference(cases.back(), random);
    }
    check(cases, 1 + int(i % 3));
  }
}

template <class T>
Tensor tensor(std::vector<T>& values, Dtype dtype, const std::vector<int64_t>& shape) {
  return {values.data(), dtype, int32_t(shape.size()), shape.data()};
}

// What has no place beside weights of int8 is refused before anything is written.
void test_refusals() {
  const std::vector<int64_t> x_shape = {1, 2, 3}, h_shape = {1, 4}, kernel = {3, 4}, recurrent = {4, 4},
                             scales = {4};
  std::vector<float> x(6, 1), h(4), s(4, 1), out(4);
  std::vector<int8_t> w(16, 1);
  std::vector<Tensor> inputs = {tensor(x, Dtype::f32, x_shape), tensor(h, Dtype::f32, h_shape),
                                tensor(w, Dtype::i8, kernel), tensor(s, Dtype::f32, scales),
                                tensor(w, Dtype::i8, recurrent), tensor(s, Dtype::f32, scales)};
  const Tensor output = tensor(out, Dtype::f32, h_shape);
  RunSpec spec{};
  spec.kind = simple_rnn, spec.precision = int8_weights;
  auto error = [&](const RunSpec& changed) {
    int64_t fields[kSpecFields];
    std::memcpy(fields, &changed, sizeof fields);
    return forward(fields, kSpecFields, inputs.data(), inputs.size(), &output, 1);
  };
  CHECK(error(spec).empty(), "%s", error(spec).c_str());
  CHECK(out[0] > 0, "nothing was written");
  RunSpec other = spec;
  other.training = 1;
  CHECK(error(other).find("for inference") != std::string::npos, "%s", error(other).c_str());
  other = spec, other.recurrent_masks = 1;
  CHECK(error(other).find("for inference") != std::string::npos, "%s", error(other).c_str());
  other = spec, other.precision = of_tensors;
  CHECK(error(other).find("kernel: expected") != std::string::npos, "%s", error(other).c_str());
  other = spec, other.precision = 4;
  CHECK(error(other).find("precision") != std::string::npos, "%s", error(other).c_str());
  inputs[2].dtype = Dtype::f32;
  CHECK(error(spec).find("kernel: expected int8") != std::string::npos, "%s", error(spec).c_str());
  int64_t fields[kSpecFields];
  std::memcpy(fields, &spec, sizeof fields);
  const std::string back = backward(fields, kSpecFields, inputs.data(), inputs.size(), &output, 1);
  CHECK(back.find("no gradients") != std::string::npos, "%s", back.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (selected_kernels() == nullptr) {
    std::printf("skipped: no such target here\n");
    return kSkipped;
  }
  const int64_t count = argc > 1 ? std::atoll(argv[1]) : 300;
  test_crossed(random_case, 0, count);
  test_crossed(random_large_case, 9000, count / 8);
  test_crossed(random_case_of_few, 20000, count / 4);
  test_refusals();
  std::printf("%s: at most %.2f of what's allowed\n", target().c_str(), worst);
  return 0;
}
