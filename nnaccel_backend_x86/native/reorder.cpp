#include "reorder.h"

#include "transpose.h"

namespace nnx {
namespace {

// Few channels: all of a pixel at a time, so that memory is written in order.
template <int C>
void interleave(const float *from, int64_t plane, int64_t pixels, float *to) {
    for (int64_t i = 0; i < pixels; ++i)
        for (int c = 0; c < C; ++c) to[i * C + c] = from[c * plane + i];
}

template <int C>
void separate(const float *from, int64_t plane, int64_t pixels, float *to) {
    for (int64_t i = 0; i < pixels; ++i)
        for (int c = 0; c < C; ++c) to[c * plane + i] = from[i * C + c];
}

}  // namespace

// Copies images from (N, C, H, W) to channels last, or back. dims: channels, height, width, whether to channels last. A task is a row.
// Buffers: input, output.
void reorder_images(void **buffers, const int64_t *dims, uint8_t *, int64_t begin, int64_t end) {
    const int64_t channels = dims[0], height = dims[1], width = dims[2], plane = height * width;
    const auto *from = static_cast<const float *>(buffers[0]);
    auto *to = static_cast<float *>(buffers[1]);
    while (begin < end) {
        // Rows of one image follow one another.
        const int64_t image = begin / height, row = begin % height, rows = end - begin < height - row ? end - begin : height - row;
        const int64_t pixels = rows * width, first = image * channels * plane + row * width, last = (image * plane + row * width) * channels;
        begin += rows;
        if (dims[3]) {
            switch (channels) {
                case 2: interleave<2>(from + first, plane, pixels, to + last); break;
                case 3: interleave<3>(from + first, plane, pixels, to + last); break;
                case 4: interleave<4>(from + first, plane, pixels, to + last); break;
                default: transpose(from + first, plane, channels, pixels, to + last, channels);
            }
        } else {
            switch (channels) {
                case 2: separate<2>(from + last, plane, pixels, to + first); break;
                case 3: separate<3>(from + last, plane, pixels, to + first); break;
                case 4: separate<4>(from + last, plane, pixels, to + first); break;
                default: transpose(from + last, channels, pixels, channels, to + first, plane);
            }
        }
    }
}

}  // namespace nnx
