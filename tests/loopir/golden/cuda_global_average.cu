extern "C" __global__ void __launch_bounds__(512) global_average(const float* __restrict__ b0, float* __restrict__ b1, const nn_int d0, const nn_int d1, const nn_int d2, const nn_int d3, const nn_int t0, const nn_int t1) {
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
    for (nn_int f0 = (nn_int)threadIdx.x; f0 < (n0 * n1); f0 += (nn_int)blockDim.x) {
        const nn_int i1 = (4 * (f0 % n0) + o1);
        const nn_int g0 = (f0 / n0);
        const nn_int i0 = (g0 + o0);
        float a0_0, a0_1, a0_2, a0_3;
        a0_0 = 0.0f;
        a0_1 = 0.0f;
        a0_2 = 0.0f;
        a0_3 = 0.0f;
        #pragma unroll 4
        for (nn_int r0 = 0; r0 < d2; ++r0) {
            #pragma unroll 16
            for (nn_int r1 = 0; r1 < d3; ++r1) {
                float x0_0, x0_1, x0_2, x0_3;
                {
                    const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + d1 * d2 * d3 * i0 + d1 * d3 * r0 + d1 * r1 + i1);
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
        y0_1_0 = a0_0 / ((float)((long long)((d2 * d3))));
        y0_1_1 = a0_1 / ((float)((long long)((d2 * d3))));
        y0_1_2 = a0_2 / ((float)((long long)((d2 * d3))));
        y0_1_3 = a0_3 / ((float)((long long)((d2 * d3))));
        {
            nn_vec<float, 4> v;
            v.v[0] = y0_1_0;
            v.v[1] = y0_1_1;
            v.v[2] = y0_1_2;
            v.v[3] = y0_1_3;
            *(nn_vec<float, 4>*)(b1 + d1 * i0 + i1) = v;
        }
    }
}
