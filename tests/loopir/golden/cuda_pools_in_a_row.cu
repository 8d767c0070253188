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
        const nn_int i1 = ((f0 % n0) + o2);
        const nn_int g0 = (f0 / n0);
        const nn_int i3 = (g0 % n1);
        const nn_int g1 = (g0 / n1);
        const nn_int i2 = ((g1 % n2) + l0_2);
        const nn_int g2 = (g1 / n2);
        const nn_int i0 = (g2 + o0);
        float a0_0;
        a0_0 = __int_as_float(0xff800000);
        float x0_0;
        bool p0_1;
        p0_1 = (((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3);
        if (p0_1) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1 * d3 - d1);
                x0_0 = v.v[0];
            }
        }
        float x1_0;
        bool p1_1;
        p1_1 = (((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 >= 0)) && (i3 < d3);
        if (p1_1) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1 * d3);
                x1_0 = v.v[0];
            }
        }
        float x2_0;
        bool p2_1;
        p2_1 = (((i2 - 1 >= 0) && (i2 - 1 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3);
        if (p2_1) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + d1 + i1 - d1 * d3);
                x2_0 = v.v[0];
            }
        }
        if (p0_1) {
            a0_0 = nn_max_f32(a0_0, x0_0);
        }
        if (p1_1) {
            a0_0 = nn_max_f32(a0_0, x1_0);
        }
        if (p2_1) {
            a0_0 = nn_max_f32(a0_0, x2_0);
        }
        float x3_0;
        bool p3;
        p3 = (((i2 >= 0) && (i2 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3);
        if (p3) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1 - d1);
                x3_0 = v.v[0];
            }
        }
        float x4_0;
        bool p4;
        p4 = (((i2 >= 0) && (i2 < d2)) && (i3 >= 0)) && (i3 < d3);
        if (p4) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1);
                x4_0 = v.v[0];
            }
        }
        float x5_0;
        bool p5;
        p5 = (((i2 >= 0) && (i2 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3);
        if (p5) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + d1 + i1);
                x5_0 = v.v[0];
            }
        }
        if (p3) {
            a0_0 = nn_max_f32(a0_0, x3_0);
        }
        if (p4) {
            a0_0 = nn_max_f32(a0_0, x4_0);
        }
        if (p5) {
            a0_0 = nn_max_f32(a0_0, x5_0);
        }
        float x6_0;
        bool p6;
        p6 = (((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 - 1 >= 0)) && (i3 - 1 < d3);
        if (p6) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + i1 - d1);
                x6_0 = v.v[0];
            }
        }
        float x7_0;
        bool p7;
        p7 = (((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 >= 0)) && (i3 < d3);
        if (p7) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + i1);
                x7_0 = v.v[0];
            }
        }
        float x8_0;
        bool p8;
        p8 = (((i2 + 1 >= 0) && (i2 + 1 < d2)) && (i3 + 1 >= 0)) && (i3 + 1 < d3);
        if (p8) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * d3 + d1 * i3 + d1 + i1);
                x8_0 = v.v[0];
            }
        }
        if (p6) {
            a0_0 = nn_max_f32(a0_0, x6_0);
        }
        if (p7) {
            a0_0 = nn_max_f32(a0_0, x7_0);
        }
        if (p8) {
            a0_0 = nn_max_f32(a0_0, x8_0);
        }
        float y0_1_0;
        y0_1_0 = a0_0;
        {
            nn_vec<float, 1> v;
            v.v[0] = y0_1_0;
            *(nn_vec<float, 1>*)(s0 + d3 * i0 * t1 * t2 + 2 * d3 * i0 * t2 + d3 * i2 * t2 + i3 * t2 + i1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2) = v;
        }
    }
    __syncthreads();
    const nn_int n4 = (e2 - o2);
    const nn_int n5 = d3;
    const nn_int n6 = (e1 - o1);
    const nn_int n7 = (e0 - o0);
    for (nn_int f1 = (nn_int)threadIdx.x; f1 < (n4 * n5 * n6 * n7); f1 += (nn_int)blockDim.x) {
        const nn_int i1_1 = ((f1 % n4) + o2);
        const nn_int g3 = (f1 / n4);
        const nn_int i3_1 = (g3 % n5);
        const nn_int g4 = (g3 / n5);
        const nn_int i2_1 = ((g4 % n6) + o1);
        const nn_int g5 = (g4 / n6);
        const nn_int i0_1 = (g5 + o0);
        float a1_0;
        a1_0 = 0.0f;
        float x9_0;
        bool p9;
        p9 = (((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3);
        if (p9) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - d3 * t2 - o2 - t2);
                x9_0 = v.v[0];
            }
        }
        float x10_0;
        bool p10;
        p10 = (((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3);
        if (p10) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - d3 * t2 - o2);
                x10_0 = v.v[0];
            }
        }
        float x11_0;
        bool p11;
        p11 = (((i2_1 - 1 >= 0) && (i2_1 - 1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3);
        if (p11) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 + t2 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - d3 * t2 - o2);
                x11_0 = v.v[0];
            }
        }
        if (p9) {
            a1_0 = a1_0 + x9_0;
        }
        if (p10) {
            a1_0 = a1_0 + x10_0;
        }
        if (p11) {
            a1_0 = a1_0 + x11_0;
        }
        float x12_0;
        bool p12;
        p12 = (((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3);
        if (p12) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2 - t2);
                x12_0 = v.v[0];
            }
        }
        float x13_0;
        bool p13;
        p13 = (((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3);
        if (p13) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2);
                x13_0 = v.v[0];
            }
        }
        float x14_0;
        bool p14;
        p14 = (((i2_1 >= 0) && (i2_1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3);
        if (p14) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + i3_1 * t2 + i1_1 + t2 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2);
                x14_0 = v.v[0];
            }
        }
        if (p12) {
            a1_0 = a1_0 + x12_0;
        }
        if (p13) {
            a1_0 = a1_0 + x13_0;
        }
        if (p14) {
            a1_0 = a1_0 + x14_0;
        }
        float x15_0;
        bool p15;
        p15 = (((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 - 1 >= 0)) && (i3_1 - 1 < d3);
        if (p15) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + d3 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2 - t2);
                x15_0 = v.v[0];
            }
        }
        float x16_0;
        bool p16;
        p16 = (((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 >= 0)) && (i3_1 < d3);
        if (p16) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + d3 * t2 + i3_1 * t2 + i1_1 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2);
                x16_0 = v.v[0];
            }
        }
        float x17_0;
        bool p17;
        p17 = (((i2_1 + 1 >= 0) && (i2_1 + 1 < d2)) && (i3_1 + 1 >= 0)) && (i3_1 + 1 < d3);
        if (p17) {
            {
                const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(s0 + d3 * i0_1 * t1 * t2 + 2 * d3 * i0_1 * t2 + d3 * i2_1 * t2 + d3 * t2 + i3_1 * t2 + i1_1 + t2 - d3 * l0_2 * t2 - d3 * o0 * t1 * t2 - 2 * d3 * o0 * t2 - o2);
                x17_0 = v.v[0];
            }
        }
        if (p15) {
            a1_0 = a1_0 + x15_0;
        }
        if (p16) {
            a1_0 = a1_0 + x16_0;
        }
        if (p17) {
            a1_0 = a1_0 + x17_0;
        }
        float y1_1_0;
        y1_1_0 = a1_0 / 9.0f;
        {
            nn_vec<float, 1> v;
            v.v[0] = y1_1_0;
            *(nn_vec<float, 1>*)(b1 + d1 * d2 * d3 * i0_1 + d1 * d3 * i2_1 + d1 * i3_1 + i1_1) = v;
        }
    }
}
