#include "microkernel.h"

#include <immintrin.h>

#include <cstring>
#include <utility>
#include <vector>

namespace nnx {
namespace {

// 12 of 16 registers hold sums, 24 of 32 with AVX-512; two hold a row of B, one an element of A.
namespace sse2 {
constexpr int ROWS = 6, LANES = 2;
#define VECTORS_SSE2
#include "vectors.h"
#include "microkernel_isa.h"
#include "vectors_end.h"
constexpr MicroKernels kernels = table("sse2", std::make_integer_sequence<int, ROWS>());
}  // namespace sse2

namespace avx2 {
constexpr int ROWS = 6, LANES = 2;
#define VECTORS_AVX2
#include "vectors.h"
#include "microkernel_isa.h"
#include "vectors_end.h"
constexpr MicroKernels kernels = table("avx2", std::make_integer_sequence<int, ROWS>());
}  // namespace avx2

namespace avx512 {
constexpr int ROWS = 12, LANES = 2;
#define VECTORS_AVX512
#include "vectors.h"
#include "microkernel_isa.h"
#include "vectors_end.h"
constexpr MicroKernels kernels = table("avx512", std::make_integer_sequence<int, ROWS>());
}  // namespace avx512

}  // namespace

const MicroKernels *micro_kernels(const char *isa) {
    if (!std::strcmp(isa, "avx512")) return __builtin_cpu_supports("avx512f") ? &avx512::kernels : nullptr;
    if (!std::strcmp(isa, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::kernels : nullptr;
    return std::strcmp(isa, "sse2") ? nullptr : &sse2::kernels;
}

const MicroKernels &micro_kernels() {
    static const MicroKernels &best = [] () -> const MicroKernels & {
        for (const char *isa : {"avx512", "avx2"})
            if (const MicroKernels *found = micro_kernels(isa)) return *found;
        return sse2::kernels;
    }();
    return best;
}

void tile_product(void **buffers, const int64_t *dims, uint8_t *, int64_t begin, int64_t end) {
    constexpr const char *NAMES[] = {"sse2", "avx2", "avx512"};
    const MicroKernels *kernels = micro_kernels(NAMES[dims[0]]);
    const auto *a = static_cast<const float *>(buffers[0]), *b = static_cast<const float *>(buffers[1]);
    auto *c = static_cast<float *>(buffers[2]);
    if (dims[1] == 0) {
        c[0] = kernels ? float(kernels->rows) : 0.0f, c[1] = kernels ? float(kernels->columns) : 0.0f;
        return;
    }
    std::vector<const float *> lefts, rights;
    for (int64_t t = 0; t < dims[3]; ++t) lefts.push_back(a + t * dims[6]), rights.push_back(b + t * dims[7]);
    for (int64_t i = begin; i < end; ++i)
        kernels->by_rows[dims[1]](
            {lefts.data(), rights.data(), dims[3], dims[4], dims[5], dims[8], c, dims[9], PANEL, dims[2], dims[10] != 0});
}

}  // namespace nnx
