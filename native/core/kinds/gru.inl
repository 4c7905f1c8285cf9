// gru (with reset_after): n = act(n + r u), h' = z h + (1 - z) n; the columns are [n z r u], where n
// is the inputs' part of the candidate and u that of the state.

// h' into its place.
template <class R>
OSTINATO_INLINE void gru_blend(Tile<R>& t, const typename R::S* update,
                               const typename R::S* candidate) {
  constexpr I L = R::kLanes;
  for (I r = 0; r < t.rows; ++r) {
    const typename R::V n = load<R>(candidate + r * t.stride);
    const typename R::V h = load<R>(t.old_state[0] + r * L);
    store<R>(t.new_state[0] + r * L, n + load<R>(update + r * t.stride) * (h - n));
  }
}

struct gru {
  static constexpr CellLayout layout = {"gru", 3, 1, 2, true, 4, 3, 1, 3, {2, 0, 1}, {0, 1, 2}};

  template <class R>
  static void forward(const Functions<R>& f, Tile<R>& t) {
    typedef typename R::S S;
    constexpr I L = R::kLanes;
    S* update = activate(f.gate, f.keeps_gate_inputs, t, 1, 2);
    for (I r = 0; r < t.rows; ++r) {
      S* z = t.z + r * t.stride;
      store<R>(z, load<R>(z) + load<R>(update + r * t.stride + L) * load<R>(z + 3 * L));
    }
    gru_blend(t, update, activate(f.activation, f.keeps_inputs, t, 0, 1));
  }

  template <class R>
  static void backward(const Functions<R>& f, BackTile<R>& t) {
    typedef typename R::S S;
    typedef typename R::V V;
    constexpr I L = R::kLanes;
    const S* candidate = recall(f.activation, t, 0);
    const S* update = recall(f.gate, t, 1);
    const S* reset = recall(f.gate, t, 2);
    for (I r = 0; r < t.rows; ++r) {
      const I at = r * t.stride, own = r * L;
      const S* slope = t.slope + at;
      S* d_z = t.d_z + at;
      const V dh = load<R>(t.d_new[0] + own), z = load<R>(update + at), n = load<R>(candidate + at);
      const V dn = (dh - dh * z) * load<R>(slope);
      store<R>(d_z, dn);
      store<R>(d_z + L, dh * (load<R>(t.old_state[0] + own) - n) * load<R>(slope + L));
      store<R>(d_z + 2 * L, dn * load<R>(t.kept + at + 3 * L) * load<R>(slope + 2 * L));
      store<R>(d_z + 3 * L, dn * load<R>(reset + at));
      store<R>(t.d_old[0] + own, dh * z);
    }
  }
};
