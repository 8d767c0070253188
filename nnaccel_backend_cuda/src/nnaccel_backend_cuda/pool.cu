// The gradient of max pooling over channels-last images: it finds where each window's maximum stands and hands on that window's
// gradient, in one pass over the image. `pools.py` puts the constants in front of this text.
//
// Pixels are cut into cells of SH x SW, the first of which starts PH x PW outside of the image: those of a cell are in the same
// DOWN x ACROSS windows, and which of the taps a pixel is there is known here. A block has QH x QW cells of VECS x 16 bytes of
// channels. It first finds the taps of the maxima of all windows that reach into them, and keeps these and the windows' gradients in
// shared memory; then each thread adds up what its cells get.

#include "numbers.cu"

typedef Stored<X_KIND>::type number;

constexpr int THREADS = 256, LANES = X_KIND ? 8 : 4;  // of 16 bytes
constexpr int DOWN = DH * (KH - 1) / SH + 1, ACROSS = DW * (KW - 1) / SW + 1;
constexpr int WH = QH + DOWN - 1, WW = QW + ACROSS - 1, SLOTS = WH * WW * VECS;
constexpr word NOWHERE = 0xffff;  // no tap
#if X_KIND == 1 || X_KIND == 2 && __CUDA_ARCH__ >= 900
#define PACKED 1  // two channels at a time
#else
#define PACKED 0
#endif

union Vector {
  uint4 all;
  word words[4];
};

__device__ inline float lane(const Vector& v, int k) {
  if constexpr (X_KIND == 0) return __uint_as_float(v.words[k]);
  else if constexpr (X_KIND == 2) return __uint_as_float(k % 2 ? v.words[k / 2] & 0xffff0000u : v.words[k / 2] << 16);
  else {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"((unsigned short)(k % 2 ? v.words[k / 2] >> 16 : v.words[k / 2] & 0xffff)));
    return r;
  }
}

// Taps lie as the channels do: 16 or 32 bits each.
__device__ inline word tap_of(const Vector& v, int k) {
  if constexpr (X_KIND == 0) return v.words[k];
  else return k % 2 ? v.words[k / 2] >> 16 : v.words[k / 2] & 0xffff;
}

__device__ inline Vector packed(const float* from) {
  Vector r;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if constexpr (X_KIND == 0) r.words[k] = __float_as_uint(from[k]);
    else r.words[k] = pack<X_KIND>(from[2 * k], from[2 * k + 1]);
  }
  return r;
}

__device__ inline Vector same_taps(word tap) {
  Vector r;
  const word both = X_KIND ? tap << 16 | tap : tap;
  r.all = make_uint4(both, both, both, both);
  return r;
}

