// Panels: who has which, and their weights as the products read them.

I blocks_of(I n, I size) { return (n + size - 1) / size; }

// A share of [0, n) for the i-th of `count`.
struct Span {
  I first, last;
  I size() const { return last - first; }
};
Span share(I n, I i, I count) { return {n * i / count, n * (i + 1) / count}; }
Span share(Span all, I i, I count) {
  const Span some = share(all.size(), i, count);
  return {all.first + some.first, all.first + some.last};
}

// A share of n rows; where products take rows in pairs, none is parted.
template <class R>
Span share_rows(I n, I i, I count) {
  if constexpr (!R::kPairs) return share(n, i, count);
  const Span pairs = share(blocks_of(n, 2), i, count);
  return {pairs.first * 2, pairs.last * 2 < n ? pairs.last * 2 : n};
}

// Of none `p` may be null.
template <typename T>
void fill_zero(T* p, I n) {
  if (n > 0) __builtin_memset(p, 0, static_cast<size_t>(n) * sizeof(T));
}

// Panels that are computed together from `p` on: one where a panel has several columns, else up to
// four, so that a tile has four columns.
I panels_together(I cols, I p, I last) { return cols > 1 ? 1 : (last - p < 4 ? last - p : 4); }

// A panel of row k of the weights, and of the next where a word holds two.
template <class R>
OSTINATO_INLINE typename R::V read_words(const typename R::Element* w, I k, I k_total, I row, I n) {
  const typename R::V one = read<R>(w + k * row, n);
  if constexpr (!R::kPairs) return one;
  else return joined_rows(one, k + 1 < k_total ? read<R>(w + (k + 1) * row, n) : typename R::V{});
}

// Weights (k, gates * U) -> [panels together][words of k][columns] vectors, zeros in lanes beyond U. The
// part that begins with panel p is at p * words * cols * L.
template <class R>
void pack_weights(const typename R::Element* w, I k_total, I U, I gates, const I* gate_of, I cols,
                  Span panels, typename R::S* out) {
  constexpr I L = R::kLanes, kStep = R::kPairs ? 2 : 1;
  for (I p = panels.first; p < panels.last;) {
    const I together = panels_together(cols, p, panels.last);
    typename R::S* to = out + p * words_of<R>(k_total) * cols * L;
    for (I k = 0; k < k_total; k += kStep) {
      for (I q = p; q < p + together; ++q) {
        for (I c = 0; c < cols; ++c, to += L) {
          const I unit = q * L;
          store<R>(to, read_words<R>(w + gate_of[c] * U + unit, k, k_total, gates * U, U - unit));
        }
      }
    }
    p += together;
  }
}

// The transpose, for products with the gradient dz: weights (n, gates * U) -> for output panels of
// n, up to four together, [k][n] with k running over (panel, column, word) of dz. Zeros where the
// lane is beyond U or n.
template <class R>
void pack_transposed(const typename R::Element* w, I n_total, I U, I gates, const I* gate_of, I cols,
                     Span panels, typename R::S* out) {
  typedef typename R::S S;
  constexpr I L = R::kLanes, W = R::kWords;
  const I unit_panels = blocks_of(U, L), k_total = unit_panels * cols * W;
  for (I p = panels.first; p < panels.last;) {
    const I together = panels_together(1, p, panels.last);
    S* to = out + p * k_total * L;
    for (I u = 0; u < unit_panels; ++u) {
      const I lanes = U - u * L < L ? U - u * L : L;
      for (I c = 0; c < cols; ++c, to += W * together * L) {
        for (I q = 0; q < together; ++q) {
          const I n = (p + q) * L, most = n_total - n < L ? n_total - n : L;
          S block[L * W];
          for (I i = 0; i < L; ++i) {
            typename R::V row{};
            if (i < most) row = read<R>(w + ((n + i) * gates + gate_of[c]) * U + u * L, lanes);
            store_operand<R>(block + i * W, row, L);
          }
          for (I l = 0; l < W; ++l) {
            S* line = to + (l * together + q) * L;
            for (I i = 0; i < L; ++i) line[i] = block[i * W + l];
          }
        }
      }
    }
    p += together;
  }
}

// Adds up the packed gradients of the groups and lays them out as Keras's weights (k, gates * U).
template <class R>
void unpack_weights(const typename R::S* packed, I parts, I part_stride, I k_total, I U, I gates,
                    const I* gate_of, I cols, Span panels, typename R::Element* out) {
  constexpr I L = R::kLanes;
  for (I p = panels.first; p < panels.last;) {
    const I together = panels_together(cols, p, panels.last);
    const typename R::S* from = packed + p * k_total * cols * L;
    for (I k = 0; k < k_total; ++k) {
      for (I q = p; q < p + together; ++q) {
        for (I c = 0; c < cols; ++c, from += L) {
          typename R::V sum = load<R>(from);
          for (I i = 1; i < parts; ++i) sum += load<R>(from + i * part_stride);
          write<R>(out + (k * gates + gate_of[c]) * U + q * L, sum, U - q * L);
        }
      }
    }
    p += together;
  }
}

// A cell's bias as Keras has it, or null, by column.
template <class R>
void pack_bias(const typename R::Element* bias, const CellLayout& c, I U, Span panels,
               typename R::S* out) {
  typedef typename R::V V;
  constexpr I L = R::kLanes;
  for (I p = panels.first; p < panels.last; ++p) {
    const I unit = p * L, lanes = U - unit;
    for (I column = 0; column < c.cols; ++column) {
      V sum{};
      if (bias != nullptr && column < c.x_cols) {
        sum = read<R>(bias + c.gate_of_x[column] * U + unit, lanes);
      }
      if (bias != nullptr && c.bias_rows == 2 && column >= c.h_first) {
        const I gate = c.gates + c.gate_of_h[column - c.h_first];
        sum = sum + read<R>(bias + gate * U + unit, lanes);
      }
      store<R>(out + (p * c.cols + column) * L, sum);
    }
  }
}
