// The activations, each once: its value at x, and its slope given x and its value y there.
//
// needs_input: whether the slope uses x. Of the others only y is kept for the backward pass.
// The formulas and their constants are those of keras.activations.

#define VALUE template <class R> static OSTINATO_INLINE typename R::V value(typename R::V x)
#define SLOPE \
  template <class R> static OSTINATO_INLINE typename R::V slope(typename R::V x, typename R::V y)
#define FROM_OUTPUT static constexpr bool needs_input = false
#define FROM_INPUT static constexpr bool needs_input = true
#define C(number) splat<R>(static_cast<typename R::S>(number))

struct linear {
  FROM_OUTPUT;
  VALUE { return x; }
  SLOPE { return (void)x, (void)y, C(1); }
};
struct tanh {
  FROM_OUTPUT;
  VALUE { return tanh_of(x); }
  SLOPE { return (void)x, C(1) - y * y; }
};
struct sigmoid {
  FROM_OUTPUT;
  VALUE { return sigmoid_of(x); }
  SLOPE { return (void)x, y * (C(1) - y); }
};
struct relu {
  FROM_OUTPUT;
  VALUE { return x < C(0) ? C(0) : x; }
  SLOPE { return (void)x, y > C(0) ? C(1) : C(0); }
};
struct hard_sigmoid {
  FROM_OUTPUT;
  VALUE { return clamp<R>(x + C(3), 0, 6) * C(1.0 / 6); }
  SLOPE { return (void)x, (y > C(0)) & (y < C(1)) ? C(1.0 / 6) : C(0); }
};
struct relu6 {
  FROM_OUTPUT;
  VALUE { return clamp<R>(x, 0, 6); }
  SLOPE { return (void)x, (y > C(0)) & (y < C(6)) ? C(1) : C(0); }
};
struct leaky_relu {
  FROM_OUTPUT;
  VALUE { return x < C(0) ? x * C(0.2) : x; }
  SLOPE { return (void)x, y < C(0) ? C(0.2) : C(1); }
};
struct elu {
  FROM_OUTPUT;
  VALUE { return x > C(0) ? x : expm1_of(x); }
  SLOPE { return (void)x, y > C(0) ? C(1) : y + C(1); }
};
struct selu {
  static constexpr double kScale = 1.0507009873554805, kAlpha = 1.6732632423543772;
  FROM_OUTPUT;
  VALUE { return C(kScale) * (x > C(0) ? x : C(kAlpha) * expm1_of(x)); }
  SLOPE { return (void)x, y > C(0) ? C(kScale) : y + C(kScale * kAlpha); }
};
struct celu : elu {};  // the same at its default alpha of 1
struct gelu {
  FROM_INPUT;
  VALUE { return C(0.5) * x * (C(1) + erf_of(x * C(0.7071067811865476))); }
  SLOPE {
    (void)y;
    typename R::V density = C(0.3989422804014327) * exp_of(C(-0.5) * x * x);
    return C(0.5) * (C(1) + erf_of(x * C(0.7071067811865476))) + x * density;
  }
};
struct silu {
  FROM_INPUT;
  VALUE { return x * sigmoid_of(x); }
  SLOPE {
    (void)y;
    typename R::V s = sigmoid_of(x);
    return s * (C(1) + x * (C(1) - s));
  }
};
struct hard_silu {
  FROM_INPUT;
  VALUE { return x * hard_sigmoid::value<R>(x); }
  SLOPE {
    (void)y;
    typename R::V s = hard_sigmoid::value<R>(x);
    return s + x * hard_sigmoid::slope<R>(x, s);
  }
};
struct hard_tanh {
  FROM_OUTPUT;
  VALUE { return clamp<R>(x, -1, 1); }
  SLOPE { return (void)x, (y > C(-1)) & (y < C(1)) ? C(1) : C(0); }
};
struct softplus {
  FROM_INPUT;
  VALUE { return softplus_of<R>(x); }
  SLOPE { return (void)y, sigmoid_of(x); }
};
struct softsign {
  FROM_OUTPUT;
  VALUE { return x / (C(1) + absolute<R>(x)); }
  SLOPE {
    (void)x;
    typename R::V rest = C(1) - absolute<R>(y);
    return rest * rest;
  }
};
struct exponential {
  FROM_OUTPUT;
  VALUE { return exp_of(x); }
  SLOPE { return (void)x, y; }
};
struct mish {
  FROM_INPUT;
  VALUE { return x * tanh_of(softplus_of<R>(x)); }
  SLOPE {
    (void)y;
    typename R::V w = tanh_of(softplus_of<R>(x));
    return w + x * (C(1) - w * w) * sigmoid_of(x);
  }
};
struct log_sigmoid {
  FROM_INPUT;
  VALUE { return -softplus_of<R>(-x); }
  SLOPE { return (void)y, sigmoid_of(-x); }
};
struct hard_shrink {
  FROM_OUTPUT;
  VALUE { return absolute<R>(x) <= C(0.5) ? C(0) : x; }
  SLOPE { return (void)x, y == C(0) ? C(0) : C(1); }
};
struct soft_shrink {
  FROM_OUTPUT;
  VALUE { return x > C(0.5) ? x - C(0.5) : (x < C(-0.5) ? x + C(0.5) : x - x); }
  SLOPE { return (void)x, y == C(0) ? C(0) : C(1); }
};
struct tanh_shrink {
  FROM_INPUT;
  VALUE { return tanh_rest_of(x); }
  SLOPE {
    (void)y;
    typename R::V t = tanh_of(x);
    return t * t;
  }
};
struct squareplus {
  FROM_INPUT;
  VALUE { return C(0.5) * (x + sqrt_of(x * x + C(4))); }
  SLOPE { return (void)y, C(0.5) * (C(1) + x / sqrt_of(x * x + C(4))); }
};
struct sparse_plus {
  FROM_INPUT;
  VALUE {
    typename R::V s = x + C(1);
    return x <= C(-1) ? C(0) : (x < C(1) ? C(0.25) * s * s : x);
  }
  SLOPE { return (void)y, x <= C(-1) ? C(0) : (x < C(1) ? C(0.5) * (x + C(1)) : C(1)); }
};
struct sparse_sigmoid {
  FROM_OUTPUT;
  VALUE { return clamp<R>(C(0.5) * (x + C(1)), 0, 1); }
  SLOPE { return (void)x, (y > C(0)) & (y < C(1)) ? C(0.5) : C(0); }
};

