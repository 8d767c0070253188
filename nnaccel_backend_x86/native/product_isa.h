// Included once per instruction set by product.cpp, inside a namespace of its own, with these macros defined: TARGET (function
// attribute), VEC (vector type), WIDTH (its floats), ROWS and WIDE (most rows and vectors of a tile), NARROW (most rows of a tile
// of one vector), BROADCAST(address), MULTIPLY_ADD(a, b, c) = a * b + c.

#include "epilogue_isa.h"

// R rows by V vectors, summed over all taps and channels in registers, from `column` of the panel on. V vectors may span two panels.
template <int R, int V>
TARGET void tile(const Tile &t) {
    const int64_t jump = V * WIDTH > PANEL ? t.panel - PANEL : 0;
    VEC sum[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = VEC{};
    if (!t.partial) {
        const float *to = t.out + t.row * t.out_stride + t.column;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) __builtin_prefetch(to + r * t.out_stride, 1);
    }
    const float *b = t.b, *ahead = t.ahead;
    for (int64_t tap = 0; tap < t.taps; ++tap) {
        const float *const *from = t.a + tap * t.a_step;
        // More addresses than registers: of rows evenly apart, one in three does (base, base + step, base + 2 * step). Short sums are
        // not worth the question.
        if constexpr (R > 6) {
            const int64_t step = from[1] - from[0];
            bool even = t.k >= 16;
#pragma GCC unroll 16
            for (int r = 2; r < R; ++r) even &= from[r] - from[r - 1] == step;
            if (even) {
                const float *a[(R + 2) / 3];
#pragma GCC unroll 16
                for (int g = 0; g < (R + 2) / 3; ++g) a[g] = from[3 * g] + t.first;
                for (int64_t i = 0; i < t.k; ++i, b += PANEL, ahead += PANEL) {
                    __builtin_prefetch(ahead, 0, 2);
                    VEC right[V];
#pragma GCC unroll 4
                    for (int v = 0; v < V; ++v) right[v] = load(b + v * WIDTH + (v * WIDTH >= PANEL ? jump : 0));
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) {
                        VEC left = BROADCAST(a[r / 3] + (r % 3) * step);
#pragma GCC unroll 4
                        for (int v = 0; v < V; ++v) sum[r][v] = MULTIPLY_ADD(left, right[v], sum[r][v]);
                    }
#pragma GCC unroll 16
                    for (int g = 0; g < (R + 2) / 3; ++g) ++a[g];
                }
                continue;
            }
        }
        const float *a[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) a[r] = from[r] + t.first;
        // Unrolled, so that a short loop's end is foreseen by the processor.
#pragma GCC unroll 4
        for (int64_t i = 0; i < t.k; ++i, b += PANEL, ahead += PANEL) {
            __builtin_prefetch(ahead, 0, 2);
            VEC right[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) right[v] = load(b + v * WIDTH + (v * WIDTH >= PANEL ? jump : 0));
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                VEC left = BROADCAST(a[r] + i);
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) sum[r][v] = MULTIPLY_ADD(left, right[v], sum[r][v]);
            }
        }
    }
    // Chunks are summed by themselves first: in one chain over thousands of products rounding errors are 2 to 4 times as large.
    if (t.start) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[r][v] = sum[r][v] + load(t.start + r * SPAN + v * WIDTH);
    }
    if (t.partial) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(t.partial + r * SPAN + v * WIDTH, sum[r][v]);
        return;
    }
    finish<R, V>(sum, *t.epilogue, t.row, t.column, t.columns, t.out, t.out_stride);
}

// y = activation(x * scale + shift) for `rows` rows of k elements.
TARGET void prologue(const float *const *from, int64_t rows, int64_t k, const float *scale, const float *shift, bool relu, float *to,
                     int64_t to_stride) {
    for (int64_t r = 0; r < rows; ++r) {
        const float *x = from[r];
        float *y = to + r * to_stride;
        int64_t i = 0;
        for (; i + WIDTH <= k; i += WIDTH) {
            VEC v = load(x + i);
            if (scale) v = v * load(scale + i);
            if (shift) v = v + load(shift + i);
            store(y + i, relu ? at_least(v, constant(0.0f)) : v);
        }
        for (; i < k; ++i) {
            float v = x[i];
            if (scale) v = v * scale[i];
            if (shift) v = v + shift[i];
            y[i] = relu && v < 0.0f ? 0.0f : v;
        }
    }
}

