// A task computes some channels of the output of some tiles, from the images to the finished pixels; nothing but those is
// written to memory that another core reads. For a block of input channels at a time, the tiles are transformed (V), so are
// the weights (U), and their products are added up (M) by the register-tile kernels. V, the panel of U in use, and M stay in
// this core's second-level cache when the caller chose the blocks well. Tiles whose outputs are not all finite are computed again by
// the definition of a convolution, so that NaN and infinity reach only what they should.
#include "winograd.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "epilogue.h"
#include "microkernel.h"
#include "winograd_points.h"

namespace nnx {
namespace {

constexpr int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What the convolution reads, for outputs that are computed by their definition.
struct Source {
    const float *x, *weights;
    int64_t height, width, channels, stride, pad_top, pad_left;
};

struct Output {
    float *to;
    int64_t stride;         // elements between pixels
    int64_t height, width;  // rows of an image, pixels of a row
    Epilogue epilogue;
    Source source;
};

// Elements of a block of transformed weights, [PANEL][PANEL] and a line more: 1 KiB apart they would share few sets of a cache.
constexpr int64_t WEIGHTS = (PANEL + 1) * PANEL;

// Of tiles of N x N; M = N - 2 pixels of the output each way.
struct Transforms {
    void (*input)(const float *const *pixels, int64_t channels, float *to, int64_t distance);
    void (*filter)(const float *taps, int64_t step, int64_t k, float *to);
    void (*output)(const float *from, const Output &o, int64_t channel, int64_t channels, int64_t first, int64_t rows,
                   int64_t columns);
};

#define ISA_TEXT "winograd_isa.h"
#include "each_isa.h"

template <int N>
const Transforms &transforms() {
    static const Transforms &best = best_of(sse2::transforms<N>, avx2::transforms<N>, avx512::transforms<N>);
    return best;
}

// Most input channels at a time, in blocks of PANEL.
constexpr int64_t MOST_BLOCKS = 32;

// The integers that the caller gives. A tile is `m` x `m` pixels of the output; `tiles`, `inner`, `outer` are the tiles, input
// channels and output channels (a multiple of PANEL) of a block; a task has one block of tiles and one of output channels.
struct Dims {
    int64_t m, images, height, width, channels, out_height, out_width, out_channels, pad_top, pad_left;
    int64_t tiles, inner, outer;
    int64_t x_stride, y_stride, residual_stride;  // elements between pixels
    int64_t has_bias, has_residual, activation, alpha, beta;  // the last two are the bits of a float
};

float number(int64_t bits) {
    const auto narrow = int32_t(bits);
    float found;
    std::memcpy(&found, &narrow, sizeof found);
    return found;
}

template <int N>
class Convolution {
public:
    Convolution(void **buffers, const Dims &dims, uint8_t *scratch)
        : d_(dims), kernels_(micro_kernels()), transforms_(transforms<N>()), x_(static_cast<const float *>(buffers[0])),
          weights_(static_cast<const float *>(buffers[1])), down_((d_.out_height + M - 1) / M),
          across_((d_.out_width + M - 1) / M) {
        int next = 2;
        Epilogue e;
        if (d_.has_bias) e.bias = static_cast<const float *>(buffers[next++]);
        if (d_.has_residual) e.residual = static_cast<const float *>(buffers[next++]);
        e.residual_stride = d_.residual_stride;
        e.activation = d_.activation, e.alpha = number(d_.alpha), e.beta = number(d_.beta);
        output_ = {static_cast<float *>(buffers[next]), d_.y_stride, d_.out_height, d_.out_width, e,
                   {x_, weights_, d_.height, d_.width, d_.channels, d_.x_stride, d_.pad_top, d_.pad_left}};
        // A line more than is needed, so that neighbors do not share the few places of a cache set.
        v_tile_ = up(d_.inner, PANEL), v_position_ = d_.tiles * v_tile_ + PANEL, m_tile_ = P * d_.outer + PANEL;
        u_panel_ = P * up(d_.inner, PANEL) / PANEL * WEIGHTS;
        v_ = reinterpret_cast<float *>(scratch);
        u_ = v_ + P * v_position_;
        m_ = u_ + 2 * u_panel_;
        zeros_ = m_ + d_.tiles * m_tile_;
        std::fill_n(zeros_, d_.inner, 0.0f);
    }

    void task(int64_t index) {
        int64_t all = d_.images * down_ * across_, blocks = (all + d_.tiles - 1) / d_.tiles;
        // Blocks differ by one tile at most: a short last one would run at the speed of short products.
        int64_t block = index % blocks, first = all * block / blocks, tiles = all * (block + 1) / blocks - first;
        int64_t channel = index / blocks * d_.outer, channels = std::min(d_.outer, d_.out_channels - channel);
        for (int64_t k = 0; k < d_.channels; k += d_.inner) {
            int64_t inner = std::min(d_.inner, d_.channels - k);
            for (int64_t t = 0; t < tiles; ++t) input(first + t, k, inner, v_ + t * v_tile_);
            products(channel, channels, k, inner, tiles);
        }
        for (int64_t t = 0; t < tiles; ++t) {
            Place p = place(first + t);
            transforms_.output(m_ + t * m_tile_, output_, channel, channels,
                               (p.image * d_.out_height + p.row) * d_.out_width + p.column,
                               std::min<int64_t>(M, d_.out_height - p.row), std::min<int64_t>(M, d_.out_width - p.column));
        }
    }

private:
    static constexpr int64_t M = N - 2, P = N * N;

