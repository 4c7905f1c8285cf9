// Routines of random instructions. All that they write begins with a value, so that any part of it may
// be written, read or added to afterwards; what goes on to the next step is held in by a tanh.
#include <algorithm>

#include "routines.h"

namespace ostinato::tests {
namespace {

// What can be referred to: a space, an index, and how many elements a row has.
struct Value {
  int64_t space, index, size;
  bool operator==(const Value& other) const {
    return space == other.space && index == other.index;
  }
};

class Maker {
 public:
  explicit Maker(Random& random) : random_(random) {}

  Encoding make() {
    e_.reverse = random_.chance(0.4);
    tables();
    begin();
    const int64_t count = 2 + random_.below(6);
    for (int64_t i = 0; i < count; ++i) {
      if (random_.chance(0.3)) product();
      else map();
    }
    end();
    // What is put off reads what its operands have become by then: so after all else.
    for (int64_t i = random_.below(3); i > 0; --i) outer();
    if (e_.operands[mask_].kind == 3 && random_.chance(0.5)) e_.idle = e_.body;
    return e_;
  }

 private:
  int64_t size() { return random_.chance(0.1) ? 1 : 1 + random_.below(random_.chance(0.3) ? 40 : 9); }
  int64_t order() { return random_.chance(0.5); }

  // --- tables ---

  void operand(int64_t kind, int64_t order, Ints dims, bool is_put_off = true) {
    const Value value = {kOperand, int64_t(e_.operands.size()), product_of(dims)};
    e_.operands.push_back({kind, order, std::move(dims)});
    readable_.push_back(value);
    if (is_put_off) outlives_.push_back(value);
  }

  int64_t result(int64_t kind, int64_t order, int64_t which, Ints dims) {
    e_.results.push_back({kind, order, which, std::move(dims)});
    return int64_t(e_.results.size() - 1);
  }

  void tables() {
    operand(0, order(), {size(), size()});
    if (random_.chance(0.5)) operand(1, 0, {size()});
    operand(2, 0, {size(), size()});
    operand(5, order(), {size()});
    mask_ = e_.operands.size();
    operand(random_.chance(0.6) ? 3 : 0, order(), {}, false);
    const int64_t carries = random_.below(3);
    for (int64_t k = 0; k < carries; ++k) carry(k);
    saved();
    const int64_t scratch = 1 + random_.below(4);
    for (int64_t k = 0; k < scratch; ++k) {
      const bool ring = random_.chance(0.4);
      const Value value = {kScratch, e_.add_scratch(size() * size(), ring), 0};
      add(value.space, value.index, e_.scratch.back().a, ring);
    }
    for (int64_t kind : {0, 1}) {
      const int64_t of = size();
      add(kResult, result(kind, order(), 0, {of}), of, false);
    }
    rows_ = {kResult, result(2, 0, 0, {size(), size()}), 0};
    rows_.size = product_of(e_.results.back().dims);
    for (int64_t k = 0; k < 1 + carries % 2; ++k) weight_result(size() * size());
  }

  void carry(int64_t number) {
    const int64_t of = size();
    operand(1, 0, {of});
    e_.carries.push_back({of, int64_t(e_.operands.size() - 1), -1});
    readable_.push_back({kCarry, number, of});
    add(kNext, number, of, false);
    result(3, 0, number, {of});
  }

  // As a result, with some of the carries, or as an operand.
  void saved() {
    const double kind = random_.uniform();
    if (kind < 0.3) return;
    if (kind < 0.6) {
      for (int64_t v = 0; v < 2; ++v) {
        const int64_t of = size();
        e_.saved.push_back({of, v, 0});
        for (int64_t space : {kSaved, kSavedNext}) {
          if (space == kSavedNext && v == 0) continue;
          readable_.push_back({space, v, of});
          outlives_.push_back({space, v, of});
        }
      }
      operand(4, 0, {}, false);
      readable_.pop_back();
      return;
    }
    result(5, 0, 0, {});
    for (Encoding::Three& carry : e_.carries) {
      if (e_.reverse || random_.chance(0.3)) continue;
      carry.c = int64_t(e_.saved.size());
      e_.saved.push_back({carry.a, 1, 0});
    }
    const int64_t of = size();
    add(kSaved, int64_t(e_.saved.size()), of, true);
    e_.saved.push_back({of, 0, 0});
  }

