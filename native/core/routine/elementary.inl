// More elementary functions, of what only routines need. Where a vector has no formula here, the lanes
// go through the C library one by one.

template <class R, typename S>
OSTINATO_INLINE typename R::V by_two_lanes(typename R::V x, typename R::V y, S (*function)(S, S)) {
  S a[R::kLanes], b[R::kLanes];
  __builtin_memcpy(a, &x, sizeof(x));
  __builtin_memcpy(b, &y, sizeof(y));
  for (int i = 0; i < R::kLanes; ++i) a[i] = function(a[i], b[i]);
  __builtin_memcpy(&x, a, sizeof(x));
  return x;
}

// name_of(x) by the C library's function of that name.
#define BY_LANE_F64(name, function) \
  OSTINATO_INLINE F64::V name(F64::V x) { return by_lane<F64, double>(x, __builtin_##function); }
#define BY_LANE(name, function)                                                                     \
  OSTINATO_INLINE F32::V name(F32::V x) { return by_lane<F32, float>(x, __builtin_##function##f); } \
  BY_LANE_F64(name, function)
#define BY_TWO_LANES(name, function)                              \
  OSTINATO_INLINE F32::V name(F32::V x, F32::V y) {               \
    return by_two_lanes<F32, float>(x, y, __builtin_##function##f); \
  }                                                               \
  OSTINATO_INLINE F64::V name(F64::V x, F64::V y) {               \
    return by_two_lanes<F64, double>(x, y, __builtin_##function);   \
  }

BY_LANE(tan_of, tan)
BY_LANE(arcsin_of, asin)
BY_LANE(arccos_of, acos)
BY_LANE(arctan_of, atan)
BY_LANE(sinh_of, sinh)
BY_LANE(cosh_of, cosh)
BY_LANE(arccosh_of, acosh)
BY_LANE(arctanh_of, atanh)
BY_LANE(floor_of, floor)
BY_LANE(ceil_of, ceil)
BY_LANE(trunc_of, trunc)
BY_LANE(round_of, rint)
BY_TWO_LANES(remainder_of, fmod)
BY_TWO_LANES(arctan2_of, atan2)
BY_TWO_LANES(hypot_of, hypot)
BY_LANE_F64(sin_of, sin)
BY_LANE_F64(cos_of, cos)
BY_LANE_F64(arcsinh_of, asinh)
#undef BY_LANE
#undef BY_LANE_F64
#undef BY_TWO_LANES
OSTINATO_INLINE F64::V pow_of(F64::V x, F64::V y) {
  return by_two_lanes<F64, double>(x, y, __builtin_pow);
}

// log x = n ln 2 + log m with m in [sqrt 1/2, sqrt 2); log m = 2 (s + s^3/3 + s^5/5 ...) with
// s = (m - 1) / (m + 1), |s| < 0.172.
template <class R>
struct Logarithm;
template <>
struct Logarithm<F32> {
  static constexpr int32_t kOneBits = 0x3f800000, kSqrtHalfBits = 0x3f3504f3;
  static constexpr int kMantissa = 23;
  static constexpr float kSmallest = 1.17549435e-38f, kUp = 33554432.0f, kUpBits = 25.0f;
  static constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  static constexpr float kC[] = {2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9};
};
template <>
struct Logarithm<F64> {
  static constexpr int64_t kOneBits = 0x3ff0000000000000, kSqrtHalfBits = 0x3fe6a09e667f3bcd;
  static constexpr int kMantissa = 52;
  static constexpr double kSmallest = 2.2250738585072014e-308, kUp = 18014398509481984.0;
  static constexpr double kUpBits = 54.0;
  static constexpr double kHigh = 0.693145751953125, kLow = 1.42860682030941723212e-6;
  static constexpr double kC[] = {2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11,
                                  2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21};
};

template <class R>
OSTINATO_INLINE typename R::V log_of(typename R::V x) {
  typedef typename R::V V;
  typedef typename R::M M;
  typedef Logarithm<R> C;
  const V zero = splat<R>(0), infinity = splat<R>(static_cast<typename R::S>(__builtin_inf()));
  const V is_small = x < splat<R>(C::kSmallest) ? splat<R>(1) : zero;
  const V known = x > zero ? x : splat<R>(1);
  const V scaled = x < splat<R>(C::kSmallest) ? known * splat<R>(C::kUp) : known;
  // m's bits are those from sqrt 1/2 on
  const M bits = (M)scaled - splat_int<R>(C::kSqrtHalfBits);
  const M exponent = bits >> C::kMantissa;
  const V m = (V)((M)scaled - (exponent << C::kMantissa));
  const V n = __builtin_convertvector(exponent, V) - is_small * splat<R>(C::kUpBits);
  const V f = m - splat<R>(1), s = f / (splat<R>(2) + f), z = s * s;
  // log m = f - s (f - z P(z)), in which the first term is exact
  const V log_m = f - s * (f - z * polynomial<R>(z, C::kC));
  const V y = n * splat<R>(C::kHigh) + (n * splat<R>(C::kLow) + log_m);
  const V finite = x < infinity ? y : x;  // infinity, and NaN
  const V positive = x > zero ? finite : zero / zero;
  return x == zero ? -infinity : x != x ? x : positive;
}

// log(1 + x): log(u) x / (u - 1) with u = 1 + x, in which what was rounded off u cancels.
template <class R>
OSTINATO_INLINE typename R::V log_of_one_and(typename R::V x) {
  typedef typename R::V V;
  const V one = splat<R>(1), u = one + x;
  const V y = log_of<R>(u) * (x / (u - one));
  const V infinity = splat<R>(static_cast<typename R::S>(__builtin_inf()));
  const V far = u == infinity ? u : y;
  return u == one ? x : u == splat<R>(0) ? -infinity : far;
}

// e^x - 1 over the whole range.
OSTINATO_INLINE F32::V less_one(F32::V x) {
  return x > splat<F32>(87) ? exp_of(x) : expm1_of(x);
}
OSTINATO_INLINE F64::V less_one(F64::V x) { return expm1_of(x); }

// Whether a condition holds for all lanes.
OSTINATO_INLINE bool holds(F32::M condition) {
  int64_t parts[kVectorBytes / 8], all = -1;
  __builtin_memcpy(parts, &condition, sizeof(condition));
  for (int i = 0; i < kVectorBytes / 8; ++i) all &= parts[i];
  return all == -1;
}

// The lanes of a formula where it's good, and the C library's function of x where it isn't: lane by lane, as
// what a lane gives mustn't depend on those beside it, which are other rows' or nobody's.
OSTINATO_INLINE F32::V good_or(F32::M good, F32::V formula, F32::V x, float (*function)(float)) {
  if (holds(good)) return formula;
  float lanes[F32::kLanes], from[F32::kLanes];
  __builtin_memcpy(lanes, &formula, sizeof(formula));
  __builtin_memcpy(from, &x, sizeof(x));
  for (int i = 0; i < F32::kLanes; ++i)
    if (!good[i]) lanes[i] = function(from[i]);
  __builtin_memcpy(&formula, lanes, sizeof(formula));
  return formula;
}

// sin x and cos x: x = k pi/2 + r, |r| <= pi/4, in which k pi/2 is taken off in three parts; within 1e-7
// where |x| < 8192. Beyond, and where x isn't finite, by the C library.
struct Quarter {
  F32::M number;  // k
  F32::V sine, cosine;  // of r
};
OSTINATO_INLINE Quarter quarter_of(F32::V x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kSine[] = {-0.166666646f, 0.008332736934f, -0.0001958543337f};
  constexpr float kCosine[] = {0.0416666646f, -0.001388829161f, 2.454546902e-05f};
  const F32::V shifted = x * splat<F32>(0.636619772f) + splat<F32>(kMagic);
  const F32::V k = shifted - splat<F32>(kMagic);
  F32::V r = x - k * splat<F32>(1.5703125f);
  r = r - k * splat<F32>(4.837512969970703125e-4f);
  r = r - k * splat<F32>(7.549789948768648e-8f);
  const F32::V z = r * r;
  const F32::V sine = r + r * z * polynomial<F32>(z, kSine);
  const F32::V cosine = splat<F32>(1) - z * splat<F32>(0.5f) + z * z * polynomial<F32>(z, kCosine);
  return {(F32::M)shifted - splat_int<F32>(0x4b400000), sine, cosine};
}
OSTINATO_INLINE F32::M is_near(F32::V x) { return absolute<F32>(x) < splat<F32>(8192); }
OSTINATO_INLINE F32::V by_quarter(const Quarter& q, F32::M number) {
  const F32::M one = splat_int<F32>(1);
  const F32::V y = (number & one) == one ? q.cosine : q.sine;
  return (F32::V)((F32::M)y ^ ((number & splat_int<F32>(2)) << 30));
}
OSTINATO_INLINE F32::V sin_of(F32::V x) {
  const Quarter q = quarter_of(x);
  return good_or(is_near(x), by_quarter(q, q.number), x, __builtin_sinf);
}
OSTINATO_INLINE F32::V cos_of(F32::V x) {
  const Quarter q = quarter_of(x);
  return good_or(is_near(x), by_quarter(q, q.number + splat_int<F32>(1)), x, __builtin_cosf);
}

// log(x + sqrt(x^2 + 1)) of |x|, as log1p(x + x^2 / (1 + sqrt(x^2 + 1))), which is exact near zero.
OSTINATO_INLINE F32::V arcsinh_of(F32::V x) {
  const F32::V a = absolute<F32>(x);
  const F32::V one = splat<F32>(1), square = a * a;
  const F32::V y = log_of_one_and<F32>(a + square / (one + sqrt_of(square + one)));
  const F32::V formula = x < splat<F32>(0) ? -y : x == splat<F32>(0) ? x : y;
  return good_or(a < splat<F32>(1e18f), formula, x, __builtin_asinhf);
}

// e^(y log x) where that's within 3e-7: of a positive x, and where it isn't far from 1 (3.4e-7 up to e^4).
OSTINATO_INLINE F32::V pow_of(F32::V x, F32::V y) {
  const F32::V power = y * log_of<F32>(x);
  const F32::M fits = (x > splat<F32>(0)) & (absolute<F32>(power) < splat<F32>(2.5f));
  F32::V result = exp_of(power);
  if (holds(fits)) return result;
  float base[F32::kLanes], exponent[F32::kLanes], lanes[F32::kLanes];
  __builtin_memcpy(base, &x, sizeof(x));
  __builtin_memcpy(exponent, &y, sizeof(y));
  __builtin_memcpy(lanes, &result, sizeof(result));
  for (int i = 0; i < F32::kLanes; ++i)
    if (!fits[i]) lanes[i] = __builtin_powf(base[i], exponent[i]);
  __builtin_memcpy(&result, lanes, sizeof(result));
  return result;
}
