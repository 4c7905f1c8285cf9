// Products of weights in int8 with numbers in float32, by sums of whole numbers: the same on every target.
//
// A weight is a whole number q of -127 to 127 times its column's scale. The numbers of a row are rounded to
// whole multiples of a step: a power of two, at least 1/8192 of the row's largest magnitude and less than
// 1/4096, so that next to the weights' rounding theirs is nothing. They're kept as two digits to base 128,
//   number = step * (128 * (high - 64) + low),  high in [0, 128], low in [0, 127],
// since on AVX2 the products of two bytes each have to fit 16 bits, and 2 * 128 * 127 does.
#pragma once

#include <cstdint>

namespace ostinato {

// Most numbers that a product sums over: its sums fit 32 bits then, with the digits as they come.
constexpr int64_t kMostInt8Depth = int64_t{1} << 17;

// z(r, j) += steps[r] * scales(j) * the sum over k of (row r)(k) * weight(k, j), for `columns` vectors of
// L lanes, of which there may be up to 4.
struct Int8Product {
  const uint8_t* digits;  // (rows, 2, digit_stride): the high digits of a row, and the low
  int64_t digit_stride;
  const float* steps;     // (rows,); NaN of a row that holds what is no number
  int64_t rows;
  int64_t quads;          // the depth, in fours
  const int8_t* weights;  // (quads, columns, L, 4); zeros beyond the depth
  const float* scales;    // (columns, L)
  const int32_t* starts;  // (columns, L): -64 times the sum of a column's weights
  int64_t columns;
  float* z;               // column j of row r is at r * ldz + j * z_column
  int64_t ldz, z_column;
};

using MultiplyDigits = void (*)(const Int8Product& product);

// A kernel as callers have it: (depth, columns) and a scale for each column.
struct Int8Kernel {
  const int8_t* values;
  const float* scales;
};

}  // namespace ostinato
