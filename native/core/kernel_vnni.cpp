// The target x86-64-v4-vnni: that of x86-64-v4, but for products of int8 weights (VPDPBUSD).
#include "kernels.h"

#include <immintrin.h>

#include <cstdint>

namespace ostinato {
namespace {

#include "simd.inl"
#include "int8.inl"

}  // namespace

const Kernels* OSTINATO_TARGET_FUNCTION() {
  static const Kernels made = [] {
    Kernels k = *kernels_x86_64_v4();
    k.name = OSTINATO_TARGET_NAME;
    k.multiply_digits = multiply_digits;
    return k;
  }();
  return &made;
}

}  // namespace ostinato
