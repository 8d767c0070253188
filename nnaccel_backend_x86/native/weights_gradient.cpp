// For each element of the window, the gradient of the weights (output channels x input channels) is the product of the result's
// gradient, transposed, with the input pixels that this element saw: sums over all pixels of all images. A task computes some
// output channels by some input channels, for all elements of the window, over all pixels. It takes a band of output rows at a
// time: the band of `g` is packed for the register tiles, the pixels of `x` that it saw are gathered into panels, and their products
// are added to sums that stay in this core's second-level cache when the caller chose the blocks well. Pixels outside the image are left out of
// the sums instead of being padded, so that NaN and infinity in `g` reach only what they should.
#include "weights_gradient.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "microkernel.h"
#include "transpose.h"

namespace nnx {
namespace {

constexpr int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The integers that the caller gives; the same as nnaccel_backend_x86.weights_gradient.GradientDims.
struct Dims {
    int64_t images, height, width, channels, out_height, out_width, out_channels;
    int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
    int64_t g_stride, x_stride;  // elements between pixels
    int64_t outer, inner;        // output and input channels of a task; `inner` is a multiple of PANEL
    int64_t rows;                // output rows of a band: of one image, or all rows of some images
};

// Where an image has few channels, all that a window sees stands for the channels of one pixel: then `Dims` are those of a 1x1
// window, and these the real ones (nnaccel_backend_x86.weights_gradient.joined_from).
struct Joined {
    int64_t in_height, in_width, in_channels, window_height, window_width;
    int64_t step_y, step_x, spread_y, spread_x, margin_y, margin_x;  // stride, dilation, padding
};

// Along one axis: output position i saw input position i * stride + k * dilation - pad. Input positions are gathered by phase (their
// remainder by the stride), so that neighboring outputs see neighboring entries: entry i + k * dilation / stride of its phase.
struct Axis {
    int64_t stride, dilation, pad, extent, taps;

