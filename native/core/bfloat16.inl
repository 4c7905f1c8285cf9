// Products of bfloat16s, two at a time (VDPBF16PS), with sums in float32: twice the rate of float32's.
//
// A word of 32 bits holds two neighbours along what a product sums over. The instruction rounds to
// nearest even and takes denormals for zeros, whatever the state of MXCSR.

typedef uint16_t Bfloat16;

// float32 whose products' operands are rounded to bfloat16; callers' arrays are of E.
template <class E>
struct InPairs : F32 {
  typedef E Element;
  static constexpr int kWords = kLanes / 2;
  static constexpr bool kPairs = true;
};

OSTINATO_INLINE F32::V add_pairs(F32::V sum, F32::V left, F32::V right) {
  return (F32::V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
}

OSTINATO_INLINE __mmask16 first_lanes(I n) {
  return n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1);
}

OSTINATO_INLINE F32::V read_bfloat16(const Bfloat16* p, I n) {
  const __m256i halves = n >= 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))
                                 : _mm256_maskz_loadu_epi16(first_lanes(n), p);
  // Masked, as GCC warns of what the other forms leave undefined.
  const __m512i words = _mm512_maskz_cvtepu16_epi32(first_lanes(16), halves);
  return (F32::V)_mm512_maskz_slli_epi32(first_lanes(16), words, 16);
}

OSTINATO_INLINE void write_bfloat16(Bfloat16* p, F32::V v, I n) {
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh((__m512)v);
  if (n >= 16) _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
  else _mm256_mask_storeu_epi16(p, first_lanes(n), halves);
}

OSTINATO_INLINE void store_bfloat16(float* to, F32::V v, I n) {
  const __m256i halves = (__m256i)_mm512_maskz_cvtneps_pbh(first_lanes(n), (__m512)v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
}

// Lanes of one and then of the other, as kLanes words.
OSTINATO_INLINE void store_neighbours(float* to, F32::V one, F32::V other) {
  store<F32>(to, (F32::V)_mm512_cvtne2ps_pbh((__m512)other, (__m512)one));
}

// Lane by lane, the two in one word.
OSTINATO_INLINE F32::V joined_rows(F32::V one, F32::V other) {
  alignas(64) static constexpr int16_t kOrder[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)other, (__m512)one);
  return (F32::V)_mm512_maskz_permutexvar_epi16(0xffffffff, _mm512_load_si512(kOrder), both);
}
