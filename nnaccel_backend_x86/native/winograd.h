// Winograd convolutions (Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks"), depth first.
#pragma once

#include <cstdint>

namespace nnx {

// 3x3 convolution with stride 1 of channels-last images: see winograd.cpp for buffers, dims and scratch.
void winograd(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

// Transforms a tile of 6 x 6 pixels of an image for F(4x4, 3x3), as `Transforms::input` in winograd.cpp.
void winograd_input(const float *const *pixels, int64_t channels, float *to, int64_t distance);

}  // namespace nnx
