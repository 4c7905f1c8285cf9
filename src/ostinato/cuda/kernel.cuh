// One recurrence over all timesteps. `source.py` writes, in front of this, the constants and
//
//   struct Lane       what a thread keeps of one row and one unit: carries (c0, c1, ...) and scalars
//   Products          of each: its pieces, columns, weights' address; see `product`
//   begin, sections, finish, timestep
//
// and the same text runs on the CPU in the tests, where ON_CPU is defined.
//
// A group of BLOCKS blocks runs ROWS rows of the batch; each block has UNITS_OF_BLOCK units of each
// state, and keeps the weights of these in shared memory over all timesteps. Where products need
// other blocks' scalars ("pieces"), each block shares its own through global memory, and the blocks
// meet at a barrier: nothing but that barrier orders them. There are two such buffers: one is written
// while slower blocks may still read the other, and nobody is two meetings ahead.
//
// Threads: THREADS of a block, PER_THREAD elements (row, unit) each. Nothing is written for rows
// beyond the batch and units beyond UNITS; pieces there are zero from the start.

#ifndef ON_CPU
#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 1)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]
#define SPIN
#define MOST_SPINS 50000000ll  // some ten seconds
typedef unsigned char uchar;

DEVICE unsigned load_acquire(const unsigned *p) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
DEVICE void add_release(unsigned *p) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory");
}
// Past the first cache, which doesn't see what other blocks write.
DEVICE float4 load_shared_by_blocks(const float *p) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(p) : "memory");
  return v;
}
DEVICE void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
DEVICE unsigned as_tf32(float x) {
  unsigned v;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(v) : "f"(x));
  return v;
}
DEVICE void multiply_tile(float *d, const unsigned *a, const unsigned *b) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Two floats as bfloat16s, the first in the low half.
DEVICE unsigned as_bfloat16s(float low, float high) {
  unsigned v;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
  return v;
}
DEVICE void multiply_bfloat16s(float *d, const unsigned *a, const unsigned *b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void trap() { asm volatile("trap;"); }
#endif

#define BLOCK_BARRIER 0
#define CLUSTER_BARRIER 1
#define GRID_BARRIER 2

constexpr int PADDED = BLOCKS * UNITS_OF_BLOCK;  // units, with those that aren't there
constexpr int PER_THREAD = (ROWS * UNITS_OF_BLOCK + THREADS - 1) / THREADS;
constexpr int WARPS = THREADS / 32;
constexpr int DEPTH = BFLOAT16_PRODUCTS ? 16 : 8;  // of a tile: 32 bytes of what is multiplied
// The left sides' rows are longer than their chunk, so that the rows of a fragment lie in different
// banks: by four floats, or eight where two are read at once. Likewise the sums'.
constexpr int LEFT_PITCH = CHUNK + DEPTH / 2;
constexpr int SHARED_WIDTH = PIECES * PADDED;  // of a row of a buffer in global memory

struct Call {
  const float *in[TAKES];
  float *out[GIVES];
  const uchar *mask;   // (B, T), or null
  float *exchange;     // (2, groups, ROWS, SHARED_WIDTH), zeros
  unsigned *counters;  // (groups,), zeros
  int T, B;
  int first_group;     // of this launch
  int groups;          // of all launches
  int every;           // whether outputs are of every timestep, (B, T, width), or (B, width)
};

struct At {
  int t, row, unit;            // in the call's tensors
  int row_here, unit_here;     // in the group's rows and the block's units
};

struct Block {
  float *weights, *left, *sums;
  int number, group;  // the block in its group; the group in the call
  unsigned meetings;
};

DEVICE bool place(const Call &p, const Block &b, int element, int t, At &at) {
  const int i = element * THREADS + threadIdx.x;
  at.t = t;
  at.row_here = i / UNITS_OF_BLOCK;
  at.unit_here = i % UNITS_OF_BLOCK;
  at.row = b.group * ROWS + at.row_here;
  at.unit = b.number * UNITS_OF_BLOCK + at.unit_here;
  return at.row_here < ROWS && at.row < p.B && at.unit < UNITS;
}

DEVICE float *buffer(const Call &p, const Block &b) {
  const long long number = (long long)(b.meetings & 1) * p.groups + b.group;
  return p.exchange + number * ROWS * SHARED_WIDTH;
}

// A scalar of this unit, for all units' products after the next meeting.
DEVICE void share(const Call &p, const Block &b, const At &at, int piece, float value) {
#if BARRIER == BLOCK_BARRIER
  b.left[(piece * ROWS + at.row_here) * LEFT_PITCH + at.unit_here] = value;
#else
  buffer(p, b)[at.row_here * SHARED_WIDTH + piece * PADDED + at.unit] = value;
#endif
}

// All threads of all blocks of the group have come so far, and see what the others have shared.
DEVICE void meet(const Call &p, Block &b) {
#if BARRIER == BLOCK_BARRIER
  __syncthreads();
#elif BARRIER == CLUSTER_BARRIER
  __threadfence();
  cluster_barrier();
#else
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned *counter = p.counters + b.group;
    add_release(counter);
    const unsigned all = (b.meetings + 1) * BLOCKS;
    for (long long spins = 0; load_acquire(counter) < all; ++spins) {
      SPIN
      if (spins > MOST_SPINS) trap();  // a block that never comes: an error, not a card that hangs
    }
  }
  __syncthreads();
#endif
}

