// What the core's tests share: a check that names its place, and random numbers.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

// Unlike assert, also in release builds. What follows the condition is printf's.
#define CHECK(condition, ...)                                                 \
  do {                                                                        \
    if (!(condition)) {                                                       \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, "  " __VA_ARGS__);                                 \
      std::fprintf(stderr, "\n");                                             \
      std::exit(1);                                                           \
    }                                                                         \
  } while (0)

namespace ostinato::tests {

constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE in CMakeLists.txt

// The same numbers everywhere, unlike the distributions of <random>. (splitmix64)
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}

  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }
  bool chance(double p) { return uniform() < p; }
  double uniform() { return double(bits() >> 11) * 0x1p-53; }
  double between(double low, double high) { return low + (high - low) * uniform(); }

  template <class T, size_t n>
  T pick(const T (&choices)[n]) {
    return choices[below(int64_t(n))];
  }

 private:
  uint64_t state_;
};

}  // namespace ostinato::tests
