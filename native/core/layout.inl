// How a run is laid out: its columns, its rows, its packed weights, and who computes what.
//
// A *panel* is L neighbouring units. A tile's columns are one vector each, kCols of them a panel:
//   simple_rnn [a]   lstm [i f g o]   gru [n z r u]   gru_reset_before [n z r]
// where for gru n is the candidate's part of the inputs and u that of the state. The product with
// the inputs fills the columns [0, x_cols), that with the state [h_first, h_first + h_cols).
//
// Rows are in *slots*: sorted so that those running at one timestep come first, and dealt to the
// groups of threads in turn. Everything the core keeps to itself is by slot.

// --- memory ---------------------------------------------------------------------------------------

// Memory of one call, from the pool, given back at the end. Each block begins with the address of
// the one taken before it.
struct Arena {
  static constexpr size_t kChunk = size_t{1} << 19, kHeader = 64;
  void* last = nullptr;
  char* next = nullptr;
  size_t left = 0;
  bool failed = false;

  ~Arena() {
    while (last != nullptr) {
      void* before;
      __builtin_memcpy(&before, last, sizeof(before));
      give_buffer(last);
      last = before;
    }
  }

  // n values, aligned to 64 bytes; null, and `failed` set, where there's no memory.
  template <typename T>
  T* take(I n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 127) / 64 * 64;
    if (bytes > left) {
      const size_t size = (bytes > kChunk ? bytes : kChunk) + kHeader;
      char* block = static_cast<char*>(take_buffer(size));
      if (block == nullptr) {
        failed = true;
        return nullptr;
      }
      __builtin_memcpy(block, &last, sizeof(last));
      last = block;
      if (size - kHeader - bytes < left) return reinterpret_cast<T*>(block + kHeader);
      next = block + kHeader;
      left = size - kHeader;
    }
    T* result = reinterpret_cast<T*>(next);
    next += bytes;
    left -= bytes;
    return result;
  }
};

template <typename T>
void fill_zero(T* p, I n) {
  __builtin_memset(p, 0, static_cast<size_t>(n) * sizeof(T));
}

// --- what a kind of cell looks like ---------------------------------------------------------------

struct Columns {
  I cols;             // of a tile, a panel
  I x_cols;           // the inputs' are [0, x_cols)
  I h_first, h_cols;  // the state's
  I states;
  I gate_of_x[4];  // Keras's gate of each of the inputs' columns
  I gate_of_h[4];  // Keras's gate of each of the state's
  I gates;
};

constexpr Columns kSimple = {1, 1, 0, 1, 1, {0}, {0}, 1};
constexpr Columns kLstm = {4, 4, 0, 4, 2, {0, 1, 2, 3}, {0, 1, 2, 3}, 4};
constexpr Columns kGru = {4, 3, 1, 3, 1, {2, 0, 1}, {0, 1, 2}, 3};
constexpr Columns kGruBefore = {3, 3, 1, 2, 1, {2, 0, 1}, {0, 1}, 3};

const Columns& columns_of(I kind) {
  return kind == lstm ? kLstm : kind == gru ? kGru : kind == gru_reset_before ? kGruBefore : kSimple;
}

I blocks_of(I n, I size) { return (n + size - 1) / size; }

// A share of [0, n) for the i-th of `count`.
struct Span {
  I first, last;
  I size() const { return last - first; }
};
Span share(I n, I i, I count) { return {n * i / count, n * (i + 1) / count}; }
Span share(Span all, I i, I count) {
  const Span some = share(all.size(), i, count);
  return {all.first + some.first, all.first + some.last};
}

// What one of several threads does of the panels of units, of those of the inputs, and of the panels
// of the kernel's gradient. The last two are dealt the other way round, so that nobody has the larger
// share of all.
struct Shares {
  Span units, inputs, kernel;
};
Shares shares_of(I panels, I d_blocks, I i, I count) {
  const I other = count - 1 - i;
  return {share(panels, i, count), share(d_blocks, other, count), share(panels, other, count)};
}

// A member's part of the panels of a group's rows: panels [first, last), of the first only the slots
// from `begin` on, of the last only those before `end`.
struct Part {
  I first, last, begin, end;

  // Those of the slots that it has of a panel.
  Span of(I panel, Span slots) const {
    if (panel == first && slots.first < begin) slots.first = begin;
    if (panel == last - 1 && slots.last > end) slots.last = end;
    return slots.first < slots.last ? slots : Span{slots.first, slots.first};
  }
};

