#include "product.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "epilogue.h"
#include "microkernel.h"

namespace nnx {
namespace {

// Columns of the widest tile of any instruction set.
constexpr int64_t SPAN = 2 * PANEL;

// One tile's work. `a`: addresses of rows, per tap `a_step` entries apart; `first`: where in each row the sum begins.
struct Tile {
    const float *const *a;
    int64_t a_step, first, taps, k;
    const float *b;      // panel: [taps][k][PANEL]
    int64_t panel;       // elements from one panel to the next
    const float *ahead;  // as much of what B will be next, to be fetched meanwhile
    const float *start;  // partial sums to go on from, [rows][SPAN], or null
    float *partial;      // where to put partial sums, or null: finish
    const Epilogue *epilogue;
    int64_t row, column, columns;  // of the output; nothing beyond `columns` is written
    float *out;
    int64_t out_stride;
};

// GROUP: weight rows that pass by each chunk of few input rows together. One or two (MOST_WHOLE) rows are read whole, and weights in
// RUNS runs side by side, TURN rows of each between finishing their sums.
constexpr int MOST_TILE_ROWS = 14, MOST_DOTS = 8, GROUP = 24, MOST_WHOLE = 2, RUNS = 4, TURN = 16;
static_assert(RUNS * TURN * MOST_WHOLE <= GROUP * MOST_DOTS, "sums of all runs' rows have the room of a group's");

struct Tiles {
    int64_t width;  // columns
    int rows;       // most rows
    void (*by_rows[MOST_TILE_ROWS + 1])(const Tile &);
};

struct Rows {
    void (*by_rows[MOST_DOTS + 1])(const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t k, int64_t rows,
                                   const float *next, float *sums);
    void (*runs[MOST_WHOLE + 1])(const float *x, const float *w, int64_t w_stride, int64_t k, int64_t rows, float *sums);
};

struct Kernels {
    Tiles wide, narrow;  // narrow: for the last columns
    int64_t vector;      // floats
    Rows rows;
    void (*finish_rows)(const float *sums, int64_t apart, int64_t m, int64_t rows, const Epilogue &e, int64_t row, int64_t column,
                        float *out, int64_t out_stride);
    void (*prologue)(const float *const *from, int64_t rows, int64_t k, const float *scale, const float *shift, bool relu, float *to,
                     int64_t to_stride);
};

// 12 of 16 registers hold sums, two hold B.
namespace sse2 {
#define TARGET
#define VEC __m128
#define WIDTH 4
#define WIDE 2
#define ROWS 6
#define NARROW 6
#define BROADCAST(address) _mm_set1_ps(*(address))
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#include "product_isa.h"
#include "product_undef.h"
}  // namespace sse2

// A narrow tile has 12 rows: a tile of six would wait for its own sums.
namespace avx2 {
#define TARGET __attribute__((target("avx2,fma")))
#define VEC __m256
#define WIDTH 8
#define WIDE 2
#define ROWS 6
#define NARROW 12
#define BROADCAST(address) _mm256_broadcast_ss(address)
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#include "product_isa.h"
#include "product_undef.h"
}  // namespace avx2

// A tile spans two panels: one vector a row would load as much as it computes (14 x 16: 78 % of peak, 12 x 32: 97 %).
namespace avx512 {
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define VEC __m512
#define WIDTH 16
#define WIDE 2
#define ROWS 12
#define NARROW 14
#define BROADCAST(address) _mm512_set1_ps(*(address))
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#include "product_isa.h"
#include "product_undef.h"
}  // namespace avx512

const Kernels &kernels() {
    static const Kernels &best = []() -> const Kernels & {
        const char *isa = micro_kernels().isa;
        if (!std::strcmp(isa, "avx512")) return avx512::kernels;
        return std::strcmp(isa, "avx2") ? sse2::kernels : avx2::kernels;
    }();
    return best;
}

float number(int64_t bits) {
    float x;
    int32_t low = int32_t(bits);
    std::memcpy(&x, &low, sizeof x);
    return x;
}

// dims of `product`, one for each name in this order; the same as nnaccel_backend_x86.products.ProductDims.
struct ProductDims {
    int64_t images, in_height, in_width, channels;  // input; a matrix has height 1
    int64_t out_height, out_width, columns;         // output
    int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
    int64_t in_stride, out_stride, residual_stride;  // elements between neighboring pixels
    int64_t row_blocks, column_blocks;               // tasks: all pairs, columns fastest
    int64_t chunk;                                   // elements of a panel's column that stay in the first-level cache
    int64_t has_scale, has_shift, prologue_relu;     // of input channels, for 1x1 only
    int64_t has_bias, has_residual, activation, alpha, beta;
    int64_t joined;  // a row of a window is one tap, of kernel_width * channels: in_stride is channels, and dilation_x is 1
};

// Addresses of the input pixels of output pixels [begin, end), per tap; `zeros` stands for pixels outside.
void gather(const ProductDims &d, const float *x, int64_t begin, int64_t end, const float *zeros, const float **rows) {
    const int64_t count = end - begin, plane = d.out_height * d.out_width;
    for (int64_t i = 0; i < count;) {
        const int64_t at = begin + i, image = at / plane, oy = at % plane / d.out_width, ox = at % d.out_width;
        const int64_t run = std::min(count - i, d.out_width - ox);
        const float *base = x + image * d.in_height * d.in_width * d.in_stride;
        for (int64_t ky = 0; ky < d.kernel_height; ++ky) {
            const int64_t y = oy * d.stride_y + ky * d.dilation_y - d.pad_y;
            const bool inside = y >= 0 && y < d.in_height;
            for (int64_t kx = 0; kx < d.kernel_width; ++kx) {
                const float **to = rows + (ky * d.kernel_width + kx) * count + i;
                int64_t column = ox * d.stride_x + kx * d.dilation_x - d.pad_x;
                for (int64_t j = 0; j < run; ++j, column += d.stride_x)
                    to[j] = inside && column >= 0 && column < d.in_width ? base + (y * d.in_width + column) * d.in_stride : zeros;
            }
        }
        i += run;
    }
}

// The same where a row of a window is one tap. `edges` takes a copy of each that begins or ends outside of the image.
void gather_joined(const ProductDims &d, const float *x, int64_t begin, int64_t end, const float *zeros, float *edges, const float **rows) {
    const int64_t count = end - begin, plane = d.out_height * d.out_width, depth = d.kernel_width * d.channels;
    // Windows of output columns [inside, beyond) lie in the image.
    const int64_t inside = (d.pad_x + d.stride_x - 1) / d.stride_x, last = d.in_width + d.pad_x - d.kernel_width;
    const int64_t beyond = last < 0 ? 0 : last / d.stride_x + 1;
    for (int64_t i = 0; i < count;) {
        const int64_t at = begin + i, image = at / plane, oy = at % plane / d.out_width, ox = at % d.out_width;
        const int64_t run = std::min(count - i, d.out_width - ox);
        for (int64_t ky = 0; ky < d.kernel_height; ++ky) {
            const int64_t y = oy * d.stride_y + ky * d.dilation_y - d.pad_y;
            const float **to = rows + ky * count + i;
            if (y < 0 || y >= d.in_height) {
                for (int64_t j = 0; j < run; ++j) to[j] = zeros;
                continue;
            }
            const float *row = x + (image * d.in_height + y) * d.in_width * d.channels;
            for (int64_t j = 0; j < run; ++j) {
                const int64_t left = (ox + j) * d.stride_x - d.pad_x;
                to[j] = row + left * d.channels;
                if (ox + j >= inside && ox + j < beyond) continue;
                const int64_t low = std::max<int64_t>(left, 0), high = std::min(left + d.kernel_width, d.in_width);
                to[j] = zeros;
                if (low >= high) continue;
                std::memset(edges, 0, size_t(depth) * sizeof(float));
                std::memcpy(edges + (low - left) * d.channels, row + low * d.channels, size_t((high - low) * d.channels) * sizeof(float));
                to[j] = edges;
                edges += depth;
            }
        }
        i += run;
    }
}

// A product with its operands, and the calling thread's scratch memory.
class Product {
public:
    Product(void **buffers, const int64_t *dims, uint8_t *scratch);
    // Output pixels [from, from + count), of columns [begin, end) in spans: neighbors in `rows` keep what was made of them.
    void run(int64_t from, int64_t count, int64_t begin, int64_t end);

