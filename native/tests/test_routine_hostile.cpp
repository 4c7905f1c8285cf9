// Encodings and calls that aren't as they should be: each is refused, with a message that says where, or
// runs without touching what isn't its own (AddressSanitizer watches).
//
//   test_routine_hostile [cases]
#include <cstring>

#include "../core/kernels.h"
#include "../core/signature.h"
#include "routine_calls.h"

using namespace ostinato;
using namespace ostinato::tests;

namespace {

// h = tanh(x W + b + h), of 4 units.
Encoding small_routine() {
  Encoding e;
  e.operands = {{0, 0, {3}}, {1, 0, {4}}, {2, 0, {3, 4}}, {2, 0, {4}}, {3, 0, {}}};
  e.results = {{1, 1, 0, {4}}, {3, 0, 0, {4}}};
  e.carries = {{4, 1, -1}};
  const int64_t z = e.add_scratch(4, false);
  e.product({kOperand, 0}, 0, 1, 3, 4, 2, false, {kScratch, z}, 0, 2, 3, 0);
  Map map;
  map.dims = {4};
  map.input({kScratch, z, 0, {1}});
  map.input({kCarry, 0, 0, {1}});
  const int64_t h = map.operation("tanh", map.operation("add", 0, 1));
  map.outputs = {{h, 0, {kNext, 0, 0, {1}}}, {h, 0, {kResult, 0, 0, {1}}}};
  e.body.push_back(map.ints());
  return e;
}

void expect(const std::string& got, const std::string& part) {
  CHECK(got.find(part) != std::string::npos, "expected \"%s\", got \"%s\"", part.c_str(), got.c_str());
}

void test_what_is_said() {
  RoutineHash hash{}, again{};
  const Encoding good = small_routine();
  CHECK(register_it(good, &hash).empty() && register_it(good, &again).empty(), "refused");
  CHECK(hash.high == again.high && hash.low == again.low, "two hashes of one routine");
  const auto says = [&](auto change, const char* part) {
    Encoding e = small_routine();
    change(e);
    expect(register_it(e, &hash), part);
  };
  says([](Encoding& e) { e.operands[0].kind = 7; }, "routine: operand 0: kind: expected 0 to 5, got 7");
  says([](Encoding& e) { e.operands[1].dims = {5}; }, "carry 0: initial operand: expected a ROWS of 4");
  says([](Encoding& e) { e.operands.push_back({3, 0, {}}); }, "operand 5: kind: expected one MASK");
  says([](Encoding& e) { e.results[1].which = 3; }, "result 1: which: expected a carry, 0 to 0, got 3");
  says([](Encoding& e) { e.carries[0].c = 0; }, "carry 0: kept: expected a saved value");
  says([](Encoding& e) { e.arena = 3; }, "scratch 0: offset: expected 4 elements within an arena of 3");
  says([](Encoding& e) { e.operands.erase(e.operands.begin()); }, "");
  says([](Encoding& e) { e.body[0][4] = 1; },
       "body, instruction 0: (PRODUCT): a: expected elements within the 3 of operand 0, got 1 to 3");
  says([](Encoding& e) { e.body[0][0] = 9; }, "body, instruction 0: (unknown): opcode: expected 1, 2 or 3");
  says([](Encoding& e) { e.body[0][1] = 15; }, "instruction 0: (PRODUCT): bias offset: expected a number");
  says([](Encoding& e) { e.body[0][9] = 3; }, "weight: expected a WEIGHT of K*N elements, got operand 3");
  says([](Encoding& e) { e.body[1].back() = 2; },
       "body, instruction 1: (MAP): output 1: expected elements within the 4 of result 0, got 0 to 6");
  says([](Encoding& e) { e.body[1].back() = 0; }, "output 1: mode 0: expected strides other than 0");
  says([](Encoding& e) { e.idle.push_back({3, 1, 0}); }, "idle, instruction 0: (MAP): n_in: expected a number");
}

void test_calls() {
  const Encoding e = small_routine();
  RoutineHash hash{};
  CHECK(register_it(e, &hash).empty(), "refused");
  Random random(1);
  RoutineNumbers n = random_numbers(e, 3, 5, random);
  n.return_sequences = 1;
  const auto says = [&](auto change, const char* part) {
    Bound<float> bound(e, n, hash);
    change(bound);
    expect(bound.run(), part);
  };
  using B = Bound<float>;
  says([](B& b) { b.spec[1] ^= 1; }, "forward: spec: expected the hash of a routine");
  says([](B& b) { b.spec[2] = -1; }, "forward: spec: expected the hash of a routine");
  says([](B& b) { b.spec[4] = 2; }, "forward: spec: flip_outputs: expected 0 or 1, got 2");
  says([](B& b) { b.spec[6] = 2; }, "forward: precision: expected 0 or 1 of a routine, got 2");
  says([](B& b) { b.spec.pop_back(); }, "forward: spec: expected 11 integers of a routine, got 10");
  says([](B& b) { b.spec[7] = 48; }, "forward: checkpoint: expected 0 or a power of two from 32 on, got 48");
  says([](B& b) { b.spec[8] = -1; }, "forward: truncate: expected 0 or more, got -1");
  says([](B& b) { b.in.tensors.pop_back(); }, "forward: expected 5 inputs, got 4");
  says([](B& b) { b.out.tensors.pop_back(); }, "forward: expected 2 outputs, got 1");
  says([](B& b) { b.in.tensors[1].dtype = Dtype::f64; }, "operand 1: expected float32 (3, 4), got float64");
  says([](B& b) { b.in.shapes[1][0] = 2; }, "operand 1: expected float32 (3, 4), got float32 (2, 4)");
  says([](B& b) { b.in.shapes[4][1] = 4; }, "operand 4: expected bool (3, 5), got bool (3, 4)");
  says([](B& b) { b.in.tensors[0].rank = 1; }, "operand 0: expected rank 2 or more, got 1");
  says([](B& b) { b.out.tensors[0].data = nullptr; }, "result 0: expected data, got a null pointer");
  Bound<float> bound(e, n, hash);
  const std::vector<Argument> outputs = read_outputs(Operation::forward, bound.spec.data(), kRoutineFields,
                                                     bound.in.tensors.data(), 5);
  CHECK(outputs.size() == 2 && outputs[0].rank == 3 && outputs[0].shape[1] == 5, "outputs' shapes");
}

// Without a row or a timestep.
void test_nothing() {
  const Encoding e = small_routine();
  RoutineHash hash{};
  CHECK(register_it(e, &hash).empty(), "refused");
  for (const auto& [B, T] : {std::pair<int, int>{0, 4}, {3, 0}, {0, 0}}) {
    Random random(1);
    const RoutineNumbers n = random_numbers(e, B, T, random);
    Bound<double> bound(e, n, hash);
    const std::string error = bound.run();
    CHECK(error.empty(), "%s", error.c_str());
    for (size_t i = 0; i < n.results[1].size(); ++i)
      CHECK(bound.out.floats[1][i] == n.operands[1][i], "a carry without a step");
    for (size_t i = 0; i < n.results[0].size(); ++i) CHECK(bound.out.floats[0][i] == 0, "outputs");
  }
}

// Rows that are all masked take the idle list, and only those.
void test_idle() {
  Encoding e = small_routine();
  Map map;
  map.dims = {4};
  map.input({kCarry, 0, 0, {1}});
  const int64_t same = map.operation("neg", 0);
  map.outputs = {{0, 0, {kNext, 0, 0, {1}}}, {same, 0, {kResult, 0, 0, {1}}}};
  e.idle.push_back(map.ints());
  RoutineHash hash{};
  const std::string error = register_it(e, &hash);
  CHECK(error.empty(), "%s", error.c_str());
  Random random(1);
  RoutineNumbers n = random_numbers(e, 2, 3, random);
  n.return_sequences = 1, n.go_backwards = n.flip_outputs = 0;
  n.operands[4] = {1, 0, 1, 1, 0, 1};
  Bound<double> bound(e, n, hash);
  CHECK(bound.run().empty(), "refused");
  const double* ys = bound.out.floats[0].get();
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 4; ++i)
      CHECK(ys[(b * 3 + 1) * 4 + i] == -ys[(b * 3 + 0) * 4 + i], "the idle list at step 1");
}

