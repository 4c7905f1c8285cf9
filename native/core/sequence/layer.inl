// One run made ready: its schedule, its packed weights, its scratch memory.

constexpr I kRowBlock = 64;  // rows of a tile, so that it stays in L1 beside a piece of the weights

// Memory of one group of threads, (…, rows of the group, L) each.
template <class R>
struct GroupMemory {
  typedef typename R::S S;
  // Packed inputs of this chunk of timesteps and the next: [mask][block of D][row][timestep][kWords].
  S* x[2];
  S* states;     // inference: [t & 1][state][panel][row][L]
  S* operands;   // the state as its products take it: [t & 1][state_operands][panel][row][kWords]
  S* late;       // what takes the state's place in a late product, [panel][row][kWords]
  // Where a product comes late, or early for a chunk: tiles that aren't kept, [timestep of the chunk]
  // [panel][row][cols L].
  S* tiles;
  S* private_;   // (members, private_size): a member's own scratch
  I private_size;
};

template <class R>
struct Layer {
  typedef typename R::S S;
  typedef typename R::Element Element;
  static constexpr I L = R::kLanes;

  const Run* run;
  Cell<R> cell;
  CellLayout layout;
  I B, T, D, U, panels, d_blocks;
  I x_depth, h_depth;  // the words of D and U, which the products sum over
  Functions<typename R::Real> functions;
  Schedule schedule;
  I members;  // threads of a group, at most
  bool keeps_tiles;  // whether tiles lie in `kept`
  // What the backward pass reads, of all timesteps: `saved`. With checkpoints it's memory of the call's, and
  // has room for a window of timesteps alone; what lies there of timestep t is at t modulo that.
  S* kept;
  I window;      // timesteps of a window, a power of two; 0 without checkpoints
  I tile_times, tile_mask, state_times, state_mask;
  I chunk;           // timesteps whose inputs' product is done at once: see chunk_of
  bool pairs;        // whether both products of a tile are done at once
  bool ahead;        // whether weights are fetched ahead
  // packed: see packing.inl
  S *kernel, *recurrent, *late, *bias;
  S *input_masks, *recurrent_masks;
  GroupMemory<R>* memory;  // (groups,)

  const Element* x() const { return static_cast<const Element*>(run->x); }
  S* saved() const { return static_cast<S*>(run->saved); }

  I time_of(I t) const { return run->spec.go_backwards ? T - 1 - t : t; }
  I output_time(I t) const { return run->spec.flip_outputs ? T - 1 - t : t; }

  // Kept tiles, [t][panel][slot][cols L], and after them states, [state][t][panel][slot][L].
  S* kept_tile(I t, I panel, I slot) const {
    return kept + (((t & tile_mask) * panels + panel) * B + slot) * layout.cols * L;
  }
  I tiles_size() const { return keeps_tiles ? tile_times * panels * B * layout.cols * L : 0; }
  S* kept_state(I s, I t, I panel, I slot) const {
    const I time = s * state_times + (t & state_mask);
    return kept + tiles_size() + ((time * panels + panel) * B + slot) * L;
  }
  I kept_size() const { return tiles_size() + layout.states * state_times * panels * B * L; }

  // Where a window begins, the states alone lie in `saved`: [window][state][panel][slot][L].
  S* checkpoint(I t, I s, I panel, I slot) const {
    return saved() + (((t / window * layout.states + s) * panels + panel) * B + slot) * L;
  }
};

// Where what is kept lies, once all else of the layer is known; false where there's no memory.
template <class R>
bool place_kept(Layer<R>& l, Arena& arena) {
  l.window = l.run->spec.training ? l.run->spec.checkpoint : 0;
  l.tile_times = l.T, l.state_times = l.T + 1;
  l.tile_mask = l.state_mask = -1;
  l.kept = l.saved();
  if (l.window == 0) return true;
  if (l.window < l.T) {  // the states before a window and after it are both there
    l.tile_times = l.window, l.state_times = 2 * l.window;
    l.tile_mask = l.tile_times - 1, l.state_mask = l.state_times - 1;
  }
  l.kept = arena.take<typename R::S>(l.kept_size());
  return !arena.failed;
}

I l2_cache() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const I size = static_cast<I>(sysconf(_SC_LEVEL2_CACHE_SIZE));
#else
  static const I size = 0;
#endif
  return size > 0 ? size : I{1} << 20;
}

template <class R>
const CellLayout& layout_of_run(const Run& run) {
  return *kCells<R>[run.spec.kind].layout;
}

// Bytes of a run's weights, as the products read them.
template <class R>
I recurrent_weights_of(const Run& run) {
  return words_of<R>(run.U) * layout_of_run<R>(run).gates * run.U * static_cast<I>(sizeof(typename R::S));
}
template <class R>
I weights_of(const Run& run) {
  const I kernel = words_of<R>(run.D) * layout_of_run<R>(run).gates * run.U;
  return kernel * static_cast<I>(sizeof(typename R::S)) + recurrent_weights_of<R>(run);
}

