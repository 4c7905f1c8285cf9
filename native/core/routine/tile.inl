// A tile of rows on its way through the timesteps: where all that instructions refer to lies.

constexpr I kRing = 8;        // steps that an OUTER may be put off for
constexpr I kAhead = 16;      // steps that a product of inputs may be computed for at once
// Of all values of a chunk of a MAP together: half of L1 or so. A chunk has four vectors at least, which
// are more where a MAP has very many values.
constexpr I kChunkBytes = 24 << 10;
constexpr I kLeastVectors = 4, kMostVectors = 128;  // of a value

// Memory of one thread's tiles.
template <class R>
struct TileMemory {
  typedef typename R::S S;
  I capacity;    // rows
  S* arena;      // a scratch value at its offset * capacity
  S* ring;       // (kRing, sizes * capacity)
  I ring_stride; // from one step's to the next
  S* ahead;      // (kAhead, ahead_stride) values computed ahead; null where they aren't
  I ahead_stride;
  S* mask;       // (capacity,) this step's, as 0 and 1
  S** carries;   // (carries, 2): before and after, by turns; null where kept
  S** weights;   // (results,): what WEIGHT results are summed in; null of others
  LongSums<R>* sums;  // (results,): of those
  bool has_pieces;    // whether these are summed in pieces
  S* kept;            // with a window: the saved values of one, and those before it and after it; all rows
  RowPair<R>* pairs;  // (outers, pairs_each): what OUTERs have put off
  I* pending;         // (outers,) how many
  I pairs_each;
  // of a MAP
  S* slots;
  S* constants;  // (inputs, L): values alike for a whole chunk
  Values<typename R::Real>* registers;
  S** at;     // (inputs and outputs,): their addresses at the first line and column
  I* strides; // (inputs and outputs, 2): of lines, and of columns
};

// Steps that there's room for of a saved value. With a window those of two: the carries before it and after
// it are both there.
inline I kept_times(const RoutineCall& call) {
  return call.window != 0 && call.window < call.T ? 2 * call.window : call.T + 1;
}

inline bool is_same_memory(const Place& a, const Place& b) {
  return a.space == b.space && a.index == b.index;
}

// Whether threads may share the columns of a step of so many rows: of a product wide enough, and not done
// ahead, where they share all of them.
inline bool is_wide(const RoutineStep& step, I rows, double least) {
  if (step.code != RoutineStep::product || step.product_step.is_ahead) return false;
  return static_cast<double>(rows) * multiplications_of(step.product_step) >= least;
}

// Whether a product adds to what the one before it has left, column by column, and reads none of it else.
inline bool adds_on(const ProductStep& before, const ProductStep& p) {
  return p.init == ProductStep::add && is_same_memory(p.out, before.out) &&
         p.out.offset == before.out.offset && p.out_stride == before.out_stride &&
         p.columns == before.columns && p.places == before.places && !is_same_memory(p.a, p.out);
}

template <class R>
struct Address {
  typename R::S* at;
  I row;  // from one row to the next
};

template <class R>
struct RoutineTile {
  typedef typename R::S S;
  const RoutineCall& call;
  const RoutinePlan& plan;
  const typename R::S* const* packed;
  const S* zeros;
  TileMemory<R>& memory;
  const I first, rows;
  const I tiles_before;  // of the pass whose steps are run once more, that of all rows; else 0
  I step = 0;    // s
  I number = 0;  // of steps that have been run

  I time_of(bool in_output_order) const {
    return (in_output_order ? call.flip_outputs : call.go_backwards) ? call.T - 1 - step : step;
  }

  // Whether of `count` steps, counted from the sequence's beginning, this is the last that's run. (Not of
  // those that have been run: what is summed together then doesn't depend on where the sequence ends.)
  bool ends(I count) const {
    return number + 1 == call.T || step % count == (plan.reverse ? 0 : count - 1);
  }
  // Of the values computed ahead, and how many steps there are from this one on.
  I place_ahead() const { return plan.reverse ? kAhead - 1 - step % kAhead : step % kAhead; }
  I steps_ahead() const {
    const I left = call.T - number, most = kAhead - place_ahead();
    return left < most ? left : most;
  }

