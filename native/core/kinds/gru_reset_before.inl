// gru_reset_before: n = act(n + (r h) U), h' = z h + (1 - z) n; the columns are [n z r]. The product
// with r h comes late.

struct gru_reset_before {
  static constexpr CellLayout layout = {
      "gru_reset_before", 3, 1, 1, true, 3, 3, 1, 2, {2, 0, 1}, {0, 1}, 2, 1};

  // The gates, and r h into `work`.
  template <class R>
  static void gates(const Functions<R>& f, Tile<R>& t, const typename R::S* h) {
    constexpr I L = R::kLanes;
    const typename R::S* update = activate(f.gate, f.keeps_gate_inputs, t, 1, 2);
    for (I r = 0; r < t.rows; ++r) {
      store<R>(t.work + r * L, load<R>(update + r * t.stride + L) * load<R>(h + r * L));
    }
  }

  template <class R>
  static void forward(const Functions<R>& f, Tile<R>& t) {
    // Where `spare` was needed it has served other panels since.
    const typename R::S* update =
        f.keeps_gate_inputs ? activate(f.gate, true, t, 1, 1) : t.z + R::kLanes;
    gru_blend(t, update, activate(f.activation, f.keeps_inputs, t, 0, 1));
  }

  // The gradients of n and z.
  template <class R>
  static void backward(const Functions<R>& f, BackTile<R>& t) {
    typedef typename R::S S;
    typedef typename R::V V;
    constexpr I L = R::kLanes;
    const S* candidate = recall(f.activation, t, 0);
    const S* update = recall(f.gate, t, 1);
    for (I r = 0; r < t.rows; ++r) {
      const I at = r * t.stride, own = r * L;
      const V dh = load<R>(t.d_new[0] + own), z = load<R>(update + at), n = load<R>(candidate + at);
      store<R>(t.d_z + at, (dh - dh * z) * load<R>(t.slope + at));
      store<R>(t.d_z + at + L,
               dh * (load<R>(t.old_state[0] + own) - n) * load<R>(t.slope + at + L));
      store<R>(t.d_old[0] + own, dh * z);
    }
  }

  // That of r, h's share of r h, and r h again.
  template <class R>
  static void backward_gates(const Functions<R>& f, BackTile<R>& t, const LateTile<R>& late) {
    typedef typename R::V V;
    constexpr I L = R::kLanes;
    const typename R::S* reset = recall(f.gate, t, 2);
    for (I r = 0; r < t.rows; ++r) {
      const I at = r * t.stride, own = r * L;
      const V d = load<R>(late.d_value + own), h = load<R>(late.h + own), open = load<R>(reset + at);
      store<R>(t.d_z + at + 2 * L, d * h * load<R>(t.slope + at + 2 * L));
      V dh = d * open;
      if (late.mask != nullptr) dh = dh * load<R>(late.mask + own);
      store<R>(t.d_old[0] + own, load<R>(t.d_old[0] + own) + dh);
      store<R>(late.value + own, open * h);
    }
  }
};
