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
//
// Element is a number of the callers' arrays, and Real the type to compute in, other than products.
// An operand of a product is `kWords` values of S for kLanes numbers: as many, or half where two
// neighbours share one as bfloat16s (kPairs; see bfloat16.inl).
struct F32 {
  typedef float S;
  typedef float Element;
  typedef F32 Real;
  typedef int32_t Int;
  typedef float V __attribute__((vector_size(kVectorBytes)));
  typedef int32_t M __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / 4;
  static constexpr int kWords = kLanes;
  static constexpr bool kPairs = false;
};
struct F64 {
  typedef double S;
  typedef double Element;
  typedef F64 Real;
  typedef int64_t Int;
  typedef double V __attribute__((vector_size(kVectorBytes)));
  typedef int64_t M __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / 8;
  static constexpr int kWords = kLanes;
  static constexpr bool kPairs = false;
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
#if defined(__AVX512F__)
  const auto lanes = (1u << n) - 1;
  if constexpr (sizeof(*p) == 4) {
    return (typename R::V)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), p);
  } else {
    return (typename R::V)_mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p);
  }
#else
  typename R::V v{};
  typename R::S lanes[R::kLanes] = {};
  for (I i = 0; i < n; ++i) lanes[i] = p[i];
  __builtin_memcpy(&v, lanes, sizeof(v));
  return v;
#endif
}

template <class R>
OSTINATO_INLINE void store_part(typename R::S* p, typename R::V v, I n) {
  if (n >= R::kLanes) return store<R>(p, v);
#if defined(__AVX512F__)
  const auto lanes = (1u << n) - 1;
  if constexpr (sizeof(*p) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(lanes), (__m512)v);
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lanes), (__m512d)v);
  }
#else
  typename R::S lanes[R::kLanes];
  __builtin_memcpy(lanes, &v, sizeof(v));
  for (I i = 0; i < n; ++i) p[i] = lanes[i];
#endif
}