// How many operands of products a state is made into: one a gate with recurrent dropout; else none is
// needed where products take the numbers as they are.
template <class R>
I state_operands(const RunSpec& spec) {
  return spec.recurrent_masks ? spec.recurrent_masks : R::kPairs ? 1 : 0;
}

// Whether both products of a tile are done in one pass: see Pair.
template <class R>
bool pairs_products(const Run& run) {
  const I x_depth = words_of<R>(run.D), h_depth = words_of<R>(run.U);
  const I weights = (x_depth + h_depth) * layout_of_run<R>(run).h_cols;
  return run.spec.input_masks <= 1 && run.spec.recurrent_masks == 0 && x_depth <= kPiece &&
         h_depth <= kPiece && weights <= 768;
}

// Rows so few that a timestep takes as long as its weights take from the L2 cache, some 115 GB/s on Zen 4
// (LSTM B1 U128: 2.1 us for 262 KB).
constexpr I kFewRows = 4;

// Bytes of recurrent weights that a thread must have to be worth a barrier a timestep: half a microsecond.
constexpr I kEachOfFew = 1 << 16;

// How many timesteps the inputs' product of a group's rows is done for at once: it doesn't wait for the
// states, and its weights come once for all of them. A power of two, as windows are.
I chunk_of(I rows, I T) {
  const I wanted = rows > kFewRows || rows == 0 ? 1 : rows == 3 ? 8 : 32 / rows;
  return T < 1 ? 1 : wanted < T ? wanted : T;
}

// What follows from the run's sizes and options alone.
template <class R>
void describe(const Run& run, Layer<R>& l) {
  l.run = &run;
  l.cell = kCells<R>[run.spec.kind];
  l.layout = *l.cell.layout;
  l.B = run.B, l.T = run.T, l.D = run.D, l.U = run.U;
  l.panels = blocks_of(run.U, R::kLanes);
  l.d_blocks = blocks_of(run.D, R::kLanes);
  l.x_depth = words_of<R>(run.D), l.h_depth = words_of<R>(run.U);
  typedef typename R::Real Real;
  l.functions.activation = activation_at<Real>(run.spec.activation);
  l.functions.gate = activation_at<Real>(l.layout.has_gates ? run.spec.recurrent_activation : 0);
  l.functions.keeps_inputs = run.spec.training && l.functions.activation.needs_input;
  l.functions.keeps_gate_inputs = run.spec.training && l.functions.gate.needs_input;
  l.pairs = pairs_products<R>(run);
  l.ahead = weights_of<R>(run) > 8 * l2_cache();
  // A state that is reset says no more what an activation gave.
  const bool recalls = l.layout.has_gates || l.functions.activation.needs_input || run.spec.resets;
  l.keeps_tiles = run.spec.training && recalls;
}

// --- who does what --------------------------------------------------------------------------------

// Threads split the batch, each with the whole of the weights and without a barrier, while the
// weights fit the L2 cache and there are rows enough; else they split the units.
struct Split {
  I groups, members;
};

template <class R>
Split split_of(const Run& run, I threads) {
  const I weights = weights_of<R>(run);
  const double work = 2.0 * static_cast<double>(run.B * run.T) * static_cast<double>(weights) /
                      static_cast<double>(sizeof(typename R::S));  // of pairs, half of that
  // Below some 10 us of work a second thread costs more than it brings.
  if (threads <= 1 || work < 2e6) return {1, 1};
  const I panels = blocks_of(run.U, R::kLanes);
  const bool fits = weights < l2_cache() / 4 * 3;
  if (run.B <= kFewRows && run.B < 2 * threads) {
    const I most = panels < threads ? panels : threads, worth = recurrent_weights_of<R>(run) / kEachOfFew;
    if (worth > 1) return {1, !teams_meet() ? 1 : worth < most ? worth : most};
  }
  if (fits && run.B >= 4 * threads) return {threads, 1};
  // A barrier a timestep wants some microseconds of work between.
  if (fits && run.B >= 2 && work / static_cast<double>(run.T) < 1e6) {
    return {run.B < threads ? run.B : threads, 1};
  }
  if (panels >= 2 && work / static_cast<double>(run.T) > 2e5) {
    return {1, panels < threads ? panels : threads};
  }
  return {run.B < threads ? run.B : threads, 1};
}

// --- packing --------------------------------------------------------------------------------------

// Memory for the packed weights that the forward pass reads.
template <class R>
bool take_forward_weights(Layer<R>& l, Arena& arena) {
  constexpr I L = R::kLanes;
  const CellLayout& c = l.layout;
  l.kernel = arena.take<typename R::S>(l.panels * l.x_depth * c.x_cols * L);
  l.recurrent = arena.take<typename R::S>(l.panels * l.h_depth * c.h_cols * L);
  l.late = c.has_late() ? arena.take<typename R::S>(l.panels * l.h_depth * L) : nullptr;
  l.bias = arena.take<typename R::S>(l.panels * c.cols * L);
  return !arena.failed;
}

