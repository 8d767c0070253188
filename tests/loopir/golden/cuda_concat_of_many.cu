extern "C" __global__ void __launch_bounds__(512) concat_of_many(const unsigned short* __restrict__ b0, const unsigned short* __restrict__ b1, const unsigned short* __restrict__ b2, const unsigned short* __restrict__ b3, const unsigned short* __restrict__ b4, unsigned short* __restrict__ b5, const nn_int d0, const nn_int d1, const nn_int d2, const nn_int t0, const nn_int t1, const nn_int t2) {
    const nn_int task = (nn_int)blockIdx.x;
    const nn_int p2 = task % (nn_int)((nn_uint)(t2 + 39) / (nn_uint)t2);
    const nn_int task_2 = task / (nn_int)((nn_uint)(t2 + 39) / (nn_uint)t2);
    const nn_int p1 = task_2 % nn_quotient((d1 + t1 - 1), t1);
    const nn_int task_1 = task_2 / nn_quotient((d1 + t1 - 1), t1);
    const nn_int p0 = task_1;
    const nn_int o0 = (p0 * t0);
    const nn_int e0 = min(o0 + t0, d0);
    const nn_int o1 = (p1 * t1);
    const nn_int e1 = min(o1 + t1, d1);
    const nn_int o2 = (p2 * t2);
    const nn_int e2 = min(o2 + t2, (nn_int)40);
    if (d2 >= 2) {
        const nn_int n5 = 4;
        const nn_int n6 = ((d2 + 1) >> 1);
        const nn_int n7 = (e1 - o1);
        const nn_int n8 = (e0 - o0);
        const nn_int n9 = ((e2 - o2 + 15) >> 4);
        for (nn_int f1 = (nn_int)threadIdx.x; f1 < (n5 * n6 * n7 * n8 * n9); f1 += (nn_int)blockDim.x) {
            const nn_int q3 = (nn_int)((nn_uint)f1 % (nn_uint)n5);
            const nn_int g4 = (nn_int)((nn_uint)f1 / (nn_uint)n5);
            const nn_int k0 = (nn_int)((nn_uint)g4 % (nn_uint)n6);
            const nn_int g5 = (nn_int)((nn_uint)g4 / (nn_uint)n6);
            const nn_int i2 = ((nn_int)((nn_uint)g5 % (nn_uint)n7) + o1);
            const nn_int g6 = (nn_int)((nn_uint)g5 / (nn_uint)n7);
            const nn_int i0 = ((nn_int)((nn_uint)g6 % (nn_uint)n8) + o0);
            const nn_int g7 = (nn_int)((nn_uint)g6 / (nn_uint)n8);
            const nn_int q2 = g7;
            const nn_int i1 = (o2 + 16 * q2 + 4 * q3);
            if (i1 < e2) {
                const nn_int i3 = min(2 * k0, d2 - 2);
                float x7_0, x7_1, x7_2, x7_3;
                float x8_0, x8_1, x8_2, x8_3;
                if (i1 < 16) {
                    if (i1 < 8) {
                        float x9_0, x9_1, x9_2, x9_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b0 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3));
                            x9_0 = nn_low_bf16(v.v[0]);
                            x9_1 = nn_high_bf16(v.v[0]);
                            x9_2 = nn_low_bf16(v.v[1]);
                            x9_3 = nn_high_bf16(v.v[1]);
                        }
                        float x10_0, x10_1, x10_2, x10_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b0 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3 + 8));
                            x10_0 = nn_low_bf16(v.v[0]);
                            x10_1 = nn_high_bf16(v.v[0]);
                            x10_2 = nn_low_bf16(v.v[1]);
                            x10_3 = nn_high_bf16(v.v[1]);
                        }
                        x7_0 = x9_0;
                        x7_1 = x9_1;
                        x7_2 = x9_2;
                        x7_3 = x9_3;
                        x8_0 = x10_0;
                        x8_1 = x10_1;
                        x8_2 = x10_2;
                        x8_3 = x10_3;
                    } else {
                        float x11_0, x11_1, x11_2, x11_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b1 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3 - 8));
                            x11_0 = nn_low_bf16(v.v[0]);
                            x11_1 = nn_high_bf16(v.v[0]);
                            x11_2 = nn_low_bf16(v.v[1]);
                            x11_3 = nn_high_bf16(v.v[1]);
                        }
                        float x12_0, x12_1, x12_2, x12_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b1 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3));
                            x12_0 = nn_low_bf16(v.v[0]);
                            x12_1 = nn_high_bf16(v.v[0]);
                            x12_2 = nn_low_bf16(v.v[1]);
                            x12_3 = nn_high_bf16(v.v[1]);
                        }
                        x7_0 = x11_0;
                        x7_1 = x11_1;
                        x7_2 = x11_2;
                        x7_3 = x11_3;
                        x8_0 = x12_0;
                        x8_1 = x12_1;
                        x8_2 = x12_2;
                        x8_3 = x12_3;
                    }
                } else {
                    if (i1 < 24) {
                        float x13_0, x13_1, x13_2, x13_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b2 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3 - 16));
                            x13_0 = nn_low_bf16(v.v[0]);
                            x13_1 = nn_high_bf16(v.v[0]);
                            x13_2 = nn_low_bf16(v.v[1]);
                            x13_3 = nn_high_bf16(v.v[1]);
                        }
                        float x14_0, x14_1, x14_2, x14_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b2 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3 - 8));
                            x14_0 = nn_low_bf16(v.v[0]);
                            x14_1 = nn_high_bf16(v.v[0]);
                            x14_2 = nn_low_bf16(v.v[1]);
                            x14_3 = nn_high_bf16(v.v[1]);
                        }
                        x7_0 = x13_0;
                        x7_1 = x13_1;
                        x7_2 = x13_2;
                        x7_3 = x13_3;
                        x8_0 = x14_0;
                        x8_1 = x14_1;
                        x8_2 = x14_2;
                        x8_3 = x14_3;
                    } else {
                        if (i1 < 32) {
                            float x15_0, x15_1, x15_2, x15_3;
                            {
                                const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b3 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3 - 24));
                                x15_0 = nn_low_bf16(v.v[0]);
                                x15_1 = nn_high_bf16(v.v[0]);
                                x15_2 = nn_low_bf16(v.v[1]);
                                x15_3 = nn_high_bf16(v.v[1]);
                            }
                            float x16_0, x16_1, x16_2, x16_3;
                            {
                                const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b3 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3 - 16));
                                x16_0 = nn_low_bf16(v.v[0]);
                                x16_1 = nn_high_bf16(v.v[0]);
                                x16_2 = nn_low_bf16(v.v[1]);
                                x16_3 = nn_high_bf16(v.v[1]);
                            }
                            x7_0 = x15_0;
                            x7_1 = x15_1;
                            x7_2 = x15_2;
                            x7_3 = x15_3;
                            x8_0 = x16_0;
                            x8_1 = x16_1;
                            x8_2 = x16_2;
                            x8_3 = x16_3;
                        } else {
                            float x17_0, x17_1, x17_2, x17_3;
                            {
                                const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b4 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3 - 32));
                                x17_0 = nn_low_bf16(v.v[0]);
                                x17_1 = nn_high_bf16(v.v[0]);
                                x17_2 = nn_low_bf16(v.v[1]);
                                x17_3 = nn_high_bf16(v.v[1]);
                            }
                            float x18_0, x18_1, x18_2, x18_3;
                            {
                                const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b4 + (8 * d1 * d2 * i0 + 8 * d2 * i2 + i1 + 8 * i3 - 24));
                                x18_0 = nn_low_bf16(v.v[0]);
                                x18_1 = nn_high_bf16(v.v[0]);
                                x18_2 = nn_low_bf16(v.v[1]);
                                x18_3 = nn_high_bf16(v.v[1]);
                            }
                            x7_0 = x17_0;
                            x7_1 = x17_1;
                            x7_2 = x17_2;
                            x7_3 = x17_3;
                            x8_0 = x18_0;
                            x8_1 = x18_1;
                            x8_2 = x18_2;
                            x8_3 = x18_3;
                        }
                    }
                }
                float y1_1_0, y1_1_1, y1_1_2, y1_1_3;
                float x19;
                x19 = x7_0;
                y1_1_0 = (x19 < 0.0f) ? 0.0f : x19;
                float x19_1;
                x19_1 = x7_1;
                y1_1_1 = (x19_1 < 0.0f) ? 0.0f : x19_1;
                float x19_2;
                x19_2 = x7_2;
                y1_1_2 = (x19_2 < 0.0f) ? 0.0f : x19_2;
                float x19_3;
                x19_3 = x7_3;
                y1_1_3 = (x19_3 < 0.0f) ? 0.0f : x19_3;
                {
                    nn_vec<unsigned, 2> v;
                    v.v[0] = nn_pair_bf16(y1_1_0, y1_1_1);
                    v.v[1] = nn_pair_bf16(y1_1_2, y1_1_3);
                    *(nn_vec<unsigned, 2>*)(b5 + (40 * d1 * d2 * i0 + 40 * d2 * i2 + i1 + 40 * i3)) = v;
                }
                float y2_0, y2_1, y2_2, y2_3;
                float x20;
                x20 = x8_0;
                y2_0 = (x20 < 0.0f) ? 0.0f : x20;
                float x20_1;
                x20_1 = x8_1;
                y2_1 = (x20_1 < 0.0f) ? 0.0f : x20_1;
                float x20_2;
                x20_2 = x8_2;
                y2_2 = (x20_2 < 0.0f) ? 0.0f : x20_2;
                float x20_3;
                x20_3 = x8_3;
                y2_3 = (x20_3 < 0.0f) ? 0.0f : x20_3;
                {
                    nn_vec<unsigned, 2> v;
                    v.v[0] = nn_pair_bf16(y2_0, y2_1);
                    v.v[1] = nn_pair_bf16(y2_2, y2_3);
                    *(nn_vec<unsigned, 2>*)(b5 + (40 * d1 * d2 * i0 + 40 * d2 * i2 + i1 + 40 * i3 + 40)) = v;
                }
            }
        }
    } else {
        const nn_int n0 = 4;
        const nn_int n1 = d2;
        const nn_int n2 = (e1 - o1);
        const nn_int n3 = (e0 - o0);
        const nn_int n4 = ((e2 - o2 + 15) >> 4);
        for (nn_int f0 = (nn_int)threadIdx.x; f0 < (n0 * n1 * n2 * n3 * n4); f0 += (nn_int)blockDim.x) {
            const nn_int q1 = (nn_int)((nn_uint)f0 % (nn_uint)n0);
            const nn_int g0 = (nn_int)((nn_uint)f0 / (nn_uint)n0);
            const nn_int i3_1 = (nn_int)((nn_uint)g0 % (nn_uint)n1);
            const nn_int g1 = (nn_int)((nn_uint)g0 / (nn_uint)n1);
            const nn_int i2_1 = ((nn_int)((nn_uint)g1 % (nn_uint)n2) + o1);
            const nn_int g2 = (nn_int)((nn_uint)g1 / (nn_uint)n2);
            const nn_int i0_1 = ((nn_int)((nn_uint)g2 % (nn_uint)n3) + o0);
            const nn_int g3 = (nn_int)((nn_uint)g2 / (nn_uint)n3);
            const nn_int q0 = g3;
            const nn_int i1_1 = (o2 + 16 * q0 + 4 * q1);
            if (i1_1 < e2) {
                float x0_0, x0_1, x0_2, x0_3;
                if (i1_1 < 16) {
                    if (i1_1 < 8) {
                        float x1_0, x1_1, x1_2, x1_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b0 + (8 * d1 * d2 * i0_1 + 8 * d2 * i2_1 + i1_1 + 8 * i3_1));
                            x1_0 = nn_low_bf16(v.v[0]);
                            x1_1 = nn_high_bf16(v.v[0]);
                            x1_2 = nn_low_bf16(v.v[1]);
                            x1_3 = nn_high_bf16(v.v[1]);
                        }
                        x0_0 = x1_0;
                        x0_1 = x1_1;
                        x0_2 = x1_2;
                        x0_3 = x1_3;
                    } else {
                        float x2_0, x2_1, x2_2, x2_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b1 + (8 * d1 * d2 * i0_1 + 8 * d2 * i2_1 + i1_1 + 8 * i3_1 - 8));
                            x2_0 = nn_low_bf16(v.v[0]);
                            x2_1 = nn_high_bf16(v.v[0]);
                            x2_2 = nn_low_bf16(v.v[1]);
                            x2_3 = nn_high_bf16(v.v[1]);
                        }
                        x0_0 = x2_0;
                        x0_1 = x2_1;
                        x0_2 = x2_2;
                        x0_3 = x2_3;
                    }
                } else {
                    if (i1_1 < 24) {
                        float x3_0, x3_1, x3_2, x3_3;
                        {
                            const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b2 + (8 * d1 * d2 * i0_1 + 8 * d2 * i2_1 + i1_1 + 8 * i3_1 - 16));
                            x3_0 = nn_low_bf16(v.v[0]);
                            x3_1 = nn_high_bf16(v.v[0]);
                            x3_2 = nn_low_bf16(v.v[1]);
                            x3_3 = nn_high_bf16(v.v[1]);
                        }
                        x0_0 = x3_0;
                        x0_1 = x3_1;
                        x0_2 = x3_2;
                        x0_3 = x3_3;
                    } else {
                        if (i1_1 < 32) {
                            float x4_0, x4_1, x4_2, x4_3;
                            {
                                const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b3 + (8 * d1 * d2 * i0_1 + 8 * d2 * i2_1 + i1_1 + 8 * i3_1 - 24));
                                x4_0 = nn_low_bf16(v.v[0]);
                                x4_1 = nn_high_bf16(v.v[0]);
                                x4_2 = nn_low_bf16(v.v[1]);
                                x4_3 = nn_high_bf16(v.v[1]);
                            }
                            x0_0 = x4_0;
                            x0_1 = x4_1;
                            x0_2 = x4_2;
                            x0_3 = x4_3;
                        } else {
                            float x5_0, x5_1, x5_2, x5_3;
                            {
                                const nn_vec<unsigned, 2> v = *(const nn_vec<unsigned, 2>*)(b4 + (8 * d1 * d2 * i0_1 + 8 * d2 * i2_1 + i1_1 + 8 * i3_1 - 32));
                                x5_0 = nn_low_bf16(v.v[0]);
                                x5_1 = nn_high_bf16(v.v[0]);
                                x5_2 = nn_low_bf16(v.v[1]);
                                x5_3 = nn_high_bf16(v.v[1]);
                            }
                            x0_0 = x5_0;
                            x0_1 = x5_1;
                            x0_2 = x5_2;
                            x0_3 = x5_3;
                        }
                    }
                }
                float y0_1_0, y0_1_1, y0_1_2, y0_1_3;
                float x6;
                x6 = x0_0;
                y0_1_0 = (x6 < 0.0f) ? 0.0f : x6;
                float x6_1;
                x6_1 = x0_1;
                y0_1_1 = (x6_1 < 0.0f) ? 0.0f : x6_1;
                float x6_2;
                x6_2 = x0_2;
                y0_1_2 = (x6_2 < 0.0f) ? 0.0f : x6_2;
                float x6_3;
                x6_3 = x0_3;
                y0_1_3 = (x6_3 < 0.0f) ? 0.0f : x6_3;
                {
                    nn_vec<unsigned, 2> v;
                    v.v[0] = nn_pair_bf16(y0_1_0, y0_1_1);
                    v.v[1] = nn_pair_bf16(y0_1_2, y0_1_3);
                    *(nn_vec<unsigned, 2>*)(b5 + (40 * d1 * d2 * i0_1 + 40 * d2 * i2_1 + i1_1 + 40 * i3_1)) = v;
                }
            }
        }
    }
}
