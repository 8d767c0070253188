// Several kernels one after the other on a few rows of images at a time. See chain.cpp for dims.
#pragma once

#include <cstdint>

namespace nnx {

void chain(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

}  // namespace nnx
