// Dropout masks, beside threefry2x32 as its authors describe it, a number at a time.
#include <cstdio>
#include <vector>

#include "../core/drawing.h"
#include "../core/kernels.h"
#include "check.h"

using namespace ostinato;
using namespace ostinato::tests;

namespace {

struct Block {
  uint32_t first, second;
};

Block threefry(const uint32_t* key, Block x) {
  const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA};
  x.first += keys[0], x.second += keys[1];
  for (uint32_t round = 0; round < 5; ++round) {
    for (int by : rotations[round % 2]) {
      x.first += x.second;
      x.second = (x.second << by | x.second >> (32 - by)) ^ x.first;
    }
    x.first += keys[(round + 1) % 3], x.second += keys[(round + 2) % 3] + round + 1;
  }
  return x;
}

// Of Salmon et al.'s known answers.
void test_reference() {
  const uint32_t zero[2] = {0, 0}, ones[2] = {~0u, ~0u};
  const Block a = threefry(zero, {0, 0}), b = threefry(ones, {~0u, ~0u});
  CHECK(a.first == 0x6b200159 && a.second == 0x99ba4efe, "%x %x", a.first, a.second);
  CHECK(b.first == 0x1cb996fc && b.second == 0xbb002be7, "%x %x", b.first, b.second);
}

template <typename Number>
void test_masks(int64_t n, int64_t count, int64_t bound) {
  const auto kept = static_cast<Number>(0x4012345678923f80);
  std::vector<uint32_t> keys;
  for (int64_t i = 0; i < 2 * n; ++i) keys.push_back(uint32_t(2654435761 * uint64_t(i + 1)));
  const Number beyond = 77;
  std::vector<Number> out(size_t(n * count + 1), beyond);
  const auto size = static_cast<int64_t>(sizeof(Number));
  CHECK(draw_masks(keys.data(), n, count, bound, size, uint64_t(kept), out.data()).empty(), "refused");
  CHECK(out.back() == beyond, "a number beyond the masks");
  int64_t wrong = 0;
  for (int64_t i = 0; i < n * count; ++i) {
    const Block block = threefry(&keys[size_t(i / count * 2)], {0, uint32_t(i % count)});
    const bool keeps = int64_t((block.first ^ block.second) >> 9) < bound;
    wrong += out[size_t(i)] != (keeps ? kept : 0);
  }
  CHECK(wrong == 0, "%d of %d masks of %d numbers: %d are wrong", int(size), int(n), int(count), int(wrong));
}

void test_refusals() {
  uint32_t key[2] = {1, 2};
  uint32_t number = 0;
  CHECK(!draw_masks(key, 1, 1, 5, 3, 1, &number).empty(), "numbers of 3 bytes");
  CHECK(!draw_masks(key, 1, 1, (1 << 23) + 1, 4, 1, &number).empty(), "a probability above 1");
  CHECK(draw_masks(key, 0, 0, 5, 4, 1, nullptr).empty(), "nothing to draw");
}

}  // namespace

int main() {
  if (selected_kernels() == nullptr) {
    std::printf("skipped: no such target here\n");
    return kSkipped;
  }
  test_reference();
  for (int64_t count : {1, 15, 64, 130, 1000, 40000}) {
    for (int64_t bound : {0, 4194304, 6710887, 1 << 23}) {
      test_masks<uint16_t>(3, count, bound);
      test_masks<uint32_t>(4, count, bound);
      test_masks<uint64_t>(1, count, bound);
    }
  }
  test_refusals();
  std::printf("%s: as threefry2x32\n", target().c_str());
}
