// One timestep of a cell, or of a dense layer, over N rows: products and pointwise stage.
//
// With one row a step reads all weights for two operations each, so that it goes at the speed of the
// cache they're in; what is done here is to keep its loads coming.

// acc += a w for one row, even and odd k apart: a chain of sums is 4 cycles a link, and 4 columns
// alone would wait for it. The row is dense, since [block][row][lane] of one row is.
template <class R, int NC, int FIRST, int N>
OSTINATO_INLINE void add_row(const typename R::S* a, I depth, const typename R::S* w,
                             typename R::V (&acc)[2][NC]) {
  constexpr int L = R::kLanes;
  I k = 0;
#pragma GCC unroll 2
  for (; k + 1 < depth; k += 2, w += 2 * N * L) {
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      const typename R::V left = splat<R>(a[k + odd]);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) acc[odd][FIRST + j] += left * load<R>(w + (odd * N + j) * L);
    }
  }
  if (k < depth) {
    const typename R::V left = splat<R>(a[k]);
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) acc[0][FIRST + j] += left * load<R>(w + j * L);
  }
}

// z = bias + x W + h U for the columns of one panel, or of up to four together; as Pair, whose
// template arguments these are.
template <class R, int NC, int XN, int H0, int HN>
void step_columns(const Pair<R>& p, I rows, typename R::S* z, I ldz, I z_column) {
  constexpr int L = R::kLanes;
  if (rows != 1 || p.x_block != L) return pair_columns<R, NC, XN, H0, HN>(p, rows, z, ldz, z_column);
  typename R::V acc[2][NC] = {};
  add_row<R, NC, 0, XN>(p.x, p.x_depth, p.w, acc);
  add_row<R, NC, H0, HN>(p.h, p.h_depth, p.u, acc);
#pragma GCC unroll 4
  for (int j = 0; j < NC; ++j) {
    store<R>(z + j * z_column, load<R>(p.bias + j * L) + (acc[0][j] + acc[1][j]));
  }
}

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
template <class R>
I step_parts(I weights, I N, I sets, bool hurried) {
  if (!hurried && 2 * weights * N < 8'000'000) return 1;
  const I room = l2_cache() / 4 * 3, bytes = weights * static_cast<I>(sizeof(typename R::S));
  const I by_cache = bytes / room + 1, by_work = 2 * weights * N / 2'000'000;
  I parts = by_cache > by_work ? by_cache : by_work;
  parts = parts < sets ? parts : sets;
  parts = parts < thread_count() ? parts : thread_count();
  return parts < 1 ? 1 : parts < SetShares<int>::kMost ? parts : SetShares<int>::kMost;
}

// Scratch of a thread: `work` and four columns of a block of rows.
constexpr I step_scratch(I lanes) { return 5 * kRowBlock * lanes; }

template <class R>
struct StepCell {
  typedef typename R::S S;
  typedef typename R::V V;
  static constexpr I L = R::kLanes;

  const Step& step;
  const I N;
  S* const scratch;
  const I kind;
  const Columns& c;
  const I U, panels;
  const Functions<R> functions;
  const bool backwards, hurried;

  // A dense layer is a simple_rnn without the state's product.
  StepCell(const Step& s, I rows, void* memory, bool from_the_end, bool in_a_hurry)
      : step(s), N(rows), scratch(static_cast<S*>(memory)),
        kind(s.op.code == step_cell ? s.op.kind : I{simple_rnn}), c(columns_of(kind)),
        U(s.op.width), panels(blocks_of(U, L)),
        functions{activation_at<R>(s.op.activation), activation_at<R>(s.op.recurrent_activation),
                  false, false},
        backwards(from_the_end),
        hurried(in_a_hurry) {}

  static const S* in(const void* p) { return static_cast<const S*>(p); }
  static S* to(void* p) { return static_cast<S*>(p); }
  S* state(I s) const { return to(step.state[s]); }
  S* next(I s) const { return to(step.next[s]); }
  I weights() const { return (step.D + (is_dense() ? 0 : U)) * c.gates * U; }
  bool is_dense() const { return step.op.code == step_dense; }

  void pack(const void* kernel, const void* recurrent, const void* bias) const {
    const Span all = {0, panels};
    pack_weights<R>(in(kernel), step.D, U, c.gates, c.gate_of_x, c.x_cols, all, to(step.kernel));
    if (recurrent != nullptr) {
      pack_weights<R>(in(recurrent), U, U, c.gates, c.gate_of_h, c.h_cols, all, to(step.recurrent));
      if (kind == gru_reset_before) {
        pack_weights<R>(in(recurrent), U, U, c.gates, kCandidateGate, 1, all, to(step.candidate));
      }
    }
    pack_bias<R>(in(bias), kind, U, all, to(step.bias));
  }

