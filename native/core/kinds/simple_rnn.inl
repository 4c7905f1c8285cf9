// simple_rnn: h' = act(a); the column is [a].

struct simple_rnn {
  static constexpr CellLayout layout = {"simple_rnn", 1, 1, 1, false, 1, 1, 0, 1, {0}, {0}};

  template <class R>
  static void forward(const Functions<R>& f, Tile<R>& t) {
    constexpr I L = R::kLanes;
    typename R::S* a = activate(f.activation, f.keeps_inputs, t, 0, 1);
    for (I r = 0; r < t.rows; ++r) store<R>(t.new_state[0] + r * L, load<R>(a + r * t.stride));
  }

  template <class R>
  static void backward(const Functions<R>& f, BackTile<R>& t) {
    constexpr I L = R::kLanes;
    if (f.activation.needs_input || t.is_reset) {
      recall(f.activation, t, 0);
    } else {  // nothing is kept but the state, which is the activated value
      f.activation.recall(t.new_state[0], t.value, t.slope, t.rows, L);
    }
    for (I r = 0; r < t.rows; ++r) {
      const typename R::V d = load<R>(t.d_new[0] + r * L);
      store<R>(t.d_z + r * L, d * load<R>(t.slope + r * L));
      store<R>(t.d_old[0] + r * L, typename R::V{});
    }
  }
};
