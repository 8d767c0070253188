// Included once per instruction set by winograd_gradient.cpp, inside a namespace of its own, after vectors.h. The matrices are those
// of winograd_isa.h, transposed. Every function works on WIDTH channels at a time.

#define EACH _Pragma("GCC unroll 8") for

// A (6 x 4), the transpose of `output_1d`.
TARGET inline __attribute__((always_inline)) void gradient_1d(const VEC (&y)[4], VEC (&m)[6]) {
    VEC even = MULTIPLY_ADD(SET(A2), y[2], y[0]), odd = MULTIPLY_ADD(SET(A * A2), y[3], MULTIPLY(SET(A), y[1]));
    m[0] = y[0], m[1] = ADD(even, odd), m[2] = SUBTRACT(even, odd);
    even = MULTIPLY_ADD(SET(B2), y[2], y[0]), odd = MULTIPLY_ADD(SET(B * B2), y[3], MULTIPLY(SET(B), y[1]));
    m[3] = ADD(even, odd), m[4] = SUBTRACT(even, odd), m[5] = y[3];
}

// Transposed G (3 x 6), the transpose of `filter_vector`.
TARGET inline __attribute__((always_inline)) void weights_1d(const VEC (&g)[6], VEC (&w)[3]) {
    VEC even_a = MULTIPLY(SET(AT_A), ADD(g[1], g[2])), odd_a = MULTIPLY(SET(AT_A * A), SUBTRACT(g[1], g[2]));
    VEC even_b = MULTIPLY(SET(AT_B), ADD(g[3], g[4])), odd_b = MULTIPLY(SET(AT_B * B), SUBTRACT(g[3], g[4]));
    w[0] = MULTIPLY_ADD(SET(AT_0), g[0], ADD(even_a, even_b));
    w[1] = ADD(odd_a, odd_b);
    w[2] = ADD(MULTIPLY_ADD(SET(A2), even_a, MULTIPLY(SET(B2), even_b)), g[5]);
}

// 4 x 4 pixels of the result's gradient: pixel (i, j) at pixels[i * 4 + j], position p of the result at to + p * distance, in whole
// panels with zeros after the last channel.
TARGET void gradient_tile(const float *const *pixels, int64_t channels, float *to, int64_t distance) {
    for (int64_t at = 0; at < (channels + PANEL - 1) / PANEL * PANEL; at += WIDTH) {
        const int64_t left = channels - at;
        VEC half[4][6];
        EACH(int i = 0; i < 4; ++i) {
            VEC y[4];
            if (left >= WIDTH) {
                EACH(int j = 0; j < 4; ++j) y[j] = LOAD(pixels[i * 4 + j] + at);
            } else {
                float part[4][WIDTH] = {};
                for (int j = 0; j < 4; ++j)
                    for (int64_t c = 0; c < left; ++c) part[j][c] = pixels[i * 4 + j][at + c];
                EACH(int j = 0; j < 4; ++j) y[j] = LOAD(part[j]);
            }
            gradient_1d(y, half[i]);
        }
        EACH(int j = 0; j < 6; ++j) {
            VEC y[4], m[6];
            EACH(int i = 0; i < 4; ++i) y[i] = half[i][j];
            gradient_1d(y, m);
            EACH(int i = 0; i < 6; ++i) STORE(to + (i * 6 + j) * distance + at, m[i]);
        }
    }
}

// The sums of 36 positions, `distance` apart, to the gradients (channels, 9); false where one is not finite.
TARGET bool weights_row(const float *from, int64_t distance, int64_t channels, float *to) {
    VEC check = SET(0);
    for (int64_t c = 0; c < channels; c += WIDTH) {
        VEC half[6][3];
        EACH(int i = 0; i < 6; ++i) {
            VEC g[6];
            EACH(int j = 0; j < 6; ++j) g[j] = LOAD(from + (i * 6 + j) * distance + c);
            weights_1d(g, half[i]);
        }
        float taps[9][WIDTH];
        EACH(int j = 0; j < 3; ++j) {
            VEC g[6], w[3];
            EACH(int i = 0; i < 6; ++i) g[i] = half[i][j];
            weights_1d(g, w);
            EACH(int i = 0; i < 3; ++i) {
                STORE(taps[i * 3 + j], w[i]);
                check = MULTIPLY_ADD(w[i], SET(0), check);
            }
        }
        transpose(taps[0], WIDTH, 9, std::min<int64_t>(WIDTH, channels - c), to + c * 9, 9);
    }
    return !ANY_NAN(check);
}

constexpr Transforms transforms = {gradient_tile, weights_row};

#undef EACH
