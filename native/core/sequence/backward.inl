// The backward pass: from the last timestep to the first.
//
// The gradients dz of a few timesteps stay in a ring, beside the inputs of these, until the weights'
// gradients take them in at once: their accumulators are then loaded and stored a few times less.

template <class R>
struct BackwardMember : BackwardProducts<R> {
  typedef BackwardProducts<R> Products;
  typedef typename R::S S;
  typedef typename R::V V;
  typedef typename R::Int Int;
  typedef typename R::Element Element;
  typedef typename R::Real Real;
  static constexpr I L = R::kLanes, W = R::kWords;

  using Products::c, Products::d_state, Products::d_tile, Products::d_z, Products::d_z_units;
  using Products::h, Products::l, Products::late, Products::member, Products::members;
  using Products::memory, Products::old, Products::old_state, Products::own, Products::panel_size;
  using Products::pull_inputs, Products::pull_state, Products::recurrent_mask, Products::row_of;
  using Products::rows, Products::shown, Products::slope, Products::spec, Products::tile;
  using Products::valid, Products::value, Products::work, Products::x;

  const WeightGradients<R> weights;
  const ForwardMember<R>* forward;  // with checkpoints: what computes a window once more
  Barrier* barrier;

  BackwardMember(const BackLayer<R>& layer, I group, I member, I members, Barrier* barrier,
                 const ForwardMember<R>* forward)
      : Products(layer, group, member, members), weights(layer, group, member, members),
        forward(forward), barrier(barrier) {}

  void wait() const {
    if (barrier != nullptr) barrier->wait();
  }

  // --- rows come and go ---

  // Rows whose last timestep is t: the gradients of their final states, and of held outputs.
  void enter(I t, I first, I last) const {
    const bool holds = spec.return_sequences && !spec.zero_output_for_mask;
    const I end = piece_end(t);
    for (I p = own.first; p < own.last; ++p) {
      const I lanes = l.U - p * L;
      for (I r = first; r < last; ++r) {
        for (I s = 0; s < c.states; ++s) {
          const Element* from = static_cast<const Element*>(l.run->d_final[s]) + row_of(r) * l.U + p * L;
          V sum = end == l.T ? read<R>(from, lanes) : V{};
          for (I later = t + 1; s == 0 && holds && later < end; ++later) {
            sum += read<R>(d_output(row_of(r), later) + p * L, lanes);
          }
          store<R>(d_state(s, p) + r * L, sum);
        }
      }
    }
  }

  const Element* d_output(I row, I t) const {
    const I at = (row * l.T + l.output_time(t)) * l.run->ys_stride;
    return static_cast<const Element*>(l.run->d_ys) + at;
  }

  // Rows whose first timestep, t, is done: the gradients of their initial states.
  void leave(I t, I first, I last) const {
    const bool is_cut = piece_end(0) <= t;
    for (I p = own.first; p < own.last; ++p) {
      for (I r = first; r < last; ++r) {
        for (I s = 0; s < c.states; ++s) {
          Element* to = static_cast<Element*>(l.run->d_initial[s]) + row_of(r) * l.U + p * L;
          write<R>(to, is_cut ? V{} : load<R>(d_state(s, p) + r * L), l.U - p * L);
        }
      }
    }
  }

  // No gradient crosses a reset: that of the states after it is the fresh states'.
  void reset(I t) const {
    const ResetRows some = rows.resets(t);
    for (I p = own.first; some.count > 0 && p < own.last; ++p) {
      for (I s = 0; s < c.states; ++s) {
        S* d = d_state(s, p);
        if (memory.d_fresh[s] != nullptr) {
          S* sum = memory.d_fresh[s] + p * panel_size();
          for (I i = 0; i < some.count; ++i) {
            const I at = some.row[i] * L;
            store<R>(sum + at, load<R>(sum + at) + load<R>(d + at));
          }
        }
        for (I i = 0; i < some.count; ++i) store<R>(d + some.row[i] * L, V{});
      }
    }
  }

  void write_d_fresh() const {
    for (I s = 0; s < c.states && memory.d_fresh[s] != nullptr; ++s) {
      for (I p = own.first; p < own.last; ++p) {
        const S* from = memory.d_fresh[s] + p * panel_size();
        for (I r = 0; r < rows.count; ++r) {
          Element* to = static_cast<Element*>(l.run->d_fresh[s]) + row_of(r) * l.U + p * L;
          write<R>(to, load<R>(from + r * L), l.U - p * L);
        }
      }
    }
  }

