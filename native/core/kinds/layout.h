// What a kind of cell looks like, whatever its arithmetic: its gates, its states, its columns.
//
// A *panel* is L neighbouring units, L being the lanes of a vector; a *tile* is some rows of a panel,
// and its columns are one vector each. The product with the inputs fills the columns [0, x_cols), that
// with the state [h_first, h_first + h_cols); where the two overlap they're added.
//
// One gate's product with the state may come *late*: with what the other gates made of the state
// (gru_reset_before's r h) in the state's place. It's added to the first column.
#pragma once

#include <cstdint>

namespace ostinato {

struct CellLayout {
  const char* name;
  int64_t gates;             // G
  int64_t states;            // 1, or 2: h and c
  int64_t bias_rows;         // 2 where the inputs' product and the state's have a bias each
  bool has_gates;            // with an activation of their own; if not, h is all that is kept
  int64_t cols;              // of a tile: 1, 3 or 4
  int64_t x_cols;            // of the inputs' product
  int64_t h_first, h_cols;   // of the state's, but for the late one
  int64_t gate_of_x[4];      // Keras's gate of each of the inputs' columns
  int64_t gate_of_h[4];      // Keras's gate of each of the state's
  int64_t late_gate = -1;    // Keras's gate whose product with the state comes late
  int64_t late_cols = 0;     // the last columns, whose gradients need that of the late product

  constexpr bool has_late() const { return late_gate >= 0; }
};

// Of a kind by its number, which must be one.
const CellLayout& layout_of(int64_t kind);

int64_t kind_count();

}  // namespace ostinato
