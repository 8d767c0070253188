// The gradient of max pooling.
#pragma once

#include <cstdint>

namespace nnx {

void max_pool_gradient(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

}  // namespace nnx
