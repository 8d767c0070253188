#define NN_BITS(x) intbits(x)
#define NN_FLOAT(i) floatbits(i)
#define NN_ROUND(x) round(x)
#define NN_FLOOR_F64(x) floor(x)
#define NN_F64(x) x##d
#define NN_INF floatbits(0x7f800000)
#define NN_NAN floatbits(0x7fc00000)
#define NN_INF_F64 doublebits(0x7ff0000000000000ull)
#define NN_NAN_F64 doublebits(0x7ff8000000000000ull)
static inline uniform int nn_lane(uniform int64 x) {
    return x > 0x7fffffff ? 0x7fffffff : (x < -0x7fffffff ? -0x7fffffff : (uniform int)x);
}
static inline uniform int64 nn_floordiv_i64(uniform int64 a, uniform int64 b) {
    uniform int64 q = a / b;
    uniform int64 r = a - q * b;
    return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
}
static inline varying int64 nn_floordiv_i64(varying int64 a, varying int64 b) {
    varying int64 q = a / b;
    varying int64 r = a - q * b;
    return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
}
static inline uniform float nn_max_k_f32(uniform float k, uniform float x) { return k > x ? k : x; }
static inline varying float nn_max_k_f32(varying float k, varying float x) { return k > x ? k : x; }
static inline uniform int64 nn_max_k_i64(uniform int64 k, uniform int64 x) { return k > x ? k : x; }
static inline varying int64 nn_max_k_i64(varying int64 k, varying int64 x) { return k > x ? k : x; }
static inline uniform float nn_min_k_f32(uniform float k, uniform float x) { return k < x ? k : x; }
static inline varying float nn_min_k_f32(varying float k, varying float x) { return k < x ? k : x; }
static inline uniform int64 nn_min_k_i64(uniform int64 k, uniform int64 x) { return k < x ? k : x; }
static inline varying int64 nn_min_k_i64(varying int64 k, varying int64 x) { return k < x ? k : x; }

