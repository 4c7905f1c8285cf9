// One timestep of a cell, or of a dense layer, over N rows: products and pointwise stage.
//
// With one row a step reads all weights for two operations each, so that it goes at the speed of the
// cache they're in; what is done here is to keep its loads coming.

// Threads that share the sets of panels of a step: each has its own sets, always the same ones, so that
// their weights stay in its core's cache, and then helps with the others'. A thread that is asleep is
// not waited for.
template <class F>
struct SetShares {
  static constexpr I kMost = 64;
  const F& f;
  I sets, parts;
  bool backwards;
  alignas(64) I taken[kMost] = {};  // of each part's sets

  static void work(void* context, int part) {
    SetShares& all = *static_cast<SetShares*>(context);
    for (I i = 0; i < all.parts; ++i) all.drain((part + i) % all.parts, part);
  }
  void drain(I of, I part) {
    const Span own = share(sets, of, parts);
    for (;;) {
      const I i = __atomic_fetch_add(&taken[of], I{1}, __ATOMIC_RELAXED);
      if (i >= own.size()) return;
      f(backwards ? own.last - 1 - i : own.first + i, part);
    }
  }
};

// How many threads a step's products are worth: by its weights, where they're more than a cache
// holds, and by its work. Waking a sleeping one costs 5 us or more (LSTM D256 U256, a step every 200
// us: 17 us alone, 26 with another), so that of small steps only those in a hurry, which come so
// close on one another that it stays awake, get any.
I step_parts(I weights, I each, I N, I sets, bool hurried) {
  if (!hurried && 2 * weights * N < 8'000'000) return 1;
  const I room = l2_cache() / 4 * 3, bytes = weights * each;
  const I by_cache = bytes / room + 1, by_work = 2 * weights * N / 2'000'000;
  I parts = by_cache > by_work ? by_cache : by_work;
  parts = parts < sets ? parts : sets;
  parts = parts < thread_count() ? parts : thread_count();
  return parts < 1 ? 1 : parts < SetShares<int>::kMost ? parts : SetShares<int>::kMost;
}

// Scratch of a thread: `work` and four columns of a block of rows.
constexpr I step_block(I N) { return N < kRowBlock ? N : kRowBlock; }
constexpr I step_scratch(I lanes, I N) { return 5 * step_block(N) * lanes; }

template <class R>
struct StepCell {
  typedef typename R::S S;
  typedef typename R::V V;
  static constexpr I L = R::kLanes;

  const Step& step;
  const I N;
  S* const scratch;
  const Cell<R>& cell;
  const CellLayout& c;
  const I U, panels;
  const Functions<R> functions;
  const bool backwards, hurried, alone;

  // A dense layer is a simple_rnn without the state's product.
  StepCell(const Step& s, I rows, void* memory, bool from_the_end, bool in_a_hurry, bool by_itself = false)
      : step(s), N(rows), scratch(static_cast<S*>(memory)),
        cell(kCells<R>[is_cell(s.op) ? s.op.kind : I{simple_rnn}]), c(*cell.layout),
        U(s.op.width), panels(blocks_of(U, L)),
        functions{activation_at<R>(s.op.activation), activation_at<R>(s.op.recurrent_activation),
                  false, false},
        backwards(from_the_end),
        hurried(in_a_hurry),
        alone(by_itself) {}

  static const S* in(const void* p) { return static_cast<const S*>(p); }
  static S* to(void* p) { return static_cast<S*>(p); }
  S* state(I s) const { return to(step.state[s]); }
  S* next(I s) const { return to(step.next[s]); }
  bool is_dense() const { return ostinato::is_dense(step.op); }
  Int8Step int8_step() const { return {step, c, N}; }

  // How many threads it's worth.
  I parts(I sets) const {
    if (alone) return 1;
    const I weights = (step.D + (is_dense() ? 0 : U)) * c.gates * U;
    const I each = has_int8(step.op) ? 1 : static_cast<I>(sizeof(S));
    return step_parts(weights, each, N, sets, hurried);
  }

  void pack(const void* kernel, const void* recurrent, const void* bias) const {
    const Span all = {0, panels};
    pack_weights<R>(in(kernel), step.D, U, c.gates, c.gate_of_x, c.x_cols, all, to(step.kernel));
    if (recurrent != nullptr) {
      pack_weights<R>(in(recurrent), U, U, c.gates, c.gate_of_h, c.h_cols, all, to(step.recurrent));
      if (c.has_late()) {
        pack_weights<R>(in(recurrent), U, U, c.gates, &c.late_gate, 1, all, to(step.late));
      }
    }
    pack_bias<R>(in(bias), c, U, all, to(step.bias));
  }

  // Preactivations of `together` panels from p on, rows [r, r + count), without the late product.
  void products(I p, I together, I r, I count, S* z, I z_panel) const {
    if constexpr (sizeof(S) == 4) {
      if (has_int8(step.op)) return int8_step().products(p, together, r, count, z, z_panel);
    }
    const I h_depth = is_dense() ? 0 : U;
    const Pair<R> pair = {in(step.first) + r * L,
                          in(step.kernel) + p * step.D * c.x_cols * L,
                          is_dense() ? nullptr : state(0) + r * L,
                          is_dense() ? nullptr : in(step.recurrent) + p * U * c.h_cols * L,
                          in(step.bias) + p * c.cols * L,
                          N * L,
                          N * L,
                          step.D,
                          h_depth};
    cell.project_few(pair, count, together, z, z_panel);
  }

