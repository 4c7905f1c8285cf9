// The kinds of cells by their numbers, as the two schedulers (sequence/ and step/) call them: the one
// place where a number becomes a kind.
//
// A kind is a struct with
//   layout                     what it looks like: layout.h
//   forward(functions, tile)   from preactivations to the new states
//   backward(functions, tile)  from the new states' gradients to those of the preactivations, and of
//                              the old states where they don't pass through a product
// and, if a product comes late,
//   gates(functions, tile, h)  before `forward`: into `work` what takes the state's place in it; h has
//                              the late gate's dropout mask on it
//   backward_gates(functions, tile, late)  after `backward`, given the gradient of that: those of the
//                              last `late_cols` columns, h's share added to the old state's, and
//                              `value` again.

namespace kinds {
#include "simple_rnn.inl"
#include "lstm.inl"
#include "gru.inl"
#include "gru_reset_before.inl"
}  // namespace kinds

template <class R>
struct Cell {
  typedef typename R::S S;
  typedef typename R::Real Real;
  const CellLayout* layout;
  void (*forward)(const Functions<Real>&, Tile<Real>&);
  void (*backward)(const Functions<Real>&, BackTile<Real>&);
  void (*gates)(const Functions<Real>&, Tile<Real>&, const S* h);
  void (*backward_gates)(const Functions<Real>&, BackTile<Real>&, const LateTile<Real>&);
  // z = bias + x W + h U of `rows` rows of `together` panels, z_panel apart; the second is for few rows.
  void (*project)(const Pair<R>&, I rows, I together, S* z, I z_panel);
  void (*project_few)(const Pair<R>&, I rows, I together, S* z, I z_panel);
};

template <class R, bool kFew, int NC, int XN, int H0, int HN>
OSTINATO_INLINE void project_columns(const Pair<R>& p, I rows, typename R::S* z, I ldz, I z_column) {
  if constexpr (kFew) pair_columns_of_few<R, NC, XN, H0, HN>(p, rows, z, ldz, z_column);
  else pair_columns<R, NC, XN, H0, HN>(p, rows, z, ldz, z_column);
}

template <class R, class Kind, bool kFew>
void project(const Pair<R>& p, I rows, I together, typename R::S* z, I z_panel) {
  constexpr CellLayout c = Kind::layout;
  constexpr I L = R::kLanes;
  if constexpr (c.cols > 1) {
    project_columns<R, kFew, c.cols, c.x_cols, c.h_first, c.h_cols>(p, rows, z, c.cols * L, L);
  } else {
    switch (together) {
      case 4: return project_columns<R, kFew, 4, 4, 0, 4>(p, rows, z, L, z_panel);
      case 3: return project_columns<R, kFew, 3, 3, 0, 3>(p, rows, z, L, z_panel);
      case 2: return project_columns<R, kFew, 2, 2, 0, 2>(p, rows, z, L, z_panel);
      default: return project_columns<R, kFew, 1, 1, 0, 1>(p, rows, z, L, z_panel);
    }
  }
}

template <class R, class Kind>
constexpr Cell<R> cell() {
  constexpr CellLayout c = Kind::layout;
  static_assert(c.cols == 1 || c.cols == 3 || c.cols == 4, "gemm.inl has no other strides");
  static_assert(c.states <= 2 && c.x_cols <= c.cols && c.h_first + c.h_cols <= c.cols, "a layout");
  typedef typename R::Real Real;
  Cell<R> made = {&Kind::layout, Kind::template forward<Real>, Kind::template backward<Real>, nullptr,
                  nullptr, project<R, Kind, false>, nullptr};
  if constexpr (!R::kPairs) made.project_few = project<R, Kind, true>;
  if constexpr (c.has_late()) {
    made.gates = Kind::template gates<Real>;
    made.backward_gates = Kind::template backward_gates<Real>;
  }
  return made;
}

template <class R>
constexpr Cell<R> kCells[] = {
#define KIND(name) cell<R, kinds::name>(),
#include "kinds.def"
#undef KIND
};

constexpr const CellLayout* kLayouts[] = {
#define KIND(name) &kinds::name::layout,
#include "kinds.def"
#undef KIND
};
constexpr I kKinds = sizeof(kLayouts) / sizeof(kLayouts[0]);
