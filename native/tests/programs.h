// Programs of steps for tests, their weights in double; the plain loops that step.h promises.
#pragma once

#include <cmath>
#include <cstring>
#include <utility>

#include "../core/spec.h"
#include "../core/step/step.h"
#include "cases.h"
#include "naive.h"
#include "routines.h"

namespace ostinato::tests {

// A program and its weights in double. Values and masks get their numbers as they're made.
struct Model {
  int64_t N;
  std::vector<int64_t> widths;  // of all values; 0 of ids
  size_t n_inputs = 0;
  int64_t n_masks = 0;
  std::vector<StepOp> ops;
  std::vector<Encoding> routines;
  std::vector<Numbers> weights;
  std::vector<std::vector<int64_t>> shapes;
  std::vector<Numbers> scales;  // of weights of int8, by column: whole multiples of these; else empty
  Random random;

  Model(int64_t streams, uint64_t seed) : N(streams), random(seed) {}

  int64_t input(int64_t width) {
    widths.push_back(width);
    return int64_t(n_inputs++);
  }
  void weight(std::vector<int64_t> shape, double scale) {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    weights.push_back(numbers(random, count, scale));
    shapes.push_back(std::move(shape));
  }
  // Whole multiples of float32 scales, by column.
  void int8_weight(int64_t depth, int64_t columns, double largest) {
    weight({depth, columns}, 1);
    scales.resize(weights.size());
    for (int64_t j = 0; j < columns; ++j)
      scales.back().push_back(double(float(random.between(0.3, 1) * largest / 127)));
    for (size_t i = 0; i < weights.back().size(); ++i)
      weights.back()[i] = double(random.below(255) - 127) * scales.back()[i % size_t(columns)];
  }
  StepOp& add(StepCode code, int64_t first, int64_t width) {
    StepOp op{};
    op.code = code, op.first = first, op.second = op.mask_in = op.mask_out = -1;
    op.width = width, op.out = int64_t(widths.size());
    widths.push_back(width);
    ops.push_back(op);
    return ops.back();
  }

  int64_t embed(int64_t ids, int64_t rows, int64_t width) {
    add(step_embed, ids, width).mask_out = n_masks++;
    weight({rows, width}, 1);
    return ops.back().out;
  }
  int64_t mask(int64_t first, double number) {
    add(step_mask, first, widths[size_t(first)]).mask_out = n_masks++;
    weights.push_back({number}), shapes.push_back({1});
    return ops.back().out;
  }
  int64_t either(int64_t first, int64_t second) {
    StepOp op{};
    op.code = step_either, op.mask_in = first, op.first = second, op.second = op.out = -1;
    op.mask_out = n_masks++;
    ops.push_back(op);
    return op.mask_out;
  }
  int64_t cell(int64_t kind, int64_t first, int64_t U, int64_t mask_in, bool has_bias, bool zero,
               int64_t activation, int64_t gate, bool is_int8 = false) {
    StepOp& op = add(is_int8 ? step_int8_cell : step_cell, first, U);
    op.kind = kind, op.mask_in = mask_in, op.has_bias = has_bias, op.zero_output_for_mask = zero;
    op.activation = activation, op.recurrent_activation = gate;
    RunSpec run{};
    run.kind = kind;
    const int64_t D = widths[size_t(first)], columns = gate_count(run) * U;
    kernel(D, columns, is_int8), kernel(U, columns, is_int8);
    if (has_bias && layout_of(kind).bias_rows == 2) weight({2, columns}, 0.5);
    else if (has_bias) weight({columns}, 0.5);
    return int64_t(widths.size()) - 1;
  }
  void kernel(int64_t depth, int64_t columns, bool is_int8) {
    const double largest = 1.0 / std::max<double>(1, double(depth) / 4);
    if (is_int8) int8_weight(depth, columns, largest);
    else weight({depth, columns}, largest);
  }
  int64_t dense(int64_t first, int64_t width, bool has_bias, int64_t activation, bool is_int8 = false) {
    StepOp& op = add(is_int8 ? step_int8_dense : step_dense, first, width);
    op.has_bias = has_bias, op.activation = activation;
    kernel(widths[size_t(first)], width, is_int8);
    if (has_bias) weight({width}, 0.5);
    return int64_t(widths.size()) - 1;
  }
  int64_t scale(int64_t first) {
    const int64_t width = widths[size_t(first)], made = add(step_scale, first, width).out;
    weight({width}, 1), weight({width}, 1);
    return made;
  }
  int64_t normalize(int64_t first, int64_t kind) {
    const int64_t width = widths[size_t(first)];
    add(step_normalize, first, width).kind = kind;
    weights.push_back({1e-3}), shapes.push_back({1});
    weights.back()[0] = double(float(1e-3));
    weight({width}, 1), weight({width}, 1);
    return ops.back().out;
  }
  int64_t elementwise(StepCode code, int64_t first, int64_t activation = 0) {
    add(code, first, widths[size_t(first)]).activation = activation;
    return ops.back().out;
  }
  int64_t combine(int64_t first, int64_t second, int64_t kind) {
    StepOp& op = add(step_combine, first, widths[size_t(first)]);
    op.second = second, op.kind = kind;
    return op.out;
  }
  int64_t concatenate(int64_t first, int64_t second) {
    StepOp& op = add(step_concatenate, first, widths[size_t(first)] + widths[size_t(second)]);
    op.second = second;
    return op.out;
  }

