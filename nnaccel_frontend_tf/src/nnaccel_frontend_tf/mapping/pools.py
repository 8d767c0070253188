"""Pooling."""

from __future__ import annotations

from typing import Any

from nnaccel_core.ir import Value
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.mapping import Call, maps, needs_float
from nnaccel_frontend_tf.mapping.layers import back, channels_last, pads_of, second, spatial


def _pool(n: Call, op: str, **more: Any) -> Value:
    x = n.x()
    last = channels_last(n, x.type.rank)
    kernel, stride = n.attr("ksize"), n.attr("strides")
    if kernel[0] != 1 or stride[0] != 1 or kernel[-1 if last else 1] != 1 or stride[-1 if last else 1] != 1:
        raise Unmapped("windows across samples or channels")
    kernel, stride = spatial(kernel, last), spatial(stride, last)
    x = second(n, x, last)
    pads = pads_of(n, x.shape[2:], kernel, stride, (1,) * len(kernel), last)
    return back(n, n.emit(op, x, kernel=kernel, stride=stride, padding=pads, ceil_mode=False, **more), last)


@maps("MaxPool", "MaxPool3D")
def max_pool(n: Call) -> Value:
    return _pool(n, "max_pool", dilation=(1,) * (n.x().type.rank - 2))


@maps("AvgPool", "AvgPool3D")
def avg_pool(n: Call) -> Value:
    """What lies outside the image does not count."""
    needs_float(n.x())
    return _pool(n, "avg_pool", count_include_pad=False)