__device__ inline word larger(word a, word b) {  // NaN where one is NaN
  word r;
  if constexpr (X_KIND == 2) asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  else asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

#if X_KIND == 1
#define EQUAL "set.eq.u32.f16x2 %0, %1, %2;"
#else
#define EQUAL "set.eq.u32.bf16x2 %0, %1, %2;"
#endif

struct Window {
  const number* x;  // of the first tap, which may lie outside
  int top, left, h, w;
  long long row, column;

  __device__ bool inside(int tap) const {
    return (unsigned)(top + tap / KW * DH) < (unsigned)h && (unsigned)(left + tap % KW * DW) < (unsigned)w;
  }
  __device__ Vector at(int tap) const {
    Vector v;
    v.all = __ldg((const uint4*)(x + tap / KW * DH * row + tap % KW * DW * column));
    return v;
  }
};

// All of a window, so that no load waits for another; `least` outside of the image.
__device__ inline void read(const Window& s, Vector (&v)[KH * KW], word least) {
#pragma unroll
  for (int tap = 0; tap < KH * KW; ++tap)
    if (s.inside(tap)) v[tap] = s.at(tap);
    else v[tap].all = make_uint4(least, least, least, least);
}

// The first tap whose number is the window's maximum, or the last one that is NaN.
__device__ inline Vector maxima_of(const Window& s, const Vector (&v)[KH * KW]) {
  float best[LANES];
  word taps[LANES];
#pragma unroll
  for (int k = 0; k < LANES; ++k) taps[k] = NOWHERE, best[k] = 0.0f;
#pragma unroll
  for (int tap = 0; tap < KH * KW; ++tap) {
    const bool inside = s.inside(tap);
#pragma unroll
    for (int k = 0; k < LANES; ++k) {
      const float mine = lane(v[tap], k);
      const bool better = inside && (taps[k] == NOWHERE || mine > best[k] || mine != mine);
      best[k] = better ? mine : best[k], taps[k] = better ? tap : taps[k];
    }
  }
  Vector r;
#pragma unroll
  for (int k = 0; k < 4; ++k) r.words[k] = X_KIND ? taps[2 * k % LANES] | taps[(2 * k + 1) % LANES] << 16 : taps[k];
  return r;
}

__device__ inline Vector maxima(const Window& s) {
  Vector v[KH * KW];
#if PACKED
  read(s, v, X_KIND == 2 ? 0xff80ff80u : 0xfc00fc00u);  // -inf
  Vector best = v[0];
#pragma unroll
  for (int tap = 1; tap < KH * KW; ++tap)
#pragma unroll
    for (int k = 0; k < 4; ++k) best.words[k] = larger(best.words[k], v[tap].words[k]);
  bool numbers = true;
#pragma unroll
  for (int k = 0; k < LANES; ++k) numbers &= lane(best, k) == lane(best, k);
  if (!numbers) return maxima_of(s, v);
  Vector r = same_taps(NOWHERE);
#pragma unroll
  for (int tap = KH * KW - 1; tap >= 0; --tap) {
    if (!s.inside(tap)) continue;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      word here;
      asm(EQUAL : "=r"(here) : "r"(v[tap].words[k]), "r"(best.words[k]));
      r.words[k] = here & word(tap << 16 | tap) | r.words[k] & ~here;
    }
  }
  return r;
#else
  read(s, v, 0);
  return maxima_of(s, v);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) nn_max_pool_gradient(
    const number* __restrict__ x, const number* __restrict__ g, const number* __restrict__ g2, number* __restrict__ dx,
    const long long h_, const long long w_, const long long c_, const long long oh_, const long long ow_) {
  extern __shared__ uint4 memory[];
  uint4 *taps = memory, *gradients = memory + SLOTS;
  const int h = h_, w = w_, oh = oh_, ow = ow_, vectors = c_ / LANES;
  const int down = ((h + PH - 1) / SH + QH) / QH, across = ((w + PW - 1) / SW + QW) / QW, chunks = (vectors + VECS - 1) / VECS;
  int block = blockIdx.x;
  const int chunk = block % chunks * VECS;
  block /= chunks;
  const int left = block % across * QW;
  block /= across;
  const int top = block % down * QH;
  const long long image = block / down;
  const number* mine = x + image * h * w * c_;
  for (int e = threadIdx.x; e < SLOTS; e += THREADS) {
    const int vec = chunk + e % VECS, oy = top - DOWN + 1 + e / VECS / WW, ox = left - ACROSS + 1 + e / VECS % WW;
    Vector found = same_taps(NOWHERE), given;
    given.all = make_uint4(0, 0, 0, 0);
    if ((unsigned)oy < (unsigned)oh && (unsigned)ox < (unsigned)ow && vec < vectors) {
      const long long from = ((image * oh + oy) * ow + ox) * c_ + vec * LANES;
      given.all = __ldg((const uint4*)(g + from));
      if constexpr (ADD) {
        Vector more;
        more.all = __ldg((const uint4*)(g2 + from));
        float sum[LANES];
#pragma unroll
        for (int k = 0; k < LANES; ++k) sum[k] = lane(given, k) + lane(more, k);
        given = packed(sum);
      }
      const int y = oy * SH - PH, z = ox * SW - PW;
      const Window window = {mine + ((long long)y * w + z) * c_ + vec * LANES, y, z, h, w, w * c_, c_};
      found = maxima(window);
    }
    taps[e] = found.all, gradients[e] = given.all;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < QH * QW * VECS; e += THREADS) {
    const int vec = chunk + e % VECS, qx = e / VECS % QW, qy = e / VECS / QW;
    if (vec >= vectors) continue;
    const int y0 = (top + qy) * SH - PH, x0 = (left + qx) * SW - PW;
#pragma unroll
    for (int r = 0; r < SH * SW; ++r) {
      const int iy = y0 + r / SW, ix = x0 + r % SW;
      if ((unsigned)iy >= (unsigned)h || (unsigned)ix >= (unsigned)w) continue;
      const long long at = ((long long)iy * w + ix) * c_ + vec * LANES;
      float sum[LANES];
#pragma unroll
      for (int k = 0; k < LANES; ++k) sum[k] = 0.0f;
#pragma unroll
      for (int a = DOWN * ACROSS - 1; a >= 0; --a) {  // windows in their order
        const int below = r / SW + a / ACROSS * SH, right = r % SW + a % ACROSS * SW;
        if (below > DH * (KH - 1) || right > DW * (KW - 1) || below % DH || right % DW) continue;
        const int slot = ((qy + DOWN - 1 - a / ACROSS) * WW + qx + ACROSS - 1 - a % ACROSS) * VECS + e % VECS;
        const word tap = below / DH * KW + right / DW;
        Vector found, gradient;
        found.all = taps[slot], gradient.all = gradients[slot];
#pragma unroll
        for (int k = 0; k < LANES; ++k) sum[k] += tap_of(found, k) == tap ? lane(gradient, k) : 0.0f;
      }
      if constexpr (RELU) {  // x is a ReLU's result
        Vector v;
        v.all = __ldg((const uint4*)(mine + at));
#pragma unroll
        for (int k = 0; k < LANES; ++k)
          if (lane(v, k) <= 0.0f) sum[k] = 0.0f;
      }
      *(uint4*)(dx + image * h * w * c_ + at) = packed(sum).all;
    }
  }
}