  // Of (B, T, size) at this step, or of (B, size).
  Address<R> in_sequence(S* data, bool in_output_order, I size) const {
    return {data + (first * call.T + time_of(in_output_order)) * size, call.T * size};
  }
  Address<R> in_rows(S* data, I size) const { return {data + first * size, size}; }

  S* saved_data() const {
    if (call.window != 0) return memory.kept;
    return plan.keeps ? static_cast<S*>(call.outputs[plan.saved_tensor])
                      : const_cast<S*>(static_cast<const S*>(call.inputs[plan.saved_tensor]));
  }
  S* saved(I value, I s) const {
    const SavedValue& v = plan.saved[value];
    const I times = kept_times(call);
    if (call.window != 0) s %= times;
    return saved_data() + times * call.B * v.before + (s * call.B + first) * v.size;
  }

  // With a window, where carry k before its first step lies in the SAVED, of the routine that keeps.
  S* checkpoint(I k) const {
    S* data = plan.keeps ? static_cast<S*>(call.outputs[plan.saved_tensor])
                         : const_cast<S*>(static_cast<const S*>(call.inputs[plan.saved_tensor]));
    I before = 0, all = 0;
    for (I i = 0; i < plan.n_carries; ++i) {
      if (i < k) before += plan.carries[i].size;
      all += plan.carries[i].size;
    }
    return data + (step / call.window * all + before) * call.B + first * plan.carries[k].size;
  }

  S* carry(I k, bool after) const {
    const CarryValue& value = plan.carries[k];
    if (value.kept >= 0) return saved(value.kept, step + after);
    return memory.carries[2 * k + ((number + after) & 1)];
  }

  Address<R> operand(I index) const {
    const RoutineOperand& o = plan.operands[index];
    S* data = const_cast<S*>(static_cast<const S*>(call.inputs[index]));
    switch (o.kind) {
      case OperandKind::sequence: return in_sequence(data, o.in_output_order, o.size);
      case OperandKind::weight: return {data, 0};
      case OperandKind::mask: return {memory.mask, 1};
      case OperandKind::output:
        if (call.return_sequences) return in_sequence(data, o.in_output_order, o.size);
        if (step < call.T - 1) return {const_cast<S*>(zeros), 0};
        break;
      default: break;
    }
    return in_rows(data, o.size);
  }

  Address<R> result(I index) const {
    const RoutineResult& r = plan.results[index];
    S* data = static_cast<S*>(call.outputs[index]);
    if (r.kind == ResultKind::weight) return {memory.weights[index], 0};
    const bool has_steps = r.kind == ResultKind::sequence ||
                           (r.kind == ResultKind::output && call.return_sequences);
    return has_steps ? in_sequence(data, r.in_output_order, r.size) : in_rows(data, r.size);
  }

  Address<R> scratch(I index) const {
    const ScratchValue& value = plan.scratch[index];
    if (value.ahead >= 0 && memory.ahead != nullptr)
      return {memory.ahead + place_ahead() * memory.ahead_stride + value.ahead * memory.capacity,
              value.size};
    S* memory_of = value.ring ? memory.ring + number % kRing * memory.ring_stride : memory.arena;
    return {memory_of + value.offset * memory.capacity, value.size};
  }

  Address<R> address(const Place& place) const {
    Address<R> found{nullptr, 0};
    switch (place.space) {
      case Space::operand: found = operand(place.index); break;
      case Space::result: found = result(place.index); break;
      case Space::carry:
      case Space::next:
        found = {carry(place.index, place.space == Space::next), plan.carries[place.index].size};
        break;
      case Space::scratch: found = scratch(place.index); break;
      case Space::saved:
      case Space::saved_next:
        found = {saved(place.index, step + (place.space == Space::saved_next)),
                 plan.saved[place.index].size};
        break;
      case Space::literal: break;
    }
    found.at += place.offset;
    return found;
  }

  // Of the product's columns.
  Span panels(const ProductStep& p) const { return {0, panels_of<R>(plan.packed[p.weight])}; }

  // --- instructions but MAP ---

