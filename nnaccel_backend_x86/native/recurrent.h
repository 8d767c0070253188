// Recurrent layers over whole sequences.
#pragma once

#include <cstdint>

namespace nnx {

void lstm(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

}  // namespace nnx
