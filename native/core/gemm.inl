// Matrix products on packed operands: small tiles of C in registers, K innermost. K is counted in words
// of operands (operands.inl).
//
// `multiply`: C (rows x columns) += A B, where
//   A(r, k) = a[(k / block) * a_block + r * kRowStride + k % block]: blocks of `block` values a row;
//   B(k, j) = the vector at b[k * ldb + k / block * b_skip + j * L];
//   C(r, j) = the vector at c[r * ldc + j * c_column].
// `accumulate_outer`: C (m x columns) += A' B over the rows of several segments of time.
// L is the number of lanes; a column is one vector wide.

// Most rows of a tile of nc columns that fit the registers (measured on AVX-512: neighbours within 3 %).
constexpr int tile_rows(int nc) {
  return kRegisters == 32 ? (nc == 4 ? 6 : nc == 3 ? 8 : nc == 2 ? 12 : 16)
                          : (nc == 4 ? 3 : nc == 3 ? 4 : nc == 2 ? 6 : 10);
}

// K is cut into pieces whose part of B stays in L1 while all tiles of rows pass over it.
constexpr I kPiece = 128;

template <class R, int MR, int NC, int kRowStride, bool kAhead>
void multiply_tile(const typename R::S* a, I a_block, I block, I k_total, const typename R::S* b,
                   I ldb, I b_skip, typename R::S* c, I ldc, I c_column) {
  typedef typename R::S S;
  typedef typename R::V V;
  constexpr int L = R::kLanes;
  // The few sums of one row would each wait for their last addition, some 4 cycles: twice as many then,
  // over every other k. Never by NC, as a sum must be the same with any panels beside it.
  constexpr int kSums = MR == 1 ? 2 : 1;
  // Summed apart from C: the fewer additions to a large sum, the less is rounded off.
  V acc[kSums][MR][NC] = {};
  auto add = [&](V(&sums)[MR][NC], const S* row, const S* from) {
    V right[NC];
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      right[j] = load<R>(from + j * L);
      if (kAhead) __builtin_prefetch(from + kPiece * NC * L + j * L, 0, 2);  // of the next piece
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
      const V left = splat<R>(row[r * kRowStride]);
#pragma GCC unroll 4
      for (int j = 0; j < NC; ++j) sums[r][j] = add_term<R>(sums[r][j], left, right[j]);
    }
  };
  for (I k0 = 0; k0 < k_total; k0 += block, a += a_block, b += b_skip) {
    const S* row = a;
    const I n = k_total - k0 < block ? k_total - k0 : block;
    I k = 0;
#pragma GCC unroll 2
    for (; k + kSums <= n; k += kSums, row += kSums, b += kSums * ldb) {
#pragma GCC unroll 2
      for (int i = 0; i < kSums; ++i) add(acc[i], row + i, b + i * ldb);
    }
    if (k < n) add(acc[0], row, b), b += ldb;
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      V sum = acc[0][r][j];
      for (int i = 1; i < kSums; ++i) sum += acc[i][r][j];
      S* to = c + r * ldc + j * c_column;
      store<R>(to, load<R>(to) + sum);
    }
  }
}

template <class R>
using TileFunction = void (*)(const typename R::S*, I, I, I, const typename R::S*, I, I,
                              typename R::S*, I, I);

// The function for a tile of `rows` rows: rows is at most tile_rows(NC).
template <class R, int NC, int kRowStride, bool kAhead, int MR = tile_rows(NC)>
TileFunction<R> tile_function(I rows) {
  if constexpr (MR == 1) {
    return multiply_tile<R, 1, NC, kRowStride, kAhead>;
  } else {
    return rows == MR ? multiply_tile<R, MR, NC, kRowStride, kAhead>
                      : tile_function<R, NC, kRowStride, kAhead, MR - 1>(rows);
  }
}

// What `multiply` takes. `row_stride` is 1, 3 or 4 operands of kWords.
template <class R>
struct Product {
  const typename R::S* a;
  I a_block, block, row_stride;
  I k;
  const typename R::S* b;
  I ldb;
  // Whether to fetch B ahead: where it comes from memory beyond the caches that the processor
  // prefetches well from (LSTM B16 T200 D256 U1024, training: 12 % less time; U512: 1 % more).
  bool ahead;
  I b_skip = 0;
};

