// The layers as plain loops, one row and timestep at a time; sums in double.
//
// `saved` (T+1, B, columns * P) holds the initial states in row 0, and in row s+1 what step s needs
// again: the pre-activations by gate, and for gru (reset_after) in a fourth column h U + b of the
// candidate.
#include "naive.h"

#include <vector>

#include "naive_activations.h"

namespace ostinato {
namespace {

using naive::Activation;
using naive::activation;

template <class F>
class Naive {
 public:
  explicit Naive(const Run& run)
      : run_(run),
        gates_(run.spec.kind == simple_rnn ? 1 : run.spec.kind == lstm ? 4 : 3),
        states_(run.spec.kind == lstm ? 2 : 1),
        gu_(gates_ * run.U),
        padded_((run.U + 15) / 16 * 16),
        act_(activation(run.spec.activation)),
        gate_(activation(run.spec.kind == simple_rnn ? 0 : run.spec.recurrent_activation)) {}

  void forward() {
    for (int64_t b = 0; b < run_.B; ++b) forward_row(b);
  }

  void backward() {
    grad_kernel_.assign(run_.D * gu_, 0);
    grad_recurrent_.assign(run_.U * gu_, 0);
    grad_bias_.assign(2 * gu_, 0);
    for (int64_t b = 0; b < run_.B; ++b) backward_row(b);
    write(run_.d_kernel, grad_kernel_, grad_kernel_.size());
    write(run_.d_recurrent_kernel, grad_recurrent_, grad_recurrent_.size());
    if (run_.d_bias == nullptr) return;
    write(run_.d_bias, grad_bias_, run_.spec.kind == gru ? 2 * gu_ : gu_);
  }

 private:
  using Row = std::vector<double>;

  static double read(const void* data, int64_t i) { return static_cast<const F*>(data)[i]; }
  static void put(void* data, int64_t i, double x) { static_cast<F*>(data)[i] = F(x); }
  static void write(void* data, const Row& values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) put(data, i, values[i]);
  }

  // --- where things are
  int64_t time(int64_t step) const { return run_.spec.go_backwards ? run_.T - 1 - step : step; }
  int64_t place(int64_t step) const { return run_.spec.flip_outputs ? run_.T - 1 - step : step; }
  bool valid(int64_t b, int64_t step) const {
    return run_.mask == nullptr || run_.mask[b * run_.T + time(step)] != 0;
  }
  bool resets(int64_t b, int64_t step) const {
    return run_.resets != nullptr && run_.resets[b * run_.T + time(step)] != 0;
  }
  double fresh(int64_t s, int64_t b, int64_t u) const {
    return run_.fresh[s] == nullptr ? 0 : read(run_.fresh[s], b * run_.U + u);
  }
  void reset(int64_t b, Row& h, Row& c) const {
    for (int64_t u = 0; u < run_.U; ++u) {
      h[u] = fresh(0, b, u);
      if (states_ == 2) c[u] = fresh(1, b, u);
    }
  }
  int64_t y_at(int64_t b, int64_t step) const { return (b * run_.T + place(step)) * run_.ys_stride; }
  int64_t saved_at(int64_t row, int64_t b, int64_t column) const {
    return ((row * run_.B + b) * saved_columns(run_.spec) + column) * padded_;
  }
  double input_mask(int64_t gate, int64_t b, int64_t d) const {
    if (run_.spec.input_masks == 0) return 1;
    int64_t which = run_.spec.input_masks == 1 ? 0 : gate;
    return read(run_.input_masks, (which * run_.B + b) * run_.D + d);
  }
  double recurrent_mask(int64_t gate, int64_t b, int64_t u) const {
    if (run_.spec.recurrent_masks == 0) return 1;
    return read(run_.recurrent_masks, (gate * run_.B + b) * run_.U + u);
  }
  double x(int64_t b, int64_t step, int64_t d) const {
    return read(run_.x, (b * run_.T + time(step)) * run_.D + d);
  }
  double w(int64_t d, int64_t gate, int64_t u) const {
    return read(run_.kernel, d * gu_ + gate * run_.U + u);
  }
  double r(int64_t v, int64_t gate, int64_t u) const {
    return read(run_.recurrent_kernel, v * gu_ + gate * run_.U + u);
  }
  double bias(int64_t part, int64_t gate, int64_t u) const {
    return run_.bias == nullptr ? 0 : read(run_.bias, part * gu_ + gate * run_.U + u);
  }

