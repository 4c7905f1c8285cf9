// Reads instructions, and checks that they stay within what they refer to.
#include <algorithm>

#include "routine/encoding.h"

namespace ostinato {
namespace {

const char* name_of(int64_t code) {
  switch (code) {
    case RoutineStep::product: return "PRODUCT";
    case RoutineStep::outer: return "OUTER";
    case RoutineStep::map: return "MAP";
  }
  return "unknown";
}

// The least and largest of offset + sum(stride * coordinate); false where they can't be told. Where
// there is no element, `any` is false.
bool bounds(int64_t offset, const std::vector<Reach>& reach, int64_t* low, int64_t* high, bool* any) {
  *low = *high = offset, *any = true;
  for (const Reach& axis : reach) {
    if (axis.size == 0) *any = false;
    if (axis.size <= 1) continue;
    int64_t span;
    if (__builtin_mul_overflow(axis.size - 1, axis.stride, &span)) return false;
    int64_t* end = span < 0 ? low : high;
    if (__builtin_add_overflow(*end, span, end)) return false;
  }
  return true;
}

const char* const kSpaces[] = {"operand", "result",      "carry",             "next",
                               "scratch", "saved value", "saved value (s+1)", "literal"};

std::string described(const Place& place) {
  return std::string(kSpaces[int(place.space)]) + " " + std::to_string(place.index);
}

size_t index_in(const Place& place, size_t count) {
  if (place.index < 0 || size_t(place.index) >= count)
    refuse("index: expected less than " + std::to_string(count) + " of the space's, got " +
           described(place));
  return size_t(place.index);
}

}  // namespace

void InstructionReader::read(Numbers& numbers, std::vector<RoutineStep>& steps) {
  const size_t count = numbers.count("n", 2);
  for (size_t i = 0; i < count; ++i) {
    const int64_t code = numbers.next("opcode");
    within("instruction", i, [&] {
      const std::string name = std::string("(") + name_of(code) + ")";
      try {
        const int64_t length = numbers.next("length", 0, int64_t(numbers.left()));
        Numbers payload = numbers.part(size_t(length), "payload");
        RoutineStep step{};
        step.code = RoutineStep::Code(code);
        switch (code) {
          case RoutineStep::product: read_product(payload, step.product_step); break;
          case RoutineStep::outer: read_outer(payload, step.outer_step); break;
          case RoutineStep::map: read_map(payload, step.map_step); break;
          default: refuse("opcode: expected 1, 2 or 3, got " + std::to_string(code));
        }
        if (payload.left() != 0)
          refuse("length: expected " + std::to_string(length - int64_t(payload.left())) + ", got " +
                 std::to_string(length));
        steps.push_back(step);
      } catch (const Refusal& refusal) {
        refuse(name + ": " + refusal.what);
      }
    });
  }
}

Place InstructionReader::read_place(Numbers& numbers) {
  Place place{};
  place.space = Space(numbers.next("space", 0, 7));
  place.index = int32_t(numbers.next("index", 0, INT32_MAX));
  place.offset = numbers.next("offset", 0, kMostOfAWeight);
  return place;
}

int64_t InstructionReader::size_of_operand(const Place& place, Use use) const {
  const RoutineOperand& operand = routine_.operands[index_in(place, routine_.operands.size())];
  if (use == Use::write || use == Use::add)
    refuse("expected what can be written, got " + described(place));
  if (operand.kind == OperandKind::saved)
    refuse("expected saved values by spaces 5 and 6, got " + described(place) + ", SAVED");
  if (operand.kind == OperandKind::mask) {
    if (use == Use::put_off) refuse("expected what outlives the step, got the MASK");
    return 1;
  }
  return operand.size;
}

int64_t InstructionReader::size_of_result(const Place& place, Use use) const {
  const RoutineResult& result = routine_.results[index_in(place, routine_.results.size())];
  if (use == Use::put_off) refuse("expected what outlives the step, got " + described(place));
  const bool is_weight = result.kind == ResultKind::weight;
  if (result.kind == ResultKind::saved || result.kind == ResultKind::carry ||
      (is_weight && use != Use::add))
    refuse("expected a SEQUENCE, OUTPUT or ROWS, got " + described(place) +
           (is_weight ? ", a WEIGHT, which is only added to" : ", of another kind"));
  return result.size;
}

int64_t InstructionReader::size_of_saved(const Place& place, Use use) const {
  const size_t index = index_in(place, routine_.saved.size());
  const bool writes = use == Use::write || use == Use::add;
  if (writes && !routine_.plan.keeps)
    refuse("expected what can be written, got " + described(place) + " of an operand");
  if (place.space == Space::saved_next && !routine_.saved_last[index])
    refuse("expected a saved value of T+1 steps, got " + described(place));
  return routine_.saved[index].size;
}

// The elements of a row, or of all where it has no row.
int64_t InstructionReader::size_of(const Place& place, Use use) const {
  switch (place.space) {
    case Space::operand: return size_of_operand(place, use);
    case Space::result: return size_of_result(place, use);
    case Space::saved:
    case Space::saved_next: return size_of_saved(place, use);
    case Space::carry:
    case Space::next: {
      const size_t index = index_in(place, routine_.carries.size());
      if (use == Use::put_off) refuse("expected what outlives the step, got " + described(place));
      if (place.space == Space::carry && use != Use::read)
        refuse("expected what can be written, got " + described(place));
      return routine_.carries[index].size;
    }
    case Space::scratch: {
      const ScratchValue& value = routine_.scratch[index_in(place, routine_.scratch.size())];
      if (use == Use::put_off && !value.ring)
        refuse("expected what outlives the step, got " + described(place) + " without a ring");
      return value.size;
    }
    case Space::literal: break;
  }
  refuse("expected a place in memory, got " + described(place));
}

void InstructionReader::check(const Place& place, Use use, const std::vector<Reach>& reach) const {
  const int64_t size = size_of(place, use);
  int64_t low = 0, high = 0;
  bool any = true;
  const bool known = bounds(place.offset, reach, &low, &high, &any);
  if (known && (any ? low >= 0 && high < size : place.offset <= size)) return;
  refuse("expected elements within the " + std::to_string(size) + " of " + described(place) +
         ", got " + (known ? std::to_string(low) + " to " + std::to_string(high)
                           : "strides that reach too far"));
}

// --- PRODUCT and OUTER ----------------------------------------------------------------------------

namespace {

struct Shape {
  int64_t places, depth, columns;
};

Shape read_shape(Numbers& numbers) {
  Shape shape{};
  shape.places = numbers.next("m", 0, kMostOfARow);
  shape.depth = numbers.next("K", 0, kMostOfARow);
  shape.columns = numbers.next("N", 0, kMostOfARow);
  return shape;
}

int64_t read_stride(Numbers& numbers, const char* what) {
  return numbers.next(what, -kMostOfAWeight, kMostOfAWeight);
}

}  // namespace

int32_t InstructionReader::packed(int64_t operand, bool transposed, int64_t depth,
                                  int64_t columns) {
  std::vector<PackedWeight>& all = routine_.packed;
  for (size_t i = 0; i < all.size(); ++i)
    if (all[i].operand == operand && all[i].transposed == transposed && all[i].depth == depth &&
        all[i].columns == columns)
      return int32_t(i);
  all.push_back({int32_t(operand), transposed, depth, columns});
  return int32_t(all.size() - 1);
}

void InstructionReader::read_product(Numbers& numbers, ProductStep& step) {
  step.a = read_place(numbers);
  step.a_stride = read_stride(numbers, "a_stride");
  const Shape shape = read_shape(numbers);
  step.places = shape.places, step.depth = shape.depth, step.columns = shape.columns;
  const int64_t weight =
      numbers.next("weight", 0, int64_t(routine_.operands.size()) - 1);
  const bool transposed = numbers.flag("transposed");
  const RoutineOperand& operand = routine_.operands[size_t(weight)];
  int64_t elements = 0;
  if (__builtin_mul_overflow(step.depth, step.columns, &elements) ||
      operand.kind != OperandKind::weight || operand.size != elements)
    refuse("weight: expected a WEIGHT of K*N elements, got operand " + std::to_string(weight));
  step.weight = packed(weight, transposed, step.depth, step.columns);
  step.out = read_place(numbers);
  step.out_stride = read_stride(numbers, "out_stride");
  step.init = ProductStep::Init(numbers.next("init", 0, 2));
  step.bias = {Space::operand, 0, 0};
  const int64_t bias = numbers.next("bias"), bias_offset = numbers.next("bias offset");
  const std::vector<Reach> row = {{step.places, step.a_stride}, {step.depth, 1}};
  const std::vector<Reach> out = {{step.places, step.out_stride}, {step.columns, 1}};
  // Where there is nothing to be summed, the places must be right all the same: they're written.
  within("a", [&] { check(step.a, Use::read, row); });
  within("out", [&] { check(step.out, Use::write, out); });
  if (step.init != ProductStep::with_bias) return;
  within("bias", [&] {
    if (bias < 0 || bias >= int64_t(routine_.operands.size()) || bias_offset < 0 ||
        routine_.operands[size_t(bias)].kind != OperandKind::weight)
      refuse("expected a WEIGHT operand and an offset, got " + std::to_string(bias) + " and " +
             std::to_string(bias_offset));
    step.bias = {Space::operand, int32_t(bias), bias_offset};
    check(step.bias, Use::read, {{step.columns, 1}});
  });
}

void InstructionReader::read_outer(Numbers& numbers, OuterStep& step) {
  step.a = read_place(numbers);
  step.a_stride = read_stride(numbers, "a_stride");
  step.z = read_place(numbers);
  step.z_stride = read_stride(numbers, "z_stride");
  const Shape shape = read_shape(numbers);
  step.places = shape.places, step.depth = shape.depth, step.columns = shape.columns;
  const int64_t result = numbers.next("result", 0, int64_t(routine_.results.size()) - 1);
  if (routine_.results[size_t(result)].kind != ResultKind::weight)
    refuse("result: expected a WEIGHT, got result " + std::to_string(result));
  step.out = {Space::result, int32_t(result), numbers.next("offset", 0, kMostOfAWeight)};
  step.number = routine_.plan.n_outers++;
  within("a", [&] {
    check(step.a, Use::put_off, {{step.places, step.a_stride}, {step.depth, 1}});
  });
  within("z", [&] {
    check(step.z, Use::put_off, {{step.places, step.z_stride}, {step.columns, 1}});
  });
  within("out", [&] {
    check(step.out, Use::add, {{step.depth, step.columns}, {step.columns, 1}});
  });
}

// --- MAP ------------------------------------------------------------------------------------------

namespace {

std::vector<Reach> reach_of(const std::vector<int64_t>& dims, const int64_t* strides) {
  std::vector<Reach> reach;
  for (size_t i = 0; i < dims.size(); ++i) reach.push_back({dims[i], strides[i]});
  return reach;
}

}  // namespace

void InstructionReader::read_map_inputs(Numbers& numbers, const std::vector<int64_t>& dims,
                                        std::vector<MapInput>& inputs) {
  const size_t count = numbers.count("n_in", 3 + dims.size());
  for (size_t i = 0; i < count; ++i)
    within("input", i, [&] {
      MapInput input{};
      input.place = read_place(numbers);
      for (size_t d = 0; d < dims.size(); ++d) input.outer[d] = read_stride(numbers, "stride");
      if (input.place.space == Space::literal) {
        input.literal = floats_[index_in(input.place, n_floats_)];
        const bool moves = std::any_of(input.outer, input.outer + kMostDims,
                                       [](int64_t stride) { return stride != 0; });
        if (moves || input.place.offset != 0) refuse("a literal: expected offset and strides of 0");
      } else {
        check(input.place, Use::read, reach_of(dims, input.outer));
      }
      inputs.push_back(input);
    });
}

void InstructionReader::read_map_operations(Numbers& numbers, size_t n_inputs,
                                            std::vector<MapOperation>& operations) {
  const size_t count = numbers.count("n_ops", 4);
  size_t known = 0;
  routine_operations(&known);
  for (size_t i = 0; i < count; ++i)
    within("operation", i, [&] {
      MapOperation operation{};
      operation.number = int32_t(numbers.next("op", 0, int64_t(known) - 1));
      operation.arity = routine_arity(operation.number);
      const int64_t defined = int64_t(n_inputs + i);
      for (int32_t k = 0; k < 3; ++k)
        operation.from[k] = int32_t(k < operation.arity ? numbers.next("register", 0, defined - 1)
                                                        : numbers.next("unused register", -1, -1));
      operations.push_back(operation);
    });
}

void InstructionReader::read_map_outputs(Numbers& numbers, const std::vector<int64_t>& dims,
                                         size_t registers, std::vector<MapOutput>& outputs) {
  const size_t count = numbers.count("n_out", 5 + dims.size());
  for (size_t i = 0; i < count; ++i)
    within("output", i, [&] {
      MapOutput output{};
      output.from = int32_t(numbers.next("register", 0, int64_t(registers) - 1));
      output.mode = MapOutput::Mode(numbers.next("mode", 0, 3));
      output.place = read_place(numbers);
      for (size_t d = 0; d < dims.size(); ++d) output.outer[d] = read_stride(numbers, "stride");
      check(output.place, output.mode == MapOutput::add ? Use::add : Use::write,
            reach_of(dims, output.outer));
      output.is_weight = output.place.space == Space::result &&
                         routine_.results[size_t(output.place.index)].kind == ResultKind::weight;
      for (size_t d = 0; d < dims.size(); ++d)
        if (output.mode == MapOutput::store && dims[d] > 1 && output.outer[d] == 0)
          refuse("mode 0: expected strides other than 0, got 0 for an axis of " +
                 std::to_string(dims[d]));
      outputs.push_back(output);
    });
}

void InstructionReader::read_map(Numbers& numbers, MapStep& step) {
  const int64_t rank = numbers.next("n", 0, kMostDims);
  std::vector<int64_t> dims;
  int64_t elements = 1;
  for (int64_t i = 0; i < rank; ++i) {
    dims.push_back(numbers.next("d", 0, kMostOfARow));
    if (__builtin_mul_overflow(elements, dims.back(), &elements) || elements > kMostOfAWeight)
      refuse("d: expected at most " + std::to_string(kMostOfAWeight) + " elements");
  }
  std::vector<MapInput>& inputs = routine_.map_inputs.emplace_back();
  std::vector<MapOperation>& operations = routine_.map_operations.emplace_back();
  std::vector<MapOutput>& outputs = routine_.map_outputs.emplace_back();
  read_map_inputs(numbers, dims, inputs);
  read_map_operations(numbers, inputs.size(), operations);
  read_map_outputs(numbers, dims, inputs.size() + operations.size(), outputs);
  step.number = int32_t(routine_.map_dims.size());
  routine_.map_dims.push_back(std::move(dims));
}

}  // namespace ostinato
