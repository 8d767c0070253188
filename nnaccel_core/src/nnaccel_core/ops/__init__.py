"""The operators. One op, one place: shape inference, reference, gradient, limit and loop nest stand together."""

from nnaccel_core.ops import (
    attention,
    binary,
    conv,
    conv_backward,
    conv_transpose,
    elementwise,
    grid_sample,
    indexing,
    integers,
    matmul,
    max_positions,
    norm,
    norm_train,
    pad,
    pool,
    recurrent,
    reduce,
    resize,
    shape,
)
from nnaccel_core.ops.registry import OpDef, Sample, all_ops, infer, lookup, register, rewriter

__all__ = [
    "OpDef", "Sample", "all_ops", "attention", "binary", "conv", "conv_backward", "conv_transpose", "elementwise",
    "grid_sample", "indexing", "infer", "integers", "lookup", "matmul", "max_positions", "norm", "norm_train", "pad", "pool",
    "recurrent", "reduce", "register", "resize", "rewriter", "shape",
]  # fmt: skip
