// lstm: c' = f c + i g, h' = o act(c'); the columns are [i f g o].

struct lstm {
  static constexpr CellLayout layout = {
      "lstm", 4, 2, 1, true, 4, 4, 0, 4, {0, 1, 2, 3}, {0, 1, 2, 3}};

  template <class R>
  static void forward(const Functions<R>& f, Tile<R>& t) {
    typedef typename R::S S;
    constexpr I L = R::kLanes;
    S* input = activate(f.gate, f.keeps_gate_inputs, t, 0, 2);
    S* candidate = activate(f.activation, f.keeps_inputs, t, 2, 1);
    S* output = activate(f.gate, f.keeps_gate_inputs, t, 3, 1);
    for (I r = 0; r < t.rows; ++r) {
      const I at = r * t.stride;
      store<R>(t.new_state[1] + r * L, load<R>(input + at + L) * load<R>(t.old_state[1] + r * L) +
                                           load<R>(input + at) * load<R>(candidate + at));
    }
    f.activation.apply(t.new_state[1], t.work, t.rows, L, 1);
    for (I r = 0; r < t.rows; ++r) {
      store<R>(t.new_state[0] + r * L, load<R>(output + r * t.stride) * load<R>(t.work + r * L));
    }
  }

  template <class R>
  static void backward(const Functions<R>& f, BackTile<R>& t) {
    typedef typename R::S S;
    typedef typename R::V V;
    constexpr I L = R::kLanes;
    const S* input = recall(f.gate, t, 0);
    const S* forget = recall(f.gate, t, 1);
    const S* candidate = recall(f.activation, t, 2);
    const S* output = recall(f.gate, t, 3);
    S *shown = t.work, *slope_of_shown = t.work + t.rows * L;
    for (I r = 0; t.is_reset && r < t.rows; ++r) {  // the carry again
      const I at = r * t.stride, own = r * L;
      store<R>(shown + own, load<R>(forget + at) * load<R>(t.old_state[1] + own) +
                                load<R>(input + at) * load<R>(candidate + at));
    }
    f.activation.both(t.is_reset ? shown : t.new_state[1], shown, slope_of_shown, t.rows);
    for (I r = 0; r < t.rows; ++r) {
      const I at = r * t.stride, own = r * L;
      const S* slope = t.slope + at;
      S* d_z = t.d_z + at;
      const V dh = load<R>(t.d_new[0] + own), o = load<R>(output + at);
      const V dc = load<R>(t.d_new[1] + own) + dh * o * load<R>(slope_of_shown + own);
      store<R>(d_z, dc * load<R>(candidate + at) * load<R>(slope));
      store<R>(d_z + L, dc * load<R>(t.old_state[1] + own) * load<R>(slope + L));
      store<R>(d_z + 2 * L, dc * load<R>(input + at) * load<R>(slope + 2 * L));
      store<R>(d_z + 3 * L, dh * load<R>(shown + own) * load<R>(slope + 3 * L));
      store<R>(t.d_old[0] + own, V{});
      store<R>(t.d_old[1] + own, dc * load<R>(forget + at));
    }
  }
};
