extern "C" __global__ void __launch_bounds__(512) depthwise(const float* __restrict__ b0, const float* __restrict__ b1, const float* __restrict__ b2, float* __restrict__ b3, const nn_int d0, const nn_int d1, const nn_int d2, const nn_int d3, const nn_int t0, const nn_int t1, const nn_int t2) {
    const nn_int task = (nn_int)blockIdx.x;
    const nn_int p2 = task % nn_quotient((d1 + t2 - 1), t2);
    const nn_int task_2 = task / nn_quotient((d1 + t2 - 1), t2);
    const nn_int p1 = task_2 % nn_quotient((d2 + t1 - 1), t1);
    const nn_int task_1 = task_2 / nn_quotient((d2 + t1 - 1), t1);
    const nn_int p0 = task_1;
    const nn_int o0 = (p0 * t0);
    const nn_int e0 = min(o0 + t0, d0);
    const nn_int o1 = (p1 * t1);
    const nn_int e1 = min(o1 + t1, d2);
    const nn_int o2 = (p2 * t2);
    const nn_int e2 = min(o2 + t2, d1);
    if (d3 >= 2) {
        const nn_int n4 = ((e2 - o2 + 3) >> 2);
        const nn_int n5 = ((d3 + 1) >> 1);
        const nn_int n6 = (e1 - o1);
        const nn_int n7 = (e0 - o0);
        for (nn_int f1 = (nn_int)threadIdx.x; f1 < (n4 * n5 * n6 * n7); f1 += (nn_int)blockDim.x) {
            const nn_int i1 = (4 * (nn_int)((nn_uint)f1 % (nn_uint)n4) + o2);
            const nn_int g3 = (nn_int)((nn_uint)f1 / (nn_uint)n4);
            const nn_int k0 = (nn_int)((nn_uint)g3 % (nn_uint)n5);
            const nn_int g4 = (nn_int)((nn_uint)g3 / (nn_uint)n5);
            const nn_int i2 = ((nn_int)((nn_uint)g4 % (nn_uint)n6) + o1);
            const nn_int g5 = (nn_int)((nn_uint)g4 / (nn_uint)n6);
            const nn_int i0 = (g5 + o0);
            const nn_int i3 = min(2 * k0, d3 - 2);
            float a1_0, a1_1, a1_2, a1_3;
            a1_0 = 0.0f;
            a1_1 = 0.0f;
            a1_2 = 0.0f;
            a1_3 = 0.0f;
            float a2_0, a2_1, a2_2, a2_3;
            a2_0 = 0.0f;
            a2_1 = 0.0f;
            a2_2 = 0.0f;
            a2_3 = 0.0f;
            float t9_0, t9_1, t9_2, t9_3;
            t9_0 = 0.0f;
            t9_1 = 0.0f;
            t9_2 = 0.0f;
            t9_3 = 0.0f;
            float x21_0, x21_1, x21_2, x21_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + i1);
                x21_0 = v.v[0];
                x21_1 = v.v[1];
                x21_2 = v.v[2];
                x21_3 = v.v[3];
            }
            float x20_0, x20_1, x20_2, x20_3;
            if ((((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1 * d3 - d1));
                    x20_0 = v.v[0];
                    x20_1 = v.v[1];
                    x20_2 = v.v[2];
                    x20_3 = v.v[3];
                }
                t9_0 = x20_0;
                t9_1 = x20_1;
                t9_2 = x20_2;
                t9_3 = x20_3;
            }
            float t10_0, t10_1, t10_2, t10_3;
            t10_0 = 0.0f;
            t10_1 = 0.0f;
            t10_2 = 0.0f;
            t10_3 = 0.0f;
            float x23_0, x23_1, x23_2, x23_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (d1 + i1));
                x23_0 = v.v[0];
                x23_1 = v.v[1];
                x23_2 = v.v[2];
                x23_3 = v.v[3];
            }
            float x22_0, x22_1, x22_2, x22_3;
            if ((((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 >= 0)) && (i3 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1 * d3));
                    x22_0 = v.v[0];
                    x22_1 = v.v[1];
                    x22_2 = v.v[2];
                    x22_3 = v.v[3];
                }
                t10_0 = x22_0;
                t10_1 = x22_1;
                t10_2 = x22_2;
                t10_3 = x22_3;
            }
            float t11_0, t11_1, t11_2, t11_3;
            t11_0 = 0.0f;
            t11_1 = 0.0f;
            t11_2 = 0.0f;
            t11_3 = 0.0f;
            float x25_0, x25_1, x25_2, x25_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (2 * d1 + i1));
                x25_0 = v.v[0];
                x25_1 = v.v[1];
                x25_2 = v.v[2];
                x25_3 = v.v[3];
            }
            float x24_0, x24_1, x24_2, x24_3;
            if ((((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + d1 + i1 - d1 * d3));
                    x24_0 = v.v[0];
                    x24_1 = v.v[1];
                    x24_2 = v.v[2];
                    x24_3 = v.v[3];
                }
                t11_0 = x24_0;
                t11_1 = x24_1;
                t11_2 = x24_2;
                t11_3 = x24_3;
            }
            float t12_0, t12_1, t12_2, t12_3;
            t12_0 = 0.0f;
            t12_1 = 0.0f;
            t12_2 = 0.0f;
            t12_3 = 0.0f;
            float x26_0, x26_1, x26_2, x26_3;
            if ((((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 + 2 >= 0)) && (i3 + 2 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + 2 * d1 + i1 - d1 * d3));
                    x26_0 = v.v[0];
                    x26_1 = v.v[1];
                    x26_2 = v.v[2];
                    x26_3 = v.v[3];
                }
                t12_0 = x26_0;
                t12_1 = x26_1;
                t12_2 = x26_2;
                t12_3 = x26_3;
            }
            a1_0 = a1_0 + (t9_0 * x21_0);
            a1_1 = a1_1 + (t9_1 * x21_1);
            a1_2 = a1_2 + (t9_2 * x21_2);
            a1_3 = a1_3 + (t9_3 * x21_3);
            a2_0 = a2_0 + (t10_0 * x21_0);
            a2_1 = a2_1 + (t10_1 * x21_1);
            a2_2 = a2_2 + (t10_2 * x21_2);
            a2_3 = a2_3 + (t10_3 * x21_3);
            a1_0 = a1_0 + (t10_0 * x23_0);
            a1_1 = a1_1 + (t10_1 * x23_1);
            a1_2 = a1_2 + (t10_2 * x23_2);
            a1_3 = a1_3 + (t10_3 * x23_3);
            a2_0 = a2_0 + (t11_0 * x23_0);
            a2_1 = a2_1 + (t11_1 * x23_1);
            a2_2 = a2_2 + (t11_2 * x23_2);
            a2_3 = a2_3 + (t11_3 * x23_3);
            a1_0 = a1_0 + (t11_0 * x25_0);
            a1_1 = a1_1 + (t11_1 * x25_1);
            a1_2 = a1_2 + (t11_2 * x25_2);
            a1_3 = a1_3 + (t11_3 * x25_3);
            a2_0 = a2_0 + (t12_0 * x25_0);
            a2_1 = a2_1 + (t12_1 * x25_1);
            a2_2 = a2_2 + (t12_2 * x25_2);
            a2_3 = a2_3 + (t12_3 * x25_3);
            float t13_0, t13_1, t13_2, t13_3;
            t13_0 = 0.0f;
            t13_1 = 0.0f;
            t13_2 = 0.0f;
            t13_3 = 0.0f;
            float x28_0, x28_1, x28_2, x28_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (3 * d1 + i1));
                x28_0 = v.v[0];
                x28_1 = v.v[1];
                x28_2 = v.v[2];
                x28_3 = v.v[3];
            }
            float x27_0, x27_1, x27_2, x27_3;
            if ((((i2 >= 0) && (i2 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1));
                    x27_0 = v.v[0];
                    x27_1 = v.v[1];
                    x27_2 = v.v[2];
                    x27_3 = v.v[3];
                }
                t13_0 = x27_0;
                t13_1 = x27_1;
                t13_2 = x27_2;
                t13_3 = x27_3;
            }
            float t14_0, t14_1, t14_2, t14_3;
            t14_0 = 0.0f;
            t14_1 = 0.0f;
            t14_2 = 0.0f;
            t14_3 = 0.0f;
            float x30_0, x30_1, x30_2, x30_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (4 * d1 + i1));
                x30_0 = v.v[0];
                x30_1 = v.v[1];
                x30_2 = v.v[2];
                x30_3 = v.v[3];
            }
            float x29_0, x29_1, x29_2, x29_3;
            if ((((i2 >= 0) && (i2 < d2)) && (i3 >= 0)) && (i3 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1));
                    x29_0 = v.v[0];
                    x29_1 = v.v[1];
                    x29_2 = v.v[2];
                    x29_3 = v.v[3];
                }
                t14_0 = x29_0;
                t14_1 = x29_1;
                t14_2 = x29_2;
                t14_3 = x29_3;
            }
            float t15_0, t15_1, t15_2, t15_3;
            t15_0 = 0.0f;
            t15_1 = 0.0f;
            t15_2 = 0.0f;
            t15_3 = 0.0f;
            float x32_0, x32_1, x32_2, x32_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (5 * d1 + i1));
                x32_0 = v.v[0];
                x32_1 = v.v[1];
                x32_2 = v.v[2];
                x32_3 = v.v[3];
            }
            float x31_0, x31_1, x31_2, x31_3;
            if ((((i2 >= 0) && (i2 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + d1 + i1));
                    x31_0 = v.v[0];
                    x31_1 = v.v[1];
                    x31_2 = v.v[2];
                    x31_3 = v.v[3];
                }
                t15_0 = x31_0;
                t15_1 = x31_1;
                t15_2 = x31_2;
                t15_3 = x31_3;
            }
            float t16_0, t16_1, t16_2, t16_3;
            t16_0 = 0.0f;
            t16_1 = 0.0f;
            t16_2 = 0.0f;
            t16_3 = 0.0f;
            float x33_0, x33_1, x33_2, x33_3;
            if ((((i2 >= 0) && (i2 < d2)) && (i3 + 2 >= 0)) && (i3 + 2 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + 2 * d1 + i1));
                    x33_0 = v.v[0];
                    x33_1 = v.v[1];
                    x33_2 = v.v[2];
                    x33_3 = v.v[3];
                }
                t16_0 = x33_0;
                t16_1 = x33_1;
                t16_2 = x33_2;
                t16_3 = x33_3;
            }
            a1_0 = a1_0 + (t13_0 * x28_0);
            a1_1 = a1_1 + (t13_1 * x28_1);
            a1_2 = a1_2 + (t13_2 * x28_2);
            a1_3 = a1_3 + (t13_3 * x28_3);
            a2_0 = a2_0 + (t14_0 * x28_0);
            a2_1 = a2_1 + (t14_1 * x28_1);
            a2_2 = a2_2 + (t14_2 * x28_2);
            a2_3 = a2_3 + (t14_3 * x28_3);
            a1_0 = a1_0 + (t14_0 * x30_0);
            a1_1 = a1_1 + (t14_1 * x30_1);
            a1_2 = a1_2 + (t14_2 * x30_2);
            a1_3 = a1_3 + (t14_3 * x30_3);
            a2_0 = a2_0 + (t15_0 * x30_0);
            a2_1 = a2_1 + (t15_1 * x30_1);
            a2_2 = a2_2 + (t15_2 * x30_2);
            a2_3 = a2_3 + (t15_3 * x30_3);
            a1_0 = a1_0 + (t15_0 * x32_0);
            a1_1 = a1_1 + (t15_1 * x32_1);
            a1_2 = a1_2 + (t15_2 * x32_2);
            a1_3 = a1_3 + (t15_3 * x32_3);
            a2_0 = a2_0 + (t16_0 * x32_0);
            a2_1 = a2_1 + (t16_1 * x32_1);
            a2_2 = a2_2 + (t16_2 * x32_2);
            a2_3 = a2_3 + (t16_3 * x32_3);
            float t17_0, t17_1, t17_2, t17_3;
            t17_0 = 0.0f;
            t17_1 = 0.0f;
            t17_2 = 0.0f;
            t17_3 = 0.0f;
            float x35_0, x35_1, x35_2, x35_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (6 * d1 + i1));
                x35_0 = v.v[0];
                x35_1 = v.v[1];
                x35_2 = v.v[2];
                x35_3 = v.v[3];
            }
            float x34_0, x34_1, x34_2, x34_3;
            if ((((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + i1 - d1));
                    x34_0 = v.v[0];
                    x34_1 = v.v[1];
                    x34_2 = v.v[2];
                    x34_3 = v.v[3];
                }
                t17_0 = x34_0;
                t17_1 = x34_1;
                t17_2 = x34_2;
                t17_3 = x34_3;
            }
            float t18_0, t18_1, t18_2, t18_3;
            t18_0 = 0.0f;
            t18_1 = 0.0f;
            t18_2 = 0.0f;
            t18_3 = 0.0f;
            float x37_0, x37_1, x37_2, x37_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (7 * d1 + i1));
                x37_0 = v.v[0];
                x37_1 = v.v[1];
                x37_2 = v.v[2];
                x37_3 = v.v[3];
            }
            float x36_0, x36_1, x36_2, x36_3;
            if ((((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 >= 0)) && (i3 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + i1));
                    x36_0 = v.v[0];
                    x36_1 = v.v[1];
                    x36_2 = v.v[2];
                    x36_3 = v.v[3];
                }
                t18_0 = x36_0;
                t18_1 = x36_1;
                t18_2 = x36_2;
                t18_3 = x36_3;
            }
            float t19_0, t19_1, t19_2, t19_3;
            t19_0 = 0.0f;
            t19_1 = 0.0f;
            t19_2 = 0.0f;
            t19_3 = 0.0f;
            float x39_0, x39_1, x39_2, x39_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (8 * d1 + i1));
                x39_0 = v.v[0];
                x39_1 = v.v[1];
                x39_2 = v.v[2];
                x39_3 = v.v[3];
            }
            float x38_0, x38_1, x38_2, x38_3;
            if ((((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + d1 + i1));
                    x38_0 = v.v[0];
                    x38_1 = v.v[1];
                    x38_2 = v.v[2];
                    x38_3 = v.v[3];
                }
                t19_0 = x38_0;
                t19_1 = x38_1;
                t19_2 = x38_2;
                t19_3 = x38_3;
            }
            float t20_0, t20_1, t20_2, t20_3;
            t20_0 = 0.0f;
            t20_1 = 0.0f;
            t20_2 = 0.0f;
            t20_3 = 0.0f;
            float x40_0, x40_1, x40_2, x40_3;
            if ((((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 + 2 >= 0)) && (i3 + 2 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + 2 * d1 + i1));
                    x40_0 = v.v[0];
                    x40_1 = v.v[1];
                    x40_2 = v.v[2];
                    x40_3 = v.v[3];
                }
                t20_0 = x40_0;
                t20_1 = x40_1;
                t20_2 = x40_2;
                t20_3 = x40_3;
            }
            a1_0 = a1_0 + (t17_0 * x35_0);
            a1_1 = a1_1 + (t17_1 * x35_1);
            a1_2 = a1_2 + (t17_2 * x35_2);
            a1_3 = a1_3 + (t17_3 * x35_3);
            a2_0 = a2_0 + (t18_0 * x35_0);
            a2_1 = a2_1 + (t18_1 * x35_1);
            a2_2 = a2_2 + (t18_2 * x35_2);
            a2_3 = a2_3 + (t18_3 * x35_3);
            a1_0 = a1_0 + (t18_0 * x37_0);
            a1_1 = a1_1 + (t18_1 * x37_1);
            a1_2 = a1_2 + (t18_2 * x37_2);
            a1_3 = a1_3 + (t18_3 * x37_3);
            a2_0 = a2_0 + (t19_0 * x37_0);
            a2_1 = a2_1 + (t19_1 * x37_1);
            a2_2 = a2_2 + (t19_2 * x37_2);
            a2_3 = a2_3 + (t19_3 * x37_3);
            a1_0 = a1_0 + (t19_0 * x39_0);
            a1_1 = a1_1 + (t19_1 * x39_1);
            a1_2 = a1_2 + (t19_2 * x39_2);
            a1_3 = a1_3 + (t19_3 * x39_3);
            a2_0 = a2_0 + (t20_0 * x39_0);
            a2_1 = a2_1 + (t20_1 * x39_1);
            a2_2 = a2_2 + (t20_2 * x39_2);
            a2_3 = a2_3 + (t20_3 * x39_3);
            float x41_0, x41_1, x41_2, x41_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b2 + i1);
                x41_0 = v.v[0];
                x41_1 = v.v[1];
                x41_2 = v.v[2];
                x41_3 = v.v[3];
            }
            float y1_1_0, y1_1_1, y1_1_2, y1_1_3;
            float x42;
            x42 = a1_0 + x41_0;
            y1_1_0 = (x42 < 0.0f) ? 0.0f : ((x42 > 6.0f) ? 6.0f : x42);
            float x42_1;
            x42_1 = a1_1 + x41_1;
            y1_1_1 = (x42_1 < 0.0f) ? 0.0f : ((x42_1 > 6.0f) ? 6.0f : x42_1);
            float x42_2;
            x42_2 = a1_2 + x41_2;
            y1_1_2 = (x42_2 < 0.0f) ? 0.0f : ((x42_2 > 6.0f) ? 6.0f : x42_2);
            float x42_3;
            x42_3 = a1_3 + x41_3;
            y1_1_3 = (x42_3 < 0.0f) ? 0.0f : ((x42_3 > 6.0f) ? 6.0f : x42_3);
            {
                nn_vec<float, 4> v;
                v.v[0] = y1_1_0;
                v.v[1] = y1_1_1;
                v.v[2] = y1_1_2;
                v.v[3] = y1_1_3;
                *(nn_vec<float, 4>*)(b3 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1)) = v;
            }
            float x43_0, x43_1, x43_2, x43_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b2 + i1);
                x43_0 = v.v[0];
                x43_1 = v.v[1];
                x43_2 = v.v[2];
                x43_3 = v.v[3];
            }
            float y2_0, y2_1, y2_2, y2_3;
            float x44;
            x44 = a2_0 + x43_0;
            y2_0 = (x44 < 0.0f) ? 0.0f : ((x44 > 6.0f) ? 6.0f : x44);
            float x44_1;
            x44_1 = a2_1 + x43_1;
            y2_1 = (x44_1 < 0.0f) ? 0.0f : ((x44_1 > 6.0f) ? 6.0f : x44_1);
            float x44_2;
            x44_2 = a2_2 + x43_2;
            y2_2 = (x44_2 < 0.0f) ? 0.0f : ((x44_2 > 6.0f) ? 6.0f : x44_2);
            float x44_3;
            x44_3 = a2_3 + x43_3;
            y2_3 = (x44_3 < 0.0f) ? 0.0f : ((x44_3 > 6.0f) ? 6.0f : x44_3);
            {
                nn_vec<float, 4> v;
                v.v[0] = y2_0;
                v.v[1] = y2_1;
                v.v[2] = y2_2;
                v.v[3] = y2_3;
                *(nn_vec<float, 4>*)(b3 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + d1 + i1)) = v;
            }
        }
    } else {
        const nn_int n0 = ((e2 - o2 + 3) >> 2);
        const nn_int n1 = d3;
        const nn_int n2 = (e1 - o1);
        const nn_int n3 = (e0 - o0);
        for (nn_int f0 = (nn_int)threadIdx.x; f0 < (n0 * n1 * n2 * n3); f0 += (nn_int)blockDim.x) {
            const nn_int i1_1 = (4 * (nn_int)((nn_uint)f0 % (nn_uint)n0) + o2);
            const nn_int g0 = (nn_int)((nn_uint)f0 / (nn_uint)n0);
            const nn_int i3_1 = (nn_int)((nn_uint)g0 % (nn_uint)n1);
            const nn_int g1 = (nn_int)((nn_uint)g0 / (nn_uint)n1);
            const nn_int i2_1 = ((nn_int)((nn_uint)g1 % (nn_uint)n2) + o1);
            const nn_int g2 = (nn_int)((nn_uint)g1 / (nn_uint)n2);
            const nn_int i0_1 = (g2 + o0);
            float a0_0, a0_1, a0_2, a0_3;
            a0_0 = 0.0f;
            a0_1 = 0.0f;
            a0_2 = 0.0f;
            a0_3 = 0.0f;
            float t0_1_0, t0_1_1, t0_1_2, t0_1_3;
            t0_1_0 = 0.0f;
            t0_1_1 = 0.0f;
            t0_1_2 = 0.0f;
            t0_1_3 = 0.0f;
            float x1_0, x1_1, x1_2, x1_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + i1_1);
                x1_0 = v.v[0];
                x1_1 = v.v[1];
                x1_2 = v.v[2];
                x1_3 = v.v[3];
            }
            float x0_0, x0_1, x0_2, x0_3;
            if ((((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + i1_1 - d1 * d3 - d1));
                    x0_0 = v.v[0];
                    x0_1 = v.v[1];
                    x0_2 = v.v[2];
                    x0_3 = v.v[3];
                }
                t0_1_0 = x0_0;
                t0_1_1 = x0_1;
                t0_1_2 = x0_2;
                t0_1_3 = x0_3;
            }
            float t1_1_0, t1_1_1, t1_1_2, t1_1_3;
            t1_1_0 = 0.0f;
            t1_1_1 = 0.0f;
            t1_1_2 = 0.0f;
            t1_1_3 = 0.0f;
            float x3_0, x3_1, x3_2, x3_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (d1 + i1_1));
                x3_0 = v.v[0];
                x3_1 = v.v[1];
                x3_2 = v.v[2];
                x3_3 = v.v[3];
            }
            float x2_0, x2_1, x2_2, x2_3;
            if ((((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + i1_1 - d1 * d3));
                    x2_0 = v.v[0];
                    x2_1 = v.v[1];
                    x2_2 = v.v[2];
                    x2_3 = v.v[3];
                }
                t1_1_0 = x2_0;
                t1_1_1 = x2_1;
                t1_1_2 = x2_2;
                t1_1_3 = x2_3;
            }
            float t2_1_0, t2_1_1, t2_1_2, t2_1_3;
            t2_1_0 = 0.0f;
            t2_1_1 = 0.0f;
            t2_1_2 = 0.0f;
            t2_1_3 = 0.0f;
            float x5_0, x5_1, x5_2, x5_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (2 * d1 + i1_1));
                x5_0 = v.v[0];
                x5_1 = v.v[1];
                x5_2 = v.v[2];
                x5_3 = v.v[3];
            }
            float x4_0, x4_1, x4_2, x4_3;
            if ((((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + d1 + i1_1 - d1 * d3));
                    x4_0 = v.v[0];
                    x4_1 = v.v[1];
                    x4_2 = v.v[2];
                    x4_3 = v.v[3];
                }
                t2_1_0 = x4_0;
                t2_1_1 = x4_1;
                t2_1_2 = x4_2;
                t2_1_3 = x4_3;
            }
            a0_0 = a0_0 + (t0_1_0 * x1_0);
            a0_1 = a0_1 + (t0_1_1 * x1_1);
            a0_2 = a0_2 + (t0_1_2 * x1_2);
            a0_3 = a0_3 + (t0_1_3 * x1_3);
            a0_0 = a0_0 + (t1_1_0 * x3_0);
            a0_1 = a0_1 + (t1_1_1 * x3_1);
            a0_2 = a0_2 + (t1_1_2 * x3_2);
            a0_3 = a0_3 + (t1_1_3 * x3_3);
            a0_0 = a0_0 + (t2_1_0 * x5_0);
            a0_1 = a0_1 + (t2_1_1 * x5_1);
            a0_2 = a0_2 + (t2_1_2 * x5_2);
            a0_3 = a0_3 + (t2_1_3 * x5_3);
            float t3_0, t3_1, t3_2, t3_3;
            t3_0 = 0.0f;
            t3_1 = 0.0f;
            t3_2 = 0.0f;
            t3_3 = 0.0f;
            float x7_0, x7_1, x7_2, x7_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (3 * d1 + i1_1));
                x7_0 = v.v[0];
                x7_1 = v.v[1];
                x7_2 = v.v[2];
                x7_3 = v.v[3];
            }
            float x6_0, x6_1, x6_2, x6_3;
            if ((((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + i1_1 - d1));
                    x6_0 = v.v[0];
                    x6_1 = v.v[1];
                    x6_2 = v.v[2];
                    x6_3 = v.v[3];
                }
                t3_0 = x6_0;
                t3_1 = x6_1;
                t3_2 = x6_2;
                t3_3 = x6_3;
            }
            float t4_0, t4_1, t4_2, t4_3;
            t4_0 = 0.0f;
            t4_1 = 0.0f;
            t4_2 = 0.0f;
            t4_3 = 0.0f;
            float x9_0, x9_1, x9_2, x9_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (4 * d1 + i1_1));
                x9_0 = v.v[0];
                x9_1 = v.v[1];
                x9_2 = v.v[2];
                x9_3 = v.v[3];
            }
            float x8_0, x8_1, x8_2, x8_3;
            if ((((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + i1_1));
                    x8_0 = v.v[0];
                    x8_1 = v.v[1];
                    x8_2 = v.v[2];
                    x8_3 = v.v[3];
                }
                t4_0 = x8_0;
                t4_1 = x8_1;
                t4_2 = x8_2;
                t4_3 = x8_3;
            }
            float t5_0, t5_1, t5_2, t5_3;
            t5_0 = 0.0f;
            t5_1 = 0.0f;
            t5_2 = 0.0f;
            t5_3 = 0.0f;
            float x11_0, x11_1, x11_2, x11_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (5 * d1 + i1_1));
                x11_0 = v.v[0];
                x11_1 = v.v[1];
                x11_2 = v.v[2];
                x11_3 = v.v[3];
            }
            float x10_0, x10_1, x10_2, x10_3;
            if ((((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + d1 + i1_1));
                    x10_0 = v.v[0];
                    x10_1 = v.v[1];
                    x10_2 = v.v[2];
                    x10_3 = v.v[3];
                }
                t5_0 = x10_0;
                t5_1 = x10_1;
                t5_2 = x10_2;
                t5_3 = x10_3;
            }
            a0_0 = a0_0 + (t3_0 * x7_0);
            a0_1 = a0_1 + (t3_1 * x7_1);
            a0_2 = a0_2 + (t3_2 * x7_2);
            a0_3 = a0_3 + (t3_3 * x7_3);
            a0_0 = a0_0 + (t4_0 * x9_0);
            a0_1 = a0_1 + (t4_1 * x9_1);
            a0_2 = a0_2 + (t4_2 * x9_2);
            a0_3 = a0_3 + (t4_3 * x9_3);
            a0_0 = a0_0 + (t5_0 * x11_0);
            a0_1 = a0_1 + (t5_1 * x11_1);
            a0_2 = a0_2 + (t5_2 * x11_2);
            a0_3 = a0_3 + (t5_3 * x11_3);
            float t6_0, t6_1, t6_2, t6_3;
            t6_0 = 0.0f;
            t6_1 = 0.0f;
            t6_2 = 0.0f;
            t6_3 = 0.0f;
            float x13_0, x13_1, x13_2, x13_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (6 * d1 + i1_1));
                x13_0 = v.v[0];
                x13_1 = v.v[1];
                x13_2 = v.v[2];
                x13_3 = v.v[3];
            }
            float x12_0, x12_1, x12_2, x12_3;
            if ((((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * d3 + d1 * i3_1 + i1_1 - d1));
                    x12_0 = v.v[0];
                    x12_1 = v.v[1];
                    x12_2 = v.v[2];
                    x12_3 = v.v[3];
                }
                t6_0 = x12_0;
                t6_1 = x12_1;
                t6_2 = x12_2;
                t6_3 = x12_3;
            }
            float t7_0, t7_1, t7_2, t7_3;
            t7_0 = 0.0f;
            t7_1 = 0.0f;
            t7_2 = 0.0f;
            t7_3 = 0.0f;
            float x15_0, x15_1, x15_2, x15_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (7 * d1 + i1_1));
                x15_0 = v.v[0];
                x15_1 = v.v[1];
                x15_2 = v.v[2];
                x15_3 = v.v[3];
            }
            float x14_0, x14_1, x14_2, x14_3;
            if ((((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * d3 + d1 * i3_1 + i1_1));
                    x14_0 = v.v[0];
                    x14_1 = v.v[1];
                    x14_2 = v.v[2];
                    x14_3 = v.v[3];
                }
                t7_0 = x14_0;
                t7_1 = x14_1;
                t7_2 = x14_2;
                t7_3 = x14_3;
            }
            float t8_0, t8_1, t8_2, t8_3;
            t8_0 = 0.0f;
            t8_1 = 0.0f;
            t8_2 = 0.0f;
            t8_3 = 0.0f;
            float x17_0, x17_1, x17_2, x17_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + (8 * d1 + i1_1));
                x17_0 = v.v[0];
                x17_1 = v.v[1];
                x17_2 = v.v[2];
                x17_3 = v.v[3];
            }
            float x16_0, x16_1, x16_2, x16_3;
            if ((((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3)) {
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * d3 + d1 * i3_1 + d1 + i1_1));
                    x16_0 = v.v[0];
                    x16_1 = v.v[1];
                    x16_2 = v.v[2];
                    x16_3 = v.v[3];
                }
                t8_0 = x16_0;
                t8_1 = x16_1;
                t8_2 = x16_2;
                t8_3 = x16_3;
            }
            a0_0 = a0_0 + (t6_0 * x13_0);
            a0_1 = a0_1 + (t6_1 * x13_1);
            a0_2 = a0_2 + (t6_2 * x13_2);
            a0_3 = a0_3 + (t6_3 * x13_3);
            a0_0 = a0_0 + (t7_0 * x15_0);
            a0_1 = a0_1 + (t7_1 * x15_1);
            a0_2 = a0_2 + (t7_2 * x15_2);
            a0_3 = a0_3 + (t7_3 * x15_3);
            a0_0 = a0_0 + (t8_0 * x17_0);
            a0_1 = a0_1 + (t8_1 * x17_1);
            a0_2 = a0_2 + (t8_2 * x17_2);
            a0_3 = a0_3 + (t8_3 * x17_3);
            float x18_0, x18_1, x18_2, x18_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b2 + i1_1);
                x18_0 = v.v[0];
                x18_1 = v.v[1];
                x18_2 = v.v[2];
                x18_3 = v.v[3];
            }
            float y0_1_0, y0_1_1, y0_1_2, y0_1_3;
            float x19;
            x19 = a0_0 + x18_0;
            y0_1_0 = (x19 < 0.0f) ? 0.0f : ((x19 > 6.0f) ? 6.0f : x19);
            float x19_1;
            x19_1 = a0_1 + x18_1;
            y0_1_1 = (x19_1 < 0.0f) ? 0.0f : ((x19_1 > 6.0f) ? 6.0f : x19_1);
            float x19_2;
            x19_2 = a0_2 + x18_2;
            y0_1_2 = (x19_2 < 0.0f) ? 0.0f : ((x19_2 > 6.0f) ? 6.0f : x19_2);
            float x19_3;
            x19_3 = a0_3 + x18_3;
            y0_1_3 = (x19_3 < 0.0f) ? 0.0f : ((x19_3 > 6.0f) ? 6.0f : x19_3);
            {
                nn_vec<float, 4> v;
                v.v[0] = y0_1_0;
                v.v[1] = y0_1_1;
                v.v[2] = y0_1_2;
                v.v[3] = y0_1_3;
                *(nn_vec<float, 4>*)(b3 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + i1_1)) = v;
            }
        }
    }
}
