// Where the backward pass keeps what, and for which part of it a member of a group is there.

constexpr I kMostRing = 32;

template <class R>
struct BackMemory {
  typedef typename R::S S;
  I ring;      // timesteps, a power of two
  I piece;     // timesteps of a piece of the weights' gradients, a multiple of that
  // For products that sum over rows; of pairs a row here is two.
  S* d_z;      // [ring][panel][row][cols L]
  S* x;        // [ring][mask][block of D][row][L]
  S* h;        // the state as its products took it, [ring][state_operands][panel][row][L]
  S* late;     // what took the state's place in a late product, [ring][panel][row][L]
  // In pairs only, for those that sum over units: d_z of this timestep and the one after, [2][panel]
  // [row][cols kWords].
  S* d_z_units;
  S *d_state[2], *d_fresh[2];  // [panel][row][L]; the latter null without fresh states
  S *d_kernel, *d_recurrent, *d_late, *d_bias;  // packed as the weights are; null where there are none
  LongSums<R> d_weights[4];                     // those four
  S* private_;
  I private_size;
};

template <class R>
struct BackLayer : Layer<R> {
  // transposed, packed: see pack_transposed
  typename R::S *kernel_t, *recurrent_t, *late_t;
  BackMemory<R>* back;
};

template <class R>
struct BackwardPlaces {
  typedef typename R::S S;
  static constexpr I L = R::kLanes, W = R::kWords;

  const BackLayer<R>& l;
  const RunSpec& spec;
  const CellLayout& c;
  const Rows& rows;
  const BackMemory<R>& memory;
  const I member, members;
  const Span own, own_d, own_kernel;  // panels of units, of inputs, and of the kernel's gradient

  BackwardPlaces(const BackLayer<R>& layer, I group, I member, I members)
      : BackwardPlaces(layer, group, member, members,
                       shares_of(layer.panels, layer.d_blocks, member, members)) {}
  BackwardPlaces(const BackLayer<R>& layer, I group, I member, I members, const Shares& shares)
      : l(layer), spec(layer.run->spec), c(layer.layout), rows(layer.schedule.groups[group]),
        memory(layer.back[group]), member(member), members(members), own(shares.units),
        own_d(shares.inputs), own_kernel(shares.kernel) {}

  I panel_size() const { return rows.count * L; }
  I row_count() const { return words_of<R>(rows.count); }  // where products sum over rows
  S* d_z(I slot, I panel) const {
    return memory.d_z + (slot * l.panels + panel) * row_count() * c.cols * L;
  }
  // For products that sum over units.
  S* d_z_units(I slot, I panel, I r) const {
    if constexpr (!R::kPairs) return d_z(slot, panel) + r * c.cols * L;
    return memory.d_z_units + (((slot & 1) * l.panels + panel) * rows.count + r) * c.cols * W;
  }
  S* x(I slot, I mask) const {
    const I copies = spec.input_masks > 1 ? spec.input_masks : 1;
    return memory.x + (slot * copies + mask) * l.d_blocks * row_count() * L;
  }
  S* h(I slot, I gate, I panel) const {
    const I copies = state_operands<R>(spec);
    return memory.h + ((slot * copies + gate) * l.panels + panel) * row_count() * L;
  }
  S* late(I slot, I panel) const {
    return memory.late + (slot * l.panels + panel) * row_count() * L;
  }
  S* d_state(I s, I panel) const { return memory.d_state[s] + panel * panel_size(); }
  const S* old_state(I s, I t, I panel) const { return l.kept_state(s, t, panel, rows.first); }
  const S* recurrent_mask(I gate, I panel) const {
    return l.recurrent_masks + ((gate * l.panels + panel) * l.B + rows.first) * L;
  }
  I row_of(I r) const { return l.schedule.row_of[rows.first + r]; }
};

// A member's own, of tiles as they're computed, and of the mask at a timestep.
template <class R>
struct BackScratch {
  typedef typename R::S S;
  typedef typename R::Int Int;
  static constexpr I L = R::kLanes;

  S *value, *slope, *work, *old, *tile;
  S* d_tile;  // of pairs, dz of a tile before it's rounded
  Int *valid, *shown;

  BackScratch(S* next, I count) {
    const I block = block_of(count);
    valid = reinterpret_cast<Int*>(next), next += blocks_of(count, L) * L;
    shown = reinterpret_cast<Int*>(next), next += blocks_of(count, L) * L;
    work = next, next += 2 * block * L;
    old = next, next += 2 * block * L;
    tile = next, next += 4 * block * L;
    value = next, next += 4 * block * L;
    slope = next, next += 4 * block * L;
    d_tile = next;
  }

  static I size(I count) {
    const I tiles = R::kPairs ? 4 : 3;
    return 2 * blocks_of(count, L) * L + (2 + 2 + 4 * tiles) * block_of(count) * L + 64 * L;
  }

  static I block_of(I count) { return count < kRowBlock ? count : kRowBlock; }
};
