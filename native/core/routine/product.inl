// Products of rows, as they lie in memory, with a packed weight.
//
// A weight (K, N) is packed in panels of four vectors of columns, or what is left of them for the last:
// [panel][k][vectors of the panel], with zeros beyond N. So panel p begins at p * 4 L * K. K is counted in
// words of operands (operands.inl); of bfloat16s the rows are rounded a piece of K at a time, anew for each
// panel: two loads and a store for 64 multiplications.

constexpr I kPanel = 4;  // vectors

template <class R>
I packed_size(const PackedWeight& w) {
  return words_of<R>(w.depth) * blocks_of(w.columns, R::kLanes) * R::kLanes;
}

inline double multiplications_of(const ProductStep& p) {
  return static_cast<double>(p.places) * static_cast<double>(p.depth) * static_cast<double>(p.columns);
}

template <class R>
I panels_of(const PackedWeight& w) {
  return blocks_of(w.columns, kPanel * R::kLanes);
}

// One panel of `from`: (K, N), or where transposed (N, K).
template <class R>
void pack_panel(const PackedWeight& w, const typename R::S* from, I panel, typename R::S* packed) {
  typedef typename R::S S;
  constexpr I L = R::kLanes, W = R::kWords, kStep = L / W;
  const I first = panel * kPanel * L, left = w.columns - first;
  const I columns = left < kPanel * L ? left : kPanel * L, width = blocks_of(columns, L) * L;
  S* to = packed + first * words_of<R>(w.depth);
  if (!w.transposed) {
    for (I k = 0; k < w.depth; k += kStep, to += width)
      for (I j = 0; j < width; j += L)
        store<R>(to + j, read_words<R>(from + first + j, k, w.depth, w.columns, columns - j));
    return;
  }
  // Blocks of L by L, so that both sides are passed over in runs.
  for (I k0 = 0; k0 < w.depth; k0 += L) {
    const I depth = w.depth - k0 < L ? w.depth - k0 : L;
    for (I j = 0; j < width; j += L) {
      S block[L * L];
      for (I i = 0; i < L; ++i) {
        typename R::V row{};
        if (j + i < columns) row = load_part<R>(from + (first + j + i) * w.depth + k0, depth);
        store_operand<R>(block + i * W, row, L);
      }
      for (I k = 0; k < words_of<R>(depth); ++k) {
        S* line = to + (k0 / kStep + k) * width + j;
        for (I i = 0; i < L; ++i) line[i] = block[i * W + k];
      }
    }
  }
}

// out = init + A W for some rows: A(r, k) = a[r * a_row + k], out(r, j) = out[r * out_row + j].
template <class R>
struct RowProduct {
  typedef typename R::S S;
  const S* a;
  I a_row;
  const S* w;  // of the panel
  I depth;  // in words
  S* out;
  I out_row;
  I lanes;        // that count in the last vector
  const S* bias;  // or null
  bool adds;      // to out, where there is no bias
  bool each_alone;  // whether rows are summed as a single one is
};

template <class R, int NC>
OSTINATO_INLINE void finish_row(const RowProduct<R>& p, typename R::S* out,
                                const typename R::V (&sum)[NC]) {
  typedef typename R::V V;
  constexpr int L = R::kLanes;
#pragma GCC unroll 4
  for (int j = 0; j < NC; ++j) {
    const I lanes = j == NC - 1 ? p.lanes : L;
    V value = sum[j];
    if (p.bias != nullptr) value = load_part<R>(p.bias + j * L, lanes) + value;
    else if (p.adds) value = load_part<R>(out + j * L, lanes) + value;
    store_part<R>(out + j * L, value, lanes);
  }
}

template <class R, int MR, int NC>
void row_tile(const RowProduct<R>& p, I row) {
  typedef typename R::V V;
  constexpr int L = R::kLanes;
  const typename R::S *a = p.a + row * p.a_row, *b = p.w;
  const I a_row = p.a_row, depth = p.depth;
  V acc[MR][NC];
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) acc[r][j] = V{};
  }
#pragma GCC unroll 2
  for (I k = 0; k < depth; ++k, ++a, b += NC * L) {
    V right[NC];
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) right[j] = load<R>(b + j * L);
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const V left = splat<R>(a[r * a_row]);
#pragma GCC unroll 4
      for (int j = 0; j < NC; ++j) acc[r][j] = add_term<R>(acc[r][j], left, right[j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) finish_row<R, NC>(p, p.out + (row + r) * p.out_row, acc[r]);
}

