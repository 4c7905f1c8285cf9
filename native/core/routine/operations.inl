// The operations of a MAP, each once, and as functions over a chunk of lines and columns.

namespace operation {

#define DEFINE_UNARY(name, expression)               \
  struct name {                                      \
    static constexpr int arity = 1;                  \
    template <class R, class V>                      \
    static OSTINATO_INLINE V of(V x, V, V) {         \
      return expression;                             \
    }                                                \
  };
#define DEFINE_BINARY(name, expression)              \
  struct name {                                      \
    static constexpr int arity = 2;                  \
    template <class R, class V>                      \
    static OSTINATO_INLINE V of(V a, V b, V) {       \
      return expression;                             \
    }                                                \
  };
#define DEFINE_TERNARY(name, expression)             \
  struct name {                                      \
    static constexpr int arity = 3;                  \
    template <class R, class V>                      \
    static OSTINATO_INLINE V of(V a, V b, V c) {     \
      return expression;                             \
    }                                                \
  };
#define C(number) splat<R>(static_cast<typename R::S>(number))
#define TRUTH(condition) ((condition) ? C(1) : C(0))
#define INFINITE C(__builtin_inf())

DEFINE_UNARY(neg, -x)
DEFINE_UNARY(abs, (V)((typename R::M)x & ~(typename R::M)C(-0.0)))
DEFINE_UNARY(sign, x > C(0) ? C(1) : x < C(0) ? C(-1) : x)
DEFINE_UNARY(exp, exp_of(x))
DEFINE_UNARY(expm1, less_one(x))
DEFINE_UNARY(log, log_of<R>(x))
DEFINE_UNARY(log1p, log_of_one_and<R>(x))
DEFINE_UNARY(sqrt, sqrt_of(x))
DEFINE_UNARY(rsqrt, C(1) / sqrt_of(x))
DEFINE_UNARY(square, x * x)
DEFINE_UNARY(reciprocal, C(1) / x)
DEFINE_UNARY(erf, erf_of(x))
DEFINE_UNARY(sin, sin_of(x))
DEFINE_UNARY(cos, cos_of(x))
DEFINE_UNARY(tan, tan_of(x))
DEFINE_UNARY(arcsin, arcsin_of(x))
DEFINE_UNARY(arccos, arccos_of(x))
DEFINE_UNARY(arctan, arctan_of(x))
DEFINE_UNARY(sinh, sinh_of(x))
DEFINE_UNARY(cosh, cosh_of(x))
DEFINE_UNARY(arcsinh, arcsinh_of(x))
DEFINE_UNARY(arccosh, arccosh_of(x))
DEFINE_UNARY(arctanh, arctanh_of(x))
DEFINE_UNARY(floor, floor_of(x))
DEFINE_UNARY(ceil, ceil_of(x))
DEFINE_UNARY(round, round_of(x))
DEFINE_UNARY(trunc, trunc_of(x))
DEFINE_UNARY(logical_not, TRUTH(x == C(0)))
DEFINE_UNARY(isnan, TRUTH(x != x))
DEFINE_UNARY(isinf, TRUTH((x == INFINITE) | (x == -INFINITE)))
DEFINE_UNARY(isfinite, TRUTH((x < INFINITE) & (x > -INFINITE)))

DEFINE_BINARY(add, a + b)
DEFINE_BINARY(sub, a - b)
DEFINE_BINARY(mul, a * b)
DEFINE_BINARY(div, a / b)
DEFINE_BINARY(pow, pow_of(a, b))
DEFINE_BINARY(max, (a > b) | (a != a) ? a : b)
DEFINE_BINARY(min, (a < b) | (a != a) ? a : b)
DEFINE_BINARY(arctan2, arctan2_of(a, b))
DEFINE_BINARY(hypot, hypot_of(a, b))
DEFINE_BINARY(gt, TRUTH(a > b))
DEFINE_BINARY(ge, TRUTH(a >= b))
DEFINE_BINARY(lt, TRUTH(a < b))
DEFINE_BINARY(le, TRUTH(a <= b))
DEFINE_BINARY(eq, TRUTH(a == b))
DEFINE_BINARY(ne, TRUTH(a != b))
DEFINE_BINARY(logical_and, TRUTH((a != C(0)) & (b != C(0))))
DEFINE_BINARY(logical_or, TRUTH((a != C(0)) | (b != C(0))))
DEFINE_BINARY(logical_xor, TRUTH((a != C(0)) ^ (b != C(0))))
DEFINE_TERNARY(select, a != C(0) ? b : c)
DEFINE_TERNARY(fma, a * b + c)
DEFINE_TERNARY(clip, a < b ? b : a > c ? c : a)

// The remainder has the divisor's sign.
struct mod {
  static constexpr int arity = 2;
  template <class R, class V>
  static OSTINATO_INLINE V of(V a, V b, V) {
    const V rest = remainder_of(a, b);
    const V moved = (rest < C(0)) ^ (b < C(0)) ? rest + b : rest;
    return rest == C(0) ? (b < C(0) ? C(-0.0) : C(0)) : moved;
  }
};
struct floordiv {
  static constexpr int arity = 2;
  template <class R, class V>
  static OSTINATO_INLINE V of(V a, V b, V c) {
    const V exact = (a - mod::of<R>(a, b, c)) / b;
    return b == C(0) ? a / b : round_of(exact);
  }
};

#undef DEFINE_UNARY
#undef DEFINE_BINARY
#undef DEFINE_TERNARY
#undef C
#undef TRUTH
#undef INFINITE

template <class F>
struct Value {
  static constexpr int arity = 1;
  template <class R, class V>
  static OSTINATO_INLINE V of(V x, V, V) {
    return F::template value<R>(x);
  }
};
template <class F>
struct Slope {
  static constexpr int arity = 1;
  template <class R, class V>
  static OSTINATO_INLINE V of(V x, V, V) {
    return F::template slope<R>(x, F::template value<R>(x));
  }
};

// second(first(a, b), c), or where `operand` is 1 second(c, first(a, b)).
template <class First, class Second, int operand>
struct Fused {
  static constexpr int arity = First::arity + 1;
  template <class R, class V>
  static OSTINATO_INLINE V of(V a, V b, V c) {
    const V first = First::template of<R>(a, b, a), other = First::arity == 1 ? b : c;
    return operand == 0 ? Second::template of<R>(first, other, other)
                        : Second::template of<R>(other, first, first);
  }
};

}  // namespace operation

