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
// sums each. `next`: the weights that come next, fetched meanwhile; not for one or two rows of x, which are read whole: what is in
// long runs the processor fetches better by itself (measured: 21 GB/s, with prefetches 14 to 19).
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
        if constexpr (M > MOST_WHOLE)
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

// Sums of M rows of x [M][k] with `rows` rows of each of RUNS runs of weights, which begin w_stride apart: [rows][RUNS][M] vectors.
template <int M>
TARGET void runs(const float *x, const float *w, int64_t w_stride, int64_t k, int64_t rows, float *sums) {
    for (int64_t r = 0; r < rows; ++r, w += k) {
        VEC sum[RUNS][M];
#pragma GCC unroll 8
        for (int s = 0; s < RUNS; ++s)
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) sum[s][m] = VEC{};
        int64_t i = 0;
#pragma GCC unroll 2
        for (; i + WIDTH <= k; i += WIDTH) {
            VEC left[M];
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) left[m] = load(x + m * k + i);
#pragma GCC unroll 8
            for (int s = 0; s < RUNS; ++s) {
                VEC right = load(w + s * w_stride + i);
#pragma GCC unroll 8
                for (int m = 0; m < M; ++m) sum[s][m] = MULTIPLY_ADD(left[m], right, sum[s][m]);
            }
        }
        for (; i < k; ++i)
            for (int s = 0; s < RUNS; ++s)
                for (int m = 0; m < M; ++m) sum[s][m][0] += x[m * k + i] * w[s * w_stride + i];
#pragma GCC unroll 8
        for (int s = 0; s < RUNS; ++s, sums += M * WIDTH)
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) store(sums + m * WIDTH, sum[s][m]);
    }
}

// The sums of n vectors `apart` floats from each other, one in each lane: halves of neighbors, side by side, are added up as often as
// it takes. One after another, the additions of each row would wait for each other.
TARGET inline VEC across(const float *from, int64_t apart, int64_t n) {
    INTS even, odd;
    for (int i = 0; i < WIDTH; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
    VEC part[WIDTH];
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; ++i) part[i] = i < n ? load(from + i * apart) : VEC{};
#pragma GCC unroll 4
    for (int left = WIDTH / 2; left > 0; left /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < left; ++i)
            part[i] = __builtin_shuffle(part[2 * i], part[2 * i + 1], even) + __builtin_shuffle(part[2 * i], part[2 * i + 1], odd);
    return part[0];
}

// Adds up the vectors of `sums`, and finishes `m` rows of `rows` columns. `apart`: from the sums of a column to the next one's.
TARGET void finish_rows(const float *sums, int64_t apart, int64_t m, int64_t rows, const Epilogue &e, int64_t row, int64_t column,
                        float *out, int64_t out_stride) {
    for (int64_t i = 0; i < m; ++i)
        for (int64_t r = 0; r < rows; r += WIDTH) {
            const int64_t n = rows - r < WIDTH ? rows - r : WIDTH;
            VEC part[1][1] = {{across(sums + r * apart + i * WIDTH, apart, n)}};
            finish<1, 1>(part, e, row + i, column + r, n, out, out_stride);
        }
}

template <int V, int... R>
constexpr Tiles tiles(std::integer_sequence<int, R...>) {
    return {V * WIDTH, int(sizeof...(R)), {nullptr, tile<R + 1, V>...}};
}

template <int... M>
constexpr Rows rows_table(std::integer_sequence<int, M...>) {
    return {{nullptr, some_rows<M + 1>...}, {nullptr, runs<1>, runs<2>}};
}

constexpr Kernels kernels = {tiles<WIDE>(std::make_integer_sequence<int, ROWS>()), tiles<1>(std::make_integer_sequence<int, NARROW>()),
                             WIDTH, rows_table(std::make_integer_sequence<int, MOST_DOTS>()),
                             finish_rows, prologue};