// Some columns of a piece, of all units of the group, into shared memory.
DEVICE void fetch(const Call &p, const Block &b, int piece, int chunk) {
#if BARRIER != BLOCK_BARRIER
  const float *from = buffer(p, b) + piece * PADDED + chunk * CHUNK;
  for (int i = threadIdx.x; i < ROWS * (CHUNK / 4); i += THREADS) {
    const int row = i / (CHUNK / 4), column = i % (CHUNK / 4) * 4;
    const float4 v = load_shared_by_blocks(from + (long long)row * SHARED_WIDTH + column);
    float *to = b.left + row * LEFT_PITCH + column;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  }
  __syncthreads();
#endif
}

// A product is (ROWS, P::pieces * PADDED) by (.., P::columns * UNITS_OF_BLOCK). Its weights lie in
// fragments, as the lanes of a warp want them: [eight columns][DEPTH rows][lane][8 bytes]. P::split
// warps share a tile of 16 rows and 8 columns, every one some of its depth; their sums are added up
// where they're read.
template <class P>
struct Shape {
  static constexpr int columns = P::columns * UNITS_OF_BLOCK;
  static constexpr int depth = P::pieces * PADDED;
  static constexpr int pitch = columns + 4;
  static constexpr int tiles = (ROWS / 16) * (columns / 8);
};

// The weight of row k and column n.
template <class P>
DEVICE float weight_of(const Call &p, const Block &b, int k, int n) {
  const int inner = k % PADDED, unit = b.number * UNITS_OF_BLOCK + n % UNITS_OF_BLOCK;
  const int from = k / PADDED * UNITS + inner, to = P::column(n / UNITS_OF_BLOCK) + unit;
  if (inner >= UNITS || unit >= UNITS || from >= P::rows || to >= P::width) return 0.f;
  return p.in[P::weight][P::transposed ? (long long)to * P::row + from : (long long)from * P::row + to];
}

template <class P>
DEVICE void load_weights(const Call &p, const Block &b) {
  using S = Shape<P>;
  constexpr int TOGETHER = DEPTH / 8;  // rows that are in one word
  for (int i = threadIdx.x; i < S::depth / TOGETHER * S::columns; i += THREADS) {
    const int n = i / (S::depth / TOGETHER), k = i % (S::depth / TOGETHER) * TOGETHER;
    const int lane = n % 8 * 4 + k / TOGETHER % 4;
    const int word = ((n / 8 * (S::depth / DEPTH) + k / DEPTH) * 32 + lane) * 2 + k % DEPTH / (DEPTH / 2);
    const float value = weight_of<P>(p, b, k, n);
    b.weights[P::weights_at + word] =
        BFLOAT16_PRODUCTS ? __uint_as_float(as_bfloat16s(value, weight_of<P>(p, b, k + 1, n))) : value;
  }
}

// Adds the product of a tile of a left side, at the lane's first element, and a fragment of weights.
DEVICE void multiply(float *d, const float *left, const float *w) {
#if BFLOAT16_PRODUCTS
  unsigned a[4], c[2];
  for (int i = 0; i < 4; ++i) {
    const float *x = left + i % 2 * 8 * LEFT_PITCH + i / 2 * 8;
    a[i] = as_bfloat16s(x[0], x[1]);
  }
  for (int i = 0; i < 2; ++i) c[i] = __float_as_uint(w[i]);
  multiply_bfloat16s(d, a, c);
#else
  unsigned a[4], c[2];
  float a_rest[4], c_rest[2];
  for (int i = 0; i < 4; ++i) {
    const float x = left[i % 2 * 8 * LEFT_PITCH + i / 2 * 4];
    a[i] = as_tf32(x);
    a_rest[i] = x - __uint_as_float(a[i]);
  }
  for (int i = 0; i < 2; ++i) {
    c[i] = as_tf32(w[i]);
    c_rest[i] = w[i] - __uint_as_float(c[i]);
  }
  if (THREE_PRODUCTS) {  // float32's precision: what rounding left, times the other side
    unsigned a_low[4], c_low[2];
    for (int i = 0; i < 4; ++i) a_low[i] = as_tf32(a_rest[i]);
    for (int i = 0; i < 2; ++i) c_low[i] = as_tf32(c_rest[i]);
    multiply_tile(d, a_low, c);
    multiply_tile(d, a, c_low);
  }
  multiply_tile(d, a, c);
#endif
}

