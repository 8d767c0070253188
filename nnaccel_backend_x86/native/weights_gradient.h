// The gradient of a convolution's weights, by register-tile products over the pixels of the images.
#pragma once

#include <cstdint>

namespace nnx {

// See weights_gradient.cpp for buffers, dims and scratch.
void weights_gradient(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);
void joined_weights_gradient(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

}  // namespace nnx
