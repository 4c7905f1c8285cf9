// What kernel.cuh needs of CUDA, on the CPU: every thread of a launch is a fiber, and all blocks run at
// once, so that any barrier works. Fibers change places only where they wait: a barrier that is missing
// shows as a value that isn't there yet. SHIM_REVERSE runs them in the opposite order, SHIM_UNEVEN lets
// blocks sleep and threads miss their turn. Shared memory begins as NaN.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define ON_CPU
#define DEVICE static inline
#define DYNAMIC_SHARED(name) float *name = reinterpret_cast<float *>(shim::now->block->shared.data())
#define SPIN shim::wait();
#define MOST_SPINS 3000ll
#define threadIdx shim::now->thread
#define blockIdx shim::now->block->index
#define __syncthreads() shim::meet(shim::now->block->barrier, shim::threads)
#define __threadfence()
typedef unsigned char uchar;
struct float4 {
  float x, y, z, w;
};

namespace shim {
struct Index {
  int x;
};
struct Barrier {
  int here = 0;
  unsigned round = 0;
};
struct Warp {
  Barrier barrier;
  unsigned a[32][4], b[32][2];
  float *d[32];
};
struct Block {
  Index index;
  std::vector<char> shared;
  Barrier barrier, *cluster;
  std::vector<Warp> warps;
};
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  Index thread;
  Block *block;
  bool done = false;
};
inline Fiber *now;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline int threads, cluster_threads;
inline bool trapped;

inline void wait() {
  swapcontext(&now->context, &scheduler);
}
inline void meet(Barrier &barrier, int all) {
  const unsigned round = barrier.round;
  if (++barrier.here == all) {
    barrier.here = 0;
    ++barrier.round;
    return;
  }
  while (barrier.round == round) wait();
}
inline void entry() {
  body();
  now->done = true;
  wait();
}

// 0, or 1 if a thread trapped, or 2 if all wait for something that nobody does.
inline int launch(int grid, int block_threads, int cluster, size_t shared, std::function<void()> what) {
  std::vector<Block> blocks(grid);
  std::vector<Barrier> clusters(grid);
  std::vector<Fiber> fibers(static_cast<size_t>(grid) * block_threads);
  body = what, threads = block_threads, cluster_threads = cluster * block_threads, trapped = false;
  for (int b = 0; b < grid; ++b) {
    blocks[b].index = {b};
    blocks[b].cluster = &clusters[b / cluster];
    blocks[b].warps.resize(block_threads / 32);
    blocks[b].shared.assign(shared + 64, static_cast<char>(0xff));
    for (int t = 0; t < block_threads; ++t) {
      Fiber &fiber = fibers[static_cast<size_t>(b) * block_threads + t];
      fiber.thread = {t}, fiber.block = &blocks[b];
      fiber.stack.resize(16384);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      makecontext(&fiber.context, entry, 0);
    }
  }
  const bool reverse = getenv("SHIM_REVERSE") != nullptr;
  const bool uneven = getenv("SHIM_UNEVEN") != nullptr;
  unsigned random = 1;
  auto draw = [&] { return (random = random * 1664525u + 1013904223u) >> 16; };
  std::vector<long> asleep(grid, 0);
  size_t left = fibers.size();
  for (long turns = 0; left && !trapped; ++turns) {
    if (turns > 40000) return 2;
    for (size_t i = 0; i < fibers.size() && !trapped; ++i) {
      Fiber &fiber = fibers[reverse ? fibers.size() - 1 - i : i];
      if (fiber.done) continue;
      if (uneven) {
        long &until = asleep[fiber.block->index.x];
        if (turns < until || draw() % 2) continue;
        if (fiber.thread.x == 0 && draw() % 32 == 0) until = turns + 60;
      }
      now = &fiber;
      swapcontext(&scheduler, &fiber.context);
      if (fiber.done) --left;
    }
  }
  return trapped ? 1 : 0;
}
}  // namespace shim

static inline float __uint_as_float(unsigned v) {
  float f;
  memcpy(&f, &v, 4);
  return f;
}
static inline unsigned __float_as_uint(float f) {
  unsigned v;
  memcpy(&v, &f, 4);
  return v;
}
static inline unsigned load_acquire(const unsigned *p) { return *p; }
static inline void add_release(unsigned *p) { ++*p; }
static inline float4 load_shared_by_blocks(const float *p) { return {p[0], p[1], p[2], p[3]}; }
static inline void cluster_barrier() { shim::meet(*shim::now->block->cluster, shim::cluster_threads); }
static inline void trap() {
  shim::trapped = true;
  shim::wait();
}
static inline unsigned as_tf32(float x) {  // to the nearest, ties away from zero
  unsigned v;
  memcpy(&v, &x, 4);
  return (v + 0x1000u) & 0xffffe000u;
}
static inline unsigned as_bfloat16s(float low, float high) {  // to the nearest, ties to even
  auto one = [](float x) {
    const unsigned v = __float_as_uint(x);
    return x != x ? 0x7fffu : (v + 0x7fffu + (v >> 16 & 1)) >> 16;
  };
  return one(low) | one(high) << 16;
}
// The 32 lanes of a warp meet, and the last one computes for all.
template <class Multiply>
static inline void multiplied(float *d, const unsigned *a, const unsigned *b, Multiply multiply) {
  shim::Warp &w = shim::now->block->warps[shim::now->thread.x / 32];
  const int lane = shim::now->thread.x % 32;
  memcpy(w.a[lane], a, sizeof w.a[lane]);
  memcpy(w.b[lane], b, sizeof w.b[lane]);
  w.d[lane] = d;
  if (w.barrier.here == 31)
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 8; ++n) multiply(w, w.d[m % 8 * 4 + n / 2][m / 8 * 2 + n % 2], m, n);
  shim::meet(w.barrier, 32);
}
static inline void multiply_tile(float *d, const unsigned *a, const unsigned *b) {  // mma.sync.m16n8k8
  multiplied(d, a, b, [](shim::Warp &w, float &sum, int m, int n) {
    for (int k = 0; k < 8; ++k)
      sum += __uint_as_float(w.a[m % 8 * 4 + k % 4][m / 8 + k / 4 * 2]) * __uint_as_float(w.b[n * 4 + k % 4][k / 4]);
  });
}
static inline void multiply_bfloat16s(float *d, const unsigned *a, const unsigned *b) {  // mma.sync.m16n8k16
  multiplied(d, a, b, [](shim::Warp &w, float &sum, int m, int n) {
    for (int k = 0; k < 16; ++k) {
      const int shift = k % 2 * 16, lane = k % 8 / 2;
      const unsigned x = w.a[m % 8 * 4 + lane][m / 8 + k / 8 * 2] >> shift << 16;
      const unsigned y = w.b[n * 4 + lane][k / 8] >> shift << 16;
      sum += __uint_as_float(x) * __uint_as_float(y);
    }
  });
}
