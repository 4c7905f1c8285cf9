// The forward pass: each member of a group runs its panels through all timesteps.

template <class R>
struct ForwardMember : ForwardProducts<R> {
  typedef ForwardProducts<R> Products;
  typedef typename R::S S;
  typedef typename R::V V;
  typedef typename R::Int Int;
  typedef typename R::Element Element;
  typedef typename R::Real Real;
  static constexpr I L = R::kLanes, W = R::kWords;

  using Products::c, Products::dropped, Products::l, Products::member, Products::members;
  using Products::memory, Products::operand, Products::own, Products::project_both;
  using Products::project_chunk, Products::project_inputs, Products::project_state, Products::rows;
  using Products::shown, Products::spare, Products::state, Products::tile, Products::tile_at;
  using Products::tile_panel_stride, Products::valid, Products::work, Products::x_of;

  Barrier* barrier;
  const bool is_again;  // for `run_again` alone: it writes no results

  ForwardMember(const Layer<R>& layer, I group, I member, I members, Barrier* barrier,
                bool is_again = false)
      : Products(layer, group, member, members), barrier(barrier), is_again(is_again) {}

  void wait() const {
    if (barrier != nullptr) barrier->wait();
  }

  // --- rows come and go ---

  void enter(I t, I first, I last) const {
    for (I p = own.first; p < own.last; ++p) {
      const Span some = own.of(p, {first, last});
      for (I r = some.first; r < some.last; ++r) {
        const I row = l.schedule.row_of[rows.first + r];
        for (I s = 0; s < c.states; ++s) {
          const Element* from = static_cast<const Element*>(l.run->initial[s]) + row * l.U + p * L;
          store<R>(state(s, t, p) + r * L, read<R>(from, l.U - p * L));
        }
      }
      hand_on(t, p, some.first, some.last);
    }
  }

  // The state at t of one panel as its products take it.
  void hand_on(I t, I panel, I first, I last) const {
    for (I g = 0; g < state_operands<R>(l.run->spec); ++g) {
      S* to = operand(g, t, panel);
      for (I r = first; r < last; ++r) store_operand<R>(to + r * W, dropped(g, t, panel, r), l.U - panel * L);
    }
  }

  // Rows whose last timestep was t - 1: their final states, and their outputs from t on.
  void leave(I t, I first, I last) const {
    for (I p = own.first; p < own.last; ++p) {
      const I lanes = l.U - p * L;
      const Span some = own.of(p, {first, last});
      for (I r = some.first; r < some.last; ++r) {
        const I row = l.schedule.row_of[rows.first + r];
        for (I s = 0; s < c.states; ++s) {
          Element* to = static_cast<Element*>(l.run->final[s]) + row * l.U + p * L;
          write<R>(to, load<R>(state(s, t, p) + r * L), lanes);
        }
        const bool holds = !l.run->spec.zero_output_for_mask;
        write_outputs(row, p, t, l.T, holds ? load<R>(state(0, t, p) + r * L) : V{});
      }
    }
  }

  void write_outputs(I row, I panel, I first, I last, V value) const {
    if (!l.run->spec.return_sequences) return;
    for (I t = first; t < last; ++t) {
      const I at = (row * l.T + l.output_time(t)) * l.run->ys_stride + panel * L;
      write<R>(static_cast<Element*>(l.run->ys) + at, value, l.U - panel * L);
    }
  }

  // Fresh states for the rows that are reset before timestep t. Outputs have been written, and of
  // what the backward pass wants of them, it has all else: see BackTile.
  void reset(I t) const {
    const ResetRows all = rows.resets(t);
    for (I p = own.first; all.count > 0 && p < own.last; ++p) {
      const ResetRows some = own_of(p, all);
      for (I s = 0; s < c.states; ++s) set_rows(state(s, t, p), l.run->fresh[s], p, some);
      if (state_operands<R>(l.run->spec) == 0) continue;
      for (I i = 0; i < some.count; ++i) hand_on(t, p, some.row[i], some.row[i] + 1);
    }
  }

  // Those of some rows that are this member's in a panel.
  ResetRows own_of(I panel, ResetRows some) const {
    const Span slots = own.of(panel, {0, rows.count});
    while (some.count > 0 && some.row[0] < slots.first) ++some.row, --some.count;
    while (some.count > 0 && some.row[some.count - 1] >= slots.last) --some.count;
    return some;
  }

  // Of one panel's state some rows: zeros, or what's given.
  void set_rows(S* to, const void* given, I panel, ResetRows some) const {
    if (given == nullptr) {
      for (I i = 0; i < some.count; ++i) store<R>(to + some.row[i] * L, V{});
      return;
    }
    const Element* from = static_cast<const Element*>(given) + panel * L;
    for (I i = 0; i < some.count; ++i) {
      const I row = l.schedule.row_of[rows.first + some.row[i]];
      store<R>(to + some.row[i] * L, read<R>(from + row * l.U, l.U - panel * L));
    }
  }

