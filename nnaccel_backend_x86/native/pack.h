// Weights in the form that products and convolutions of our own read.
#pragma once

#include <cstdint>

namespace nnx {

void pack_panels(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);
void pack_panels_last(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

}  // namespace nnx
