// The forward pass's products: of the inputs and of the state with their weights, into tiles.

template <class R>
struct ForwardProducts : ForwardPlaces<R> {
  typedef ForwardPlaces<R> Places;
  typedef typename R::S S;
  typedef typename R::V V;
  static constexpr I L = R::kLanes, W = R::kWords;

  using Places::Places;
  using Places::c, Places::l, Places::operand, Places::operand_stride, Places::own, Places::rows;
  using Places::state_operand, Places::tile_at, Places::tile_panel_stride, Places::x_block, Places::x_of;

  // The tiles of `together` panels from p on: bias and the product with `count` rows of inputs.
  void project_inputs(const S* x, I p, I together, I count, S* z, I ldz, I z_panel) const {
    const I cols = c.cols;
    for (I q = 0; q < together; ++q) {
      const S* bias = l.bias + (p + q) * cols * L;
      for (I column = 0; column < cols; ++column) {
        const V value = load<R>(bias + column * L);
        S* to = z + q * z_panel + column * L;
        for (I i = 0; i < count; ++i) store<R>(to + i * ldz, value);
      }
    }
    const I ldb = together * c.x_cols * L;
    const S* w = l.kernel + p * l.x_depth * c.x_cols * L;
    Product<R> product = {x, x_block(), W, 1, l.x_depth, w, ldb, l.ahead};
    if (l.run->spec.input_masks <= 1) {
      multiply(product, count, together * c.x_cols, z, ldz, cols > 1 ? L : z_panel);
      return;
    }
    for (I column = 0; column < c.x_cols; ++column) {
      product.a = x + c.gate_of_x[column] * l.d_blocks * x_block();
      product.b = w + column * L;
      multiply(product, count, 1, z + column * L, ldz, L);
    }
  }

  // The same of this member's panels for the chunk that begins at t: each row's timesteps at once.
  void project_chunk(I t) const {
    const I end = t + l.chunk < l.T ? t + l.chunk : l.T;
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(c.cols, p, own.last);
      const Span some = own.of(p, {0, rows.count});
      for (I r = some.first; r < some.last; ++r) {
        I first = t, last = end;  // rows begin or end once
        while (first < last && rows.running[first] <= r) ++first;
        while (last > first && rows.running[last - 1] <= r) --last;
        if (first == last) continue;
        const S* x = x_of(t) + (r * l.chunk + first - t) * W;
        const I z_panel = tile_panel_stride(rows.count);
        project_inputs(x, p, together, last - first, tile_at(first, p, r), z_panel * l.panels, z_panel);
      }
      p += together;
    }
  }

  // The same for the state's product.
  void project_state(I t, I p, I together, I r, I count, S* z, I z_panel) const {
    const I cols = c.cols;
    const S* u = l.recurrent + p * l.h_depth * c.h_cols * L;
    Product<R> product = {state_operand(t) + r * W, operand_stride(), W, 1, l.h_depth, u,
                          together * c.h_cols * L, l.ahead};
    if (rows.count == 1 && product.a_block == W) product.block = l.h_depth;  // dense: one loop, not many
    z += c.h_first * L;
    if (l.run->spec.recurrent_masks == 0) {
      multiply(product, count, together * c.h_cols, z, cols * L, cols > 1 ? L : z_panel);
      return;
    }
    product.a_block = rows.count * W;
    for (I column = 0; column < c.h_cols; ++column) {
      product.a = operand(c.gate_of_h[column], t, 0) + r * W;
      product.b = u + column * L;
      multiply(product, count, cols > 1 ? 1 : together, z + column * L, cols * L, z_panel);
    }
  }

  // Both at once.
  void project_both(I t, I p, I together, I r, I count, S* z, I z_panel) const {
    const Pair<R> pair = {x_of(t) + r * W,
                          l.kernel + p * l.x_depth * c.x_cols * L,
                          state_operand(t) + r * W,
                          l.recurrent + p * l.h_depth * c.h_cols * L,
                          l.bias + p * c.cols * L,
                          x_block(),
                          operand_stride(),
                          l.x_depth,
                          l.h_depth};
    l.cell.project(pair, count, together, z, z_panel);
  }
};