  int64_t window(int64_t first, int64_t kind, int64_t taps, int64_t dilation) {
    const int64_t D = widths[size_t(first)];
    StepOp& op = add(step_window, first, kind == window_all ? taps * D : D);
    op.kind = kind, op.taps = taps, op.dilation = dilation;
    if (kind == window_weighted) weight({taps, D}, 1);
    return ops.back().out;
  }
  int64_t pool(int64_t first, int64_t kind, int64_t mask_in = -1) {
    StepOp& op = add(step_pool, first, widths[size_t(first)]);
    op.kind = kind, op.mask_in = mask_in;
    return op.out;
  }

  // h = tanh(x W + h U + b), and what `Encoding` needs to say so: a cell of one's own.
  int64_t own_cell(int64_t first, int64_t U, int64_t mask_in) {
    const int64_t D = widths[size_t(first)];
    StepOp& op = add(step_routine, first, U);
    op.kind = int64_t(routines.size()), op.mask_in = mask_in;
    routines.push_back(own_routine(D, U, mask_in >= 0));
    weight({D, U}, 1.0 / std::max<double>(1, double(D) / 4));
    weight({U, U}, 1.0 / std::max<double>(1, double(U) / 4));
    weight({U}, 0.5);
    return ops.back().out;
  }
  static Encoding own_routine(int64_t D, int64_t U, bool has_mask) {
    Encoding e;
    e.operands = {{0, 0, {D}}, {1, 0, {U}}, {2, 0, {D, U}}, {2, 0, {U, U}}, {2, 0, {U}}};
    if (has_mask) e.operands.push_back({3, 0, {}});
    e.results = {{1, 1, 0, {U}}, {3, 0, 0, {U}}};
    e.carries = {{U, 1, -1}};
    const int64_t z = e.add_scratch(U, false);
    e.product({kOperand, 0}, 0, 1, D, U, 2, false, {kScratch, z}, 0, 2, 4, 0);
    e.product({kCarry, 0}, 0, 1, U, U, 3, false, {kScratch, z}, 0, 1, -1, 0);
    Map step{{U}, {}, {}, {}}, idle{{U}, {}, {}, {}};
    const int64_t sum = step.input({kScratch, z, 0, {1}}), old = step.input({kCarry, 0, 0, {1}});
    const int64_t valid = has_mask ? step.input({kOperand, 5, 0, {0}}) : -1;
    int64_t h = step.operation("tanh", sum);
    if (has_mask) h = step.operation("select", valid, h, old);
    step.outputs = {{h, 0, {kNext, 0, 0, {1}}}, {h, 0, {kResult, 0, 0, {1}}}};
    e.body.push_back(step.ints());
    const int64_t kept = idle.input({kCarry, 0, 0, {1}});
    idle.outputs = {{kept, 0, {kNext, 0, 0, {1}}}, {kept, 0, {kResult, 0, 0, {1}}}};
    if (has_mask) e.idle.push_back(idle.ints());
    return e;
  }

