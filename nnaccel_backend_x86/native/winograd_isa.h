// Included once per instruction set by winograd.cpp, inside a namespace of its own, after vectors.h.
// Every function works on WIDTH channels at a time. d, m: a row or column of a tile; see winograd_points.h for A and B.

#include "epilogue_isa.h"

#define EACH _Pragma("GCC unroll 8") for

TARGET inline __attribute__((always_inline)) VEC some(const float *from, int64_t n) {
    if (n >= WIDTH) return LOAD(from);
    float part[WIDTH] = {};
    for (int64_t i = 0; i < n; ++i) part[i] = from[i];
    return LOAD(part);
}

TARGET inline __attribute__((always_inline)) void put(float *to, VEC value, int64_t n) {
    if (n >= WIDTH) {
        STORE(to, value);
        return;
    }
    float part[WIDTH];
    STORE(part, value);
    for (int64_t i = 0; i < n; ++i) to[i] = part[i];
}

TARGET inline __attribute__((always_inline)) void input_1d(const VEC (&d)[6], VEC (&v)[6]) {
    VEC even = MINUS_PRODUCT(SET(B2), d[2], d[4]), odd = MULTIPLY(SET(A), MINUS_PRODUCT(SET(B2), d[1], d[3]));
    v[1] = ADD(even, odd), v[2] = SUBTRACT(even, odd);
    even = MINUS_PRODUCT(SET(A2), d[2], d[4]), odd = MULTIPLY(SET(B), MINUS_PRODUCT(SET(A2), d[1], d[3]));
    v[3] = ADD(even, odd), v[4] = SUBTRACT(even, odd);
    v[0] = MULTIPLY_ADD(SET(A2B2), d[0], MINUS_PRODUCT(SET(A2_B2), d[2], d[4]));
    v[5] = MULTIPLY_ADD(SET(A2B2), d[1], MINUS_PRODUCT(SET(A2_B2), d[3], d[5]));
}

TARGET inline __attribute__((always_inline)) void input_1d(const VEC (&d)[4], VEC (&v)[4]) {
    v[0] = SUBTRACT(d[0], d[2]), v[1] = ADD(d[1], d[2]), v[2] = SUBTRACT(d[2], d[1]), v[3] = SUBTRACT(d[3], d[1]);
}

TARGET inline __attribute__((always_inline)) void output_1d(const VEC (&m)[6], VEC (&y)[4]) {
    VEC even_a = ADD(m[1], m[2]), odd_a = SUBTRACT(m[1], m[2]), even_b = ADD(m[3], m[4]), odd_b = SUBTRACT(m[3], m[4]);
    y[0] = ADD(ADD(m[0], even_a), even_b);
    y[1] = MULTIPLY_ADD(SET(A), odd_a, MULTIPLY(SET(B), odd_b));
    y[2] = MULTIPLY_ADD(SET(A2), even_a, MULTIPLY(SET(B2), even_b));
    y[3] = ADD(MULTIPLY_ADD(SET(A * A2), odd_a, MULTIPLY(SET(B * B2), odd_b)), m[5]);
}

TARGET inline __attribute__((always_inline)) void output_1d(const VEC (&m)[4], VEC (&y)[2]) {
    y[0] = ADD(ADD(m[0], m[1]), m[2]);
    y[1] = ADD(SUBTRACT(m[1], m[2]), m[3]);
}

TARGET inline __attribute__((always_inline)) void filter_vector(const VEC (&w)[3], VEC (&g)[6]) {
    VEC even = MULTIPLY_ADD(SET(AT_A), w[0], MULTIPLY(SET(AT_A * A2), w[2])), odd = MULTIPLY(SET(AT_A * A), w[1]);
    g[0] = MULTIPLY(SET(AT_0), w[0]), g[1] = ADD(even, odd), g[2] = SUBTRACT(even, odd);
    even = MULTIPLY_ADD(SET(AT_B), w[0], MULTIPLY(SET(AT_B * B2), w[2])), odd = MULTIPLY(SET(AT_B * B), w[1]);
    g[3] = ADD(even, odd), g[4] = SUBTRACT(even, odd), g[5] = w[2];
}

TARGET inline __attribute__((always_inline)) void filter_vector(const VEC (&w)[3], VEC (&g)[4]) {
    VEC even = MULTIPLY(SET(0.5), ADD(w[0], w[2])), odd = MULTIPLY(SET(0.5), w[1]);
    g[0] = w[0], g[1] = ADD(even, odd), g[2] = SUBTRACT(even, odd), g[3] = w[2];
}

// One tile of the input, `channels` of it: pixel (i, j) at pixels[i * N + j], position p of the result at to + p * distance, in
// whole panels with zeros after the last channel.
template <int N>
TARGET void input_tile(const float *const *pixels, int64_t channels, float *to, int64_t distance) {
    for (int64_t c = 0; c < channels; c += PANEL)
        for (int64_t lane = 0; lane < PANEL; lane += WIDTH) {
            const int64_t at = c + lane, left = channels - at;
            VEC half[N][N];
            EACH(int i = 0; i < N; ++i) {
                VEC d[N], v[N];
                if (left >= WIDTH) {
                    EACH(int j = 0; j < N; ++j) d[j] = LOAD(pixels[i * N + j] + at);
                } else {
                    EACH(int j = 0; j < N; ++j) d[j] = some(pixels[i * N + j] + at, left);
                }
                input_1d(d, v);
                EACH(int j = 0; j < N; ++j) half[i][j] = v[j];
            }
            EACH(int j = 0; j < N; ++j) {
                VEC d[N], v[N];
                EACH(int i = 0; i < N; ++i) d[i] = half[i][j];
                input_1d(d, v);
                EACH(int i = 0; i < N; ++i) STORE(to + (i * N + j) * distance + at, v[i]);
            }
        }
}