  // Zeros before rows begin; rows that never do keep their states.
  void write_unstarted() const {
    if (!l.schedule.has_mask) return;
    for (I r = 0; r < rows.count; ++r) {
      I begin = 0;
      while (begin < l.T && rows.running[begin] <= r) ++begin;
      const I row = l.schedule.row_of[rows.first + r];
      for (I p = own.first; p < own.last; ++p) {
        if (own.of(p, {r, r + 1}).size() == 0) continue;
        write_outputs(row, p, 0, begin, V{});
        for (I s = 0; begin == l.T && s < c.states; ++s) {
          const I at = row * l.U + p * L;
          write<R>(static_cast<Element*>(l.run->final[s]) + at,
                   read<R>(static_cast<const Element*>(l.run->initial[s]) + at, l.U - p * L),
                   l.U - p * L);
        }
      }
    }
  }

  // --- one timestep ---

  Tile<Real> tile_of(I t, I p, I r, I count, S* z) const {
    Tile<Real> result = {count, c.cols * L, z, spare, {}, {}, work};
    for (I s = 0; s < c.states; ++s) {
      result.old_state[s] = state(s, t, p) + r * L;
      result.new_state[s] = state(s, t + 1, p) + r * L;
    }
    return result;
  }

  // Masked rows keep their states; results go out; operands of the next timestep.
  void finish(I t, I p, I r, I count) const {
    if (l.schedule.holes) {
      for (I s = 0; s < c.states; ++s) {
        const S* old = state(s, t, p) + r * L;
        S* now = state(s, t + 1, p) + r * L;
        for (I i = 0; i < count; ++i) {
          const V kept = choose<R>(valid[r + i], load<R>(now + i * L), load<R>(old + i * L));
          store<R>(now + i * L, kept);
        }
      }
    }
    const S* h = state(0, t + 1, p) + r * L;
    if (l.run->spec.return_sequences && !is_again) {
      const I lanes = l.U - p * L, time = l.output_time(t);
      const I stride = l.run->ys_stride;
      Element* ys = static_cast<Element*>(l.run->ys) + time * stride + p * L;
      const I* row_of = l.schedule.row_of + rows.first + r;
      for (I i = 0; i < count; ++i) {
        V y = load<R>(h + i * L);
        if (l.schedule.holes) y = choose<R>(shown[r + i], y, V{});
        write<R>(ys + row_of[i] * l.T * stride, y, lanes);
      }
    }
    hand_on(t + 1, p, r, r + count);
  }

  void step(I t) const {
    if (l.chunk > 1) step_of_few(t);
    else step_of_many(t);
    if (c.has_late()) {
      wait();
      finish_late(t);
    }
  }

