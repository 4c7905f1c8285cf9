// Sequences with weights of int8, for inference: the cell of a stream (step/cells.inl), timestep after
// timestep, where each row of the batch is a stream.
//
// Where a timestep is worth it, the threads of a team share its units: each packs and computes its own
// panels, and they meet once in a timestep (twice for a late product), as every unit needs all states.
// The numbers of a row are made digits by each thread for itself, which costs less than meeting again.

struct Int8Run {
  static constexpr I L = F32::kLanes;

  const Run* run;
  MultiplyDigits multiply;
  const CellLayout* c;
  I B, D, U, panels, members;
  I chunk;  // timesteps whose inputs' product is done at once: chunk_of
  Step step;
  float* scratch;
  float* projected;  // [panel][timestep of the chunk][row][columns][L]; null where it's done step by step

  // Of each member: the digits of its x of a chunk, (timestep, row), and of h, and their steps; the rows
  // that take part in a timestep, and have in any.
  uint8_t *x_digits, *h_digits, *valid, *started;
  float *x_steps, *h_steps;

  // --- memory ---

  PackedInt8 take_kernel(Arena& arena, I depth, I columns) const {
    const I all = panels * columns * L;
    return {arena.take<int8_t>(quads_of(depth) * 4 * all), arena.take<float>(all),
            arena.take<int32_t>(all)};
  }

  // Members meet in every timestep, which wants a microsecond of work of each.
  static I members_of(const Run& of, I weights, I threads, I panels) {
    const I worth = weights * of.B / 75'000, fours = blocks_of(panels, 4);
    const I most = fours < threads ? fours : threads;
    if (of.T < 4 || worth < 2 || most < 2 || !teams_meet()) return 1;
    return worth < most ? worth : most;
  }

  bool take(const Run& of, MultiplyDigits by, I threads, Arena& arena) {
    run = &of, multiply = by;
    c = kCells<F32>[of.spec.kind].layout;
    B = of.B, D = of.D, U = of.U, panels = blocks_of(U, L);
    members = members_of(of, (D + U) * c->gates * U, threads, panels);
    chunk = chunk_of(B, of.T);
    take_step(of, arena);
    x_digits = arena.take<uint8_t>(members * x_digits_each());
    x_steps = arena.take<float>(members * chunk * B);
    h_digits = arena.take<uint8_t>(members * h_digits_each());
    h_steps = arena.take<float>(members * B);
    valid = started = nullptr;
    if (of.spec.has_mask) {
      valid = arena.take<uint8_t>(members * B);
      started = arena.take<uint8_t>(members * B);
      if (!arena.failed) fill_zero(started, members * B);
    }
    const I all = panels * B * L, tiles = (c->cols + 1) * all, blocks = step_scratch(L, B) * members;
    projected = chunk > 1 ? arena.take<float>(chunk * c->cols * all) : nullptr;
    scratch = arena.take<float>(tiles > blocks ? tiles : blocks);
    return !arena.failed;
  }

  I x_digits_each() const { return chunk * B * 2 * Int8Step::stride_of(D); }
  I h_digits_each() const { return B * 2 * Int8Step::stride_of(U); }

  void take_step(const Run& of, Arena& arena) {
    const I all = panels * B * L;
    step = Step{};
    step.op.code = step_int8_cell, step.op.kind = of.spec.kind, step.op.width = U;
    step.op.activation = of.spec.activation;
    step.op.recurrent_activation = c->has_gates ? of.spec.recurrent_activation : 0;
    step.op.has_bias = of.spec.has_bias;
    step.op.zero_output_for_mask = of.spec.zero_output_for_mask;
    step.D = D;
    StepInt8& int8 = step.int8;
    int8.multiply = multiply;
    int8.projected_stride = chunk * B * c->cols * L;
    PackedInt8 w = take_kernel(arena, D, c->x_cols);
    step.kernel = w.weights, int8.kernel_scales = w.scales, int8.kernel_starts = w.starts;
    w = take_kernel(arena, U, c->h_cols);
    step.recurrent = w.weights, int8.recurrent_scales = w.scales, int8.recurrent_starts = w.starts;
    if (c->has_late()) {
      w = take_kernel(arena, U, 1);
      step.late = w.weights, int8.late_scales = w.scales, int8.late_starts = w.starts;
    }
    step.bias = arena.take<float>(panels * c->cols * L);
    for (I s = 0; s < c->states; ++s) {
      step.state[s] = arena.take<float>(all), step.next[s] = arena.take<float>(all);
    }
  }

