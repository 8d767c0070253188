// Winograd's F(4x4, 3x3) makes 4 x 4 outputs of 6 x 6 inputs with 36 products, linear in inputs and in weights. Its transpose makes the
// gradient of the weights: each 4 x 4 tile of the result's gradient is transformed to 6 x 6 positions, as is the tile of inputs that
// it saw; for each position the products of both are added up over all tiles of all images, which takes 4 times fewer products than
// adding up for each of the 9 weights; at the end the 36 sums are transformed to 9. A task computes some output channels by some
// input channels over all tiles. Where its result is not all finite, weights_gradient computes it again, so that NaN and infinity
// reach only what they should.
#include "winograd_gradient.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "microkernel.h"
#include "transpose.h"
#include "weights_gradient.h"
#include "winograd.h"
#include "winograd_points.h"

namespace nnx {
namespace {

constexpr int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Transforms {
    void (*gradient)(const float *const *pixels, int64_t channels, float *to, int64_t distance);
    bool (*weights)(const float *from, int64_t distance, int64_t channels, float *to);
};

#define ISA_TEXT "winograd_gradient_isa.h"
#include "each_isa.h"

const Transforms &best_transforms() {
    static const Transforms &best = best_of(sse2::transforms, avx2::transforms, avx512::transforms);
    return best;
}

// Those of weights_gradient, which takes these as they are, then how many tiles are transformed at a time.
struct Dims {
    int64_t images, height, width, channels, out_height, out_width, out_channels;
    int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
    int64_t g_stride, x_stride;
    int64_t outer, inner, rows;
    int64_t tiles;
};

constexpr int64_t M = 4, N = 6, POSITIONS = N * N;

class Gradient {
public:
    Gradient(void **buffers, const Dims &dims, uint8_t *scratch)
        : d_(dims), kernels_(micro_kernels()), transforms_(best_transforms()) {
        g_from_ = static_cast<const float *>(buffers[0]);
        x_from_ = static_cast<const float *>(buffers[1]);
        to_ = static_cast<float *>(buffers[2]);
        down_ = (d_.out_height + M - 1) / M, across_ = (d_.out_width + M - 1) / M;
        // A line more for each position: a multiple of the page apart they would share few sets of the first-level cache.
        g_row_ = up(d_.outer, PANEL), g_position_ = d_.tiles * g_row_ + PANEL;
        x_row_ = d_.inner, x_position_ = d_.tiles * x_row_ + PANEL;
        sums_position_ = d_.outer * x_row_ + PANEL;
        sums_ = reinterpret_cast<float *>(scratch);
        g_ = sums_ + POSITIONS * sums_position_;
        x_ = g_ + POSITIONS * g_position_;
        zeros_ = x_ + POSITIONS * x_position_;
        std::fill_n(zeros_, std::max(g_row_, x_row_), 0.0f);
    }

    // Whether all of the result is finite.
    bool task(int64_t index) {
        const int64_t blocks = (d_.channels + d_.inner - 1) / d_.inner, all = d_.images * down_ * across_;
        out_ = index / blocks * d_.outer, outs_ = std::min(d_.outer, d_.out_channels - out_);
        in_ = index % blocks * d_.inner, ins_ = std::min(d_.inner, d_.channels - in_);
        // Blocks of tiles differ by one at most.
        const int64_t parts = (all + d_.tiles - 1) / d_.tiles;
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t first = all * part / parts, count = all * (part + 1) / parts - first;
            for (int64_t t = 0; t < count; ++t) {
                const int64_t line = (first + t) / across_, image = line / down_;
                transform(image, line % down_ * M, (first + t) % across_ * M, t);
            }
            products(count, part > 0);
        }
        bool finite = true;
        for (int64_t o = 0; o < outs_; ++o)
            finite &= transforms_.weights(sums_ + o * x_row_, sums_position_, ins_, to_ + ((out_ + o) * d_.channels + in_) * 9);
        return finite;
    }

private:
    // The tile of outputs that begins at (row, column).
    void transform(int64_t image, int64_t row, int64_t column, int64_t t) const {
        const float *pixels[POSITIONS];
        for (int64_t i = 0; i < M; ++i)
            for (int64_t j = 0; j < M; ++j) {
                const bool inside = row + i < d_.out_height && column + j < d_.out_width;
                const int64_t pixel = (image * d_.out_height + row + i) * d_.out_width + column + j;
                pixels[i * M + j] = inside ? g_from_ + pixel * d_.g_stride + out_ : zeros_;
                if (column + M < d_.out_width) prefetch(pixels[i * M + j] + M * d_.g_stride, outs_);
            }
        transforms_.gradient(pixels, outs_, g_ + t * g_row_, g_position_);
        for (int64_t i = 0; i < N; ++i)
            for (int64_t j = 0; j < N; ++j) {
                const int64_t y = row + i - d_.pad_y, x = column + j - d_.pad_x;
                const bool inside = y >= 0 && y < d_.height && x >= 0 && x < d_.width;
                pixels[i * N + j] = inside ? x_from_ + ((image * d_.height + y) * d_.width + x) * d_.x_stride + in_ : zeros_;
                if (j >= N - M && column + M < d_.out_width) prefetch(pixels[i * N + j] + M * d_.x_stride, ins_);
            }
        winograd_input(pixels, ins_, x_ + t * x_row_, x_position_);
    }

    static void prefetch(const float *from, int64_t count) {
        for (int64_t c = 0; c < count; c += PANEL) __builtin_prefetch(from + c);
    }

    void products(int64_t count, bool accumulate) const {
        const int64_t columns = up(ins_, PANEL);
        for (int64_t p = 0; p < POSITIONS; ++p)
            for (int64_t c = 0; c < columns; c += kernels_.columns) {
                const float *right = x_ + p * x_position_ + c;
                for (int64_t o = 0, rows; o < outs_; o += rows) {
                    rows = next_rows(outs_ - o, kernels_.rows);
                    const float *left = g_ + p * g_position_ + o;
                    kernels_.by_rows[rows]({&left, &right, 1, count, 1, PANEL, sums_ + p * sums_position_ + o * x_row_ + c, x_row_,
                                            PANEL, std::min(kernels_.columns, columns - c), accumulate, g_row_, x_row_});
                }
            }
    }

    const Dims &d_;
    const MicroKernels &kernels_;
    const Transforms &transforms_;
    const float *g_from_, *x_from_;
    float *to_;
    int64_t down_, across_, g_row_, g_position_, x_row_, x_position_, sums_position_;
    int64_t out_, outs_, in_, ins_;  // of the task: its first output channel and how many, likewise input channels
    float *sums_, *g_, *x_, *zeros_;
};

}  // namespace

// Buffers and tasks: those of weights_gradient. Dims: those of weights_gradient, of a 3x3 window with stride and dilation 1, then how
// many tiles a task transforms at a time. Scratch: see nnaccel_backend_x86.winograd_gradient.scratch; at least weights_gradient's.
void winograd_gradient(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    const Dims &d = *reinterpret_cast<const Dims *>(dims);
    for (int64_t i = begin; i < end; ++i)
        if (!Gradient(buffers, d, scratch).task(i)) weights_gradient(buffers, dims, scratch, i, i + 1);
}

}  // namespace nnx
