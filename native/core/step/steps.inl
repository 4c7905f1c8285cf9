// A program of steps: the operations beside cells and dense layers, and the loop over time.

template <class R>
struct Steps {
  typedef typename R::S S;
  typedef typename R::V V;
  static constexpr I L = R::kLanes;

  static const S* in(const void* p) { return static_cast<const S*>(p); }
  static S* to(void* p) { return static_cast<S*>(p); }

  // --- rows ---

  static void keep_row(const S* from, I N, I r, I width, S* to) {
    TileRows<R>::keep_row(from, N, r, width, to);
  }
  static void show_row(const S* from, I N, I r, I width, S* to) {
    TileRows<R>::show_row(from, N, r, width, to);
  }
  static void keep(const void* from, I N, I width, void* out) {
    for (I r = 0; r < N; ++r) keep_row(in(from) + r * width, N, r, width, to(out));
  }
  static void show(const void* from, I N, I width, void* out) {
    for (I r = 0; r < N; ++r) show_row(in(from), N, r, width, to(out) + r * width);
  }

  // f(vector, number of its lanes that count) for each block of a row.
  template <class F>
  static OSTINATO_INLINE void each(const S* value, I N, I r, I width, F f) {
    for (I b = 0; b * L < width; ++b) {
      const I left = width - b * L;
      f((b * N + r) * L, load_part<R>(value + (b * N + r) * L, left), left < L ? left : L);
    }
  }

  static S sum(V v) {
    S lanes[L], total = 0;
    store<R>(lanes, v);
    for (I i = 0; i < L; ++i) total += lanes[i];
    return total;
  }

  // --- operations ---

  static void embed(const Step& s, I N) {
    const S* table = in(s.kernel);
    for (I r = 0; r < N; ++r) {
      keep_row(table + s.ids[r] * s.op.width, N, r, s.op.width, to(s.out));
      if (s.mask_out != nullptr) s.mask_out[r] = s.ids[r] != 0;
    }
  }

  static void mask(const Step& s, I N) {
    const S number = *in(s.bias);
    for (I r = 0; r < N; ++r) {
      bool valid = false;
      each(in(s.first), N, r, s.op.width, [&](I at, V, I lanes) {
        for (I i = 0; i < lanes; ++i) valid |= in(s.first)[at + i] != number;
      });
      s.mask_out[r] = valid;
      each(in(s.first), N, r, s.op.width,
           [&](I at, V x, I) { store<R>(to(s.out) + at, valid ? x : V{}); });
    }
  }

  static void either(const Step& s, I N) {
    for (I r = 0; r < N; ++r) s.mask_out[r] = s.mask_in[r] | s.mask_second[r];
  }

  static void scale(const Step& s, I N, const S* from) {
    const S *factor = in(s.kernel), *offset = in(s.bias);
    for (I b = 0; b * L < s.op.width; ++b) {
      const V by = load<R>(factor + b * L), plus = load<R>(offset + b * L);
      for (I r = 0; r < N; ++r) {
        const I at = (b * N + r) * L;
        store<R>(to(s.out) + at, load<R>(from + at) * by + plus);
      }
    }
  }

  static void normalize(const Step& s, I N) {
    const I width = s.op.width;
    const S* x = in(s.first);
    for (I r = 0; r < N; ++r) {
      V total{};
      each(x, N, r, width, [&](I, V v, I) { total += v; });
      const S mean = s.op.kind == 1 ? S{0} : sum(total) / static_cast<S>(width);
      total = V{};
      each(x, N, r, width, [&](I at, V v, I lanes) {
        V centred = v - splat<R>(mean);
        store<R>(to(s.out) + at, centred);
        centred = load_part<R>(to(s.out) + at, lanes);
        total += centred * centred;
      });
      const S variance = sum(total) / static_cast<S>(width) + *in(s.late);
      const V by = splat<R>(S{1} / static_cast<S>(__builtin_sqrt(static_cast<double>(variance))));
      each(in(s.out), N, r, width, [&](I at, V v, I) { store<R>(to(s.out) + at, v * by); });
    }
    scale(s, N, in(s.out));
  }

  static void softmax(const Step& s, I N) {
    const I width = s.op.width;
    for (I r = 0; r < N; ++r) {
      S largest = in(s.first)[r * L];
      each(in(s.first), N, r, width, [&](I at, V, I lanes) {
        for (I i = 0; i < lanes; ++i) {
          const S x = in(s.first)[at + i];
          if (!(x <= largest)) largest = x;  // a NaN stays
        }
      });
      V total{};
      each(in(s.first), N, r, width, [&](I at, V x, I lanes) {
        store<R>(to(s.out) + at, exp_of(x - splat<R>(largest)));
        total += load_part<R>(to(s.out) + at, lanes);
      });
      const V by = splat<R>(S{1} / sum(total));
      each(in(s.out), N, r, width, [&](I at, V v, I) { store<R>(to(s.out) + at, v * by); });
    }
  }

  template <class F>
  static void blockwise(const Step& s, I N, F f) {
    for (I at = 0; at < blocks_of(s.op.width, L) * N * L; at += L) {
      store<R>(to(s.out) + at, f(load<R>(in(s.first) + at), load<R>(in(s.second) + at)));
    }
  }

