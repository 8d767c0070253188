extern "C" __global__ void __launch_bounds__(512) pools_in_a_row(const float* __restrict__ b0, float* __restrict__ b1, const nn_int d0, const nn_int d1, const nn_int d2, const nn_int d3, const nn_int t0, const nn_int t1, const nn_int t2) {
    extern __shared__ __align__(64) unsigned char nn_tile[];
    float* s0 = (float*)(nn_tile);
    const nn_int s0_end = 0 + (((4 * d3 * t0 * t1 * t2 + 8 * d3 * t0 * t2) + 63) / 64) * 64;
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
    const nn_int l0_2 = max(o1 - 1, (nn_int)0);
    const nn_int h0_2 = min(e1 + 1, d2);
    const nn_int n0 = (e2 - o2);
    const nn_int n1 = d3;
    const nn_int n2 = (h0_2 - l0_2);
    const nn_int n3 = (e0 - o0);
    for (nn_int f0 = (nn_int)threadIdx.x; f0 < (n0 * n1 * n2 * n3); f0 += (nn_int)blockDim.x) {
        const nn_int i1 = ((nn_int)((nn_uint)f0 % (nn_uint)n0) + o2);
        const nn_int g0 = (nn_int)((nn_uint)f0 / (nn_uint)n0);
        const nn_int i3 = (nn_int)((nn_uint)g0 % (nn_uint)n1);
        const nn_int g1 = (nn_int)((nn_uint)g0 / (nn_uint)n1);
        const nn_int i2 = ((nn_int)((nn_uint)g1 % (nn_uint)n2) + l0_2);
        const nn_int g2 = (nn_int)((nn_uint)g1 / (nn_uint)n2);
        const nn_int i0 = (g2 + o0);
        float a0_0;
        a0_0 = __int_as_float(0xff800000);
        float t0_1_0;
        t0_1_0 = __int_as_float(0xff800000);
        float x0_0;
        if ((((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1 * d3 - d1));
                x0_0 = v.v[0];
            }
            t0_1_0 = x0_0;
        }
        float t1_1_0;
        t1_1_0 = __int_as_float(0xff800000);
        float x1_0;
        if ((((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 >= 0)) && (i3 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1 * d3));
                x1_0 = v.v[0];
            }
            t1_1_0 = x1_0;
        }
        float t2_1_0;
        t2_1_0 = __int_as_float(0xff800000);
        float x2_0;
        if ((((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + d1 + i1 - d1 * d3));
                x2_0 = v.v[0];
            }
            t2_1_0 = x2_0;
        }
        a0_0 = nn_max_f32(a0_0, t0_1_0);
        a0_0 = nn_max_f32(a0_0, t1_1_0);
        a0_0 = nn_max_f32(a0_0, t2_1_0);
        float t3_0;
        t3_0 = __int_as_float(0xff800000);
        float x3_0;
        if ((((i2 >= 0) && (i2 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1));
                x3_0 = v.v[0];
            }
            t3_0 = x3_0;
        }
        float t4_0;
        t4_0 = __int_as_float(0xff800000);
        float x4_0;
        if ((((i2 >= 0) && (i2 < d2)) && (i3 >= 0)) && (i3 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1));
                x4_0 = v.v[0];
            }
            t4_0 = x4_0;
        }
        float t5_0;
        t5_0 = __int_as_float(0xff800000);
        float x5_0;
        if ((((i2 >= 0) && (i2 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + d1 + i1));
                x5_0 = v.v[0];
            }
            t5_0 = x5_0;
        }
        a0_0 = nn_max_f32(a0_0, t3_0);
        a0_0 = nn_max_f32(a0_0, t4_0);
        a0_0 = nn_max_f32(a0_0, t5_0);
        float t6_0;
        t6_0 = __int_as_float(0xff800000);
        float x6_0;
        if ((((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + i1 - d1));
                x6_0 = v.v[0];
            }
            t6_0 = x6_0;
        }
        float t7_0;
        t7_0 = __int_as_float(0xff800000);
        float x7_0;
        if ((((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 >= 0)) && (i3 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + i1));
                x7_0 = v.v[0];
            }
            t7_0 = x7_0;
        }
        float t8_0;
        t8_0 = __int_as_float(0xff800000);
        float x8_0;
        if ((((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + d1 + i1));
                x8_0 = v.v[0];
            }
            t8_0 = x8_0;
        }
        a0_0 = nn_max_f32(a0_0, t6_0);
        a0_0 = nn_max_f32(a0_0, t7_0);
        a0_0 = nn_max_f32(a0_0, t8_0);
        float y0_1_0;
        y0_1_0 = a0_0;
        {
            nn_vec<float, 1> v;
            v.v[0] = y0_1_0;
            *(nn_vec<float, 1>*)(s0 + (d3 * i0 * t1 * t2 + 2 * d3 * i0 * t2 + d3 * i2 * t2 + i3 * t2 + i1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2)) = v;
        }
    }
    __syncthreads();
    const nn_int n4 = (e2 - o2);
    const nn_int n5 = d3;
    const nn_int n6 = (e1 - o1);
    const nn_int n7 = (e0 - o0);
    for (nn_int f1 = (nn_int)threadIdx.x; f1 < (n4 * n5 * n6 * n7); f1 += (nn_int)blockDim.x) {
        const nn_int i1_1 = ((nn_int)((nn_uint)f1 % (nn_uint)n4) + o2);
        const nn_int g3 = (nn_int)((nn_uint)f1 / (nn_uint)n4);
        const nn_int i3_1 = (nn_int)((nn_uint)g3 % (nn_uint)n5);
        const nn_int g4 = (nn_int)((nn_uint)g3 / (nn_uint)n5);
        const nn_int i2_1 = ((nn_int)((nn_uint)g4 % (nn_uint)n6) + o1);
        const nn_int g5 = (nn_int)((nn_uint)g4 / (nn_uint)n6);
        const nn_int i0_1 = (g5 + o0);
        float a1_0;
        a1_0 = 0.0f;
        float t9_0;
        t9_0 = 0.0f;
        float x9_0;
        if ((((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - d3 * t2 - o2 - t2));
                x9_0 = v.v[0];
            }
            t9_0 = x9_0;
        }
        float t10_0;
        t10_0 = 0.0f;
        float x10_0;
        if ((((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - d3 * t2 - o2));
                x10_0 = v.v[0];
            }
            t10_0 = x10_0;
        }
        float t11_0;
        t11_0 = 0.0f;
        float x11_0;
        if ((((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 + t2 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - d3 * t2 - o2));
                x11_0 = v.v[0];
            }
            t11_0 = x11_0;
        }
        a1_0 = a1_0 + t9_0;
        a1_0 = a1_0 + t10_0;
        a1_0 = a1_0 + t11_0;
        float t12_0;
        t12_0 = 0.0f;
        float x12_0;
        if ((((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2 - t2));
                x12_0 = v.v[0];
            }
            t12_0 = x12_0;
        }
        float t13_0;
        t13_0 = 0.0f;
        float x13_0;
        if ((((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2));
                x13_0 = v.v[0];
            }
            t13_0 = x13_0;
        }
        float t14_0;
        t14_0 = 0.0f;
        float x14_0;
        if ((((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 + t2 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2));
                x14_0 = v.v[0];
            }
            t14_0 = x14_0;
        }
        a1_0 = a1_0 + t12_0;
        a1_0 = a1_0 + t13_0;
        a1_0 = a1_0 + t14_0;
        float t15_0;
        t15_0 = 0.0f;
        float x15_0;
        if ((((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + d3 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2 - t2));
                x15_0 = v.v[0];
            }
            t15_0 = x15_0;
        }
        float t16_0;
        t16_0 = 0.0f;
        float x16_0;
        if ((((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + d3 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2));
                x16_0 = v.v[0];
            }
            t16_0 = x16_0;
        }
        float t17_0;
        t17_0 = 0.0f;
        float x17_0;
        if ((((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3)) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + (d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + d3 * t2 + i3_1 * t2 + i1_1 + t2 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2));
                x17_0 = v.v[0];
            }
            t17_0 = x17_0;
        }
        a1_0 = a1_0 + t15_0;
        a1_0 = a1_0 + t16_0;
        a1_0 = a1_0 + t17_0;
        float y1_1_0;
        y1_1_0 = a1_0 / 9.0f;
        {
            nn_vec<float, 1> v;
            v.v[0] = y1_1_0;
            *(nn_vec<float, 1>*)(b1 + (d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + i1_1)) = v;
        }
    }
}
