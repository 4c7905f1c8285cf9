// What looks back over timesteps: windows of the last few, and pools of all so far. Their states lie in
// rows' records, and stay there: of a window with wide gaps a timestep reads a few rows of many.

// A window's last timesteps, a ring of rows of D; the oldest is number `*oldest`. Rooms begin with that.
template <class S>
struct Ring {
  int64_t* oldest;
  S* rows;

  static Ring of(uint8_t* record) {
    return {reinterpret_cast<int64_t*>(record), reinterpret_cast<S*>(record + sizeof(int64_t))};
  }
};

template <class R>
struct Windows {
  typedef typename R::S S;
  typedef typename R::V V;
  static constexpr I L = R::kLanes;

  static const S* in(const void* p) { return static_cast<const S*>(p); }
  static S* to(void* p) { return static_cast<S*>(p); }

  // Into `row` (taps, D): what the window holds, where the last is x; and x goes into the ring.
  static void move(const Step& s, Ring<S> ring, const S* x, I N, I r, S* row) {
    const I D = s.D, span = span_of(s.op), last = s.op.taps - 1;
    for (I k = 0; k < last; ++k) {
      I slot = *ring.oldest + k * s.op.dilation;
      slot = slot < span ? slot : slot - span;
      __builtin_memcpy(row + k * D, ring.rows + slot * D, sizeof(S) * D);
    }
    S* newest = row + last * D;
    for (I b = 0; b * L < D; ++b) store_part<R>(newest + b * L, load<R>(x + (b * N + r) * L), D - b * L);
    if (span == 0) return;
    __builtin_memcpy(ring.rows + *ring.oldest * D, newest, sizeof(S) * D);
    *ring.oldest = *ring.oldest + 1 == span ? 0 : *ring.oldest + 1;
  }

  // The block at `row` of all taps made one.
  static V join(const Step& s, const S* row, I first, I left) {
    const I D = s.D;
    const S* kernel = s.op.kind == window_weighted ? in(s.kernel) + first : nullptr;
    V all = load_part<R>(row, left);
    if (kernel != nullptr) all = all * load_part<R>(kernel, left);
    for (I k = 1; k < s.op.taps; ++k) {
      const V x = load_part<R>(row + k * D, left);
      if (s.op.kind == window_largest) all = (all > x) | (all != all) ? all : x;
      else if (s.op.kind == window_mean) all = all + x;
      else all = all + x * load_part<R>(kernel + k * D, left);
    }
    return s.op.kind == window_mean ? all / splat<R>(static_cast<S>(s.op.taps)) : all;
  }

  static void window(const Step& s, const StepMemory& m) {
    const I N = m.N, width = s.op.width;
    S* row = to(s.taps);
    for (I r = 0; r < N; ++r) {
      move(s, Ring<S>::of(m.records[r] + s.record), in(s.first), N, r, row);
      for (I b = 0; b * L < width; ++b) {
        const I left = width - b * L;
        const V made = s.op.kind == window_all ? load_part<R>(row + b * L, left)
                                               : join(s, row + b * L, b * L, left);
        store<R>(to(s.out) + (b * N + r) * L, made);
      }
    }
  }

  static void largest(const Step& s, S* kept, I N, I r) {
    for (I b = 0; b * L < s.D; ++b) {
      const I left = s.D - b * L, at = (b * N + r) * L;
      const V old = load_part<R>(kept + b * L, left), x = load<R>(in(s.first) + at);
      const V made = (old > x) | (old != old) ? old : x;
      store_part<R>(kept + b * L, made, left);
      store<R>(to(s.out) + at, made);
    }
  }

  // The sum, what its roundings have lost (Kahan), and how many: in thousands and ones, as a float alone
  // would stop at 2^24.
  static void mean(const Step& s, S* sums, I N, I r) {
    const I D = s.D;
    S *lost = sums + D, *count = sums + 2 * D;
    const bool valid = s.mask_in == nullptr || s.mask_in[r] != 0;
    count[1] += static_cast<S>(valid);
    if (count[1] >= kThousands) count[0] += 1, count[1] -= kThousands;
    const V by = splat<R>(count[0] * kThousands + count[1]);
    for (I b = 0; b * L < D; ++b) {
      const I left = D - b * L, at = (b * N + r) * L;
      V sum = load_part<R>(sums + b * L, left);
      if (valid) {
        const V x = load<R>(in(s.first) + at) - load_part<R>(lost + b * L, left), made = sum + x;
        const V off = (made - sum) - x;
        store_part<R>(lost + b * L, off - off == V{} ? off : V{}, left);  // of an infinite sum nothing
        store_part<R>(sums + b * L, made, left);
        sum = made;
      }
      store<R>(to(s.out) + at, sum / by);
    }
  }

  static void pool(const Step& s, const StepMemory& m) {
    for (I r = 0; r < m.N; ++r) {
      S* kept = reinterpret_cast<S*>(m.records[r] + s.record);
      if (s.op.kind == pool_mean) mean(s, kept, m.N, r);
      else largest(s, kept, m.N, r);
    }
  }

  static constexpr S kThousands = 4096;
};
