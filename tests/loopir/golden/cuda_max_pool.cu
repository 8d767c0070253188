extern "C" __global__ void __launch_bounds__(512) max_pool(const float* __restrict__ b0, float* __restrict__ b1, const nn_int d0, const nn_int d1, const nn_int d2, const nn_int d3, const nn_int t0, const nn_int t1, const nn_int t2) {
    const nn_int task = (nn_int)blockIdx.x;
    const nn_int p2 = task % nn_quotient((d1 + t2 - 1), t2);
    const nn_int task_2 = task / nn_quotient((d1 + t2 - 1), t2);
    const nn_int p1 = task_2 % nn_quotient((((d2 + 1) >> 1) + t1 - 1), t1);
    const nn_int task_1 = task_2 / nn_quotient((((d2 + 1) >> 1) + t1 - 1), t1);
    const nn_int p0 = task_1;
    const nn_int o0 = (p0 * t0);
    const nn_int e0 = min(o0 + t0, d0);
    const nn_int o1 = (p1 * t1);
    const nn_int e1 = min((d2 + 1) >> 1, o1 + t1);
    const nn_int o2 = (p2 * t2);
    const nn_int e2 = min(o2 + t2, d1);
    const nn_int n0 = ((e2 - o2 + 3) >> 2);
    const nn_int n1 = ((d3 + 1) >> 1);
    const nn_int n2 = (e1 - o1);
    const nn_int n3 = (e0 - o0);
    for (nn_int f0 = (nn_int)threadIdx.x; f0 < (n0 * n1 * n2 * n3); f0 += (nn_int)blockDim.x) {
        const nn_int i1 = (4 * (nn_int)((nn_uint)f0 % (nn_uint)n0) + o2);
        const nn_int g0 = (nn_int)((nn_uint)f0 / (nn_uint)n0);
        const nn_int i3 = (nn_int)((nn_uint)g0 % (nn_uint)n1);
        const nn_int g1 = (nn_int)((nn_uint)g0 / (nn_uint)n1);
        const nn_int i2 = ((nn_int)((nn_uint)g1 % (nn_uint)n2) + o1);
        const nn_int g2 = (nn_int)((nn_uint)g1 / (nn_uint)n2);
        const nn_int i0 = (g2 + o0);
        float a0_0, a0_1, a0_2, a0_3;
        a0_0 = __int_as_float(0xff800000);
        a0_1 = __int_as_float(0xff800000);
        a0_2 = __int_as_float(0xff800000);
        a0_3 = __int_as_float(0xff800000);
        float t0_1_0, t0_1_1, t0_1_2, t0_1_3;
        t0_1_0 = __int_as_float(0xff800000);
        t0_1_1 = __int_as_float(0xff800000);
        t0_1_2 = __int_as_float(0xff800000);
        t0_1_3 = __int_as_float(0xff800000);
        float x0_0, x0_1, x0_2, x0_3;
        if ((((2 * i2 - 1 >= 0) && (2 * i2 - 1 < d2)) && (2 * i3 - 1 >= 0)) && (2 * i3 - 1 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + 2 * d1 * i3 + i1 - d1 * d3 - d1));
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
        t1_1_0 = __int_as_float(0xff800000);
        t1_1_1 = __int_as_float(0xff800000);
        t1_1_2 = __int_as_float(0xff800000);
        t1_1_3 = __int_as_float(0xff800000);
        float x1_0, x1_1, x1_2, x1_3;
        if ((((2 * i2 - 1 >= 0) && (2 * i2 - 1 < d2)) && (2 * i3 >= 0)) && (2 * i3 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + 2 * d1 * i3 + i1 - d1 * d3));
                x1_0 = v.v[0];
                x1_1 = v.v[1];
                x1_2 = v.v[2];
                x1_3 = v.v[3];
            }
            t1_1_0 = x1_0;
            t1_1_1 = x1_1;
            t1_1_2 = x1_2;
            t1_1_3 = x1_3;
        }
        float t2_1_0, t2_1_1, t2_1_2, t2_1_3;
        t2_1_0 = __int_as_float(0xff800000);
        t2_1_1 = __int_as_float(0xff800000);
        t2_1_2 = __int_as_float(0xff800000);
        t2_1_3 = __int_as_float(0xff800000);
        float x2_0, x2_1, x2_2, x2_3;
        if ((((2 * i2 - 1 >= 0) && (2 * i2 - 1 < d2)) && (2 * i3 + 1 >= 0)) && (2 * i3 + 1 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + 2 * d1 * i3 + d1 + i1 - d1 * d3));
                x2_0 = v.v[0];
                x2_1 = v.v[1];
                x2_2 = v.v[2];
                x2_3 = v.v[3];
            }
            t2_1_0 = x2_0;
            t2_1_1 = x2_1;
            t2_1_2 = x2_2;
            t2_1_3 = x2_3;
        }
        a0_0 = nn_max_f32(a0_0, t0_1_0);
        a0_1 = nn_max_f32(a0_1, t0_1_1);
        a0_2 = nn_max_f32(a0_2, t0_1_2);
        a0_3 = nn_max_f32(a0_3, t0_1_3);
        a0_0 = nn_max_f32(a0_0, t1_1_0);
        a0_1 = nn_max_f32(a0_1, t1_1_1);
        a0_2 = nn_max_f32(a0_2, t1_1_2);
        a0_3 = nn_max_f32(a0_3, t1_1_3);
        a0_0 = nn_max_f32(a0_0, t2_1_0);
        a0_1 = nn_max_f32(a0_1, t2_1_1);
        a0_2 = nn_max_f32(a0_2, t2_1_2);
        a0_3 = nn_max_f32(a0_3, t2_1_3);
        float t3_0, t3_1, t3_2, t3_3;
        t3_0 = __int_as_float(0xff800000);
        t3_1 = __int_as_float(0xff800000);
        t3_2 = __int_as_float(0xff800000);
        t3_3 = __int_as_float(0xff800000);
        float x3_0, x3_1, x3_2, x3_3;
        if ((((2 * i2 >= 0) && (2 * i2 < d2)) && (2 * i3 - 1 >= 0)) && (2 * i3 - 1 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + 2 * d1 * i3 + i1 - d1));
                x3_0 = v.v[0];
                x3_1 = v.v[1];
                x3_2 = v.v[2];
                x3_3 = v.v[3];
            }
            t3_0 = x3_0;
            t3_1 = x3_1;
            t3_2 = x3_2;
            t3_3 = x3_3;
        }
        float t4_0, t4_1, t4_2, t4_3;
        t4_0 = __int_as_float(0xff800000);
        t4_1 = __int_as_float(0xff800000);
        t4_2 = __int_as_float(0xff800000);
        t4_3 = __int_as_float(0xff800000);
        float x4_0, x4_1, x4_2, x4_3;
        if ((((2 * i2 >= 0) && (2 * i2 < d2)) && (2 * i3 >= 0)) && (2 * i3 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + 2 * d1 * i3 + i1));
                x4_0 = v.v[0];
                x4_1 = v.v[1];
                x4_2 = v.v[2];
                x4_3 = v.v[3];
            }
            t4_0 = x4_0;
            t4_1 = x4_1;
            t4_2 = x4_2;
            t4_3 = x4_3;
        }
        float t5_0, t5_1, t5_2, t5_3;
        t5_0 = __int_as_float(0xff800000);
        t5_1 = __int_as_float(0xff800000);
        t5_2 = __int_as_float(0xff800000);
        t5_3 = __int_as_float(0xff800000);
        float x5_0, x5_1, x5_2, x5_3;
        if ((((2 * i2 >= 0) && (2 * i2 < d2)) && (2 * i3 + 1 >= 0)) && (2 * i3 + 1 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + 2 * d1 * i3 + d1 + i1));
                x5_0 = v.v[0];
                x5_1 = v.v[1];
                x5_2 = v.v[2];
                x5_3 = v.v[3];
            }
            t5_0 = x5_0;
            t5_1 = x5_1;
            t5_2 = x5_2;
            t5_3 = x5_3;
        }
        a0_0 = nn_max_f32(a0_0, t3_0);
        a0_1 = nn_max_f32(a0_1, t3_1);
        a0_2 = nn_max_f32(a0_2, t3_2);
        a0_3 = nn_max_f32(a0_3, t3_3);
        a0_0 = nn_max_f32(a0_0, t4_0);
        a0_1 = nn_max_f32(a0_1, t4_1);
        a0_2 = nn_max_f32(a0_2, t4_2);
        a0_3 = nn_max_f32(a0_3, t4_3);
        a0_0 = nn_max_f32(a0_0, t5_0);
        a0_1 = nn_max_f32(a0_1, t5_1);
        a0_2 = nn_max_f32(a0_2, t5_2);
        a0_3 = nn_max_f32(a0_3, t5_3);
        float t6_0, t6_1, t6_2, t6_3;
        t6_0 = __int_as_float(0xff800000);
        t6_1 = __int_as_float(0xff800000);
        t6_2 = __int_as_float(0xff800000);
        t6_3 = __int_as_float(0xff800000);
        float x6_0, x6_1, x6_2, x6_3;
        if ((((2 * i2 + 1 >= 0) && (2 * i2 + 1 < d2)) && (2 * i3 - 1 >= 0)) && (2 * i3 - 1 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + d1 * d3 + 2 * d1 * i3 + i1 - d1));
                x6_0 = v.v[0];
                x6_1 = v.v[1];
                x6_2 = v.v[2];
                x6_3 = v.v[3];
            }
            t6_0 = x6_0;
            t6_1 = x6_1;
            t6_2 = x6_2;
            t6_3 = x6_3;
        }
        float t7_0, t7_1, t7_2, t7_3;
        t7_0 = __int_as_float(0xff800000);
        t7_1 = __int_as_float(0xff800000);
        t7_2 = __int_as_float(0xff800000);
        t7_3 = __int_as_float(0xff800000);
        float x7_0, x7_1, x7_2, x7_3;
        if ((((2 * i2 + 1 >= 0) && (2 * i2 + 1 < d2)) && (2 * i3 >= 0)) && (2 * i3 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + d1 * d3 + 2 * d1 * i3 + i1));
                x7_0 = v.v[0];
                x7_1 = v.v[1];
                x7_2 = v.v[2];
                x7_3 = v.v[3];
            }
            t7_0 = x7_0;
            t7_1 = x7_1;
            t7_2 = x7_2;
            t7_3 = x7_3;
        }
        float t8_0, t8_1, t8_2, t8_3;
        t8_0 = __int_as_float(0xff800000);
        t8_1 = __int_as_float(0xff800000);
        t8_2 = __int_as_float(0xff800000);
        t8_3 = __int_as_float(0xff800000);
        float x8_0, x8_1, x8_2, x8_3;
        if ((((2 * i2 + 1 >= 0) && (2 * i2 + 1 < d2)) && (2 * i3 + 1 >= 0)) && (2 * i3 + 1 < d3)) {
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + 2 * d1 * d3 * i2 + d1 * d3 + 2 * d1 * i3 + d1 + i1));
                x8_0 = v.v[0];
                x8_1 = v.v[1];
                x8_2 = v.v[2];
                x8_3 = v.v[3];
            }
            t8_0 = x8_0;
            t8_1 = x8_1;
            t8_2 = x8_2;
            t8_3 = x8_3;
        }
        a0_0 = nn_max_f32(a0_0, t6_0);
        a0_1 = nn_max_f32(a0_1, t6_1);
        a0_2 = nn_max_f32(a0_2, t6_2);
        a0_3 = nn_max_f32(a0_3, t6_3);
        a0_0 = nn_max_f32(a0_0, t7_0);
        a0_1 = nn_max_f32(a0_1, t7_1);
        a0_2 = nn_max_f32(a0_2, t7_2);
        a0_3 = nn_max_f32(a0_3, t7_3);
        a0_0 = nn_max_f32(a0_0, t8_0);
        a0_1 = nn_max_f32(a0_1, t8_1);
        a0_2 = nn_max_f32(a0_2, t8_2);
        a0_3 = nn_max_f32(a0_3, t8_3);
        float y0_1_0, y0_1_1, y0_1_2, y0_1_3;
        y0_1_0 = a0_0;
        y0_1_1 = a0_1;
        y0_1_2 = a0_2;
        y0_1_3 = a0_3;
        {
            nn_vec<float, 4> v;
            v.v[0] = y0_1_0;
            v.v[1] = y0_1_1;
            v.v[2] = y0_1_2;
            v.v[3] = y0_1_3;
            *(nn_vec<float, 4>*)(b1 + (((d2 + 1) >> 1) * ((d3 + 1) >> 1) * d1 * i0 + ((d3 + 1) >> 1) * d1 * i2 + d1 * i3 + i1)) = v;
        }
    }
}
