// Included once per instruction set by microkernel.cpp, inside a namespace of its own, with the macros of vectors.h, and after
// LANES (vectors per row of a tile) and ROWS (most rows of a tile).

// One pass over all of k for R rows and V vectors of columns; V * WIDTH columns, which may span two panels.
template <int R, int V>
TARGET void pass(const TileProduct &p, int64_t column, int64_t columns) {
    VEC sum[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = SET(0);
    // Of three rows each: base, base + step, base + 2 * step are addresses that need no arithmetic.
    constexpr int GROUPS = (R + 2) / 3;
    // What is added to may have left the caches near this core: it comes while the products are summed.
    if (p.accumulate)
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) __builtin_prefetch(p.c + column + r * p.ldc, 1);
    const int64_t step = p.lda, a_step = p.a_step, b_step = p.b_step;
    const int64_t jump = V * WIDTH > PANEL ? p.panel - PANEL : 0, c_jump = V * WIDTH > PANEL ? p.c_panel - PANEL : 0;
    for (int64_t t = 0; t < p.count; ++t) {
        const float *a[GROUPS];
#pragma GCC unroll 8
        for (int g = 0; g < GROUPS; ++g) a[g] = p.a[t] + 3 * g * step;
        const float *b = p.b[t] + column;
        for (int64_t i = 0; i < p.k; ++i) {
            VEC right[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) right[v] = LOAD(b + v * WIDTH + (v * WIDTH >= PANEL ? jump : 0));
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                VEC left = SET(a[r / 3][(r % 3) * step]);
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) sum[r][v] = MULTIPLY_ADD(left, right[v], sum[r][v]);
            }
#pragma GCC unroll 8
            for (int g = 0; g < GROUPS; ++g) a[g] += a_step;
            b += b_step;
        }
    }
    float *c = p.c + column;
    if (columns >= V * WIDTH) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                float *to = c + r * p.ldc + v * WIDTH + (v * WIDTH >= PANEL ? c_jump : 0);
                STORE(to, p.accumulate ? ADD(sum[r][v], LOAD(to)) : sum[r][v]);
            }
        return;
    }
    float tile[R][V * WIDTH];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) STORE(tile[r] + v * WIDTH, sum[r][v]);
    for (int r = 0; r < R; ++r)
        for (int64_t j = 0; j < columns; ++j) {
            float &to = c[r * p.ldc + j + (j >= PANEL ? c_jump : 0)];
            to = tile[r][j] + (p.accumulate ? to : 0.0f);
        }
}

template <int R>
TARGET void tile(const TileProduct &p) {
    if constexpr (LANES * WIDTH > PANEL) {
        if (p.columns <= PANEL)
            pass<R, PANEL / WIDTH>(p, 0, p.columns);
        else
            pass<R, LANES>(p, 0, p.columns);
    } else {
        for (int64_t column = 0; column < p.columns; column += LANES * WIDTH) pass<R, LANES>(p, column, p.columns - column);
    }
}

template <int... R>
constexpr MicroKernels table(const char *isa, std::integer_sequence<int, R...>) {
    return {isa, ROWS, LANES * WIDTH > PANEL ? LANES * WIDTH : PANEL, {nullptr, tile<R + 1>...}};
}
