// Routines as plain loops in double: what the kernels' results are compared with. It reads the encoding
// as routine.h has it, and shares no code with the core.
#include <cmath>
#include <functional>
#include <map>

#include "naive_activations.h"
#include "routines.h"

namespace ostinato::tests {
namespace {

double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
double modulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}
bool is_nan(double a, double b) { return std::isnan(a) || std::isnan(b); }

using Function = std::function<double(double, double, double)>;

std::map<std::string, Function> make_operations() {
  std::map<std::string, Function> all;
#define ONE(name, expression) \
  all[#name] = [](double a, double b, double c) -> double { return (void)a, (void)b, (void)c, expression; };
  ONE(neg, -a) ONE(abs, std::abs(a)) ONE(sign, sign(a)) ONE(exp, std::exp(a))
  ONE(expm1, std::expm1(a)) ONE(log, std::log(a)) ONE(log1p, std::log1p(a))
  ONE(sqrt, std::sqrt(a)) ONE(rsqrt, 1 / std::sqrt(a)) ONE(square, a * a) ONE(reciprocal, 1 / a)
  ONE(erf, std::erf(a)) ONE(sin, std::sin(a)) ONE(cos, std::cos(a)) ONE(tan, std::tan(a))
  ONE(arcsin, std::asin(a)) ONE(arccos, std::acos(a)) ONE(arctan, std::atan(a))
  ONE(sinh, std::sinh(a)) ONE(cosh, std::cosh(a)) ONE(arcsinh, std::asinh(a))
  ONE(arccosh, std::acosh(a)) ONE(arctanh, std::atanh(a)) ONE(floor, std::floor(a))
  ONE(ceil, std::ceil(a)) ONE(round, std::nearbyint(a)) ONE(trunc, std::trunc(a))
  ONE(logical_not, a == 0) ONE(isnan, std::isnan(a)) ONE(isinf, std::isinf(a))
  ONE(isfinite, std::isfinite(a))
  ONE(add, a + b) ONE(sub, a - b) ONE(mul, a * b) ONE(div, a / b) ONE(pow, std::pow(a, b))
  ONE(max, is_nan(a, b) ? NAN : std::fmax(a, b)) ONE(min, is_nan(a, b) ? NAN : std::fmin(a, b))
  ONE(mod, modulo(a, b)) ONE(floordiv, b == 0 ? a / b : std::nearbyint((a - modulo(a, b)) / b))
  ONE(arctan2, std::atan2(a, b)) ONE(hypot, std::hypot(a, b))
  ONE(gt, a > b) ONE(ge, a >= b) ONE(lt, a < b) ONE(le, a <= b) ONE(eq, a == b) ONE(ne, a != b)
  ONE(logical_and, a != 0 && b != 0) ONE(logical_or, a != 0 || b != 0)
  ONE(logical_xor, (a != 0) != (b != 0)) ONE(select, a != 0 ? b : c) ONE(fma, a * b + c)
  ONE(clip, a < b ? b : a > c ? c : a)
#undef ONE
#define ACTIVATION(name)                                                             \
  all[#name] = [](double x, double, double) { return naive::value::name(x); };       \
  all["d_" #name] = [](double x, double, double) { return naive::slope::name(x); };
#include "../core/activations.def"
#undef ACTIVATION
  return all;
}

const Function& function_of(const std::string& name) {
  static const std::map<std::string, Function> all = make_operations();
  return all.at(name);
}

class Plainly {
 public:
  Plainly(const Encoding& e, RoutineNumbers& n) : e_(e), n_(n) {
    for (size_t r = 0; r < e.results.size(); ++r)
      if (e.results[r].kind == 2 || e.results[r].kind == 4)
        for (double& value : n.results[r]) value = 0;
    for (const Encoding::Three& value : e.scratch)
      scratch_.emplace_back(size_t(n.B * value.a), std::nan(""));
    for (const Encoding::Three& carry : e.carries) {
      before_.push_back(n.operands[size_t(carry.b)]);
      after_.emplace_back(before_.back().size(), std::nan(""));
      if (carry.c < 0) continue;
      for (int64_t b = 0; b < n.B; ++b)
        for (int64_t i = 0; i < carry.a; ++i)
          *saved(carry.c, 0, b, i) = before_.back()[size_t(b * carry.a + i)];
    }
  }

  void run() {
    for (int64_t k = 0; k < n_.T; ++k) {
      s_ = e_.reverse ? n_.T - 1 - k : k;
      for (const Ints& instruction : e_.body) step(instruction);
      for (size_t c = 0; c < before_.size(); ++c) {
        before_[c] = after_[c];
        for (double& value : after_[c]) value = std::nan("");
      }
    }
    for (size_t r = 0; r < e_.results.size(); ++r)
      if (e_.results[r].kind == 3) n_.results[r] = before_[size_t(e_.results[r].which)];
  }

 private:
  int64_t time(int64_t order) const {
    return (order ? n_.flip_outputs : n_.go_backwards) ? n_.T - 1 - s_ : s_;
  }

  double* saved(int64_t v, int64_t s, int64_t b, int64_t i) {
    int64_t before = 0;
    for (int64_t u = 0; u < v; ++u) before += e_.saved[size_t(u)].a;
    const int64_t size = e_.saved[size_t(v)].a;
    const int64_t at = (n_.T + 1) * n_.B * before + (s * n_.B + b) * size + i;
    for (size_t o = 0; o < e_.operands.size(); ++o)
      if (e_.operands[o].kind == 4) return &n_.operands[o][size_t(at)];
    for (size_t r = 0; r < e_.results.size(); ++r)
      if (e_.results[r].kind == 5) return &n_.results[r][size_t(at)];
    return nullptr;
  }

  double* operand(int64_t index, int64_t b, int64_t i) {
    const Encoding::Operand& o = e_.operands[size_t(index)];
    Numbers64& data = n_.operands[size_t(index)];
    const int64_t size = product_of(o.dims);
    if (o.kind == 2) return &data[size_t(i)];
    const bool has_steps = o.kind == 0 || o.kind == 3 || (o.kind == 5 && n_.return_sequences);
    if (has_steps) return &data[size_t((b * n_.T + time(o.order)) * size + i)];
    if (o.kind == 5 && s_ < n_.T - 1) return &(zero_ = 0);
    return &data[size_t(b * size + i)];
  }

  double* result(int64_t index, int64_t b, int64_t i) {
    const Encoding::Result& r = e_.results[size_t(index)];
    Numbers64& data = n_.results[size_t(index)];
    const int64_t size = product_of(r.dims);
    if (r.kind == 4) return &data[size_t(i)];
    const bool has_steps = r.kind == 0 || (r.kind == 1 && n_.return_sequences);
    return &data[size_t((has_steps ? b * n_.T + time(r.order) : b) * size + i)];
  }

  double* at(int64_t space, int64_t index, int64_t b, int64_t i) {
    const size_t k = size_t(index);
    switch (space) {
      case kOperand: return operand(index, b, i);
      case kResult: return result(index, b, i);
      case kCarry: return &before_[k][size_t(b * e_.carries[k].a + i)];
      case kNext:
        if (e_.carries[k].c >= 0) after_kept_ = saved(e_.carries[k].c, s_ + 1, b, i);
        return &after_[k][size_t(b * e_.carries[k].a + i)];
      case kScratch: return &scratch_[k][size_t(b * e_.scratch[k].a + i)];
      case kSaved: return saved(index, s_, b, i);
      case kSavedNext: return saved(index, s_ + 1, b, i);
    }
    return &(literal_ = e_.floats[k]);
  }

  void write(int64_t space, int64_t index, int64_t b, int64_t i, double value) {
    *at(space, index, b, i) = value;
    if (space == kNext && e_.carries[size_t(index)].c >= 0) *after_kept_ = value;
  }

  void step(const Ints& all) {
    const int64_t* p = all.data() + 2;
    if (all[0] == 1) product(p);
    else if (all[0] == 2) outer(p);
    else map(p);
  }

  void product(const int64_t* p) {
    const int64_t m = p[4], K = p[5], N = p[6], weight = p[7], transposed = p[8];
    const int64_t* out = p + 9;
    for (int64_t b = 0; b < n_.B; ++b)
      for (int64_t place = 0; place < m; ++place)
        for (int64_t j = 0; j < N; ++j) {
          const int64_t to = out[2] + place * out[3] + j;
          double sum = out[4] == 1 ? *at(out[0], out[1], b, to)
                       : out[4] == 2 ? *operand(out[5], b, out[6] + j) : 0;
          for (int64_t k = 0; k < K; ++k)
            sum += *at(p[0], p[1], b, p[2] + place * p[3] + k) *
                   *operand(weight, b, transposed ? j * K + k : k * N + j);
          write(out[0], out[1], b, to, sum);
        }
  }

  void outer(const int64_t* p) {
    const int64_t *z = p + 4, m = p[8], K = p[9], N = p[10];
    for (int64_t b = 0; b < n_.B; ++b)
      for (int64_t place = 0; place < m; ++place)
        for (int64_t k = 0; k < K; ++k)
          for (int64_t j = 0; j < N; ++j)
            *result(p[11], b, p[12] + k * N + j) +=
                *at(p[0], p[1], b, p[2] + place * p[3] + k) *
                *at(z[0], z[1], b, z[2] + place * z[3] + j);
  }

  void map(const int64_t* p) {
    size_t n_names = 0;
    const char* const* names = routine_operations(&n_names);
    const int64_t n = *p++;
    const Ints dims(p, p + n);
    p += n;
    const int64_t n_in = *p++, *in = p;
    p += n_in * (3 + n);
    const int64_t n_ops = *p++, *ops = p;
    p += n_ops * 4;
    const int64_t n_out = *p++, *out = p;
    const auto place = [&](const int64_t* ref, const int64_t* strides, const Ints& c) {
      int64_t where = ref[2];
      for (int64_t d = 0; d < n; ++d) where += strides[d] * c[size_t(d)];
      return where;
    };
    const auto each = [&](auto visit) {
      for (int64_t b = 0; b < n_.B; ++b)
        for (int64_t e = 0; e < product_of(dims); ++e) {
          Ints c(size_t(n), 0);
          int64_t rest = e;
          for (int64_t d = n; d-- > 0;) c[size_t(d)] = rest % dims[size_t(d)], rest /= dims[size_t(d)];
          visit(b, c);
        }
    };
    for (int64_t i = 0; i < n_out; ++i) {
      const int64_t* o = out + i * (5 + n);
      if (o[1] != 1 && o[1] != 3) continue;
      each([&](int64_t b, const Ints& c) {
        write(o[2], o[3], b, place(o + 2, o + 5, c), o[1] == 1 ? 0 : -INFINITY);
      });
    }
    each([&](int64_t b, const Ints& c) {
      Numbers64 registers;
      for (int64_t i = 0; i < n_in; ++i) {
        const int64_t* ref = in + i * (3 + n);
        registers.push_back(*at(ref[0], ref[1], b, place(ref, ref + 3, c)));
      }
      for (int64_t k = 0; k < n_ops; ++k) {
        const int64_t* o = ops + 4 * k;
        const auto of = [&](int64_t r) { return r < 0 ? 0 : registers[size_t(r)]; };
        registers.push_back(function_of(names[o[0]])(of(o[1]), of(o[2]), of(o[3])));
      }
      for (int64_t i = 0; i < n_out; ++i) {
        const int64_t *o = out + i * (5 + n), to = place(o + 2, o + 5, c);
        const double value = registers[size_t(o[0])], old = *at(o[2], o[3], b, to);
        const double largest = is_nan(old, value) ? NAN : std::fmax(old, value);
        write(o[2], o[3], b, to, o[1] == 0 ? value : o[1] == 3 ? largest : old + value);
      }
    });
  }

  const Encoding& e_;
  RoutineNumbers& n_;
  int64_t s_ = 0;
  std::vector<Numbers64> scratch_, before_, after_;
  double zero_ = 0, literal_ = 0;
  double* after_kept_ = nullptr;
};

}  // namespace

void run_plainly(const Encoding& e, RoutineNumbers& numbers) { Plainly(e, numbers).run(); }

double plain_operation(const std::string& name, double a, double b, double c) {
  return function_of(name)(a, b, c);
}

}  // namespace ostinato::tests
