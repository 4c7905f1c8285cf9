// A call: its runs made ready, then packed, run and unpacked by the threads.

template <class R>
struct ForwardPass {
  typedef Layer<R> Ready;
  static bool take(Ready& l, Arena& arena) {
    return place_kept(l, arena) && take_forward_weights(l, arena) && take_forward_memory(l, arena);
  }
  static void pack(const Ready& l, const Shares& shares) { pack_forward_weights(l, shares.units); }
  static void run(const Ready& l, I group, I member, I members, Barrier* barrier) {
    ForwardMember<R>(l, group, member, members, barrier).run();
  }
  static void unpack(const Ready&, const Shares&) {}
  static constexpr bool unpacks = false;
};

template <class R>
struct BackwardPass {
  typedef BackLayer<R> Ready;
  // With checkpoints it runs forward, too.
  static bool take(Ready& l, Arena& arena) {
    if (!place_kept(l, arena) || !take_backward_memory(l, arena)) return false;
    return l.window == 0 || (take_forward_weights(l, arena) && take_forward_memory(l, arena));
  }
  static void pack(const Ready& l, const Shares& shares) {
    pack_backward_weights(l, shares);
    if (l.window != 0) pack_forward_weights(l, shares.units);
  }
  static void run(const Ready& l, I group, I member, I members, Barrier* barrier) {
    if (l.window == 0) {
      BackwardMember<R>(l, group, member, members, barrier, nullptr).run();
      return;
    }
    const ForwardMember<R> forward(l, group, member, members, barrier, true);
    BackwardMember<R>(l, group, member, members, barrier, &forward).run();
  }
  static void unpack(const Ready& l, const Shares& shares) { unpack_gradients(l, shares); }
  static constexpr bool unpacks = true;
};

// The runs whose threads split the batch, as tasks: (run, group) for the passes themselves, (run,
// part of its panels) before and after them.
template <class R, class Pass>
struct Tasks {
  typename Pass::Ready* layers;
  int count;
  int parts;

  bool is_shared(int run) const { return layers[run].members > 1; }

  // Shares begin at multiples of four panels, as the panels packed together must be those that are
  // computed together.
  static Span aligned_share(I panels, I part, I parts) {
    Span fours = share(blocks_of(panels, 4), part, parts);
    const I last = fours.last * 4;
    return {fours.first * 4, last < panels ? last : panels};
  }

  Shares shares(const typename Pass::Ready& l, I part) const {
    const Span units = aligned_share(l.panels, part, parts);
    return {units, aligned_share(l.d_blocks, part, parts), units};
  }

  static void pack(void* context, int task) {
    const Tasks& all = *static_cast<Tasks*>(context);
    const int run = task / all.parts, part = task % all.parts;
    if (all.is_shared(run)) return;
    const typename Pass::Ready& l = all.layers[run];
    Pass::pack(l, all.shares(l, part));
  }

  static void unpack(void* context, int task) {
    const Tasks& all = *static_cast<Tasks*>(context);
    const int run = task / all.parts, part = task % all.parts;
    if (all.is_shared(run)) return;
    const typename Pass::Ready& l = all.layers[run];
    Pass::unpack(l, all.shares(l, part));
  }

  static void run(void* context, int task) {
    const ProductScope<R> scope;
    const Tasks& all = *static_cast<Tasks*>(context);
    for (int run = 0; run < all.count; ++run) {
      if (all.is_shared(run)) continue;
      const int groups = static_cast<int>(all.layers[run].schedule.group_count);
      if (task < groups) return Pass::run(all.layers[run], task, 0, 1, nullptr);
      task -= groups;
    }
  }

  // A run whose threads split the units: packing included, as each packs what it computes.
  static void run_shared(void* context, int member, int members, Barrier* barrier) {
    const ProductScope<R> scope;
    const typename Pass::Ready& l = *static_cast<typename Pass::Ready*>(context);
    const Shares own = shares_of(l.panels, l.d_blocks, member, members);
    Pass::pack(l, own);
    Pass::run(l, 0, member, members, barrier);
    Pass::unpack(l, own);
  }
};

template <class R, class Pass>
bool make_ready(const Run& run, I threads, I threads_each, Arena& arena,
                typename Pass::Ready& l) {
  describe(run, l);
  Split split = split_of<R>(run, threads_each);
  // Threads that split the units wait for one another: such runs go one after the other, each on all
  // threads.
  if (split.members > 1) split = split_of<R>(run, threads);
  l.members = split.members;
  return make_schedule(run, split.groups, arena, l.schedule) && pack_dropout(l, arena) &&
         Pass::take(l, arena);
}

template <class R, class Pass>
bool run_all(const Run* runs, int count, int threads) {
  Arena arena;
  typename Pass::Ready* layers = arena.take<typename Pass::Ready>(count);
  if (arena.failed) return false;
  const I threads_each = threads / count > 1 ? threads / count : 1;
  int batch_tasks = 0;
  for (int i = 0; i < count; ++i) {
    if (!make_ready<R, Pass>(runs[i], threads, threads_each, arena, layers[i])) return false;
    if (layers[i].members == 1) batch_tasks += static_cast<int>(layers[i].schedule.group_count);
  }
  Tasks<R, Pass> tasks = {layers, count, batch_tasks > 1 ? threads : 1};
  if (batch_tasks > 0) {
    parallel_for(count * tasks.parts, Tasks<R, Pass>::pack, &tasks);
    parallel_for(batch_tasks, Tasks<R, Pass>::run, &tasks);
    if (Pass::unpacks) parallel_for(count * tasks.parts, Tasks<R, Pass>::unpack, &tasks);
  }
  for (int i = 0; i < count; ++i) {
    if (layers[i].members == 1) continue;
    parallel_team(static_cast<int>(layers[i].members), Tasks<R, Pass>::run_shared, &layers[i]);
  }
  return true;
}
