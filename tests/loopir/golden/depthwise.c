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
static inline int64_t nn_floordiv_i64(int64_t a, int64_t b) {
    int64_t q = a / b;
    int64_t r = a - q * b;
    return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
}
static inline float nn_max_k_f32(float k, float x) { return k > x ? k : x; }
static inline int64_t nn_max_k_i64(int64_t k, int64_t x) { return k > x ? k : x; }
static inline float nn_min_k_f32(float k, float x) { return k < x ? k : x; }
static inline int64_t nn_min_k_i64(int64_t k, int64_t x) { return k < x ? k : x; }

void depthwise(void** buffers, const int64_t* dims, uint8_t* scratch, int64_t begin, int64_t end) {
    const int64_t N = dims[0];
    const int64_t H = dims[1];
    const int64_t W = dims[2];
    const int64_t C = dims[3];
    const int64_t TH = dims[4];
    float* x = (float*)(buffers[0]);
    float* weights = (float*)(buffers[1]);
    float* bias = (float*)(buffers[2]);
    float* y = (float*)(buffers[3]);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t t = task % nn_floordiv_i64((H + TH - 1), TH);
        const int64_t task_1 = task / nn_floordiv_i64((H + TH - 1), TH);
        const int64_t b = task_1;
        const int64_t r_lo = nn_min_k_i64(nn_min_k_i64((H - TH * t), TH), nn_max_k_i64((-TH * t + 1), 0));
        const int64_t r_hi = nn_max_k_i64(nn_min_k_i64((H - TH * t - 1), TH), r_lo);
        const int64_t wb_lo = nn_min_k_i64((W >> 1), 1);
        const int64_t wb_hi = nn_max_k_i64(nn_min_k_i64((((W + 1) >> 1) - 1), (W >> 1)), wb_lo);
        for (int64_t r = 0; r < r_lo; ++r) {
            const int64_t h = (TH * t + r);
            for (int64_t wb = 0; wb < (W >> 1); ++wb) {
                if ((0 <= 2 * wb - 1) && (2 * wb + 2 < W)) {
                    #pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        float acc_0, acc_1;
                        acc_0 = bias[c];
                        acc_1 = bias[c];
                        for (int64_t kh = nn_max_k_i64((-h + 1), 0); kh < nn_min_k_i64((H - h + 1), 3); ++kh) {
                            acc_0 = acc_0 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb - C * W - C)[c] * (weights + 3 * C * kh)[c]);
                            acc_1 = acc_1 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb - C * W)[c] * (weights + 3 * C * kh)[c]);
                            acc_0 = acc_0 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb - C * W)[c] * (weights + 3 * C * kh + C)[c]);
                            acc_1 = acc_1 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb + C - C * W)[c] * (weights + 3 * C * kh + C)[c]);
                            acc_0 = acc_0 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb + C - C * W)[c] * (weights + 3 * C * kh + 2 * C)[c]);
                            acc_1 = acc_1 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb + 2 * C - C * W)[c] * (weights + 3 * C * kh + 2 * C)[c]);
                        }
                        (y + C * H * W * b + C * W * h + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_0));
                        (y + C * H * W * b + C * W * h + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_1));
                    }
                } else {
                    #pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        float acc_2_0, acc_2_1;
                        acc_2_0 = bias[c];
                        acc_2_1 = bias[c];
                        for (int64_t kh = nn_max_k_i64((-h + 1), 0); kh < nn_min_k_i64((H - h + 1), 3); ++kh) {
                            if (0 <= 2 * wb - 1) {
                                acc_2_0 = acc_2_0 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb - C * W - C)[c] * (weights + 3 * C * kh)[c]);
                            }
                            acc_2_1 = acc_2_1 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb - C * W)[c] * (weights + 3 * C * kh)[c]);
                            acc_2_0 = acc_2_0 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb - C * W)[c] * (weights + 3 * C * kh + C)[c]);
                            acc_2_1 = acc_2_1 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb + C - C * W)[c] * (weights + 3 * C * kh + C)[c]);
                            acc_2_0 = acc_2_0 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb + C - C * W)[c] * (weights + 3 * C * kh + 2 * C)[c]);
                            if (2 * wb + 2 < W) {
                                acc_2_1 = acc_2_1 + ((x + C * H * W * b + C * W * h + C * W * kh + 2 * C * wb + 2 * C - C * W)[c] * (weights + 3 * C * kh + 2 * C)[c]);
                            }
                        }
                        (y + C * H * W * b + C * W * h + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_2_0));
                        (y + C * H * W * b + C * W * h + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_2_1));
                    }
                }
            }
            for (int64_t w = (2 * (W >> 1)); w < W; ++w) {
                #pragma omp simd
                for (int64_t c = 0; c < C; ++c) {
                    float acc_3_0;
                    acc_3_0 = bias[c];
                    for (int64_t kh = nn_max_k_i64((-h + 1), 0); kh < nn_min_k_i64((H - h + 1), 3); ++kh) {
                        for (int64_t kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                            acc_3_0 = acc_3_0 + ((x + C * H * W * b + C * W * h + C * W * kh + C * kw + C * w - C * W - C)[c] * (weights + 3 * C * kh + C * kw)[c]);
                        }
                    }
                    (y + C * H * W * b + C * W * h + C * w)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_3_0));
                }
            }
        }
        for (int64_t r = r_lo; r < r_hi; ++r) {
            for (int64_t wb = 0; wb < wb_lo; ++wb) {
                if (2 * wb + 2 < W) {
                    #pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        float acc_4_0, acc_4_1;
                        acc_4_0 = bias[c];
                        acc_4_1 = bias[c];
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * weights[c]);
                        acc_4_0 = acc_4_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * (weights + C)[c]);
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + C)[c]);
                        acc_4_0 = acc_4_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 2 * C)[c]);
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + 2 * C - C * W)[c] * (weights + 2 * C)[c]);
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 3 * C)[c]);
                        acc_4_0 = acc_4_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 4 * C)[c]);
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 4 * C)[c]);
                        acc_4_0 = acc_4_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 5 * C)[c]);
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + 2 * C)[c] * (weights + 5 * C)[c]);
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 6 * C)[c]);
                        acc_4_0 = acc_4_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 7 * C)[c]);
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 7 * C)[c]);
                        acc_4_0 = acc_4_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 8 * C)[c]);
                        acc_4_1 = acc_4_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + 2 * C)[c] * (weights + 8 * C)[c]);
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_4_0));
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_4_1));
                    }
                } else {
                    #pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        float acc_5_0, acc_5_1;
                        acc_5_0 = bias[c];
                        acc_5_1 = bias[c];
                        acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * weights[c]);
                        acc_5_0 = acc_5_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * (weights + C)[c]);
                        acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + C)[c]);
                        acc_5_0 = acc_5_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 2 * C)[c]);
                        if (2 * wb + 2 < W) {
                            acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + 2 * C - C * W)[c] * (weights + 2 * C)[c]);
                        }
                        acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 3 * C)[c]);
                        acc_5_0 = acc_5_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 4 * C)[c]);
                        acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 4 * C)[c]);
                        acc_5_0 = acc_5_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 5 * C)[c]);
                        if (2 * wb + 2 < W) {
                            acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + 2 * C)[c] * (weights + 5 * C)[c]);
                        }
                        acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 6 * C)[c]);
                        acc_5_0 = acc_5_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 7 * C)[c]);
                        acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 7 * C)[c]);
                        acc_5_0 = acc_5_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 8 * C)[c]);
                        if (2 * wb + 2 < W) {
                            acc_5_1 = acc_5_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + 2 * C)[c] * (weights + 8 * C)[c]);
                        }
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_5_0));
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_5_1));
                    }
                }
            }
            for (int64_t wb = wb_lo; wb < wb_hi; ++wb) {
                #pragma omp simd
                for (int64_t c = 0; c < C; ++c) {
                    float acc_6_0, acc_6_1;
                    acc_6_0 = bias[c];
                    acc_6_1 = bias[c];
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W - C)[c] * weights[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * weights[c]);
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * (weights + C)[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + C)[c]);
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 2 * C)[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + 2 * C - C * W)[c] * (weights + 2 * C)[c]);
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C)[c] * (weights + 3 * C)[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 3 * C)[c]);
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 4 * C)[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 4 * C)[c]);
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 5 * C)[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + 2 * C)[c] * (weights + 5 * C)[c]);
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb - C)[c] * (weights + 6 * C)[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 6 * C)[c]);
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 7 * C)[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 7 * C)[c]);
                    acc_6_0 = acc_6_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 8 * C)[c]);
                    acc_6_1 = acc_6_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + 2 * C)[c] * (weights + 8 * C)[c]);
                    (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_6_0));
                    (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_6_1));
                }
            }
            for (int64_t wb = wb_hi; wb < (W >> 1); ++wb) {
                if (0 <= 2 * wb - 1) {
                    #pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        float acc_7_0, acc_7_1;
                        acc_7_0 = bias[c];
                        acc_7_1 = bias[c];
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W - C)[c] * weights[c]);
                        acc_7_1 = acc_7_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * weights[c]);
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * (weights + C)[c]);
                        acc_7_1 = acc_7_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + C)[c]);
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 2 * C)[c]);
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C)[c] * (weights + 3 * C)[c]);
                        acc_7_1 = acc_7_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 3 * C)[c]);
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 4 * C)[c]);
                        acc_7_1 = acc_7_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 4 * C)[c]);
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 5 * C)[c]);
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb - C)[c] * (weights + 6 * C)[c]);
                        acc_7_1 = acc_7_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 6 * C)[c]);
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 7 * C)[c]);
                        acc_7_1 = acc_7_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 7 * C)[c]);
                        acc_7_0 = acc_7_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 8 * C)[c]);
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_7_0));
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_7_1));
                    }
                } else {
                    #pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        float acc_8_0, acc_8_1;
                        acc_8_0 = bias[c];
                        acc_8_1 = bias[c];
                        if (0 <= 2 * wb - 1) {
                            acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W - C)[c] * weights[c]);
                        }
                        acc_8_1 = acc_8_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * weights[c]);
                        acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C * W)[c] * (weights + C)[c]);
                        acc_8_1 = acc_8_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + C)[c]);
                        acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 2 * C)[c]);
                        if (0 <= 2 * wb - 1) {
                            acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb - C)[c] * (weights + 3 * C)[c]);
                        }
                        acc_8_1 = acc_8_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 3 * C)[c]);
                        acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] * (weights + 4 * C)[c]);
                        acc_8_1 = acc_8_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 4 * C)[c]);
                        acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] * (weights + 5 * C)[c]);
                        if (0 <= 2 * wb - 1) {
                            acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb - C)[c] * (weights + 6 * C)[c]);
                        }
                        acc_8_1 = acc_8_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 6 * C)[c]);
                        acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb)[c] * (weights + 7 * C)[c]);
                        acc_8_1 = acc_8_1 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 7 * C)[c]);
                        acc_8_0 = acc_8_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + 2 * C * wb + C)[c] * (weights + 8 * C)[c]);
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_8_0));
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_8_1));
                    }
                }
            }
            for (int64_t w = (2 * (W >> 1)); w < W; ++w) {
                #pragma omp simd
                for (int64_t c = 0; c < C; ++c) {
                    float acc_9_0;
                    acc_9_0 = bias[c];
                    for (int64_t kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                        acc_9_0 = acc_9_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * kw + C * w - C * W - C)[c] * (weights + C * kw)[c]);
                    }
                    for (int64_t kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                        acc_9_0 = acc_9_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * kw + C * w - C)[c] * (weights + C * kw + 3 * C)[c]);
                    }
                    for (int64_t kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                        acc_9_0 = acc_9_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + C * kw + C * w - C)[c] * (weights + C * kw + 6 * C)[c]);
                    }
                    (y + C * H * W * b + C * TH * W * t + C * W * r + C * w)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_9_0));
                }
            }
        }
        for (int64_t r = r_hi; r < nn_min_k_i64((H - TH * t), TH); ++r) {
            for (int64_t wb = 0; wb < (W >> 1); ++wb) {
                if ((0 <= 2 * wb - 1) && (2 * wb + 2 < W)) {
                    #pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        float acc_10_0, acc_10_1;
                        acc_10_0 = bias[c];
                        acc_10_1 = bias[c];
                        for (int64_t kh = nn_max_k_i64((-TH * t - r + 1), 0); kh < nn_min_k_i64((H - TH * t - r + 1), 3); ++kh) {
                            acc_10_0 = acc_10_0 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb - C * W - C)[c] * (weights + 3 * C * kh)[c]);
                            acc_10_1 = acc_10_1 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb - C * W)[c] * (weights + 3 * C * kh)[c]);
                            acc_10_0 = acc_10_0 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb - C * W)[c] * (weights + 3 * C * kh + C)[c]);
                            acc_10_1 = acc_10_1 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 3 * C * kh + C)[c]);
                            acc_10_0 = acc_10_0 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 3 * C * kh + 2 * C)[c]);
                            acc_10_1 = acc_10_1 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb + 2 * C - C * W)[c] * (weights + 3 * C * kh + 2 * C)[c]);
                        }
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_10_0));
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_10_1));
                    }
                } else {
                    #pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        float acc_11_0, acc_11_1;
                        acc_11_0 = bias[c];
                        acc_11_1 = bias[c];
                        for (int64_t kh = nn_max_k_i64((-TH * t - r + 1), 0); kh < nn_min_k_i64((H - TH * t - r + 1), 3); ++kh) {
                            if (0 <= 2 * wb - 1) {
                                acc_11_0 = acc_11_0 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb - C * W - C)[c] * (weights + 3 * C * kh)[c]);
                            }
                            acc_11_1 = acc_11_1 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb - C * W)[c] * (weights + 3 * C * kh)[c]);
                            acc_11_0 = acc_11_0 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb - C * W)[c] * (weights + 3 * C * kh + C)[c]);
                            acc_11_1 = acc_11_1 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 3 * C * kh + C)[c]);
                            acc_11_0 = acc_11_0 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb + C - C * W)[c] * (weights + 3 * C * kh + 2 * C)[c]);
                            if (2 * wb + 2 < W) {
                                acc_11_1 = acc_11_1 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + 2 * C * wb + 2 * C - C * W)[c] * (weights + 3 * C * kh + 2 * C)[c]);
                            }
                        }
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_11_0));
                        (y + C * H * W * b + C * TH * W * t + C * W * r + 2 * C * wb + C)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_11_1));
                    }
                }
            }
            for (int64_t w = (2 * (W >> 1)); w < W; ++w) {
                #pragma omp simd
                for (int64_t c = 0; c < C; ++c) {
                    float acc_12_0;
                    acc_12_0 = bias[c];
                    for (int64_t kh = nn_max_k_i64((-TH * t - r + 1), 0); kh < nn_min_k_i64((H - TH * t - r + 1), 3); ++kh) {
                        for (int64_t kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                            acc_12_0 = acc_12_0 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + C * kw + C * w - C * W - C)[c] * (weights + 3 * C * kh + C * kw)[c]);
                        }
                    }
                    (y + C * H * W * b + C * TH * W * t + C * W * r + C * w)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_12_0));
                }
            }
        }
    }
}
