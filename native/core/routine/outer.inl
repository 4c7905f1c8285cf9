// Weights' gradients: sums of outer products over rows, of several timesteps in one pass, so that what
// is summed stays in registers for long.

// A timestep's operands, or those of one of its middle places: A(r, k) = a[r * a_row + k], likewise z.
template <class R>
struct RowPair {
  const typename R::S *a, *z;
  I a_row, z_row, rows;
};

// C(k, n) += sum of A(r, k) Z(r, n): MR values of k from `first` on, NC vectors of n from `column` on, of
// which the last has so many lanes.
template <class R, int MR, int NC>
void outer_rows(const RowPair<R>* pairs, I count, I first, I column, I lanes, typename R::S* c, I ldc) {
  typedef typename R::V V;
  constexpr int L = R::kLanes;
  V acc[MR][NC];
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) acc[m][j] = V{};
  }
  for (I s = 0; s < count; ++s) {
    const RowPair<R>& pair = pairs[s];
    const typename R::S *a = pair.a + first, *z = pair.z + column;
#pragma GCC unroll 2
    for (I r = 0; r < pair.rows; ++r, a += pair.a_row, z += pair.z_row) {
      V right[NC];
#pragma GCC unroll 4
      for (int j = 0; j < NC - 1; ++j) right[j] = load<R>(z + j * L);
      right[NC - 1] = load_part<R>(z + (NC - 1) * L, lanes);
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) {
        const V left = splat<R>(a[m]);
#pragma GCC unroll 4
        for (int j = 0; j < NC; ++j) acc[m][j] = add_term<R>(acc[m][j], left, right[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      typename R::S* to = c + (first + m) * ldc + column + j * L;
      const I some = j == NC - 1 ? lanes : L;
      store_part<R>(to, load_part<R>(to, some) + acc[m][j], some);
    }
  }
}

template <class R>
using OuterRows = void (*)(const RowPair<R>*, I, I, I, I, typename R::S*, I);

template <class R, int NC, int MR = tile_rows(NC)>
OuterRows<R> outer_rows_of(I rows) {
  if constexpr (MR == 1) {
    return outer_rows<R, 1, NC>;
  } else {
    return rows == MR ? outer_rows<R, MR, NC> : outer_rows_of<R, NC, MR - 1>(rows);
  }
}

template <class R, int NC>
void outer_panel(const RowPair<R>* pairs, I count, I depth, I column, I lanes, typename R::S* c, I ldc) {
  const I most = tile_rows(NC), tiles = (depth + most - 1) / most;
  for (I tile = 0, first = 0; tile < tiles; ++tile) {
    const I size = depth / tiles + (tile < depth % tiles);
    outer_rows_of<R, NC>(size)(pairs, count, first, column, lanes, c, ldc);
    first += size;
  }
}

// Of operands in pairs: rows two by two as words, for one panel and so many of the depth at a time.
template <class R, int NC>
struct OuterWords {
  static constexpr I L = R::kLanes, kMostPairs = 32, kWide = NC * L;
  alignas(64) typename R::S a[kMostPairs * kPiece], z[kMostPairs * kWide];
  I filled = 0;

  void add(const RowPair<R>* pairs, I count, I depth, I column, I lanes, typename R::S* c, I ldc) {
    for (I first = 0; first < depth; first += kPiece) {
      const I some = depth - first < kPiece ? depth - first : kPiece;
      typename R::S* to = c + first * ldc + column;
      for (I s = 0; s < count; ++s) {
        const RowPair<R>& pair = pairs[s];
        for (I r = 0; r < pair.rows; r += 2) {
          const bool is_last = r + 1 == pair.rows;
          take(pair.a + r * pair.a_row + first, is_last ? 0 : pair.a_row, some, a + filled * kPiece);
          take(pair.z + r * pair.z_row + column, is_last ? 0 : pair.z_row, kWide - L + lanes,
               z + filled * kWide);
          if (++filled == kMostPairs) flush(some, lanes, to, ldc);
        }
      }
      flush(some, lanes, to, ldc);
    }
  }

 private:
  // Of a row, and of the next one where it's `apart`, the first n numbers.
  static void take(const typename R::S* row, I apart, I n, typename R::S* to) {
    for (I k = 0; k < n; k += L) {
      const typename R::V one = load_part<R>(row + k, n - k);
      store<R>(to + k, joined_rows(one, apart ? load_part<R>(row + apart + k, n - k) : typename R::V{}));
    }
  }

  void flush(I depth, I lanes, typename R::S* to, I ldc) {
    if (filled == 0) return;
    const RowPair<R> words{a, z, kPiece, kWide, filled};
    outer_panel<R, NC>(&words, 1, depth, 0, lanes, to, ldc);
    filled = 0;
  }
};

template <class R, int NC>
void outer_numbers(const RowPair<R>* pairs, I count, I depth, I column, I lanes, typename R::S* c, I ldc) {
  if constexpr (R::kPairs) OuterWords<R, NC>{}.add(pairs, count, depth, column, lanes, c, ldc);
  else outer_panel<R, NC>(pairs, count, depth, column, lanes, c, ldc);
}

// C (depth x columns, dense) += the sum over the pairs, in some panels of columns.
template <class R>
void add_outer(const RowPair<R>* pairs, I count, I depth, I columns, typename R::S* c, Span panels) {
  constexpr I L = R::kLanes;
  for (I panel = panels.first; panel < panels.last; ++panel) {
    const I column = panel * kPanel * L;
    const I left = columns - column, vectors = left < kPanel * L ? blocks_of(left, L) : kPanel;
    const I lanes = left < kPanel * L ? left - (vectors - 1) * L : L;
    switch (vectors) {
      case 4: outer_numbers<R, 4>(pairs, count, depth, column, lanes, c, columns); break;
      case 3: outer_numbers<R, 3>(pairs, count, depth, column, lanes, c, columns); break;
      case 2: outer_numbers<R, 2>(pairs, count, depth, column, lanes, c, columns); break;
      default: outer_numbers<R, 1>(pairs, count, depth, column, lanes, c, columns); break;
    }
  }
}
