// Products of int8 weights with digits: see int8.h. Every target has the same sums.

// high, low += the products of four digits, in each lane of `high` and of `low` the same, with the lane's
// four weights.
#if defined(__AVX512VNNI__)
typedef __m512i Weights8;
OSTINATO_INLINE F32::M add_quads(F32::M sum, Weights8 digits, Weights8 weights) {
  return (F32::M)_mm512_dpbusd_epi32((__m512i)sum, digits, weights);
}
OSTINATO_INLINE Weights8 splat_quad(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, 4);
  return _mm512_set1_epi32(quad);
}
#elif defined(__AVX512F__)
typedef __m512i Weights8;
OSTINATO_INLINE F32::M add_quads(F32::M sum, Weights8 digits, Weights8 weights) {
  const __m512i pairs = _mm512_maddubs_epi16(digits, weights);
  return sum + (F32::M)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
OSTINATO_INLINE Weights8 splat_quad(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, 4);
  return _mm512_set1_epi32(quad);
}
#elif defined(__AVX2__)
typedef __m256i Weights8;
OSTINATO_INLINE F32::M add_quads(F32::M sum, Weights8 digits, Weights8 weights) {
  const __m256i pairs = _mm256_maddubs_epi16(digits, weights);
  return sum + (F32::M)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
OSTINATO_INLINE Weights8 splat_quad(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, 4);
  return _mm256_set1_epi32(quad);
}
#else
// Any processor.
struct Weights8 {
  int8_t of[4 * F32::kLanes];
};
OSTINATO_INLINE F32::M add_quads(F32::M sum, const Weights8& digits, const Weights8& weights) {
  for (int lane = 0; lane < F32::kLanes; ++lane) {
    int32_t total = 0;
    for (int i = 4 * lane; i < 4 * lane + 4; ++i) total += static_cast<uint8_t>(digits.of[i]) * weights.of[i];
    sum[lane] += total;
  }
  return sum;
}
OSTINATO_INLINE Weights8 splat_quad(const uint8_t* p) {
  Weights8 all;
  for (int lane = 0; lane < F32::kLanes; ++lane) __builtin_memcpy(all.of + 4 * lane, p, 4);
  return all;
}
#endif

template <int MR, int NC>
void multiply_digits_tile(const Int8Product& p, I row) {
  constexpr int L = F32::kLanes;
  F32::M high[MR][NC], low[MR][NC];
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      __builtin_memcpy(&high[r][j], p.starts + j * L, sizeof(F32::M));
      low[r][j] = F32::M{};
    }
  }
  const uint8_t* digits = p.digits + row * 2 * p.digit_stride;
  const int8_t* weights = p.weights;
  for (I quad = 0; quad < p.quads; ++quad, digits += 4) {
    Weights8 right[NC];
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j, weights += 4 * L) __builtin_memcpy(&right[j], weights, sizeof(Weights8));
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
      const uint8_t* of_row = digits + r * 2 * p.digit_stride;
      const Weights8 upper = splat_quad(of_row), lower = splat_quad(of_row + p.digit_stride);
#pragma GCC unroll 4
      for (int j = 0; j < NC; ++j) {
        high[r][j] = add_quads(high[r][j], upper, right[j]);
        low[r][j] = add_quads(low[r][j], lower, right[j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r) {
    const F32::V step = splat<F32>(p.steps[row + r]);
#pragma GCC unroll 4
    for (int j = 0; j < NC; ++j) {
      // In float32, as the whole sum may be larger than 32 bits hold. The first product is exact.
      const F32::V sum = __builtin_convertvector(high[r][j], F32::V) * splat<F32>(128) +
                         __builtin_convertvector(low[r][j], F32::V);
      float* to = p.z + (row + r) * p.ldz + j * p.z_column;
      store<F32>(to, load<F32>(to) + step * load<F32>(p.scales + j * L) * sum);
    }
  }
}

template <int NC>
void multiply_digits_columns(const Int8Product& p) {
  // Two sums a row and column have to stay in registers, beside a vector of weights a column.
  constexpr int kRows = kRegisters == 32 ? 2 : 1;
  I row = 0;
  for (; row + kRows <= p.rows; row += kRows) multiply_digits_tile<kRows, NC>(p, row);
  for (; row < p.rows; ++row) multiply_digits_tile<1, NC>(p, row);
}

inline void multiply_digits(const Int8Product& p) {
  switch (p.columns) {
    case 4: return multiply_digits_columns<4>(p);
    case 3: return multiply_digits_columns<3>(p);
    case 2: return multiply_digits_columns<2>(p);
    default: return multiply_digits_columns<1>(p);
  }
}