    int64_t phase(int64_t k) const { return k * dilation % stride; }
    int64_t shift(int64_t k) const { return k * dilation / stride; }
    int64_t most_shift() const { return shift(taps - 1); }
    // The number of a phase among those in use, and how many there are.
    int64_t slot(int64_t phase) const {
        int64_t found = 0;
        for (int64_t f = 0; f < phase; ++f) found += used(f);
        return found;
    }
    int64_t slots() const { return slot(stride); }
    bool used(int64_t f) const {
        for (int64_t k = 0; k < taps; ++k)
            if (phase(k) == f) return true;
        return false;
    }
    // Input position of an entry, which may lie outside; and the entries [first, last) of a phase that lie inside.
    int64_t position(int64_t entry, int64_t phase) const { return entry * stride + phase - pad; }
    int64_t first_entry(int64_t phase) const { return pad > phase ? (pad - phase + stride - 1) / stride : 0; }
    int64_t last_entry(int64_t phase, int64_t end) const {
        int64_t high = extent - 1 + pad - phase;
        return high < 0 ? 0 : std::min(end, high / stride + 1);
    }
    // Outputs [first, last) of [begin, end) for which element k lies inside.
    int64_t first(int64_t k, int64_t begin) const {
        int64_t low = pad - k * dilation;
        return std::max(begin, low > 0 ? (low + stride - 1) / stride : 0);
    }
    int64_t last(int64_t k, int64_t end) const {
        int64_t high = extent - 1 + pad - k * dilation;
        return high < 0 ? 0 : std::min(end, high / stride + 1);
    }
};

// Pixels packed at a time; and pixels ahead that are asked for: some channels of each lie too far apart for the hardware to guess.
constexpr int64_t PACKED = 8, AHEAD = 16;

inline void prefetch(const float *from, int64_t count) {
    for (int64_t c = 0; c < count; c += PANEL) __builtin_prefetch(from + c);
}

template <int R>
void copy(const float *from, int64_t stride, int64_t count, float *to) {
    for (int64_t i = 0; i < count; ++i) std::memcpy(to + i * R, from + i * stride, R * sizeof(float));
}

// `rows` neighboring elements, 1..MOST_ROWS, of each of `count` pixels.
void copy_rows(int64_t rows, const float *from, int64_t stride, int64_t count, float *to) {
    constexpr decltype(&copy<1>) BY_ROWS[] = {nullptr, copy<1>, copy<2>, copy<3>, copy<4>,  copy<5>,  copy<6>,
                                              copy<7>, copy<8>, copy<9>, copy<10>, copy<11>, copy<12>};
    static_assert(sizeof BY_ROWS / sizeof *BY_ROWS == MOST_ROWS + 1);
    BY_ROWS[rows](from, stride, count, to);
}

class Gradient {
public:
    Gradient(void **buffers, const Dims &dims, const Joined *joined, uint8_t *scratch)
        : d_(dims),
          joined_(joined),
          kernels_(micro_kernels()),
          y_{d_.stride_y, d_.dilation_y, d_.pad_y, d_.height, d_.kernel_height},
          x_{d_.stride_x, d_.dilation_x, d_.pad_x, d_.width, d_.kernel_width} {
        g_from_ = static_cast<const float *>(buffers[0]);
        x_from_ = static_cast<const float *>(buffers[1]);
        to_ = static_cast<float *>(buffers[2]);
        taps_ = d_.kernel_height * d_.kernel_width;
        const int64_t together = std::max<int64_t>(1, d_.rows / d_.out_height), rows = std::min(d_.rows, d_.out_height);
        line_ = d_.out_width + x_.most_shift();
        slot_rows_ = rows + y_.most_shift();
        columns_ = x_.slots();
        image_ = y_.slots() * slot_rows_ * columns_ * line_ * PANEL;
        panel_ = together * image_;
        pixels_ = d_.rows * d_.out_width;
        auto *at = reinterpret_cast<float *>(scratch);
        sums_ = at, at += taps_ * d_.outer * d_.inner;
        g_ = at, at += up(d_.outer * pixels_, PANEL) + d_.outer * PANEL;
        panels_ = at, at += d_.inner / PANEL * panel_;
        left_ = reinterpret_cast<const float **>(at);
        right_ = left_ + d_.rows;
        pixel_ = reinterpret_cast<int64_t *>(right_ + taps_ * d_.rows);
        counts_ = pixel_ + taps_ * d_.rows;
        runs_ = counts_ + taps_;
        seen_.resize(joined_ ? size_t(up(d_.channels, PANEL)) : 0);
        for (int64_t tap = 0; tap < taps_; ++tap) {
            const int64_t kx = tap % d_.kernel_width;
            runs_[tap] = x_.last(kx, d_.out_width) - x_.first(kx, 0);
        }
        tile_ = reinterpret_cast<Tile *>(runs_ + taps_);
    }