  // --- forward
  double from_inputs(int64_t b, int64_t step, int64_t gate, int64_t u) const {
    double sum = bias(0, gate, u);
    for (int64_t d = 0; d < run_.D; ++d)
      sum += x(b, step, d) * input_mask(gate, b, d) * w(d, gate, u);
    return sum;
  }
  double from_state(int64_t b, const Row& h, int64_t gate, int64_t u) const {
    double sum = run_.spec.kind == gru ? bias(1, gate, u) : 0;
    for (int64_t v = 0; v < run_.U; ++v) sum += h[v] * recurrent_mask(gate, b, v) * r(v, gate, u);
    return sum;
  }

  void keep(int64_t row, int64_t b, int64_t column, const Row& values) const {
    if (!run_.spec.training) return;
    for (int64_t u = 0; u < run_.U; ++u) put(run_.saved, saved_at(row, b, column) + u, values[u]);
  }

  void forward_row(int64_t b) const {
    Row h(run_.U), c(run_.U);
    for (int64_t u = 0; u < run_.U; ++u) {
      h[u] = read(run_.initial[0], b * run_.U + u);
      if (states_ == 2) c[u] = read(run_.initial[1], b * run_.U + u);
    }
    keep(0, b, 0, h);
    if (states_ == 2) keep(0, b, 1, c);
    bool seen = false;
    for (int64_t step = 0; step < run_.T; ++step) {
      bool now = valid(b, step);
      if (resets(b, step)) reset(b, h, c), seen = false;
      seen = seen || now;
      if (now) advance(b, step, h, c);
      bool shown = run_.spec.zero_output_for_mask ? now : seen;
      for (int64_t u = 0; run_.spec.return_sequences && u < run_.U; ++u)
        put(run_.ys, y_at(b, step) + u, shown ? h[u] : 0);
    }
    for (int64_t u = 0; u < run_.U; ++u) {
      put(run_.final[0], b * run_.U + u, h[u]);
      if (states_ == 2) put(run_.final[1], b * run_.U + u, c[u]);
    }
  }

  void advance(int64_t b, int64_t step, Row& h, Row& c) const {
    Row z[4], uh;
    preactivations(b, step, h, z, uh);
    for (int64_t g = 0; g < gates_; ++g) keep(step + 1, b, g, z[g]);
    if (run_.spec.kind == gru) keep(step + 1, b, 3, uh);
    new_states(z, h, c);
  }

  void preactivations(int64_t b, int64_t step, const Row& h, Row* z, Row& uh) const {
    bool is_gru = run_.spec.kind == gru || run_.spec.kind == gru_reset_before;
    for (int64_t g = 0; g < gates_; ++g) {
      z[g].resize(run_.U);
      for (int64_t u = 0; u < run_.U; ++u) {
        z[g][u] = from_inputs(b, step, g, u);
        if (!(is_gru && g == 2)) z[g][u] += from_state(b, h, g, u);
      }
    }
    if (!is_gru) return;
    uh.resize(run_.U);
    Row reset_h(run_.U);
    for (int64_t u = 0; u < run_.U; ++u) reset_h[u] = gate_.value(z[1][u]) * h[u];
    for (int64_t u = 0; u < run_.U; ++u) {
      uh[u] = from_state(b, run_.spec.kind == gru ? h : reset_h, 2, u);
      z[2][u] += run_.spec.kind == gru ? gate_.value(z[1][u]) * uh[u] : uh[u];
    }
  }

  // From a step's pre-activations and the states before it, the states after it.
  void new_states(const Row* z, Row& h, Row& c) const {
    for (int64_t u = 0; u < run_.U; ++u) {
      if (run_.spec.kind == simple_rnn) {
        h[u] = act_.value(z[0][u]);
      } else if (run_.spec.kind == lstm) {
        c[u] = gate_.value(z[1][u]) * c[u] + gate_.value(z[0][u]) * act_.value(z[2][u]);
        h[u] = gate_.value(z[3][u]) * act_.value(c[u]);
      } else {
        double update = gate_.value(z[0][u]);
        h[u] = update * h[u] + (1 - update) * act_.value(z[2][u]);
      }
    }
  }

