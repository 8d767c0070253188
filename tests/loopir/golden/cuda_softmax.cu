extern "C" __global__ void __launch_bounds__(512) softmax(const float* __restrict__ b0, float* __restrict__ b1, const nn_int d0, const nn_int d1, const nn_int t0) {
    extern __shared__ __align__(64) unsigned char nn_tile[];
    float* s0 = (float*)(nn_tile);
    const nn_int s0_end = 0 + (((4 * t0) + 63) / 64) * 64;
    float* s1 = (float*)(nn_tile + s0_end);
    const nn_int s1_end = s0_end + (((4 * t0) + 63) / 64) * 64;
    const nn_int task = (nn_int)blockIdx.x;
    const nn_int p0 = task;
    const nn_int o0 = (p0 * t0);
    const nn_int e0 = min(o0 + t0, d0);
    for (nn_int i0 = o0; i0 < e0; ++i0) {
        float a0;
        a0 = __int_as_float(0xff800000);
        for (nn_int r0 = (nn_int)threadIdx.x; r0 < d1; r0 += (nn_int)blockDim.x) {
            a0 = nn_max_f32(a0, b0[d1 * i0 + r0]);
        }
        float a1;
        a1 = nn_block_max_f32(a0);
        if (threadIdx.x == 0) {
            s0[i0 - o0] = a1;
        }
    }
    __syncthreads();
    for (nn_int i0 = o0; i0 < e0; ++i0) {
        double a2;
        a2 = 0.0;
        for (nn_int k0 = 0; k0 < ((d1 + 1073741823) >> 30); ++k0) {
            float a3;
            a3 = 0.0f;
            for (nn_int r0 = (1073741824 * k0) + (nn_int)threadIdx.x; r0 < min(1073741824 * k0 + 1073741824, d1); r0 += (nn_int)blockDim.x) {
                a3 = a3 + expf((b0[d1 * i0 + r0] - s0[i0 - o0]));
            }
            float a4;
            a4 = nn_block_sum_f32(a3);
            a2 = a2 + ((double)a4);
        }
        if (threadIdx.x == 0) {
            s1[i0 - o0] = (float)a2;
        }
    }
    __syncthreads();
    const nn_int n0 = d1;
    const nn_int n1 = (e0 - o0);
    for (nn_int f0 = (nn_int)threadIdx.x; f0 < (n0 * n1); f0 += (nn_int)blockDim.x) {
        const nn_int i1 = (nn_int)((nn_uint)f0 % (nn_uint)n0);
        const nn_int g0 = (nn_int)((nn_uint)f0 / (nn_uint)n0);
        const nn_int i0 = (g0 + o0);
        float x0_0;
        {
            const nn_vec<float, 1> v = *(const nn_vec<float, 1>*)(b0 + (d1 * i0 + i1));
            x0_0 = v.v[0];
        }
        float x1;
        x1 = s0[i0 - o0];
        float x2;
        x2 = s1[i0 - o0];
        float y0_1_0;
        y0_1_0 = expf((x0_0 - x1)) / x2;
        {
            nn_vec<float, 1> v;
            v.v[0] = y0_1_0;
            *(nn_vec<float, 1>*)(b1 + (d1 * i0 + i1)) = v;
        }
    }
}