#undef VALUE
#undef SLOPE
#undef FROM_OUTPUT
#undef FROM_INPUT
#undef C

// An activation over a column of a tile: `rows` rows of `width` vectors, `stride` apart.
template <class R>
struct Activation {
  typedef typename R::S S;
  bool needs_input;
  // out = value(in)
  void (*apply)(const S* in, S* out, I rows, I stride, I width);
  // From what is kept (x if needs_input, else y): its slope, and where needs_input its value.
  void (*recall)(const S* kept, S* value, S* slope, I rows, I stride);
  // value and slope at x
  void (*both)(const S* in, S* value, S* slope, I rows);
};

template <class R, class F>
struct Activate {
  typedef typename R::S S;
  typedef typename R::V V;
  static constexpr int L = R::kLanes;

  static void apply(const S* in, S* out, I rows, I stride, I width) {
    for (I r = 0; r < rows; ++r) {
      for (I w = 0; w < width; ++w) {
        store<R>(out + r * stride + w * L,
                 F::template value<R>(load<R>(in + r * stride + w * L)));
      }
    }
  }

  static void recall(const S* kept, S* value, S* slope, I rows, I stride) {
    for (I r = 0; r < rows; ++r) {
      V x = load<R>(kept + r * stride), y = x;
      if (F::needs_input) {
        y = F::template value<R>(x);
        store<R>(value + r * stride, y);
      }
      store<R>(slope + r * stride, F::template slope<R>(x, y));
    }
  }

  static void both(const S* in, S* value, S* slope, I rows) {
    for (I r = 0; r < rows; ++r) {
      V x = load<R>(in + r * L), y = F::template value<R>(x);
      store<R>(value + r * L, y);
      store<R>(slope + r * L, F::template slope<R>(x, y));
    }
  }
};

template <class R>
Activation<R> activation_at(int64_t number) {
  static const Activation<R> kAll[] = {
#define ACTIVATION(name)                                               \
  {name::needs_input, Activate<R, name>::apply, Activate<R, name>::recall, \
   Activate<R, name>::both},
#include "activations.def"
#undef ACTIVATION
  };
  return kAll[number];
}
