// Int8 weights as the products read them, and the digits of a row: see int8.h.

constexpr I quads_of(I depth) { return (depth + 3) / 4; }

// Memory of one packed kernel.
struct PackedInt8 {
  int8_t* weights;  // [panels together][quads][columns][L][4]: the part of panel p at p * quads * cols * 4 L
  float* scales;    // [panel][column][L]
  int32_t* starts;  // likewise
};

// Of the columns of `panels` panels from p on.
inline void pack_int8_panels(const Int8Kernel& from, I depth, I U, I gates, const I* gate_of, I cols, I p,
                             I together, const PackedInt8& to) {
  constexpr I L = F32::kLanes;
  int8_t* out = to.weights + p * quads_of(depth) * cols * 4 * L;
  for (I k = 0; k < depth; k += 4) {
    const I rows = depth - k < 4 ? depth - k : 4;
    for (I q = p; q < p + together; ++q) {
      const I lanes = U - q * L < L ? U - q * L : L;
      for (I c = 0; c < cols; ++c, out += 4 * L) {
        const int8_t* w = from.values + k * gates * U + gate_of[c] * U + q * L;
        if (rows < 4 || lanes < L) fill_zero(out, 4 * L);
        for (I i = 0; i < rows; ++i) {
          for (I lane = 0; lane < lanes; ++lane) out[4 * lane + i] = w[i * gates * U + lane];
        }
      }
    }
  }
}

inline void pack_int8(const Int8Kernel& from, I depth, I U, I gates, const I* gate_of, I cols, Span panels,
                      const PackedInt8& to) {
  constexpr I L = F32::kLanes;
  for (I p = panels.first; p < panels.last;) {
    const I together = panels_together(cols, p, panels.last);
    pack_int8_panels(from, depth, U, gates, gate_of, cols, p, together, to);
    p += together;
  }
  for (I p = panels.first; p < panels.last; ++p) {
    const I lanes = U - p * L < L ? U - p * L : L;
    for (I c = 0; c < cols; ++c) {
      float* scales = to.scales + (p * cols + c) * L;
      int32_t* starts = to.starts + (p * cols + c) * L;
      fill_zero(scales, L), fill_zero(starts, L);
      const I column = gate_of[c] * U + p * L;
      for (I lane = 0; lane < lanes; ++lane) scales[lane] = from.scales[column + lane];
      for (I k = 0; k < depth; ++k) {
        const int8_t* w = from.values + k * gates * U + column;
        for (I lane = 0; lane < lanes; ++lane) starts[lane] -= 64 * w[lane];
      }
    }
  }
}

// The largest magnitude among the n numbers of a row in blocks of L, `stride` apart; NaN where one is.
inline float largest_magnitude(const float* row, I stride, I n) {
  constexpr I L = F32::kLanes;
  F32::V most{};
  for (I b = 0; b * L < n; ++b) {
    const F32::V x = absolute<F32>(load_part<F32>(row + b * stride, n - b * L));
    most = (x > most) | (x != x) ? x : most;
  }
  float lanes[L], largest = 0;
  store<F32>(lanes, most);
  for (I i = 0; i < L && largest == largest; ++i)
    if (!(lanes[i] <= largest)) largest = lanes[i];
  return largest;
}

// A row's digits, and its step. Numbers of less than 2^-114, all of a row, count as zeros.
inline void make_digits(const float* row, I stride, I n, uint8_t* digits, I digit_stride, float* step) {
  constexpr I L = F32::kLanes;
  const float largest = largest_magnitude(row, stride, n);
  uint32_t bits;
  __builtin_memcpy(&bits, &largest, 4);
  const uint32_t exponent = bits >> 23 & 255;
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