  I time_of(I t) const { return run->spec.go_backwards ? run->T - 1 - t : t; }

  static void work(void* context, int member, int members, Barrier* barrier);
  static void work_alone(void* context, int i) { work(static_cast<Int8Run*>(context) + i, 0, 1, nullptr); }
};

// What one of the threads does of a run.
struct Int8Member {
  static constexpr I L = F32::kLanes;

  const Int8Run& all;
  const Run& run;
  const I member, B, U;
  Barrier* const barrier;
  // In panels. It begins at a multiple of four: those are packed together.
  Span own;
  Step step;  // the run's, with digits of one's own
  uint8_t *x_digits, *valid, *started;
  float* x_steps;

  Int8Member(const Int8Run& of, I number, I members, Barrier* meeting)
      : all(of), run(*of.run), member(number), B(of.B), U(of.U), barrier(meeting), step(of.step) {
    const Span fours = share(blocks_of(all.panels, 4), member, members);
    own = {fours.first * 4, fours.last * 4 < all.panels ? fours.last * 4 : all.panels};
    x_digits = all.x_digits + member * all.x_digits_each();
    x_steps = all.x_steps + member * all.chunk * B;
    step.int8.h_digits = all.h_digits + member * all.h_digits_each();
    step.int8.h_steps = all.h_steps + member * B;
    valid = all.valid == nullptr ? nullptr : all.valid + member * B;
    started = all.started == nullptr ? nullptr : all.started + member * B;
  }

  void meet() const {
    if (barrier != nullptr) barrier->wait();
  }

  StepCell<F32> cell(I t) const { return StepCell<F32>(step, B, all.scratch, t % 2 != 0, true); }

  void pack() const {
    const Int8Kernel kernel = {static_cast<const int8_t*>(run.kernel),
                               static_cast<const float*>(run.kernel_scales)};
    const Int8Kernel recurrent = {static_cast<const int8_t*>(run.recurrent_kernel),
                                  static_cast<const float*>(run.recurrent_scales)};
    cell(0).int8_step().pack(kernel, recurrent, run.bias, own);
    for (I s = 0; s < all.c->states; ++s) {
      const float* from = static_cast<const float*>(run.initial[s]);
      each([&](I r, I p, I at) {
        store<F32>(state(s) + at, load_part<F32>(from + r * U + p * L, U - p * L));
      });
    }
  }

  float* state(I s) const { return static_cast<float*>(step.state[s]); }
  float* next(I s) const { return static_cast<float*>(step.next[s]); }

  // Fresh states for the rows that are reset before timestep t, where `states` are about to be its own.
  void reset(I t, void* const* states) const {
    if (run.resets == nullptr || t >= run.T) return;
    const uint8_t* resets = run.resets + all.time_of(t);
    for (I r = 0; started != nullptr && r < B; ++r) started[r] &= resets[r * run.T] == 0;
    for (I s = 0; s < all.c->states; ++s) {
      const float* fresh = static_cast<const float*>(run.fresh[s]);
      each([&](I r, I p, I at) {
        if (resets[r * run.T] == 0) return;
        const F32::V value =
            fresh == nullptr ? F32::V{} : load_part<F32>(fresh + r * U + p * L, U - p * L);
        store<F32>(static_cast<float*>(states[s]) + at, value);
      });
    }
  }

  // f(row, panel, where it lies in a state) for one's own.
  template <class F>
  void each(F f) const {
    for (I p = own.first; p < own.last; ++p) {
      for (I r = 0; r < B; ++r) f(r, p, (p * B + r) * L);
    }
  }

