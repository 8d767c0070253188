// Convolutions with at most four input channels (a network's first layer), and gradients of their weights, on tensor cores.
//
// Products in libraries want many channels: with three, most of what they load is padding. Here a block keeps the pixels that a tile
// of the output needs in shared memory, four channels each, and multiplies one tap of the window (4 of K) after the other, so that
// the image is read once and nothing is unfolded in memory. `stems.py` puts the constants in front of this text.
//
// Fragments of mma.sync are as in the PTX manual (warp-level matrix instructions); g = lane / 4 and t = lane % 4 below.

#include "numbers.cu"

constexpr int ROWS = (TH - 1) * SH + (KH - 1) * DH + 1, COLUMNS = (TW - 1) * SW + (KW - 1) * DW + 1;
// Columns are sorted by their remainder modulo the stride: neighbours in the output are neighbours in shared memory.
constexpr int RUN = (COLUMNS + SW - 1) / SW, TAPS = KH * KW, THREADS = 256;

// Columns in their order, one more for pairs of taps. Pairs start at multiples of 16 bytes: for odd strides, every other column finds
// its pairs in a second copy, one pixel further, which lies in other banks of shared memory.
constexpr int LINE_OF_PIXELS = (COLUMNS + 2) / 2 * 2, COPIES = SW % 2 ? 2 : 1;
constexpr int SECOND = (ROWS * LINE_OF_PIXELS + 15) / 16 * 16 + 8;

__device__ constexpr int tap_at(int tap) {
  return (tap / KW * DH * SW + tap % KW * DW % SW) * RUN + tap % KW * DW / SW;
}

__device__ inline float tf32(float v) {
  word r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return __uint_as_float(r);
}

typedef Stored<X_KIND>::type x_type;
typedef Stored<W_KIND>::type w_type;
typedef Stored<Y_KIND>::type y_type;

struct Image { int n, h, w, oh, ow; long long sn, sc, sh, sw; };
// As kernels are given it.
#define IMAGE const long long in, const long long ih, const long long iw, const long long ioh, const long long iow, \
              const long long isn, const long long isc, const long long ish, const long long isw
#define IMAGE_GIVEN {(int)in, (int)ih, (int)iw, (int)ioh, (int)iow, isn, isc, ish, isw}

// The pixels under the tile that starts at output row `top`, column `left`; zeros outside the image.
// As TF32 a pixel is four words, as 16-bit numbers two. LINEAR: columns in their order; COPIES as below.
template <bool WIDE, bool LINEAR = false> __device__ inline void load_pixels(word* pixels, const x_type* x, const Image& s, int top, int left) {
  constexpr int AT_ONCE = 6;
  const int y0 = top * SH - PH, x0 = left * SW - PW;
  for (int start = threadIdx.x; start < ROWS * COLUMNS; start += AT_ONCE * THREADS) {
    float v[AT_ONCE][4];
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
      const int p = start + k * THREADS, row = p / COLUMNS, column = p % COLUMNS, ih = y0 + row, iw = x0 + column;
      const bool there = p < ROWS * COLUMNS && (unsigned)ih < (unsigned)s.h && (unsigned)iw < (unsigned)s.w;
      const x_type* at = x + ih * s.sh + iw * s.sw;
#pragma unroll
      for (int c = 0; c < 4; ++c) v[k][c] = c < C && there ? load<X_KIND>(at + c * s.sc) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
      const int p = start + k * THREADS, row = p / COLUMNS, column = p % COLUMNS;
      if (p >= ROWS * COLUMNS) break;
      const int at = LINEAR ? row * LINE_OF_PIXELS + column : (row * SW + column % SW) * RUN + column / SW;
      if constexpr (LINEAR && COPIES == 2)
        if (column) ((uint2*)pixels)[SECOND + at - 1] = make_uint2(pack<MATH>(v[k][0], v[k][1]), pack<MATH>(v[k][2], v[k][3]));
      if constexpr (WIDE) ((float4*)pixels)[at] = make_float4(tf32(v[k][0]), tf32(v[k][1]), tf32(v[k][2]), tf32(v[k][3]));
      else ((uint2*)pixels)[at] = make_uint2(pack<MATH>(v[k][0], v[k][1]), pack<MATH>(v[k][2], v[k][3]));
    }
  }
}