  // All values are outputs, but those that are ids.
  std::vector<int64_t> outputs() const {
    std::vector<int64_t> found;
    for (size_t i = 0; i < widths.size(); ++i)
      if (widths[i] > 0) found.push_back(int64_t(i));
    return found;
  }
  std::vector<int64_t> spec() const {
    std::vector<int64_t> all = {N, int64_t(n_inputs)};
    all.insert(all.end(), widths.begin(), widths.begin() + int64_t(n_inputs));
    const std::vector<int64_t> out = outputs();
    all.push_back(int64_t(out.size()));
    all.insert(all.end(), out.begin(), out.end());
    all.push_back(int64_t(routines.size()));
    for (const Encoding& routine : routines) {
      const Ints ints = routine.ints();
      all.push_back(int64_t(ints.size()));
      all.insert(all.end(), ints.begin(), ints.end());
      all.push_back(int64_t(routine.floats.size()));
      for (double value : routine.floats) std::memcpy(&all.emplace_back(), &value, sizeof value);
    }
    for (const StepOp& op : ops) {
      int64_t fields[kStepFields];
      std::memcpy(fields, &op, sizeof op);
      all.insert(all.end(), fields, fields + kStepFields);
    }
    return all;
  }
};

// The plain loops: a timestep of a model over all its streams, in double.
class Plain {
 public:
  explicit Plain(const Model& model) : m_(model), states_(model.ops.size()) {
    for (size_t i = 0; i < m_.ops.size(); ++i) {
      for (Numbers& state : states_[i].of) state.assign(size_t(m_.N * m_.ops[i].width), 0);
      states_[i].started.assign(size_t(m_.N), 0);
      states_[i].rows.resize(size_t(m_.N));
      if (m_.ops[i].code != step_routine) continue;
      for (const Encoding::Three& carry : m_.routines[size_t(m_.ops[i].kind)].carries)
        states_[i].carries.emplace_back(size_t(m_.N * carry.a), 0.0);
    }
  }

  // A row as it began.
  void reset(int64_t r) {
    for (size_t i = 0; i < m_.ops.size(); ++i) {
      State& state = states_[i];
      for (Numbers& of : state.of) zero_row(of, r);
      for (Numbers& of : state.carries) zero_row(of, r);
      state.started[size_t(r)] = 0;
      state.rows[size_t(r)].clear();
    }
  }
  void zero_row(Numbers& of, int64_t r) const {
    const int64_t width = int64_t(of.size()) / m_.N;
    std::fill(of.begin() + r * width, of.begin() + (r + 1) * width, 0.0);
  }

  // `values` begins with the inputs, (N, width) each, ids as numbers; the rest is made.
  void step(std::vector<Numbers>& values) {
    masks_.clear();
    weight_ = 0;
    for (size_t i = 0; i < m_.ops.size(); ++i) {
      const StepOp& op = m_.ops[i];
      if (op.code == step_either) {
        std::vector<uint8_t> both = masks_[size_t(op.mask_in)];
        for (size_t r = 0; r < both.size(); ++r) both[r] |= masks_[size_t(op.first)][r];
        masks_.push_back(both);
        continue;
      }
      Numbers out(size_t(m_.N * op.width), 0);
      run(op, values, states_[i], out);
      values.push_back(out);
    }
  }

 private:
  struct State {
    Numbers of[2];
    std::vector<uint8_t> started;
    std::vector<Numbers> carries;
    std::vector<std::vector<Numbers>> rows;  // of windows and pools, all timesteps of each row so far
  };

  const Numbers& next_weight() { return m_.weights[weight_++]; }

