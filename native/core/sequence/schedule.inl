// A run's rows, and who of a team of threads computes what.
//
// Rows are in *slots*: sorted so that those running at one timestep come first, and dealt to the
// groups of threads in turn. Everything the core keeps to itself is by slot.

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

// Rows of a group whose states are fresh before a timestep, ascending.
struct ResetRows {
  const int32_t* row;
  I count;
};

// The rows of one group of threads. At timestep t (in the order of the run) the first running[t] of
// its slots run; the others have ended, or not begun.
struct Rows {
  I first, count;  // slots
  const int32_t* running;
  // Those of `resets(t)`: reset_rows[reset_at[t]] and on, to reset_at[t + 1]. Null where no row ever is.
  const I* reset_at;
  const int32_t* reset_rows;

  ResetRows resets(I t) const {
    if (reset_at == nullptr) return {nullptr, 0};
    return {reset_rows + reset_at[t], reset_at[t + 1] - reset_at[t]};
  }
};

struct Schedule {
  I* row_of;           // (B,) slot -> row of the batch
  int32_t* begin;      // (B,) by slot: first valid timestep, T if there is none
  int32_t* running;    // (groups, T)
  Rows* groups;        // (groups,)
  I group_count;
  bool holes;          // whether a running row may be masked
  bool has_mask;
  // Where there are both resets and holes, (T, B) by slot: whether the row has had a valid timestep
  // since it was last reset, if it ever was; else null.
  uint8_t* shown;
};

// Where a flag (B, T) of a row is, in the order of the run; false everywhere without such flags.
struct RowFlags {
  const uint8_t* row;
  I T;
  bool backwards;

  RowFlags(const Run& run, const uint8_t* flags, I b)
      : row(flags == nullptr ? nullptr : flags + b * run.T), T(run.T), backwards(run.spec.go_backwards) {}
  bool operator()(I t) const { return row != nullptr && row[backwards ? T - 1 - t : t] != 0; }
};

// Where a row begins (T if it has no valid timestep) and ends; returns its valid timesteps. It runs where
// it's reset, and from a reset after its last valid timestep to the end, since it holds another output.
I read_bounds(const Run& run, I b, int32_t& first, int32_t& end) {
  const I T = run.T;
  I start = 0, stop = T, valid = 0;
  if (run.mask != nullptr) {
    const RowFlags at(run, run.mask, b), resets(run, run.resets, b);
    while (start < T && !at(start) && !resets(start)) ++start;
    while (stop > start && !at(stop - 1) && !resets(stop - 1)) --stop;
    if (start == T) stop = 0;
    else if (!at(stop - 1)) stop = T;
    for (I t = start; t < stop; ++t) valid += at(t);
  }
  first = static_cast<int32_t>(start);
  end = static_cast<int32_t>(stop);
  return valid;
}

// Lists the resets of a group's rows.
bool list_resets(const Run& run, const Schedule& s, Rows& rows, Arena& arena) {
  const I T = run.T;
  I* at = arena.take<I>(T + 2);
  if (arena.failed) return false;
  fill_zero(at, T + 2);
  auto each = [&](auto f) {
    for (I r = 0; r < rows.count; ++r) {
      const RowFlags resets(run, run.resets, s.row_of[rows.first + r]);
      for (I t = 0; t < T; ++t) {
        if (resets(t)) f(t, r);
      }
    }
  };
  each([&](I t, I) { ++at[t + 2]; });
  for (I t = 1; t <= T; ++t) at[t + 1] += at[t];
  int32_t* listed = arena.take<int32_t>(at[T + 1]);
  if (arena.failed) return false;
  each([&](I t, I r) { listed[at[t + 1]++] = static_cast<int32_t>(r); });
  rows.reset_at = at, rows.reset_rows = listed;
  return true;
}

// Which outputs are shown, where rows are reset.
void mark_shown(const Run& run, Schedule& s) {
  for (I slot = 0; slot < run.B; ++slot) {
    const RowFlags valid(run, run.mask, s.row_of[slot]), resets(run, run.resets, s.row_of[slot]);
    bool is_shown = false;
    for (I t = 0; t < run.T; ++t) {
      is_shown = valid(t) || (is_shown && !resets(t));
      s.shown[t * run.B + slot] = is_shown;
    }
  }
}

bool read_resets(const Run& run, Arena& arena, Schedule& s) {
  for (I g = 0; g < s.group_count; ++g) {
    if (!list_resets(run, s, s.groups[g], arena)) return false;
  }
  if (!s.holes) return true;
  s.shown = arena.take<uint8_t>(run.T * run.B);
  if (!arena.failed) mark_shown(run, s);
  return !arena.failed;
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
    rows = {slot, 0, running, nullptr, nullptr};
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
  s.shown = nullptr;
  return run.resets == nullptr || read_resets(run, arena, s);
}

// Dropout masks (n, B, width) -> [n][block of L][slot][L].
template <class R>
void pack_masks(const typename R::Element* masks, I n, I B, I width, const I* row_of,
                typename R::S* out) {
  constexpr I L = R::kLanes;
  for (I m = 0; m < n; ++m) {
    for (I block = 0; block < blocks_of(width, L); ++block) {
      for (I slot = 0; slot < B; ++slot, out += L) {
        const typename R::Element* from = masks + (m * B + row_of[slot]) * width + block * L;
        store<R>(out, read<R>(from, width - block * L));
      }
    }
  }
}