  // The digits of the inputs from timestep t on, and their product where that is done for a chunk.
  void begin_chunk(I t) const {
    const I count = run.T - t < all.chunk ? run.T - t : all.chunk, stride = Int8Step::stride_of(all.D);
    for (I i = 0; i < count * B; ++i) {
      const I row = i % B * run.T + all.time_of(t + i / B);
      make_digits(static_cast<const float*>(run.x) + row * all.D, L, all.D, x_digits + i * 2 * stride,
                  stride, x_steps + i);
    }
    if (all.projected == nullptr) return;
    const Int8Step by = cell(0).int8_step();
    const I apart = step.int8.projected_stride;
    for (I p = own.first; p < own.last;) {
      const I together = panels_together(all.c->cols, p, own.last);
      by.project(x_digits, x_steps, p, together, 0, count * B, all.projected + p * apart, apart);
      p += together;
    }
  }

  // New states of one's own panels, from all states.
  void compute(I t) const {
    const StepCell<F32> c = cell(t);
    c.int8_step().read();
    if (all.c->has_late()) {
      for (I p = own.first; p < own.last; ++p) c.run_gates(p);
      meet();
      c.int8_step().read_late(c.late_of(0));
      for (I p = own.first; p < own.last; p += 4) c.run_late_panels(p);
      return;
    }
    const I most = all.c->cols > 1 ? 1 : 4;
    const I first = own.first, last = own.last - 1 - (own.last - 1) % most;
    for (I i = first; i < own.last; i += most) c.run_panels(t % 2 != 0 ? last - (i - first) : i, member);
  }

  // Rows that don't take part keep their states; outputs go out. Then the new states are the states.
  void hand_on(I t) {
    const I time = run.spec.flip_outputs ? run.T - 1 - t : t;
    for (I r = 0; valid != nullptr && r < B; ++r) {
      valid[r] = run.mask[r * run.T + all.time_of(t)] != 0;
      started[r] |= valid[r];
    }
    float* ys = run.spec.return_sequences ? static_cast<float*>(run.ys) : nullptr;
    each([&](I r, I p, I at) {
      const bool takes_part = valid == nullptr || valid[r];
      for (I s = 0; !takes_part && s < all.c->states; ++s) {
        store<F32>(next(s) + at, load<F32>(state(s) + at));
      }
      if (ys == nullptr) return;
      const bool shown = takes_part || (started[r] && !run.spec.zero_output_for_mask);
      store_part<F32>(ys + (r * run.T + time) * run.ys_stride + p * L,
                      shown ? load<F32>(next(0) + at) : F32::V{}, U - p * L);
    });
    reset(t + 1, step.next);
    meet();
    for (I s = 0; s < all.c->states; ++s) {
      void* old = step.state[s];
      step.state[s] = step.next[s], step.next[s] = old;
    }
  }

  void forward() {
    pack();
    reset(0, step.state);
    meet();
    for (I t = 0; t < run.T; ++t) {
      const I at = t % all.chunk;
      if (at == 0) begin_chunk(t);
      step.int8.x_digits = x_digits, step.int8.x_steps = x_steps;
      step.int8.projected = all.projected == nullptr ? nullptr : all.projected + at * B * all.c->cols * L;
      compute(t);
      hand_on(t);
    }
    for (I s = 0; s < all.c->states; ++s) {
      float* to = static_cast<float*>(run.final[s]);
      each([&](I r, I p, I at) {
        store_part<F32>(to + r * U + p * L, load<F32>(state(s) + at), U - p * L);
      });
    }
  }
};

inline void Int8Run::work(void* context, int member, int members, Barrier* barrier) {
  Int8Member(*static_cast<Int8Run*>(context), member, members, barrier).forward();
}

// Several runs go on at the same time, each on a thread; one on all of them.
inline bool forward_int8(const Run* runs, int count, int threads, MultiplyDigits multiply) {
  Arena arena;
  Int8Run* all = arena.take<Int8Run>(count);
  if (arena.failed) return false;
  for (int i = 0; i < count; ++i) {
    all[i] = Int8Run{};
    if (!all[i].take(runs[i], multiply, count > 1 ? 1 : threads, arena)) return false;
  }
  if (count > 1) parallel_for(count, Int8Run::work_alone, all);
  else if (all[0].members > 1) parallel_team(static_cast<int>(all[0].members), Int8Run::work, all);
  else Int8Run::work_alone(all, 0);
  return true;
}