    void task(int64_t index) {
        const int64_t blocks = (d_.channels + d_.inner - 1) / d_.inner;
        out_ = index / blocks * d_.outer, outs_ = std::min(d_.outer, d_.out_channels - out_);
        in_ = index % blocks * d_.inner, ins_ = std::min(d_.inner, d_.channels - in_);
        tiles_ = 0;
        for (int64_t o = 0, rows; o < outs_; o += rows, ++tiles_) {
            rows = next_rows(outs_ - o, kernels_.rows);
            // A line more for each tile: a multiple of the page apart they would share few sets of the first-level cache.
            tile_[tiles_] = {o, rows, g_ + o * pixels_ + tiles_ * PANEL};
        }
        std::memset(sums_, 0, size_t(taps_ * d_.outer * up(ins_, PANEL)) * sizeof(float));
        if (d_.rows >= d_.out_height) {
            const int64_t together = d_.rows / d_.out_height;
            for (int64_t n = 0; n < d_.images; n += together) band(n, std::min(d_.images, n + together), 0, d_.out_height);
        } else {
            for (int64_t n = 0; n < d_.images; ++n)
                for (int64_t row = 0; row < d_.out_height; row += d_.rows)
                    band(n, n + 1, row, std::min(d_.out_height, row + d_.rows));
        }
        if (!joined_)
            finish();
        else if (!finish_joined())
            by_definition();
    }

private:
    // Output rows [begin, end) of images [first, last).
    void band(int64_t first, int64_t last, int64_t begin, int64_t end) {
        const int64_t rows = end - begin, pixels = (last - first) * rows * d_.out_width;
        const float *g = g_from_ + (first * d_.out_height + begin) * d_.out_width * d_.g_stride + out_;
        pack(g, pixels);
        for (int64_t n = first; n < last; ++n) {
            float *to = panels_ + (n - first) * image_;
            if (joined_)
                join(n, begin, rows, to);
            else
                gather(n, begin, rows, to);
        }
        for (int64_t ky = 0; ky < d_.kernel_height; ++ky) {
            const int64_t from = y_.first(ky, begin), to = y_.last(ky, end), slot = y_.slot(y_.phase(ky)), shift = y_.shift(ky);
            for (int64_t kx = 0; kx < d_.kernel_width; ++kx) {
                const int64_t tap = ky * d_.kernel_width + kx, left = x_.first(kx, 0);
                const int64_t column = x_.slot(x_.phase(kx)) * line_ + x_.shift(kx) + left;
                int64_t count = 0;
                for (int64_t n = 0; n < last - first; ++n)
                    for (int64_t row = from; row < to; ++row, ++count) {
                        const int64_t entry = slot * slot_rows_ + row - begin + shift;
                        right_[tap * d_.rows + count] = panels_ + n * image_ + (entry * columns_ * line_ + column) * PANEL;
                        pixel_[tap * d_.rows + count] = (n * rows + row - begin) * d_.out_width + left;
                    }
                counts_[tap] = count;
            }
        }
        products();
    }

    // A band of `g`: one register tile of output channels after the other, each pixel by pixel.
    void pack(const float *g, int64_t pixels) const {
        // Some pixels at a time, whose channels are read from the first-level cache by all tiles but the first.
        for (int64_t i = 0; i < pixels; i += PACKED) {
            const int64_t count = std::min(PACKED, pixels - i);
            for (int64_t j = 0; j < PACKED; ++j) prefetch(g + (i + AHEAD + j) * d_.g_stride, outs_);
            for (int64_t t = 0; t < tiles_; ++t)
                copy_rows(tile_[t].rows, g + i * d_.g_stride + tile_[t].first, d_.g_stride, count, tile_[t].g + i * tile_[t].rows);
        }
    }

    // The input pixels that output rows [begin, begin + rows) of an image saw, as panels of channels.
    void gather(int64_t image, int64_t begin, int64_t rows, float *to) const {
        for (int64_t fy = 0, slot = 0; fy < d_.stride_y; ++fy) {
            if (!y_.used(fy)) continue;
            for (int64_t i = 0; i < rows + y_.most_shift(); ++i) {
                const int64_t row = y_.position(begin + i, fy);
                if (row < 0 || row >= d_.height) continue;  // never read
                const float *from = x_from_ + (image * d_.height + row) * d_.width * d_.x_stride + in_;
                line(from, to + (slot * slot_rows_ + i) * columns_ * line_ * PANEL);
            }
            ++slot;
        }
    }

    void line(const float *from, float *to) const {
        for (int64_t fx = 0; fx < d_.stride_x; ++fx) {
            if (!x_.used(fx)) continue;
            for (int64_t j = x_.first_entry(fx), end = x_.last_entry(fx, line_); j < end; ++j) {
                const float *pixel = from + x_.position(j, fx) * d_.x_stride;
                float *put = to + j * PANEL;
                prefetch(pixel + AHEAD * d_.stride_x * d_.x_stride, ins_);
                int64_t c = 0;
                for (; c + PANEL <= ins_; c += PANEL, put += panel_) std::memcpy(put, pixel + c, PANEL * sizeof(float));
                if (c < ins_) {
                    std::memset(put, 0, PANEL * sizeof(float));
                    std::memcpy(put, pixel + c, size_t(ins_ - c) * sizeof(float));
                }
            }
            to += line_ * PANEL;
        }
    }