  // --- backward
  Row kept(int64_t row, int64_t b, int64_t column) const {
    Row values(run_.U);
    for (int64_t u = 0; u < run_.U; ++u) values[u] = read(run_.saved, saved_at(row, b, column) + u);
    return values;
  }

  void backward_row(int64_t b) {
    // The states before each step, made again from the saved pre-activations.
    Row h = kept(0, b, 0), c = states_ == 2 ? kept(0, b, 1) : Row(run_.U);
    std::vector<Row> hs, cs, cs_after;
    std::vector<bool> seen;
    for (int64_t step = 0; step < run_.T; ++step) {
      Row z[4];
      seen.push_back(step > 0 && seen.back() && !resets(b, step));
      if (resets(b, step)) reset(b, h, c);
      hs.push_back(h);
      cs.push_back(c);
      if (valid(b, step)) {
        seen.back() = true;
        for (int64_t g = 0; g < gates_; ++g) z[g] = kept(step + 1, b, g);
        new_states(z, h, c);
      }
      cs_after.push_back(c);
    }
    Row d_fresh[2] = {Row(run_.U), Row(run_.U)};
    Row dh(run_.U), dc(run_.U);
    for (int64_t u = 0; u < run_.U; ++u) {
      dh[u] = read(run_.d_final[0], b * run_.U + u);
      if (states_ == 2) dc[u] = read(run_.d_final[1], b * run_.U + u);
    }
    for (int64_t step = run_.T - 1; step >= 0; --step) {
      bool now = valid(b, step);
      bool shown = run_.spec.zero_output_for_mask ? now : seen[step];
      for (int64_t u = 0; run_.spec.return_sequences && shown && u < run_.U; ++u)
        dh[u] += read(run_.d_ys, y_at(b, step) + u);
      if (now) retreat(b, step, hs[step], cs[step], cs_after[step], dh, dc);
      else put_dx(b, step, Row(run_.D));
      for (int64_t u = 0; resets(b, step) && u < run_.U; ++u) {
        d_fresh[0][u] += dh[u], d_fresh[1][u] += dc[u];
        dh[u] = dc[u] = 0;
      }
    }
    for (int64_t s = 0; s < states_ && run_.d_fresh[s] != nullptr; ++s)
      for (int64_t u = 0; u < run_.U; ++u) put(run_.d_fresh[s], b * run_.U + u, d_fresh[s][u]);
    for (int64_t u = 0; u < run_.U; ++u) {
      put(run_.d_initial[0], b * run_.U + u, dh[u]);
      if (states_ == 2) put(run_.d_initial[1], b * run_.U + u, dc[u]);
    }
  }

  // Pulls dh and dc back through one step: from the states after it to those before it.
  void retreat(int64_t b, int64_t step, const Row& h, const Row& c, const Row& c_new, Row& dh,
               Row& dc) {
    Row z[4], dz[4], d_direct(run_.U);
    for (int64_t g = 0; g < gates_; ++g) {
      z[g] = kept(step + 1, b, g);
      dz[g].resize(run_.U);
    }
    for (int64_t u = 0; u < run_.U; ++u) {
      if (run_.spec.kind == simple_rnn) {
        dz[0][u] = dh[u] * act_.slope(z[0][u]);
      } else if (run_.spec.kind == lstm) {
        double in = gate_.value(z[0][u]), forget = gate_.value(z[1][u]);
        double out = gate_.value(z[3][u]), candidate = act_.value(z[2][u]);
        double dcell = dc[u] + dh[u] * out * act_.slope(c_new[u]);
        dz[0][u] = dcell * candidate * gate_.slope(z[0][u]);
        dz[1][u] = dcell * c[u] * gate_.slope(z[1][u]);
        dz[2][u] = dcell * in * act_.slope(z[2][u]);
        dz[3][u] = dh[u] * act_.value(c_new[u]) * gate_.slope(z[3][u]);
        dc[u] = dcell * forget;
      } else {
        double update = gate_.value(z[0][u]);
        dz[0][u] = dh[u] * (h[u] - act_.value(z[2][u])) * gate_.slope(z[0][u]);
        dz[2][u] = dh[u] * (1 - update) * act_.slope(z[2][u]);
        d_direct[u] = dh[u] * update;
      }
    }
    dh = d_direct;
    if (run_.spec.kind == gru) through_reset_after(b, step, h, z, dz, dh);
    else if (run_.spec.kind == gru_reset_before) through_reset_before(b, h, z, dz, dh);
    else
      for (int64_t g = 0; g < gates_; ++g) to_state(b, h, g, dz[g], dh);
    for (int64_t g = 0; g < gates_; ++g) add(grad_bias_, g, dz[g]);
    to_inputs(b, step, dz);
  }