// One row by itself: four sums a column apart along K, or each would wait for the one before. These round
// otherwise than that of a tile.
template <class R, int NC>
void single_row(const RowProduct<R>& p, I row) {
  typedef typename R::V V;
  constexpr int L = R::kLanes, kApart = kRegisters == 32 ? 4 : 2;
  const typename R::S *a = p.a + row * p.a_row, *b = p.w;
  V acc[kApart][NC] = {};
  I k = 0;
  for (; k + kApart <= p.depth; k += kApart, b += kApart * NC * L) {
#pragma GCC unroll 4
    for (int i = 0; i < kApart; ++i) {
      const V left = splat<R>(a[k + i]);
#pragma GCC unroll 4
      for (int j = 0; j < NC; ++j)
        acc[i][j] = add_term<R>(acc[i][j], left, load<R>(b + (i * NC + j) * L));
    }
  }
  for (; k < p.depth; ++k, b += NC * L) {
    const V left = splat<R>(a[k]);
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) acc[0][j] = add_term<R>(acc[0][j], left, load<R>(b + j * L));
  }
#pragma GCC unroll 4
  for (int i = 1; i < kApart; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) acc[0][j] += acc[i][j];
  }
  finish_row<R, NC>(p, p.out + row * p.out_row, acc[0]);
}

template <class R>
using RowTile = void (*)(const RowProduct<R>&, I);

template <class R, int NC, int MR = tile_rows(NC)>
RowTile<R> row_tile_of(I rows) {
  if constexpr (MR == 1) {
    return row_tile<R, 1, NC>;
  } else {
    return rows == MR ? row_tile<R, MR, NC> : row_tile_of<R, NC, MR - 1>(rows);
  }
}

template <class R, int NC>
void multiply_panel(const RowProduct<R>& p, I rows) {
  if (p.each_alone) {
    for (I row = 0; row < rows; ++row) single_row<R, NC>(p, row);
    return;
  }
  const I most = tile_rows(NC), tiles = (rows + most - 1) / most;
  const I base = rows / tiles, larger = rows % tiles;  // the first `larger` have one row more
  const RowTile<R> wide = row_tile_of<R, NC>(base + (larger > 0)), narrow = row_tile_of<R, NC>(base);
  for (I tile = 0, row = 0; tile < tiles; ++tile) {
    const bool is_wide = tile < larger;
    (is_wide ? wide : narrow)(p, row);
    row += base + is_wide;
  }
}

// Of operands in pairs: the same for rows that still are numbers, some rows at a time. `numbers` is how
// many of a row's the product has.
template <class R, int NC>
void multiply_numbers(RowProduct<R> p, I rows, I numbers) {
  constexpr I kMostRows = 48;
  alignas(64) typename R::S words[kMostRows * kPiece];
  const typename R::S* a = p.a;
  const I groups = blocks_of(rows, kMostRows), a_row = p.a_row;
  typename R::S* out = p.out;
  p.a = words, p.a_row = kPiece;
  for (I i = 0; i < groups; ++i) {
    const Span some = share(rows, i, groups);
    store_words<R>(a + some.first * a_row, a_row, some.size(), numbers, words, kPiece);
    p.out = out + some.first * p.out_row;
    multiply_panel<R, NC>(p, some.size());
  }
}

template <class R, int NC>
void multiply_piece(const RowProduct<R>& p, I rows, I numbers) {
  if constexpr (R::kPairs) multiply_numbers<R, NC>(p, rows, numbers);
  else (void)numbers, multiply_panel<R, NC>(p, rows);
}

// The columns of some panels and the whole depth, in pieces whose part of the weight stays in L1.
template <class R>
void multiply_rows(RowProduct<R> p, const PackedWeight& weight, const typename R::S* packed, I rows,
                   Span panels) {
  constexpr I L = R::kLanes, kStep = L / R::kWords;
  if (rows == 0) return;
  const I words = words_of<R>(weight.depth);
  const typename R::S *a = p.a, *bias = p.bias;
  typename R::S* out = p.out;
  const bool adds = p.adds;
  for (I panel = panels.first; panel < panels.last; ++panel) {
    const I first = panel * kPanel * L;
    const I left = weight.columns - first, columns = left < kPanel * L ? left : kPanel * L;
    const I vectors = blocks_of(columns, L);
    p.lanes = columns - (vectors - 1) * L;
    p.out = out + first;
    for (I k = 0; k == 0 || k < words; k += kPiece) {
      p.a = a + k * kStep, p.w = packed + first * words + k * vectors * L;
      p.depth = words - k < kPiece ? words - k : kPiece;
      const I rest = weight.depth - k * kStep, numbers = rest < kPiece * kStep ? rest : kPiece * kStep;
      p.bias = bias != nullptr && k == 0 ? bias + first : nullptr;
      p.adds = adds || k > 0;
      switch (vectors) {
        case 4: multiply_piece<R, 4>(p, rows, numbers); break;
        case 3: multiply_piece<R, 3>(p, rows, numbers); break;
        case 2: multiply_piece<R, 2>(p, rows, numbers); break;
        default: multiply_piece<R, 1>(p, rows, numbers); break;
      }
    }
  }
}