extern "C" void depthwise(void * uniform * uniform buffers, const uniform int64 * uniform dims,
    uniform unsigned int8 * uniform scratch, uniform int64 begin, uniform int64 end) {
    const uniform int64 N = dims[0];
    const uniform int64 H = dims[1];
    const uniform int64 W = dims[2];
    const uniform int64 C = dims[3];
    const uniform int64 TH = dims[4];
    uniform float * uniform x = (uniform float * uniform)(buffers[0]);
    uniform float * uniform weights = (uniform float * uniform)(buffers[1]);
    uniform float * uniform bias = (uniform float * uniform)(buffers[2]);
    uniform float * uniform y = (uniform float * uniform)(buffers[3]);
    for (uniform int64 task_1 = begin; task_1 < end; ++task_1) {
        const uniform int64 t = task_1 % nn_floordiv_i64((H + TH - 1), TH);
        const uniform int64 task_1_1 = task_1 / nn_floordiv_i64((H + TH - 1), TH);
        const uniform int64 b = task_1_1;
        const uniform int64 r_lo = nn_min_k_i64(nn_min_k_i64((H - TH * t), TH), nn_max_k_i64((-TH * t + 1), 0));
        const uniform int64 r_hi = nn_max_k_i64(nn_min_k_i64((H - TH * t - 1), TH), r_lo);
        const uniform int64 wb_lo = nn_min_k_i64((W >> 1), 1);
        const uniform int64 wb_hi = nn_max_k_i64(nn_min_k_i64((((W + 1) >> 1) - 1), (W >> 1)), wb_lo);
        for (uniform int64 r = 0; r < r_lo; ++r) {
            const uniform int64 h = (TH * t + r);
            for (uniform int64 wb = 0; wb < (W >> 1); ++wb) {
                if ((0 <= 2 * wb - 1) && (2 * wb + 2 < W)) {
                    foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                        varying float acc_0, acc_1;
                        acc_0 = bias[c];
                        acc_1 = bias[c];
                        for (uniform int64 kh = nn_max_k_i64((-h + 1), 0); kh < nn_min_k_i64((H - h + 1), 3); ++kh) {
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
                    foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                        varying float acc_2_0, acc_2_1;
                        acc_2_0 = bias[c];
                        acc_2_1 = bias[c];
                        for (uniform int64 kh = nn_max_k_i64((-h + 1), 0); kh < nn_min_k_i64((H - h + 1), 3); ++kh) {
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
            for (uniform int64 w = (2 * (W >> 1)); w < W; ++w) {
                foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                    varying float acc_3_0;
                    acc_3_0 = bias[c];
                    for (uniform int64 kh = nn_max_k_i64((-h + 1), 0); kh < nn_min_k_i64((H - h + 1), 3); ++kh) {
                        for (uniform int64 kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                            acc_3_0 = acc_3_0 + ((x + C * H * W * b + C * W * h + C * W * kh + C * kw + C * w - C * W - C)[c] * (weights + 3 * C * kh + C * kw)[c]);
                        }
                    }
                    (y + C * H * W * b + C * W * h + C * w)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_3_0));
                }
            }
        }
        for (uniform int64 r = r_lo; r < r_hi; ++r) {
            for (uniform int64 wb = 0; wb < wb_lo; ++wb) {
                if (2 * wb + 2 < W) {
                    foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                        varying float acc_4_0, acc_4_1;
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
                    foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                        varying float acc_5_0, acc_5_1;
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
            for (uniform int64 wb = wb_lo; wb < wb_hi; ++wb) {
                foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                    varying float acc_6_0, acc_6_1;
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
            for (uniform int64 wb = wb_hi; wb < (W >> 1); ++wb) {
                if (0 <= 2 * wb - 1) {
                    foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                        varying float acc_7_0, acc_7_1;
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
                    foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                        varying float acc_8_0, acc_8_1;
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
            for (uniform int64 w = (2 * (W >> 1)); w < W; ++w) {
                foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                    varying float acc_9_0;
                    acc_9_0 = bias[c];
                    for (uniform int64 kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                        acc_9_0 = acc_9_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * kw + C * w - C * W - C)[c] * (weights + C * kw)[c]);
                    }
                    for (uniform int64 kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                        acc_9_0 = acc_9_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * kw + C * w - C)[c] * (weights + C * kw + 3 * C)[c]);
                    }
                    for (uniform int64 kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                        acc_9_0 = acc_9_0 + ((x + C * H * W * b + C * TH * W * t + C * W * r + C * W + C * kw + C * w - C)[c] * (weights + C * kw + 6 * C)[c]);
                    }
                    (y + C * H * W * b + C * TH * W * t + C * W * r + C * w)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_9_0));
                }
            }
        }
        for (uniform int64 r = r_hi; r < nn_min_k_i64((H - TH * t), TH); ++r) {
            for (uniform int64 wb = 0; wb < (W >> 1); ++wb) {
                if ((0 <= 2 * wb - 1) && (2 * wb + 2 < W)) {
                    foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                        varying float acc_10_0, acc_10_1;
                        acc_10_0 = bias[c];
                        acc_10_1 = bias[c];
                        for (uniform int64 kh = nn_max_k_i64((-TH * t - r + 1), 0); kh < nn_min_k_i64((H - TH * t - r + 1), 3); ++kh) {
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
                    foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                        varying float acc_11_0, acc_11_1;
                        acc_11_0 = bias[c];
                        acc_11_1 = bias[c];
                        for (uniform int64 kh = nn_max_k_i64((-TH * t - r + 1), 0); kh < nn_min_k_i64((H - TH * t - r + 1), 3); ++kh) {
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
            for (uniform int64 w = (2 * (W >> 1)); w < W; ++w) {
                foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                    varying float acc_12_0;
                    acc_12_0 = bias[c];
                    for (uniform int64 kh = nn_max_k_i64((-TH * t - r + 1), 0); kh < nn_min_k_i64((H - TH * t - r + 1), 3); ++kh) {
                        for (uniform int64 kw = nn_max_k_i64((-w + 1), 0); kw < (W - w + 1); ++kw) {
                            acc_12_0 = acc_12_0 + ((x + C * H * W * b + C * TH * W * t + C * W * kh + C * W * r + C * kw + C * w - C * W - C)[c] * (weights + 3 * C * kh + C * kw)[c]);
                        }
                    }
                    (y + C * H * W * b + C * TH * W * t + C * W * r + C * w)[c] = nn_min_k_f32(6.0f, nn_max_k_f32(0.0f, acc_12_0));
                }
            }
        }
    }
}