  void through_reset_after(int64_t b, int64_t step, const Row& h, const Row* z, Row* dz, Row& dh) {
    Row uh = kept(step + 1, b, 3), d_uh(run_.U);
    for (int64_t u = 0; u < run_.U; ++u) {
      dz[1][u] = dz[2][u] * uh[u] * gate_.slope(z[1][u]);
      d_uh[u] = dz[2][u] * gate_.value(z[1][u]);
    }
    const Row* parts[] = {&dz[0], &dz[1], &d_uh};
    for (int64_t g = 0; g < 3; ++g) {
      to_state(b, h, g, *parts[g], dh);
      add(grad_bias_, 3 + g, *parts[g]);
    }
  }

  void through_reset_before(int64_t b, const Row& h, const Row* z, Row* dz, Row& dh) {
    Row reset_h(run_.U), d_reset_h(run_.U);
    for (int64_t u = 0; u < run_.U; ++u) reset_h[u] = gate_.value(z[1][u]) * h[u];
    to_state(b, reset_h, 2, dz[2], d_reset_h);
    for (int64_t u = 0; u < run_.U; ++u) {
      dz[1][u] = d_reset_h[u] * h[u] * gate_.slope(z[1][u]);
      dh[u] += d_reset_h[u] * gate_.value(z[1][u]);
    }
    for (int64_t g = 0; g < 2; ++g) to_state(b, h, g, dz[g], dh);
  }

  // Through (h * mask) U of one gate: to the recurrent kernel, and onto dh.
  void to_state(int64_t b, const Row& h, int64_t gate, const Row& dz, Row& dh) {
    for (int64_t v = 0; v < run_.U; ++v) {
      double mask = recurrent_mask(gate, b, v), sum = 0;
      for (int64_t u = 0; u < run_.U; ++u) {
        grad_recurrent_[v * gu_ + gate * run_.U + u] += h[v] * mask * dz[u];
        sum += dz[u] * r(v, gate, u);
      }
      dh[v] += sum * mask;
    }
  }

  void put_dx(int64_t b, int64_t step, const Row& values) const {
    if (run_.dx == nullptr) return;
    for (int64_t d = 0; d < run_.D; ++d)
      put(run_.dx, (b * run_.T + time(step)) * run_.D + d, values[d]);
  }

  void to_inputs(int64_t b, int64_t step, const Row* dz) {
    Row dx(run_.D);
    for (int64_t d = 0; d < run_.D; ++d) {
      for (int64_t g = 0; g < gates_; ++g) {
        double mask = input_mask(g, b, d), sum = 0;
        for (int64_t u = 0; u < run_.U; ++u) {
          grad_kernel_[d * gu_ + g * run_.U + u] += x(b, step, d) * mask * dz[g][u];
          sum += dz[g][u] * w(d, g, u);
        }
        dx[d] += sum * mask;
      }
    }
    put_dx(b, step, dx);
  }

  void add(Row& total, int64_t gate, const Row& values) const {
    for (int64_t u = 0; u < run_.U; ++u) total[gate * run_.U + u] += values[u];
  }

  const Run& run_;
  const int64_t gates_, states_, gu_, padded_;
  const Activation act_, gate_;
  Row grad_kernel_, grad_recurrent_, grad_bias_;
};

template <class F>
bool forward_all(const Run* runs, int count, int) {
  for (int i = 0; i < count; ++i) Naive<F>(runs[i]).forward();
  return true;
}

template <class F>
bool backward_all(const Run* runs, int count, int) {
  for (int i = 0; i < count; ++i) Naive<F>(runs[i]).backward();
  return true;
}

}  // namespace

const Kernels* kernels_naive() {
  static const Kernels table = {"naive", forward_all<float>, backward_all<float>,
                                forward_all<double>, backward_all<double>, {}, {},
                                nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0};
  return &table;
}

}  // namespace ostinato