  void product(const ProductStep& p, Span panels) const {
    const Address<R> a = address(p.a), out = address(p.out);
    const PackedWeight& weight = plan.packed[p.weight];
    RowProduct<R> rows_of{a.at, a.row, nullptr, p.depth, out.at, out.row, 0, nullptr,
                          p.init == ProductStep::add, false};
    if (p.init == ProductStep::with_bias) rows_of.bias = address(p.bias).at;
    if (p.places == 1) return multiply_some(rows_of, weight, packed[p.weight], panels);
    // Rows and places are one dimension where they follow one another; else the longer is the rows.
    I inner = rows, outer = p.places, a_outer = p.a_stride, out_outer = p.out_stride;
    if (a.row == p.places * p.a_stride && out.row == p.places * p.out_stride) {
      inner = rows * p.places, outer = 1;
      rows_of.a_row = p.a_stride, rows_of.out_row = p.out_stride;
    } else if (p.places > rows) {
      inner = p.places, outer = rows, a_outer = a.row, out_outer = out.row;
      rows_of.a_row = p.a_stride, rows_of.out_row = p.out_stride;
    }
    for (I i = 0; i < outer; ++i) {
      rows_of.a = a.at + i * a_outer, rows_of.out = out.at + i * out_outer;
      multiply_rows<R>(rows_of, weight, packed[p.weight], inner, panels);
    }
  }

  // Rows of one place. A row that was alone in its tile is summed so once more, whatever rows are beside it
  // now; and one that wasn't isn't.
  void multiply_some(RowProduct<R> p, const PackedWeight& weight, const S* w, Span panels) const {
    p.each_alone = rows == 1;
    if (tiles_before == 0) return multiply_rows<R>(p, weight, w, rows, panels);
    for (I r = 0, n; r < rows; r += n, p.a += n * p.a_row, p.out += n * p.out_row) {
      p.each_alone = was_alone(r);
      for (n = 1; r + n < rows && was_alone(r + n) == p.each_alone;) ++n;
      multiply_rows<R>(p, weight, w, n, panels);
    }
  }

  bool was_alone(I r) const {
    const I tile = ((first + r + 1) * tiles_before - 1) / call.B;
    return share(call.B, tile, tiles_before).size() == 1;
  }

  // A product of inputs alone, of this step and those that follow it, `steps` in all: row after row, so
  // that the weights are read once for all steps.
  void product_ahead(const ProductStep& p, I steps, Span panels) const {
    RoutineTile next = *this;
    next.number = number + 1, next.step = plan.reverse ? step - 1 : step + 1;
    const Address<R> a = address(p.a), out = address(p.out);
    const I between = steps > 1 ? next.address(p.a).at - a.at : 0;
    RowProduct<R> steps_of{a.at, between, nullptr, p.depth, out.at, memory.ahead_stride, 0, nullptr,
                           p.init == ProductStep::add, steps == 1};
    if (p.init == ProductStep::with_bias) steps_of.bias = address(p.bias).at;
    for (I r = 0; r < rows; ++r) {
      steps_of.a = a.at + r * a.row, steps_of.out = out.at + r * out.row;
      multiply_rows<R>(steps_of, plan.packed[p.weight], packed[p.weight], steps, panels);
    }
  }

  void put_off(const OuterStep& p) const {
    const Address<R> a = address(p.a), z = address(p.z);
    I& count = memory.pending[p.number];
    RowPair<R>* pairs = memory.pairs + p.number * memory.pairs_each;
    if (p.places == 1) {
      pairs[count++] = {a.at, z.at, a.row, z.row, rows};
    } else if (a.row == p.places * p.a_stride && z.row == p.places * p.z_stride) {
      pairs[count++] = {a.at, z.at, p.a_stride, p.z_stride, rows * p.places};
    } else if (p.places > rows) {
      for (I r = 0; r < rows; ++r)
        pairs[count++] = {a.at + r * a.row, z.at + r * z.row, p.a_stride, p.z_stride, p.places};
    } else {
      for (I i = 0; i < p.places; ++i)
        pairs[count++] = {a.at + i * p.a_stride, z.at + i * p.z_stride, a.row, z.row, rows};
    }
  }

  // A member's share of what has been put off.
  void catch_up(const StepList& list, I member, I members) const {
    for (I i = 0; i < list.count; ++i) {
      if (list.steps[i].code != RoutineStep::outer) continue;
      const OuterStep& p = list.steps[i].outer_step;
      const I panels = blocks_of(p.columns, kPanel * R::kLanes);
      add_outer<R>(memory.pairs + p.number * memory.pairs_each, memory.pending[p.number], p.depth,
                   p.columns, address(p.out).at, share(panels, member, members));
    }
  }
};