__device__ inline void multiply_tf32(float* c, const word* a, word b0, word b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void multiply(float* c, const word* a, word b0, word b1) {
  if constexpr (MATH == 0) multiply_tf32(c, a, b0, b1);
  else if constexpr (MATH == 1)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#ifdef FORWARD
// A block multiplies 256 pixels, 32 by each warp, with 8 * NT output channels.
constexpr int STEP = MATH ? 4 : 2, STEPS = (TAPS + STEP - 1) / STEP;  // taps of one mma
constexpr int QUADS = (NT + 1) / 2, WORDS = MATH ? 2 : 4;
// Channels are dealt out so that the results which a thread holds of GROUP tiles of 8 lie side by side: 16 bytes.
constexpr int GROUP = NT % (Y_KIND ? 4 : 2) == 0 ? (Y_KIND ? 4 : 2) : NT % 2 == 0 ? 2 : 1;

__device__ inline int channel(int tile, int n) {
  return tile / GROUP * 8 * GROUP + n / 2 * 2 * GROUP + tile % GROUP * 2 + n % 2;
}

__device__ inline float weight(const w_type* w, int o, int tap, int c, int outputs, long long so, long long sc, long long sh,
                               long long sw) {
  return o < outputs && tap < TAPS && c < C ? load<W_KIND>(w + o * so + c * sc + tap / KW * sh + tap % KW * sw) : 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) nn_stem(
    const x_type* x, const w_type* w, const w_type* bias, y_type* y, IMAGE, const long long outputs_, const long long slices_,
    const long long so, const long long sc, const long long sh, const long long sw) {
  extern __shared__ uint4 memory[];
  const Image s = IMAGE_GIVEN;
  const int outputs = outputs_, slices = slices_;
  word* weights = (word*)memory;
  word* pixels = weights + STEPS * QUADS * 128;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int first = blockIdx.x % slices * NT * 8;
  for (int e = threadIdx.x; e < STEPS * QUADS * 128; e += THREADS) {
    const int j = e % 4, l = e / 4 % 32, quad = e / 128 % QUADS, step = e / 128 / QUADS, tile = quad * 2 + j / 2, half = j % 2;
    const int o = first + channel(tile, l / 4), k = l % 4;
    const int last = tile < NT ? outputs : 0;
    if constexpr (MATH == 0) {
      weights[e] = __float_as_uint(tf32(weight(w, o, step * 2 + half, k, last, so, sc, sh, sw)));
    } else {
      const int tap = step * 4 + k / 2 + 2 * half, c = k % 2 * 2;
      weights[e] = pack<MATH>(weight(w, o, tap, c, last, so, sc, sh, sw), weight(w, o, tap, c + 1, last, so, sc, sh, sw));
    }
  }
  constexpr int ACROSS = TW / 16;
  const int across = (s.ow + TW - 1) / TW, down = (s.oh + TH - 1) / TH, tiles = s.n * across * down;
  for (int tile = blockIdx.x / slices; tile < tiles; tile += gridDim.x / slices) {
    const int image = tile / (across * down), top = tile / across % down * TH, left = tile % across * TW;
    __syncthreads();
    load_pixels<MATH == 0>(pixels, x + image * s.sn, s, top, left);
    __syncthreads();
    float sum[2][NT][4];
    const word* base[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int part = warp * 2 + i, r = part / ACROSS, c0 = part % ACROSS * 16;
      base[i] = pixels + (r * SH * SW * RUN + c0 + g) * WORDS + (MATH ? t % 2 : t);
#pragma unroll
      for (int n = 0; n < NT; ++n) sum[i][n][0] = sum[i][n][1] = sum[i][n][2] = sum[i][n][3] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      word a[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int at;
        bool there;
        if constexpr (MATH == 0) {
          const int tap = step * 2 + half;
          there = tap < TAPS, at = there ? tap_at(tap) * WORDS : 0;
        } else {
          const int one = step * 4 + 2 * half, other = one + 1;
          there = t < 2 ? one < TAPS : other < TAPS;
          at = (t < 2 ? (one < TAPS ? tap_at(one) : 0) : (other < TAPS ? tap_at(other) : 0)) * WORDS;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          a[i][2 * half] = there ? base[i][at] : 0u;
          a[i][2 * half + 1] = there ? base[i][at + 8 * WORDS] : 0u;
        }
      }
#pragma unroll
      for (int quad = 0; quad < QUADS; ++quad) {
        const uint4 b = memory[(step * QUADS + quad) * 32 + lane];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          multiply(sum[i][2 * quad], a[i], b.x, b.y);
          if (2 * quad + 1 < NT) multiply(sum[i][2 * quad + 1], a[i], b.z, b.w);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int part = warp * 2 + i, row = top + part / ACROSS, column = left + part % ACROSS * 16 + g;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (row >= s.oh || column + 8 * half >= s.ow) continue;
        y_type* at = y + (((long long)image * s.oh + row) * s.ow + column + 8 * half) * outputs + first;
#pragma unroll
        for (int n = 0; n < NT; n += GROUP) {
          const int o = channel(n, 2 * t);
          if (first + o >= outputs) continue;
          float v[2 * GROUP];
#pragma unroll
          for (int k = 0; k < 2 * GROUP; ++k)
            v[k] = finish(sum[i][n + k / 2][2 * half + k % 2] + (BIAS ? load<W_KIND>(bias + first + o + k) : 0.0f));
          if constexpr (Y_KIND == 0) {
            if constexpr (GROUP == 2) *(float4*)(at + o) = make_float4(v[0], v[1], v[2], v[3]);
            else *(float2*)(at + o) = make_float2(v[0], v[1]);
          } else if constexpr (GROUP == 4) {
            *(uint4*)(at + o) = make_uint4(pack<Y_KIND>(v[0], v[1]), pack<Y_KIND>(v[2], v[3]), pack<Y_KIND>(v[4 % (2 * GROUP)], v[5 % (2 * GROUP)]),
                                           pack<Y_KIND>(v[6 % (2 * GROUP)], v[7 % (2 * GROUP)]));
          } else {
#pragma unroll
            for (int k = 0; k < GROUP; ++k) *(word*)(at + o + 2 * k) = pack<Y_KIND>(v[2 * k], v[2 * k + 1]);
          }
        }
      }
    }
  }
}
#else
// Gradient of the weights: a block sums 16 * MT output channels x all taps over the tiles that it takes, then leaves its sum in
// memory; nn_stem_sum adds up the blocks', always in the same order. TF32 holds 16-bit numbers exactly, for what the kernel in 16 bits
// does not take.
//
// Warps share the work ACROSS_TAPS x the rest over rows; each has NW tiles of two taps.
constexpr int OVER_ROWS = THREADS / 32 / ACROSS_TAPS;

__device__ inline int column_of(int tap);  // of a block's sums

// The warps' sums over rows, one after another; then the block's to memory, as [output channel][tap][4].
__device__ inline void leave(const float (&sum)[MT][NW][4], float* sums, void* memory, int outputs, int slices, int first, int mine,
                             int over) {
  constexpr int WIDTH = ACROSS_TAPS * NW * 8;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float* block = (float*)memory;
  for (int turn = 0; turn < OVER_ROWS; ++turn) {
    __syncthreads();
    if (over != turn) continue;
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int j = 0; j < NW; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float* to = block + (m * 16 + g + k / 2 * 8) * WIDTH + (mine * NW + j) * 8 + 2 * t + k % 2;
          *to = turn ? *to + sum[m][j][k] : sum[m][j][k];
        }
  }
  __syncthreads();
  float* out = sums + (long long)(blockIdx.x / slices) * outputs * TAPS * 4;
  for (int e = threadIdx.x; e < MT * 16 * TAPS * 4; e += THREADS) {
    const int o = e / (TAPS * 4), k = e % (TAPS * 4);
    if (first + o < outputs) out[(first + o) * TAPS * 4 + k] = block[o * WIDTH + column_of(k / 4) + k % 4];
  }
}

#if MATH
// In 16 bits: 16 pixels at a time, fragments by ldmatrix. A warp's tiles are pairs of neighbors in a row of the window.
constexpr int LINE = MT * 16 + 8, PAIRS = (KW + 1) / 2;  // of 16-bit numbers: rows lie 16 bytes further in the banks

__device__ inline int column_of(int tap) { return (tap / KW * PAIRS + tap % KW / 2) * 8 + tap % KW % 2 * 4; }

__device__ inline void matrices(word* r, word from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) nn_stem(
    const y_type* dy, const x_type* x, float* sums, IMAGE, const long long outputs_, const long long slices_) {
  extern __shared__ uint4 memory[];
  const Image s = IMAGE_GIVEN;
  const int outputs = outputs_, slices = slices_;
  unsigned short* gradients = (unsigned short*)memory;
  word* pixels = (word*)(gradients + TH * TW * LINE);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int mine = warp % ACROSS_TAPS, over = warp / ACROSS_TAPS, first = blockIdx.x % slices * MT * 16;
  // Addresses of the rows that this lane names: of 16 pixels' gradients (channels 0-7 and 8-15 of eight, then of the others), and of
  // 16 pixels of the image under two tiles' taps (eight, the others; then of the second tile).
  const word a_from = (word)__cvta_generic_to_shared(gradients) + ((lane / 16 * 8 + lane % 8) * LINE + lane / 8 % 2 * 8) * 2;
  const int column = lane / 8 % 2 * 8 + lane % 8;
  const word b_from = (word)__cvta_generic_to_shared(pixels) + (column * SW + (COPIES == 2 && column % 2 ? SECOND - 1 : 0)) * 8;
  word at[(NW + 1) / 2];
#pragma unroll
  for (int j = 0; j < (NW + 1) / 2; ++j) {
    const int tile = mine * NW + 2 * j + lane / 16, known = tile < KH * PAIRS ? tile : 0;  // others' sums are nobody's
    at[j] = (known / PAIRS * DH * LINE_OF_PIXELS + known % PAIRS * 2) * 8;
  }
  float sum[MT][NW][4];
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int j = 0; j < NW; ++j) sum[m][j][0] = sum[m][j][1] = sum[m][j][2] = sum[m][j][3] = 0.0f;
  const int across = (s.ow + TW - 1) / TW, down = (s.oh + TH - 1) / TH, tiles = s.n * across * down;
  for (int tile = blockIdx.x / slices; tile < tiles; tile += gridDim.x / slices) {
    const int image = tile / (across * down), top = tile / across % down * TH, left = tile % across * TW;
    __syncthreads();
    constexpr int EACH = 8, LOADS = TH * TW * MT * 16 / EACH;
    static_assert(LOADS % THREADS == 0, "a block loads its gradients in whole rounds");
#pragma unroll
    for (int k = 0; k < LOADS / THREADS; ++k) {
      const int e = threadIdx.x + k * THREADS, o = e % (MT * 16 / EACH) * EACH, p = e / (MT * 16 / EACH);
      const int row = top + p / TW, c = left + p % TW;
      uint4 v = make_uint4(0, 0, 0, 0);
      if (row < s.oh && c < s.ow && first + o < outputs)
        v = __ldg((const uint4*)(dy + (((long long)image * s.oh + row) * s.ow + c) * outputs + first + o));
      *(uint4*)(gradients + p * LINE + o) = v;
    }
    load_pixels<false, true>(pixels, x + image * s.sn, s, top, left);
    __syncthreads();
#pragma unroll 1
    for (int step = over; step < TH * TW / 16; step += OVER_ROWS) {
      const int r = step / (TW / 16), c0 = step % (TW / 16) * 16;
      word a[MT][4];
#pragma unroll
      for (int m = 0; m < MT; ++m) matrices(a[m], a_from + ((r * TW + c0) * LINE + m * 16) * 2);
#pragma unroll
      for (int j = 0; j < NW; j += 2) {
        word b[4];
        matrices(b, b_from + at[j / 2] + (r * SH * LINE_OF_PIXELS + c0 * SW) * 8);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          multiply(sum[m][j], a[m], b[0], b[1]);
          if (j + 1 < NW) multiply(sum[m][j + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
  leave(sum, sums, memory, outputs, slices, first, mine, over);
}
#else
constexpr int LINE = MT * 16 + 8;  // four pixels' channels lie in other banks of shared memory

__device__ inline int column_of(int tap) { return tap * 4; }

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) nn_stem(
    const y_type* dy, const x_type* x, float* sums, IMAGE, const long long outputs_, const long long slices_) {
  extern __shared__ uint4 memory[];
  const Image s = IMAGE_GIVEN;
  const int outputs = outputs_, slices = slices_;
  float* gradients = (float*)memory;
  word* pixels = (word*)(gradients + TH * TW * LINE);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int mine = warp % ACROSS_TAPS, over = warp / ACROSS_TAPS, first = blockIdx.x % slices * MT * 16;
  int at[NW];
#pragma unroll
  for (int j = 0; j < NW; ++j) {
    const int tap = 2 * (mine * NW + j) + g / 4;
    at[j] = tap < TAPS ? tap_at(tap) * 4 + g % 4 : -1;
  }
  float sum[MT][NW][4];
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int j = 0; j < NW; ++j) sum[m][j][0] = sum[m][j][1] = sum[m][j][2] = sum[m][j][3] = 0.0f;
  const int across = (s.ow + TW - 1) / TW, down = (s.oh + TH - 1) / TH, tiles = s.n * across * down;
  for (int tile = blockIdx.x / slices; tile < tiles; tile += gridDim.x / slices) {
    const int image = tile / (across * down), top = tile / across % down * TH, left = tile % across * TW;
    __syncthreads();
    constexpr int EACH = 4, LOADS = TH * TW * MT * 16 / EACH;  // four channels at a time
    static_assert(LOADS % THREADS == 0, "a block loads its gradients in whole rounds");
#pragma unroll
    for (int k = 0; k < LOADS / THREADS; ++k) {
      const int e = threadIdx.x + k * THREADS, o = e % (MT * 16 / EACH) * EACH, p = e / (MT * 16 / EACH);
      const int row = top + p / TW, column = left + p % TW;
      float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (row < s.oh && column < s.ow && first + o < outputs) {
        const y_type* from = dy + (((long long)image * s.oh + row) * s.ow + column) * outputs + first + o;
        if constexpr (Y_KIND == 0) {
          v = __ldg((const float4*)from);
          v = make_float4(tf32(v.x), tf32(v.y), tf32(v.z), tf32(v.w));
        } else v = make_float4(load<Y_KIND>(from), load<Y_KIND>(from + 1), load<Y_KIND>(from + 2), load<Y_KIND>(from + 3));
      }
      *(float4*)(gradients + p * LINE + o) = v;
    }
    load_pixels<true>(pixels, x + image * s.sn, s, top, left);
    __syncthreads();
    constexpr int OCTETS = TH * TW / 8;
#pragma unroll 2
    for (int octet = over; octet < OCTETS; octet += OVER_ROWS) {
      const int r = octet / (TW / 8), c0 = octet % (TW / 8) * 8;
      const float* line = gradients + (r * TW + c0 + t) * LINE + g;
      const word* base = pixels + (r * SH * SW * RUN + c0 + t) * 4;
      word a[MT][4];
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        a[m][0] = __float_as_uint(line[m * 16]);
        a[m][1] = __float_as_uint(line[m * 16 + 8]);
        a[m][2] = __float_as_uint(line[4 * LINE + m * 16]);
        a[m][3] = __float_as_uint(line[4 * LINE + m * 16 + 8]);
      }
#pragma unroll
      for (int j = 0; j < NW; ++j) {
        const word b0 = at[j] >= 0 ? base[at[j]] : 0u, b1 = at[j] >= 0 ? base[at[j] + 16] : 0u;
#pragma unroll
        for (int m = 0; m < MT; ++m) multiply_tf32(sum[m][j], a[m], b0, b1);
      }
    }
  }
  leave(sum, sums, memory, outputs, slices, first, mine, over);
}
#endif

// dw[o, c, kh, kw] from the sums of all blocks; 8 threads share one number.
extern "C" __global__ void __launch_bounds__(THREADS) nn_stem_sum(
    const float* sums, w_type* dw, const long long outputs_, const long long blocks_, const long long so, const long long sc,
    const long long sh, const long long sw) {
  const int outputs = outputs_, blocks = blocks_;
  __shared__ float part[8][33];
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32, count = outputs * TAPS * 4, e = blockIdx.x * 32 + lane;
  float sum = 0.0f;
  if (e < count)
#pragma unroll 8
    for (int b = group; b < blocks; b += 8) sum += sums[(long long)b * count + e];
  part[group][lane] = sum;
  __syncthreads();
  const int c = e % 4, tap = e / 4 % TAPS, o = e / 4 / TAPS;
  if (group || e >= count || c >= C) return;
#pragma unroll
  for (int k = 1; k < 8; ++k) sum += part[k][lane];
  store<W_KIND>(dw + o * so + c * sc + tap / KW * sh + tap % KW * sw, sum);
}
#endif
