#include "pack.h"

#include <algorithm>
#include <cstring>

#include "microkernel.h"
#include "transpose.h"

namespace nnx {
namespace {

// Elements of each column that pass through the first-level cache together.
constexpr int64_t ELEMENTS = 128;
// Rows of turned weights that neighboring panels are read from in turn; and rows ahead that are asked for.
constexpr int64_t TOGETHER = 32, AHEAD = 8;

// Weights (columns, channels, taps).
void panel(const float *w, int64_t columns, int64_t channels, int64_t taps, float *to) {
    if (taps == 1) {
        transpose(w, channels, columns, channels, to, PANEL);
        return;
    }
    alignas(64) float some[ELEMENTS * PANEL];
    const int64_t row = channels * taps;
    if (columns < PANEL) std::memset(some, 0, sizeof some);
    for (int64_t first = 0; first < row; first += ELEMENTS) {
        const int64_t count = std::min(ELEMENTS, row - first);
        transpose(w + first, row, columns, count, some, PANEL);
        int64_t c = first / taps, tap = first % taps;
        for (int64_t i = 0; i < count; ++i) {
            std::memcpy(to + (tap * channels + c) * PANEL, some + i * PANEL, PANEL * sizeof(float));
            if (++tap == taps) tap = 0, ++c;
        }
    }
}

// Weights (channels, columns of all panels, taps), the taps backwards: input channels [begin, end) of a panel.
void turned_panel(const float *w, int64_t all_columns, int64_t columns, int64_t channels, int64_t taps, int64_t begin, int64_t end,
                  float *to) {
    const int64_t step = channels * PANEL, row = all_columns * taps;
    float *last = to + (taps - 1) * step + begin * PANEL;
    w += begin * row;
    for (int64_t c = begin; c < end; ++c, w += row, last += PANEL) {
        // Rows are far apart, and short: the hardware does not guess the next ones.
        for (int64_t i = 0; i < columns * taps; i += PANEL) __builtin_prefetch(w + AHEAD * row + i);
        if (taps == 1 && columns == PANEL)
            std::memcpy(last, w, PANEL * sizeof(float));
        else if (taps == 1)
            std::memcpy(last, w, size_t(columns) * sizeof(float));
        else
            transpose(w, taps, columns, taps, last, -step);
    }
}

}  // namespace

// Weights (columns, channels, taps), row-major, as panels [columns / PANEL][taps][channels][PANEL]; or, where dims[3] is set, weights
// (channels, columns, taps) turned: with the order of the taps reversed, as the gradient of a convolution's input wants them.
// dims: columns, channels, taps, turned. One task per panel. Buffers: weights, panels.
void pack_panels(void **buffers, const int64_t *dims, uint8_t *, int64_t begin, int64_t end) {
    const int64_t all = dims[0], channels = dims[1], taps = dims[2];
    const bool turned = dims[3] != 0;
    const auto *w = static_cast<const float *>(buffers[0]);
    auto panel_of = [&](int64_t p) { return static_cast<float *>(buffers[1]) + p * taps * channels * PANEL; };
    auto columns_of = [&](int64_t p) { return std::min(PANEL, all - p * PANEL); };
    for (int64_t p = begin; p < end; ++p) {
        if (columns_of(p) < PANEL) std::memset(panel_of(p), 0, size_t(taps * channels * PANEL) * sizeof(float));
        if (!turned) panel(w + p * PANEL * channels * taps, columns_of(p), channels, taps, panel_of(p));
    }
    // Neighboring panels are parts of the same rows.
    for (int64_t c = 0; turned && c < channels; c += TOGETHER)
        for (int64_t p = begin; p < end; ++p)
            turned_panel(w + p * PANEL * taps, all, columns_of(p), channels, taps, c, std::min(channels, c + TOGETHER), panel_of(p));
}

// The same of weights with the output channels innermost, as TensorFlow has them: (taps, channels, columns); turned ones are
// (taps, columns, channels). dims and tasks as for `pack_panels`.
void pack_panels_last(void **buffers, const int64_t *dims, uint8_t *, int64_t begin, int64_t end) {
    const int64_t all = dims[0], channels = dims[1], taps = dims[2];
    const auto *w = static_cast<const float *>(buffers[0]);
    for (int64_t p = begin; p < end; ++p) {
        auto *to = static_cast<float *>(buffers[1]) + p * taps * channels * PANEL;
        const int64_t columns = std::min(PANEL, all - p * PANEL);
        if (columns < PANEL) std::memset(to, 0, size_t(taps * channels * PANEL) * sizeof(float));
        if (dims[3] != 0) {
            for (int64_t tap = 0; tap < taps; ++tap)
                transpose(w + (tap * all + p * PANEL) * channels, channels, columns, channels, to + (taps - 1 - tap) * channels * PANEL,
                          PANEL);
            continue;
        }
        const float *from = w + p * PANEL;
        for (int64_t row = 0; row < taps * channels; ++row, from += all, to += PANEL) {
            __builtin_prefetch(from + AHEAD * all);
            if (columns == PANEL)
                std::memcpy(to, from, PANEL * sizeof(float));
            else
                std::memcpy(to, from, size_t(columns) * sizeof(float));
        }
    }
}

}  // namespace nnx
