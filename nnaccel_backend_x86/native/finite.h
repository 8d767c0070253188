// Looks for NaN and infinity.
#pragma once

#include <cstdint>

#include "nnaccel_x86.h"

namespace nnx {

// Whether all floating-point numbers of `n` arrays are finite; returns early when one is not.
bool all_finite(int64_t n, void *const *addresses, const nnx_floats *arrays, int threads);

}  // namespace nnx
