// Rows' states between records, where all of a row's lie one after another, and a tile, which runs some rows.
// Windows and pools use them where they are.

template <class R>
struct TileRows {
  typedef typename R::S S;
  static constexpr I L = R::kLanes;

  static S* to(void* p) { return static_cast<S*>(p); }

  static void keep_row(const S* from, I N, I r, I width, S* to) {
    for (I b = 0; b * L < width; ++b) {
      store<R>(to + (b * N + r) * L, load_part<R>(from + b * L, width - b * L));
    }
  }
  static void show_row(const S* from, I N, I r, I width, S* to) {
    for (I b = 0; b * L < width; ++b) {
      store_part<R>(to + b * L, load<R>(from + (b * N + r) * L), width - b * L);
    }
  }

  static I states_of(const Step& s) { return kCells<R>[s.op.kind].layout->states; }
  static RoutineStepper<R>& routine_of(const Step& s) { return *static_cast<RoutineStepper<R>*>(s.routine); }

  static void load_row(const StepMemory& m, I r, const uint8_t* record) {
    for (I i = 0; i < m.count; ++i) {
      const Step& s = m.steps[i];
      const uint8_t* from = record + s.record;
      const S* numbers = reinterpret_cast<const S*>(from);
      if (is_cell(s.op)) {
        const I count = states_of(s), width = s.op.width;
        for (I k = 0; k < count; ++k) keep_row(numbers + k * width, m.N, r, width, to(s.state[k]));
        if (s.started != nullptr) s.started[r] = from[sizeof(S) * count * width];
      } else if (s.op.code == step_routine) {
        routine_of(s).each_carry(r, [&](S* carry, I size) {
          __builtin_memcpy(carry, numbers, sizeof(S) * size);
          numbers += size;
        });
      } else if (s.record_bytes > 0 && record != m.records[r]) {
        __builtin_memcpy(m.records[r] + s.record, from, s.record_bytes);
      }
    }
  }

  static void store_row(const StepMemory& m, I r) {
    for (I i = 0; i < m.count; ++i) {
      const Step& s = m.steps[i];
      uint8_t* into = m.records[r] + s.record;
      S* numbers = reinterpret_cast<S*>(into);
      if (is_cell(s.op)) {
        const I count = states_of(s), width = s.op.width;
        for (I k = 0; k < count; ++k) show_row(to(s.state[k]), m.N, r, width, numbers + k * width);
        if (s.started != nullptr) into[sizeof(S) * count * width] = s.started[r];
      } else if (s.op.code == step_routine) {
        routine_of(s).each_carry(r, [&](const S* carry, I size) {
          __builtin_memcpy(numbers, carry, sizeof(S) * size);
          numbers += size;
        });
      }
    }
  }

  static void load_rows(const StepMemory& m) {
    for (I i = 0; i < m.count; ++i)
      if (m.steps[i].op.code == step_routine) routine_of(m.steps[i]).call.B = m.N;
    for (I r = 0; r < m.N; ++r) load_row(m, r, m.records[r]);
  }
  static void store_rows(const StepMemory& m) {
    for (I r = 0; r < m.N; ++r) store_row(m, r);
  }
  static void reset_row(const StepMemory& m, I r) { load_row(m, r, m.initial); }
};
