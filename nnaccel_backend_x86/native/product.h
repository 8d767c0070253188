// Products and convolutions of our own: packed weights, any stride in and out, prologue and epilogue. See product.cpp for dims.
#pragma once

#include <cstdint>

namespace nnx {

void product(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);
void product_pixels(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);
void rows_product(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);
void concat(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

}  // namespace nnx
