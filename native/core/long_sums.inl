// Sums of very many terms, whose error doesn't grow with their number: they're summed in pieces, and of a
// sum of pieces what each addition rounds off is summed beside it.

// Additions of products over a few timesteps that make a piece.
constexpr I kPieceSums = 32;

// Some sums: of the piece that is being summed, of the pieces before it, and what that rounded off. Of
// short sequences there's one piece, and the others are null.
template <class R>
struct LongSums {
  typename R::S *piece, *total, *lost;

  bool has_pieces() const { return total != nullptr; }

  void clear(I first, I n) const {
    fill_zero(piece + first, n);
    if (!has_pieces()) return;
    fill_zero(total + first, n);
    fill_zero(lost + first, n);
  }

  // Ends a piece, and begins the next.
  void end_piece(I first, I n) const {
    typedef typename R::V V;
    for (I i = first; i < first + n; i += R::kLanes) {
      const I lanes = first + n - i;
      const V before = load_part<R>(total + i, lanes), term = load_part<R>(piece + i, lanes);
      const V sum = before + term, added = sum - before;
      const V rest = (before - (sum - added)) + (term - added);
      store_part<R>(total + i, sum, lanes);
      store_part<R>(lost + i, load_part<R>(lost + i, lanes) + rest, lanes);
      store_part<R>(piece + i, V{}, lanes);
    }
  }

  // Puts all of it in the piece's place, after the last.
  void finish(I first, I n) const {
    typedef typename R::V V;
    for (I i = first; i < first + n; i += R::kLanes) {
      const I lanes = first + n - i;
      const V sum = load_part<R>(total + i, lanes), rest = load_part<R>(lost + i, lanes);
      // What an infinite sum has lost isn't a number.
      store_part<R>(piece + i, rest == rest ? sum + rest : sum, lanes);
    }
  }
};