    struct Place {
        int64_t image, row, column;  // of the tile's first output pixel
    };

    Place place(int64_t tile) const {
        int64_t line = tile / across_;
        return {line / down_, line % down_ * M, tile % across_ * M};
    }

    void input(int64_t tile, int64_t k, int64_t inner, float *to) const {
        Place p = place(tile);
        const float *pixels[P];
        for (int64_t i = 0; i < N; ++i)
            for (int64_t j = 0; j < N; ++j) {
                int64_t row = p.row + i - d_.pad_top, column = p.column + j - d_.pad_left;
                bool inside = row >= 0 && row < d_.height && column >= 0 && column < d_.width;
                pixels[i * N + j] = inside ? x_ + ((p.image * d_.height + row) * d_.width + column) * d_.x_stride + k : zeros_;
            }
        // The next tile's new pixels come from memory while this one's are transformed: 20 % of the time for large images.
        if (p.column + M < d_.out_width)
            for (int64_t i = 0; i < N; ++i)
                for (int64_t j = N - M; j < N; ++j)
                    for (int64_t c = 0; c < inner; c += PANEL) __builtin_prefetch(pixels[i * N + j] + M * d_.x_stride + c);
        transforms_.input(pixels, inner, to, v_position_);
    }

    void products(int64_t channel, int64_t channels, int64_t k, int64_t inner, int64_t tiles) {
        const int64_t panels = (channels + PANEL - 1) / PANEL, most = kernels_.columns / PANEL, step = d_.channels * PANEL;
        const int64_t blocks = (inner + PANEL - 1) / PANEL;
        const float *a[MOST_BLOCKS], *b[MOST_BLOCKS];
        for (int64_t j = 0; j < panels; j += most) {
            int64_t wide = std::min(most, panels - j), first = channel / PANEL + j;
            for (int64_t w = 0; w < wide; ++w)
                transforms_.filter(weights_ + (first + w) * 9 * step + k * PANEL, step, inner, u_ + w * u_panel_);
            // Weights come from far, in runs that are too short to be foreseen: a share of the next panels' during each product.
            const int64_t ahead = j + most < panels ? std::min(most, panels - j - most) * 9 * inner : 0;
            const float *next = weights_ + (first + wide) * 9 * step + k * PANEL;
            int64_t line = 0, in_run = 0;
            for (int64_t p = 0; p < P; ++p) {
                for (; line < ahead * (p + 1) / P; ++line, ++in_run) {
                    if (in_run == inner) next += step, in_run = 0;
                    __builtin_prefetch(next + in_run * PANEL, 0, 2);
                }
                for (int64_t i = 0; i < blocks; ++i) b[i] = u_ + (i * P + p) * WEIGHTS;
                for (int64_t t = 0; t < tiles;) {
                    int64_t rows = next_rows(tiles - t, kernels_.rows);
                    for (int64_t i = 0; i < blocks; ++i) a[i] = v_ + p * v_position_ + t * v_tile_ + i * PANEL;
                    kernels_.by_rows[rows]({a, b, blocks, PANEL, v_tile_, u_panel_, m_ + t * m_tile_ + (j * P + p) * PANEL,
                                            m_tile_, P * PANEL, wide * PANEL, k > 0});
                    t += rows;
                }
            }
        }
    }

    const Dims &d_;
    const MicroKernels &kernels_;
    const Transforms &transforms_;
    const float *x_, *weights_;
    Output output_;
    int64_t down_, across_;
    int64_t v_tile_, v_position_, u_panel_, m_tile_;
    float *v_, *u_, *m_, *zeros_;
};

template <int N>
void convolve(void **buffers, const Dims &dims, uint8_t *scratch, int64_t begin, int64_t end) {
    Convolution<N> convolution(buffers, dims, scratch);
    for (int64_t i = begin; i < end; ++i) convolution.task(i);
}

}  // namespace

void winograd_input(const float *const *pixels, int64_t channels, float *to, int64_t distance) {
    transforms<6>().input(pixels, channels, to, distance);
}

// Buffers: images, weights (of pack_panels), then bias and residual where there are, output. Scratch, in floats, where
// P = (m + 2)^2 and k = up(inner, 16): P * (tiles * k + 16) + 2 * P * k * 17 + tiles * (P * outer + 16) + k.
void winograd(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    const Dims &d = *reinterpret_cast<const Dims *>(dims);
    if (d.m == 4)
        convolve<6>(buffers, d, scratch, begin, end);
    else
        convolve<4>(buffers, d, scratch, begin, end);
}

}  // namespace nnx
