// The backward pass: from the last timestep to the first.
//
// The gradients dz of a few timesteps stay in a ring, beside the inputs of these, until the weights'
// gradients take them in at once: their accumulators are then loaded and stored a few times less.

constexpr I kMostRing = 32;

template <class R>
struct BackMemory {
  typedef typename R::S S;
  I ring;      // timesteps
  S* d_z;      // [ring][panel][row][cols L]
  S* x;        // [ring][mask][block of D][row][L]
  S* dropped;  // [ring][gate][panel][row][L]
  S* reset;    // gru_reset_before: r h, [ring][panel][row][L]
  S* d_state[2];  // [panel][row][L]
  S *d_kernel, *d_recurrent, *d_candidate, *d_bias;  // packed as the weights are
  S* private_;
  I private_size;
};

template <class R>
struct BackLayer : Layer<R> {
  // transposed, packed: see pack_transposed
  typename R::S *kernel_t, *recurrent_t, *candidate_t;
  BackMemory<R>* back;
};

template <class R>
struct BackwardMember {
  typedef typename R::S S;
  typedef typename R::V V;
  typedef typename R::Int Int;
  static constexpr I L = R::kLanes;

  const BackLayer<R>& l;
  const RunSpec& spec;
  const Columns& c;
  const Rows& rows;
  const BackMemory<R>& memory;
  const I member, members;
  Barrier* barrier;
  const Span own, own_d;  // panels of units, and of inputs
  S *value, *slope, *work, *old, *tile;
  Int *valid, *shown;