  void step_of_many(I t) const {
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(c.cols, p, own.last);
      const Span all = own.of(p, {0, rows.running[t]});
      const I blocks = blocks_of(all.size(), kRowBlock);
      for (I b = 0; b < blocks; ++b) {
        const Span some = share(all, b, blocks);
        S* z = tile_at(t, p, some.first);
        const I z_panel = tile_panel_stride(some.size());
        if (l.pairs) {
          project_both(t, p, together, some.first, some.size(), z, z_panel);
        } else {
          project_inputs(x_of(t) + some.first * W, p, together, some.size(), z, c.cols * L, z_panel);
          project_state(t, p, together, some.first, some.size(), z, z_panel);
        }
        for (I q = 0; q < together; ++q) {
          Tile<Real> now = tile_of(t, p + q, some.first, some.size(), z + q * z_panel);
          if (c.has_late()) {
            run_gates(now, t, p + q, some.first);
          } else {
            l.cell.forward(l.functions, now);
            finish(t, p + q, some.first, some.size());
          }
        }
      }
      p += together;
    }
  }

  // Where the inputs' product has been done: first the state's of all panels, then the activations, which
  // would wait for one another in a panel of a row or two (a fifth of LSTM B1 U128's time).
  void step_of_few(I t) const {
    const I z_panel = tile_panel_stride(rows.count);
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(c.cols, p, own.last);
      const Span some = own.of(p, {0, rows.running[t]});
      project_state(t, p, together, some.first, some.size(), tile_at(t, p, some.first), z_panel);
      p += together;
    }
    for (I p = own.first; p < own.last;) {
      const I joined = joined_panels(t, p);
      const Span some = own.of(p, {0, rows.running[t]});
      Tile<Real> now = tile_of(t, p, some.first, joined * some.size(), tile_at(t, p, some.first));
      if (c.has_late()) {
        run_gates(now, t, p, some.first);
      } else {
        l.cell.forward(l.functions, now);
        for (I q = p; q < p + joined; ++q) finish(t, q, some.first, some.size());
      }
      p += joined;
    }
  }

  // How many panels from p on lie as the rows of one tile do, if all of their rows run.
  I joined_panels(I t, I p) const {
    const bool dense = rows.count == l.B || (!l.run->spec.training && !l.keeps_tiles);
    if (!dense || rows.running[t] < rows.count || c.has_late()) return 1;
    const I most = kRowBlock / rows.count;
    return own.last - p < most ? own.last - p : most;
  }

  void run_gates(Tile<Real>& now, I t, I p, I r) const {
    const bool drops = l.run->spec.recurrent_masks != 0;
    S* late = memory.late + (p * rows.count + r) * W;
    if constexpr (!R::kPairs) {
      now.work = late;
      l.cell.gates(l.functions, now, (drops ? operand(c.late_gate, t, p) : state(0, t, p)) + r * L);
      return;
    }
    S* h = tile;  // free, as those of a late product lie in memory.tiles or are kept
    for (I i = 0; i < now.rows; ++i) store<R>(h + i * L, dropped(c.late_gate, t, p, r + i));
    l.cell.gates(l.functions, now, h);
    for (I i = 0; i < now.rows; ++i) {
      store_operand<R>(late + i * W, load<R>(now.work + i * L), l.U - p * L);
    }
  }

  // The late product, and the new state.
  void finish_late(I t) const {
    const I blocks = blocks_of(rows.running[t], kRowBlock);
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(1, p, own.last);
      for (I b = 0; b < blocks; ++b) {
        const Span some = share(rows.running[t], b, blocks);
        S* z = tile_at(t, p, some.first);
        const I z_panel = tile_panel_stride(some.size());
        const Product<R> product = {memory.late + some.first * W, rows.count * W, W, 1, l.h_depth,
                                    l.late + p * l.h_depth * L, together * L, l.ahead};
        multiply(product, some.size(), together, z, c.cols * L, z_panel);
        for (I q = 0; q < together; ++q) {
          Tile<Real> now = tile_of(t, p + q, some.first, some.size(), z + q * z_panel);
          l.cell.forward(l.functions, now);
          finish(t, p + q, some.first, some.size());
        }
      }
      p += together;
    }
  }

  // This member's share of the inputs of the chunk that begins at t.
  void pack_chunk(I t) const {
    if (t >= l.T) return;
    if (l.chunk == 1) return pack_inputs(l, rows, t, share(rows.running[t], member, members), x_of(t));
    const Span times = share(t + l.chunk < l.T ? l.chunk : l.T - t, member, members);
    for (I i = times.first; i < times.last; ++i) pack_inputs(l, rows, t + i, {0, rows.running[t + i]}, x_of(t));
  }

  // Before timestep t: what's done for many at once.
  void begin_chunk(I t) const {
    if (t % l.chunk != 0) return;
    if (l.chunk > 1) project_chunk(t);
    pack_chunk(t + l.chunk);
  }

  // The states before timestep t, where a window begins there; as timestep t takes them, after resets.
  void keep_checkpoint(I t) const {
    if (l.window == 0 || t % l.window != 0) return;
    for_checkpoint(t, [&](const S* state, S* checkpoint) { store<R>(checkpoint, load<R>(state)); });
  }

  template <class F>
  void for_checkpoint(I t, F f) const {
    for (I p = own.first; p < own.last; ++p) {
      const Span some = own.of(p, {0, rows.running[t]});
      for (I s = 0; s < c.states; ++s) {
        for (I r = some.first; r < some.last; ++r) {
          f(state(s, t, p) + r * L, l.checkpoint(t, s, p, rows.first + r));
        }
      }
    }
  }

  void run() const {
    write_unstarted();
    I running = l.T > 0 ? rows.running[0] : 0;
    enter(0, 0, running);
    if (l.T > 0) reset(0);
    pack_chunk(0);
    wait();
    for (I t = 0; t < l.T; ++t) {
      keep_checkpoint(t);
      run_step(t);
      const I next = t + 1 < l.T ? rows.running[t + 1] : 0;
      if (next < running) leave(t + 1, next, running);
      if (next > running) enter(t + 1, running, next);
      running = next;
      if (t + 1 < l.T) reset(t + 1);
      wait();
    }
  }

  void run_step(I t) const {
    begin_chunk(t);
    if (l.schedule.holes) read_mask(l, rows, t, valid, shown);
    step(t);
  }

  // Timesteps [first, last) of a window once more, from its checkpoint: what the backward pass reads of them
  // is there after it, the same to the bit. Results have been written, and aren't again.
  void run_again(I first, I last) const {
    for_checkpoint(first, [&](S* state, const S* checkpoint) { store<R>(state, load<R>(checkpoint)); });
    I running = rows.running[first];
    for (I p = own.first; p < own.last; ++p) {
      const Span some = own.of(p, {0, running});
      hand_on(first, p, some.first, some.last);
    }
    pack_chunk(first);
    wait();
    for (I t = first; t < last; ++t) {
      run_step(t);
      const I next = t + 1 < last ? rows.running[t + 1] : 0;
      if (next > running) enter(t + 1, running, next);
      running = next;
      if (t + 1 < last) reset(t + 1);
      wait();
    }
  }
};