  void add(int64_t space, int64_t index, int64_t size, bool is_put_off) {
    writable_.push_back({space, index, size});
    readable_.push_back(writable_.back());
    if (is_put_off) outlives_.push_back(writable_.back());
  }

  int64_t weight_result(int64_t size) {
    const int64_t index = result(4, 0, 0, {size});
    weights_.push_back({kResult, index, size});
    return index;
  }

  // --- instructions ---

  Ref literal(double value) { return {kLiteral, e_.literal(value), 0, {}}; }

  void begin() {
    for (const Value& value : writable_) {
      Map map;
      map.dims = {value.size};
      const int64_t from = map.input(literal(random_.between(-0.5, 0.5)));
      map.outputs.push_back({from, 0, {value.space, value.index, 0, {1}}});
      e_.body.push_back(map.ints());
    }
  }

  void end() {
    for (const Value& value : writable_) {
      if (value.space == kScratch) continue;
      Map map;
      map.dims = {value.size};
      map.input({value.space, value.index, 0, {1}});
      const int64_t held = map.operation("tanh", 0);
      map.outputs.push_back({held, 0, {value.space, value.index, 0, {1}}});
      e_.body.push_back(map.ints());
    }
  }

  const Value& pick(const std::vector<Value>& from) { return from[size_t(random_.below(int64_t(from.size())))]; }

  // Places for m rows of n elements within so many.
  struct Places {
    int64_t m, n, stride, offset;
  };
  Places places(int64_t m, int64_t size, bool overlaps) {
    const int64_t least = (size + m) / (m + 1);
    const int64_t n = std::min<int64_t>(1 + random_.below(std::max<int64_t>(least, 1)), size);
    if (m * n > size) m = 1;
    int64_t stride = m == 1 ? 0 : n + random_.below((size - m * n) / (m - 1) + 1);
    if (overlaps && m > 1 && random_.chance(0.2)) stride = random_.below(stride + 1);
    const int64_t span = (m - 1) * stride + n;
    Places result = {m, n, stride, random_.below(size - span + 1)};
    if (m > 1 && random_.chance(0.1)) result.offset += (m - 1) * stride, result.stride = -stride;
    return result;
  }

  void product() {
    const Value out = pick(writable_);
    Value a = pick(readable_);
    if (a == out) return;
    const int64_t m = random_.chance(0.5) ? 1 : 1 + random_.below(6);
    Places from = places(m, a.size, true), to = places(m, out.size, false);
    if (from.m != to.m) from.m = to.m = 1;
    const bool transposed = random_.chance(0.5);
    const int64_t weight = int64_t(e_.operands.size());
    e_.operands.push_back({2, 0, transposed ? Ints{to.n, from.n} : Ints{from.n, to.n}});
    const int64_t bias = int64_t(e_.operands.size()), offset = random_.below(3);
    e_.operands.push_back({2, 0, {to.n + offset}});
    e_.product({a.space, a.index, from.offset, {}}, from.stride, from.m, from.n, to.n, weight,
               transposed, {out.space, out.index, to.offset, {}}, to.stride, random_.below(3), bias,
               offset);
  }

  void outer() {
    const Value a = pick(outlives_), z = pick(outlives_);
    const int64_t m = random_.chance(0.5) ? 1 : 1 + random_.below(6);
    Places from = places(m, a.size, true), with = places(m, z.size, true);
    if (from.m != with.m) from.m = with.m = 1;
    const int64_t offset = random_.below(3);
    const int64_t result = weight_result(from.n * with.n + offset);
    e_.outer({a.space, a.index, from.offset, {}}, from.stride, {z.space, z.index, with.offset, {}},
             with.stride, from.m, from.n, with.n, result, offset);
  }

