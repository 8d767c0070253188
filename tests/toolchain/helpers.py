"""A kernel to compile, and how to call it."""

from __future__ import annotations

import ctypes

import numpy as np

from nnaccel_core.ir import sym
from nnaccel_core.loopir import grammar as g

FUNCTION = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
)


def scale_kernel(factor: float, name: str = "scale") -> g.Kernel:
    """``y[i] = factor * x[i]`` over n elements."""
    n, i = sym("n"), sym("i")
    x, y = g.Buffer("x", (n,), "float32"), g.Buffer("y", (n,), "float32")
    body = g.Store(y, (i,), g.Binary("mul", g.Const(factor), g.Load(x, (i,))))
    return g.Kernel(name, (x, y), ("n",), (("t", 1),), (g.Loop("i", 0, n, "simd", (body,)),))


def call(address: int, x: np.ndarray) -> np.ndarray:
    """Run a kernel of `scale_kernel`'s shape on ``x``."""
    y = np.empty_like(x)
    buffers = (ctypes.c_void_p * 2)(x.ctypes.data, y.ctypes.data)
    FUNCTION(address)(buffers, (ctypes.c_int64 * 1)(x.size), None, 0, 1)
    return y
