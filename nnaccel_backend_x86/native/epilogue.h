// What is applied to a finished tile of a product before it is stored: bias, residual, activation. NaN stays NaN.
// The vector code is in epilogue_isa.h.
#pragma once

#include <cstdint>

namespace nnx {

// The same order as nnaccel_backend_x86.products.ACTIVATIONS.
enum Activation : int64_t {
    ACT_NONE,
    ACT_RELU,
    ACT_LEAKY,         // alpha: slope below zero
    ACT_CLIP,          // alpha: lower bound, beta: upper bound
    ACT_HARDSWISH,     // x * clip(x / 6 + 1/2, 0, 1)
    ACT_HARDSIGMOID,   // clip(alpha * x + beta, 0, 1)
    ACT_SIGMOID,
    ACT_SILU,
};

struct Epilogue {
    const float *bias = nullptr;      // one per column
    const float *residual = nullptr;  // added before the activation; may be the output itself
    int64_t residual_stride = 0;      // elements between its rows
    int64_t activation = ACT_NONE;
    float alpha = 0, beta = 0;
};

}  // namespace nnx
