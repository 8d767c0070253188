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
static inline float nn_max_f32(float a, float b) { float t = a > b ? a : b; return a != a ? a : t; }
static inline int64_t nn_max_k_i64(int64_t k, int64_t x) { return k > x ? k : x; }
static inline int64_t nn_min_k_i64(int64_t k, int64_t x) { return k < x ? k : x; }

void pool(void** buffers, const int64_t* dims, uint8_t* scratch, int64_t begin, int64_t end) {
    const int64_t N = dims[0];
    const int64_t C = dims[1];
    float* x = (float*)(buffers[0]);
    float* y = (float*)(buffers[1]);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t i_lo = nn_min_k_i64(((N + 1) >> 1), 1);
        const int64_t i_hi = nn_max_k_i64(i_lo, nn_min_k_i64(((N + 1) >> 1), (N >> 1)));
        for (int64_t i = 0; i < i_lo; ++i) {
            #pragma omp simd
            for (int64_t c = 0; c < C; ++c) {
                float acc;
                acc = -INFINITY;
                for (int64_t k = (-2 * i + 1); k < nn_min_k_i64((N - 2 * i + 1), 3); ++k) {
                    acc = nn_max_f32(acc, (x + 2 * C * i + C * k - C)[c]);
                }
                (y + C * i)[c] = acc;
            }
        }
        for (int64_t i = i_lo; i < i_hi; ++i) {
            #pragma omp simd
            for (int64_t c = 0; c < C; ++c) {
                float acc_1;
                acc_1 = -INFINITY;
                for (int64_t k = 0; k < 3; ++k) {
                    acc_1 = nn_max_f32(acc_1, (x + 2 * C * i + C * k - C)[c]);
                }
                (y + C * i)[c] = acc_1;
            }
        }
        for (int64_t i = i_hi; i < ((N + 1) >> 1); ++i) {
            #pragma omp simd
            for (int64_t c = 0; c < C; ++c) {
                float acc_2;
                acc_2 = -INFINITY;
                for (int64_t k = nn_max_k_i64((-2 * i + 1), 0); k < (N - 2 * i + 1); ++k) {
                    acc_2 = nn_max_f32(acc_2, (x + 2 * C * i + C * k - C)[c]);
                }
                (y + C * i)[c] = acc_2;
            }
        }
    }
}
