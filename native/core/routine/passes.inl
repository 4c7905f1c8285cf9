// A routine's call: weights packed, tiles of rows over threads, weights' gradients summed.

// Of a tile. Where a row has few values an instruction itself is what costs, and each is the dearer the
// fewer rows it's for.
constexpr I kMostTileRows = 48, kMostNarrowRows = 128, kNarrow = 64;
constexpr double kWorthAThread = 1e6;  // multiplications: some 10 us

template <class R>
struct RoutinePass {
  typedef typename R::S S;
  static constexpr I L = R::kLanes;

  const RoutineCall& call;
  const RoutinePlan& plan;
  I tasks, tiles, capacity;
  S** packed;
  S* zeros;
  TileMemory<R>* memory;  // (tasks,)

  explicit RoutinePass(const RoutineCall& of) : call(of), plan(*of.plan) {}

  // --- who does what ---

  void split(I threads) {
    const double work = plan.work * static_cast<double>(call.B) * static_cast<double>(call.T);
    const I worth = work < kWorthAThread * static_cast<double>(threads)
                        ? static_cast<I>(work / kWorthAThread) + 1
                        : threads;
    tasks = worth < call.B ? worth : call.B;
    I a_row = plan.arena + kRing * plan.ring + 1;
    for (I k = 0; k < plan.n_carries; ++k) a_row += 2 * plan.carries[k].size;
    I most = l2_cache() / 2 / static_cast<I>(sizeof(S)) / a_row;
    const I bound = a_row <= kNarrow ? kMostNarrowRows : kMostTileRows;
    most = most < 6 ? 6 : most > bound ? bound : most;
    tiles = blocks_of(blocks_of(call.B, most), tasks) * tasks;
    if (tiles > call.B) tiles = call.B;
    // A multiple of 16, so that a scratch value begins where a vector does.
    capacity = blocks_of(blocks_of(call.B, tiles), 16) * 16;
  }

  // --- memory ---

  bool take(Arena& arena) {
    packed = arena.take<S*>(plan.n_packed);
    memory = arena.take<TileMemory<R>>(tasks);
    I longest = 0;
    for (I i = 0; i < plan.n_operands; ++i)
      if (plan.operands[i].kind == OperandKind::output && plan.operands[i].size > longest)
        longest = plan.operands[i].size;
    zeros = arena.take<S>(longest + L);
    if (arena.failed) return false;
    fill_zero(zeros, longest + L);
    for (I i = 0; i < plan.n_packed; ++i) packed[i] = arena.take<S>(packed_size<R>(plan.packed[i]));
    for (I i = 0; i < tasks && !arena.failed; ++i)
      if (!take_tile(arena, memory[i], i)) return false;
    return !arena.failed;
  }

  bool take_tile(Arena& arena, TileMemory<R>& m, I task) const {
    m.capacity = capacity;
    m.arena = arena.take<S>(plan.arena * capacity + L);
    m.ring_stride = blocks_of(plan.ring * capacity + L, L) * L;
    m.ring = arena.take<S>(plan.ring > 0 ? kRing * m.ring_stride : 0);
    m.mask = arena.take<S>(capacity);
    m.carries = arena.take<S*>(2 * plan.n_carries);
    m.weights = arena.take<S*>(plan.n_results);
    const I fewer = plan.most_places < capacity ? plan.most_places : capacity;
    m.pairs_each = kRing * (fewer > 1 ? fewer : 1);
    m.pairs = arena.take<RowPair<R>>(plan.n_outers * m.pairs_each);
    m.pending = arena.take<I>(plan.n_outers);
    const I least = plan.most_slots * kLeastVectors * L, all = kChunkBytes / static_cast<I>(sizeof(S));
    m.slots = arena.take<S>((least > all ? least : all) + L);
    m.constants = arena.take<S>(plan.most_inputs * L);
    m.registers = arena.take<Values<R>>(plan.most_references);
    m.at = arena.take<S*>(plan.most_references);
    m.strides = arena.take<I>(2 * plan.most_references);
    if (arena.failed) return false;
    for (I k = 0; k < 2 * plan.n_carries; ++k) {
      const CarryValue& carry = plan.carries[k / 2];
      m.carries[k] = carry.kept >= 0 ? nullptr : arena.take<S>(carry.size * capacity + L);
    }
    for (I i = 0; i < plan.n_results; ++i) {
      m.weights[i] = nullptr;
      if (plan.results[i].kind != ResultKind::weight) continue;
      m.weights[i] = task == 0 ? static_cast<S*>(call.outputs[i])
                               : arena.take<S>(plan.results[i].size);
    }
    fill_zero(m.pending, plan.n_outers);
    return !arena.failed;
  }

  // --- before and after ---

  static void pack(void* context, int part) {
    const RoutinePass& all = *static_cast<RoutinePass*>(context);
    I count = 0;
    for (I i = 0; i < all.plan.n_packed; ++i) count += panels_of<R>(all.plan.packed[i]);
    const Span own = share(count, part, all.tasks);
    I panel = 0;  // the first of this weight
    for (I i = 0; i < all.plan.n_packed; ++i) {
      const PackedWeight& weight = all.plan.packed[i];
      const I panels = panels_of<R>(weight);
      for (I p = 0; p < panels; ++p, ++panel)
        if (panel >= own.first && panel < own.last)
          pack_panel<R>(weight, static_cast<const S*>(all.call.inputs[weight.operand]), p,
                        all.packed[i]);
    }
  }

