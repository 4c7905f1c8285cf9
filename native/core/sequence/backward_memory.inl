// Memory for the backward pass, and weights packed for it and unpacked after it.

// Timesteps of a ring that holds `depth` rows, or the nearest that it can.
I ring_of(I depth, I rows) {
  I ring = 2;
  while (ring < kMostRing && 2 * ring * rows <= depth) ring *= 2;
  return ring;
}

template <class R>
bool take_backward_memory(BackLayer<R>& l, Arena& arena) {
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  const RunSpec& spec = l.run->spec;
  const CellLayout& c = l.layout;
  const I k = l.panels * R::kWords;
  l.recurrent_t = arena.take<S>(l.panels * k * c.h_cols * L);
  l.kernel_t = spec.wants_dx ? arena.take<S>(l.d_blocks * k * c.x_cols * L) : nullptr;
  l.late_t = c.has_late() ? arena.take<S>(l.panels * k * L) : nullptr;
  l.back = arena.take<BackMemory<R>>(l.schedule.group_count);
  const I copies = spec.input_masks > 1 ? spec.input_masks : 1;
  // Rows times timesteps that the weights' gradients take in at once. Where these don't fit the L2
  // cache, each time costs a pass over all of them.
  const I depth = weights_of<R>(*l.run) < l2_cache() / 4 * 3 ? 128 : l.ahead ? 512 : 256;
  // Gradients of all groups side by side, so that unpacking adds them up by a stride.
  const I sizes[4] = {l.panels * l.D * c.x_cols * L, l.panels * l.U * c.h_cols * L,
                      l.panels * c.cols * L, c.has_late() ? l.panels * l.U * L : 0};
  S *gradients[4], *totals[4], *lost[4];
  const auto take = [&](I size) { return arena.take<S>(size * l.schedule.group_count); };
  for (int i = 0; i < 4; ++i) gradients[i] = take(sizes[i]), totals[i] = lost[i] = nullptr;
  if (l.T > ring_of(depth, l.B) * kPieceSums) {
    for (int i = 0; i < 4; ++i) totals[i] = take(sizes[i]), lost[i] = take(sizes[i]);
  }
  if (arena.failed) return false;
  for (I g = 0; g < l.schedule.group_count; ++g) {
    BackMemory<R>& m = l.back[g];
    const I count = l.schedule.groups[g].count, rows = words_of<R>(count);
    const I all = l.panels * rows * L;
    m.ring = ring_of(depth, count);
    m.piece = m.ring * kPieceSums;
    m.d_z = arena.take<S>(m.ring * all * c.cols);
    m.d_z_units = R::kPairs ? arena.take<S>(2 * l.panels * count * c.cols * R::kWords) : nullptr;
    m.x = arena.take<S>(m.ring * copies * l.d_blocks * rows * L);
    const I operands = state_operands<R>(spec);
    m.h = operands ? arena.take<S>(m.ring * operands * all) : nullptr;
    m.late = c.has_late() ? arena.take<S>(m.ring * all) : nullptr;
    for (I s = 0; s < c.states; ++s) {
      m.d_state[s] = arena.take<S>(l.panels * count * L);
      m.d_fresh[s] = spec.resets == to_fresh_states ? arena.take<S>(l.panels * count * L) : nullptr;
    }
    for (int i = 0; i < 4; ++i) {
      const bool has_pieces = l.T > m.piece;
      const auto part = [&](S* all, bool is_there) { return is_there ? all + g * sizes[i] : nullptr; };
      m.d_weights[i] = {part(gradients[i], sizes[i] > 0), part(totals[i], has_pieces),
                        part(lost[i], has_pieces)};
    }
    m.d_kernel = m.d_weights[0].piece, m.d_recurrent = m.d_weights[1].piece;
    m.d_bias = m.d_weights[2].piece, m.d_late = m.d_weights[3].piece;
    m.private_size = BackScratch<R>::size(count);
    m.private_ = arena.take<S>(l.members * m.private_size);
  }
  return !arena.failed;
}

// Packs panels of units and of inputs.
template <class R>
void pack_backward_weights(const BackLayer<R>& l, const Shares& shares) {
  typedef typename R::Element Element;
  const CellLayout& c = l.layout;
  const Span own = shares.units;
  const Element* recurrent = static_cast<const Element*>(l.run->recurrent_kernel);
  pack_transposed<R>(recurrent, l.U, l.U, c.gates, c.gate_of_h, c.h_cols, own, l.recurrent_t);
  if (l.late_t != nullptr) {
    pack_transposed<R>(recurrent, l.U, l.U, c.gates, &c.late_gate, 1, own, l.late_t);
  }
  if (l.kernel_t == nullptr) return;
  pack_transposed<R>(static_cast<const Element*>(l.run->kernel), l.D, l.U, c.gates, c.gate_of_x,
                     c.x_cols, shares.inputs, l.kernel_t);
}

template <class R>
void unpack_bias(const BackLayer<R>& l, Span panels, I parts, I part_stride) {
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  const CellLayout& c = l.layout;
  typename R::Element* out = static_cast<typename R::Element*>(l.run->d_bias);
  for (I p = panels.first; p < panels.last; ++p) {
    for (I column = 0; column < c.cols; ++column) {
      const S* from = l.back[0].d_bias + (p * c.cols + column) * L;
      typename R::V sum = load<R>(from);
      for (I i = 1; i < parts; ++i) sum += load<R>(from + i * part_stride);
      const I unit = p * L, lanes = l.U - unit;
      if (column < c.x_cols) write<R>(out + c.gate_of_x[column] * l.U + unit, sum, lanes);
      if (c.bias_rows == 2 && column >= c.h_first) {
        const I gate = c.gates + c.gate_of_h[column - c.h_first];
        write<R>(out + gate * l.U + unit, sum, lanes);
      }
    }
  }
}

// Lays out the weights' gradients of some panels as Keras's.
template <class R>
void unpack_gradients(const BackLayer<R>& l, const Shares& shares) {
  typedef typename R::Element Element;
  constexpr I L = R::kLanes;
  const CellLayout& c = l.layout;
  const Span own = shares.units;
  const I parts = l.schedule.group_count;
  const BackMemory<R>& m = l.back[0];
  Element* d_recurrent = static_cast<Element*>(l.run->d_recurrent_kernel);
  unpack_weights<R>(m.d_kernel, parts, l.panels * l.D * c.x_cols * L, l.D, l.U, c.gates, c.gate_of_x,
                    c.x_cols, shares.kernel, static_cast<Element*>(l.run->d_kernel));
  unpack_weights<R>(m.d_recurrent, parts, l.panels * l.U * c.h_cols * L, l.U, l.U, c.gates,
                    c.gate_of_h, c.h_cols, own, d_recurrent);
  if (m.d_late != nullptr) {
    unpack_weights<R>(m.d_late, parts, l.panels * l.U * L, l.U, l.U, c.gates, &c.late_gate, 1, own,
                      d_recurrent);
  }
  if (l.run->d_bias != nullptr) unpack_bias(l, own, parts, l.panels * c.cols * L);
}
