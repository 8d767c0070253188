#include "builtin.h"

#include <cstring>

#include "microkernel.h"
#include "product.h"
#include "winograd.h"

namespace nnx {
namespace {

struct Entry {
    const char *name;
    nnx_kernel kernel;
};

constexpr Entry KERNELS[] = {
    {"concat", concat},
    {"pack_panels", pack_panels},
    {"product", product},
    {"rows_product", rows_product},
    {"tile_product", tile_product},
    {"winograd", winograd},
};

}  // namespace

nnx_kernel builtin(const char *name) {
    for (const Entry &e : KERNELS)
        if (std::strcmp(e.name, name) == 0) return e.kernel;
    return nullptr;
}

}  // namespace nnx