// Whole panels for each of `count` members; or, if `splits`, also a panel's rows for two or more, so
// that all have as much to do (LSTM B32 U300, 19 panels on two threads: 5 % less time).
Part part_of(I panels, I rows, I i, I count, bool splits) {
  const Span whole = share(panels, i, count);
  if (!splits) return {whole.first, whole.last, 0, rows};
  // Members meet at multiples of panels / count: in a panel's middle where that's no whole number.
  const I begin = panels * i % count * rows / count, end = panels * (i + 1) % count * rows / count;
  return {whole.first, end > 0 ? whole.last + 1 : whole.last, begin, end > 0 ? end : rows};
}

// Panels that are computed together from `p` on: one where a panel has several columns, else up to
// four, so that a tile has four columns.
I panels_together(I cols, I p, I last) { return cols > 1 ? 1 : (last - p < 4 ? last - p : 4); }

// --- rows -----------------------------------------------------------------------------------------

// The rows of one group of threads. At timestep t (in the order of the run) the first running[t] of
// its slots run; the others have ended, or not begun.
struct Rows {
  I first, count;  // slots
  const int32_t* running;
};

struct Schedule {
  I* row_of;           // (B,) slot -> row of the batch
  int32_t* begin;      // (B,) by slot: first valid timestep, T if there is none
  int32_t* running;    // (groups, T)
  Rows* groups;        // (groups,)
  I group_count;
  bool holes;          // whether a running row may be masked
  bool has_mask;
};

// Where a row begins (T if it has no valid timestep) and ends; returns its valid timesteps.
I read_bounds(const Run& run, I b, int32_t& first, int32_t& end) {
  const I T = run.T;
  I start = 0, stop = T, valid = 0;
  if (run.mask != nullptr) {
    const uint8_t* row = run.mask + b * T;
    auto at = [&](I t) { return row[run.spec.go_backwards ? T - 1 - t : t] != 0; };
    while (start < T && !at(start)) ++start;
    while (stop > start && !at(stop - 1)) --stop;
    if (start == T) stop = 0;
    for (I t = start; t < stop; ++t) valid += at(t);
  }
  first = static_cast<int32_t>(start);
  end = static_cast<int32_t>(stop);
  return valid;
}

// Sorts and deals the rows. Rows that end early are dropped at their end or, where that saves more,
// rows that begin late are taken in at their beginning.
bool make_schedule(const Run& run, I groups, Arena& arena, Schedule& s) {
  const I B = run.B, T = run.T;
  s.group_count = groups;
  s.has_mask = run.mask != nullptr;
  s.row_of = arena.take<I>(B);
  s.begin = arena.take<int32_t>(B);
  s.running = arena.take<int32_t>(groups * T);
  s.groups = arena.take<Rows>(groups);
  int32_t* first = arena.take<int32_t>(B);
  int32_t* end = arena.take<int32_t>(B);
  I* order = arena.take<I>(B);
  I* bucket = arena.take<I>(T + 2);
  if (arena.failed) return false;

  I after = 0, before = 0, valid = 0;
  for (I b = 0; b < B; ++b) {
    valid += read_bounds(run, b, first[b], end[b]);
    after += T - end[b];
    before += first[b];
  }
  // One of the two orders: by end, late first, or by beginning, early first.
  const bool by_end = after >= before;
  I spanned = 0;
  fill_zero(bucket, T + 2);
  auto key = [&](I b) -> I { return by_end ? T - end[b] : first[b]; };
  for (I b = 0; b < B; ++b) {
    ++bucket[key(b) + 1];
    spanned += by_end ? end[b] : T - first[b];
  }
  s.holes = s.has_mask && spanned != valid;
  for (I k = 0; k <= T; ++k) bucket[k + 1] += bucket[k];
  for (I b = 0; b < B; ++b) order[bucket[key(b)]++] = b;

  I slot = 0;
  for (I g = 0; g < groups; ++g) {
    Rows& rows = s.groups[g];
    int32_t* running = s.running + g * T;
    rows = {slot, 0, running};
    fill_zero(running, T);
    for (I i = g; i < B; i += groups, ++slot, ++rows.count) {
      const I b = order[i];
      s.row_of[slot] = b;
      s.begin[slot] = first[b];
      if (T == 0) continue;
      // counted where it starts (by_end: at 0, and it stops at its end)
      if (by_end && end[b] > 0) ++running[end[b] - 1];
      if (!by_end && first[b] < T) ++running[first[b]];
    }
    if (by_end) {
      for (I t = T - 2; t >= 0; --t) running[t] += running[t + 1];
    } else {
      for (I t = 1; t < T; ++t) running[t] += running[t - 1];
    }
  }
  return true;
}

