// AMX's instructions in plain C++, for the tests: the target with tiles runs on any CPU with AVX512_BF16.
// As the manual has it: what isn't configured isn't there, and a tile has the rows and bytes that it was given.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>

// All of it is of the one file that includes it: kernels have no weak symbols (symbols.cmake).
namespace ostinato_emulated_tiles {

struct Tile {
  int rows = 0, bytes = 0;
  unsigned char at[16][64];
};

static thread_local bool configured = false;
static thread_local Tile tiles[8];

static inline Tile& tile(int number) {
  if (!configured || tiles[number].rows == 0) {
    std::fprintf(stderr, "tile %d isn't configured\n", number);
    std::abort();
  }
  return tiles[number];
}

static inline void load_config(const void* config) {
  const unsigned char* from = static_cast<const unsigned char*>(config);
  if (from[0] != 1) std::abort();
  for (int t = 0; t < 8; ++t) {
    unsigned short bytes;
    std::memcpy(&bytes, from + 16 + 2 * t, 2);
    if (bytes > 64 || from[48 + t] > 16) std::abort();
    tiles[t].bytes = bytes, tiles[t].rows = from[48 + t];
    std::memset(tiles[t].at, 0, sizeof(tiles[t].at));
  }
  configured = true;
}

static inline void zero(int number) { std::memset(tile(number).at, 0, sizeof(Tile::at)); }

static inline void load(int number, const void* from, long stride) {
  Tile& to = tile(number);
  for (int r = 0; r < to.rows; ++r)
    std::memcpy(to.at[r], static_cast<const char*>(from) + r * stride, static_cast<size_t>(to.bytes));
}

static inline void store(int number, void* to, long stride) {
  const Tile& from = tile(number);
  for (int r = 0; r < from.rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * stride, from.at[r], static_cast<size_t>(from.bytes));
}

// The float of a bfloat16, zero where that's denormal.
static inline float number(const unsigned char* at) {
  unsigned short half;
  std::memcpy(&half, at, 2);
  if ((half & 0x7f80) == 0) half &= 0x8000;
  const unsigned word = static_cast<unsigned>(half) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

static inline void add_products(int sum, int left, int right) {
  Tile& c = tile(sum);
  const Tile &a = tile(left), &b = tile(right);
  if (a.rows != c.rows || b.bytes != c.bytes || a.bytes / 4 != b.rows) std::abort();
  for (int m = 0; m < c.rows; ++m) {
    for (int n = 0; n < c.bytes / 4; ++n) {
      float value;
      std::memcpy(&value, c.at[m] + 4 * n, 4);
      for (int k = 0; k < 2 * b.rows; ++k)
        value += number(a.at[m] + 2 * k) * number(b.at[k / 2] + 4 * n + 2 * (k % 2));
      std::memcpy(c.at[m] + 4 * n, &value, 4);
    }
  }
}

}  // namespace ostinato_emulated_tiles

// The compiler's own are macros, too.
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) ostinato_emulated_tiles::load_config(config)
#define _tile_release() (ostinato_emulated_tiles::configured = false)
#define _tile_zero(tile) ostinato_emulated_tiles::zero(tile)
#define _tile_loadd(tile, from, stride) ostinato_emulated_tiles::load(tile, from, stride)
#define _tile_stored(tile, to, stride) ostinato_emulated_tiles::store(tile, to, stride)
#define _tile_dpbf16ps(sum, left, right) ostinato_emulated_tiles::add_products(sum, left, right)