  void run(const StepOp& op, const std::vector<Numbers>& values, State& state, Numbers& out) {
    const int64_t D = m_.widths[size_t(op.first)];
    const Numbers& x = values[size_t(op.first)];
    if (is_cell(op)) return cell(op, x, D, state, out);
    if (op.code == step_routine) return routine(op, x, state, out);
    if (op.code == step_window || op.code == step_pool) return look_back(op, x, D, state, out);
    const Numbers* first = has_weights(op) ? &next_weight() : nullptr;
    const bool two = op.code == step_normalize || op.code == step_scale ||
                     (is_dense(op) && op.has_bias);
    const Numbers* second = two ? &next_weight() : nullptr;
    const Numbers* third = op.code == step_normalize ? &next_weight() : nullptr;
    const Numbers* y = op.second >= 0 ? &values[size_t(op.second)] : nullptr;
    if (op.mask_out >= 0) masks_.emplace_back(size_t(m_.N), uint8_t{0});
    for (int64_t r = 0; r < m_.N; ++r) {
      const double* a = x.data() + r * (op.code == step_embed ? 1 : D);
      const double* b = y == nullptr ? nullptr : y->data() + r * int64_t(y->size()) / m_.N;
      row(op, a, b, D, first, second, third, out.data() + r * op.width, r);
    }
  }

  static bool has_weights(const StepOp& op) {
    return op.code != step_activate && op.code != step_softmax && op.code != step_combine &&
           op.code != step_concatenate;
  }

  void row(const StepOp& op, const double* a, const double* b, int64_t D, const Numbers* w,
           const Numbers* v, const Numbers* u, double* out, int64_t r) {
    const auto f = naive::activation(op.activation).value;
    double mean = 0, variance = 0, total = 0, largest = -INFINITY;
    for (int64_t i = 0; i < D; ++i) mean += op.kind == 0 ? a[i] / double(D) : 0;
    for (int64_t i = 0; i < D; ++i) {
      variance += (a[i] - mean) * (a[i] - mean) / double(D);
      largest = std::max(largest, a[i]);
      if (op.code == step_mask) masks_.back()[size_t(r)] |= a[i] != (*w)[0];
    }
    for (int64_t i = 0; i < D; ++i) total += std::exp(a[i] - largest);
    if (op.code == step_embed) masks_.back()[size_t(r)] = a[0] != 0;
    for (int64_t i = 0; i < op.width; ++i) {
      const size_t s = size_t(i);
      double sum = 0;
      switch (op.code) {
        case step_embed: out[i] = (*w)[size_t(a[0]) * size_t(op.width) + s]; break;
        case step_mask: out[i] = masks_.back()[size_t(r)] ? a[i] : 0; break;
        case step_dense:
        case step_int8_dense:
          for (int64_t k = 0; k < D; ++k) sum += a[k] * (*w)[size_t(k * op.width + i)];
          out[i] = f(sum + (v == nullptr ? 0 : (*v)[s]));
          break;
        case step_scale: out[i] = a[i] * (*w)[s] + (*v)[s]; break;
        case step_normalize:
          out[i] = (a[i] - mean) / std::sqrt(variance + (*w)[0]) * (*v)[s] + (*u)[s];
          break;
        case step_activate: out[i] = f(a[i]); break;
        case step_softmax: out[i] = std::exp(a[i] - largest) / total; break;
        case step_combine:
          out[i] = op.kind == 0   ? a[i] + b[i]
                   : op.kind == 1 ? a[i] - b[i]
                   : op.kind == 2 ? a[i] * b[i]
                   : op.kind == 3 ? std::max(a[i], b[i])
                                  : std::min(a[i], b[i]);
          break;
        default: out[i] = i < D ? a[i] : b[i - D];
      }
    }
  }