  static void add_up(void* context, int part) {
    const RoutinePass& all = *static_cast<RoutinePass*>(context);
    for (I i = 0; i < all.plan.n_results; ++i) {
      if (all.plan.results[i].kind != ResultKind::weight) continue;
      const Span own = share(all.plan.results[i].size, part, all.tasks);
      S* sum = all.memory[0].weights[i];
      for (I task = 1; task < all.tasks; ++task) {
        const S* from = all.memory[task].weights[i];
        for (I j = own.first; j < own.last; j += L) {
          const I n = own.last - j;
          store_part<R>(sum + j, load_part<R>(sum + j, n) + load_part<R>(from + j, n), n);
        }
      }
    }
  }

  // --- tiles ---

  static void run(void* context, int task) {
    const RoutinePass& all = *static_cast<RoutinePass*>(context);
    TileMemory<R>& memory = all.memory[task];
    for (I i = 0; i < all.plan.n_results; ++i)
      if (memory.weights[i] != nullptr) fill_zero(memory.weights[i], all.plan.results[i].size);
    const Span own = share(all.tiles, task, all.tasks);
    for (I t = own.first; t < own.last; ++t) {
      const Span rows = share(all.call.B, t, all.tiles);
      RoutineTile<R> tile{all.call, all.plan, all.packed, all.zeros, memory, rows.first, rows.size()};
      all.run_tile(tile);
    }
  }

  void run_tile(RoutineTile<R>& tile) const {
    begin(tile);
    for (; tile.number < call.T; ++tile.number) {
      tile.step = plan.reverse ? call.T - 1 - tile.number : tile.number;
      const bool is_idle = read_mask(tile) && plan.idle.count > 0;
      run_steps(tile, is_idle ? plan.idle : plan.body);
      const bool is_last = tile.number + 1 == call.T;
      if (plan.n_outers > 0 && (is_last || tile.number % kRing == kRing - 1)) {
        tile.catch_up(plan.body);
        tile.catch_up(plan.idle);
      }
    }
    end(tile);
  }

  static void run_steps(const RoutineTile<R>& tile, const StepList& list) {
    for (I i = 0; i < list.count; ++i) {
      const RoutineStep& step = list.steps[i];
      switch (step.code) {
        case RoutineStep::product: tile.product(step.product_step); break;
        case RoutineStep::outer: tile.put_off(step.outer_step); break;
        case RoutineStep::map: MapRun<R>(step.map_step, tile).run(); break;
      }
    }
  }

  // Reads this step's mask; whether it's False for all rows.
  bool read_mask(const RoutineTile<R>& tile) const {
    if (plan.mask < 0) return false;
    const I time = tile.time_of(plan.operands[plan.mask].in_output_order);
    const uint8_t* mask = static_cast<const uint8_t*>(call.inputs[plan.mask]);
    bool any = false;
    for (I r = 0; r < tile.rows; ++r) {
      const bool valid = mask[(tile.first + r) * call.T + time] != 0;
      tile.memory.mask[r] = valid ? 1 : 0;
      any = any || valid;
    }
    return !any;
  }

  void begin(RoutineTile<R>& tile) const {
    tile.step = 0;
    for (I k = 0; k < plan.n_carries; ++k) {
      const CarryValue& carry = plan.carries[k];
      const S* from = static_cast<const S*>(call.inputs[carry.operand]) + tile.first * carry.size;
      copy(from, tile.rows * carry.size, tile.carry(k, false));
    }
    for (I i = 0; i < plan.n_results; ++i)
      if (plan.results[i].kind == ResultKind::rows) {
        const Address<R> to = tile.result(i);
        fill_zero(to.at, tile.rows * to.row);
      }
  }

  void end(RoutineTile<R>& tile) const {
    tile.step = call.T;
    for (I i = 0; i < plan.n_results; ++i) {
      const RoutineResult& result = plan.results[i];
      if (result.kind != ResultKind::carry) continue;
      S* to = static_cast<S*>(call.outputs[i]) + tile.first * result.size;
      copy(tile.carry(result.which, false), tile.rows * result.size, to);
    }
  }

  static void copy(const S* from, I n, S* to) {
    if (n > 0) __builtin_memcpy(to, from, static_cast<size_t>(n) * sizeof(S));
  }
};

template <class R>
bool run_routine(const RoutineCall& call, int threads) {
  Arena arena;
  RoutinePass<R> pass(call);
  pass.split(threads);
  if (!pass.take(arena)) return false;
  const int tasks = static_cast<int>(pass.tasks);
  if (pass.plan.n_packed > 0) parallel_for(tasks, RoutinePass<R>::pack, &pass);
  parallel_for(tasks, RoutinePass<R>::run, &pass);
  if (tasks > 1) parallel_for(tasks, RoutinePass<R>::add_up, &pass);
  return true;
}
