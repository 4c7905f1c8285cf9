// Finds the products of inputs alone: PRODUCTs of a SEQUENCE, into scratch memory that nothing in the list
// has touched before. Where there are few rows they're computed for several timesteps at once, and the
// weights read once for all of these; the scratch value has a place for each of those timesteps then.
#include "routine/encoding.h"

namespace ostinato {
namespace {

class Hoister {
 public:
  explicit Hoister(Routine& routine)
      : routine_(routine), is_touched_(routine.scratch.size(), false) {
    for (ScratchValue& value : routine.scratch) value.ahead = -1;
  }

  void run() {
    for (RoutineStep& step : routine_.body) {
      if (step.code == RoutineStep::product && can_go_ahead(step.product_step)) {
        take(step.product_step);
      } else {
        each_place(routine_, step, [&](const Place& place) {
          if (place.space == Space::scratch) is_touched_[size_t(place.index)] = true;
        });
      }
    }
  }

 private:
  bool can_go_ahead(const ProductStep& p) const {
    if (p.a.space != Space::operand || p.out.space != Space::scratch || p.places != 1) return false;
    const ScratchValue& out = routine_.scratch[size_t(p.out.index)];
    return routine_.operands[size_t(p.a.index)].kind == OperandKind::sequence && !out.ring &&
           !is_touched_[size_t(p.out.index)] && (p.init != ProductStep::add || out.ahead >= 0);
  }

  void take(ProductStep& p) {
    p.is_ahead = true;
    ScratchValue& out = routine_.scratch[size_t(p.out.index)];
    if (out.ahead >= 0) return;
    out.ahead = routine_.plan.ahead;
    routine_.plan.ahead += out.size;
  }

  Routine& routine_;
  std::vector<bool> is_touched_;
};

}  // namespace

void hoist_products(Routine& routine) { Hoister(routine).run(); }

}  // namespace ostinato
