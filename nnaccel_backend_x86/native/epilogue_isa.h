// Included once per instruction set, inside a namespace of its own, with TARGET, VEC and WIDTH defined (see product.cpp).

typedef int32_t INTS __attribute__((vector_size(WIDTH * 4)));

TARGET inline __attribute__((always_inline)) VEC constant(float x) {
    VEC v = {};
    return v + x;
}

TARGET inline __attribute__((always_inline)) VEC load(const float *p) {
    VEC v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

TARGET inline __attribute__((always_inline)) void store(float *p, VEC v) { __builtin_memcpy(p, &v, sizeof v); }

// Both keep NaN of x: the instructions return their second operand where one is NaN. GCC makes two of a comparison and a choice.
#if WIDTH == 16
TARGET inline __attribute__((always_inline)) VEC at_least(VEC x, VEC low) { return _mm512_max_ps(low, x); }
TARGET inline __attribute__((always_inline)) VEC at_most(VEC x, VEC high) { return _mm512_min_ps(high, x); }
#elif WIDTH == 8
TARGET inline __attribute__((always_inline)) VEC at_least(VEC x, VEC low) { return _mm256_max_ps(low, x); }
TARGET inline __attribute__((always_inline)) VEC at_most(VEC x, VEC high) { return _mm256_min_ps(high, x); }
#else
TARGET inline __attribute__((always_inline)) VEC at_least(VEC x, VEC low) { return _mm_max_ps(low, x); }
TARGET inline __attribute__((always_inline)) VEC at_most(VEC x, VEC high) { return _mm_min_ps(high, x); }
#endif

// exp(x) to about 2 ulp: 2^n * p(r) with x = n ln 2 + r, |r| <= ln 2 / 2, p the Taylor polynomial of degree 7.
// Beyond float32's range: infinity, and the smallest normal number.
TARGET inline __attribute__((always_inline)) VEC exponential(VEC x) {
    const VEC given = x;
    x = at_least(at_most(x, constant(88.0f)), constant(-87.0f));
    const VEC shift = constant(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    VEC n = x * 1.44269504f + shift;
    INTS exponent;
    __builtin_memcpy(&exponent, &n, sizeof n);
    n = n - shift;
    VEC r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    VEC p = constant(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    INTS bits;
    __builtin_memcpy(&bits, &p, sizeof p);
    bits += exponent << 23;  // the shift drops all but the integer's low bits
    __builtin_memcpy(&p, &bits, sizeof p);
    return given > 88.0f ? constant(__builtin_inff()) : p;
}

TARGET inline __attribute__((always_inline)) VEC sigmoid(VEC x) {
    VEC y = 1.0f / (1.0f + exponential(-x));
    return x == x ? y : x;
}

TARGET inline __attribute__((always_inline)) VEC unit_clip(VEC x) { return at_most(at_least(x, constant(0.0f)), constant(1.0f)); }

// Applies `e.activation` to R x V vectors. The choice is made once for all of them.
template <int R, int V>
TARGET inline __attribute__((always_inline)) void activate(VEC (&x)[R][V], const Epilogue &e) {
#define FOR_ALL(expression)                 \
    _Pragma("GCC unroll 16") for (int r = 0; r < R; ++r) _Pragma("GCC unroll 4") for (int v = 0; v < V; ++v) { \
        VEC y = x[r][v];                    \
        x[r][v] = (expression);             \
    }                                       \
    break
    switch (e.activation) {
        case ACT_RELU: FOR_ALL(at_least(y, constant(0.0f)));
        case ACT_LEAKY: FOR_ALL(y < 0.0f ? y * e.alpha : y);
        case ACT_CLIP: FOR_ALL(at_most(at_least(y, constant(e.alpha)), constant(e.beta)));
        case ACT_HARDSWISH: FOR_ALL(y * unit_clip(y * (1.0f / 6.0f) + 0.5f));
        case ACT_HARDSIGMOID: FOR_ALL(unit_clip(y * e.alpha + e.beta));
        case ACT_SIGMOID: FOR_ALL(sigmoid(y));
        case ACT_SILU: FOR_ALL(y * sigmoid(y));
        default: break;
    }
#undef FOR_ALL
}

// Bias, residual and activation of a tile, and its store; `columns` of the R rows from `column` on.
template <int R, int V>
TARGET inline __attribute__((always_inline)) void finish(VEC (&x)[R][V], const Epilogue &e, int64_t row, int64_t column, int64_t columns,
                                                         float *out, int64_t out_stride) {
    if (columns >= V * WIDTH) {
        if (e.bias) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                VEC b = load(e.bias + column + v * WIDTH);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) x[r][v] += b;
            }
        }
        if (e.residual) {
            const float *from = e.residual + row * e.residual_stride + column;
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) x[r][v] += load(from + r * e.residual_stride + v * WIDTH);
        }
        activate<R, V>(x, e);
        float *to = out + row * out_stride + column;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(to + r * out_stride + v * WIDTH, x[r][v]);
        return;
    }
#if WIDTH == 16
    // The last columns: masked, whole vectors among them.
    const float *residual = e.residual ? e.residual + row * e.residual_stride + column : nullptr;
    __mmask16 mask[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        const int64_t n = columns - v * WIDTH;
        mask[v] = n >= WIDTH ? 0xFFFF : n > 0 ? (1u << n) - 1 : 0;
        const VEC b = e.bias ? _mm512_maskz_loadu_ps(mask[v], e.bias + column + v * WIDTH) : VEC{};
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            x[r][v] += b;
            if (residual) x[r][v] += _mm512_maskz_loadu_ps(mask[v], residual + r * e.residual_stride + v * WIDTH);
        }
    }
    activate<R, V>(x, e);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) _mm512_mask_storeu_ps(out + (row + r) * out_stride + column + v * WIDTH, mask[v], x[r][v]);
#else
    // The last columns: through memory of a whole tile's size.
    float tile[R][V * WIDTH] = {};
    if (e.residual)
        for (int r = 0; r < R; ++r)
            for (int64_t j = 0; j < columns; ++j) tile[r][j] = e.residual[(row + r) * e.residual_stride + column + j];
    float bias[V * WIDTH] = {};
    if (e.bias)
        for (int64_t j = 0; j < columns; ++j) bias[j] = e.bias[column + j];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) x[r][v] = (x[r][v] + load(bias + v * WIDTH)) + load(tile[r] + v * WIDTH);
    activate<R, V>(x, e);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) store(tile[r] + v * WIDTH, x[r][v]);
    for (int r = 0; r < R; ++r)
        for (int64_t j = 0; j < columns; ++j) out[(row + r) * out_stride + column + j] = tile[r][j];
#endif
}