  // Preactivations of `together` panels from p on, rows [r, r + count), without the candidate's part
  // of the state where the gates come first.
  void products(I p, I together, I r, I count, S* z, I z_panel) const {
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
    switch (kind) {
      case lstm: return step_columns<R, 4, 4, 0, 4>(pair, count, z, 4 * L, L);
      case gru: return step_columns<R, 4, 3, 1, 3>(pair, count, z, 4 * L, L);
      case gru_reset_before: return step_columns<R, 3, 3, 1, 2>(pair, count, z, 3 * L, L);
      default: break;
    }
    switch (together) {
      case 4: return step_columns<R, 4, 4, 0, 4>(pair, count, z, L, z_panel);
      case 3: return step_columns<R, 3, 3, 0, 3>(pair, count, z, L, z_panel);
      case 2: return step_columns<R, 2, 2, 0, 2>(pair, count, z, L, z_panel);
      default: return step_columns<R, 1, 1, 0, 1>(pair, count, z, L, z_panel);
    }
  }

  Tile<R> tile_of(I p, I r, I count, S* z, S* work) const {
    const I at = (p * N + r) * L;
    Tile<R> t = {count, c.cols * L, z, nullptr, {}, {}, work};
    for (I s = 0; s < c.states; ++s) t.old_state[s] = state(s) + at, t.new_state[s] = next(s) + at;
    return t;
  }

  void finish_tile(Tile<R>& t) const {
    switch (kind) {
      case lstm: return lstm_forward(functions, t);
      case gru: return gru_forward(functions, t);
      case gru_reset_before: return gru_before_forward(functions, t);
      default: return simple_forward(functions, t);
    }
  }

  // f(set, number of the thread) for each set of panels.
  //
  // Every other timestep goes from the last to the first: of weights twice as large as the cache it
  // then finds half there, and else nothing (LSTM D256 U256 with 1 MB of L2: 18 us a step without,
  // 15 with).
  template <class F>
  void over_sets(I sets, const F& f) const {
    const I parts = step_parts<R>(weights(), N, sets, hurried);
    SetShares<F> shares = {f, sets, parts, backwards};
    if (parts == 1) shares.drain(0, 0);
    else parallel_for(static_cast<int>(parts), SetShares<F>::work, &shares);
  }

  void run() const {
    if (kind == gru_reset_before) {
      run_before();
    } else {
      const I most = c.cols > 1 ? 1 : 4;
      over_sets(blocks_of(panels, most), [&](I set, I thread) { run_panels(set * most, thread); });
    }
    if (!is_dense()) hand_on();
  }

  // The panels that are computed together, from p on.
  void run_panels(I p, I thread) const {
    S *work = scratch + thread * step_scratch(L), *tile = work + kRowBlock * L;
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
          finish_tile(t);
        }
      }
    }
  }

  // gru_reset_before: all gates, then the product of r h.
  void run_before() const {
    const I panel = N * L;
    S *reset = scratch, *tiles = scratch + panels * panel;
    over_sets(panels, [&](I p, I) {
      products(p, 1, 0, N, tiles + p * 3 * panel, 0);
      Tile<R> t = tile_of(p, 0, N, tiles + p * 3 * panel, reset + p * panel);
      gru_before_gates(functions, t, static_cast<const S*>(state(0)) + p * panel);
    });
    over_sets(blocks_of(panels, 4), [&](I set, I) {
      I p = set * 4;
      const I together = panels_together(1, p, panels);
      const Product<R> product = {reset, panel, L, 1, U, in(step.candidate) + p * U * L,
                                  together * L, false};
      multiply(product, N, together, tiles + p * 3 * panel, 3 * L, 3 * panel);
      for (I q = 0; q < together; ++q, ++p) {
        Tile<R> t = tile_of(p, 0, N, tiles + p * 3 * panel, nullptr);
        finish_tile(t);
      }
    });
  }

  // The new states take the old ones' places and the output goes out, in the rows that take part.
  void hand_on() const {
    const I all = panels * N * L;
    if (step.mask_in == nullptr) {
      for (I s = 0; s < c.states; ++s) __builtin_memcpy(state(s), next(s), sizeof(S) * all);
      __builtin_memcpy(step.out, next(0), sizeof(S) * all);
      return;
    }
    for (I r = 0; r < N; ++r) {
      const bool valid = step.mask_in[r] != 0;
      step.started[r] |= valid;
      const bool shown = valid || (step.started[r] && !step.op.zero_output_for_mask);
      for (I at = r * L; at < all; at += N * L) {
        for (I s = 0; valid && s < c.states; ++s) store<R>(state(s) + at, load<R>(next(s) + at));
        store<R>(to(step.out) + at, shown ? load<R>(state(0) + at) : V{});
      }
    }
  }
};
