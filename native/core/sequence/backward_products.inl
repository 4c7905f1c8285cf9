// The backward pass's products: of the preactivations' gradients with the weights, which pull them to the
// states and the inputs.

template <class R>
struct BackwardProducts : BackwardPlaces<R>, BackScratch<R> {
  typedef BackwardPlaces<R> Places;
  typedef BackScratch<R> Scratch;
  typedef typename R::S S;
  typedef typename R::Element Element;
  static constexpr I L = R::kLanes, W = R::kWords;

  using Places::c, Places::d_state, Places::d_z_units, Places::l, Places::own, Places::own_d;
  using Places::panel_size, Places::recurrent_mask, Places::row_of, Places::rows, Places::spec;
  using Scratch::tile, Scratch::value;

  BackwardProducts(const BackLayer<R>& layer, I group, I member, I members)
      : Places(layer, group, member, members),
        Scratch(this->memory.private_ + member * this->memory.private_size, rows.count) {}

  Product<R> product_with_d_z(I slot, I r, I first, I cols, const S* b, I ldb) const {
    return {d_z_units(slot, 0, r) + first * W, c.cols * rows.count * W, cols * W, c.cols,
            l.panels * cols * W, b, ldb, l.ahead};
  }

  // The same for one of `cols` columns alone, for a dropout mask of its own.
  Product<R> product_with_gate(I slot, I r, I first, I cols, I column, const S* b, I ldb) const {
    Product<R> product = product_with_d_z(slot, r, first + column, 1, b + column * W * ldb, ldb);
    product.b_skip = (cols - 1) * W * ldb;
    return product;
  }

  // d_state += dz U'
  void pull_state(I t, I slot) const {
    const I blocks = blocks_of(rows.running[t], kRowBlock), k = l.panels * c.h_cols * W;
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(1, p, own.last), ldb = together * L;
      const S* b = l.recurrent_t + p * k * L;
      for (I i = 0; i < blocks; ++i) {
        const Span some = share(rows.running[t], i, blocks);
        S* to = d_state(0, p) + some.first * L;
        if (spec.recurrent_masks == 0) {
          multiply(product_with_d_z(slot, some.first, c.h_first, c.h_cols, b, ldb), some.size(),
                   together, to, L, panel_size());
          continue;
        }
        for (I column = 0; column < c.h_cols; ++column) {
          const I size = some.size() * L;
          fill_zero(tile, together * size);
          multiply(product_with_gate(slot, some.first, c.h_first, c.h_cols, column, b, ldb),
                   some.size(), together, tile, L, size);
          for (I q = 0; q < together; ++q) {
            const S* mask = recurrent_mask(c.gate_of_h[column], p + q) + some.first * L;
            add_product(to + q * panel_size(), tile + q * size, mask, some.size());
          }
        }
      }
      p += together;
    }
  }

  void add_product(S* to, const S* a, const S* b, I count) const {
    for (I r = 0; r < count * L; r += L) {
      store<R>(to + r, load<R>(to + r) + load<R>(a + r) * load<R>(b + r));
    }
  }

  // dx = dz W'
  void pull_inputs(I t, I slot) const {
    if (!spec.wants_dx) return;
    const I running = rows.running[t], blocks = blocks_of(running, kRowBlock);
    const I k = l.panels * c.x_cols * W;
    for (I p = own_d.first; p < own_d.last;) {
      const I together = panels_together(1, p, own_d.last), ldb = together * L;
      const S* b = l.kernel_t + p * k * L;
      for (I i = 0; i < blocks; ++i) {
        const Span some = share(running, i, blocks);
        const I size = some.size() * L;
        fill_zero(tile, together * size);
        if (spec.input_masks <= 1) {
          multiply(product_with_d_z(slot, some.first, 0, c.x_cols, b, ldb), some.size(), together,
                   tile, L, size);
          if (spec.input_masks) mask_d_inputs(p, together, some, 0, tile, tile);
        } else {
          pull_inputs_by_gate(slot, p, together, some, b);
        }
        store_d_inputs(t, p, together, some);
      }
      p += together;
    }
    zero_d_inputs(t, running);
  }

  const S* input_mask(I mask, I block, I r) const {
    return l.input_masks + ((mask * l.d_blocks + block) * l.B + rows.first + r) * L;
  }

  void mask_d_inputs(I p, I together, Span some, I mask, const S* from, S* to) const {
    const I size = some.size() * L;
    for (I q = 0; q < together; ++q) {
      const S* m = input_mask(mask, p + q, some.first);
      for (I r = 0; r < size; r += L) {
        store<R>(to + q * size + r, load<R>(from + q * size + r) * load<R>(m + r));
      }
    }
  }

  void pull_inputs_by_gate(I slot, I p, I together, Span some, const S* b) const {
    const I size = some.size() * L;
    S* part = value;  // as large as a tile, and free by now
    for (I column = 0; column < c.x_cols; ++column) {
      fill_zero(part, together * size);
      multiply(product_with_gate(slot, some.first, 0, c.x_cols, column, b, together * L),
               some.size(), together, part, L, size);
      for (I q = 0; q < together; ++q) {
        add_product(tile + q * size, part + q * size,
                    input_mask(c.gate_of_x[column], p + q, some.first), some.size());
      }
    }
  }

  Element* d_input(I row, I t) const {
    return static_cast<Element*>(l.run->dx) + (row * l.T + l.time_of(t)) * l.D;
  }

  void store_d_inputs(I t, I p, I together, Span some) const {
    for (I r = 0; r < some.size(); ++r) {
      Element* to = d_input(row_of(some.first + r), t);
      for (I q = 0; q < together; ++q) {
        const I d = (p + q) * L;
        write<R>(to + d, load<R>(tile + (q * some.size() + r) * L), l.D - d);
      }
    }
  }

  // Rows that don't run at t.
  void zero_d_inputs(I t, I running) const {
    const I first = own_d.first * L, last = own_d.last * L < l.D ? own_d.last * L : l.D;
    for (I r = running; r < rows.count && first < last; ++r) {
      fill_zero(d_input(row_of(r), t) + first, last - first);
    }
  }
};
