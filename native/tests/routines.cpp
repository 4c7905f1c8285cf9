// Puts encodings together.
#include "routines.h"

#include <cmath>
#include <cstring>

namespace ostinato::tests {
namespace {

void append(Ints& to, const Ints& from) { to.insert(to.end(), from.begin(), from.end()); }

void append(Ints& to, const Ref& ref) { append(to, Ints{ref.space, ref.index, ref.offset}); }

Ints instruction(int64_t code, const Ints& payload) {
  Ints result = {code, int64_t(payload.size())};
  append(result, payload);
  return result;
}

}  // namespace

int64_t product_of(const Ints& dims) {
  int64_t size = 1;
  for (int64_t dim : dims) size *= dim;
  return size;
}

int64_t Encoding::add_scratch(int64_t size, bool ring) {
  scratch.push_back({size, ring ? 0 : arena, ring});
  if (!ring) arena += size;
  return int64_t(scratch.size() - 1);
}

int64_t Encoding::literal(double value) {
  floats.push_back(value);
  return int64_t(floats.size() - 1);
}

void Encoding::product(Ref a, int64_t a_stride, int64_t m, int64_t K, int64_t N, int64_t weight,
                       bool transposed, Ref out, int64_t out_stride, int64_t init, int64_t bias,
                       int64_t bias_offset) {
  Ints payload;
  append(payload, a);
  append(payload, Ints{a_stride, m, K, N, weight, transposed});
  append(payload, out);
  append(payload, Ints{out_stride, init, bias, bias_offset});
  body.push_back(instruction(1, payload));
}

void Encoding::outer(Ref a, int64_t a_stride, Ref z, int64_t z_stride, int64_t m, int64_t K,
                     int64_t N, int64_t result, int64_t offset) {
  Ints payload;
  append(payload, a);
  payload.push_back(a_stride);
  append(payload, z);
  append(payload, Ints{z_stride, m, K, N, result, offset});
  body.push_back(instruction(2, payload));
}

Ints Encoding::ints() const {
  Ints all = {1, reverse};
  const auto count = [&](size_t n) { all.push_back(int64_t(n)); };
  count(operands.size());
  for (const Operand& o : operands) {
    append(all, Ints{o.kind, o.order, int64_t(o.dims.size())});
    append(all, o.dims);
  }
  count(results.size());
  for (const Result& r : results) {
    append(all, Ints{r.kind, r.order, r.which, int64_t(r.dims.size())});
    append(all, r.dims);
  }
  count(carries.size());
  for (const Three& c : carries) append(all, Ints{c.a, c.b, c.c});
  count(saved.size());
  for (const Three& s : saved) append(all, Ints{s.a, s.b});
  count(scratch.size());
  for (const Three& s : scratch) append(all, Ints{s.a, s.b, s.c});
  all.push_back(arena);
  for (const std::vector<Ints>* list : {&body, &idle}) {
    count(list->size());
    for (const Ints& one : *list) append(all, one);
  }
  return all;
}

int64_t operation_number(const char* name) {
  size_t count = 0;
  const char* const* names = routine_operations(&count);
  for (size_t i = 0; i < count; ++i)
    if (std::strcmp(names[i], name) == 0) return int64_t(i);
  CHECK(false, "no operation %s", name);
  return -1;
}

int64_t Map::input(Ref ref) {
  CHECK(operations.empty(), "an input after an operation");
  ref.strides.resize(dims.size());
  inputs.push_back(std::move(ref));
  return int64_t(inputs.size() - 1);
}

int64_t Map::operation(const char* name, int64_t a, int64_t b, int64_t c) {
  operations.push_back({operation_number(name), a, b, c});
  return int64_t(inputs.size() + operations.size() - 1);
}

Ints Map::ints() const {
  Ints payload = {int64_t(dims.size())};
  append(payload, dims);
  payload.push_back(int64_t(inputs.size()));
  for (const Ref& ref : inputs) {
    append(payload, ref);
    append(payload, ref.strides);
  }
  payload.push_back(int64_t(operations.size()));
  for (const Ints& operation : operations) append(payload, operation);
  payload.push_back(int64_t(outputs.size()));
  for (const Output& output : outputs) {
    append(payload, Ints{output.from, output.mode});
    append(payload, output.to);
    append(payload, output.to.strides);
  }
  return instruction(3, payload);
}

namespace {

Ints with_dims(Ints front, const Ints& dims) {
  append(front, dims);
  return front;
}

int64_t saved_size(const Encoding& e) {
  int64_t total = 0;
  for (const Encoding::Three& value : e.saved) total += value.a;
  return total;
}

}  // namespace

Ints RoutineNumbers::shape(const Encoding& e, const Encoding::Operand& operand) const {
  switch (operand.kind) {
    case 0: return with_dims({B, T}, operand.dims);
    case 1: return with_dims({B}, operand.dims);
    case 2: return operand.dims;
    case 3: return {B, T};
    case 4: return {T + 1, B, saved_size(e)};
  }
  return return_sequences ? with_dims({B, T}, operand.dims) : with_dims({B}, operand.dims);
}

Ints RoutineNumbers::shape(const Encoding& e, const Encoding::Result& result) const {
  switch (result.kind) {
    case 0: return with_dims({B, T}, result.dims);
    case 2:
    case 3: return with_dims({B}, result.dims);
    case 4: return result.dims;
    case 5: return {T + 1, B, saved_size(e)};
  }
  return return_sequences ? with_dims({B, T}, result.dims) : with_dims({B}, result.dims);
}

RoutineNumbers random_numbers(const Encoding& e, int64_t B, int64_t T, Random& random) {
  RoutineNumbers n{B, T, random.chance(0.5), random.chance(0.5), random.chance(0.5), {}, {}};
  for (const Encoding::Operand& operand : e.operands) {
    Numbers64 values(size_t(product_of(n.shape(e, operand))));
    const double scale = operand.kind == 2 ? 0.3 : 1;
    for (double& value : values)
      value = operand.kind == 3 ? double(random.chance(0.7)) : float(scale * random.between(-1, 1));
    n.operands.push_back(std::move(values));
  }
  for (const Encoding::Result& result : e.results)
    n.results.emplace_back(size_t(product_of(n.shape(e, result))), std::nan(""));
  return n;
}

}  // namespace ostinato::tests
