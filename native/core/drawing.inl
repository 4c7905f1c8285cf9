// Dropout masks, drawn as JAX draws them: threefry2x32, a block of two words for each number.
//
// Number i of a key is the xor of the two words of the block that the key makes of i, as
// jax.random.bits gives it (with jax_threefry_partitionable, its default). Its upper 23 bits are a
// fraction of 1, which jax.random.bernoulli compares with a probability.

constexpr int kWordLanes = kVectorBytes / 4;
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));

// So many vectors at once, as each of a block's eighty operations waits for the one before.
constexpr int kBlocksAtOnce = 4;

template <int kBy>
OSTINATO_INLINE void mix(Words (&a)[kBlocksAtOnce], Words (&b)[kBlocksAtOnce]) {
#pragma GCC unroll 4
  for (int i = 0; i < kBlocksAtOnce; ++i) {
    a[i] += b[i];
    b[i] = ((b[i] << kBy) | (b[i] >> (32 - kBy))) ^ a[i];
  }
}

struct Threefry {
  uint32_t key[3];

  explicit Threefry(const uint32_t* of) : key{of[0], of[1], of[0] ^ of[1] ^ 0x1BD11BDAu} {}

  OSTINATO_INLINE void inject(Words (&a)[kBlocksAtOnce], Words (&b)[kBlocksAtOnce], uint32_t round) const {
    const uint32_t first = key[round % 3], second = key[(round + 1) % 3] + round;
#pragma GCC unroll 4
    for (int i = 0; i < kBlocksAtOnce; ++i) a[i] += first, b[i] += second;
  }

  // The numbers `first` and on, one a lane of `a`.
  OSTINATO_INLINE void draw(uint64_t first, Words (&a)[kBlocksAtOnce]) const {
    Words b[kBlocksAtOnce];
    for (int i = 0; i < kBlocksAtOnce; ++i) {
      for (int lane = 0; lane < kWordLanes; ++lane) {
        const uint64_t number = first + static_cast<uint64_t>(i * kWordLanes + lane);
        a[i][lane] = static_cast<uint32_t>(number >> 32), b[i][lane] = static_cast<uint32_t>(number);
      }
    }
    inject(a, b, 0);
#pragma GCC unroll 5
    for (uint32_t round = 1; round <= 5; ++round) {
      if (round % 2 == 1) mix<13>(a, b), mix<15>(a, b), mix<26>(a, b), mix<6>(a, b);
      else mix<17>(a, b), mix<29>(a, b), mix<16>(a, b), mix<24>(a, b);
      inject(a, b, round);
    }
    for (int i = 0; i < kBlocksAtOnce; ++i) a[i] ^= b[i];
  }
};

// Numbers [first, last) of a mask: `kept` where the number is below `bound`, of 2^23, else zero.
template <typename Number>
void draw_numbers(const uint32_t* key, I first, I last, uint32_t bound, Number kept, Number* out) {
  constexpr I kMany = kBlocksAtOnce * kWordLanes;
  const Threefry generator(key);
  for (I at = first; at < last; at += kMany) {
    Words words[kBlocksAtOnce];
    generator.draw(static_cast<uint64_t>(at), words);
    Number values[kMany];
    for (int i = 0; i < kBlocksAtOnce; ++i) {
      for (int lane = 0; lane < kWordLanes; ++lane) {
        values[i * kWordLanes + lane] = (words[i][lane] >> 9) < bound ? kept : Number{0};
      }
    }
    const I n = last - at < kMany ? last - at : kMany;
    __builtin_memcpy(out + at, values, static_cast<size_t>(n) * sizeof(Number));
  }
}

void draw_mask(const MaskToDraw& mask, I first, I last) {
  switch (mask.size) {
    case 2: {
      const auto kept = static_cast<uint16_t>(mask.kept);
      return draw_numbers(mask.key, first, last, mask.bound, kept, static_cast<uint16_t*>(mask.out));
    }
    case 4: {
      const auto kept = static_cast<uint32_t>(mask.kept);
      return draw_numbers(mask.key, first, last, mask.bound, kept, static_cast<uint32_t*>(mask.out));
    }
    default:
      return draw_numbers(mask.key, first, last, mask.bound, mask.kept, static_cast<uint64_t*>(mask.out));
  }
}
