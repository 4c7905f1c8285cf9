"""Elementary functions and activations as C: scalar ones, of which compilers make vectors in loops.

In float the exponential is a polynomial and a power of two by its bits, without a branch or a call:
libm's can't be vectorised. tanh and sigmoid come from it; they're within 2e-7 of their values.
None relies on what `-ffast-math` takes away, but that NaN passes through.
"""

import re
from collections.abc import Iterable

# Of both types, or of float where `_DOUBLE` has another. The formulas are those of the kernels:
# native/core/math.inl and activations.inl.
_FLOAT = {
    "bits": """
static inline uint32_t @bits(float x)
{
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
""",
    "number": """
static inline float @number(uint32_t bits)
{
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
""",
    "limited": """
/* x within -most and most; of a NaN one of these. By bits: GCC makes no vectors of what it does by
   comparing with a number, as it computes apart what becomes of that number. */
static inline float @limited(float x, float most)
{
  const uint32_t bits = @bits(x);
  const int32_t size = (int32_t)(bits & 0x7fffffffu), limit = (int32_t)@bits(most);
  return @number((uint32_t)(size < limit ? size : limit) | (bits & 0x80000000u));
}
""",
    "kept": """
/* y, or NaN where x is NaN. */
static inline float @kept(float y, float x)
{
  const int32_t size = (int32_t)(@bits(x) & 0x7fffffffu);
  return @number(@bits(y) | (0u - (uint32_t)(size > 0x7f800000)));
}
""",
    "nearest": """
/* The whole number nearest to x, which is between -256 and 256. */
static inline int @nearest(float x) { return (int)(x + 256.5f) - 256; }
""",
    "power": """
/* 2^n, for n from -126 to 127. */
static inline float @power(int n) { return @number((uint32_t)(n + 127) << 23); }
""",
    "less_one": """
/* e^x - 1 for x from -87 to 87, with its full precision near zero: x = n ln 2 + r. */
static inline float @less_one(float x)
{
  const int n = @nearest(x * 1.44269504f);
  const float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
  const float rest = 0.16666519f + r * (0.04166621f + r * (0.00836889f + r * 0.00139505f));
  const float scale = @power(n);
  return scale * (r + r * r * (0.50000001f + r * rest)) + (scale - 1.0f);
}
""",
    "clamp": """
/* x between two numbers; a NaN stays. */
static inline REAL @clamp(REAL x, REAL low, REAL high)
{
  const REAL y = x > high ? high : x;
  return y < low ? low : y;
}
""",
    "exp": """
/* By two powers of two, so that it ends in 0 and in infinity where it should. */
static inline float @exp(float x)
{
  const float c = @limited(x, 104.0f);
  const int n = @nearest(c * 1.44269504f), half = n / 2;
  const float r = (c - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
  const float last = 0.041666668f + r * (0.0083333333f + r * (0.0013888889f + r * 0.0001984127f));
  const float y = 1.0f + r * (1.0f + r * (0.5f + r * (0.16666667f + r * last)));
  return @kept(y * @power(half) * @power(n - half), x);
}
""",
    "expm1": """
static inline float @expm1(float x) { return @kept(@less_one(@limited(x, 87.0f)), x); }
""",
    "tanh": """
static inline float @tanh(float x)
{
  const float e = @less_one(@limited(x + x, 40.0f));
  return @kept(e / (e + 2.0f), x);
}
""",
    "sigmoid": """
static inline float @sigmoid(float x)
{
  return @kept(1.0f / (2.0f + @less_one(@limited(-x, 87.0f))), x);
}
""",
    "tanh_shrink": """
/* Near zero, where the difference would cancel, x^3 times a quotient of polynomials. */
static inline float @tanh_shrink(float x)
{
  const float z = x * x, of_p = 0.00030794644f + z * 7.6426693e-07f;
  const float of_q = 0.02587678f + z * (0.00032855463f + z * 7.776046e-07f);
  const float p = 0.33333316f + z * (0.022381245f + z * of_p);
  const float y = x * z * p / (1.0f + z * (0.46714297f + z * of_q));
  return fabsf(x) < 1.0f ? y : x - @tanh(x);
}
""",
}
_DOUBLE = {
    "exp": "\nstatic inline double @exp(double x) { return exp(x); }\n",
    "expm1": "\nstatic inline double @expm1(double x) { return expm1(x); }\n",
    "tanh": "\nstatic inline double @tanh(double x) { return tanh(x); }\n",
    "sigmoid": "\nstatic inline double @sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }\n",
    "tanh_shrink": "\nstatic inline double @tanh_shrink(double x) { return x - tanh(x); }\n",
}
# The body of a function of x.
_ONE_LINE = {
    "relu": "x < 0.0f ? 0.0f : x",
    "hard_sigmoid": "@clamp(x + 3.0f, 0.0f, 6.0f) * 0.16666666666666667f",
    "relu6": "@clamp(x, 0.0f, 6.0f)",
    "leaky_relu": "x < 0.0f ? x * 0.2f : x",
    "elu": "x > 0.0f ? x : @expm1(x)",
    "selu": "1.0507009873554805f * (x > 0.0f ? x : 1.6732632423543772f * @expm1(x))",
    "celu": "x > 0.0f ? x : @expm1(x)",
    "gelu": "0.5f * x * (1.0f + erff(x * 0.7071067811865476f))",
    "silu": "x * @sigmoid(x)",
    "hard_silu": "x * @hard_sigmoid(x)",
    "hard_tanh": "@clamp(x, -1.0f, 1.0f)",
    "softplus": "(x < 0.0f ? 0.0f : x) + log1pf(@exp(x < 0.0f ? x : -x))",
    "softsign": "x / (1.0f + fabsf(x))",
    "exponential": "@exp(x)",
    "mish": "x * @tanh(@softplus(x))",
    "log_sigmoid": "-@softplus(-x)",
    "hard_shrink": "fabsf(x) <= 0.5f ? 0.0f : x",
    "soft_shrink": "x > 0.5f ? x - 0.5f : (x < -0.5f ? x + 0.5f : x - x)",
    "squareplus": "0.5f * (x + sqrtf(x * x + 4.0f))",
    "sparse_plus": "x <= -1.0f ? 0.0f : (x < 1.0f ? 0.25f * (x + 1.0f) * (x + 1.0f) : x)",
    "sparse_sigmoid": "@clamp(0.5f * (x + 1.0f), 0.0f, 1.0f)",
}
# Of two numbers.
_OF_TWO = {
    "maximum": "a > b || a != a ? a : b",
    "minimum": "a < b || a != a ? a : b",
}
_MORE = {
    "mod": """
/* The remainder, with the divisor's sign. */
static inline REAL @mod(REAL a, REAL b)
{
  const REAL rest = fmodf(a, b);
  if (rest == 0.0f) return b < 0.0f ? -0.0f : 0.0f;
  return (rest < 0.0f) != (b < 0.0f) ? rest + b : rest;
}
""",
    "floordiv": """
static inline REAL @floordiv(REAL a, REAL b)
{
  return b == 0.0f ? a / b : rintf((a - @mod(a, b)) / b);
}
""",
    "total": """
/* A sum, of eight at a time, so that it's exact and quick. */
static inline REAL @total(const REAL *x, int count)
{
  REAL part[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}, sum = 0.0f;
  int i, j;
  for (i = 0; i + 8 <= count; i += 8)
    for (j = 0; j < 8; ++j) part[j] += x[i + j];
  for (; i < count; ++i) part[i % 8] += x[i];
  for (j = 0; j < 8; ++j) sum += part[j];
  return sum;
}
""",
    "digits": """
/* Numbers as whole multiples of a step, which is returned: the power of two by which the largest
   has 14 bits. Less than 2^-114, all of them, count as zeros; the step is NaN where one is none. */
static inline float @digits(const float *x, int count, int16_t *q)
{
  uint32_t most = 0, exponent;
  float factor = 0.0f;
  int i;
  for (i = 0; i < count; ++i) {
    const uint32_t size = @bits(x[i]) & 0x7fffffffu;
    most = size > most ? size : most;
  }
  exponent = most >> 23;
  if (exponent < 13 || exponent == 255) {
    for (i = 0; i < count; ++i) q[i] = 0;
    return exponent == 255 ? NAN : 0.0f;
  }
  factor = @number((266u - exponent) << 23);
  /* 1.5 * 2^23 added, the last bits are the whole number. */
  for (i = 0; i < count; ++i)
    q[i] = (int16_t)((int32_t)@bits(x[i] * factor + 12582912.0f) - 0x4b400000);
  return @number((exponent - 12u) << 23);
}
""",
    "softmax": """
/* In place. */
static void @softmax(REAL *x, int count)
{
  REAL most = x[0], by;
  int i;
  for (i = 1; i < count; ++i) most = x[i] <= most ? most : x[i];
  for (i = 0; i < count; ++i) x[i] = @exp(x[i] - most);
  by = 1.0f / @total(x, count);
  for (i = 0; i < count; ++i) x[i] *= by;
}
""",
}
ACTIVATIONS = frozenset((*_ONE_LINE, "tanh", "sigmoid", "tanh_shrink"))


def _table(dtype: str) -> dict[str, str]:
    lines = {
        **{name: ("REAL x", body) for name, body in _ONE_LINE.items()},
        **{name: ("REAL a, REAL b", body) for name, body in _OF_TWO.items()},
    }
    made = {
        name: f"\nstatic inline REAL @{name}({arguments}) {{ return {body}; }}\n"
        for name, (arguments, body) in lines.items()
    }
    return {**_FLOAT, **made, **_MORE, **(_DOUBLE if dtype == "float64" else {})}


def functions(names: Iterable[str], dtype: str) -> list[str]:
    """The templates of functions and of what they call, each before it's called.

    Args:
        names: Those of which there are.
        dtype: "float32" or "float64".
    """
    table, found = _table(dtype), dict[str, str]()

    def take(name: str) -> None:
        if name in found:
            return
        for called in re.findall(r"@(\w+)\(", table[name]):
            if called != name:
                take(called)
        found[name] = table[name]

    for name in sorted(names):
        take(name)
    return list(found.values())
