// The routines of this process by their hashes, and the operations that they're made of.
#include <pthread.h>

#include <cstring>
#include <mutex>
#include <new>
#include <unordered_map>

#include "routine/encoding.h"

namespace ostinato {
namespace {

const char* const kOperationNames[] = {
#define UNARY(name) #name,
#define BINARY(name) #name,
#define TERNARY(name) #name,
#define ACTIVATION_VALUE(name) #name,
#define ACTIVATION_SLOPE(name) "d_" #name,
#include "routine/operations.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef ACTIVATION_VALUE
#undef ACTIVATION_SLOPE
};
constexpr int kArities[] = {
#define UNARY(name) 1,
#define BINARY(name) 2,
#define TERNARY(name) 3,
#define ACTIVATION_VALUE(name) 1,
#define ACTIVATION_SLOPE(name) 1,
#include "routine/operations.def"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef ACTIVATION_VALUE
#undef ACTIVATION_SLOPE
};
constexpr size_t kOperations = sizeof(kArities) / sizeof(kArities[0]);

// Of those that a vector passes through in a cycle or two.
constexpr const char* kCheap[] = {
    "neg",    "abs", "sign", "square", "logical_not", "isnan", "isinf",       "isfinite",   "linear",
    "relu",   "add", "sub",  "mul",    "max",         "min",   "gt",          "ge",         "lt",
    "le",     "eq",  "ne",   "select", "fma",         "clip",  "logical_and", "logical_or", "logical_xor",
    "d_relu", "div", "d_linear"};

// What was registered, to tell two encodings of the same hash apart.
struct Known {
  std::vector<int64_t> ints;
  std::vector<double> floats;
  std::unique_ptr<Routine> routine;

  bool is(const int64_t* other, size_t n_ints, const double* others, size_t n_floats) const {
    const auto same = [](const void* a, const void* b, size_t bytes) {
      return bytes == 0 || std::memcmp(a, b, bytes) == 0;
    };
    return ints.size() == n_ints && floats.size() == n_floats &&
           same(ints.data(), other, n_ints * sizeof(int64_t)) &&
           same(floats.data(), others, n_floats * sizeof(double));
  }
};

struct Table {
  std::mutex mutex;
  std::unordered_map<uint64_t, Known> routines;
};

Table& table();

// A child of fork must not find the mutex held by a thread that it doesn't have.
void before_fork() { table().mutex.lock(); }
void after_fork() { table().mutex.unlock(); }

Table& make_table() {
  static Table& made = *new Table;  // never destroyed: calls may outlive static objects
  pthread_atfork(before_fork, after_fork, after_fork);
  return made;
}

Table& table() {
  static Table& one = make_table();
  return one;
}

// FNV-1a over words instead of bytes, with the high bits mixed in.
uint64_t mixed(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x100000001b3;
  return hash ^ (hash >> 29);
}

uint64_t hash_of(const int64_t* ints, size_t n_ints, const double* floats, size_t n_floats) {
  uint64_t hash = mixed(0xcbf29ce484222325, n_ints);
  for (size_t i = 0; i < n_ints; ++i) hash = mixed(hash, uint64_t(ints[i]));
  for (size_t i = 0; i < n_floats; ++i) {
    uint64_t bits;
    std::memcpy(&bits, &floats[i], sizeof(bits));
    hash = mixed(hash, bits);
  }
  return (hash * 0x9e3779b97f4a7c15) >> 2;  // 62 bits
}

constexpr int kBits = 31;
constexpr uint64_t kLow = (uint64_t{1} << kBits) - 1;

void keep(const int64_t* ints, size_t n_ints, const double* floats, size_t n_floats,
          RoutineHash* hash) {
  const uint64_t key = hash_of(ints, n_ints, floats, n_floats);
  *hash = {int64_t(key >> kBits), int64_t(key & kLow)};
  Table& all = table();
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.routines.find(key);
    if (found != all.routines.end()) {
      if (found->second.is(ints, n_ints, floats, n_floats)) return;
      refuse("expected another hash than that of a different routine; change a number");
    }
  }
  Known known;
  known.ints.assign(ints, ints + n_ints);
  known.floats.assign(floats, floats + n_floats);
  known.routine = read_routine(ints, n_ints, floats, n_floats);
  std::lock_guard<std::mutex> lock(all.mutex);
  all.routines.emplace(key, std::move(known));  // what another thread was first with stays
}

}  // namespace

const char* const* routine_operations(size_t* count) {
  *count = kOperations;
  return kOperationNames;
}

int routine_arity(int64_t operation) { return kArities[operation]; }

double operation_cost(int32_t number) {
  if (size_t(number) >= kOperations) return 3;  // a fused one
  for (const char* name : kCheap)
    if (std::strcmp(name, kOperationNames[number]) == 0) return 1.5;
  return 12;
}

std::string register_routine(const int64_t* ints, size_t n_ints, const double* floats,
                             size_t n_floats, RoutineHash* hash) {
  try {
    keep(ints, n_ints, floats, n_floats, hash);
    return "";
  } catch (const Refusal& refusal) {
    return "routine: " + refusal.what;
  } catch (const std::bad_alloc&) {
    return "routine: out of memory";
  }
}

const Routine& routine_of(const int64_t* spec, size_t spec_size) {
  if (spec_size != kRoutineFields)
    refuse("spec: expected " + std::to_string(kRoutineFields) + " integers of a routine, got " +
           std::to_string(spec_size));
  Table& all = table();
  std::lock_guard<std::mutex> lock(all.mutex);
  const bool in_range = spec[1] >= 0 && spec[1] <= int64_t(kLow) && spec[2] >= 0 &&
                        spec[2] <= int64_t(kLow);
  const auto found = in_range ? all.routines.find(uint64_t(spec[1]) << kBits | uint64_t(spec[2]))
                              : all.routines.end();
  if (found == all.routines.end())
    refuse("spec: expected the hash of a routine that this process has registered, got " +
           std::to_string(spec[1]) + ", " + std::to_string(spec[2]));
  return *found->second.routine;
}

}  // namespace ostinato
