// A routine one timestep at a time: what a call takes anew each time is taken once here, and weights
// are packed when they're set, so that a timestep is the instructions and nothing else.

// Lies in the first of its own blocks of memory.
template <class R>
struct RoutineStepper {
  typedef typename R::S S;

  void* blocks;  // the arena's
  RoutineCall call;  // of all rows, and one timestep
  RoutinePass<R>* pass;
  const void** inputs;  // of the call
  void** outputs;
  S** carries;  // (tiles, carries, 2): before and after, by turns
  S *x, *y;     // (rows, size): the input and the output as routines have them
  I sequence, output;  // the operand and the result
  I turn;       // 0 or 1: which carries come before this timestep
  bool joins;   // whether the body's first two products are done together

  // For at most N rows and so many threads, with no weights yet; null where memory ran out.
  static void* make(const RoutinePlan& plan, I N, I threads, bool has_weights) {
    Arena arena;
    RoutineStepper* made = arena.take<RoutineStepper>(1);
    if (made == nullptr || !made->lay_out(arena, plan, N, threads, has_weights)) return nullptr;
    made->blocks = arena.last;
    arena.last = nullptr;
    return made;
  }

  static void drop(void* stepper) {
    Arena arena;
    arena.last = static_cast<RoutineStepper*>(stepper)->blocks;
  }

  bool lay_out(Arena& arena, const RoutinePlan& plan, I N, I threads, bool has_weights) {
    inputs = arena.take<const void*>(plan.n_operands);
    outputs = arena.take<void*>(plan.n_results);
    pass = arena.take<RoutinePass<R>>(1);
    if (arena.failed) return false;
    call = {};
    call.plan = &plan, call.B = N, call.T = 1, call.return_sequences = true;
    call.inputs = inputs, call.outputs = outputs;
    turn = 0, x = y = nullptr;
    for (I i = 0; i < plan.n_operands; ++i) lay_out_operand(arena, plan.operands[i], i, has_weights);
    for (I i = 0; i < plan.n_results; ++i) {
      outputs[i] = nullptr;
      if (plan.results[i].kind != ResultKind::output) continue;
      output = i, y = arena.take<S>(N * plan.results[i].size);
    }
    RoutinePass<R> made(call);
    made.split(threads);
    if (arena.failed || !made.take(arena, has_weights)) return false;
    __builtin_memcpy(static_cast<void*>(pass), &made, sizeof(made));
    joins = N == 1 && begins_with_sum(plan.body);
    return lay_out_carries(arena);
  }

  // Whether a list begins with a product to which the next one adds: mostly the input's and the state's.
  static bool begins_with_sum(const StepList& list) {
    if (list.count < 2 || list.steps[0].code != RoutineStep::product ||
        list.steps[1].code != RoutineStep::product)
      return false;
    const ProductStep &one = list.steps[0].product_step, &two = list.steps[1].product_step;
    return one.places == 1 && one.depth <= kPiece && two.depth <= kPiece && adds_on(one, two) &&
           !is_same_memory(one.a, one.out);
  }

  // Both products panel by panel, every other timestep from the last to the first: what of the weights
  // is still in L1 from the timestep before is read first then.
  void multiply_both(const RoutineTile<R>& tile) const {
    const ProductStep& one = call.plan->body.steps[0].product_step;
    const ProductStep& two = call.plan->body.steps[1].product_step;
    const I panels = panels_of<R>(call.plan->packed[one.weight]);
    for (I i = 0; i < panels; ++i) {
      const I panel = turn == 0 ? i : panels - 1 - i;
      multiply_panel_of(tile, one, panel);
      multiply_panel_of(tile, two, panel);
    }
  }

  void multiply_panel_of(const RoutineTile<R>& tile, const ProductStep& p, I panel) const {
    constexpr I L = R::kLanes;
    const I first = panel * kPanel * L, left = p.columns - first;
    const I columns = left < kPanel * L ? left : kPanel * L, vectors = blocks_of(columns, L);
    RowProduct<R> row{};
    row.a = tile.address(p.a).at;
    row.w = pass->packed[p.weight] + first * p.depth;
    row.depth = p.depth;
    row.out = tile.address(p.out).at + first;
    row.lanes = columns - (vectors - 1) * L;
    row.adds = p.init == ProductStep::add;
    if (p.init == ProductStep::with_bias) row.bias = tile.address(p.bias).at + first;
    switch (vectors) {
      case 4: return single_row<R, 4>(row, 0);
      case 3: return single_row<R, 3>(row, 0);
      case 2: return single_row<R, 2>(row, 0);
      default: return single_row<R, 1>(row, 0);
    }
  }

