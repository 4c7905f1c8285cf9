// A MAP over a tile, chunk by chunk: its inputs where they lie, or copied where vectors can't read them
// there, its operations one after another, each over the whole chunk, then its outputs.

template <class R>
struct MapRun {
  typedef typename R::S S;
  typedef typename R::Real Real;  // for all but products
  typedef typename R::V V;
  static constexpr I L = R::kLanes;

  const MapStep& m;
  const RoutineTile<R>& tile;
  const TileMemory<R>& memory;
  const I lines, columns;
  I slot_size, chunk_lines, chunk_columns;

  MapRun(const MapStep& step, const RoutineTile<R>& of)
      : m(step), tile(of), memory(of.memory),
        lines(m.loop == MapLoop::rows_by_columns ? of.rows
              : m.loop == MapLoop::columns_by_rows ? m.columns : 1),
        columns(m.loop == MapLoop::rows_by_columns ? m.columns
                : m.loop == MapLoop::columns_by_rows ? of.rows : of.rows * m.columns) {}

  void run() {
    for (I i = 0; i < m.n_inputs; ++i) {
      const MapInput& input = m.inputs[i];
      const bool is_literal = input.place.space == Space::literal;
      if (is_literal) store<R>(constant(i), splat<R>(static_cast<S>(input.literal)));
      else find(i, input.place, input.stride);
      memory.registers[i] = {constant(i), 0, 0};
    }
    for (I i = 0; i < m.n_outputs; ++i) find(m.n_inputs + i, m.outputs[i].place, m.outputs[i].stride);
    choose_chunk();
    for (I i = 0; i < m.n_outputs; ++i) begin_output(i);
    for (I d = 0; d < m.outer_count; ++d)
      if (m.outer[d] == 0) return;
    I at[kMostDims] = {};
    do all_chunks();
    while (advance(at));
  }

  // As long a chunk as leaves in L1 what it writes there and reads again.
  void choose_chunk() {
    I slots = m.slots + 1;
    for (I i = 0; i < m.n_inputs; ++i) {
      const Varies varies = m.inputs[i].varies;
      slots += (varies.lines || varies.columns) && !is_in_place(i, columns);
    }
    I most = kChunkBytes / static_cast<I>(sizeof(S)) / L / slots;
    most = most < kLeastVectors ? kLeastVectors : most > kMostVectors ? kMostVectors : most;
    chunk_columns = columns < most * L ? columns : most * L;
    chunk_lines = most / blocks_of(chunk_columns > 0 ? chunk_columns : 1, L);
    slot_size = most * L;
  }

  // Whether the vectors of so many columns can be read where they lie.
  bool is_in_place(I number, I n_columns) const {
    const MapInput& input = m.inputs[number];
    return input.varies.columns && memory.strides[2 * number + 1] == 1 &&
           (input.has_spare || n_columns % L == 0);
  }

  // An operation's, and behind those the inputs'.
  S* slot(I number) const { return memory.slots + number * slot_size; }
  S* constant(I input) const { return memory.constants + input * L; }

  // --- where references are ---

  void find(I number, const Place& place, I stride) const {
    const Address<R> found = tile.address(place);
    const bool by_columns = m.loop == MapLoop::rows_by_columns;
    memory.at[number] = found.at;
    memory.strides[2 * number] = m.loop == MapLoop::one_line ? 0 : by_columns ? found.row : stride;
    memory.strides[2 * number + 1] = m.loop == MapLoop::columns_by_rows ? found.row : stride;
  }
  Target<Real> target(I output, I line, I column) const {
    const I i = m.n_inputs + output, *strides = memory.strides + 2 * i;
    return {memory.at[i] + line * strides[0] + column * strides[1], strides[0], strides[1]};
  }

  const I* outer_strides(I reference) const {
    return reference < m.n_inputs ? m.inputs[reference].outer
                                  : m.outputs[reference - m.n_inputs].outer;
  }

  // To the next element of the outer dimensions; false after the last.
  bool advance(I* at) const {
    for (I d = m.outer_count; d-- > 0;) {
      const bool wraps = ++at[d] == m.outer[d];
      const I moves = wraps ? 1 - m.outer[d] : 1;
      if (wraps) at[d] = 0;
      for (I i = 0; i < m.n_inputs + m.n_outputs; ++i)
        if (i >= m.n_inputs || m.inputs[i].place.space != Space::literal)
          memory.at[i] += moves * outer_strides(i)[d];
      if (!wraps) return true;
    }
    return false;
  }

  // --- outputs ---

  // Whether the values of a chunk are all that comes to their places.
  bool overwrites(const MapOutput& output, I number) const {
    const I* strides = memory.strides + 2 * (m.n_inputs + number);
    return output.mode == MapOutput::store ||
           (output.mode != MapOutput::add && output.visits_once &&
            (strides[0] != 0 || lines <= chunk_lines) &&
            (strides[1] != 0 || columns <= chunk_columns));
  }

