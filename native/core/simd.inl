// Vectors of one target, as the compiler's own vector type: the same source for every target.

typedef int64_t I;  // sizes and offsets, in elements

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// A real type: S one number, V a vector of kLanes of them, M a vector of integers of the same size
// (a comparison's result: all ones where it holds).
struct F32 {
  typedef float S;
  typedef int32_t Int;
  typedef float V __attribute__((vector_size(kVectorBytes)));
  typedef int32_t M __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / 4;
};
struct F64 {
  typedef double S;
  typedef int64_t Int;
  typedef double V __attribute__((vector_size(kVectorBytes)));
  typedef int64_t M __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / 8;
};

#define OSTINATO_INLINE inline __attribute__((always_inline))

template <class V, typename S>
OSTINATO_INLINE V load_as(const S* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <class R>
OSTINATO_INLINE typename R::V load(const typename R::S* p) {
  return load_as<typename R::V>(p);
}

template <class R>
OSTINATO_INLINE void store(typename R::S* p, typename R::V v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

template <class V, int kLanes>
struct Splat;
template <class V>
struct Splat<V, 2> {
  template <typename S>
  static OSTINATO_INLINE V of(S x) { return V{x, x}; }
};
template <class V>
struct Splat<V, 4> {
  template <typename S>
  static OSTINATO_INLINE V of(S x) { return V{x, x, x, x}; }
};
template <class V>
struct Splat<V, 8> {
  template <typename S>
  static OSTINATO_INLINE V of(S x) { return V{x, x, x, x, x, x, x, x}; }
};
template <class V>
struct Splat<V, 16> {
  template <typename S>
  static OSTINATO_INLINE V of(S x) { return V{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
};

template <class R>
OSTINATO_INLINE typename R::V splat(typename R::S x) {
  return Splat<typename R::V, R::kLanes>::of(x);
}
template <class R>
OSTINATO_INLINE typename R::M splat_int(typename R::Int x) {
  return Splat<typename R::M, R::kLanes>::of(x);
}

// The first n lanes of an array, zeros beyond; only those are touched.
template <class R>
OSTINATO_INLINE typename R::V load_part(const typename R::S* p, I n) {
  if (n >= R::kLanes) return load<R>(p);
  typename R::V v{};
  typename R::S lanes[R::kLanes] = {};
  for (I i = 0; i < n; ++i) lanes[i] = p[i];
  __builtin_memcpy(&v, lanes, sizeof(v));
  return v;
}

template <class R>
OSTINATO_INLINE void store_part(typename R::S* p, typename R::V v, I n) {
  if (n >= R::kLanes) return store<R>(p, v);
  typename R::S lanes[R::kLanes];
  __builtin_memcpy(lanes, &v, sizeof(v));
  for (I i = 0; i < n; ++i) p[i] = lanes[i];
}

#if defined(__AVX512F__)
template <>
OSTINATO_INLINE F32::V load_part<F32>(const float* p, I n) {
  if (n >= 16) return load<F32>(p);
  return (F32::V)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
template <>
OSTINATO_INLINE void store_part<F32>(float* p, F32::V v, I n) {
  if (n >= 16) return store<F32>(p, v);
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
}
template <>
OSTINATO_INLINE F64::V load_part<F64>(const double* p, I n) {
  if (n >= 8) return load<F64>(p);
  return (F64::V)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}
template <>
OSTINATO_INLINE void store_part<F64>(double* p, F64::V v, I n) {
  if (n >= 8) return store<F64>(p, v);
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
}
#endif