  Tile<R> tile_of(I p, I r, I count, S* z, S* work) const {
    const I at = (p * N + r) * L;
    Tile<R> t = {count, c.cols * L, z, nullptr, {}, {}, work};
    for (I s = 0; s < c.states; ++s) t.old_state[s] = state(s) + at, t.new_state[s] = next(s) + at;
    return t;
  }

  // f(set, number of the thread) for each set of panels.
  //
  // Every other timestep goes from the last to the first: of weights twice as large as the cache it
  // then finds half there, and else nothing (LSTM D256 U256 with 1 MB of L2: 18 us a step without,
  // 15 with).
  template <class F>
  void over_sets(I sets, const F& f) const {
    const I count = parts(sets);
    SetShares<F> shares = {f, sets, count, backwards};
    if (count == 1) shares.drain(0, 0);
    else parallel_for(static_cast<int>(count), SetShares<F>::work, &shares);
  }

  void run() const {
    if constexpr (sizeof(S) == 4) {
      if (has_int8(step.op)) int8_step().read();
    }
    if (c.has_late()) {
      run_late();
    } else {
      const I most = c.cols > 1 ? 1 : 4;
      over_sets(blocks_of(panels, most), [&](I set, I thread) { run_panels(set * most, thread); });
    }
  }

  // The panels that are computed together, from p on.
  void run_panels(I p, I thread) const {
    S *work = scratch + thread * step_scratch(L, N), *tile = work + step_block(N) * L;
    const I together = panels_together(c.cols, p, panels);
    for (I r = 0; r < N; r += kRowBlock) {
      const I count = N - r < kRowBlock ? N - r : kRowBlock;
      products(p, together, r, count, tile, count * c.cols * L);
      for (I q = 0; q < together; ++q) {
        S* z = tile + q * count * c.cols * L;
        if (is_dense()) {
          functions.activation.apply(z, to(step.out) + ((p + q) * N + r) * L, count, L, 1);
        } else {
          Tile<R> t = tile_of(p + q, r, count, z, work);
          cell.forward(functions, t);
        }
      }
    }
  }

  // Of cells with a late product, scratch holds what it's of, and then the gates.
  S* late_of(I p) const { return scratch + p * N * L; }
  S* gates_of(I p) const { return scratch + (panels + p * c.cols) * N * L; }

  // All gates, then the late product.
  void run_late() const {
    over_sets(panels, [&](I p, I) { run_gates(p); });
    if constexpr (sizeof(S) == 4) {
      if (has_int8(step.op)) int8_step().read_late(late_of(0));
    }
    over_sets(blocks_of(panels, 4), [&](I set, I) { run_late_panels(set * 4); });
  }

  void run_gates(I p) const {
    products(p, 1, 0, N, gates_of(p), 0);
    Tile<R> t = tile_of(p, 0, N, gates_of(p), late_of(p));
    cell.gates(functions, t, static_cast<const S*>(state(0)) + p * N * L);
  }

  // The panels that are computed together, from p on.
  void run_late_panels(I p) const {
    const I together = panels_together(1, p, panels);
    late_product(late_of(0), p, together, gates_of(p));
    for (I q = p; q < p + together; ++q) {
      Tile<R> t = tile_of(q, 0, N, gates_of(q), nullptr);
      cell.forward(functions, t);
    }
  }

  // Added to the first columns of `together` panels from p on.
  void late_product(const S* late, I p, I together, S* z) const {
    if constexpr (sizeof(S) == 4) {
      if (has_int8(step.op)) return int8_step().late_product(p, together, z);
    }
    const I panel = N * L;
    const Product<R> product = {late, panel, L, 1, U, in(step.late) + p * U * L, together * L, false};
    multiply(product, N, together, z, c.cols * L, c.cols * panel);
  }

  // The new states take the old ones' places and the output goes out, in the rows that take part. `s` is
  // `step`, whose pointers trade places; nothing else here changes it.
  void hand_on(Step& s) const {
    const I all = panels * N * L;
    if (step.mask_in == nullptr) {
      for (I i = 0; i < c.states; ++i) {
        void* const old = s.state[i];
        s.state[i] = s.next[i], s.next[i] = old;
      }
      __builtin_memcpy(step.out, state(0), sizeof(S) * all);
      return;
    }
    for (I r = 0; r < N; ++r) {
      const bool valid = step.mask_in[r] != 0;
      step.started[r] |= valid;
      const bool shown = valid || (step.started[r] && !step.op.zero_output_for_mask);
      for (I at = r * L; at < all; at += N * L) {
        for (I i = 0; valid && i < c.states; ++i) store<R>(state(i) + at, load<R>(next(i) + at));
        store<R>(to(step.out) + at, shown ? load<R>(state(0) + at) : V{});
      }
    }
  }
};
