// Products of bfloat16s by AMX: 16 rows of C by 16 columns are a tile register, and an instruction adds
// the products of 16 pairs a row (Intel 64 and IA-32 Architectures Software Developer's Manual, TDPBF16PS).
//
// Operands lie as VDPBF16PS has them (bfloat16.inl): a block of kWords words of 16 rows is a tile of A, kWords
// words of a column one of B. Rows beyond a multiple of 16 and a last, shorter block are left to vectors.

// What a thread holds while it may multiply by tiles. Elsewhere nothing.
template <class R>
struct ProductScope {
  ProductScope() {}
};

#if defined(OSTINATO_TILES)
constexpr int kTileRows = 16;
// Of the eight tile registers 0 to 3 are columns of C, 4 is A's and 5 is B's.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 32, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 8};
};

thread_local bool tiles_are_set = false;

template <class E>
struct ProductScope<InPairs<E>> {
  ProductScope() {
    const TileConfig config;
    _tile_loadconfig(&config);
    tiles_are_set = true;
  }
  ~ProductScope() {
    tiles_are_set = false;
    _tile_release();
  }
  ProductScope(const ProductScope&) = delete;
  ProductScope& operator=(const ProductScope&) = delete;
};

// The registers' numbers stand in the instructions, hence no loops.
template <int NC>
OSTINATO_INLINE void clear_tiles() {
  _tile_zero(0);
  if constexpr (NC > 1) _tile_zero(1);
  if constexpr (NC > 2) _tile_zero(2);
  if constexpr (NC > 3) _tile_zero(3);
}

template <int NC>
OSTINATO_INLINE void add_tiles(const float* a, I a_bytes, const float* b, I b_bytes) {
  _tile_loadd(4, a, a_bytes);
  _tile_loadd(5, b, b_bytes);
  _tile_dpbf16ps(0, 4, 5);
  if constexpr (NC > 1) {
    _tile_loadd(5, b + 16, b_bytes);
    _tile_dpbf16ps(1, 4, 5);
  }
  if constexpr (NC > 2) {
    _tile_loadd(5, b + 32, b_bytes);
    _tile_dpbf16ps(2, 4, 5);
  }
  if constexpr (NC > 3) {
    _tile_loadd(5, b + 48, b_bytes);
    _tile_dpbf16ps(3, 4, 5);
  }
}

template <int NC>
OSTINATO_INLINE void store_tiles(float (&to)[4][kTileRows][16]) {
  _tile_stored(0, to[0], 64);
  if constexpr (NC > 1) _tile_stored(1, to[1], 64);
  if constexpr (NC > 2) _tile_stored(2, to[2], 64);
  if constexpr (NC > 3) _tile_stored(3, to[3], 64);
}

// What of a piece of K is done: the first `words`, of the first `rows`.
struct Done {
  I words, rows;
};

// C += A B as `multiply` has it, as far as whole tiles go; its rows lie `row_words` apart.
template <class R, int NC>
Done multiply_by_tiles(const float* a, I a_block, I block, I row_words, I rows, I words, const float* b,
                             I ldb, I b_skip, float* c, I ldc, I c_column) {
  const I whole = words / R::kWords * R::kWords, most = rows / kTileRows * kTileRows;
  if (!tiles_are_set || block != R::kWords || whole == 0 || most == 0) return {0, 0};
  constexpr I kBytes = sizeof(float);
  alignas(64) float sums[4][kTileRows][16];
  for (I r = 0; r < most; r += kTileRows) {
    clear_tiles<NC>();
    for (I k = 0; k < whole; k += R::kWords) {
      const I at = k / R::kWords;
      add_tiles<NC>(a + at * a_block + r * row_words, row_words * kBytes, b + k * ldb + at * b_skip, ldb * kBytes);
    }
    store_tiles<NC>(sums);
    for (I i = 0; i < kTileRows; ++i) {
      for (int j = 0; j < NC; ++j) {
        float* to = c + (r + i) * ldc + j * c_column;
        store<R>(to, load<R>(to) + load<R>(sums[j][i]));
      }
    }
  }
  return {whole, most};
}
#endif