    // What the windows of output rows [begin, begin + rows) of an image see, zeros outside of it, as panels.
    void join(int64_t image, int64_t begin, int64_t rows, float *to) {
        const int64_t c = joined_->in_channels, run = joined_->window_width * c, row_step = joined_->in_width * d_.x_stride;
        const float *from = x_from_ + image * joined_->in_height * row_step;
        for (int64_t row = begin; row < begin + rows; ++row)
            for (int64_t ox = 0; ox < d_.out_width; ++ox, to += PANEL) {
                const int64_t left = ox * joined_->step_x - joined_->margin_x, top = row * joined_->step_y - joined_->margin_y;
                const bool inside =
                    joined_->spread_x == 1 && d_.x_stride == c && left >= 0 && left + joined_->window_width <= joined_->in_width;
                for (int64_t ky = in_ / run; ky * run < in_ + ins_; ++ky) {
                    float *put = seen_.data() + ky * run;
                    const int64_t y = top + ky * joined_->spread_y;
                    if (y < 0 || y >= joined_->in_height) {
                        std::memset(put, 0, size_t(run) * sizeof(float));
                    } else if (inside) {
                        std::memcpy(put, from + y * row_step + left * c, size_t(run) * sizeof(float));
                    } else {
                        for (int64_t kx = 0; kx < joined_->window_width; ++kx) {
                            const int64_t x = left + kx * joined_->spread_x;
                            if (x < 0 || x >= joined_->in_width)
                                std::memset(put + kx * c, 0, size_t(c) * sizeof(float));
                            else
                                std::memcpy(put + kx * c, from + y * row_step + x * d_.x_stride, size_t(c) * sizeof(float));
                        }
                    }
                }
                for (int64_t p = 0; p * PANEL < ins_; ++p)
                    std::memcpy(to + p * panel_, seen_.data() + in_ + p * PANEL, PANEL * sizeof(float));
            }
    }

    void products() {
        const int64_t panels = (ins_ + PANEL - 1) / PANEL, most = kernels_.columns / PANEL, sums = taps_ * d_.outer * PANEL;
        for (int64_t p = 0; p < panels; p += most) {
            const int64_t wide = std::min(most, panels - p);
            for (const Tile *t = tile_; t < tile_ + tiles_; ++t) {
                for (int64_t tap = 0; tap < taps_; ++tap) {
                    const int64_t k = runs_[tap], count = counts_[tap], *pixel = pixel_ + tap * d_.rows;
                    if (k <= 0 || count == 0) continue;
                    for (int64_t i = 0; i < count; ++i) left_[i] = t->g + pixel[i] * t->rows;
                    kernels_.by_rows[t->rows]({left_, right_ + tap * d_.rows, count, k, 1, panel_,
                                               sums_ + p * sums + (tap * d_.outer + t->first) * PANEL, PANEL, sums, wide * PANEL,
                                               true, t->rows});
                }
            }
            for (int64_t tap = 0; tap < taps_; ++tap)
                for (int64_t t = 0; t < counts_[tap]; ++t) right_[tap * d_.rows + t] += wide * panel_;
        }
    }

    // The sums, [panel][tap][output channel][PANEL], to the gradient, (output channel, input channel, tap).
    void finish() const {
        for (int64_t o = 0; o < outs_; ++o)
            for (int64_t c = 0; c < ins_; c += PANEL) {
                const float *from = sums_ + (c / PANEL * taps_ * d_.outer + o) * PANEL;
                float *to = to_ + ((out_ + o) * d_.channels + in_ + c) * taps_;
                transpose(from, d_.outer * PANEL, taps_, std::min(PANEL, ins_ - c), to, taps_);
            }
    }

