// The gradient of max pooling over channels-last images: each window gives its gradient to the first of its elements that equals the
// maximum, or, where that is NaN, to the last one that is NaN, as torch does. A task computes some rows of the gradient of one image;
// windows that reach into several tasks' rows are looked at by each of them.
#include "pooling.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "microkernel.h"

namespace nnx {
namespace {

// The integers that the caller gives; the same as nnaccel_backend_x86.pooling.PoolDims.
struct Dims {
    int64_t images, height, width, channels, out_height, out_width;
    int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
    int64_t bands;  // tasks of an image
};

// An element of a window: of the input, and of its gradient (null in rows of another task).
struct Tap {
    const float *x;
    float *dx;
};

// Channels [begin, end) of a window, one by one.
void elements(const Tap *taps, int64_t count, int64_t begin, int64_t end, const float *top, const float *g) {
    for (int64_t c = begin; c < end; ++c) {
        const bool nan = top[c] != top[c];
        const Tap *found = nullptr;
        for (const Tap *t = taps; t < taps + count; ++t) {
            if (nan ? t->x[c] != t->x[c] : found == nullptr && t->x[c] == top[c]) found = t;
        }
        if (found != nullptr && found->dx != nullptr) found->dx[c] += g[c];
    }
}

#define ISA_TEXT "pooling_isa.h"
#include "each_isa.h"

// Outputs [first, last) whose windows reach into inputs [begin, end) of an axis.
int64_t first_output(int64_t begin, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad) {
    const int64_t low = begin + pad - dilation * (kernel - 1);
    return low <= 0 ? 0 : (low + stride - 1) / stride;
}

}  // namespace

// Buffers: the input, its maxima, the gradient of these; the gradient of the input. All are images of channels-last memory. Tasks:
// images, each in bands of rows.
void max_pool_gradient(void **buffers, const int64_t *dims, uint8_t *, int64_t begin, int64_t end) {
    static const auto window = best_of(sse2::window, avx2::window, avx512::window);
    const Dims &d = *reinterpret_cast<const Dims *>(dims);
    const auto *x = static_cast<const float *>(buffers[0]), *top = static_cast<const float *>(buffers[1]);
    const auto *g = static_cast<const float *>(buffers[2]);
    auto *dx = static_cast<float *>(buffers[3]);
    std::vector<Tap> taps(size_t(d.kernel_height * d.kernel_width));
    const int64_t line = d.width * d.channels, rows = (d.height + d.bands - 1) / d.bands;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / d.bands, low = task % d.bands * rows, high = std::min(d.height, low + rows);
        if (low >= high) continue;
        const int64_t at = image * d.height * line;
        std::memset(dx + at + low * line, 0, size_t((high - low) * line) * sizeof(float));
        const int64_t last = std::min(d.out_height, (high - 1 + d.pad_y) / d.stride_y + 1);
        for (int64_t oy = first_output(low, d.kernel_height, d.stride_y, d.dilation_y, d.pad_y); oy < last; ++oy)
            for (int64_t ox = 0; ox < d.out_width; ++ox) {
                int64_t count = 0;
                for (int64_t ky = 0; ky < d.kernel_height; ++ky) {
                    const int64_t iy = oy * d.stride_y + ky * d.dilation_y - d.pad_y;
                    if (iy < 0 || iy >= d.height) continue;
                    for (int64_t kx = 0; kx < d.kernel_width; ++kx) {
                        const int64_t ix = ox * d.stride_x + kx * d.dilation_x - d.pad_x;
                        if (ix < 0 || ix >= d.width) continue;
                        const int64_t offset = at + iy * line + ix * d.channels;
                        taps[size_t(count++)] = {x + offset, iy >= low && iy < high ? dx + offset : nullptr};
                    }
                }
                const int64_t out = ((image * d.out_height + oy) * d.out_width + ox) * d.channels;
                window(taps.data(), count, d.channels, top + out, g + out);
            }
    }
}

}  // namespace nnx
