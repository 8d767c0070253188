"""Quantized tensors, computed on their real values or on 32-bit integers."""

from __future__ import annotations

from nnaccel_core.ir import Value
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.mapping import Call, maps, needs_float, positive
from nnaccel_frontend_onnx.mapping.layers import product
from nnaccel_frontend_onnx.mapping.pointwise import element_type

_RANGE = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767)}


def _along(n: Call, v: Value, x: Value, axis: int) -> Value:
    """A scale or zero point (a scalar, or one for each place on ``axis``) shaped to broadcast to ``x``."""
    if v.type.rank == 0 or v.shape == (1,):
        return n.reshape(v, ())
    if v.type.rank != 1 or n.attr("block_size", 0):
        raise Unmapped("scales of blocks")
    axis = positive(axis, x.type.rank)
    return n.reshape(v, (v.shape[0], *([1] * (x.type.rank - axis - 1))))


@maps("DequantizeLinear")
def dequantize(n: Call) -> Value:
    x, axis = n.x(0), int(n.attr("axis", 1))
    scale = _along(n, needs_float(n.x(1)), x, axis)
    if n.attr("output_dtype", 0):
        scale = n.c.cast(scale, element_type(n.attr("output_dtype")))
    wide = n.c.cast(x, "int32")
    if n.has(2):
        wide = n.emit("sub", wide, n.c.cast(_along(n, n.x(2), x, axis), "int32"))
    return n.emit("mul", n.c.cast(wide, scale.dtype), scale)


@maps("QuantizeLinear")
def quantize(n: Call) -> Value:
    x, axis = needs_float(n.x(0)), int(n.attr("axis", 1))
    scale = _along(n, n.c.cast(n.x(1), x.dtype), x, axis)
    dtype = "uint8"
    if n.has(2):
        dtype = n.x(2).dtype
    elif n.attr("output_dtype", 0):
        dtype = element_type(n.attr("output_dtype"))
    if dtype not in _RANGE or x.dtype == "float16":
        raise Unmapped(f"quantization to {dtype}")
    low, high = _RANGE[dtype]
    y = n.emit("round", n.emit("div", x, scale))
    if n.has(2):
        y = n.emit("add", y, n.c.cast(_along(n, n.x(2), x, axis), x.dtype))
    return n.c.cast(n.c.cast(n.emit("clip", y, min=float(low), max=float(high)), "int32"), dtype)


@maps("MatMulInteger")
def matmul_integer(n: Call) -> Value:
    sides = []
    for k in (0, 1):
        x = n.c.cast(n.x(k), "int32")
        if n.has(2 + k):
            zero = n.c.cast(n.x(2 + k), "int32")
            if k == 0 and zero.type.rank == 1 and zero.shape != (1,):
                zero = n.reshape(zero, (*zero.shape, 1))
            x = n.emit("sub", x, zero)
        sides.append(x)
    return product(n, *sides)
