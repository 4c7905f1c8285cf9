// The pointwise stage: the seam between the products and a cell's own arithmetic.
//
// Forward: a tile of one panel's preactivations in L1, and the panel's states, go in; new states
// come out, and the tile holds what the backward pass needs. Backward: the gradients of the new
// states go in; those of the preactivations, and of the old states where they don't pass through a
// product, come out. Masks, dropout, where rows come from and where results go aren't known here.

// A tile of one panel: `rows` rows, `stride` apart, a column a vector. Column c is at c * L.
template <class R>
struct Tile {
  typedef typename R::S S;
  I rows, stride;
  // Preactivations in, replaced by activated values; or, where an activation's slope needs its
  // input, kept as they are, and the activated values go to `spare`, laid out alike.
  S* z;
  S* spare;
  const S* old_state[2];  // (rows, L) each
  S* new_state[2];
  S* work;  // (rows, L)
};

template <class R>
struct BackTile {
  typedef typename R::S S;
  I rows, stride;
  const S* kept;  // what the forward tile's z was left as
  const S* old_state[2];
  const S* new_state[2];
  const S* d_new[2];  // gradients of the new states, (rows, L)
  S* d_z;             // of the preactivations, laid out like the tile
  S* d_old[2];        // of the old states; may be d_new
  S* value;           // scratch laid out like the tile
  S* slope;           // likewise
  S* work;            // (2, rows, L)
};

template <class R>
struct Functions {
  Activation<R> activation, gate;
  bool keeps_inputs;  // of the activation
  bool keeps_gate_inputs;
};

template <class R>
OSTINATO_INLINE typename R::S* activate(const Activation<R>& f, bool keeps, Tile<R>& t, I column,
                                        I width) {
  typename R::S* out = (keeps ? t.spare : t.z) + column * R::kLanes;
  f.apply(t.z + column * R::kLanes, out, t.rows, t.stride, width);
  return out;
}

// The value of a kept column, with its slope in t.slope.
template <class R>
OSTINATO_INLINE const typename R::S* recall(const Activation<R>& f, BackTile<R>& t, I column) {
  const I at = column * R::kLanes;
  f.recall(t.kept + at, t.value + at, t.slope + at, t.rows, t.stride);
  return (f.needs_input ? t.value : t.kept) + at;
}

// --- simple_rnn: h' = act(a) ----------------------------------------------------------------------

template <class R>
void simple_forward(const Functions<R>& f, Tile<R>& t) {
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  S* a = activate(f.activation, f.keeps_inputs, t, 0, 1);
  for (I r = 0; r < t.rows; ++r) store<R>(t.new_state[0] + r * L, load<R>(a + r * t.stride));
}

template <class R>
void simple_backward(const Functions<R>& f, BackTile<R>& t) {
  constexpr I L = R::kLanes;
  if (f.activation.needs_input) {
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

// --- lstm: c' = f c + i g, h' = o act(c') ---------------------------------------------------------

template <class R>
void lstm_forward(const Functions<R>& f, Tile<R>& t) {
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
void lstm_backward(const Functions<R>& f, BackTile<R>& t) {
  typedef typename R::S S;
  typedef typename R::V V;
  constexpr I L = R::kLanes;
  const S* input = recall(f.gate, t, 0);
  const S* forget = recall(f.gate, t, 1);
  const S* candidate = recall(f.activation, t, 2);
  const S* output = recall(f.gate, t, 3);
  S *shown = t.work, *slope_of_shown = t.work + t.rows * L;
  f.activation.both(t.new_state[1], shown, slope_of_shown, t.rows);
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

// --- gru: n = act(n + r u), h' = z h + (1 - z) n; u is the state's part of the candidate ----------

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

template <class R>
void gru_forward(const Functions<R>& f, Tile<R>& t) {
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
void gru_backward(const Functions<R>& f, BackTile<R>& t) {
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

// --- gru_reset_before: n = act(n + (r h) U), in two stages ----------------------------------------

// The gates, and r h into `work`; `h` may be dropped-out.
template <class R>
void gru_before_gates(const Functions<R>& f, Tile<R>& t, const typename R::S* h) {
  constexpr I L = R::kLanes;
  const typename R::S* update = activate(f.gate, f.keeps_gate_inputs, t, 1, 2);
  for (I r = 0; r < t.rows; ++r) {
    store<R>(t.work + r * L, load<R>(update + r * t.stride + L) * load<R>(h + r * L));
  }
}

template <class R>
void gru_before_forward(const Functions<R>& f, Tile<R>& t) {
  // Where `spare` was needed it has served other panels since.
  const typename R::S* update =
      f.keeps_gate_inputs ? activate(f.gate, true, t, 1, 1) : t.z + R::kLanes;
  gru_blend(t, update, activate(f.activation, f.keeps_inputs, t, 0, 1));
}

// Gradients of n and z; r's column is left for the next stage.
template <class R>
void gru_before_backward(const Functions<R>& f, BackTile<R>& t) {
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

// Given the gradient of r h: that of r into its column, and h's share of it added to d_old. `h` and
// `drop` (null without dropout) are as in the forward pass.
template <class R>
void gru_before_backward_reset(const Functions<R>& f, BackTile<R>& t, const typename R::S* d_product,
                               const typename R::S* h, const typename R::S* drop) {
  typedef typename R::V V;
  constexpr I L = R::kLanes;
  const typename R::S* reset = recall(f.gate, t, 2);
  for (I r = 0; r < t.rows; ++r) {
    const I at = r * t.stride, own = r * L;
    const V d = load<R>(d_product + own);
    store<R>(t.d_z + at + 2 * L, d * load<R>(h + own) * load<R>(t.slope + at + 2 * L));
    V dh = d * load<R>(reset + at);
    if (drop != nullptr) dh = dh * load<R>(drop + own);
    store<R>(t.d_old[0] + own, load<R>(t.d_old[0] + own) + dh);
  }
}
