// The weights' gradients: products of dz with the inputs and with the states, over time.

template <class R>
struct WeightGradients : BackwardPlaces<R> {
  typedef BackwardPlaces<R> Places;
  typedef typename R::S S;
  typedef typename R::V V;
  static constexpr I L = R::kLanes;
  using Places::Places;
  using Places::c, Places::d_z, Places::h, Places::l, Places::late, Places::memory;
  using Places::old_state, Places::own, Places::own_kernel, Places::row_count, Places::rows;
  using Places::spec, Places::x;

  // Each member's own part of the accumulators: f(sums, first, n).
  template <class F>
  void for_own(F f) const {
    const I p = own.first, n = own.size() * L, panel = l.D * c.x_cols * L;
    f(memory.d_weights[0], own_kernel.first * panel, own_kernel.size() * panel);
    f(memory.d_weights[1], p * l.U * c.h_cols * L, n * l.U * c.h_cols);
    f(memory.d_weights[2], p * c.cols * L, n * c.cols);
    if (memory.d_late != nullptr) f(memory.d_weights[3], p * l.U * L, n * l.U);
  }

  void clear() const {
    for_own([](const LongSums<R>& sums, I first, I n) { sums.clear(first, n); });
  }

  // After timestep t has been taken in, the earliest so far.
  void end_piece(I t) const {
    if (t % memory.piece != 0) return;
    for_own([&](const LongSums<R>& sums, I first, I n) {
      if (!sums.has_pieces()) return;
      sums.end_piece(first, n);
      if (t == 0) sums.finish(first, n);
    });
  }

  // Takes in the timesteps t, t + 1 ... of the ring's slots [0, count), the last first.
  void accumulate(I t, I count) const {
    Segment<R> segments[kMostRing];
    for (I p = own_kernel.first; p < own_kernel.last;) {
      const I together = panels_together(c.cols, p, own_kernel.last);
      accumulate_kernel(segments, t, count, p, together);
      p += together;
    }
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(c.cols, p, own.last);
      accumulate_recurrent(segments, t, count, p, together);
      for (I q = p; !R::kPairs && q < p + together; ++q) accumulate_bias(t, count, q);
      p += together;
    }
    if (!c.has_late()) return;
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(1, p, own.last);
      accumulate_late(segments, t, count, p, together);
      p += together;
    }
  }

  I running_in(I slot, I t, I count) const { return rows.running[t + count - 1 - slot]; }
  I rows_in(I slot, I t, I count) const { return words_of<R>(running_in(slot, t, count)); }

  OuterShape outer_shape(I p, I together, I m, I a_block, I first, I cols) const {
    const I panel = c.cols * row_count() * L;
    return {m, a_block, p * panel + first * L, c.cols > 1 ? L : panel, c.cols, together * cols * L, L};
  }

  void accumulate_kernel(Segment<R>* segments, I t, I count, I p, I together) const {
    const OuterShape shape = outer_shape(p, together, l.D, row_count() * L, 0, c.x_cols);
    S* to = memory.d_kernel + p * l.D * c.x_cols * L;
    const bool by_gate = spec.input_masks > 1;
    for (I part = 0; part < (by_gate ? c.x_cols : 1); ++part) {
      for (I slot = 0; slot < count; ++slot) {
        segments[slot] = {x(slot, by_gate ? c.gate_of_x[part] : 0), d_z(slot, 0) + part * L,
                          rows_in(slot, t, count)};
      }
      accumulate_outer(segments, count, shape, by_gate ? 1 : together * c.x_cols, to + part * L);
    }
  }

  void accumulate_recurrent(Segment<R>* segments, I t, I count, I p, I together) const {
    const bool by_gate = spec.recurrent_masks != 0;
    const bool takes_operands = state_operands<R>(spec) != 0;
    const OuterShape shape = outer_shape(p, together, l.U, takes_operands ? row_count() * L : l.B * L,
                                         c.h_first, c.h_cols);
    S* to = memory.d_recurrent + p * l.U * c.h_cols * L;
    for (I part = 0; part < (by_gate ? c.h_cols : 1); ++part) {
      for (I slot = 0; slot < count; ++slot) {
        const S* a = takes_operands ? h(slot, by_gate ? c.gate_of_h[part] : 0, 0)
                                    : old_state(0, t + count - 1 - slot, 0);
        segments[slot] = {a, d_z(slot, 0) + part * L, rows_in(slot, t, count)};
      }
      const I nc = by_gate && c.cols > 1 ? 1 : together * c.h_cols;
      accumulate_outer(segments, count, shape, nc, to + part * L);
    }
  }

  // The first column against what took the state's place.
  void accumulate_late(Segment<R>* segments, I t, I count, I p, I together) const {
    for (I slot = 0; slot < count; ++slot) {
      segments[slot] = {late(slot, 0), d_z(slot, 0), rows_in(slot, t, count)};
    }
    OuterShape shape = outer_shape(p, together, l.U, row_count() * L, 0, 1);
    shape.b_column = c.cols * row_count() * L;  // one column of each panel
    accumulate_outer(segments, count, shape, together, memory.d_late + p * l.U * L);
  }

  // Of operands in pairs it's summed before they're rounded: add_to_bias.
  void accumulate_bias(I t, I count, I p) const {
    if (!spec.has_bias) return;
    for (I column = 0; column < c.cols; ++column) {
      S* to = memory.d_bias + (p * c.cols + column) * L;
      V sum{}, other{};
      for (I slot = 0; slot < count; ++slot) {
        const S* from = d_z(slot, p) + column * L;
        const I running = running_in(slot, t, count), step = c.cols * L;
        I r = 0;
        for (; r + 1 < running; r += 2) {  // two sums, as an addition takes some cycles
          sum += load<R>(from + r * step);
          other += load<R>(from + (r + 1) * step);
        }
        if (r < running) sum += load<R>(from + r * step);
      }
      store<R>(to, load<R>(to) + (sum + other));
    }
  }

  // Takes in the rows of one tile, (rows, stride).
  void add_to_bias(I p, const S* tile, I count, I stride, I first, I last) const {
    if (!spec.has_bias) return;
    for (I column = first; column < last; ++column) {
      S* to = memory.d_bias + (p * c.cols + column) * L;
      V sum{};
      for (I r = 0; r < count; ++r) sum += load<R>(tile + r * stride + column * L);
      store<R>(to, load<R>(to) + sum);
    }
  }
};