  // Rows that never run: their states pass through.
  void pass_unstarted() const {
    for (I r = 0; r < rows.count; ++r) {
      I begin = 0;
      while (begin < l.T && rows.running[begin] <= r) ++begin;
      for (I p = own.first; begin == l.T && p < own.last; ++p) {
        for (I s = 0; s < c.states; ++s) {
          const I at = row_of(r) * l.U + p * L;
          const Element* from = static_cast<const Element*>(l.run->d_final[s]) + at;
          const V passed = piece_end(0) == l.T ? read<R>(from, l.U - p * L) : V{};
          write<R>(static_cast<Element*>(l.run->d_initial[s]) + at, passed, l.U - p * L);
        }
      }
    }
  }

  // --- one timestep ---

  void add_d_outputs(I t, I p, Span some) const {
    if (!spec.return_sequences) return;
    const I lanes = l.U - p * L;
    for (I r = some.first; r < some.last; ++r) {
      V d = read<R>(d_output(row_of(r), t) + p * L, lanes);
      if (l.schedule.holes) d = choose<R>(shown[r], d, V{});
      S* to = d_state(0, p) + r * L;
      store<R>(to, load<R>(to) + d);
    }
  }

  BackTile<Real> tile_of(I t, I slot, I p, Span some) const {
    const I r = some.first;
    S* to = R::kPairs ? d_tile : d_z_units(slot, p, r);
    const bool is_reset = t + 1 < l.T && rows.resets(t + 1).count > 0;
    BackTile<Real> b = {some.size(), c.cols * L, nullptr, {}, {}, is_reset, {}, to, {}, value, slope, work};
    if (l.keeps_tiles) b.kept = l.kept_tile(t, p, rows.first) + r * c.cols * L;
    for (I s = 0; s < c.states; ++s) {
      b.old_state[s] = old_state(s, t, p) + r * L;
      b.new_state[s] = old_state(s, t + 1, p) + r * L;
      b.d_new[s] = d_state(s, p) + r * L;
      b.d_old[s] = l.schedule.holes ? old + s * some.size() * L : d_state(s, p) + r * L;
    }
    return b;
  }

  void finish_tile(BackTile<Real>& b, I slot, I p, Span some, I columns_first, I columns_last) const {
    clean_tile(b, p, some, columns_first, columns_last);
    if constexpr (R::kPairs) hand_on(b, slot, p, some, columns_first, columns_last);
  }

  // Masked rows pass their gradients through; lanes beyond U stay zero, whatever NaN made of them.
  void clean_tile(BackTile<Real>& b, I p, Span some, I columns_first, I columns_last) const {
    if (l.schedule.holes) {
      for (I i = 0; i < b.rows; ++i) {
        const Int is_valid = valid[some.first + i];
        for (I column = columns_first; column < columns_last; ++column) {
          S* at = b.d_z + i * b.stride + column * L;
          store<R>(at, choose<R>(is_valid, load<R>(at), V{}));
        }
      }
    }
    const I lanes = l.U - p * L;
    if (lanes >= L) return;
    for (I i = 0; i < b.rows; ++i) {
      for (I column = columns_first; column < columns_last; ++column) {
        S* at = b.d_z + i * b.stride + column * L;
        for (I lane = lanes; lane < L; ++lane) at[lane] = 0;
      }
    }
  }

  // Columns of dz as the two kinds of products take them, and into the bias's gradient.
  void hand_on(const BackTile<Real>& b, I slot, I p, Span some, I columns_first, I columns_last) const {
    weights.add_to_bias(p, b.d_z, b.rows, b.stride, columns_first, columns_last);
    S* by_row = d_z_units(slot, p, some.first);
    S* by_rows = d_z(slot, p) + some.first / 2 * c.cols * L;
    for (I column = columns_first; column < columns_last; ++column) {
      store_rows<R>(by_rows + column * L, c.cols * L, 0, b.rows, [&](I r) {
        const V value = load<R>(b.d_z + r * b.stride + column * L);
        store_operand<R>(by_row + (r * c.cols + column) * W, value, L);
        return value;
      });
    }
  }

  void keep_masked(BackTile<Real>& b, I p, Span some) const {
    if (!l.schedule.holes) return;
    for (I s = 0; s < c.states; ++s) {
      S* to = d_state(s, p) + some.first * L;
      for (I i = 0; i < b.rows; ++i) {
        const V passed = load<R>(to + i * L), computed = load<R>(b.d_old[s] + i * L);
        store<R>(to + i * L, choose<R>(valid[some.first + i], computed, passed));
      }
    }
  }

  // dz of this member's panels, and what of the states' gradients passes no product.
  void pointwise(I t, I slot) const {
    const I blocks = blocks_of(rows.running[t], kRowBlock);
    for (I p = own.first; p < own.last; ++p) {
      for (I i = 0; i < blocks; ++i) {
        const Span some = share_rows<R>(rows.running[t], i, blocks);
        add_d_outputs(t, p, some);
        BackTile<Real> b = tile_of(t, slot, p, some);
        l.cell.backward(l.functions, b);
        finish_tile(b, slot, p, some, 0, c.cols - c.late_cols);
        keep_masked(b, p, some);
      }
      for (I g = 0; g < state_operands<R>(spec); ++g) {
        store_rows<R>(h(slot, g, p), L, 0, rows.running[t], [&](I r) { return dropped(g, t, p, r); });
      }
    }
    if (c.has_late()) {
      wait();
      pull_late(t, slot);
    }
  }

