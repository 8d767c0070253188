// Rows of a tensor that indices pick, and sums of what was picked, row by row. `gathers.py` puts the constants in front of this text.
//
// x is (lead, middle, extent, tail), the indices (lead, count), what they pick (lead, middle, count, tail).

typedef long long number;

#if UNIT == 16
typedef uint4 unit;
#elif UNIT == 8
typedef uint2 unit;
#elif UNIT == 4
typedef unsigned unit;
#elif UNIT == 2
typedef unsigned short unit;
#else
typedef unsigned char unit;
#endif

__device__ inline number place(const INDEX* index, number i, number extent) {
  const number given = index[i], k = NEGATIVE && given < 0 ? given + extent : given;
  if (k < 0 || k >= extent) {
    printf("nnaccel: index %lld of a gather leaves %lld..%lld\n", given, NEGATIVE ? -extent : 0LL, extent - 1);
    __trap();  // reading elsewhere would give wrong numbers; PyTorch's own kernels stop the device as well
  }
  return k;
}

// GROUP threads copy a row, of so many units.
extern "C" __global__ void nn_gather(
    const unit* __restrict__ x, const INDEX* __restrict__ index, unit* __restrict__ out, number lead, number middle, number extent,
    number count, number units) {
  const number rows = lead * middle * count, step = number(gridDim.x) * (blockDim.x / GROUP);
  for (number row = number(blockIdx.x) * (blockDim.x / GROUP) + threadIdx.x / GROUP; row < rows; row += step) {
    const number outer = row / count, k = place(index, outer / middle * count + row % count, extent);
    const unit* from = x + (outer * extent + k) * units;
    for (number u = threadIdx.x % GROUP; u < units; u += GROUP) out[row * units + u] = from[u];
  }
}

#if KIND == 0
typedef float element;
__device__ inline float load(element v) { return v; }
__device__ inline element store(float v) { return v; }
#else
typedef unsigned short element;
__device__ inline float load(element v) {
  float r;
#if KIND == 1
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v));
#else
  r = __uint_as_float(unsigned(v) << 16);
#endif
  return r;
}
__device__ inline element store(float v) {
  element r;
#if KIND == 1
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
#endif
  return r;
}
#endif

// A warp sums 32 * PER elements of a row of x over all places that picked it, in their order: runs repeat to the last bit.
extern "C" __global__ void nn_gather_sum(
    const element* __restrict__ g, const INDEX* __restrict__ index, element* __restrict__ out, number lead, number middle,
    number extent, number count, number tail) {
  const int lane = threadIdx.x % 32;
  const number chunks = (tail + 32 * PER - 1) / (32 * PER), warp = (number(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (warp >= lead * middle * extent * chunks) return;
  const number row = warp / chunks, begin = warp % chunks * (32 * PER) + lane, outer = row / extent, k = row % extent;
  const INDEX* mine = index + outer / middle * count;
  float sum[PER] = {};
  for (number base = 0; base < count; base += 32) {
    unsigned hits = __ballot_sync(~0u, base + lane < count && place(mine, base + lane, extent) == k);
    for (; hits; hits &= hits - 1) {
      const element* from = g + (outer * count + base + __ffs(hits) - 1) * tail;
#pragma unroll
      for (int p = 0; p < PER; ++p)
        if (begin + p * 32 < tail) sum[p] += load(from[begin + p * 32]);
    }
  }
#pragma unroll
  for (int p = 0; p < PER; ++p)
    if (begin + p * 32 < tail) out[row * tail + begin + p * 32] = store(sum[p]);
}
