// A routine's call: weights packed, tiles of rows over threads, weights' gradients summed; or all threads
// on the columns of the same few rows.

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
  I tasks, tiles, most_rows, capacity;
  I members = 1;  // threads that share the columns of all rows, where tasks is 1
  bool goes_ahead;       // whether products of inputs are computed for several steps at once
  I tiles_before = 0;    // of `run_on_tiles_of`
  S** packed;
  S* zeros;
  S* kept;                // with a window
  TileMemory<R>* memory;  // (tasks,)
  RoutinePass* again = nullptr;  // of the routine that's run once more

  explicit RoutinePass(const RoutineCall& of) : call(of), plan(*of.plan) {}

  // --- who does what ---

  void split(I threads) {
    const double work = plan.work * static_cast<double>(call.B) * static_cast<double>(call.T);
    const I worth = work < kWorthAThread * static_cast<double>(threads)
                        ? static_cast<I>(work / kWorthAThread) + 1
                        : threads;
    tasks = worth < call.B ? worth : call.B;
    // Where a team doesn't meet, one thread on the same rows: it gives the same bits.
    if (threads > 1 && shares_columns(threads)) tasks = 1, members = teams_meet() ? threads : 1;
    I a_row = plan.arena + kRing * plan.ring + 1;
    for (I k = 0; k < plan.n_carries; ++k) a_row += 2 * plan.carries[k].size;
    I most = l2_cache() / 2 / static_cast<I>(sizeof(S)) / a_row;
    const I bound = a_row <= kNarrow ? kMostNarrowRows : kMostTileRows;
    most = most < 6 ? 6 : most > bound ? bound : most;
    tiles = blocks_of(blocks_of(call.B, most), tasks) * tasks;
    if (tiles > call.B) tiles = call.B;
    most_rows = blocks_of(call.B, tiles);
    // A multiple of 16, so that a scratch value begins where a vector does.
    capacity = blocks_of(most_rows, 16) * 16;
    goes_ahead = plan.ahead > 0 && call.T > 1 && most_rows <= kFewRows;
  }

  // Runs what has been run on these tiles once more, on another pass's, to the same bits.
  void run_on_tiles_of(const RoutinePass& other) {
    tiles_before = tiles;
    tasks = other.tasks, tiles = other.tiles, members = other.members;
    most_rows = other.most_rows, capacity = other.capacity;
  }

  // Whether the threads are better on the same rows than each on some of them. Of one row's product of
  // (160 x 640) with a state two threads gained nothing, of (256 x 1024) 1.5 to 1.8 times.
  bool shares_columns(I threads) const {
    if (call.T == 1 || (call.B >= threads && (call.B > kFewRows || fits_l2()))) return false;
    double shared = 0;  // a step
    const double B = static_cast<double>(call.B), T = static_cast<double>(call.T);
    for (I i = 0; i < plan.body.count; ++i) {
      const RoutineStep& step = plan.body.steps[i];
      if (is_wide(step, call.B, call.least_shared)) shared += B * multiplications_of(step.product_step);
    }
    return shared > 0 && shared >= 5 * call.least_shared && shared * T >= 40 * call.least_shared;
  }

  bool fits_l2() const {
    I elements = 0;
    for (I i = 0; i < plan.n_packed; ++i) elements += packed_size<R>(plan.packed[i]);
    return elements * static_cast<I>(sizeof(S)) < l2_cache() / 4 * 3;
  }

  // --- memory ---

  // Packed weights may be another's: their places are null then.
  bool take(Arena& arena, bool packs = true) {
    packed = arena.take<S*>(plan.n_packed);
    kept = nullptr;
    if (call.window != 0 && again == nullptr)
      kept = arena.take<S>(kept_times(call) * call.B * plan.saved_size);
    memory = arena.take<TileMemory<R>>(tasks);
    I longest = 0;
    for (I i = 0; i < plan.n_operands; ++i)
      if (plan.operands[i].kind == OperandKind::output && plan.operands[i].size > longest)
        longest = plan.operands[i].size;
    zeros = arena.take<S>(longest + L);
    if (arena.failed) return false;
    fill_zero(zeros, longest + L);
    for (I i = 0; i < plan.n_packed; ++i) packed[i] = packs ? arena.take<S>(packed_size<R>(plan.packed[i])) : nullptr;
    for (I i = 0; i < tasks && !arena.failed; ++i)
      if (!take_tile(arena, memory[i], i)) return false;
    return !arena.failed;
  }

  bool take_tile(Arena& arena, TileMemory<R>& m, I task) const {
    m.capacity = capacity;
    m.kept = again != nullptr ? again->kept : kept;
    m.arena = arena.take<S>(plan.arena * capacity + L);
    m.ring_stride = blocks_of(plan.ring * capacity + L, L) * L;
    m.ring = arena.take<S>(plan.ring > 0 ? kRing * m.ring_stride : 0);
    m.ahead_stride = blocks_of(plan.ahead * capacity + L, L) * L;
    m.ahead = goes_ahead ? arena.take<S>(kAhead * m.ahead_stride) : nullptr;
    m.mask = arena.take<S>(capacity);
    m.carries = arena.take<S*>(2 * plan.n_carries);
    m.weights = arena.take<S*>(plan.n_results);
    m.sums = arena.take<LongSums<R>>(plan.n_results);
    const I fewer = plan.most_places < capacity ? plan.most_places : capacity;
    m.pairs_each = kRing * (fewer > 1 ? fewer : 1);
    m.pairs = arena.take<RowPair<R>>(plan.n_outers * m.pairs_each);
    m.pending = arena.take<I>(plan.n_outers);
    const I least = plan.most_slots * kLeastVectors * L, all = kChunkBytes / static_cast<I>(sizeof(S));
    m.slots = arena.take<S>((least > all ? least : all) + L);
    m.constants = arena.take<S>(plan.most_inputs * L);
    m.registers = arena.take<Values<typename R::Real>>(plan.most_references);
    m.at = arena.take<S*>(plan.most_references);
    m.strides = arena.take<I>(2 * plan.most_references);
    m.has_pieces = call.T > kRing * kPieceSums;
    if (arena.failed) return false;
    for (I k = 0; k < 2 * plan.n_carries; ++k) {
      const CarryValue& carry = plan.carries[k / 2];
      m.carries[k] = carry.kept >= 0 ? nullptr : arena.take<S>(carry.size * capacity + L);
    }
    for (I i = 0; i < plan.n_results; ++i) {
      m.weights[i] = nullptr;
      m.sums[i] = {};
      if (plan.results[i].kind != ResultKind::weight) continue;
      const I size = plan.results[i].size;
      m.weights[i] = task == 0 ? static_cast<S*>(call.outputs[i]) : arena.take<S>(size);
      m.sums[i] = {m.weights[i], nullptr, nullptr};
      if (m.has_pieces) m.sums[i].total = arena.take<S>(size), m.sums[i].lost = arena.take<S>(size);
    }
    fill_zero(m.pending, plan.n_outers);
    return !arena.failed;
  }

  // --- before and after ---

  static void pack(void* context, int part) {
    const RoutinePass& all = *static_cast<RoutinePass*>(context);
    all.pack_share(part, all.tasks);
  }

  void pack_share(I part, I parts) const {
    if (again != nullptr) again->pack_share(part, parts);
    I count = 0;
    for (I i = 0; i < plan.n_packed; ++i) count += panels_of<R>(plan.packed[i]);
    const Span own = share(count, part, parts);
    I panel = 0;  // the first of this weight
    for (I i = 0; i < plan.n_packed; ++i) {
      const PackedWeight& weight = plan.packed[i];
      const I panels = panels_of<R>(weight);
      for (I p = 0; p < panels; ++p, ++panel)
        if (panel >= own.first && panel < own.last)
          pack_panel<R>(weight, static_cast<const S*>(call.inputs[weight.operand]), p, packed[i]);
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
    const ProductScope<R> scope;
    const RoutinePass& all = *static_cast<RoutinePass*>(context);
    all.clear_weights(all.memory[task]);
    const Span own = share(all.tiles, task, all.tasks);
    for (I t = own.first; t < own.last; ++t) {
      const Span rows = share(all.call.B, t, all.tiles);
      all.run_tile(task, rows, 0, 1, nullptr);
    }
    all.finish_weights(all.memory[task]);
  }

  static void run_together(void* context, int member, int members, Barrier* barrier) {
    const ProductScope<R> scope;
    const RoutinePass& all = *static_cast<RoutinePass*>(context);
    all.pack_share(member, members);
    if (member == 0) all.clear_weights(all.memory[0]);
    if (barrier != nullptr) barrier->wait();
    all.run_tile(0, {0, all.call.B}, member, members, barrier);
    if (member == 0) all.finish_weights(all.memory[0]);
  }

  void run_tile(I task, Span rows, I member, I team, Barrier* barrier) const {
    Timesteps<R> steps{tile(memory[task], rows), member, team, barrier};
    if (again != nullptr) {
      Timesteps<R> before{again->tile(again->memory[task], rows), member, team, barrier};
      steps.run_by_windows(before);
      return;
    }
    steps.keeps_checkpoints = call.window != 0;
    steps.run();
  }

  RoutineTile<R> tile(TileMemory<R>& of, Span rows) const {
    return {call, plan, packed, zeros, of, rows.first, rows.size(), tiles_before};
  }

  void clear_weights(TileMemory<R>& of) const {
    for (I i = 0; i < plan.n_results; ++i)
      if (of.weights[i] != nullptr) of.sums[i].clear(0, plan.results[i].size);
  }

  void finish_weights(TileMemory<R>& of) const {
    for (I i = 0; i < plan.n_results; ++i)
      if (of.sums[i].has_pieces()) of.sums[i].finish(0, plan.results[i].size);
  }
};

template <class R>
bool run_routine(const RoutineCall& call, int threads) {
  Arena arena;
  RoutinePass<R> pass(call);
  pass.split(threads);
  // Without `again` there's none, but for the type's sake.
  RoutinePass<R> before(call.again != nullptr ? *call.again : call);
  if (call.again != nullptr) {
    before.split(threads);
    before.run_on_tiles_of(pass);
    if (!before.take(arena)) return false;
    pass.again = &before;
  }
  if (!pass.take(arena)) return false;
  if (pass.members > 1) {
    parallel_team(static_cast<int>(pass.members), RoutinePass<R>::run_together, &pass);
    return true;
  }
  const int tasks = static_cast<int>(pass.tasks);
  if (pass.plan.n_packed > 0 || pass.again != nullptr) parallel_for(tasks, RoutinePass<R>::pack, &pass);
  parallel_for(tasks, RoutinePass<R>::run, &pass);
  if (tasks > 1) parallel_for(tasks, RoutinePass<R>::add_up, &pass);
  return true;
}
