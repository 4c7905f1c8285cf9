// What products take: operands as the kernels of R lay them out, and one term of a sum.
//
// `Words` counts along what a product sums over: numbers, or pairs of them where R has kPairs.

template <class R>
constexpr I words_of(I n) {
  return R::kPairs ? (n + 1) / 2 : n;
}

// sum + left * right; of pairs, both products.
template <class R>
OSTINATO_INLINE typename R::V add_term(typename R::V sum, typename R::V left, typename R::V right) {
  if constexpr (R::kPairs) return add_pairs(sum, left, right);
  else return sum + left * right;
}

// `rows` rows of `n` numbers, a_row apart, as words that lie to_row apart: zeros in a word's second half
// where n is odd, anything beyond it up to a multiple of kLanes.
template <class R>
void store_words(const typename R::S* a, I a_row, I rows, I n, typename R::S* to, I to_row) {
  static_assert(R::kPairs, "other operands are read where they are");
  constexpr I L = R::kLanes;
  for (I r = 0; r < rows; ++r, a += a_row, to += to_row)
    for (I k = 0; k < n; k += 2 * L)
      store_neighbours(to + k / 2, load_part<R>(a + k, n - k),
                       n - k > L ? load_part<R>(a + k + L, n - k - L) : typename R::V{});
}

// The first n lanes of a caller's array, zeros beyond; and back.
template <class R>
OSTINATO_INLINE typename R::V read(const typename R::Element* p, I n) {
  if constexpr (sizeof(*p) == sizeof(typename R::S)) return load_part<R>(p, n);
  else return read_bfloat16(p, n);
}
template <class R>
OSTINATO_INLINE void write(typename R::Element* p, typename R::V v, I n) {
  if constexpr (sizeof(*p) == sizeof(typename R::S)) store_part<R>(p, v, n);
  else write_bfloat16(p, v, n);
}

// kLanes neighbours along what's summed over, as kWords words; of pairs only the first n, zeros beyond
// (a product reads the number that shares a word with the last, and infinity times zero isn't zero).
template <class R>
OSTINATO_INLINE void store_operand(typename R::S* to, typename R::V v, I n) {
  if constexpr (R::kPairs) store_bfloat16(to, v, n);
  else (void)n, store<R>(to, v);
}

// Rows [first, last) of (row)[lane] as the operand of a product that sums over rows: a word holds a
// lane of one row, or of two. `first` is even; row(r) is called once for each.
template <class R, class Row>
OSTINATO_INLINE void store_rows(typename R::S* to, I stride, I first, I last, Row row) {
  if constexpr (R::kPairs) {
    for (I r = first; r < last; r += 2) {
      const typename R::V one = row(r), other = r + 1 < last ? row(r + 1) : typename R::V{};
      store<R>(to + r / 2 * stride, joined_rows(one, other));
    }
  } else {
    for (I r = first; r < last; ++r) store<R>(to + r * stride, row(r));
  }
}