  void look_back(const StepOp& op, const Numbers& x, int64_t D, State& state, Numbers& out) {
    const Numbers* kernel = op.kind == window_weighted && op.code == step_window ? &next_weight() : nullptr;
    for (int64_t r = 0; r < m_.N; ++r) {
      std::vector<Numbers>& seen = state.rows[size_t(r)];
      const bool valid = op.mask_in < 0 || masks_[size_t(op.mask_in)][size_t(r)];
      if (valid) seen.emplace_back(x.begin() + r * D, x.begin() + (r + 1) * D);
      for (int64_t i = 0; i < D; ++i) {
        double* to = out.data() + r * op.width;
        if (op.code == step_pool) {
          double sum = 0, largest = -INFINITY;
          for (const Numbers& row : seen) sum += row[size_t(i)], largest = std::max(largest, row[size_t(i)]);
          to[i] = op.kind == pool_mean ? sum / double(seen.size()) : largest;
          continue;
        }
        double sum = 0, largest = -INFINITY;
        for (int64_t k = 0; k < op.taps; ++k) {
          const int64_t t = int64_t(seen.size()) - 1 - (op.taps - 1 - k) * op.dilation;
          const double value = t < 0 ? 0 : seen[size_t(t)][size_t(i)];
          if (op.kind == window_all) to[k * D + i] = value;
          sum += kernel == nullptr ? value : value * (*kernel)[size_t(k * D + i)];
          largest = std::max(largest, value);
        }
        if (op.kind == window_largest) to[i] = largest;
        if (op.kind == window_mean) to[i] = sum / double(op.taps);
        if (op.kind == window_weighted) to[i] = sum;
      }
    }
  }

  void cell(const StepOp& op, const Numbers& x, int64_t D, State& state, Numbers& out) {
    Run run{};
    run.spec.kind = op.kind, run.spec.activation = op.activation;
    run.spec.recurrent_activation = op.recurrent_activation, run.spec.has_bias = op.has_bias;
    run.B = m_.N, run.T = 1, run.D = D, run.U = op.width, run.ys_stride = op.width;
    run.x = x.data();
    run.kernel = next_weight().data(), run.recurrent_kernel = next_weight().data();
    if (op.has_bias) run.bias = next_weight().data();
    Numbers made[2];
    const int64_t count = layout_of(op.kind).states;
    for (int64_t s = 0; s < count; ++s) {
      made[s].resize(state.of[s].size());
      run.initial[s] = state.of[s].data(), run.final[s] = made[s].data();
    }
    CHECK(kernels_naive()->forward_f64(&run, 1, 1), "out of memory");
    for (int64_t r = 0; r < m_.N; ++r) {
      const bool valid = op.mask_in < 0 || masks_[size_t(op.mask_in)][size_t(r)];
      state.started[size_t(r)] |= valid;
      for (int64_t i = r * op.width; i < (r + 1) * op.width; ++i) {
        for (int64_t s = 0; valid && s < count; ++s) state.of[s][size_t(i)] = made[s][size_t(i)];
        const bool shown = valid || (state.started[size_t(r)] && !op.zero_output_for_mask);
        out[size_t(i)] = shown ? state.of[0][size_t(i)] : 0;
      }
    }
  }

  // A timestep is a sequence of one.
  void routine(const StepOp& op, const Numbers& x, State& state, Numbers& out) {
    const Encoding& e = m_.routines[size_t(op.kind)];
    RoutineNumbers call{m_.N, 1, 0, 0, 1, {}, {}};
    size_t carry = 0;
    for (const Encoding::Operand& operand : e.operands) {
      switch (operand.kind) {
        case 0: call.operands.push_back(x); break;
        case 1: call.operands.push_back(state.carries[carry++]); break;
        case 2: call.operands.push_back(next_weight()); break;
        default: {
          const std::vector<uint8_t>& mask = masks_[size_t(op.mask_in)];
          call.operands.emplace_back(mask.begin(), mask.end());
        }
      }
    }
    for (const Encoding::Result& result : e.results)
      call.results.emplace_back(size_t(product_of(call.shape(e, result))), NAN);
    run_plainly(e, call);
    out = call.results[0];
    for (size_t i = 1; i < e.results.size(); ++i)
      state.carries[size_t(e.results[i].which)] = call.results[i];
  }

  const Model& m_;
  std::vector<State> states_;
  std::vector<std::vector<uint8_t>> masks_;
  size_t weight_ = 0;
};

}  // namespace ostinato::tests
