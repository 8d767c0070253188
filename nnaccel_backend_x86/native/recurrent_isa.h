// Included once per instruction set by recurrent.cpp, inside a namespace of its own, with TARGET, VEC and WIDTH defined.

#include "epilogue_isa.h"

// tanh(x) to about 2 ulp: an odd polynomial near zero (Cephes, S. Moshier), else 1 - 2 / (exp(2x) + 1).
TARGET inline __attribute__((always_inline)) VEC hyperbolic_tangent(VEC x) {
    const VEC z = x * x;
    VEC p = constant(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const VEC near = x + x * z * p, far = 1.0f - 2.0f / (exponential(x + x) + 1.0f);
    const VEC y = z < 0.390625f ? near : far;
    return x == x ? y : x;
}

// One step of `hidden` cells: gates i, o, f, c are `added` + `product`, each `hidden` apart; `cell` and `state` are written.
TARGET void cells(const float *added, const float *product, int64_t hidden, float *cell, float *state) {
    for (int64_t j = 0; j < hidden; j += WIDTH) {
        const int64_t n = hidden - j < WIDTH ? hidden - j : WIDTH;
        VEC gate[4], c;
        if (n == WIDTH) {
#pragma GCC unroll 4
            for (int g = 0; g < 4; ++g) gate[g] = load(added + g * hidden + j) + load(product + g * hidden + j);
            c = load(cell + j);
        } else {
            float part[5][WIDTH] = {};
            for (int64_t i = 0; i < n; ++i) {
                for (int g = 0; g < 4; ++g) part[g][i] = added[g * hidden + j + i] + product[g * hidden + j + i];
                part[4][i] = cell[j + i];
            }
            for (int g = 0; g < 4; ++g) gate[g] = load(part[g]);
            c = load(part[4]);
        }
        c = sigmoid(gate[2]) * c + sigmoid(gate[0]) * hyperbolic_tangent(gate[3]);
        const VEC h = sigmoid(gate[1]) * hyperbolic_tangent(c);
        if (n == WIDTH) {
            store(cell + j, c);
            store(state + j, h);
        } else {
            float last[2][WIDTH];
            store(last[0], c);
            store(last[1], h);
            for (int64_t i = 0; i < n; ++i) {
                cell[j + i] = last[0][i];
                state[j + i] = last[1][i];
            }
        }
    }
}
