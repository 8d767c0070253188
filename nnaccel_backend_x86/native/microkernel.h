// Products of register tiles: the innermost loops of convolutions and matrix products.
#pragma once

#include <cstdint>

namespace nnx {

// Columns of one packed panel: B is kept as panels [k][PANEL], the last one filled up with zeros, whatever the processor.
constexpr int64_t PANEL = 16;

// C[rows x columns] = (C +) sum over t of A_t[rows x k] * B_t[k x columns], summed over t and k in registers.
struct TileProduct {
    const float *const *a;  // `count` addresses; row r of A_t is at a[t] + r * lda
    const float *const *b;  // `count` addresses of packed panels, 4-byte aligned
    int64_t count, k;       // k may be 0: then the sum is 0
    int64_t lda;            // elements
    int64_t panel;          // elements from one panel of a B_t to its next; read only where columns > PANEL
    float *c;
    int64_t ldc;      // elements
    int64_t c_panel;  // elements from the columns of one panel to the next's; read only where columns > PANEL
    int64_t columns;  // 1..MicroKernels::columns; nothing beyond them is written
    bool accumulate;  // add to what C holds
    int64_t a_step = 1, b_step = PANEL;  // elements from one k to the next of A_t and of a panel of B_t
};

using MicroKernel = void (*)(const TileProduct &product);

constexpr int64_t MOST_ROWS = 12;

// The kernels of one instruction set. A tile of all rows and columns is what its registers hold.
struct MicroKernels {
    const char *isa;
    int64_t rows, columns;
    MicroKernel by_rows[MOST_ROWS + 1];  // [r] computes r rows, r = 1..rows
};

// Those of this processor, chosen once. Where columns is 2 * PANEL, a tile spans two panels.
const MicroKernels &micro_kernels();

// Those of an instruction set ("avx512", "avx2", "sse2"), or null where this processor cannot run them.
const MicroKernels *micro_kernels(const char *isa);

// Of what there is for each instruction set, that for this processor.
template <typename T>
const T &best_of(const T &sse2, const T &avx2, const T &avx512) {
    return micro_kernels("avx512") ? avx512 : micro_kernels("avx2") ? avx2 : sse2;
}

// One tile, as often as there are tasks, for tests and measurements. Buffers: A, B, C. Dims: instruction set (0 "sse2", 1 "avx2",
// 2 "avx512"), rows, columns, count, k, lda, elements from one A_t to the next, from one B_t to the next, panel, ldc, accumulate.
// With rows = 0, C gets the rows and columns of a tile instead, zeros where this processor lacks the instruction set.
void tile_product(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end);

// How to cut `n` rows into tiles of at most `most` rows, as equal as can be: two tiles of 4 rows run faster than one of 6 and one
// of 2. Call with the rows left; returns the rows of the next tile.
inline int64_t next_rows(int64_t n, int64_t most) {
    int64_t pieces = (n + most - 1) / most;
    return pieces ? (n + pieces - 1) / pieces : 0;
}

}  // namespace nnx