    // The address of the gradient of input `column` of a window: (output channel, channel, window).
    float *result(int64_t o, int64_t column) const {
        const int64_t c = column % joined_->in_channels, tap = column / joined_->in_channels;
        return to_ + ((out_ + o) * joined_->in_channels + c) * joined_->window_height * joined_->window_width + tap;
    }

    // The sums to the gradient; false where one is not finite.
    bool finish_joined() const {
        float check = 0;
        for (int64_t o = 0; o < outs_; ++o)
            for (int64_t j = 0; j < ins_; ++j) {
                const float sum = sums_[(j / PANEL * d_.outer + o) * PANEL + j % PANEL];
                *result(o, in_ + j) = sum;
                check += sum * 0.0f;
            }
        return check == 0.0f;
    }

    // Without what lies outside, where zeros do not stand for it: NaN and infinity in `g` reach only what they should.
    void by_definition() const {
        std::vector<float> sums(static_cast<size_t>(outs_));
        for (int64_t column = in_; column < in_ + ins_; ++column) {
            const int64_t tap = column / joined_->in_channels, ky = tap / joined_->window_width, kx = tap % joined_->window_width;
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (int64_t n = 0; n < d_.images; ++n)
                for (int64_t oy = 0; oy < d_.out_height; ++oy) {
                    const int64_t y = oy * joined_->step_y + ky * joined_->spread_y - joined_->margin_y;
                    if (y < 0 || y >= joined_->in_height) continue;
                    for (int64_t ox = 0; ox < d_.out_width; ++ox) {
                        const int64_t x = ox * joined_->step_x + kx * joined_->spread_x - joined_->margin_x;
                        if (x < 0 || x >= joined_->in_width) continue;
                        const int64_t pixel = (n * joined_->in_height + y) * joined_->in_width + x;
                        const float seen = x_from_[pixel * d_.x_stride + column % joined_->in_channels];
                        const float *g = g_from_ + ((n * d_.out_height + oy) * d_.out_width + ox) * d_.g_stride + out_;
                        for (int64_t o = 0; o < outs_; ++o) sums[size_t(o)] += g[o] * seen;
                    }
                }
            for (int64_t o = 0; o < outs_; ++o) *result(o, column) = sums[size_t(o)];
        }
    }

    struct Tile {
        int64_t first, rows;  // output channels
        float *g;
    };

    const Dims &d_;
    const Joined *joined_;  // or null
    const MicroKernels &kernels_;
    const Axis y_, x_;
    const float *g_from_, *x_from_;
    float *to_;
    int64_t taps_, line_, slot_rows_, columns_, image_, panel_, pixels_;
    int64_t out_, outs_, in_, ins_;  // of the task: its first output channel and how many, likewise input channels
    float *sums_, *g_, *panels_;
    // Per tap and output row of the band: the first input pixel, its output pixel's number in the band; per tap how many rows, and
    // how many pixels of each.
    const float **left_, **right_;
    int64_t *pixel_, *counts_, *runs_;
    Tile *tile_;
    int64_t tiles_;
    std::vector<float> seen_;  // by one window, up to whole panels
};

}  // namespace

// Buffers: the result's gradient and the input, images of channels-last memory; the weights' gradient, row-major (output channels,
// input channels, window). Tasks: blocks of output channels by blocks of input channels, the latter fastest. Scratch: see
// nnaccel_backend_x86.weights_gradient.Blocks.scratch.
void weights_gradient(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    Gradient gradient(buffers, *reinterpret_cast<const Dims *>(dims), nullptr, scratch);
    for (int64_t i = begin; i < end; ++i) gradient.task(i);
}

// The same of joined windows: `Joined` follows `Dims`.
void joined_weights_gradient(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    const auto *joined = reinterpret_cast<const Joined *>(dims + sizeof(Dims) / sizeof(int64_t));
    Gradient gradient(buffers, *reinterpret_cast<const Dims *>(dims), joined, scratch);
    for (int64_t i = begin; i < end; ++i) gradient.task(i);
}

}  // namespace nnx
