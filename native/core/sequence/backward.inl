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
  static constexpr I L = R::kLanes;

  using Places::c, Places::d_state, Places::d_z, Places::dropped, Places::l, Places::late;
  using Places::member, Places::members, Places::memory, Places::old_state, Places::own, Places::own_d;
  using Places::panel_size, Places::recurrent_mask, Places::row_of, Places::rows;
  using Places::spec, Places::x;

  const WeightGradients<R> weights;
  Barrier* barrier;
  S *value, *slope, *work, *old, *tile;
  Int *valid, *shown;

  BackwardMember(const BackLayer<R>& layer, I group, I member, I members, Barrier* barrier)
      : Places(layer, group, member, members), weights(layer, group, member, members),
        barrier(barrier) {
    const I block = rows.count < kRowBlock ? rows.count : kRowBlock;
    S* next = memory.private_ + member * memory.private_size;
    valid = reinterpret_cast<Int*>(next), next += blocks_of(rows.count, L) * L;
    shown = reinterpret_cast<Int*>(next), next += blocks_of(rows.count, L) * L;
    work = next, next += 2 * block * L;
    old = next, next += 2 * block * L;
    tile = next, next += 4 * block * L;
    value = next, next += 4 * block * L;
    slope = next;
  }

  static I private_size(I count) {
    const I block = count < kRowBlock ? count : kRowBlock;
    return 2 * blocks_of(count, L) * L + (2 + 2 + 4 + 4 + 4) * block * L + 64 * L;
  }

  void wait() const {
    if (barrier != nullptr) barrier->wait();
  }

  // --- rows come and go ---

  // Rows whose last timestep is t: the gradients of their final states, and of held outputs.
  void enter(I t, I first, I last) const {
    const bool holds = spec.return_sequences && !spec.zero_output_for_mask;
    for (I p = own.first; p < own.last; ++p) {
      const I lanes = l.U - p * L;
      for (I r = first; r < last; ++r) {
        for (I s = 0; s < c.states; ++s) {
          const S* from = static_cast<const S*>(l.run->d_final[s]) + row_of(r) * l.U + p * L;
          V sum = load_part<R>(from, lanes);
          for (I later = t + 1; s == 0 && holds && later < l.T; ++later) {
            sum += load_part<R>(d_output(row_of(r), later) + p * L, lanes);
          }
          store<R>(d_state(s, p) + r * L, sum);
        }
      }
    }
  }

  const S* d_output(I row, I t) const {
    return static_cast<const S*>(l.run->d_ys) + (row * l.T + l.output_time(t)) * l.run->ys_stride;
  }

  // Rows whose first timestep is done: the gradients of their initial states.
  void leave(I first, I last) const {
    for (I p = own.first; p < own.last; ++p) {
      for (I r = first; r < last; ++r) {
        for (I s = 0; s < c.states; ++s) {
          S* to = static_cast<S*>(l.run->d_initial[s]) + row_of(r) * l.U + p * L;
          store_part<R>(to, load<R>(d_state(s, p) + r * L), l.U - p * L);
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
          const S* from = static_cast<const S*>(l.run->d_final[s]) + at;
          store_part<R>(static_cast<S*>(l.run->d_initial[s]) + at, load_part<R>(from, l.U - p * L),
                        l.U - p * L);
        }
      }
    }
  }

  // --- one timestep: the pointwise part ---

  void add_d_outputs(I t, I p, Span some) const {
    if (!spec.return_sequences) return;
    const I lanes = l.U - p * L;
    for (I r = some.first; r < some.last; ++r) {
      V d = load_part<R>(d_output(row_of(r), t) + p * L, lanes);
      if (l.schedule.holes) d = choose<R>(shown[r], d, V{});
      S* to = d_state(0, p) + r * L;
      store<R>(to, load<R>(to) + d);
    }
  }

  BackTile<R> tile_of(I t, I slot, I p, Span some) const {
    const I r = some.first;
    BackTile<R> b = {some.size(), c.cols * L, nullptr, {}, {}, {}, d_z(slot, p, r), {}, value,
                     slope, work};
    if (l.keeps_tiles) b.kept = l.kept_tile(t, p, rows.first) + r * c.cols * L;
    for (I s = 0; s < c.states; ++s) {
      b.old_state[s] = old_state(s, t, p) + r * L;
      b.new_state[s] = old_state(s, t + 1, p) + r * L;
      b.d_new[s] = d_state(s, p) + r * L;
      b.d_old[s] = l.schedule.holes ? old + s * some.size() * L : d_state(s, p) + r * L;
    }
    return b;
  }

  // Masked rows pass their gradients through; lanes beyond U stay zero, whatever NaN made of them.
  void finish_tile(BackTile<R>& b, I p, Span some, I columns_first, I columns_last) const {
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

  void keep_masked(BackTile<R>& b, I p, Span some) const {
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
        const Span some = share(rows.running[t], i, blocks);
        add_d_outputs(t, p, some);
        BackTile<R> b = tile_of(t, slot, p, some);
        l.cell.backward(l.functions, b);
        finish_tile(b, p, some, 0, c.cols - c.late_cols);
        keep_masked(b, p, some);
      }
      for (I g = 0; g < spec.recurrent_masks; ++g) drop(t, slot, p, g);
    }
    if (c.has_late()) {
      wait();
      pull_late(t, slot);
    }
  }

  void drop(I t, I slot, I p, I gate) const {
    const S *h = old_state(0, t, p), *mask = recurrent_mask(gate, p);
    S* to = dropped(slot, gate, p);
    for (I r = 0; r < rows.running[t]; ++r) {
      store<R>(to + r * L, load<R>(h + r * L) * load<R>(mask + r * L));
    }
  }

  // The gradient of what took the state's place in the late product, and those that need it.
  void pull_late(I t, I slot) const {
    const I blocks = blocks_of(rows.running[t], kRowBlock);
    const bool drops = spec.recurrent_masks != 0;
    const I k = l.panels * L;
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(1, p, own.last);
      for (I i = 0; i < blocks; ++i) {
        const Span some = share(rows.running[t], i, blocks);
        const I size = some.size() * L, at = some.first * L;
        fill_zero(tile, together * size);
        const Product<R> product = {d_z(slot, 0, some.first), c.cols * panel_size(), L, c.cols, k,
                                    l.late_t + p * k * L, together * L, l.ahead};
        multiply(product, some.size(), together, tile, L, size);
        for (I q = p; q < p + together; ++q) {
          BackTile<R> b = tile_of(t, slot, q, some);
          for (I s = 0; s < c.states; ++s) b.d_old[s] = d_state(s, q) + at;
          const LateTile<R> pulled = {tile + (q - p) * size,
                                      drops ? dropped(slot, c.late_gate, q) + at : b.old_state[0],
                                      drops ? recurrent_mask(c.late_gate, q) + at : nullptr,
                                      late(slot, q) + at};
          l.cell.backward_gates(l.functions, b, pulled);
          finish_tile(b, q, some, c.cols - c.late_cols, c.cols);
        }
      }
      p += together;
    }
  }

  // --- one timestep: the products ---

  Product<R> product_with_d_z(I slot, I r, I first, I cols, const S* b, I ldb) const {
    return {d_z(slot, 0, r) + first * L, c.cols * panel_size(), cols * L, c.cols,
            l.panels * cols * L, b, ldb, l.ahead};
  }

  // The same for one of `cols` columns alone, for a dropout mask of its own.
  Product<R> product_with_gate(I slot, I r, I first, I cols, I column, const S* b, I ldb) const {
    Product<R> product = product_with_d_z(slot, r, first + column, 1, b + column * L * ldb, ldb);
    product.b_skip = (cols - 1) * L * ldb;
    return product;
  }

  // d_state += dz U'
  void pull_state(I t, I slot) const {
    const I blocks = blocks_of(rows.running[t], kRowBlock), k = l.panels * c.h_cols * L;
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
    const I k = l.panels * c.x_cols * L;
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

  S* d_input(I row, I t) const {
    return static_cast<S*>(l.run->dx) + (row * l.T + l.time_of(t)) * l.D;
  }

  void store_d_inputs(I t, I p, I together, Span some) const {
    for (I r = 0; r < some.size(); ++r) {
      S* to = d_input(row_of(some.first + r), t);
      for (I q = 0; q < together; ++q) {
        const I d = (p + q) * L;
        store_part<R>(to + d, load<R>(tile + (q * some.size() + r) * L), l.D - d);
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

  void run() const {
    weights.clear();
    pass_unstarted();
    I running = 0, slot = 0;
    for (I t = l.T - 1; t >= 0; --t) {
      if (l.schedule.holes) read_mask(l, rows, t, valid, shown);
      if (rows.running[t] > running) enter(t, running, rows.running[t]);
      running = rows.running[t];
      pack_inputs(l, rows, t, share(running, member, members), x(slot, 0));
      pointwise(t, slot);
      wait();
      pull_state(t, slot);
      pull_inputs(t, slot);
      const I earlier = t > 0 ? rows.running[t - 1] : 0;
      if (earlier < running) {
        leave(earlier, running);
        running = earlier;
      }
      if (++slot == memory.ring || t == 0) {
        weights.accumulate(t, slot);
        slot = 0;
        wait();
      }
    }
  }

};
