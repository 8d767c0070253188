extern "C" __global__ void __launch_bounds__(512) global_average(const float* __restrict__ b0, float* __restrict__ b1, const nn_int d0, const nn_int d1, const nn_int d2, const nn_int d3, const nn_int t0, const nn_int t1) {
    extern __shared__ __align__(64) unsigned char nn_tile[];
    float* s0 = (float*)(nn_tile);
    const nn_int s0_end = 0 + (((64 * t0 * t1) + 63) / 64) * 64;
    const nn_int task = (nn_int)blockIdx.x;
    const nn_int p1 = task % nn_quotient((d1 + t1 - 1), t1);
    const nn_int task_1 = task / nn_quotient((d1 + t1 - 1), t1);
    const nn_int p0 = task_1;
    const nn_int o0 = (p0 * t0);
    const nn_int e0 = min(o0 + t0, d0);
    const nn_int o1 = (p1 * t1);
    const nn_int e1 = min(o1 + t1, d1);
    const nn_int n0 = ((e1 - o1 + 3) >> 2);
    const nn_int n1 = (e0 - o0);
    const nn_int n2 = 16;
    for (nn_int f0 = (nn_int)threadIdx.x; f0 < (n0 * n1 * n2); f0 += (nn_int)blockDim.x) {
        const nn_int i2 = (4 * (nn_int)((nn_uint)f0 % (nn_uint)n0) + o1);
        const nn_int g0 = (nn_int)((nn_uint)f0 / (nn_uint)n0);
        const nn_int i1 = ((nn_int)((nn_uint)g0 % (nn_uint)n1) + o0);
        const nn_int g1 = (nn_int)((nn_uint)g0 / (nn_uint)n1);
        const nn_int i0 = g1;
        float a0_0, a0_1, a0_2, a0_3;
        a0_0 = 0.0f;
        a0_1 = 0.0f;
        a0_2 = 0.0f;
        a0_3 = 0.0f;
        #pragma unroll 4
        for (nn_int r0 = max((-i0 + 15) >> 4, (nn_int)0); r0 < min((d2 - i0 + 15) >> 4, (d2 + 15) >> 4); ++r0) {
            #pragma unroll 16
            for (nn_int r1 = 0; r1 < d3; ++r1) {
                float x0_0, x0_1, x0_2, x0_3;
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i1 + d1 * d3 * i0 + 16 * d1 * d3 * r0 + d1 * r1 + i2));
                    x0_0 = v.v[0];
                    x0_1 = v.v[1];
                    x0_2 = v.v[2];
                    x0_3 = v.v[3];
                }
                a0_0 = a0_0 + x0_0;
                a0_1 = a0_1 + x0_1;
                a0_2 = a0_2 + x0_2;
                a0_3 = a0_3 + x0_3;
            }
        }
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
            *(nn_vec<float, 4>*)(s0 + (i0 * t0 * t1 + i1 * t1 + i2 - o0 * t1 - o1)) = v;
        }
    }
    __syncthreads();
    const nn_int n3 = ((e1 - o1 + 3) >> 2);
    const nn_int n4 = (e0 - o0);
    for (nn_int f1 = (nn_int)threadIdx.x; f1 < (n3 * n4); f1 += (nn_int)blockDim.x) {
        const nn_int i1_1 = (4 * (nn_int)((nn_uint)f1 % (nn_uint)n3) + o1);
        const nn_int g2 = (nn_int)((nn_uint)f1 / (nn_uint)n3);
        const nn_int i0_1 = (g2 + o0);
        float a1_0, a1_1, a1_2, a1_3;
        a1_0 = 0.0f;
        a1_1 = 0.0f;
        a1_2 = 0.0f;
        a1_3 = 0.0f;
        #pragma unroll 16
        for (nn_int r0 = 0; r0 < 16; ++r0) {
            float x1_0, x1_1, x1_2, x1_3;
            {
                const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(s0 + (i0_1 * t1 + r0 * t0 * t1 + i1_1 - o0 * t1 - o1));
                x1_0 = v.v[0];
                x1_1 = v.v[1];
                x1_2 = v.v[2];
                x1_3 = v.v[3];
            }
            a1_0 = a1_0 + x1_0;
            a1_1 = a1_1 + x1_1;
            a1_2 = a1_2 + x1_2;
            a1_3 = a1_3 + x1_3;
        }
        float y1_1_0, y1_1_1, y1_1_2, y1_1_3;
        y1_1_0 = a1_0 / ((float)((long long)((d2 * d3))));
        y1_1_1 = a1_1 / ((float)((long long)((d2 * d3))));
        y1_1_2 = a1_2 / ((float)((long long)((d2 * d3))));
        y1_1_3 = a1_3 / ((float)((long long)((d2 * d3))));
        {
            nn_vec<float, 4> v;
            v.v[0] = y1_1_0;
            v.v[1] = y1_1_1;
            v.v[2] = y1_1_2;
            v.v[3] = y1_1_3;
            *(nn_vec<float, 4>*)(b1 + (d1 * i0_1 + i1_1)) = v;
        }
    }
}
