// The gradient of the weights of a 3x3 convolution with stride 1, by the transposes of Winograd's transforms.
#pragma once

#include <cstdint>

namespace nnx {

// See winograd_gradient.cpp for buffers, dims and scratch.
void winograd_gradient(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

}  // namespace nnx
