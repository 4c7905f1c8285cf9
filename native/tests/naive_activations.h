// The activations of activations.def, and their slopes, as plain functions of one double. NaN
// passes through all of them.
#pragma once

#include <cmath>
#include <cstdint>

namespace ostinato::naive {

inline double clip(double x, double low, double high) {
  return x < low ? low : x > high ? high : x;
}
inline double inside(double x, double low, double high) { return x > low && x < high ? 1 : 0; }
inline double logistic(double x) { return 1 / (1 + std::exp(-x)); }
inline double log1p_exp(double x) { return (x < 0 ? 0 : x) + std::log1p(std::exp(-std::abs(x))); }
// NaN where x is NaN, else zero: for functions that are flat around zero.
inline double zero_like(double x) { return std::isnan(x) ? x : 0; }

constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;
constexpr double kSqrtHalf = 0.70710678118654752440;
constexpr double kInvSqrt2Pi = 0.39894228040143267794;

namespace value {
inline double linear(double x) { return x; }
inline double tanh(double x) { return std::tanh(x); }
inline double sigmoid(double x) { return logistic(x); }
inline double relu(double x) { return x < 0 ? 0 : x; }
inline double hard_sigmoid(double x) { return clip(x + 3, 0, 6) / 6; }
inline double relu6(double x) { return clip(x, 0, 6); }
inline double leaky_relu(double x) { return x < 0 ? 0.2 * x : x; }
inline double elu(double x) { return x > 0 ? x : std::expm1(x); }
inline double selu(double x) { return kSeluScale * (x > 0 ? x : kSeluAlpha * std::expm1(x)); }
inline double celu(double x) { return elu(x); }
inline double gelu(double x) { return 0.5 * x * (1 + std::erf(x * kSqrtHalf)); }
inline double silu(double x) { return x * logistic(x); }
inline double hard_silu(double x) { return x * hard_sigmoid(x); }
inline double hard_tanh(double x) { return clip(x, -1, 1); }
inline double softplus(double x) { return log1p_exp(x); }
inline double softsign(double x) { return x / (1 + std::abs(x)); }
inline double exponential(double x) { return std::exp(x); }
inline double mish(double x) { return x * std::tanh(log1p_exp(x)); }
inline double log_sigmoid(double x) { return -log1p_exp(-x); }
inline double hard_shrink(double x) { return std::abs(x) <= 0.5 ? 0 : x; }
inline double soft_shrink(double x) {
  return x > 0.5 ? x - 0.5 : x < -0.5 ? x + 0.5 : zero_like(x);
}
inline double tanh_shrink(double x) { return x - std::tanh(x); }
inline double squareplus(double x) { return 0.5 * (x + std::sqrt(x * x + 4)); }
inline double sparse_plus(double x) {
  return x <= -1 ? 0 : x >= 1 ? x : 0.25 * (x + 1) * (x + 1);
}
inline double sparse_sigmoid(double x) { return 0.5 * clip(x + 1, 0, 2); }
}  // namespace value

namespace slope {
inline double linear(double) { return 1; }
inline double tanh(double x) {
  double y = std::tanh(x);
  return 1 - y * y;
}
inline double sigmoid(double x) {
  double y = logistic(x);
  return y * (1 - y);
}
inline double relu(double x) { return x > 0 ? 1 : 0; }
inline double hard_sigmoid(double x) { return inside(x, -3, 3) / 6; }
inline double relu6(double x) { return inside(x, 0, 6); }
inline double leaky_relu(double x) { return x < 0 ? 0.2 : 1; }
inline double elu(double x) { return x > 0 ? 1 : std::exp(x); }
inline double selu(double x) { return kSeluScale * (x > 0 ? 1 : kSeluAlpha * std::exp(x)); }
inline double celu(double x) { return elu(x); }
inline double gelu(double x) {
  return 0.5 * (1 + std::erf(x * kSqrtHalf)) + x * kInvSqrt2Pi * std::exp(-0.5 * x * x);
}
inline double silu(double x) {
  double y = logistic(x);
  return y + x * y * (1 - y);
}
inline double hard_silu(double x) { return value::hard_sigmoid(x) + x * hard_sigmoid(x); }
inline double hard_tanh(double x) { return inside(x, -1, 1); }
inline double softplus(double x) { return logistic(x); }
inline double softsign(double x) {
  double d = 1 + std::abs(x);
  return 1 / (d * d);
}
inline double exponential(double x) { return std::exp(x); }
inline double mish(double x) {
  double y = std::tanh(log1p_exp(x));
  return y + x * (1 - y * y) * logistic(x);
}
inline double log_sigmoid(double x) { return logistic(-x); }
inline double hard_shrink(double x) { return std::abs(x) > 0.5 ? 1 : 0; }
inline double soft_shrink(double x) { return std::abs(x) > 0.5 ? 1 : 0; }
inline double tanh_shrink(double x) {
  double y = std::tanh(x);
  return y * y;
}
inline double squareplus(double x) { return 0.5 * (1 + x / std::sqrt(x * x + 4)); }
inline double sparse_plus(double x) { return value::sparse_sigmoid(x); }
inline double sparse_sigmoid(double x) { return 0.5 * inside(x, -1, 1); }
}  // namespace slope

struct Activation {
  double (*value)(double);
  double (*slope)(double);
};

inline Activation activation(int64_t number) {
  static const Activation all[] = {
#define ACTIVATION(name) {value::name, slope::name},
#include "../core/activations.def"
#undef ACTIVATION
  };
  return all[number];
}

}  // namespace ostinato::naive
