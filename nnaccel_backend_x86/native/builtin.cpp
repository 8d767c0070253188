#include "builtin.h"

#include <cstring>

#include "chain.h"
#include "microkernel.h"
#include "pack.h"
#include "pooling.h"
#include "product.h"
#include "recurrent.h"
#include "reorder.h"
#include "weights_gradient.h"
#include "winograd.h"
#include "winograd_gradient.h"

namespace nnx {
namespace {

struct Entry {
    const char *name;
    nnx_kernel kernel;
};

constexpr Entry KERNELS[] = {
    {"chain", chain},
    {"concat", concat},
    {"joined_weights_gradient", joined_weights_gradient},
    {"lstm", lstm},
    {"max_pool_gradient", max_pool_gradient},
    {"pack_panels", pack_panels},
    {"pack_panels_last", pack_panels_last},
    {"product", product},
    {"product_pixels", product_pixels},
    {"reorder_images", reorder_images},
    {"rows_product", rows_product},
    {"tile_product", tile_product},
    {"weights_gradient", weights_gradient},
    {"winograd", winograd},
    {"winograd_gradient", winograd_gradient},
};

}  // namespace

nnx_kernel builtin(const char *name) {
    for (const Entry &e : KERNELS)
        if (std::strcmp(e.name, name) == 0) return e.kernel;
    return nullptr;
}

}  // namespace nnx