// --- packed weights -------------------------------------------------------------------------------

// Weights (k, gates * U) -> [panels together][k][columns] vectors, zeros in lanes beyond U. The part
// that begins with panel p is at p * k * cols * L.
template <class R>
void pack_weights(const typename R::S* w, I k_total, I U, I gates, const I* gate_of, I cols,
                  Span panels, typename R::S* out) {
  constexpr I L = R::kLanes;
  for (I p = panels.first; p < panels.last;) {
    const I together = panels_together(cols, p, panels.last);
    typename R::S* to = out + p * k_total * cols * L;
    for (I k = 0; k < k_total; ++k) {
      for (I q = p; q < p + together; ++q) {
        for (I c = 0; c < cols; ++c, to += L) {
          const I unit = q * L;
          store<R>(to, load_part<R>(w + (k * gates + gate_of[c]) * U + unit, U - unit));
        }
      }
    }
    p += together;
  }
}

// The transpose, for products with the gradient dz: weights (n, gates * U) -> for output panels of
// n, up to four together, [k][n] with k running over (panel, column, lane) of dz. Zeros where the
// lane is beyond U or n.
template <class R>
void pack_transposed(const typename R::S* w, I n_total, I U, I gates, const I* gate_of, I cols,
                     Span panels, typename R::S* out) {
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  const I unit_panels = blocks_of(U, L), k_total = unit_panels * cols * L;
  for (I p = panels.first; p < panels.last;) {
    const I together = panels_together(1, p, panels.last);
    S* to = out + p * k_total * L;
    for (I u = 0; u < unit_panels; ++u) {
      const I lanes = U - u * L < L ? U - u * L : L;
      for (I c = 0; c < cols; ++c, to += L * together * L) {
        for (I q = 0; q < together; ++q) {
          const I n = (p + q) * L, most = n_total - n < L ? n_total - n : L;
          S block[L * L];
          for (I i = 0; i < L; ++i) {
            typename R::V row{};
            if (i < most) row = load_part<R>(w + ((n + i) * gates + gate_of[c]) * U + u * L, lanes);
            store<R>(block + i * L, row);
          }
          for (I l = 0; l < L; ++l) {
            S* line = to + (l * together + q) * L;
            for (I i = 0; i < L; ++i) line[i] = block[i * L + l];
          }
        }
      }
    }
    p += together;
  }
}

// Adds up the packed gradients of the groups and lays them out as Keras's weights (k, gates * U).
template <class R>
void unpack_weights(const typename R::S* packed, I parts, I part_stride, I k_total, I U, I gates,
                    const I* gate_of, I cols, Span panels, typename R::S* out) {
  constexpr I L = R::kLanes;
  for (I p = panels.first; p < panels.last;) {
    const I together = panels_together(cols, p, panels.last);
    const typename R::S* from = packed + p * k_total * cols * L;
    for (I k = 0; k < k_total; ++k) {
      for (I q = p; q < p + together; ++q) {
        for (I c = 0; c < cols; ++c, from += L) {
          typename R::V sum = load<R>(from);
          for (I i = 1; i < parts; ++i) sum += load<R>(from + i * part_stride);
          store_part<R>(out + (k * gates + gate_of[c]) * U + q * L, sum, U - q * L);
        }
      }
    }
    p += together;
  }
}

// Dropout masks (n, B, width) -> [n][block of L][slot][L].
template <class R>
void pack_masks(const typename R::S* masks, I n, I B, I width, const I* row_of,
                typename R::S* out) {
  constexpr I L = R::kLanes;
  for (I m = 0; m < n; ++m) {
    for (I block = 0; block < blocks_of(width, L); ++block) {
      for (I slot = 0; slot < B; ++slot, out += L) {
        const typename R::S* from = masks + (m * B + row_of[slot]) * width + block * L;
        store<R>(out, load_part<R>(from, width - block * L));
      }
    }
  }
}
