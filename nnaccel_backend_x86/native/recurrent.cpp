#include "recurrent.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "epilogue.h"
#include "microkernel.h"

namespace nnx {
namespace {

#define ISA_TEXT "recurrent_isa.h"
#include "each_isa.h"

}  // namespace

// LSTM over a whole sequence. dims: steps, batch, hidden, reverse, blocks of the batch (tasks), terms of a sum in one chain. Buffers:
// what inputs add to the gates i, o, f, c [steps][batch][4 * hidden]; recurrent weights as `pack_panels` leaves them
// [4 * hidden / PANEL][hidden][PANEL]; first state and cell [batch][hidden]; then all states [steps][batch][hidden], the last state and the
// last cell. Scratch: sums, 4 * hidden (up to a whole panel) for each sample of a block.
void lstm(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    const int64_t steps = dims[0], batch = dims[1], hidden = dims[2], reverse = dims[3], blocks = dims[4], chunk = dims[5];
    const auto *added = static_cast<const float *>(buffers[0]);
    const auto *weights = static_cast<const float *>(buffers[1]);
    auto *states = static_cast<float *>(buffers[4]);
    auto *state = static_cast<float *>(buffers[5]);
    auto *cell = static_cast<float *>(buffers[6]);
    auto *sums = reinterpret_cast<float *>(scratch);
    static const auto cells = best_of(sse2::cells, avx2::cells, avx512::cells);
    const MicroKernels &kernels = micro_kernels();
    const int64_t panel = hidden * PANEL, columns = (4 * hidden + PANEL - 1) / PANEL * PANEL;
    for (int64_t block = begin; block < end; ++block) {
        const int64_t from = batch * block / blocks, count = batch * (block + 1) / blocks - from;
        const size_t bytes = size_t(count * hidden) * sizeof(float);
        std::memcpy(state + from * hidden, static_cast<const float *>(buffers[2]) + from * hidden, bytes);
        std::memcpy(cell + from * hidden, static_cast<const float *>(buffers[3]) + from * hidden, bytes);
        const float *before = state + from * hidden;
        for (int64_t step = 0; step < steps; ++step) {
            const int64_t t = reverse ? steps - 1 - step : step;
            for (int64_t first = 0; first < hidden; first += chunk)
                for (int64_t column = 0; column < columns; column += kernels.columns) {
                    const float *b = weights + column / PANEL * panel + first * PANEL;
                    for (int64_t row = 0, rows; row < count; row += rows) {
                        rows = next_rows(count - row, kernels.rows);
                        const float *a = before + row * hidden + first;
                        TileProduct p{&a, &b, 1, std::min(chunk, hidden - first), hidden, panel, sums + row * columns + column, columns,
                                      PANEL, std::min(kernels.columns, columns - column), first > 0};
                        kernels.by_rows[rows](p);
                    }
                }
            float *now = states + (t * batch + from) * hidden;
            for (int64_t i = 0; i < count; ++i)
                cells(added + (t * batch + from + i) * 4 * hidden, sums + i * columns, hidden, cell + (from + i) * hidden,
                      now + i * hidden);
            before = now;
        }
        if (steps) std::memcpy(state + from * hidden, before, bytes);
    }
}

}  // namespace nnx