// A register's values in a chunk: column vector v of line l is at + l * line + v * step. A line or step
// of 0 is a value for all of them; a step of 0 is one vector, of the same value in all lanes.
template <class R>
struct Values {
  const typename R::S* at;
  I line, step;
};

template <class R>
using OperationFunction = void (*)(const Values<R>* in, typename R::S* out, I lines, I vectors);

// A line of vectors, each `step` elements after the one before, or all the same one.
template <class R, class F>
OSTINATO_INLINE void operate_line(const typename R::S* a, I a_step, const typename R::S* b, I b_step,
                                  const typename R::S* c, I c_step, typename R::S* out, I vectors) {
  typedef typename R::V V;
  constexpr int L = R::kLanes, n = F::arity;
  for (I v = 0; v < vectors; ++v, out += L) {
    const V x = load<R>(a), y = n > 1 ? load<R>(b) : x, z = n > 2 ? load<R>(c) : x;
    store<R>(out, F::template of<R>(x, y, z));
    a += a_step;
    if (n > 1) b += b_step;
    if (n > 2) c += c_step;
  }
}

// The same where all vectors follow one another: what costs no more than its loads and stores gains a
// third by it.
template <class R, class F>
OSTINATO_INLINE void operate_dense(const typename R::S* a, const typename R::S* b,
                                   const typename R::S* c, typename R::S* out, I vectors) {
  typedef typename R::V V;
  constexpr int L = R::kLanes, n = F::arity;
#pragma GCC unroll 4
  for (I i = 0; i < vectors * L; i += L) {
    const V x = load<R>(a + i), y = n > 1 ? load<R>(b + i) : x, z = n > 2 ? load<R>(c + i) : x;
    store<R>(out + i, F::template of<R>(x, y, z));
  }
}

// out is dense.
template <class R, class F>
void operate(const Values<R>* in, typename R::S* out, I lines, I vectors) {
  constexpr int L = R::kLanes, n = F::arity;
  const Values<R> a = in[0], b = in[n > 1 ? 1 : 0], c = in[n > 2 ? 2 : 0];
  const bool is_dense = n > 1 && a.step == L && b.step == L && c.step == L;
  for (I l = 0; l < lines; ++l, out += vectors * L) {
    const typename R::S *pa = a.at + l * a.line, *pb = b.at + l * b.line, *pc = c.at + l * c.line;
    if (is_dense) operate_dense<R, F>(pa, pb, pc, out, vectors);
    else operate_line<R, F>(pa, a.step, pb, b.step, pc, c.step, out, vectors);
  }
}

template <class R>
constexpr OperationFunction<R> kOperations[] = {
#define UNARY(name) operate<R, operation::name>,
#define BINARY(name) operate<R, operation::name>,
#define TERNARY(name) operate<R, operation::name>,
#define ACTIVATION_VALUE(name) operate<R, operation::Value<name>>,
#define ACTIVATION_SLOPE(name) operate<R, operation::Slope<name>>,
#include "operations.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef ACTIVATION_VALUE
#undef ACTIVATION_SLOPE
#define FUSED(first, second, operand) \
  operate<R, operation::Fused<operation::first, operation::second, operand>>,
#define FUSED_VALUE(first, second, operand) \
  operate<R, operation::Fused<operation::Value<first>, operation::second, operand>>,
#include "fused.def"
#undef FUSED
#undef FUSED_VALUE
};