  // A row of the state as a gate's product took it.
  OSTINATO_INLINE V dropped(I gate, I t, I p, I r) const {
    const V value = load<R>(old_state(0, t, p) + r * L);
    return spec.recurrent_masks ? value * load<R>(recurrent_mask(gate, p) + r * L) : value;
  }

  // The gradient of what took the state's place in the late product, and those that need it.
  void pull_late(I t, I slot) const {
    const I blocks = blocks_of(rows.running[t], kRowBlock);
    const bool drops = spec.recurrent_masks != 0;
    const I k = l.panels * W;
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(1, p, own.last);
      for (I i = 0; i < blocks; ++i) {
        const Span some = share_rows<R>(rows.running[t], i, blocks);
        const I size = some.size() * L, at = some.first * L;
        fill_zero(tile, together * size);
        const Product<R> product = {d_z_units(slot, 0, some.first), c.cols * rows.count * W, W, c.cols, k,
                                    l.late_t + p * k * L, together * L, l.ahead};
        multiply(product, some.size(), together, tile, L, size);
        for (I q = p; q < p + together; ++q) {
          BackTile<Real> b = tile_of(t, slot, q, some);
          for (I s = 0; s < c.states; ++s) b.d_old[s] = d_state(s, q) + at;
          const S* taken = b.old_state[0];
          if (drops) taken = R::kPairs ? dropped_rows(t, q, some) : h(slot, c.late_gate, q) + at;
          S* to = R::kPairs ? work : late(slot, q) + at;
          const LateTile<Real> pulled = {tile + (q - p) * size, taken,
                                         drops ? recurrent_mask(c.late_gate, q) + at : nullptr, to};
          l.cell.backward_gates(l.functions, b, pulled);
          if constexpr (R::kPairs) {
            store_rows<R>(late(slot, q) + some.first / 2 * L, L, 0, some.size(),
                          [&](I r) { return load<R>(to + r * L); });
          }
          finish_tile(b, slot, q, some, c.cols - c.late_cols, c.cols);
        }
      }
      p += together;
    }
  }

  // The rows of the state that a late product's gate took, in `old`.
  const S* dropped_rows(I t, I p, Span some) const {
    for (I r = some.first; r < some.last; ++r) {
      store<R>(old + (r - some.first) * L, dropped(c.late_gate, t, p, r));
    }
    return old;
  }

  // With checkpoints, what will be read of the window that ends with timestep t.
  void recompute(I t) const {
    if (l.window == 0 || (t + 1 < l.T && (t + 1) % l.window != 0)) return;
    forward->run_again(t / l.window * l.window, t + 1);
  }

  // --- truncation ---

  // The end of the piece of a truncated sequence that timestep t is in.
  I piece_end(I t) const {
    if (spec.truncate == 0) return l.T;
    const I end = (t / spec.truncate + 1) * spec.truncate;
    return end < l.T ? end : l.T;
  }

  // After timestep t: where a piece begins no gradient reaches the states before it.
  void truncate(I t, I running) const {
    if (spec.truncate == 0 || t == 0 || t % spec.truncate != 0) return;
    for (I p = own.first; p < own.last; ++p) {
      for (I s = 0; s < c.states; ++s) fill_zero(d_state(s, p), running * L);
    }
  }

  void run() const {
    weights.clear();
    for (I s = 0; s < c.states && memory.d_fresh[s] != nullptr; ++s) {
      fill_zero(memory.d_fresh[s] + own.first * panel_size(), own.size() * panel_size());
    }
    pass_unstarted();
    I running = 0, slot = 0;
    for (I t = l.T - 1; t >= 0; --t) {
      recompute(t);
      if (l.schedule.holes) read_mask(l, rows, t, valid, shown);
      if (rows.running[t] > running) enter(t, running, rows.running[t]);
      running = rows.running[t];
      pack_input_rows(l, rows, t, share_rows<R>(running, member, members), x(slot, 0));
      pointwise(t, slot);
      wait();
      pull_state(t, slot);
      pull_inputs(t, slot);
      reset(t);
      truncate(t, running);
      const I earlier = t > 0 ? rows.running[t - 1] : 0;
      if (earlier < running) {
        leave(t, earlier, running);
        running = earlier;
      }
      ++slot;
      // At multiples of the ring, so that the sums don't depend on where the sequence ends.
      if (t % memory.ring == 0) {
        weights.accumulate(t, slot);
        weights.end_piece(t);
        slot = 0;
        wait();
      }
    }
    write_d_fresh();
  }
};