  BackwardMember(const BackLayer<R>& layer, I group, I member, I members, Barrier* barrier)
      : l(layer), spec(layer.run->spec), c(layer.columns), rows(layer.schedule.groups[group]),
        memory(layer.back[group]), member(member), members(members), barrier(barrier),
        own(share(layer.panels, member, members)), own_d(share(layer.d_blocks, member, members)) {
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

  I panel_size() const { return rows.count * L; }
  S* d_z(I slot, I panel, I r) const {
    return memory.d_z + ((slot * l.panels + panel) * rows.count + r) * c.cols * L;
  }
  S* x(I slot, I mask) const {
    const I copies = spec.input_masks > 1 ? spec.input_masks : 1;
    return memory.x + (slot * copies + mask) * l.d_blocks * panel_size();
  }
  S* dropped(I slot, I gate, I panel) const {
    return memory.dropped + ((slot * spec.recurrent_masks + gate) * l.panels + panel) * panel_size();
  }
  S* reset(I slot, I panel) const {
    return memory.reset + (slot * l.panels + panel) * panel_size();
  }
  S* d_state(I s, I panel) const { return memory.d_state[s] + panel * panel_size(); }
  const S* old_state(I s, I t, I panel) const { return l.kept_state(s, t, panel, rows.first); }
  const S* recurrent_mask(I gate, I panel) const {
    return l.recurrent_masks + ((gate * l.panels + panel) * l.B + rows.first) * L;
  }
  I row_of(I r) const { return l.schedule.row_of[rows.first + r]; }

  // --- rows come and go ---

  // Rows whose last timestep is t: the gradients of their final states, and of held outputs.
  void enter(I t, I first, I last) const {
    const bool holds = spec.sequences && !spec.zero_masked;
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
    if (!spec.sequences) return;
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

  void run_cell(BackTile<R>& b) const {
    switch (spec.kind) {
      case lstm: return lstm_backward(l.functions, b);
      case gru: return gru_backward(l.functions, b);
      case gru_reset_before: return gru_before_backward(l.functions, b);
      default: return simple_backward(l.functions, b);
    }
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
    const bool before = spec.kind == gru_reset_before;
    for (I p = own.first; p < own.last; ++p) {
      for (I i = 0; i < blocks; ++i) {
        const Span some = share(rows.running[t], i, blocks);
        add_d_outputs(t, p, some);
        BackTile<R> b = tile_of(t, slot, p, some);
        run_cell(b);
        finish_tile(b, p, some, 0, before ? 2 : c.cols);
        keep_masked(b, p, some);
      }
      for (I g = 0; g < spec.recurrent_masks; ++g) drop(t, slot, p, g);
    }
    if (before) {
      wait();
      pointwise_reset(t, slot);
    }
  }

  void drop(I t, I slot, I p, I gate) const {
    const S *h = old_state(0, t, p), *mask = recurrent_mask(gate, p);
    S* to = dropped(slot, gate, p);
    for (I r = 0; r < rows.running[t]; ++r) {
      store<R>(to + r * L, load<R>(h + r * L) * load<R>(mask + r * L));
    }
  }

  // gru_reset_before's first stage, backward: the gradient of r h, and from it that of r and h.
  void pointwise_reset(I t, I slot) const {
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
                                    l.candidate_t + p * k * L, together * L, l.ahead};
        multiply(product, some.size(), together, tile, L, size);
        for (I q = p; q < p + together; ++q) {
          BackTile<R> b = tile_of(t, slot, q, some);
          for (I s = 0; s < c.states; ++s) b.d_old[s] = d_state(s, q) + at;
          const S* h = drops ? dropped(slot, 2, q) + at : b.old_state[0];
          S* d_product = tile + (q - p) * size;
          gru_before_backward_reset(l.functions, b, d_product, h,
                                    drops ? recurrent_mask(2, q) + at : nullptr);
          finish_tile(b, q, some, 2, 3);
          const S* r = (l.functions.gate.needs_input ? b.value : b.kept) + 2 * L;
          for (I j = 0; j < some.size(); ++j) {
            const V kept = load<R>(r + j * b.stride) * load<R>(h + j * L);
            store<R>(reset(slot, q) + at + j * L, kept);
          }
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

  // --- the weights' gradients ---

  // Takes in the timesteps t, t + 1 ... of the ring's slots [0, count), the last first.
  void accumulate(I t, I count) const {
    Segment<R> segments[kMostRing];
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(c.cols, p, own.last);
      accumulate_kernel(segments, t, count, p, together);
      accumulate_recurrent(segments, t, count, p, together);
      for (I q = p; q < p + together; ++q) accumulate_bias(t, count, q);
      p += together;
    }
    if (spec.kind != gru_reset_before) return;
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(1, p, own.last);
      accumulate_candidate(segments, t, count, p, together);
      p += together;
    }
  }

  I running_in(I slot, I t, I count) const { return rows.running[t + count - 1 - slot]; }

  OuterShape outer_shape(I p, I together, I m, I a_block, I first, I cols) const {
    const I panel = c.cols * panel_size();
    return {m, a_block, p * panel + first * L, c.cols > 1 ? L : panel, c.cols, together * cols * L, L};
  }

  void accumulate_kernel(Segment<R>* segments, I t, I count, I p, I together) const {
    const OuterShape shape = outer_shape(p, together, l.D, panel_size(), 0, c.x_cols);
    S* to = memory.d_kernel + p * l.D * c.x_cols * L;
    const bool by_gate = spec.input_masks > 1;
    for (I part = 0; part < (by_gate ? c.x_cols : 1); ++part) {
      for (I slot = 0; slot < count; ++slot) {
        segments[slot] = {x(slot, by_gate ? c.gate_of_x[part] : 0), d_z(slot, 0, 0) + part * L,
                          running_in(slot, t, count)};
      }
      accumulate_outer(segments, count, shape, by_gate ? 1 : together * c.x_cols, to + part * L);
    }
  }

  void accumulate_recurrent(Segment<R>* segments, I t, I count, I p, I together) const {
    const bool by_gate = spec.recurrent_masks != 0;
    const OuterShape shape = outer_shape(p, together, l.U, by_gate ? panel_size() : l.B * L,
                                         c.h_first, c.h_cols);
    S* to = memory.d_recurrent + p * l.U * c.h_cols * L;
    for (I part = 0; part < (by_gate ? c.h_cols : 1); ++part) {
      for (I slot = 0; slot < count; ++slot) {
        const S* a = by_gate ? dropped(slot, c.gate_of_h[part], 0)
                             : old_state(0, t + count - 1 - slot, 0);
        segments[slot] = {a, d_z(slot, 0, 0) + part * L, running_in(slot, t, count)};
      }
      const I nc = by_gate && c.cols > 1 ? 1 : together * c.h_cols;
      accumulate_outer(segments, count, shape, nc, to + part * L);
    }
  }

  // gru_reset_before: the candidate's column against r h.
  void accumulate_candidate(Segment<R>* segments, I t, I count, I p, I together) const {
    for (I slot = 0; slot < count; ++slot) {
      segments[slot] = {reset(slot, 0), d_z(slot, 0, 0), running_in(slot, t, count)};
    }
    OuterShape shape = outer_shape(p, together, l.U, panel_size(), 0, 1);
    shape.b_column = c.cols * panel_size();  // one column of each panel
    accumulate_outer(segments, count, shape, together, memory.d_candidate + p * l.U * L);
  }

  void accumulate_bias(I t, I count, I p) const {
    if (!spec.has_bias) return;
    for (I column = 0; column < c.cols; ++column) {
      S* to = memory.d_bias + (p * c.cols + column) * L;
      V sum{}, other{};
      for (I slot = 0; slot < count; ++slot) {
        const S* from = d_z(slot, p, 0) + column * L;
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

  void run() const {
    clear();
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
        accumulate(t, slot);
        slot = 0;
        wait();
      }
    }
  }

  // Each member's own part of the accumulators.
  void clear() const {
    const I p = own.first, n = own.size() * L;
    fill_zero(memory.d_kernel + p * l.D * c.x_cols * L, n * l.D * c.x_cols);
    fill_zero(memory.d_recurrent + p * l.U * c.h_cols * L, n * l.U * c.h_cols);
    fill_zero(memory.d_bias + p * c.cols * L, n * c.cols);
    if (memory.d_candidate != nullptr) fill_zero(memory.d_candidate + p * l.U * L, n * l.U);
  }
};

template <class R>
bool take_backward_memory(BackLayer<R>& l, Arena& arena) {
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  const RunSpec& spec = l.run->spec;
  const Columns& c = l.columns;
  const bool before = spec.kind == gru_reset_before;
  const I k = l.panels * L;
  l.recurrent_t = arena.take<S>(l.panels * k * c.h_cols * L);
  l.kernel_t = spec.wants_dx ? arena.take<S>(l.d_blocks * k * c.x_cols * L) : nullptr;
  l.candidate_t = before ? arena.take<S>(l.panels * k * L) : nullptr;
  l.back = arena.take<BackMemory<R>>(l.schedule.group_count);
  const I copies = spec.input_masks > 1 ? spec.input_masks : 1;
  // Rows times timesteps that the weights' gradients take in at once. Where these don't fit the L2
  // cache, each time costs a pass over all of them.
  const I depth = weights_of<R>(*l.run) < l2_cache() / 4 * 3 ? 128 : l.ahead ? 512 : 256;
  // Gradients of all groups side by side, so that unpacking adds them up by a stride.
  const I sizes[4] = {l.panels * l.D * c.x_cols * L, l.panels * l.U * c.h_cols * L,
                      l.panels * c.cols * L, before ? l.panels * l.U * L : 0};
  S* gradients[4];
  for (int i = 0; i < 4; ++i) gradients[i] = arena.take<S>(sizes[i] * l.schedule.group_count);
  if (arena.failed) return false;
  for (I g = 0; g < l.schedule.group_count; ++g) {
    BackMemory<R>& m = l.back[g];
    const I count = l.schedule.groups[g].count, all = l.panels * count * L;
    const I wanted = depth / (count > 0 ? count : 1);
    m.ring = wanted < 2 ? 2 : wanted > kMostRing ? kMostRing : wanted;
    m.d_z = arena.take<S>(m.ring * all * c.cols);
    m.x = arena.take<S>(m.ring * copies * l.d_blocks * count * L);
    m.dropped = spec.recurrent_masks ? arena.take<S>(m.ring * spec.recurrent_masks * all) : nullptr;
    m.reset = before ? arena.take<S>(m.ring * all) : nullptr;
    for (I s = 0; s < c.states; ++s) m.d_state[s] = arena.take<S>(all);
    m.d_kernel = gradients[0] + g * sizes[0];
    m.d_recurrent = gradients[1] + g * sizes[1];
    m.d_bias = gradients[2] + g * sizes[2];
    m.d_candidate = before ? gradients[3] + g * sizes[3] : nullptr;
    m.private_size = BackwardMember<R>::private_size(count);
    m.private_ = arena.take<S>(l.members * m.private_size);
  }
  return !arena.failed;
}

// Packs panels of units and of inputs.
template <class R>
void pack_backward_weights(const BackLayer<R>& l, Span own, Span own_d) {
  typedef typename R::S S;
  const Columns& c = l.columns;
  const S* recurrent = static_cast<const S*>(l.run->recurrent_kernel);
  pack_transposed<R>(recurrent, l.U, l.U, c.gates, c.gate_of_h, c.h_cols, own, l.recurrent_t);
  if (l.candidate_t != nullptr) {
    pack_transposed<R>(recurrent, l.U, l.U, c.gates, kCandidateGate, 1, own, l.candidate_t);
  }
  if (l.kernel_t == nullptr) return;
  pack_transposed<R>(static_cast<const S*>(l.run->kernel), l.D, l.U, c.gates, c.gate_of_x, c.x_cols,
                     own_d, l.kernel_t);
}

template <class R>
void unpack_bias(const BackLayer<R>& l, Span panels, I parts, I part_stride) {
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  const Columns& c = l.columns;
  S* out = static_cast<S*>(l.run->d_bias);
  for (I p = panels.first; p < panels.last; ++p) {
    for (I column = 0; column < c.cols; ++column) {
      const S* from = l.back[0].d_bias + (p * c.cols + column) * L;
      typename R::V sum = load<R>(from);
      for (I i = 1; i < parts; ++i) sum += load<R>(from + i * part_stride);
      const I unit = p * L, lanes = l.U - unit;
      if (column < c.x_cols) store_part<R>(out + c.gate_of_x[column] * l.U + unit, sum, lanes);
      if (l.run->spec.kind == gru && column >= c.h_first) {
        const I gate = c.gates + c.gate_of_h[column - c.h_first];
        store_part<R>(out + gate * l.U + unit, sum, lanes);
      }
    }
  }
}

// Lays out the weights' gradients of some panels as Keras's.
template <class R>
void unpack_gradients(const BackLayer<R>& l, Span own) {
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  const Columns& c = l.columns;
  const I parts = l.schedule.group_count;
  const BackMemory<R>& m = l.back[0];
  S* d_recurrent = static_cast<S*>(l.run->d_recurrent_kernel);
  unpack_weights<R>(m.d_kernel, parts, l.panels * l.D * c.x_cols * L, l.D, l.U, c.gates, c.gate_of_x,
                    c.x_cols, own, static_cast<S*>(l.run->d_kernel));
  unpack_weights<R>(m.d_recurrent, parts, l.panels * l.U * c.h_cols * L, l.U, l.U, c.gates,
                    c.gate_of_h, c.h_cols, own, d_recurrent);
  if (m.d_candidate != nullptr) {
    unpack_weights<R>(m.d_candidate, parts, l.panels * l.U * L, l.U, l.U, c.gates, kCandidateGate, 1,
                      own, d_recurrent);
  }
  if (l.run->d_bias != nullptr) unpack_bias(l, own, parts, l.panels * c.cols * L);
}
