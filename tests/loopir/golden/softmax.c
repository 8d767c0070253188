#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NN_ROUND(x) rintf(x)
#define NN_FLOOR_F64(x) floor(x)
#define NN_F64(x) x
#define NN_INF INFINITY
#define NN_NAN NAN
static inline int32_t NN_BITS(float x) { int32_t i; memcpy(&i, &x, 4); return i; }
static inline float NN_FLOAT(int32_t i) { float x; memcpy(&x, &i, 4); return x; }
static inline float nn_exp_f32(float x) {
    float t = x < -104.0f ? -104.0f : x;
    t = t > 89.0f ? 89.0f : t;
    float n = NN_ROUND(t * 1.44269504f);
    float r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = (r + r * r * ((((0.00139506f * r + 0.008368954f) * r + 0.041666206f) * r + 0.16666518f) * r + 0.5f)) + 1.0f;
    int32_t i = (int32_t)n;
    int32_t h = i >> 1;
    float y = (p * NN_FLOAT((h + 127) << 23)) * NN_FLOAT((i - h + 127) << 23);
    return x != x ? x : y;
}
static inline float nn_max_f32(float a, float b) { float t = a > b ? a : b; return a != a ? a : t; }
#pragma omp declare reduction(nn_max_f32 : float : omp_out = nn_max_f32(omp_out, omp_in)) initializer(omp_priv = (-INFINITY))

void softmax(void** buffers, const int64_t* dims, uint8_t* scratch, int64_t begin, int64_t end) {
    const int64_t N = dims[0];
    const int64_t C = dims[1];
    float* x = (float*)(buffers[0]);
    float* y = (float*)(buffers[1]);
    float* exps = (float*)(scratch);
    const int64_t exps_end = 0 + (((4 * C) + 63) / 64) * 64;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t i = task;
        float top;
        top = -INFINITY;
        #pragma omp simd reduction(nn_max_f32:top)
        for (int64_t c = 0; c < C; ++c) {
            top = nn_max_f32(top, (x + C * i)[c]);
        }
        float peak;
        peak = top;
        float total;
        total = 0.0f;
        #pragma omp simd reduction(+:total)
        for (int64_t c = 0; c < C; ++c) {
            exps[c] = nn_exp_f32(((x + C * i)[c] - peak));
            total = total + exps[c];
        }
        float scale;
        scale = 1.0f / total;
        #pragma omp simd
        for (int64_t c = 0; c < C; ++c) {
            (y + C * i)[c] = exps[c] * scale;
        }
    }
}
