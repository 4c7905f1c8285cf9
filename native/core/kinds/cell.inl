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
  const S* new_state[2];  // where `is_reset`, what the next timestep begins with may lie there instead
  bool is_reset;
  const S* d_new[2];  // gradients of the new states, (rows, L)
  S* d_z;             // of the preactivations, laid out like the tile
  S* d_old[2];        // of the old states; may be d_new
  S* value;           // scratch laid out like the tile
  S* slope;           // likewise
  S* work;            // (2, rows, L)
};

// What a late product's gradient is pulled back from, (rows, L) each.
template <class R>
struct LateTile {
  typedef typename R::S S;
  const S* d_value;  // the gradient of what took the state's place
  const S* h;        // the state, with the late gate's dropout mask on it
  const S* mask;     // that mask; null without dropout
  S* value;          // for what took the state's place
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