  void lay_out_operand(Arena& arena, const RoutineOperand& operand, I number, bool has_weights) {
    S* data = nullptr;
    if (operand.kind == OperandKind::sequence) {
      sequence = number, data = x = arena.take<S>(call.B * operand.size);
    } else if (operand.kind == OperandKind::weight && has_weights) {
      data = arena.take<S>(operand.size);
    } else if (operand.kind == OperandKind::rows) {  // before the first timestep: nobody's
      data = arena.take<S>(call.B * operand.size);
      if (data != nullptr) fill_zero(data, call.B * operand.size);
    }
    inputs[number] = data;
  }

  // Each tile has its own, with room for a vector beyond their end: no thread reads another's.
  bool lay_out_carries(Arena& arena) {
    const RoutinePlan& plan = *call.plan;
    const I each = 2 * plan.n_carries;
    carries = arena.take<S*>(pass->tiles * each);
    for (I i = 0; i < pass->tiles * each && !arena.failed; ++i) {
      const I size = plan.carries[i % each / 2].size * pass->capacity + R::kLanes;
      carries[i] = arena.take<S>(size);
      if (carries[i] != nullptr) fill_zero(carries[i], size);
    }
    return !arena.failed;
  }

  // Of each operand that's a weight its values, which are copied.
  static void set_weights(void* stepper, const void* const* weights) {
    RoutineStepper& all = *static_cast<RoutineStepper*>(stepper);
    const RoutinePlan& plan = *all.call.plan;
    for (I i = 0; i < plan.n_operands; ++i) {
      if (plan.operands[i].kind != OperandKind::weight) continue;
      S* to = const_cast<S*>(static_cast<const S*>(all.inputs[i]));
      Timesteps<R>::copy(static_cast<const S*>(weights[i]), plan.operands[i].size, to);
    }
    for (I part = 0; part < all.pass->tasks; ++part)
      RoutinePass<R>::pack(all.pass, static_cast<int>(part));
  }

  // Those of another one for the same routine, which has to stay.
  static void share_weights(void* stepper, const void* of) {
    RoutineStepper& all = *static_cast<RoutineStepper*>(stepper);
    const RoutineStepper& other = *static_cast<const RoutineStepper*>(of);
    const RoutinePlan& plan = *all.call.plan;
    for (I i = 0; i < plan.n_operands; ++i)
      if (plan.operands[i].kind == OperandKind::weight) all.inputs[i] = other.inputs[i];
    for (I i = 0; i < plan.n_packed; ++i) all.pass->packed[i] = other.pass->packed[i];
  }

  // f(where it is, its size) for each carry of a row.
  template <class F>
  void each_carry(I row, F f) const {
    const I tiles = pass->tiles, n_carries = call.plan->n_carries;
    I t = 0;
    while (share(call.B, t, tiles).last <= row) ++t;
    for (I k = 0; k < n_carries; ++k) {
      const I size = call.plan->carries[k].size, place = row - share(call.B, t, tiles).first;
      f(carries[(t * n_carries + k) * 2 + turn] + place * size, size);
    }
  }

  // One timestep: rows (rows, size), and a mask (rows,) where the routine has one.
  void step(const S* from, const uint8_t* mask, S* to) {
    inputs[sequence] = from;
    outputs[output] = to;
    if (call.plan->mask >= 0) inputs[call.plan->mask] = mask;
    if (pass->tasks == 1) run_tiles(this, 0);
    else parallel_for(static_cast<int>(pass->tasks), run_tiles, this);
    turn = 1 - turn;
  }

  static void run_tiles(void* stepper, int task) {
    const RoutineStepper& all = *static_cast<const RoutineStepper*>(stepper);
    const RoutinePass<R>& pass = *all.pass;
    const RoutinePlan& plan = pass.plan;
    TileMemory<R>& memory = pass.memory[task];
    const Span own = share(pass.tiles, task, pass.tasks);
    for (I t = own.first; t < own.last; ++t) {
      const Span rows = share(all.call.B, t, pass.tiles);
      if (rows.size() == 0) continue;  // of fewer rows than there's room for
      memory.carries = all.carries + t * 2 * plan.n_carries;
      RoutineTile<R> tile = pass.tile(memory, rows);
      tile.number = all.turn;
      const bool is_idle = Timesteps<R>::read_mask(tile, true) && plan.idle.count > 0;
      StepList list = is_idle ? plan.idle : plan.body;
      if (all.joins && !is_idle) {
        all.multiply_both(tile);
        list.steps += 2, list.count -= 2;
      }
      for (I i = 0; i < list.count; ++i) Timesteps<R>::run_step(tile, list.steps[i]);
    }
  }
};
