// Sequences with weights of int8, for inference: the cell of a stream (step/cells.inl), timestep after
// timestep, where each row of the batch is a stream.

struct Int8Run {
  static constexpr I L = F32::kLanes;

  const Run* run;
  MultiplyDigits multiply;
  I threads;
  const CellLayout* c;
  I B, D, U, panels;
  I chunk;  // timesteps whose inputs' product is done at once: chunk_of
  Step step;
  uint8_t* valid;  // (B,) the mask of a timestep
  float* scratch;
  uint8_t* x_digits;  // of a chunk, (timestep, row), and their steps
  float* x_steps;
  float* projected;  // [panel][timestep of the chunk][row][columns][L]; null where it's done step by step

  // --- memory ---

  PackedInt8 take_kernel(Arena& arena, I depth, I columns) const {
    const I all = panels * columns * L;
    return {arena.take<int8_t>(quads_of(depth) * 4 * all), arena.take<float>(all),
            arena.take<int32_t>(all)};
  }

  bool take(const Run& of, MultiplyDigits by, I most, Arena& arena) {
    run = &of, multiply = by, threads = most;
    c = kCells<F32>[of.spec.kind].layout;
    B = of.B, D = of.D, U = of.U, panels = blocks_of(U, L);
    chunk = chunk_of(B, of.T);
    const I all = panels * B * L, cols = c->cols;
    step = Step{};
    step.op.code = step_int8_cell, step.op.kind = of.spec.kind, step.op.width = U;
    step.op.activation = of.spec.activation;
    step.op.recurrent_activation = c->has_gates ? of.spec.recurrent_activation : 0;
    step.op.has_bias = of.spec.has_bias;
    step.op.zero_output_for_mask = of.spec.zero_output_for_mask;
    step.D = D;
    StepInt8& int8 = step.int8;
    int8.multiply = by;
    PackedInt8 w = take_kernel(arena, D, c->x_cols);
    step.kernel = w.weights, int8.kernel_scales = w.scales, int8.kernel_starts = w.starts;
    w = take_kernel(arena, U, c->h_cols);
    step.recurrent = w.weights, int8.recurrent_scales = w.scales, int8.recurrent_starts = w.starts;
    if (c->has_late()) {
      w = take_kernel(arena, U, 1);
      step.late = w.weights, int8.late_scales = w.scales, int8.late_starts = w.starts;
    }
    step.bias = arena.take<float>(panels * cols * L);
    for (I s = 0; s < c->states; ++s) {
      step.state[s] = arena.take<float>(all), step.next[s] = arena.take<float>(all);
    }
    step.out = arena.take<float>(all);
    if (of.spec.has_mask) {
      step.mask_in = valid = arena.take<uint8_t>(B);
      step.started = arena.take<uint8_t>(B);
      if (!arena.failed) fill_zero(step.started, B);
    }
    x_digits = arena.take<uint8_t>(chunk * B * 2 * Int8Step::stride_of(D));
    x_steps = arena.take<float>(chunk * B);
    int8.h_digits = arena.take<uint8_t>(B * 2 * Int8Step::stride_of(U));
    int8.h_steps = arena.take<float>(B);
    projected = chunk > 1 ? arena.take<float>(chunk * cols * all) : nullptr;
    int8.projected_stride = chunk * B * cols * L;
    const I tiles = (cols + 1) * all, blocks = step_scratch(L) * threads;
    scratch = arena.take<float>(tiles > blocks ? tiles : blocks);
    return !arena.failed;
  }

  StepCell<F32> cell(I t) const {
    return StepCell<F32>(step, B, scratch, t % 2 != 0, true, threads);
  }

  // f(first panel, last panel) for shares that begin at multiples of four: those are packed together.
  template <class F>
  void over_panels(F f) const {
    struct Shared {
      const Int8Run& run;
      F& f;
      I parts;
      static void work(void* context, int part) {
        const Shared& s = *static_cast<Shared*>(context);
        const Span fours = share(blocks_of(s.run.panels, 4), part, s.parts);
        const I last = fours.last * 4 < s.run.panels ? fours.last * 4 : s.run.panels;
        if (fours.first * 4 < last) s.f(Span{fours.first * 4, last});
      }
    };
    const bool worth = (D + U) * c->gates * U > 1 << 19;
    Shared shared = {*this, f, worth ? threads : 1};
    if (shared.parts == 1) Shared::work(&shared, 0);
    else parallel_for(static_cast<int>(shared.parts), Shared::work, &shared);
  }

