#include "transpose.h"

#include <immintrin.h>

namespace nnx {
namespace {

void plain(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to, int64_t to_stride) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

inline void block4(const float *from, int64_t from_stride, float *to, int64_t to_stride) {
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_stride), c = _mm_loadu_ps(from + 2 * from_stride),
           d = _mm_loadu_ps(from + 3 * from_stride);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a);
    _mm_storeu_ps(to + to_stride, b);
    _mm_storeu_ps(to + 2 * to_stride, c);
    _mm_storeu_ps(to + 3 * to_stride, d);
}

__attribute__((target("avx"))) inline void block8(const float *from, int64_t from_stride, float *to, int64_t to_stride) {
    __m256 x[8], y[8];
    // Halves of rows r and r + 4 side by side, so that all shuffles stay within 128 bits.
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
        const float *low = from + r * from_stride, *high = low + 4 * from_stride;
        x[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
        x[r + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)), _mm_loadu_ps(high + 4), 1);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 8; h += 4) {
        y[h] = _mm256_unpacklo_ps(x[h], x[h + 1]), y[h + 1] = _mm256_unpackhi_ps(x[h], x[h + 1]);
        y[h + 2] = _mm256_unpacklo_ps(x[h + 2], x[h + 3]), y[h + 3] = _mm256_unpackhi_ps(x[h + 2], x[h + 3]);
        float *at = to + h * to_stride;
        _mm256_storeu_ps(at, _mm256_shuffle_ps(y[h], y[h + 2], 0x44));
        _mm256_storeu_ps(at + to_stride, _mm256_shuffle_ps(y[h], y[h + 2], 0xee));
        _mm256_storeu_ps(at + 2 * to_stride, _mm256_shuffle_ps(y[h + 1], y[h + 3], 0x44));
        _mm256_storeu_ps(at + 3 * to_stride, _mm256_shuffle_ps(y[h + 1], y[h + 3], 0xee));
    }
}

void sse(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to, int64_t to_stride) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        int64_t c = 0;
        for (; c + 4 <= columns; c += 4) block4(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
        plain(from + r * from_stride + c, from_stride, 4, columns - c, to + c * to_stride + r, to_stride);
    }
    plain(from + r * from_stride, from_stride, rows - r, columns, to + r, to_stride);
}

__attribute__((target("avx"))) void avx(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to,
                                        int64_t to_stride) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        int64_t c = 0;
        for (; c + 8 <= columns; c += 8) block8(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
        plain(from + r * from_stride + c, from_stride, 8, columns - c, to + c * to_stride + r, to_stride);
    }
    sse(from + r * from_stride, from_stride, rows - r, columns, to + r, to_stride);
}

}  // namespace

void transpose(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to, int64_t to_stride) {
    static const auto best = __builtin_cpu_supports("avx") ? avx : sse;
    best(from, from_stride, rows, columns, to, to_stride);
}

}  // namespace nnx
