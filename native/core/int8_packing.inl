// Int8 weights as the products read them, and the digits of a row: see int8.h.

constexpr I quads_of(I depth) { return (depth + 3) / 4; }

// Memory of one packed kernel.
struct PackedInt8 {
  int8_t* weights;  // [panels together][quads][columns][L][4]: the part of panel p at p * quads * cols * 4 L
  float* scales;    // [panel][column][L]
  int32_t* starts;  // likewise
};

// Four rows of the weights, `row` apart, lane by lane in a word; zeros where there are fewer, of rows or of
// lanes.
OSTINATO_INLINE void interleave(const int8_t* w, I row, I rows, I lanes, int8_t* out) {
  constexpr I L = F32::kLanes;
  typedef uint8_t Bytes __attribute__((vector_size(L)));
  typedef uint32_t Words __attribute__((vector_size(4 * L)));
  Words all{};
  for (I i = 0; i < rows; ++i) {
    Bytes some{};
    __builtin_memcpy(&some, w + i * row, static_cast<size_t>(lanes));
    all |= __builtin_convertvector(some, Words) << (8 * static_cast<int>(i));
  }
  __builtin_memcpy(out, &all, sizeof(all));
}

// `count` panels from p on, of those that are packed together or each by itself. Row after row for all of
// them, as the rows are far apart and a line of the cache holds four panels' weights of one.
inline void pack_int8_panels(const Int8Kernel& from, I depth, I U, I gates, const I* gate_of, I cols, I p,
                             I count, const PackedInt8& to) {
  constexpr I L = F32::kLanes;
  const I row = gates * U, quads = quads_of(depth);
  const uint8_t ones[4] = {1, 1, 1, 1};
  const Weights8 one = splat_quad(ones);
  F32::M sums[4][4] = {};
  for (I k = 0; k < depth; k += 4) {
    const I rows = depth - k < 4 ? depth - k : 4;
    for (I c = 0; c < cols; ++c) {
      for (I q = 0; q < count; ++q) {
        const I lanes = U - (p + q) * L, quad = k / 4;
        const I place = cols > 1 ? ((p + q) * quads + quad) * cols + c : p * quads + quad * count + q;
        const int8_t* w = from.values + k * row + gate_of[c] * U + (p + q) * L;
        int8_t* out = to.weights + place * 4 * L;
        if (rows == 4 && lanes >= L) interleave(w, row, 4, L, out);
        else interleave(w, row, rows, lanes < L ? lanes : L, out);
        Weights8 packed;
        __builtin_memcpy(&packed, out, sizeof(packed));
        sums[q][c] = add_quads(sums[q][c], one, packed);
      }
    }
  }
  for (I q = 0; q < count; ++q) {
    for (I c = 0; c < cols; ++c) {
      const I at = ((p + q) * cols + c) * L, column = gate_of[c] * U + (p + q) * L;
      const F32::M starts = -64 * sums[q][c];
      __builtin_memcpy(to.starts + at, &starts, sizeof(starts));
      store<F32>(to.scales + at, load_part<F32>(from.scales + column, U - (p + q) * L));
    }
  }
}

inline void pack_int8(const Int8Kernel& from, I depth, I U, I gates, const I* gate_of, I cols, Span panels,
                      const PackedInt8& to) {
  for (I p = panels.first; p < panels.last; p += 4) {
    const I count = panels.last - p < 4 ? panels.last - p : 4;
    pack_int8_panels(from, depth, U, gates, gate_of, cols, p, count, to);
  }
}

// The largest magnitude among the n numbers of a row in blocks of L, `stride` apart, as the bits of a float:
// as whole numbers these are in the same order, and NaN comes after all others.
inline uint32_t largest_magnitude(const float* row, I stride, I n) {
  constexpr I L = F32::kLanes;
  F32::M most{};
  for (I b = 0; b * L < n; ++b) {
    const F32::M bits = (F32::M)load_part<F32>(row + b * stride, n - b * L) & splat_int<F32>(0x7fffffff);
    most = bits > most ? bits : most;
  }
  int32_t lanes[L], largest = 0;
  __builtin_memcpy(lanes, &most, sizeof(most));
  for (I i = 0; i < L; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return static_cast<uint32_t>(largest);
}

// A row's digits, and its step. Numbers of less than 2^-114, all of a row, count as zeros.
inline void make_digits(const float* row, I stride, I n, uint8_t* digits, I digit_stride, float* step) {
  constexpr I L = F32::kLanes;
  const uint32_t exponent = largest_magnitude(row, stride, n) >> 23;
  const bool counts = exponent >= 13 && exponent < 255;
  // 2^(13 - 1 - e) and its inverse, of 2^e <= largest < 2^(e + 1); NaN where that's no number.
  const uint32_t up = counts ? (266 - exponent) << 23 : 0;
  const uint32_t down = counts ? (exponent - 12) << 23 : exponent == 255 ? 0x7fc00000 : 0;
  float factor;
  __builtin_memcpy(&factor, &up, 4);
  __builtin_memcpy(step, &down, 4);
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  for (I b = 0; b * L < n; ++b) {
    F32::V x = load_part<F32>(row + b * stride, n - b * L);
    if (!counts) x = F32::V{};
    const F32::M whole = (F32::M)(x * splat<F32>(factor) + splat<F32>(kMagic)) - splat_int<F32>(0x4b400000 - 8192);
    const F32::M high = whole >> 7, low = whole & splat_int<F32>(127);
#if defined(__AVX512F__)
    // Masked, as GCC warns of what the other forms leave undefined.
    _mm512_mask_cvtepi32_storeu_epi8(digits + b * L, 0xffff, (__m512i)high);
    _mm512_mask_cvtepi32_storeu_epi8(digits + digit_stride + b * L, 0xffff, (__m512i)low);
#else
    for (I i = 0; i < L; ++i) {
      digits[b * L + i] = static_cast<uint8_t>(high[i]);
      digits[digit_stride + b * L + i] = static_cast<uint8_t>(low[i]);
    }
#endif
  }
}
