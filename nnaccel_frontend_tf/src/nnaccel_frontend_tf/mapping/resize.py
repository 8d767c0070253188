"""``tf.image.resize`` and its older forms: a product with a small matrix for each axis, or repeated pixels."""

from __future__ import annotations

import math

import numpy as np

from nnaccel_core.ir import Dim, Value
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.items import Array
from nnaccel_frontend_tf.mapping import Call, maps

#: Entries of the table that TensorFlow takes the weights of bicubic resizing from.
_TABLE = 1 << 10


def _scale(size: int, out: int, align: bool) -> np.float32:
    """Input pixels for each output pixel, in the precision in which TensorFlow has it."""
    return np.float32((size - 1) / (out - 1)) if align and out > 1 else np.float32(size) / np.float32(out)


def _source(i: int, scale: np.float32, half: bool) -> np.float32:
    at = np.float32(i)
    return (at + np.float32(0.5)) * scale - np.float32(0.5) if half else at * scale


def linear(size: int, out: int, align: bool, half: bool) -> Array:
    """The (out, size) matrix of bilinear resizing along one axis."""
    m, scale = np.zeros((out, size)), _scale(size, out, align)
    for i in range(out):
        at = _source(i, scale, half)
        low = math.floor(at)
        part = float(at - np.float32(low))
        m[i, max(low, 0)] += 1 - part
        m[i, min(math.ceil(at), size - 1)] += part
    return m


def nearest(size: int, out: int, align: bool, half: bool) -> list[int]:
    """The pixel of each output pixel."""
    scale = _scale(size, out, align)
    places = []
    for i in range(out):
        at = (np.float32(i) + np.float32(0.5)) * scale if half else np.float32(i) * scale
        place = math.floor(at + np.float32(0.5)) if align else math.floor(at)
        places.append(min(max(place, 0), size - 1))
    return places


def _keys(t: float, a: float) -> float:
    """Keys' cubic kernel."""
    t = abs(t)
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a if t < 2 else 0.0


def cubic(size: int, out: int, align: bool, half: bool) -> Array:
    """The (out, size) matrix of bicubic resizing; with half-pixel centers, what lies outside does not count."""
    m, scale = np.zeros((out, size)), _scale(size, out, align)
    a = -0.5 if half else -0.75
    for i in range(out):
        at = _source(i, scale, half)
        low = math.floor(at)
        offset = round(float(at - np.float32(low)) * _TABLE) / _TABLE
        taps = [(low + k, _keys(offset - k, a)) for k in range(-1, 3)]
        if half:
            taps = [(k, w) for k, w in taps if 0 <= k < size]
            total = sum(w for _, w in taps)
            taps = [(k, w / total) for k, w in taps]
        for k, w in taps:
            m[i, min(max(k, 0), size - 1)] += w
    return m


def _along(n: Call, x: Value, axis: int, m: Array) -> Value:
    if m.shape[0] == m.shape[1] and np.array_equal(m, np.eye(len(m))):
        return x
    rank = x.type.rank
    perm = [k for k in range(rank) if k != axis] + [axis]
    product = n.emit("matmul", n.transpose(x, perm), n.c.constant(m, x.dtype), transpose_b=True)
    return n.transpose(product, [perm.index(k) for k in range(rank)])


def _sizes(n: Call) -> tuple[Value, list[tuple[int, int, int]], bool, bool]:
    """The image (N, H, W, C); (axis, size, size of the result) of its two axes; both conventions."""
    x = n.x()
    outs = n.ints(1, "the size of the result")
    axes = [(k + 1, n.c.static(x.shape[k + 1]), out) for k, out in enumerate(outs)]
    if any(s < 1 or o < 1 for _, s, o in axes):
        raise Unmapped("resizing of or to nothing")
    return x, axes, bool(n.attr("align_corners")), bool(n.attr("half_pixel_centers", False))


@maps("ResizeBilinear", "ResizeBicubic")
def resize_smooth(n: Call) -> Value:
    x, axes, align, half = _sizes(n)
    if not x.type.is_float:
        x = n.c.cast(x, "float32")
    matrix = linear if n.op.type == "ResizeBilinear" else cubic
    # Channels stay innermost: the axis that is resized last is the one next to them.
    for axis, size, out in axes:
        x = _along(n, x, axis, matrix(size, out, align, half))
    return n.c.cast(x, n.dtype())


@maps("ResizeNearestNeighbor")
def resize_nearest(n: Call) -> Value:
    x, axes, align, half = _sizes(n)
    places = [nearest(size, out, align, half) for _, size, out in axes]
    if all(o % s == 0 and p == [k // (o // s) for k in range(o)] for (_, s, o), p in zip(axes, places, strict=True)):
        return _repeated(n, x, [o // s for _, s, o in axes])
    for (axis, size, out), p in zip(axes, places, strict=True):
        if size != out or p != list(range(out)):
            x = n.emit("gather", x, n.c.constant(np.asarray(p, np.int64), "int64"), axis=axis)
    return x


def _repeated(n: Call, x: Value, factors: list[int]) -> Value:
    """Each pixel that often."""
    b, h, w, c = x.shape
    apart: tuple[Dim, ...] = (b, h, 1, w, 1, c)
    grown: tuple[Dim, ...] = (b, h, factors[0], w, factors[1], c)
    if apart == grown:
        return x
    return n.reshape(n.emit("expand", n.reshape(x, apart), shape=grown), (b, h * factors[0], w * factors[1], c))
