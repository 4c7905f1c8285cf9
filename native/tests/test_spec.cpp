// What the core refuses, and calls without anything to compute.
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "../core/ostinato.h"
#include "../core/spec.h"
#include "check.h"

using namespace ostinato;

namespace {

// An lstm's forward call with everything optional, changeable in any part.
struct Call {
  RunSpec spec{1, 1, 2, 1, 1, 4, 4, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0};
  int64_t B = 2, T = 3, D = 5, U = 4;
  std::vector<std::vector<int64_t>> in_shapes, out_shapes;
  std::vector<std::vector<double>> memory;
  std::vector<Tensor> inputs, outputs;

  explicit Call(int64_t batch = 2, int64_t time = 3) : B(batch), T(time) {
    in_shapes = {{B, T, D}, {B, U}, {B, U}, {D, 4 * U}, {U, 4 * U}, {4 * U}, {B, T},
                 {4, B, D}, {4, B, U}};
    out_shapes = {{B, T, U}, {B, U}, {B, U}, {T + 1, B, saved_columns(spec) * padded(U)}};
    bind(in_shapes, inputs);
    bind(out_shapes, outputs);
    inputs[6].dtype = Dtype::boolean;
  }
  Call(const Call&) = delete;

  void bind(std::vector<std::vector<int64_t>>& shapes, std::vector<Tensor>& tensors) {
    for (auto& shape : shapes) {
      int64_t count = 1;
      for (int64_t size : shape) count *= size;
      memory.emplace_back(size_t(count), 0.5);
      void* data = count == 0 ? nullptr : memory.back().data();
      tensors.push_back({data, Dtype::f64, int32_t(shape.size()), shape.data()});
    }
  }
  std::string run() {
    return forward(&spec.kind, kSpecFields, inputs.data(), inputs.size(), outputs.data(),
                   outputs.size());
  }
};

void refused(const char* expected, const std::function<void(Call&)>& change) {
  Call call;
  CHECK(call.run().empty(), "%s", call.run().c_str());
  change(call);
  std::string error = call.run();
  CHECK(error.find(expected) != std::string::npos, "expected \"%s\", got \"%s\"", expected,
        error.c_str());
  CHECK(error.rfind("forward: ", 0) == 0, "got \"%s\"", error.c_str());
}

void test_refusals() {
  refused("kind: expected 0 to 3, got 4", [](Call& c) { c.spec.kind = 4; });
  refused("resets: expected 0 to 2, got 3", [](Call& c) { c.spec.resets = 3; });
  refused("resets: expected bool (2, 3), got float64", [](Call& c) { c.spec.resets = to_zeros; });
  refused("fresh state h: expected float64 (2, 4), got bool", [](Call& c) { c.spec.resets = to_fresh_states; });
  refused("ys_before and ys_after: expected units of one neighbour", [](Call& c) {
    c.spec.ys_before = c.spec.ys_after = 1;
  });
  refused("ys_before and ys_after: expected", [](Call& c) { c.spec.ys_after = -1; });
  refused("ys_before and ys_after: expected", [](Call& c) { c.spec.ys_before = INT64_MAX; });
  refused("expected fewer than 2147483647 timesteps", [](Call& c) {
    c.in_shapes[0] = {0, int64_t{1} << 31, 5};
  });
  refused("ys: expected", [](Call& c) { c.spec.ys_after = 3; });
  refused("ys_after: expected a next run", [](Call& c) {
    c.spec.ys_after = 3;
    c.out_shapes[0][2] += 3;
  });
  refused("kind: expected 0 to 3, got -2", [](Call& c) { c.spec.kind = -2; });
  refused("spec: expected 11 integers of a routine, got 19", [](Call& c) { c.spec.kind = -1; });
  refused("checkpoint: expected 0 or a power of two from 32 on, got 33",
          [](Call& c) { c.spec.checkpoint = 33; });
  refused("truncate: expected 0 to", [](Call& c) { c.spec.truncate = -1; });
  refused("activation: expected 0 to", [](Call& c) { c.spec.activation = 1000; });
  refused("recurrent_activation: ", [](Call& c) { c.spec.recurrent_activation = -1; });
  refused("has_bias: expected 0 to 1, got 2", [](Call& c) { c.spec.has_bias = 2; });
  refused("input_masks: expected 0 or 1 or 4, got 3", [](Call& c) { c.spec.input_masks = 3; });
  refused("recurrent_masks: expected 0 or 4, got 1", [](Call& c) { c.spec.recurrent_masks = 1; });
  refused("x: expected float32 or float64", [](Call& c) { c.inputs[0].dtype = Dtype::boolean; });
  refused("x: expected float32 or float64", [](Call& c) { c.inputs[0].dtype = Dtype(9); });
  refused("x: expected rank 3", [](Call& c) { c.inputs[0].rank = 2; });
  refused("x: expected rank 3", [](Call& c) { c.inputs[0].rank = -3; });
  refused("x: expected data, got a null", [](Call& c) { c.inputs[0].data = nullptr; });
  refused("ys: expected data, got a null", [](Call& c) { c.outputs[0].data = nullptr; });
  refused("kernel: expected data aligned", [](Call& c) {
    c.inputs[3].data = static_cast<char*>(c.inputs[3].data) + 1;
  });
  refused("initial state c: expected float64 (2, 4), got float64 (2, 5)",
          [](Call& c) { c.in_shapes[2][1] = 5; });
  refused("kernel: expected float64 (5, 16), got float32", [](Call& c) {
    c.inputs[3].dtype = Dtype::f32;
  });
  refused("mask: expected bool (2, 3), got float64", [](Call& c) {
    c.inputs[6].dtype = Dtype::f64;
  });
  refused("saved: expected", [](Call& c) { c.out_shapes[3][0] = 3; });
  refused("recurrent dropout masks: expected one more input, got 8 in all",
          [](Call& c) { c.inputs.pop_back(); });
  refused("expected 9 inputs, got 10", [](Call& c) { c.inputs.push_back(c.inputs[0]); });
  refused("saved: expected one more output", [](Call& c) { c.outputs.pop_back(); });
  refused("expected 3 outputs, got 4", [](Call& c) { c.spec.training = 0; });
  refused("at least one unit", [](Call& c) { c.in_shapes[4][0] = 0; });
  refused("x: ", [](Call& c) { c.in_shapes[0][2] = -1; });
  refused("x: expected an array that fits", [](Call& c) { c.in_shapes[0][1] = INT64_MAX; });
  refused("x: expected an array that fits", [](Call& c) { c.in_shapes[0][0] = -1; });
  refused("fit in memory", [](Call& c) { c.in_shapes[4][0] = INT64_MAX; });
}

void test_specs_of_a_wrong_size() {
  Call call;
  int64_t none = 0;
  std::string error = forward(&none, 0, nullptr, 0, nullptr, 0);
  CHECK(error == "forward: spec: expected 19 integers a run, got 0", "%s", error.c_str());
  error = backward(&call.spec.kind, kSpecFields - 1, nullptr, 0, nullptr, 0);
  CHECK(error == "backward: spec: expected 19 integers a run, got 18", "%s", error.c_str());
  error = backward(&call.spec.kind, kSpecFields, nullptr, 0, nullptr, 0);
  CHECK(error == "backward: run 0: x: expected one more input, got 0 in all", "%s",
        error.c_str());
}

void test_no_rows() {
  Call call(0, 3);
  CHECK(call.run().empty(), "%s", call.run().c_str());
}

void test_no_timesteps() {
  Call call(2, 0);
  CHECK(call.run().empty(), "%s", call.run().c_str());
  for (int state : {1, 2}) {
    auto* final = static_cast<double*>(call.outputs[size_t(state)].data);
    for (int i = 0; i < 8; ++i) CHECK(final[i] == 0.5, "state %d: %g", state, final[i]);
  }
}

// Gradients of a call without timesteps: the states' pass through, the weights' are zero.
void test_gradients_without_timesteps() {
  Call call(2, 0);
  std::vector<double> d_h(8, 3), d_c(8, 4), got[5];
  std::vector<std::vector<int64_t>> shapes = {{2, 4}, {2, 4}, {5, 16}, {4, 16}, {16}};
  std::vector<Tensor> inputs = {call.inputs[0], call.inputs[3], call.inputs[4], call.inputs[6],
                                call.inputs[7], call.inputs[8], call.outputs[3]};
  int64_t states[] = {2, 4}, sequence[] = {2, 0, 4}, dx[] = {2, 0, 5};
  inputs.push_back({nullptr, Dtype::f64, 3, sequence});
  inputs.push_back({d_h.data(), Dtype::f64, 2, states});
  inputs.push_back({d_c.data(), Dtype::f64, 2, states});
  std::vector<Tensor> outputs = {{nullptr, Dtype::f64, 3, dx}};
  for (size_t i = 0; i < 5; ++i) {
    int64_t count = 1;
    for (int64_t size : shapes[i]) count *= size;
    got[i].assign(size_t(count), NAN);
    outputs.push_back({got[i].data(), Dtype::f64, int32_t(shapes[i].size()), shapes[i].data()});
  }
  std::string error = backward(&call.spec.kind, kSpecFields, inputs.data(), inputs.size(),
                               outputs.data(), outputs.size());
  CHECK(error.empty(), "%s", error.c_str());
  for (size_t i = 0; i < 5; ++i)
    for (double value : got[i]) {
      double expected = i == 0 ? 3 : i == 1 ? 4 : 0;
      CHECK(value == expected, "gradient %zu: %g", i, value);
    }
}

}  // namespace

int main() {
  if (target().empty()) return tests::kSkipped;
  test_refusals();
  test_specs_of_a_wrong_size();
  test_no_rows();
  test_no_timesteps();
  test_gradients_without_timesteps();
}
