extern "C" __global__ void __launch_bounds__(512) affine_relu(const float* __restrict__ b0, const float* __restrict__ b1, const float* __restrict__ b2, float* __restrict__ b3, const nn_int d0, const nn_int d1, const nn_int d2, const nn_int d3, const nn_int t0, const nn_int t1, const nn_int t2) {
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
    const nn_int n0 = ((e2 - o2 + 3) >> 2);
    const nn_int n1 = d3;
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
        float x0_0, x0_1, x0_2, x0_3;
        {
            const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1));
            x0_0 = v.v[0];
            x0_1 = v.v[1];
            x0_2 = v.v[2];
            x0_3 = v.v[3];
        }
        float x1_0, x1_1, x1_2, x1_3;
        {
            const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b1 + i1);
            x1_0 = v.v[0];
            x1_1 = v.v[1];
            x1_2 = v.v[2];
            x1_3 = v.v[3];
        }
        float x2_0, x2_1, x2_2, x2_3;
        {
            const nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b2 + i1);
            x2_0 = v.v[0];
            x2_1 = v.v[1];
            x2_2 = v.v[2];
            x2_3 = v.v[3];
        }
        float y0_1_0, y0_1_1, y0_1_2, y0_1_3;
        float x3;
        x3 = (x0_0 * x1_0) + x2_0;
        y0_1_0 = (x3 < 0.0f) ? 0.0f : x3;
        float x3_1;
        x3_1 = (x0_1 * x1_1) + x2_1;
        y0_1_1 = (x3_1 < 0.0f) ? 0.0f : x3_1;
        float x3_2;
        x3_2 = (x0_2 * x1_2) + x2_2;
        y0_1_2 = (x3_2 < 0.0f) ? 0.0f : x3_2;
        float x3_3;
        x3_3 = (x0_3 * x1_3) + x2_3;
        y0_1_3 = (x3_3 < 0.0f) ? 0.0f : x3_3;
        {
            nn_vec<float, 4> v;
            v.v[0] = y0_1_0;
            v.v[1] = y0_1_1;
            v.v[2] = y0_1_2;
            v.v[3] = y0_1_3;
            *(nn_vec<float, 4>*)(b3 + (d1 * d2 * d3 * i0 + d1 * d3 * i2 + d1 * i3 + i1)) = v;
        }
    }
}