    ProductDims d;
    const Kernels &k = kernels();
    int64_t pixels, span, spans;  // a span: columns that pass by a block of rows together

private:
    void prepare(int64_t from, int64_t count);

    const float *x, *weights, *scale, *shift;
    Epilogue e;
    float *out, *zeros, *sums, *prepared;
    const float **rows;
    int64_t taps, depth, first_row = -1;  // depth: of a tap
};

Product::Product(void **buffers, const int64_t *dims, uint8_t *scratch) {
    std::memcpy(&d, dims, sizeof d);
    int next = 0;
    x = static_cast<const float *>(buffers[next++]);
    weights = static_cast<const float *>(buffers[next++]);
    auto optional = [&](int64_t has) { return has ? static_cast<const float *>(buffers[next++]) : nullptr; };
    e.bias = optional(d.has_bias);
    scale = optional(d.has_scale);
    shift = optional(d.has_shift);
    e.residual = optional(d.has_residual);
    e.residual_stride = d.residual_stride;
    e.activation = d.activation;
    e.alpha = number(d.alpha);
    e.beta = number(d.beta);
    out = static_cast<float *>(buffers[next]);

    pixels = d.images * d.out_height * d.out_width;
    taps = d.kernel_height * (d.joined ? 1 : d.kernel_width);
    depth = d.channels * (d.joined ? d.kernel_width : 1);
    span = std::max(PANEL, k.wide.width);
    spans = (d.columns + span - 1) / span;
    const int64_t most = (pixels + d.row_blocks - 1) / d.row_blocks + MOST_TILE_ROWS;
    rows = reinterpret_cast<const float **>(scratch);
    zeros = reinterpret_cast<float *>(scratch + (most * taps * sizeof(float *) + 63) / 64 * 64);
    sums = zeros + (depth + PANEL - 1) / PANEL * PANEL;
    prepared = sums + most * SPAN;
    std::memset(zeros, 0, size_t(depth) * sizeof(float));
}

// Addresses of the input pixels, after the prologue where there is one.
void Product::prepare(int64_t from, int64_t count) {
    if (d.joined)
        gather_joined(d, x, from, from + count, zeros, prepared, rows);
    else
        gather(d, x, from, from + count, zeros, rows);
    if (scale || shift || d.prologue_relu) {
        // Rows a power of two apart would share few sets of the first-level cache.
        const int64_t stride = d.channels + PANEL;
        k.prologue(rows, count, d.channels, scale, shift, d.prologue_relu != 0, prepared, stride);
        for (int64_t i = 0; i < count; ++i) rows[i] = prepared + i * stride;
    }
    first_row = from;
}

void Product::run(int64_t from, int64_t count, int64_t begin, int64_t end) {
    if (count == 0) return;
    if (from != first_row) prepare(from, count);
    // A chunk is some taps, or a part of one.
    const int64_t parts = (depth + d.chunk - 1) / d.chunk, part = (depth + parts - 1) / parts;
    const int64_t together = parts > 1 ? 1 : std::max<int64_t>(1, d.chunk / depth), panel = taps * depth * PANEL;
    for (int64_t s = begin; s < end; ++s) {
        const int64_t column = s * span, width = std::min(span, d.columns - column);
        const float *b = weights + column / PANEL * panel;
        for (int64_t tap = 0; tap < taps; tap += together) {
            for (int64_t first = 0; first < depth; first += part) {
                Tile t;
                t.a_step = count;
                t.first = first;
                t.taps = std::min(together, taps - tap);
                t.k = std::min(part, depth - first);
                t.epilogue = &e;
                t.out = out;
                t.out_stride = d.out_stride;
                const bool finishing = tap + together >= taps && first + part >= depth;
                // Weights come from far: the first two tiles of a chunk fetch a panel each of the chunk that follows.
                const float *now = b + (tap * depth + first) * PANEL;
                const float *next_chunk = !finishing ? now + t.taps * t.k * PANEL : s + 1 < end ? b + span / PANEL * panel : now;
                for (int64_t c = 0; c < width;) {
                    const Tiles &tiles = width - c > k.narrow.width ? k.wide : k.narrow;
                    t.b = now + c;
                    t.panel = panel;
                    t.column = column + c;
                    t.columns = width - c;
                    for (int64_t i = 0, n, turn = 0; i < count; i += n, ++turn) {
                        n = next_rows(count - i, tiles.rows);
                        t.a = rows + tap * count + i;
                        t.row = from + i;
                        t.ahead = turn == 0 ? next_chunk : turn == 1 && tiles.width > PANEL ? next_chunk + panel : now;
                        float *sum = sums + i * SPAN + c;
                        t.start = tap + first > 0 ? sum : nullptr;
                        t.partial = finishing ? nullptr : sum;
                        tiles.by_rows[n](t);
                    }
                    c += tiles.width;
                }
            }
        }
    }
}

}  // namespace

// Convolution or product with packed weights, as ProductDims says. Buffers: input [pixels][in_stride], packed weights
// [columns / PANEL][taps][channels][PANEL], then where has_... says so bias, scale, shift, residual; then the output.
// Scratch, with P the most pixels of a task (its share, and MOST_TILE_ROWS): addresses, P * taps; a row of zeros;
// partial sums, P * SPAN; with a prologue, P rows; with joined taps, those that cross an edge.
void product(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    Product p(buffers, dims, scratch);
    // Blocks of rows end with a tile where that moves their ends by little: tiles of all rows are the fastest.
    const int64_t blocks = p.d.row_blocks, height = p.pixels >= 2 * p.k.wide.rows * blocks ? p.k.wide.rows : 1;
    auto start_of = [&](int64_t block) {
        return block == blocks ? p.pixels : (p.pixels * block / blocks + height / 2) / height * height;
    };
    for (int64_t task = begin; task < end; ++task) {
        const int64_t block = task / p.d.column_blocks, which = task % p.d.column_blocks, from = start_of(block);
        p.run(from, start_of(block + 1) - from, p.spans * which / p.d.column_blocks, p.spans * (which + 1) / p.d.column_blocks);
    }
}

// The same, where a task is a pixel of the output: at most a block's share of them in a call.
void product_pixels(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    Product p(buffers, dims, scratch);
    p.run(begin, end - begin, 0, p.spans);
}

// Products of few rows with weights that are read once, where they lie: (columns, channels), row-major. dims: rows, columns,
// channels, in_stride, out_stride, residual_stride, blocks of columns (tasks), chunk (channels of up to 8 rows that stay in the
// first-level cache; or all of them, as always for up to MOST_WHOLE rows), has_bias, has_residual, activation, alpha, beta.
// Buffers: input, weights, bias, residual, output. Scratch: the input, [chunks][rows][chunk]; then sums of GROUP weight rows for
// each MOST_DOTS rows, which is also room for those of RUNS * TURN for MOST_WHOLE.
void rows_product(void **buffers, const int64_t *dims, uint8_t *scratch, int64_t begin, int64_t end) {
    const int64_t m = dims[0], n = dims[1], k = dims[2], in_stride = dims[3], out_stride = dims[4], blocks = dims[6], chunk = dims[7];
    int next = 0;
    const auto *x = static_cast<const float *>(buffers[next++]);
    const auto *w = static_cast<const float *>(buffers[next++]);
    Epilogue e;
    if (dims[8]) e.bias = static_cast<const float *>(buffers[next++]);
    if (dims[9]) e.residual = static_cast<const float *>(buffers[next++]);
    e.residual_stride = dims[5];
    e.activation = dims[10];
    e.alpha = number(dims[11]);
    e.beta = number(dims[12]);
    auto *out = static_cast<float *>(buffers[next]);
    // Rows of x a multiple of the page apart would share few sets of the first-level cache: chunk by chunk they do not.
    auto *packed = reinterpret_cast<float *>(scratch);
    auto *sums = packed + (m * k + 15) / 16 * 16;
    for (int64_t first = 0; first < k; first += chunk)
        for (int64_t i = 0; i < m; ++i) {
            const int64_t width = std::min(chunk, k - first);
            std::memcpy(packed + m * first + i * width, x + i * in_stride + first, size_t(width) * sizeof(float));
        }
    const Kernels &kernel = kernels();
    const int64_t vector = kernel.vector, sets = MOST_DOTS * vector * GROUP;
    const int64_t from = n * begin / blocks, to = n * end / blocks;
    // Each run of weights is read in order to its end, across rows: what the processor fetches ahead by itself is then never in vain.
    int64_t rest = from;
    if (m <= MOST_WHOLE) {
        const int64_t run = (to - from) / RUNS, apart = m * vector;
        for (int64_t j = 0; j < run; j += TURN) {
            const int64_t count = std::min<int64_t>(TURN, run - j);
            kernel.rows.runs[m](packed, w + (from + j) * k, run * k, k, count, sums);
            for (int64_t r = 0; r < RUNS; ++r)
                kernel.finish_rows(sums + r * apart, RUNS * apart, m, count, e, 0, from + r * run + j, out, out_stride);
        }
        rest += RUNS * run;
    }
    for (int64_t j = rest; j < to; j += GROUP) {
        const int64_t count = std::min<int64_t>(GROUP, to - j);
        std::memset(sums, 0, size_t((m + MOST_DOTS - 1) / MOST_DOTS * sets) * sizeof(float));
        for (int64_t first = 0; first < k; first += chunk) {
            const int64_t width = std::min(chunk, k - first);
            const float *at = w + j * k + first;
            // What comes after this chunk: the next one of these rows, or the first one of the next rows.
            const float *after = first + chunk < k ? at + chunk : j + GROUP < to ? w + (j + GROUP) * k : at;
            for (int64_t i = 0; i < m; i += MOST_DOTS)
                kernel.rows.by_rows[std::min<int64_t>(MOST_DOTS, m - i)](packed + m * first + i * width, width, at, k, width, count, after,
                                                                        sums + i / MOST_DOTS * sets);
        }
        for (int64_t i = 0; i < m; i += MOST_DOTS)
            kernel.finish_rows(sums + i / MOST_DOTS * sets, MOST_DOTS * vector, std::min<int64_t>(MOST_DOTS, m - i), count, e, i, j,
                               out, out_stride);
    }
}

// Copies parts into slices of each row of a wider tensor. dims: rows, blocks of rows (tasks), elements between rows of the output,
// how many parts, then per part: elements between its rows, elements of a row, and where in the output's row they go. Buffers: parts, output.
void concat(void **buffers, const int64_t *dims, uint8_t *, int64_t begin, int64_t end) {
    const int64_t rows = dims[0], blocks = dims[1], out_stride = dims[2], parts = dims[3];
    auto *out = static_cast<float *>(buffers[parts]);
    for (int64_t i = rows * begin / blocks; i < rows * end / blocks; ++i)
        for (int64_t p = 0; p < parts; ++p) {
            const int64_t *d = dims + 4 + 3 * p;
            const float *from = static_cast<const float *>(buffers[p]) + i * d[0];
            std::memcpy(out + i * out_stride + d[2], from, size_t(d[1]) * sizeof(float));
        }
}

}  // namespace nnx