  // --- timesteps ---

  void pack() const {
    const Int8Kernel kernel = {static_cast<const int8_t*>(run->kernel),
                               static_cast<const float*>(run->kernel_scales)};
    const Int8Kernel recurrent = {static_cast<const int8_t*>(run->recurrent_kernel),
                                  static_cast<const float*>(run->recurrent_scales)};
    const Int8Step to = cell(0).int8_step();
    over_panels([&](Span some) { to.pack(kernel, recurrent, run->bias, some); });
    for (I r = 0; r < B; ++r) {
      for (I s = 0; s < c->states; ++s) {
        const float* from = static_cast<const float*>(run->initial[s]) + r * U;
        Steps<F32>::keep_row(from, B, r, U, static_cast<float*>(step.state[s]));
      }
    }
  }

  I time_of(I t) const { return run->spec.go_backwards ? run->T - 1 - t : t; }

  // The digits of the inputs from timestep t on, and their product where that is done for a chunk.
  void begin_chunk(I t) const {
    const I count = run->T - t < chunk ? run->T - t : chunk, stride = Int8Step::stride_of(D);
    for (I i = 0; i < count * B; ++i) {
      const I row = i % B * run->T + time_of(t + i / B);
      make_digits(static_cast<const float*>(run->x) + row * D, L, D, x_digits + i * 2 * stride, stride,
                  x_steps + i);
    }
    if (projected == nullptr) return;
    const Int8Step by = cell(0).int8_step();
    over_panels([&](Span some) {
      for (I p = some.first; p < some.last;) {
        const I together = panels_together(c->cols, p, some.last);
        by.project(x_digits, x_steps, p, together, 0, count * B,
                   projected + p * step.int8.projected_stride, step.int8.projected_stride);
        p += together;
      }
    });
  }

  void write_outputs(I t) const {
    if (!run->spec.return_sequences) return;
    const I time = run->spec.flip_outputs ? run->T - 1 - t : t;
    for (I r = 0; r < B; ++r) {
      float* to = static_cast<float*>(run->ys) + (r * run->T + time) * run->ys_stride;
      Steps<F32>::show_row(static_cast<const float*>(step.out), B, r, U, to);
    }
  }

  void forward() {
    pack();
    for (I t = 0; t < run->T; ++t) {
      const I at = t % chunk;
      if (at == 0) begin_chunk(t);
      step.int8.x_digits = x_digits, step.int8.x_steps = x_steps;
      step.int8.projected = projected == nullptr ? nullptr : projected + at * B * c->cols * L;
      for (I r = 0; valid != nullptr && r < B; ++r) valid[r] = run->mask[r * run->T + time_of(t)] != 0;
      cell(t).run();
      write_outputs(t);
    }
    for (I r = 0; r < B; ++r) {
      for (I s = 0; s < c->states; ++s) {
        float* to = static_cast<float*>(run->final[s]) + r * U;
        Steps<F32>::show_row(static_cast<const float*>(step.state[s]), B, r, U, to);
      }
    }
  }

  static void work(void* context, int i) { static_cast<Int8Run*>(context)[i].forward(); }
};

// Several runs go on at the same time, each on a thread; one on all of them.
inline bool forward_int8(const Run* runs, int count, int threads, MultiplyDigits multiply) {
  Arena arena;
  Int8Run* all = arena.take<Int8Run>(count);
  if (arena.failed) return false;
  const I each = count > 1 ? 1 : threads;
  for (int i = 0; i < count; ++i) {
    all[i] = Int8Run{};
    if (!all[i].take(runs[i], multiply, each, arena)) return false;
  }
  if (count == 1) all[0].forward();
  else parallel_for(count, Int8Run::work, all);
  return true;
}
