// Where the forward pass keeps what, and which part of it is a member of a group's.

template <class R>
struct ForwardPlaces {
  typedef typename R::S S;
  typedef typename R::V V;
  typedef typename R::Int Int;
  static constexpr I L = R::kLanes, W = R::kWords;

  const Layer<R>& l;
  const CellLayout& c;
  const Rows& rows;
  const GroupMemory<R>& memory;
  const I member, members;
  const Part own;
  S *tile, *spare, *work;
  Int *valid, *shown;

  ForwardPlaces(const Layer<R>& layer, I group, I member, I members)
      : l(layer), c(layer.layout), rows(layer.schedule.groups[group]), memory(layer.memory[group]),
        member(member), members(members),
        own(part_of(layer.panels, rows.count, member, members, splits_rows(layer))) {
    const I block = block_of(layer, rows.count);
    S* next = memory.private_ + member * memory.private_size;
    valid = reinterpret_cast<Int*>(next), next += blocks_of(rows.count, L) * L;
    shown = reinterpret_cast<Int*>(next), next += blocks_of(rows.count, L) * L;
    work = next, next += block * L;
    tile = next, next += 4 * block * L;
    spare = next;
  }

  // Rows of a tile, at most: of few rows several panels may be one.
  static I block_of(const Layer<R>& l, I count) {
    return count < kRowBlock && l.chunk == 1 ? count : kRowBlock;
  }

  static I private_size(const Layer<R>& l, I count) {
    const I block = block_of(l, count);
    return 2 * blocks_of(count, L) * L + (1 + 4 + 4) * block * L + 64 * L;
  }

  // Where panels are computed together, they stay whole; and where a product comes late. Few rows stay
  // together, too: their sums are the same then with however many members.
  static bool splits_rows(const Layer<R>& l) {
    return l.layout.cols > 1 && !l.layout.has_late() && l.chunk == 1;
  }

  S* state(I s, I t, I panel) const {
    if (l.run->spec.training) return l.kept_state(s, t, panel, rows.first);
    return memory.states + (((t & 1) * c.states + s) * l.panels + panel) * rows.count * L;
  }
  // The state's as the products take it without dropout, and the distance to the next panel's.
  const S* state_operand(I t) const { return R::kPairs ? operand(0, t, 0) : state(0, t, 0); }
  I operand_stride() const {
    return (!R::kPairs && l.run->spec.training ? l.B : rows.count) * W;
  }
  S* operand(I gate, I t, I panel) const {
    const I copies = state_operands<R>(l.run->spec);
    return memory.operands + (((t & 1) * copies + gate) * l.panels + panel) * rows.count * W;
  }
  const S* recurrent_mask(I gate, I panel) const {
    return l.recurrent_masks + ((gate * l.panels + panel) * l.B + rows.first) * L;
  }
  // The tile of a panel for rows from r on, and the distance to the next panel's, and from there to the
  // next timestep's.
  S* tile_at(I t, I panel, I r) const {
    if (l.keeps_tiles) return l.kept_tile(t, panel, rows.first) + r * c.cols * L;
    if (memory.tiles == nullptr) return tile;
    return memory.tiles + ((t % l.chunk * l.panels + panel) * rows.count + r) * c.cols * L;
  }
  I tile_panel_stride(I block) const {
    return (l.keeps_tiles ? l.B : memory.tiles != nullptr ? rows.count : block) * c.cols * L;
  }
  S* x_of(I t) const { return memory.x[t / l.chunk & 1]; }
  I x_block() const { return rows.count * l.chunk * W; }

  // A row of the state with a gate's dropout mask on it, if any.
  OSTINATO_INLINE V dropped(I gate, I t, I panel, I r) const {
    const V h = load<R>(state(0, t, panel) + r * L);
    return l.run->spec.recurrent_masks ? h * load<R>(recurrent_mask(gate, panel) + r * L) : h;
  }
};

template <class R>
bool take_forward_memory(Layer<R>& l, Arena& arena) {
  typedef typename R::S S;
  constexpr I L = R::kLanes;
  const RunSpec& spec = l.run->spec;
  const I copies = spec.input_masks > 1 ? spec.input_masks : 1;
  l.chunk = chunk_of(blocks_of(l.B, l.schedule.group_count), l.T);
  l.pairs = l.pairs && l.chunk == 1;
  l.memory = arena.take<GroupMemory<R>>(l.schedule.group_count);
  if (arena.failed) return false;
  for (I g = 0; g < l.schedule.group_count; ++g) {
    GroupMemory<R>& m = l.memory[g];
    const I count = l.schedule.groups[g].count, all = l.panels * count * L;
    for (S*& x : m.x) x = arena.take<S>(copies * l.d_blocks * count * l.chunk * R::kWords);
    m.states = spec.training ? nullptr : arena.take<S>(2 * l.layout.states * all);
    const I operands = state_operands<R>(spec);
    m.operands = operands ? arena.take<S>(2 * operands * l.panels * count * R::kWords) : nullptr;
    const bool has_late = l.layout.has_late();
    m.late = has_late ? arena.take<S>(all) : nullptr;
    const bool has_tiles = (has_late || l.chunk > 1) && !l.keeps_tiles;
    m.tiles = has_tiles ? arena.take<S>(l.chunk * l.layout.cols * all) : nullptr;
    m.private_size = ForwardPlaces<R>::private_size(l, count);
    m.private_ = arena.take<S>(l.members * m.private_size);
  }
  return !arena.failed;
}
