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
static inline uniform float nn_max_f32(uniform float a, uniform float b) { uniform float t = a > b ? a : b; return a != a ? a : t; }
static inline varying float nn_max_f32(varying float a, varying float b) { varying float t = a > b ? a : b; return a != a ? a : t; }
static inline uniform int64 nn_max_k_i64(uniform int64 k, uniform int64 x) { return k > x ? k : x; }
static inline varying int64 nn_max_k_i64(varying int64 k, varying int64 x) { return k > x ? k : x; }
static inline uniform int64 nn_min_k_i64(uniform int64 k, uniform int64 x) { return k < x ? k : x; }
static inline varying int64 nn_min_k_i64(varying int64 k, varying int64 x) { return k < x ? k : x; }

extern "C" void pool(void * uniform * uniform buffers, const uniform int64 * uniform dims,
    uniform unsigned int8 * uniform scratch, uniform int64 begin, uniform int64 end) {
    const uniform int64 N = dims[0];
    const uniform int64 C = dims[1];
    uniform float * uniform x = (uniform float * uniform)(buffers[0]);
    uniform float * uniform y = (uniform float * uniform)(buffers[1]);
    for (uniform int64 task_1 = begin; task_1 < end; ++task_1) {
        const uniform int64 i_lo = nn_min_k_i64(((N + 1) >> 1), 1);
        const uniform int64 i_hi = nn_max_k_i64(i_lo, nn_min_k_i64(((N + 1) >> 1), (N >> 1)));
        for (uniform int64 i = 0; i < i_lo; ++i) {
            foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                varying float acc;
                acc = -NN_INF;
                for (uniform int64 k = (-2 * i + 1); k < nn_min_k_i64((N - 2 * i + 1), 3); ++k) {
                    acc = nn_max_f32(acc, (x + 2 * C * i + C * k - C)[c]);
                }
                (y + C * i)[c] = acc;
            }
        }
        for (uniform int64 i = i_lo; i < i_hi; ++i) {
            foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                varying float acc_1;
                acc_1 = -NN_INF;
                for (uniform int64 k = 0; k < 3; ++k) {
                    acc_1 = nn_max_f32(acc_1, (x + 2 * C * i + C * k - C)[c]);
                }
                (y + C * i)[c] = acc_1;
            }
        }
        for (uniform int64 i = i_hi; i < ((N + 1) >> 1); ++i) {
            foreach (c = (uniform int32)(0) ... (uniform int32)(C)) {
                varying float acc_2;
                acc_2 = -NN_INF;
                for (uniform int64 k = nn_max_k_i64((-2 * i + 1), 0); k < (N - 2 * i + 1); ++k) {
                    acc_2 = nn_max_f32(acc_2, (x + 2 * C * i + C * k - C)[c]);
                }
                (y + C * i)[c] = acc_2;
            }
        }
    }
}
