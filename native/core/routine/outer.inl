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
        for (int j = 0; j < NC; ++j) acc[m][j] += left * right[j];
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

// C (depth x columns, dense) += the sum over the pairs, in some panels of columns.
template <class R>
void add_outer(const RowPair<R>* pairs, I count, I depth, I columns, typename R::S* c, Span panels) {
  constexpr I L = R::kLanes;
  for (I panel = panels.first; panel < panels.last; ++panel) {
    const I column = panel * kPanel * L;
    const I left = columns - column, vectors = left < kPanel * L ? blocks_of(left, L) : kPanel;
    const I lanes = left < kPanel * L ? left - (vectors - 1) * L : L;
    switch (vectors) {
      case 4: outer_panel<R, 4>(pairs, count, depth, column, lanes, c, columns); break;
      case 3: outer_panel<R, 3>(pairs, count, depth, column, lanes, c, columns); break;
      case 2: outer_panel<R, 2>(pairs, count, depth, column, lanes, c, columns); break;
      default: outer_panel<R, 1>(pairs, count, depth, column, lanes, c, columns); break;
    }
  }
}