// PANEL output channels of `k` input channels: tap t of 9 at taps + t * step, [k][PANEL], to blocks of [N * N][WEIGHTS], of which
// each holds [PANEL][PANEL], zeros after the last input channel.
template <int N>
TARGET void filter_block(const float *taps, int64_t step, int64_t k, float *to) {
    for (int64_t c = 0; c < k; ++c, taps += PANEL) {
        float *block = to + c / PANEL * N * N * WEIGHTS + c % PANEL * PANEL;
        for (int64_t lane = 0; lane < PANEL; lane += WIDTH) {
            VEC half[N][3];
            EACH(int j = 0; j < 3; ++j) {
                VEC w[3], g[N];
                EACH(int i = 0; i < 3; ++i) w[i] = LOAD(taps + (i * 3 + j) * step + lane);
                filter_vector(w, g);
                EACH(int i = 0; i < N; ++i) half[i][j] = g[i];
            }
            EACH(int i = 0; i < N; ++i) {
                VEC g[N];
                filter_vector(half[i], g);
                EACH(int j = 0; j < N; ++j) STORE(block + (i * N + j) * WEIGHTS + lane, g[j]);
            }
        }
    }
    for (int64_t c = k; c % PANEL; ++c)
        for (int p = 0; p < N * N; ++p)
            for (int64_t lane = 0; lane < PANEL; lane += WIDTH)
                STORE(to + (c / PANEL * N * N + p) * WEIGHTS + c % PANEL * PANEL + lane, SET(0));
}

// The outputs of a tile by their definition, some of PANEL channels from `channel` on, pixel (i, j) at y[i * M + j].
template <int M>
TARGET __attribute__((noinline)) void exact_tile(const Output &o, int64_t channel, int64_t first, int64_t rows, int64_t columns,
                                                 VEC (&y)[M * M][1]) {
    const Source &s = o.source;
    const int64_t row = first / o.width, at_column = first % o.width, image = row / o.height, at_row = row % o.height;
    const float *weights = s.weights + channel / PANEL * 9 * s.channels * PANEL + channel % PANEL;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            VEC sum = SET(0);
            for (int64_t tap = 0; tap < 9; ++tap) {
                const int64_t from_row = at_row + i + tap / 3 - s.pad_top, from_column = at_column + j + tap % 3 - s.pad_left;
                if (from_row < 0 || from_row >= s.height || from_column < 0 || from_column >= s.width) continue;
                const float *x = s.x + ((image * s.height + from_row) * s.width + from_column) * s.stride;
                const float *w = weights + tap * s.channels * PANEL;
                for (int64_t c = 0; c < s.channels; ++c) sum = MULTIPLY_ADD(SET(x[c]), LOAD(w + c * PANEL), sum);
            }
            y[i * M + j][0] = sum;
        }
}

// Products of one tile, blocks of [N * N][PANEL], to its pixels: `rows` x `columns` of M x M are inside the image, the first one
// is pixel number `first`.
template <int N>
TARGET void output_tile(const float *from, const Output &o, int64_t channel, int64_t channels, int64_t first, int64_t rows,
                        int64_t columns) {
    constexpr int M = N - 2;
    const Epilogue &e = o.epilogue;
    const bool whole = rows == M && columns == M;
    float *to = o.to + first * o.stride + channel;
    const float *residual = e.residual ? e.residual + first * e.residual_stride + channel : nullptr;
    for (int64_t c = 0; c < channels; c += WIDTH) {
        const float *block = from + c / PANEL * N * N * PANEL + c % PANEL;
        const int64_t n = channels - c;
        VEC half[N][M], y[M * M][1];
        EACH(int i = 0; i < N; ++i) {
            VEC m[N], part[M];
            EACH(int j = 0; j < N; ++j) m[j] = LOAD(block + (i * N + j) * PANEL);
            output_1d(m, part);
            EACH(int j = 0; j < M; ++j) half[i][j] = part[j];
        }
        VEC check = SET(0);
        EACH(int j = 0; j < M; ++j) {
            VEC m[N], part[M];
            EACH(int i = 0; i < N; ++i) m[i] = half[i][j];
            output_1d(m, part);
            EACH(int i = 0; i < M; ++i) {
                y[i * M + j][0] = part[i];
                check = MULTIPLY_ADD(part[i], SET(0), check);
            }
        }
        // NaN or infinity in a tile spreads over all of it, but reaches at least those outputs that should have it.
        if (__builtin_expect(ANY_NAN(check), 0)) exact_tile<M>(o, channel + c, first, rows, columns, y);
        VEC bias = e.bias ? some(e.bias + channel + c, n) : SET(0);
        for (auto &pixel : y) pixel[0] = ADD(pixel[0], bias);
        if (whole && n >= WIDTH) {
            if (residual)
                EACH(int i = 0; i < M; ++i)
                    EACH(int j = 0; j < M; ++j)
                        y[i * M + j][0] = ADD(y[i * M + j][0], LOAD(residual + (i * o.width + j) * e.residual_stride + c));
            activate<M * M, 1>(y, e);
            EACH(int i = 0; i < M; ++i)
                EACH(int j = 0; j < M; ++j) STORE(to + (i * o.width + j) * o.stride + c, y[i * M + j][0]);
            continue;
        }
        if (residual)
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < columns; ++j)
                    y[i * M + j][0] = ADD(y[i * M + j][0], some(residual + (i * o.width + j) * e.residual_stride + c, n));
        activate<M * M, 1>(y, e);
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) put(to + (i * o.width + j) * o.stride + c, y[i * M + j][0], n);
    }
}

template <int N>
constexpr Transforms transforms = {input_tile<N>, filter_block<N>, output_tile<N>};

#undef EACH
