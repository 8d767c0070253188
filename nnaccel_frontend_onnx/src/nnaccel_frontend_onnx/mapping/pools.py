"""Pooling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnaccel_core.ir import Value
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.mapping import Call, Result, maps, needs_float
from nnaccel_frontend_onnx.mapping.layers import padding, window


def _attrs(n: Call, x: Value, dilated: bool = False) -> dict[str, Any]:
    kernel, stride, dilation = window(n, x)
    attrs: dict[str, Any] = {
        "kernel": kernel,
        "stride": stride,
        "padding": padding(n, x.shape[2:], kernel, stride, dilation),
        "ceil_mode": bool(n.attr("ceil_mode", 0)),
    }
    if dilated:
        attrs["dilation"] = dilation
    elif any(d != 1 for d in dilation):
        raise Unmapped("dilated windows")
    if any(max(p) >= d * (k - 1) + 1 for p, k, d in zip(attrs["padding"], kernel, dilation, strict=True)):
        raise Unmapped("windows that lie in the padding alone")
    return attrs


@maps("MaxPool")
def max_pool(n: Call) -> Result:
    x = n.x()
    attrs = _attrs(n, x, dilated=True)
    top = n.emit("max_pool", x, **attrs)
    if n.outputs == 1:
        return top
    if n.attr("storage_order", 0):
        raise Unmapped("positions counted column by column")
    at = n.emit("max_pool_positions", x, top, **attrs)
    samples, channels = n.c.static(x.shape[0]), n.c.static(x.shape[1])
    size = int(np.prod([n.c.static(d) for d in x.shape[2:]]))
    planes = np.arange(samples * channels, dtype=np.int64).reshape(samples, channels, *([1] * (x.type.rank - 2))) * size
    return [top, n.emit("add", at, n.c.constant(planes, "int64"))]


@maps("AveragePool")
def average_pool(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("avg_pool", x, **_attrs(n, x), count_include_pad=bool(n.attr("count_include_pad", 0)))


@maps("LpPool")
def lp_pool(n: Call) -> Value:
    x, p = needs_float(n.x()), float(n.attr("p", 2))
    attrs = _attrs(n, x)
    if attrs["ceil_mode"]:
        raise Unmapped("ceil_mode of LpPool")
    mean = n.emit("avg_pool", _power(n, x, p), **attrs, count_include_pad=True)
    return _root(n, n.emit("mul", mean, n.number(math.prod(attrs["kernel"]), mean)), p)


def _power(n: Call, x: Value, p: float) -> Value:
    if p == 1:
        return n.emit("abs", x)
    return n.emit("mul", x, x) if p == 2 else n.emit("pow", n.emit("abs", x), n.number(p, x))


def _root(n: Call, x: Value, p: float) -> Value:
    if p == 1:
        return x
    return n.emit("sqrt", x) if p == 2 else n.emit("pow", x, n.number(1 / p, x))


def _whole(x: Value) -> dict[str, Any]:
    if x.type.rank < 3:
        raise Unmapped(f"pooling of {x.type}, which has no spatial axis")
    return {"axes": tuple(range(2, x.type.rank)), "keepdims": True}


@maps("GlobalAveragePool")
def global_average_pool(n: Call) -> Value:
    x = needs_float(n.x())
    return n.emit("reduce_mean", x, **_whole(x))


@maps("GlobalMaxPool")
def global_max_pool(n: Call) -> Value:
    x = n.x()
    return n.emit("reduce_max", x, **_whole(x))


@maps("GlobalLpPool")
def global_lp_pool(n: Call) -> Value:
    x, p = needs_float(n.x()), float(n.attr("p", 2))
    return _root(n, n.emit("reduce_sum", _power(n, x, p), **_whole(x)), p)
