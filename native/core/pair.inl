// Both products of a tile at once, where the inputs' and the state's weights of a panel fit L1
// together: C = bias + X W + H U in one pass, with C written once (5 % of LSTM B64 T28 D28 U64). The
// inputs fill the columns [0, XN), the state the columns [H0, H0 + HN).

template <class R>
struct Pair {
  const typename R::S *x, *w, *h, *u, *bias;
  I x_block, h_block;  // from one block of kWords to the next
  I x_depth, h_depth;  // the words of D, U
};

template <class R, int MR, int NC, int FIRST, int N>
OSTINATO_INLINE void add_product(const typename R::S* a, I a_block, I depth,
                                 const typename R::S* b, typename R::V (&acc)[MR][NC]) {
  typedef typename R::V V;
  constexpr int L = R::kLanes, W = R::kWords;
  for (I k0 = 0; k0 < depth; k0 += W, a += a_block) {
    const typename R::S* row = a;
    const I n = depth - k0 < W ? depth - k0 : W;
#pragma GCC unroll 2
    for (I k = 0; k < n; ++k, ++row, b += N * L) {
      V right[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) right[j] = load<R>(b + j * L);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        const V left = splat<R>(row[r * W]);
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) acc[r][FIRST + j] = add_term<R>(acc[r][FIRST + j], left, right[j]);
      }
    }
  }
}

template <class R, int MR, int NC, int XN, int H0, int HN>
void pair_tile(const Pair<R>& p, I row, typename R::S* c, I ldc, I c_column) {
  typedef typename R::V V;
  constexpr int L = R::kLanes, W = R::kWords;
  V acc[MR][NC];
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) acc[r][j] = V{};
  }
  add_product<R, MR, NC, 0, XN>(p.x + row * W, p.x_block, p.x_depth, p.w, acc);
  add_product<R, MR, NC, H0, HN>(p.h + row * W, p.h_block, p.h_depth, p.u, acc);
#pragma GCC unroll 16
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      store<R>(c + r * ldc + j * c_column, load<R>(p.bias + j * L) + acc[r][j]);
    }
  }
}

template <class R>
using PairFunction = void (*)(const Pair<R>&, I, typename R::S*, I, I);

template <class R, int NC, int XN, int H0, int HN, int MR = tile_rows(NC)>
PairFunction<R> pair_function(I rows) {
  if constexpr (MR == 1) {
    return pair_tile<R, 1, NC, XN, H0, HN>;
  } else {
    return rows == MR ? pair_tile<R, MR, NC, XN, H0, HN>
                      : pair_function<R, NC, XN, H0, HN, MR - 1>(rows);
  }
}

template <class R, int NC, int XN, int H0, int HN>
void pair_columns(const Pair<R>& p, I rows, typename R::S* c, I ldc, I c_column) {
  const I most = tile_rows(NC), tiles = (rows + most - 1) / most;
  for (I tile = 0, r = 0; tile < tiles; ++tile) {
    const I size = rows / tiles + (tile < rows % tiles);
    pair_function<R, NC, XN, H0, HN>(size)(p, r, c + r * ldc, ldc, c_column);
    r += size;
  }
}

// --- one row ---------------------------------------------------------------------------------------

// acc += a w for one row, even and odd k apart: a chain of sums is 4 cycles a link, and 4 columns
// alone would wait for it. The row is dense, since [block][row][lane] of one row is.
template <class R, int NC, int FIRST, int N>
OSTINATO_INLINE void add_row(const typename R::S* a, I depth, const typename R::S* w,
                             typename R::V (&acc)[2][NC]) {
  constexpr int L = R::kLanes;
  I k = 0;
#pragma GCC unroll 2
  for (; k + 1 < depth; k += 2, w += 2 * N * L) {
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      const typename R::V left = splat<R>(a[k + odd]);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) acc[odd][FIRST + j] += left * load<R>(w + (odd * N + j) * L);
    }
  }
  if (k < depth) {
    const typename R::V left = splat<R>(a[k]);
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) acc[0][FIRST + j] += left * load<R>(w + j * L);
  }
}

// pair_columns where a single row is all there may be, as in a stream.
template <class R, int NC, int XN, int H0, int HN>
void pair_columns_of_few(const Pair<R>& p, I rows, typename R::S* z, I ldz, I z_column) {
  constexpr int L = R::kLanes;
  if (rows != 1 || p.x_block != L) return pair_columns<R, NC, XN, H0, HN>(p, rows, z, ldz, z_column);
  typename R::V acc[2][NC] = {};
  add_row<R, NC, 0, XN>(p.x, p.x_depth, p.w, acc);
  add_row<R, NC, H0, HN>(p.h, p.h_depth, p.u, acc);
#pragma GCC unroll 4
  for (int j = 0; j < NC; ++j) {
    store<R>(z + j * z_column, load<R>(p.bias + j * L) + (acc[0][j] + acc[1][j]));
  }
}