// Words [k, k + depth) of some rows, in vectors; A and B at word k, C at the first row.
template <class R, int NC, int kRowStride, bool kAhead>
void multiply_rows(const Product<R>& p, const typename R::S* a, const typename R::S* b, I depth, I rows,
                   typename R::S* c, I ldc, I c_column) {
  const I most = tile_rows(NC), tiles = (rows + most - 1) / most;
  if (tiles == 0 || depth == 0) return;
  const I base = rows / tiles, larger = rows % tiles;  // the first `larger` have one row more
  TileFunction<R> wide = tile_function<R, NC, kRowStride, kAhead>(larger ? base + 1 : base);
  TileFunction<R> narrow = tile_function<R, NC, kRowStride, kAhead>(base);
  for (I tile = 0, r = 0; tile < tiles; ++tile) {
    const bool is_wide = tile < larger;
    (is_wide ? wide : narrow)(a + r * kRowStride, p.a_block, p.block, depth, b, p.ldb, p.b_skip,
                              c + r * ldc, ldc, c_column);
    r += base + is_wide;
  }
}

template <class R, int NC, int kRowStride, bool kAhead>
void multiply_columns(const Product<R>& p, I rows, typename R::S* c, I ldc, I c_column) {
  const I piece = p.block >= kPiece ? p.block : kPiece / p.block * p.block;
  for (I k = 0; k < p.k; k += piece) {
    const I depth = p.k - k < piece ? p.k - k : piece;
    const typename R::S* a = p.a + k / p.block * p.a_block;
    const typename R::S* b = p.b + k * p.ldb + k / p.block * p.b_skip;
#if defined(OSTINATO_TILES)
    const Done done = multiply_by_tiles<R, NC>(a, p.a_block, p.block, kRowStride, rows, depth, b, p.ldb,
                                               p.b_skip, c, ldc, c_column);
    if (done.rows > 0) {
      const I blocks = done.words / p.block;
      multiply_rows<R, NC, kRowStride, kAhead>(p, a + blocks * p.a_block, b + done.words * p.ldb + blocks * p.b_skip,
                                               depth - done.words, done.rows, c, ldc, c_column);
    }
    multiply_rows<R, NC, kRowStride, kAhead>(p, a + done.rows * kRowStride, b, depth, rows - done.rows,
                                             c + done.rows * ldc, ldc, c_column);
#else
    multiply_rows<R, NC, kRowStride, kAhead>(p, a, b, depth, rows, c, ldc, c_column);
#endif
  }
}

template <class R, int kRowStride, bool kAhead>
void multiply_strided(const Product<R>& p, I rows, I nc, typename R::S* c, I ldc, I c_column) {
  switch (nc) {
    case 4: return multiply_columns<R, 4, kRowStride, kAhead>(p, rows, c, ldc, c_column);
    case 3: return multiply_columns<R, 3, kRowStride, kAhead>(p, rows, c, ldc, c_column);
    case 2: return multiply_columns<R, 2, kRowStride, kAhead>(p, rows, c, ldc, c_column);
    default: return multiply_columns<R, 1, kRowStride, kAhead>(p, rows, c, ldc, c_column);
  }
}

template <class R, bool kAhead>
void multiply_any(const Product<R>& p, I rows, I nc, typename R::S* c, I ldc, I c_column) {
  constexpr int W = R::kWords;
  switch (p.row_stride) {
    case 4: return multiply_strided<R, 4 * W, kAhead>(p, rows, nc, c, ldc, c_column);
    case 3: return multiply_strided<R, 3 * W, kAhead>(p, rows, nc, c, ldc, c_column);
    default: return multiply_strided<R, W, kAhead>(p, rows, nc, c, ldc, c_column);
  }
}

// C += A B for `nc` columns, 1 to 4.
template <class R>
void multiply(const Product<R>& p, I rows, I nc, typename R::S* c, I ldc, I c_column) {
  if (rows == 0) return;
  (p.ahead ? multiply_any<R, true> : multiply_any<R, false>)(p, rows, nc, c, ldc, c_column);
}

