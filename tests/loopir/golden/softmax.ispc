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
static inline uniform float nn_exp_f32(uniform float x) {
    uniform float t = x < -104.0f ? -104.0f : x;
    t = t > 89.0f ? 89.0f : t;
    uniform float n = NN_ROUND(t * 1.44269504f);
    uniform float r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    uniform float p = (r + r * r * ((((0.00139506f * r + 0.008368954f) * r + 0.041666206f) * r + 0.16666518f) * r + 0.5f)) + 1.0f;
    uniform int i = (uniform int)n;
    uniform int h = i >> 1;
    uniform float y = (p * NN_FLOAT((h + 127) << 23)) * NN_FLOAT((i - h + 127) << 23);
    return x != x ? x : y;
}
static inline varying float nn_exp_f32(varying float x) {
    varying float t = x < -104.0f ? -104.0f : x;
    t = t > 89.0f ? 89.0f : t;
    varying float n = NN_ROUND(t * 1.44269504f);
    varying float r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    varying float p = (r + r * r * ((((0.00139506f * r + 0.008368954f) * r + 0.041666206f) * r + 0.16666518f) * r + 0.5f)) + 1.0f;
    varying int i = (varying int)n;
    varying int h = i >> 1;
    varying float y = (p * NN_FLOAT((h + 127) << 23)) * NN_FLOAT((i - h + 127) << 23);
    return x != x ? x : y;
}
static inline uniform float nn_max_f32(uniform float a, uniform float b) { uniform float t = a > b ? a : b; return a != a ? a : t; }
static inline varying float nn_max_f32(varying float a, varying float b) { varying float t = a > b ? a : b; return a != a ? a : t; }
static inline uniform float nn_reduce_max_f32(varying float x) { return any(x != x) ? (uniform float)(NN_NAN) : (uniform float)reduce_max(x); }
static inline uniform float nn_reduce_sum_f32(varying float x) { return (uniform float)reduce_add(x); }

extern "C" void softmax(void * uniform * uniform buffers, const uniform int64 * uniform dims,
    uniform unsigned int8 * uniform scratch, uniform int64 begin, uniform int64 end) {
    const uniform int64 N = dims[0];
    const uniform int64 C = dims[1];
    uniform float * uniform x = (uniform float * uniform)(buffers[0]);
    uniform float * uniform y = (uniform float * uniform)(buffers[1]);
    uniform float * uniform exps = (uniform float * uniform)(scratch);
    const uniform int64 exps_end = 0 + (((4 * C) + 63) / 64) * 64;
    for (uniform int64 task_1 = begin; task_1 < end; ++task_1) {
        const uniform int64 i = task_1;
        varying float top;
        top = -NN_INF;
        foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
            top = nn_max_f32(top, (x + C * i)[c]);
        }
        uniform float peak;
        peak = nn_reduce_max_f32(top);
        varying float total;
        total = 0.0f;
        foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
            exps[c] = nn_exp_f32(((x + C * i)[c] - peak));
            total = total + exps[c];
        }
        uniform float scale;
        scale = 1.0f / nn_reduce_sum_f32(total);
        foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
            (y + C * i)[c] = exps[c] * scale;
        }
    }
}
