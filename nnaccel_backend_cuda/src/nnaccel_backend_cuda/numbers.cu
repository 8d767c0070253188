// Numbers as they lie in memory, and as float. KIND: 0 float32, 1 float16, 2 bfloat16.

typedef unsigned int word;

template <int KIND> struct Stored { typedef unsigned short type; };
template <> struct Stored<0> { typedef float type; };

template <int KIND> __device__ inline float load(const typename Stored<KIND>::type* p) {
  if constexpr (KIND == 0) return __ldg(p);
  else if constexpr (KIND == 2) return __uint_as_float(word(__ldg(p)) << 16);
  else {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(__ldg(p)));
    return v;
  }
}

template <int KIND> __device__ inline word pack(float low, float high) {
  word r;
  if constexpr (KIND == 2) asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

template <int KIND> __device__ inline void store(typename Stored<KIND>::type* p, float v) {
  if constexpr (KIND == 0) *p = v;
  else *p = (unsigned short)(pack<KIND>(v, 0.0f) & 0xffff);
}