// Adds the part of a product whose left side lies in shared memory: CHUNK of its depth, from k0 on.
template <class P>
DEVICE void accumulate(const Block &b, const float *left, int k0, bool is_first) {
  using S = Shape<P>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  for (int job = warp; job < S::tiles * P::split; job += WARPS) {
    const int part = job % P::split, tile = job / P::split;
    const int n = tile % (S::columns / 8), m = tile / (S::columns / 8) * 16;
    float *sums = b.sums + P::sums_at + (part * ROWS + m) * S::pitch + n * 8;
    float d[4];
    for (int i = 0; i < 4; ++i)
      d[i] = is_first ? 0.f : sums[(g + i / 2 * 8) * S::pitch + 2 * q + i % 2];
    const float *w = b.weights + P::weights_at + ((long long)n * (S::depth / DEPTH) + k0 / DEPTH) * 64 + lane * 2;
    const float *x = left + (m + g) * LEFT_PITCH + q * (DEPTH / 8);
    for (int k = part; k < CHUNK / DEPTH; k += P::split) multiply(d, x + k * DEPTH, w + k * 64);
    for (int i = 0; i < 4; ++i) sums[(g + i / 2 * 8) * S::pitch + 2 * q + i % 2] = d[i];
  }
}

template <class P>
DEVICE void product(const Call &p, const Block &b) {
  for (int piece = 0; piece < P::pieces; ++piece)
    for (int chunk = 0; chunk < PADDED / CHUNK; ++chunk) {
      const bool is_first = piece + chunk == 0;
#if BARRIER == BLOCK_BARRIER
      const float *left = b.left + P::piece(piece) * ROWS * LEFT_PITCH + chunk * CHUNK;
#else
      const float *left = b.left;
      if (!is_first) __syncthreads();
      fetch(p, b, P::piece(piece), chunk);
#endif
      accumulate<P>(b, left, piece * PADDED + chunk * CHUNK, is_first);
    }
  __syncthreads();
}

// Its result for one row and unit, of the column-th block of columns.
template <class P>
DEVICE float result(const Block &b, const At &at, int column) {
  using S = Shape<P>;
  float sum = 0.f;
  for (int part = 0; part < P::split; ++part)
    sum += b.sums[P::sums_at + (part * ROWS + at.row_here) * S::pitch + column * UNITS_OF_BLOCK + at.unit_here];
  return sum;
}

// A reduction: PARTS threads share a row, every one some of its elements; what they have is put
// together where it's read.
template <class R>
DEVICE void reduce(const Call &p, const Block &b) {
  const int row = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
  float found = 0.f;
  for (int piece = 0; piece < R::pieces; ++piece)
    for (int chunk = 0; chunk < PADDED / CHUNK; ++chunk) {
#if BARRIER == BLOCK_BARRIER
      const float *left = b.left + R::piece(piece) * ROWS * LEFT_PITCH + chunk * CHUNK;
#else
      const float *left = b.left;
      if (piece + chunk != 0) __syncthreads();
      fetch(p, b, R::piece(piece), chunk);
#endif
      const int first = chunk * CHUNK, rest = R::rows - piece * UNITS;
      const int last = rest < UNITS ? rest : UNITS;
      for (int i = part; row < ROWS && i < CHUNK && first + i < last; i += PARTS) {
        const float x = left[row * LEFT_PITCH + i];
        found = piece + chunk == 0 && i == part ? x : R::of(found, x);
      }
    }
  if (row < ROWS) b.sums[R::sums_at + row * PARTS + part] = found;
  __syncthreads();
}

template <class R>
DEVICE float reduced(const Block &b, const At &at) {
  const float *parts = b.sums + R::sums_at + at.row_here * PARTS;
  float found = parts[0];
  for (int part = 1; part < PARTS && part < R::rows; ++part) found = R::of(found, parts[part]);
  return found;
}