// Whether a call of it is small enough for a test.
bool is_small(const Routine& routine) {
  double sizes = double(routine.plan.arena) + double(routine.plan.ring) + double(routine.plan.saved_size);
  for (const RoutineOperand& operand : routine.operands) sizes += double(operand.size);
  for (const RoutineResult& result : routine.results) sizes += double(result.size);
  for (const CarryValue& carry : routine.carries) sizes += double(carry.size);
  for (const auto* list : {&routine.body, &routine.idle})
    for (const RoutineStep& step : *list) {
      if (step.code != RoutineStep::map) continue;
      for (int32_t i = 0; i < step.map_step.outer_count; ++i) sizes += double(step.map_step.outer[i]);
    }
  return sizes < 1e5 && routine.plan.work < 1e6 && routine.plan.most_places < 1e5;
}

// Parses an encoding's tables back, for the shapes of a call.
Encoding tables_of(const Routine& routine) {
  Encoding e;
  for (size_t i = 0; i < routine.operands.size(); ++i)
    e.operands.push_back({int64_t(routine.operands[i].kind), 0, routine.operand_shapes[i].dims});
  for (size_t i = 0; i < routine.results.size(); ++i)
    e.results.push_back({int64_t(routine.results[i].kind), 0, 0, routine.result_shapes[i].dims});
  for (const SavedValue& value : routine.saved) e.saved.push_back({value.size, 1, 0});
  return e;
}

