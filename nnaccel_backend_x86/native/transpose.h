// Transposition of matrices of floats, for what packs weights and operands of products.
#pragma once

#include <cstdint>

namespace nnx {

// to[c * to_stride + r] = from[r * from_stride + c] for all r < rows, c < columns; strides in elements, of any sign.
void transpose(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to, int64_t to_stride);

}  // namespace nnx
