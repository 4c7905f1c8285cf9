// The backward pass: from the last timestep to the first.
//
// The gradients dz of a few timesteps stay in a ring, beside the inputs of these, until the weights'
// gradients take them in at once: their accumulators are then loaded and stored a few times less.

template <class R>
struct BackwardMember : BackwardPlaces<R> {
  typedef BackwardPlaces<R> Places;
  typedef typename R::S S;
  typedef typename R::V V;
  typedef typename R::Int Int;
  typedef typename R::Element Element;
  typedef typename R::Real Real;
  static constexpr I L = R::kLanes, W = R::kWords;

  using Places::c, Places::d_state, Places::d_z, Places::d_z_units, Places::h, Places::l;
  using Places::late, Places::member, Places::members, Places::memory, Places::old_state;
  using Places::own, Places::own_d, Places::panel_size, Places::recurrent_mask, Places::row_count;
  using Places::row_of, Places::rows, Places::spec, Places::x;

  const WeightGradients<R> weights;
  const ForwardMember<R>* forward;  // with checkpoints: what computes a window once more
  Barrier* barrier;
  S *value, *slope, *work, *old, *tile;
  S* d_tile;  // of pairs, dz of a tile before it's rounded
  Int *valid, *shown;

  BackwardMember(const BackLayer<R>& layer, I group, I member, I members, Barrier* barrier,
                 const ForwardMember<R>* forward)
      : Places(layer, group, member, members), weights(layer, group, member, members),
        forward(forward), barrier(barrier) {
    const I block = rows.count < kRowBlock ? rows.count : kRowBlock;
    S* next = memory.private_ + member * memory.private_size;
    valid = reinterpret_cast<Int*>(next), next += blocks_of(rows.count, L) * L;
    shown = reinterpret_cast<Int*>(next), next += blocks_of(rows.count, L) * L;
    work = next, next += 2 * block * L;
    old = next, next += 2 * block * L;
    tile = next, next += 4 * block * L;
    value = next, next += 4 * block * L;
    slope = next, next += 4 * block * L;
    d_tile = next;
  }

  static I private_size(I count) {
    const I block = count < kRowBlock ? count : kRowBlock;
    const I tiles = R::kPairs ? 4 : 3;
    return 2 * blocks_of(count, L) * L + (2 + 2 + 4 * tiles) * block * L + 64 * L;
  }

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

  // --- one timestep: the pointwise part ---

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

  // --- one timestep: the products ---

  Product<R> product_with_d_z(I slot, I r, I first, I cols, const S* b, I ldb) const {
    return {d_z_units(slot, 0, r) + first * W, c.cols * rows.count * W, cols * W, c.cols,
            l.panels * cols * W, b, ldb, l.ahead};
  }

  // The same for one of `cols` columns alone, for a dropout mask of its own.
  Product<R> product_with_gate(I slot, I r, I first, I cols, I column, const S* b, I ldb) const {
    Product<R> product = product_with_d_z(slot, r, first + column, 1, b + column * W * ldb, ldb);
    product.b_skip = (cols - 1) * W * ldb;
    return product;
  }

  // d_state += dz U'
  void pull_state(I t, I slot) const {
    const I blocks = blocks_of(rows.running[t], kRowBlock), k = l.panels * c.h_cols * W;
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(1, p, own.last), ldb = together * L;
      const S* b = l.recurrent_t + p * k * L;
      for (I i = 0; i < blocks; ++i) {
        const Span some = share(rows.running[t], i, blocks);
        S* to = d_state(0, p) + some.first * L;
        if (spec.recurrent_masks == 0) {
          multiply(product_with_d_z(slot, some.first, c.h_first, c.h_cols, b, ldb), some.size(),
                   together, to, L, panel_size());
          continue;
        }
        for (I column = 0; column < c.h_cols; ++column) {
          const I size = some.size() * L;
          fill_zero(tile, together * size);
          multiply(product_with_gate(slot, some.first, c.h_first, c.h_cols, column, b, ldb),
                   some.size(), together, tile, L, size);
          for (I q = 0; q < together; ++q) {
            const S* mask = recurrent_mask(c.gate_of_h[column], p + q) + some.first * L;
            add_product(to + q * panel_size(), tile + q * size, mask, some.size());
          }
        }
      }
      p += together;
    }
  }

  void add_product(S* to, const S* a, const S* b, I count) const {
    for (I r = 0; r < count * L; r += L) {
      store<R>(to + r, load<R>(to + r) + load<R>(a + r) * load<R>(b + r));
    }
  }

  // dx = dz W'
  void pull_inputs(I t, I slot) const {
    if (!spec.wants_dx) return;
    const I running = rows.running[t], blocks = blocks_of(running, kRowBlock);
    const I k = l.panels * c.x_cols * W;
    for (I p = own_d.first; p < own_d.last;) {
      const I together = panels_together(1, p, own_d.last), ldb = together * L;
      const S* b = l.kernel_t + p * k * L;
      for (I i = 0; i < blocks; ++i) {
        const Span some = share(running, i, blocks);
        const I size = some.size() * L;
        fill_zero(tile, together * size);
        if (spec.input_masks <= 1) {
          multiply(product_with_d_z(slot, some.first, 0, c.x_cols, b, ldb), some.size(), together,
                   tile, L, size);
          if (spec.input_masks) mask_d_inputs(p, together, some, 0, tile, tile);
        } else {
          pull_inputs_by_gate(slot, p, together, some, b);
        }
        store_d_inputs(t, p, together, some);
      }
      p += together;
    }
    zero_d_inputs(t, running);
  }

  const S* input_mask(I mask, I block, I r) const {
    return l.input_masks + ((mask * l.d_blocks + block) * l.B + rows.first + r) * L;
  }

  void mask_d_inputs(I p, I together, Span some, I mask, const S* from, S* to) const {
    const I size = some.size() * L;
    for (I q = 0; q < together; ++q) {
      const S* m = input_mask(mask, p + q, some.first);
      for (I r = 0; r < size; r += L) {
        store<R>(to + q * size + r, load<R>(from + q * size + r) * load<R>(m + r));
      }
    }
  }

  void pull_inputs_by_gate(I slot, I p, I together, Span some, const S* b) const {
    const I size = some.size() * L;
    S* part = value;  // as large as a tile, and free by now
    for (I column = 0; column < c.x_cols; ++column) {
      fill_zero(part, together * size);
      multiply(product_with_gate(slot, some.first, 0, c.x_cols, column, b, together * L),
               some.size(), together, part, L, size);
      for (I q = 0; q < together; ++q) {
        add_product(tile + q * size, part + q * size,
                    input_mask(c.gate_of_x[column], p + q, some.first), some.size());
      }
    }
  }

  Element* d_input(I row, I t) const {
    return static_cast<Element*>(l.run->dx) + (row * l.T + l.time_of(t)) * l.D;
  }

  void store_d_inputs(I t, I p, I together, Span some) const {
    for (I r = 0; r < some.size(); ++r) {
      Element* to = d_input(row_of(some.first + r), t);
      for (I q = 0; q < together; ++q) {
        const I d = (p + q) * L;
        write<R>(to + d, load<R>(tile + (q * some.size() + r) * L), l.D - d);
      }
    }
  }

  // Rows that don't run at t.
  void zero_d_inputs(I t, I running) const {
    const I first = own_d.first * L, last = own_d.last * L < l.D ? own_d.last * L : l.D;
    for (I r = running; r < rows.count && first < last; ++r) {
      fill_zero(d_input(row_of(r), t) + first, last - first);
    }
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
