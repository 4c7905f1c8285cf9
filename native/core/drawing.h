// Draws dropout masks from the keys of jax.random's default generator.
#pragma once

#include <cstdint>
#include <string>

namespace ostinato {

// Fills n masks of `count` numbers each, one after the other, from a key of two words each: what
// jax.random.bernoulli(key, bound / 2^23, (count,)) keeps is `kept`, the bits of a number of `size`
// bytes (2, 4 or 8), and the rest zero. Returns "" or what is wrong, before anything is written.
std::string draw_masks(const uint32_t* keys, int64_t n, int64_t count, int64_t bound, int64_t size,
                       uint64_t kept, void* out);

}  // namespace ostinato