// --- weights' gradients ---------------------------------------------------------------------------

// One timestep's operands: A(r, m) = a[r * L + m], B(r, j) = the vector at b[r * stride + j * column]. Of
// operands in pairs `r` is two rows (store_rows).
template <class R>
struct Segment {
  const typename R::S* a;
  const typename R::S* b;
  I rows;
};

template <class R, int MR, int NC, int kRowStride>
void outer_tile(const Segment<R>* segments, I count, I a_offset, I b_offset, I b_column,
                typename R::S* c, I ldc, I c_column) {
  typedef typename R::S S;
  typedef typename R::V V;
  V acc[MR][NC];
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) acc[m][j] = V{};
  }
  for (I s = 0; s < count; ++s) {
    const typename R::S* a = segments[s].a + a_offset;
    const typename R::S* b = segments[s].b + b_offset;
#pragma GCC unroll 2
    for (I r = 0; r < segments[s].rows; ++r, a += R::kLanes, b += kRowStride) {
      V right[NC];
#pragma GCC unroll 4
      for (int j = 0; j < NC; ++j) right[j] = load<R>(b + j * b_column);
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
      S* to = c + m * ldc + j * c_column;
      store<R>(to, load<R>(to) + acc[m][j]);
    }
  }
}

template <class R>
using OuterFunction = void (*)(const Segment<R>*, I, I, I, I, typename R::S*, I, I);

template <class R, int NC, int kRowStride, int MR = tile_rows(NC)>
OuterFunction<R> outer_function(I rows) {
  if constexpr (MR == 1) {
    return outer_tile<R, 1, NC, kRowStride>;
  } else {
    return rows == MR ? outer_tile<R, MR, NC, kRowStride>
                      : outer_function<R, NC, kRowStride, MR - 1>(rows);
  }
}

// What `accumulate_outer` takes besides the segments.
struct OuterShape {
  I m;          // rows of C: D or U
  I a_block;    // from one block of L values of A to the next
  I b_offset;   // of the first column of B
  I b_column;   // from one column of B to the next
  I row_stride; // of B, in vectors: 1, 3 or 4
  I ldc, c_column;
};

template <class R, int NC, int kRowStride>
void outer_columns(const Segment<R>* segments, I count, const OuterShape& shape,
                   typename R::S* c) {
  constexpr I L = R::kLanes;
  const I most = tile_rows(NC);
  for (I block = 0; block * L < shape.m; ++block) {
    const I m = shape.m - block * L < L ? shape.m - block * L : L;
    const I tiles = (m + most - 1) / most, base = m / tiles, larger = m % tiles;
    for (I tile = 0, at = 0; tile < tiles; ++tile) {
      const I rows = base + (tile < larger);
      outer_function<R, NC, kRowStride>(rows)(segments, count, block * shape.a_block + at,
                                              shape.b_offset, shape.b_column,
                                              c + (block * L + at) * shape.ldc, shape.ldc,
                                              shape.c_column);
      at += rows;
    }
  }
}

template <class R, int kRowStride>
void outer_strided(const Segment<R>* segments, I count, const OuterShape& shape, I nc,
                   typename R::S* c) {
  switch (nc) {
    case 4: return outer_columns<R, 4, kRowStride>(segments, count, shape, c);
    case 3: return outer_columns<R, 3, kRowStride>(segments, count, shape, c);
    case 2: return outer_columns<R, 2, kRowStride>(segments, count, shape, c);
    default: return outer_columns<R, 1, kRowStride>(segments, count, shape, c);
  }
}

// C += the sum over segments of A' B, for `nc` columns.
template <class R>
void accumulate_outer(const Segment<R>* segments, I count, const OuterShape& shape, I nc,
                      typename R::S* c) {
  switch (shape.row_stride) {
    case 4: return outer_strided<R, 4 * R::kLanes>(segments, count, shape, nc, c);
    case 3: return outer_strided<R, 3 * R::kLanes>(segments, count, shape, nc, c);
    default: return outer_strided<R, R::kLanes>(segments, count, shape, nc, c);
  }
}
