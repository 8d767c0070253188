// Images between (N, C, H, W) and channels-last memory. See reorder.cpp for dims.
#pragma once

#include <cstdint>

namespace nnx {

void reorder_images(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

}  // namespace nnx