int64_t accepted = 0;

void try_it(const Ints& ints, const Numbers64& floats, Random& random) {
  // Into a block of just that size.
  const std::unique_ptr<int64_t[]> exact(new int64_t[ints.size()]);
  std::copy(ints.begin(), ints.end(), exact.get());
  RoutineHash hash{};
  const std::string error = register_routine(exact.get(), ints.size(), floats.data(), floats.size(), &hash);
  if (!error.empty()) return;
  const int64_t spec[kRoutineFields] = {kRoutine, hash.high, hash.low};
  const Routine& routine = routine_of(spec, kRoutineFields);
  if (!is_small(routine)) return;
  ++accepted;
  const Encoding e = tables_of(routine);
  const RoutineNumbers n = random_numbers(e, 1 + random.below(3), 1 + random.below(10), random);
  Bound<float> bound(e, n, hash);
  const std::string refused = bound.run();
  CHECK(refused.empty(), "%s", refused.c_str());
}

void test_mutations(int64_t count) {
  const int64_t odd[] = {-1, 0, 1, 2, 3, 7, 8, 100, INT32_MAX, int64_t{1} << 31, int64_t{1} << 40,
                         int64_t{1} << 62, INT64_MAX, INT64_MIN};
  for (int64_t i = 0; i < count; ++i) {
    Random random{uint64_t(i)};
    const Encoding e = random_routine(random);
    const Ints good = e.ints();
    for (int64_t k = 0; k < 40; ++k) {
      Ints ints = good;
      for (int64_t changes = 1 + random.below(2); changes > 0; --changes) {
        int64_t& number = ints[size_t(random.below(int64_t(ints.size())))];
        number = random.chance(0.5) ? random.pick(odd)
                                    : int64_t(uint64_t(number) + uint64_t(random.below(7)) - 3);
      }
      if (random.chance(0.05)) ints.resize(size_t(random.below(int64_t(ints.size()))));
      try_it(ints, e.floats, random);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (selected_kernels() == nullptr) {
    std::printf("skipped: no such target here\n");
    return kSkipped;
  }
  test_what_is_said();
  test_calls();
  test_nothing();
  test_idle();
  test_mutations(argc > 1 ? std::atoll(argv[1]) : 100);
  std::printf("%d mutations were taken for routines, and ran\n", int(accepted));
  return 0;
}
