// Kernels that come with the library, by name; they have the ABI of generated ones (nnx_kernel).
#pragma once

#include "nnaccel_x86.h"

namespace nnx {

// Null when there is no kernel of this name.
nnx_kernel builtin(const char *name);

}  // namespace nnx
