// The timesteps of a tile of rows: by one thread; or, where there are few rows and wide products, by
// several together, which share the columns of each wide product and wait for one another before it and
// after it. All else of such a step is the first one's.

template <class R>
struct Timesteps {
  RoutineTile<R> tile;
  I member = 0, members = 1;
  Barrier* barrier = nullptr;
  // What has been done since they last waited: by the first alone; by all, each its share.
  bool first_did = false, all_did = false;
  const ProductStep* latest = nullptr;  // of the shared ones
  bool keeps_checkpoints = false;

  void run() {
    start();
    run_to(tile.call.T);
    finish();
  }

  // The same by windows, from the last to the first: `kept` runs each once more before.
  void run_by_windows(Timesteps& kept) {
    start();
    const I T = tile.call.T, window = tile.call.window;
    for (I first = (T - 1) / window * window; first >= 0; first -= window) {
      if (members > 1) wait();
      kept.run_again(first, first + window < T ? first + window : T);
      run_to(T - first);
    }
    finish();
  }

  // Steps [first, last) of a window once more.
  void run_again(I first, I last) {
    tile.number = tile.step = first;
    if (is_first()) {
      for (I k = 0; k < tile.plan.n_carries; ++k)
        copy(tile.checkpoint(k), tile.rows * tile.plan.carries[k].size, tile.carry(k, false));
    }
    first_did = true;
    run_to(last);
    if (members > 1) wait();
  }

  void start() {
    if (is_first()) begin();
    first_did = true;
  }

  void finish() {
    if (all_did) wait();
    if (is_first()) end();
  }

  // Until so many steps have been run.
  void run_to(I last) {
    const RoutinePlan& plan = tile.plan;
    for (; tile.number < last; ++tile.number) {
      tile.step = plan.reverse ? tile.call.T - 1 - tile.number : tile.number;
      if (keeps_checkpoints && tile.step % tile.call.window == 0) keep_checkpoint();
      if (tile.memory.ahead != nullptr && (tile.number == 0 || tile.place_ahead() == 0)) go_ahead();
      const bool is_idle = read_mask(tile, is_first()) && plan.idle.count > 0;
      run_steps(is_idle ? plan.idle : plan.body);
      if (plan.n_outers > 0 && tile.ends(kRing)) catch_up();
      if (tile.memory.has_pieces && tile.ends(kRing * kPieceSums)) end_pieces();
      const I truncate = tile.call.truncate;
      if (truncate != 0 && tile.step != 0 && tile.step % truncate == 0) clear_carries();
    }
  }

  // Reads this step's mask; whether it's False for all rows.
  static bool read_mask(const RoutineTile<R>& tile, bool writes) {
    const I operand = tile.plan.mask;
    if (operand < 0) return false;
    const I time = tile.time_of(tile.plan.operands[operand].in_output_order);
    const uint8_t* mask = static_cast<const uint8_t*>(tile.call.inputs[operand]);
    bool any = false;
    for (I r = 0; r < tile.rows; ++r) {
      const bool valid = mask[(tile.first + r) * tile.call.T + time] != 0;
      if (writes) tile.memory.mask[r] = valid ? 1 : 0;
      any = any || valid;
    }
    return !any;
  }

  static void run_step(const RoutineTile<R>& tile, const RoutineStep& step) {
    switch (step.code) {
      case RoutineStep::product: {
        const ProductStep& p = step.product_step;
        if (tile.memory.ahead == nullptr || !p.is_ahead) tile.product(p, tile.panels(p));
        break;
      }
      case RoutineStep::outer: tile.put_off(step.outer_step); break;
      case RoutineStep::map: MapRun<R>(step.map_step, tile).run(); break;
    }
  }

  static void copy(const typename R::S* from, I n, typename R::S* to) {
    if (n > 0) __builtin_memcpy(to, from, static_cast<size_t>(n) * sizeof(*to));
  }

 private:
  bool is_first() const { return member == 0; }

  void wait() {
    if (barrier != nullptr) barrier->wait();
    first_did = all_did = false;
    latest = nullptr;
  }

  void run_steps(const StepList& list) {
    for (I i = 0; i < list.count; ++i) {
      const RoutineStep& step = list.steps[i];
      if (members > 1 && is_wide(step, tile.rows, tile.call.least_shared)) {
        const ProductStep& p = step.product_step;
        if (first_did || (all_did && !(latest != nullptr && adds_on(*latest, p)))) wait();
        tile.product(p, share(tile.panels(p), member, members));
        all_did = true, latest = &p;
      } else {
        if (all_did) wait();
        if (is_first()) run_step(tile, step);
        first_did = true;
      }
    }
  }

  // The products of inputs alone, of the next timesteps at once.
  void go_ahead() {
    wait();
    const I steps = tile.steps_ahead();
    const StepList& list = tile.plan.body;
    for (I i = 0; i < list.count; ++i) {
      const ProductStep& p = list.steps[i].product_step;
      if (list.steps[i].code == RoutineStep::product && p.is_ahead)
        tile.product_ahead(p, steps, share(tile.panels(p), member, members));
    }
    all_did = true;
  }

  // What OUTERs have put off.
  void catch_up() {
    if (members > 1) wait();
    tile.catch_up(tile.plan.body, member, members);
    tile.catch_up(tile.plan.idle, member, members);
    if (members > 1) wait();
    if (is_first()) fill_zero(tile.memory.pending, tile.plan.n_outers);
    first_did = true;
  }

  void keep_checkpoint() {
    if (all_did) wait();
    for (I k = 0; is_first() && k < tile.plan.n_carries; ++k)
      copy(tile.carry(k, false), tile.rows * tile.plan.carries[k].size, tile.checkpoint(k));
    first_did = true;
  }

  // Those after this step.
  void clear_carries() {
    if (all_did) wait();
    for (I k = 0; is_first() && k < tile.plan.n_carries; ++k)
      fill_zero(tile.carry(k, true), tile.rows * tile.plan.carries[k].size);
    first_did = true;
  }

  void end_pieces() {
    if (members > 1) wait();
    for (I i = 0; i < tile.plan.n_results; ++i) {
      const LongSums<R>& sums = tile.memory.sums[i];
      const Span own = share(tile.plan.results[i].size, member, members);
      if (sums.has_pieces()) sums.end_piece(own.first, own.size());
    }
    if (members > 1) wait();
    first_did = true;
  }

  void begin() {
    tile.step = 0;
    for (I k = 0; k < tile.plan.n_carries; ++k) {
      const CarryValue& carry = tile.plan.carries[k];
      const auto from = static_cast<const typename R::S*>(tile.call.inputs[carry.operand]);
      copy(from + tile.first * carry.size, tile.rows * carry.size, tile.carry(k, false));
    }
    for (I i = 0; i < tile.plan.n_results; ++i)
      if (tile.plan.results[i].kind == ResultKind::rows) {
        const Address<R> to = tile.result(i);
        fill_zero(to.at, tile.rows * to.row);
      }
  }

  void end() {
    tile.step = tile.call.T;
    for (I i = 0; i < tile.plan.n_results; ++i) {
      const RoutineResult& result = tile.plan.results[i];
      if (result.kind != ResultKind::carry) continue;
      const auto to = static_cast<typename R::S*>(tile.call.outputs[i]);
      copy(tile.carry(result.which, false), tile.rows * result.size, to + tile.first * result.size);
    }
  }
};