  // What is added up begins with zeros: with -0, to which -0 added is -0 as where it's stored.
  void begin_output(I number) const {
    const MapOutput& output = m.outputs[number];
    if (output.mode == MapOutput::add || (overwrites(output, number) && !is_empty())) return;
    if (output.mode == MapOutput::store) return;
    const S zero = is_empty() ? S{0} : -S{0};
    const S value = output.mode == MapOutput::sum ? zero : -static_cast<S>(__builtin_inf());
    I at[kMostDims] = {};
    Target<Real> to = target(number, 0, 0);
    for (;;) {
      fill(to, value);
      I d = m.outer_count;
      for (; d-- > 0;) {
        if (output.outer[d] == 0) continue;
        if (m.outer[d] == 0) return;
        const bool wraps = ++at[d] == m.outer[d];
        to.at += (wraps ? 1 - m.outer[d] : 1) * output.outer[d];
        if (!wraps) break;
        at[d] = 0;
      }
      if (d < 0) return;
    }
  }

  bool is_empty() const {
    bool empty = lines == 0 || columns == 0;
    for (I d = 0; d < m.outer_count; ++d) empty = empty || m.outer[d] == 0;
    return empty;
  }

  void fill(const Target<Real>& to, S value) const {
    const I some_lines = to.line == 0 ? 1 : lines, some_columns = to.column == 0 ? 1 : columns;
    for (I l = 0; l < some_lines; ++l)
      for (I c = 0; c < some_columns; ++c) to.at[l * to.line + c * to.column] = value;
  }

  // --- chunks ---

  void all_chunks() const {
    for (I l = 0; l < lines; l += chunk_lines)
      for (I c = 0; c < columns; c += chunk_columns)
        chunk(l, c, lines - l < chunk_lines ? lines - l : chunk_lines,
              columns - c < chunk_columns ? columns - c : chunk_columns);
  }

  void chunk(I line, I column, I n_lines, I n_columns) const {
    I slots = m.slots;
    for (I i = 0; i < m.n_inputs; ++i)
      if (m.inputs[i].place.space != Space::literal)
        take_input(i, line, column, n_lines, n_columns, slots);
    const I vectors = blocks_of(n_columns, L);
    I output = 0;
    for (I k = 0; k <= m.n_operations; ++k) {
      for (; output < m.n_outputs && m.outputs[output].after == k; ++output)
        put_output(output, line, column, n_lines, n_columns);
      if (k < m.n_operations) operate_chunk(k, n_lines, vectors);
    }
  }

  void put_output(I number, I line, I column, I n_lines, I n_columns) const {
    const MapOutput& output = m.outputs[number];
    const bool is_largest = output.mode == MapOutput::largest;
    const Combine how = overwrites(output, number) ? Combine::store
                        : is_largest               ? Combine::largest
                                                   : Combine::add;
    // Of weights' gradients, sums of very many, the rows' are summed first.
    put<Real>(memory.registers[output.from], target(number, line, column), n_lines, n_columns, how,
              is_largest, !output.is_weight);
  }

  void take_input(I number, I line, I column, I n_lines, I n_columns, I& slots) const {
    const MapInput& input = m.inputs[number];
    const I by_line = memory.strides[2 * number], by_column = memory.strides[2 * number + 1];
    const S* from = memory.at[number] + line * by_line + column * by_column;
    const I some = input.varies.lines ? n_lines : 1, vectors = blocks_of(n_columns, L);
    Values<Real>& values = memory.registers[number];
    if (!input.varies.columns) {
      S* to = input.varies.lines ? slot(slots++) : constant(number);
      for (I l = 0; l < some; ++l) store<R>(to + l * L, splat<R>(from[l * by_line]));
      values = {to, input.varies.lines ? L : 0, 0};
    } else if (is_in_place(number, n_columns)) {
      values = {from, input.varies.lines ? by_line : 0, L};
    } else {
      S* to = slot(slots++);
      for (I l = 0; l < some; ++l)
        copy_line(from + l * by_line, by_column, n_columns, to + l * vectors * L);
      values = {to, input.varies.lines ? vectors * L : 0, L};
    }
  }

  static void copy_line(const S* from, I step, I n, S* to) {
    if (step == 1) {
      for (I c = 0; c < n; c += L) store<R>(to + c, load_part<R>(from + c, n - c));
      return;
    }
    for (I c = 0; c < n; ++c) to[c] = from[c * step];
    for (I c = n; c < blocks_of(n, L) * L; ++c) to[c] = 0;
  }

  void operate_chunk(I number, I n_lines, I n_vectors) const {
    const MapOperation& o = m.operations[number];
    I some = o.varies.lines ? n_lines : 1, vectors = o.varies.columns ? n_vectors : 1;
    S* out = slot(o.slot);
    memory.registers[m.n_inputs + number] = {out, o.varies.lines ? vectors * L : 0,
                                             o.varies.columns ? L : 0};
    Values<Real> in[3];
    bool is_dense = true;
    for (I i = 0; i < o.arity; ++i) {
      in[i] = memory.registers[o.from[i]];
      is_dense = is_dense && ((in[i].line == vectors * L && in[i].step == L) ||
                              (in[i].line == 0 && in[i].step == 0));
    }
    if (vectors == 1) {
      for (I i = 0; i < o.arity; ++i) in[i].step = in[i].line;
      vectors = some, some = 1;
    } else if (is_dense) {
      vectors *= some, some = 1;
    }
    kOperations<Real>[o.number](in, out, some, vectors);
  }
};