  static void combine(const Step& s, I N) {
    switch (s.op.kind) {
      case 0: return blockwise(s, N, [](V a, V b) { return a + b; });
      case 1: return blockwise(s, N, [](V a, V b) { return a - b; });
      case 2: return blockwise(s, N, [](V a, V b) { return a * b; });
      case 3: return blockwise(s, N, [](V a, V b) { return (a > b) | (a != a) ? a : b; });
      default: return blockwise(s, N, [](V a, V b) { return (a < b) | (a != a) ? a : b; });
    }
  }

  static void concatenate(const Step& s, I N) {
    const I before = s.D, width = s.op.width;
    for (I r = 0; r < N; ++r) {
      for (I i = 0; i < width; ++i) {
        const S* from = in(i < before ? s.first : s.second);
        const I j = i < before ? i : i - before;
        to(s.out)[((i / L) * N + r) * L + i % L] = from[((j / L) * N + r) * L + j % L];
      }
    }
  }

  // One row's blocks lie as routines have a row.
  static void routine(const Step& s, I N) {
    RoutineStepper<R>& r = *static_cast<RoutineStepper<R>*>(s.routine);
    if (N == 1) return r.step(in(s.first), s.mask_in, to(s.out));
    show(s.first, N, s.D, r.x);
    r.step(r.x, s.mask_in, r.y);
    keep(r.y, N, s.op.width, s.out);
  }

  // --- a timestep ---

  static void run_step(Step& s, const StepMemory& m) {
    const I N = m.N;
    switch (s.op.code) {
      case step_embed: return embed(s, N);
      case step_mask: return mask(s, N);
      case step_either: return either(s, N);
      case step_scale: return scale(s, N, in(s.first));
      case step_normalize: return normalize(s, N);
      case step_activate:
        return activation_at<R>(s.op.activation)
            .apply(in(s.first), to(s.out), blocks_of(s.op.width, L) * N, L, 1);
      case step_softmax: return softmax(s, N);
      case step_combine: return combine(s, N);
      case step_concatenate: return concatenate(s, N);
      case step_routine: return routine(s, N);
      case step_window: return Windows<R>::window(s, m);
      case step_pool: return Windows<R>::pool(s, m);
      default: {
        const StepCell<R> cell(s, N, m.scratch, m.timestep % 2 != 0, m.hurried, m.alone);
        cell.run();
        if (!cell.is_dense()) cell.hand_on(s);
      }
    }
  }

  static void read_inputs(const StepMemory& m, const void* const* inputs, I t, I T) {
    for (I i = 0; i < m.n_inputs; ++i) {
      const StepPort& port = m.inputs[i];
      for (I r = 0; r < m.N; ++r) {
        const I row = r * T + t;
        if (port.width == 0) {
          // They've been checked; but another thread may have written there since.
          const int32_t id = static_cast<const int32_t*>(inputs[i])[row];
          m.ids[i][r] = id >= 0 && id < port.vocabulary ? id : 0;
        } else {
          keep_row(in(inputs[i]) + row * port.width, m.N, r, port.width, to(port.value));
        }
      }
    }
  }

  static void run(StepMemory& m, const void* const* inputs, void* const* outputs, I T,
                  I first, I last, const uint8_t* resets) {
    for (I t = first; t < last; ++t, ++m.timestep) {
      for (I r = 0; resets != nullptr && r < m.N; ++r)
        if (resets[r * T + t] != 0) TileRows<R>::reset_row(m, r);
      m.hurried = m.may_share && microseconds() - m.ended < 40;
      read_inputs(m, inputs, t, T);
      for (I i = 0; i < m.count; ++i) run_step(m.steps[i], m);
      for (I i = 0; i < m.n_outputs; ++i) {
        const StepPort& port = m.outputs[i];
        for (I r = 0; r < m.N; ++r) {
          S* y = to(outputs[i]) + (r * T + t) * port.width;
          show_row(in(port.value), m.N, r, port.width, y);
        }
      }
      if (m.may_share) m.ended = microseconds();
    }
  }

  static bool may_share(const StepMemory& m) {
    for (I i = 0; i < m.count; ++i) {
      const Step& s = m.steps[i];
      if (!is_cell(s.op) && !is_dense(s.op)) continue;
      const StepCell<R> cell(s, m.N, nullptr, false, true);
      if (cell.parts(cell.panels) > 1) return true;
    }
    return false;
  }

  static int64_t microseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
  }

  static void pack(const Step& s, const void* kernel, const void* recurrent, const void* bias) {
    StepCell<R>(s, 1, nullptr, false, false).pack(kernel, recurrent, bias);
  }
};

void pack_int8_step(const Step& step, const Int8Kernel& kernel, const Int8Kernel& recurrent,
                    const void* bias) {
  const StepCell<F32> cell(step, 1, nullptr, false, false);
  cell.int8_step().pack(kernel, recurrent, bias, {0, cell.panels});
}

template <class R>
constexpr StepKernels step_kernels() {
  typedef RoutineStepper<R> Routine;
  return {Steps<R>::pack,
          sizeof(typename R::S) == 4 ? pack_int8_step : nullptr,
          Steps<R>::may_share,
          Steps<R>::run,
          TileRows<R>::load_rows,
          TileRows<R>::store_rows,
          TileRows<R>::reset_row,
          Routine::make,
          Routine::drop,
          Routine::set_weights,
          Routine::share_weights};
}
