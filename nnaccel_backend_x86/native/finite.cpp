#include "finite.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "threads.h"

// The loops are compiled for AVX2 as well and chosen when the library is loaded: the library itself is for any x86-64.
#define FOR_EACH_ISA __attribute__((target_clones("avx2", "default")))

namespace nnx {
namespace {

// Numbers per early exit; and bytes from which waking other threads pays (a core reads them in about 50 us).
constexpr int64_t BLOCK = 4096;
constexpr int64_t PARALLEL_BYTES = 1 << 20;

// NaN and infinity have all bits of the exponent set. Integers: the compiler may not assume that these exist in floats.
#define DEFINE_ANY(NAME, T)                                                   \
    FOR_EACH_ISA bool NAME(const T *x, int64_t n, T exponent) {               \
        T found = 0;                                                          \
        for (int64_t i = 0; i < n; ++i) found |= T((x[i] & exponent) == exponent); \
        return found != 0;                                                    \
    }
DEFINE_ANY(any16, uint16_t)
DEFINE_ANY(any32, uint32_t)
DEFINE_ANY(any64, uint64_t)
#undef DEFINE_ANY

bool any(const void *base, const nnx_floats &a, int64_t begin, int64_t n) {
    switch (a.bytes) {
        case 2: return any16(static_cast<const uint16_t *>(base) + begin, n, uint16_t(a.exponent));
        case 4: return any32(static_cast<const uint32_t *>(base) + begin, n, uint32_t(a.exponent));
        case 8: return any64(static_cast<const uint64_t *>(base) + begin, n, uint64_t(a.exponent));
        default: throw std::invalid_argument("floating-point numbers have 2, 4 or 8 bytes");
    }
}

bool part_is_finite(const void *base, const nnx_floats &a, int64_t begin, int64_t end, const std::atomic<bool> *stop) {
    for (int64_t i = begin; i < end && !(stop && stop->load(std::memory_order_relaxed)); i += BLOCK)
        if (any(base, a, i, std::min(BLOCK, end - i))) return false;
    return true;
}

}  // namespace

bool all_finite(int64_t n, void *const *addresses, const nnx_floats *arrays, int threads) {
    for (int64_t k = 0; k < n; ++k) {
        const nnx_floats &a = arrays[k];
        if (a.bytes != 2 && a.bytes != 4 && a.bytes != 8) throw std::invalid_argument("unknown width of a floating-point type");
        const void *base = addresses[a.index];
        if (threads <= 1 || a.count * a.bytes < PARALLEL_BYTES) {
            if (!part_is_finite(base, a, 0, a.count, nullptr)) return false;
            continue;
        }
        std::atomic<bool> found{false};
        run_here_or_on_helper([&] {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
            for (int t = 0; t < threads; ++t)
                if (!part_is_finite(base, a, a.count * t / threads, a.count * (t + 1) / threads, &found)) found = true;
        });
        if (found) return false;
    }
    return true;
}

}  // namespace nnx