// Sums of M rows of x [M][k] with R rows of weights, w_stride apart: sums[r * MOST_DOTS + m] += x[m] * w[r], a vector of partial
// sums each. `next`: the weights that come next, fetched meanwhile; one or two rows of x are read whole, and weights in long
// runs, which the processor fetches better by itself (measured: 21 GB/s, with prefetches 14 to 19).
template <int M, int R>
TARGET void dots(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t k, const float *next, float *sums) {
    VEC sum[R][M];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sum[r][m] = load(sums + (r * MOST_DOTS + m) * WIDTH);
    constexpr int LINE = 16;  // floats
    int64_t i = 0;
    for (; i + LINE <= k; i += LINE) {
        if constexpr (M > 2)
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) __builtin_prefetch(next + r * w_stride + i);
#pragma GCC unroll 4
        for (int part = 0; part < LINE; part += WIDTH) {
            VEC left[M];
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) left[m] = load(x + m * x_stride + i + part);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                VEC right = load(w + r * w_stride + i + part);
#pragma GCC unroll 8
                for (int m = 0; m < M; ++m) sum[r][m] = MULTIPLY_ADD(left[m], right, sum[r][m]);
            }
        }
    }
    for (; i < k; ++i)
        for (int r = 0; r < R; ++r)
            for (int m = 0; m < M; ++m) sum[r][m][0] += x[m * x_stride + i] * w[r * w_stride + i];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) store(sums + (r * MOST_DOTS + m) * WIDTH, sum[r][m]);
}

// `dots` of any number of weight rows; M x R sums fill the registers, and are enough to hide the latency of additions.
template <int M>
TARGET void some_rows(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t k, int64_t rows, const float *next,
                      float *sums) {
    constexpr int R = M <= 3 ? 4 : M == 4 ? 3 : M <= 6 ? 2 : 1;
    int64_t r = 0;
    for (; r + R <= rows; r += R) {
        const float *ahead = r + 2 * R <= rows ? w + (r + R) * w_stride : next;
        dots<M, R>(x, x_stride, w + r * w_stride, w_stride, k, ahead, sums + r * MOST_DOTS * WIDTH);
    }
    for (; r < rows; ++r) dots<M, 1>(x, x_stride, w + r * w_stride, w_stride, k, next, sums + r * MOST_DOTS * WIDTH);
}

// Adds up the vectors of `sums`, and finishes `m` rows of `rows` columns.
TARGET void finish_rows(const float *sums, int64_t m, int64_t rows, const Epilogue &e, int64_t row, int64_t column, float *out,
                        int64_t out_stride) {
    for (int64_t i = 0; i < m; ++i)
        for (int64_t r = 0; r < rows; r += WIDTH) {
            const int64_t n = rows - r < WIDTH ? rows - r : WIDTH;
            float total[WIDTH] = {};
            for (int64_t j = 0; j < n; ++j)
                for (int v = 0; v < WIDTH; ++v) total[j] += sums[((r + j) * MOST_DOTS + i) * WIDTH + v];
            VEC part[1][1] = {{load(total)}};
            finish<1, 1>(part, e, row + i, column + r, n, out, out_stride);
        }
}

template <int V, int... R>
constexpr Tiles tiles(std::integer_sequence<int, R...>) {
    return {V * WIDTH, int(sizeof...(R)), {nullptr, tile<R + 1, V>...}};
}

template <int... M>
constexpr Rows rows_table(std::integer_sequence<int, M...>) {
    return {{nullptr, some_rows<M + 1>...}};
}

constexpr Kernels kernels = {tiles<WIDE>(std::make_integer_sequence<int, ROWS>()), tiles<1>(std::make_integer_sequence<int, NARROW>()),
                             WIDTH, rows_table(std::make_integer_sequence<int, MOST_DOTS>()),
                             finish_rows, prologue};