  // Strides over some of the dims, in a random order, that stay within a size.
  Ref reference(const Value& value, const Ints& dims, bool all, bool overlaps) {
    Ref ref = {value.space, value.index, 0, Ints(dims.size(), 0)};
    std::vector<size_t> order(dims.size());
    for (size_t d = 0; d < order.size(); ++d) order[d] = d;
    if (random_.chance(0.3))
      for (size_t d = order.size(); d > 1; --d) std::swap(order[d - 1], order[size_t(random_.below(int64_t(d)))]);
    int64_t span = 1;
    for (size_t k = order.size(); k-- > 0;) {
      const size_t d = order[k];
      if (!all && (random_.chance(0.25) || span * dims[d] > value.size)) continue;
      ref.strides[d] = span;
      span *= dims[d];
    }
    int64_t reached = 1;
    for (size_t d = 0; d < dims.size(); ++d) {
      if (overlaps && ref.strides[d] > 1 && random_.chance(0.15))
        ref.strides[d] = random_.below(ref.strides[d] + 1);
      if (dims[d] > 1 && random_.chance(0.05)) {
        ref.offset += ref.strides[d] * (dims[d] - 1);
        ref.strides[d] = -ref.strides[d];
      }
      reached += std::abs(ref.strides[d]) * (dims[d] - 1);
    }
    ref.offset += random_.chance(0.5) ? 0 : random_.below(value.size - reached + 1);
    return ref;
  }

  void map() {
    std::vector<Value> targets;
    const int64_t n_out = 1 + random_.below(3);
    for (int64_t i = 0; i < n_out; ++i) {
      const double kind = random_.uniform();
      const Value target = kind < 0.15 ? rows_ : kind < 0.3 ? pick(weights_) : pick(writable_);
      if (std::find(targets.begin(), targets.end(), target) == targets.end()) targets.push_back(target);
    }
    Map map;
    const int64_t rank = random_.below(5);
    for (int64_t d = 0; d < rank; ++d) map.dims.push_back(d + 1 < rank ? 1 + random_.below(4) : size());
    std::vector<Ref> to;
    Ints modes;
    for (const Value& target : targets) {
      const bool adds = target == rows_ || std::find(weights_.begin(), weights_.end(), target) != weights_.end();
      const bool fits = product_of(map.dims) <= target.size;
      modes.push_back(adds ? 2 : fits && random_.chance(0.5) ? 0 : 1 + random_.below(3));
      to.push_back(reference(target, map.dims, modes.back() == 0, modes.back() != 0));
    }
    inputs(map, targets, to, modes);
    const char* const unary[] = {"tanh", "sigmoid", "neg", "square", "softplus", "silu", "erf", "d_tanh"};
    const char* const binary[] = {"add", "sub", "mul", "max", "min"};
    const int64_t n_ops = random_.below(7);
    for (int64_t k = 0; k < n_ops; ++k) {
      const auto any = [&] { return random_.below(int64_t(map.inputs.size() + map.operations.size())); };
      const double kind = random_.uniform();
      if (kind < 0.4) map.operation(random_.pick(unary), any());
      else if (kind < 0.9) map.operation(random_.pick(binary), any(), any());
      else map.operation("fma", any(), any(), any());
    }
    const int64_t last = int64_t(map.inputs.size() + map.operations.size()) - 1;
    const int64_t held = map.operation("tanh", last);
    for (size_t i = 0; i < to.size(); ++i)
      map.outputs.push_back({i == 0 ? held : random_.chance(0.5) ? held : random_.below(last + 1), modes[i], to[i]});
    e_.body.push_back(map.ints());
  }

  void inputs(Map& map, const std::vector<Value>& targets, const std::vector<Ref>& to, const Ints& modes) {
    const int64_t count = 1 + random_.below(4);
    for (int64_t i = 0; i < count; ++i) {
      const Value& value = pick(readable_);
      if (random_.chance(0.15)) map.input(literal(random_.between(-1, 1)));
      else if (std::find(targets.begin(), targets.end(), value) == targets.end())
        map.input(reference(value, map.dims, false, true));
    }
    // In place: where each place is visited once.
    if (random_.chance(0.3) && modes[0] == 0) map.input(to[0]);
    if (map.inputs.empty()) map.input(literal(0.5));
  }

  Random& random_;
  Encoding e_;
  size_t mask_ = 0;
  Value rows_{};
  std::vector<Value> readable_, writable_, outlives_, weights_;
};

}  // namespace

Encoding random_routine(Random& random) { return Maker(random).make(); }

}  // namespace ostinato::tests