template <class R>
void pack_forward_weights(const Layer<R>& l, Span panels) {
  typedef typename R::Element Element;
  const CellLayout& c = l.layout;
  const Element* kernel = static_cast<const Element*>(l.run->kernel);
  const Element* recurrent = static_cast<const Element*>(l.run->recurrent_kernel);
  pack_weights<R>(kernel, l.D, l.U, c.gates, c.gate_of_x, c.x_cols, panels, l.kernel);
  pack_weights<R>(recurrent, l.U, l.U, c.gates, c.gate_of_h, c.h_cols, panels, l.recurrent);
  if (l.late != nullptr) {
    pack_weights<R>(recurrent, l.U, l.U, c.gates, &c.late_gate, 1, panels, l.late);
  }
  pack_bias<R>(static_cast<const Element*>(l.run->bias), c, l.U, panels, l.bias);
}

// Dropout masks by slot.
template <class R>
bool pack_dropout(Layer<R>& l, Arena& arena) {
  typedef typename R::S S;
  typedef typename R::Element Element;
  constexpr I L = R::kLanes;
  const RunSpec& spec = l.run->spec;
  l.input_masks = l.recurrent_masks = nullptr;
  if (spec.input_masks) {
    l.input_masks = arena.take<S>(spec.input_masks * l.d_blocks * l.B * L);
    if (arena.failed) return false;
    pack_masks<R>(static_cast<const Element*>(l.run->input_masks), spec.input_masks, l.B, l.D,
                  l.schedule.row_of, l.input_masks);
  }
  if (spec.recurrent_masks) {
    l.recurrent_masks = arena.take<S>(spec.recurrent_masks * l.panels * l.B * L);
    if (arena.failed) return false;
    pack_masks<R>(static_cast<const Element*>(l.run->recurrent_masks), spec.recurrent_masks, l.B, l.U,
                  l.schedule.row_of, l.recurrent_masks);
  }
  return true;
}

// One block of a row's inputs at a time in the callers' order, with a dropout mask on it.
template <class R>
OSTINATO_INLINE typename R::V input_of(const Layer<R>& l, const Rows& rows, I time, I r, I block, I m) {
  constexpr I L = R::kLanes;
  const I slot = rows.first + r;
  const typename R::Element* from = l.x() + (l.schedule.row_of[slot] * l.T + time) * l.D;
  const typename R::V value = read<R>(from + block * L, l.D - block * L);
  if (l.input_masks == nullptr) return value;
  return value * load<R>(l.input_masks + ((m * l.d_blocks + block) * l.B + slot) * L);
}

// The inputs of timestep t, rows [first, last) of the group, each mask's product apart, into those of
// their chunk: [mask][block of D][row of the group][timestep][kWords].
template <class R>
void pack_inputs(const Layer<R>& l, const Rows& rows, I t, Span some, typename R::S* out) {
  constexpr I L = R::kLanes, W = R::kWords;
  const I copies = l.run->spec.input_masks > 1 ? l.run->spec.input_masks : 1;
  const I time = l.time_of(t);
  for (I r = some.first; r < some.last; ++r) {
    for (I d = 0; d < l.d_blocks; ++d) {
      for (I m = 0; m < copies; ++m) {
        typename R::S* to = out + (((m * l.d_blocks + d) * rows.count + r) * l.chunk + t % l.chunk) * W;
        store_operand<R>(to, input_of(l, rows, time, r, d, m), l.D - d * L);
      }
    }
  }
}

// The same for products that sum over rows: [mask][block of D][row of the group, or two][L].
template <class R>
void pack_input_rows(const Layer<R>& l, const Rows& rows, I t, Span some, typename R::S* out) {
  constexpr I L = R::kLanes;
  const I copies = l.run->spec.input_masks > 1 ? l.run->spec.input_masks : 1;
  const I time = l.time_of(t);
  for (I m = 0; m < copies; ++m) {
    for (I d = 0; d < l.d_blocks; ++d, out += words_of<R>(rows.count) * L) {
      store_rows<R>(out, L, some.first, some.last,
                    [&](I r) { return input_of(l, rows, time, r, d, m); });
    }
  }
}

// For each running row at timestep t: all ones where it's valid, and where its output is shown.
template <class R>
void read_mask(const Layer<R>& l, const Rows& rows, I t, typename R::Int* valid,
               typename R::Int* shown) {
  const I time = l.time_of(t);
  for (I r = 0; r < rows.running[t]; ++r) {
    const I slot = rows.first + r;
    const bool is_valid = l.run->mask[l.schedule.row_of[slot] * l.T + time] != 0;
    const bool has_begun = l.schedule.shown == nullptr ? t >= l.schedule.begin[slot]
                                                       : l.schedule.shown[t * l.B + slot] != 0;
    valid[r] = is_valid ? -1 : 0;
    shown[r] = l.run->spec.zero_output_for_mask ? valid[r] : has_begun ? -1 : 0;
  }
}

template <class R>
OSTINATO_INLINE typename R::V choose(typename R::Int flag, typename R::V yes, typename R::V no) {
  const typename R::M all = splat_int<R>(flag);
  return (typename R::V)((all & (typename R::M)yes) | (~all & (typename R::M)no));
}
