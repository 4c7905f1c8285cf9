// Where a MAP's values go: stored, added up or compared, over lines and columns.

// Where a chunk's output goes: element (l, c) to at[l * line + c * column].
template <class R>
struct Target {
  typename R::S* at;
  I line, column;
};

enum class Combine { store, add, largest };

template <class R, bool kLargest>
OSTINATO_INLINE typename R::V joined(typename R::V a, typename R::V b) {
  return kLargest ? operation::max::of<R>(a, b, a) : a + b;
}

// The sum of the lanes, or the largest.
template <class R, bool kLargest>
OSTINATO_INLINE typename R::S joined_lanes(typename R::V x) {
  typedef typename R::S S;
  S lanes[R::kLanes];
  __builtin_memcpy(lanes, &x, sizeof(x));
  int half = R::kLanes / 2;
  if constexpr (!kLargest && sizeof(x) == 64) {
    typedef S Half __attribute__((vector_size(32)));
    typedef S Quarter __attribute__((vector_size(16)));
    const Half halves = load_as<Half>(lanes) + load_as<Half>(lanes + R::kLanes / 2);
    __builtin_memcpy(lanes, &halves, sizeof(halves));
    const Quarter quarters = load_as<Quarter>(lanes) + load_as<Quarter>(lanes + R::kLanes / 4);
    __builtin_memcpy(lanes, &quarters, sizeof(quarters));
    half = R::kLanes / 8;
  }
  for (; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) {
      const S a = lanes[i], b = lanes[i + half];
      lanes[i] = !kLargest ? a + b : (a > b) | (a != a) ? a : b;
    }
  return lanes[0];
}

// The first n lanes of x, the others of y.
template <class R>
OSTINATO_INLINE typename R::V first_lanes(typename R::V x, I n, typename R::V y) {
  typename R::M number;
  for (int i = 0; i < R::kLanes; ++i) number[i] = i;
  return number < splat_int<R>(static_cast<typename R::Int>(n)) ? x : y;
}

template <class R>
OSTINATO_INLINE void combine_one(Combine how, typename R::S* to, typename R::S value) {
  const typename R::S old = *to;
  if (how == Combine::store) *to = value;
  else if (how == Combine::add) *to = old + value;
  else *to = (old > value) | (old != old) ? old : value;
}

// n lanes to at[0], at[column], ...
template <class R>
OSTINATO_INLINE void combine_lanes(Combine how, typename R::S* to, I column, typename R::V x, I n) {
  if (column == 1) {
    if (how == Combine::add) x = load_part<R>(to, n) + x;
    else if (how == Combine::largest) x = joined<R, true>(load_part<R>(to, n), x);
    return store_part<R>(to, x, n);
  }
  typename R::S lanes[R::kLanes];
  __builtin_memcpy(lanes, &x, sizeof(x));
  for (I i = 0; i < n; ++i) combine_one<R>(how, to + i * column, lanes[i]);
}

// The sum, or the largest, of a line of vectors: four at a time, or each would wait for the one before.
template <class R, bool kLargest>
OSTINATO_INLINE typename R::S reduced(const typename R::S* from, I step, I columns) {
  typedef typename R::V V;
  constexpr I L = R::kLanes;
  const V nothing = splat<R>(kLargest ? -static_cast<typename R::S>(__builtin_inf()) : 0);
  V all[4] = {nothing, nothing, nothing, nothing};
  I c = 0;
  for (; c + 4 * L <= columns; c += 4 * L, from += 4 * step)
    for (int i = 0; i < 4; ++i) all[i] = joined<R, kLargest>(all[i], load<R>(from + i * step));
  for (; c + L <= columns; c += L, from += step) all[0] = joined<R, kLargest>(all[0], load<R>(from));
  if (c < columns)
    all[1] = joined<R, kLargest>(all[1], first_lanes<R>(load<R>(from), columns - c, nothing));
  const V two = joined<R, kLargest>(all[0], all[1]), others = joined<R, kLargest>(all[2], all[3]);
  return joined_lanes<R, kLargest>(joined<R, kLargest>(two, others));
}

// at[0], at[column], ...: n of them.
template <class R>
OSTINATO_INLINE typename R::V gathered(const typename R::S* at, I column, I n) {
  if (column == 1) return load_part<R>(at, n);
  typename R::S lanes[R::kLanes] = {};
  for (I i = 0; i < n; ++i) lanes[i] = at[i * column];
  return load<R>(lanes);
}

// x and so many lines, `line` apart.
template <class R, bool kLargest>
OSTINATO_INLINE typename R::V reduced_lines(typename R::V x, const typename R::S* from, I line, I lines) {
  for (I l = 0; l < lines; ++l) x = joined<R, kLargest>(x, load<R>(from + l * line));
  return x;
}

// One line, or where `lines` is more the sum or the largest of them, whose values are `line` apart. In order:
// one after another to what is there, so that a sum doesn't depend on how many lines a chunk has.
template <class R, bool kLargest>
void put_line(const typename R::S* from, I line, I step, I lines, I columns, typename R::S* to,
              I column, Combine how, bool in_order) {
  typedef typename R::V V;
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  const bool across = column == 0 && columns > 1;
  if (across) {
    for (I l = 0; l < lines; ++l)
      combine_one<R>(l == 0 ? how : kLargest ? Combine::largest : Combine::add, to,
                     reduced<R, kLargest>(from + l * line, step, columns));
    return;
  }
  const I apart = columns == 1 ? 1 : column;
  for (I c = 0; c < columns; c += L, from += step) {
    const I n = columns - c < L ? columns - c : L;
    S* at = to + c * column;
    if (in_order && lines > 1 && how != Combine::store) {
      const V x = gathered<R>(at, apart, n);
      combine_lanes<R>(Combine::store, at, apart, reduced_lines<R, kLargest>(x, from, line, lines), n);
    } else {
      const V x = reduced_lines<R, kLargest>(load<R>(from), from + line, line, lines - 1);
      combine_lanes<R>(how, at, apart, x, n);
    }
  }
}

// Lines of columns next to each other: what most outputs are.
template <class R, Combine how>
void put_block(const Values<R>& from, const Target<R>& to, I lines, I columns) {
  constexpr I L = R::kLanes;
  const I full = columns / L * L, rest = columns - full;
  for (I l = 0; l < lines; ++l) {
    const typename R::S* x = from.at + l * from.line;
    typename R::S* y = to.at + l * to.line;
    for (I c = 0; c < full; c += L, x += from.step) {
      typename R::V value = load<R>(x);
      if (how == Combine::add) value = load<R>(y + c) + value;
      else if (how == Combine::largest) value = joined<R, true>(load<R>(y + c), value);
      store<R>(y + c, value);
    }
    if (rest > 0) combine_lanes<R>(how, y + full, 1, load<R>(x), rest);
  }
}

template <class R>
void put(const Values<R>& from, const Target<R>& to, I lines, I columns, Combine how,
         bool is_largest, bool in_order) {
  if (to.column == 1 && (to.line != 0 || lines == 1)) {
    const auto block = how == Combine::store ? put_block<R, Combine::store>
                       : how == Combine::add ? put_block<R, Combine::add>
                                             : put_block<R, Combine::largest>;
    return block(from, to, lines, columns);
  }
  const auto put_one = is_largest ? put_line<R, true> : put_line<R, false>;
  if (to.line == 0 && lines > 1)
    return put_one(from.at, from.line, from.step, lines, columns, to.at, to.column, how, in_order);
  for (I l = 0; l < lines; ++l)
    put_one(from.at + l * from.line, 0, from.step, 1, columns, to.at + l * to.line, to.column, how, in_order);
}
