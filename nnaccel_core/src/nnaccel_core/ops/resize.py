"""Resizing images, and shuffling pixels between channels and space."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Node, Rewriter, TensorType, Value
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, constant, register

MODES = ("nearest", "nearest_exact", "linear", "cubic")


def _source(i: int, out: int, size: int, scale: float | None, align_corners: bool) -> float:
    """The (fractional) source position of output ``i``; ``scale`` is output over input where the user gave it."""
    if align_corners:
        return i * (size - 1) / (out - 1) if out > 1 else 0.0
    ratio = 1.0 / scale if scale else size / out
    return (i + 0.5) * ratio - 0.5


def _cubic(t: float) -> float:
    """Keys' cubic kernel with a = -0.75, as torch and OpenCV have it."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a if t < 2 else 0.0


def weights_1d(size: int, out: int, mode: str, align_corners: bool, scale: float | None = None) -> Array:
    """The (out, size) matrix that resizes one axis."""
    m = np.zeros((out, size), np.float64)
    ratio = np.float32(1.0 / scale) if scale else np.float32(size) / np.float32(out)
    for i in range(out):
        if mode == "nearest":
            m[i, min(math.floor(np.float32(i) * ratio), size - 1)] = 1
        elif mode == "nearest_exact":
            m[i, min(math.floor(np.float32(i + 0.5) * ratio), size - 1)] = 1
        elif mode == "linear":
            at = _source(i, out, size, scale, align_corners)
            at = max(at, 0.0)
            lo = min(int(at), size - 1)
            part = at - lo
            m[i, lo] += 1 - part
            m[i, min(lo + 1, size - 1)] += part
        else:
            at = _source(i, out, size, scale, align_corners)
            lo = math.floor(at)
            for k in range(lo - 1, lo + 3):
                m[i, min(max(k, 0), size - 1)] += _cubic(at - k)
    return m


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if attrs["mode"] not in MODES:
        raise ShapeError(f"mode {attrs['mode']!r} is not known; known: {', '.join(MODES)}")
    if len(attrs["size"]) != x.rank - 2:
        raise ShapeError(f"size {attrs['size']} needs one entry per spatial axis of {x}")
    return (TensorType((*x.shape[:2], *attrs["size"]), x.dtype),)


def _matrices(shape: Sequence[int], attrs: Attrs) -> list[Array]:
    scales = attrs.get("scales") or (None,) * len(attrs["size"])
    return [
        weights_1d(n, out, attrs["mode"], attrs.get("align_corners", False), s)
        for n, out, s in zip(shape, attrs["size"], scales, strict=True)
    ]


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    out = xs[0].astype(np.float64)
    for k, m in enumerate(_matrices(xs[0].shape[2:], attrs)):
        out = np.moveaxis(np.tensordot(out, m, axes=([2 + k], [1])), -1, 2 + k)
    return (out.astype(xs[0].dtype),)


def repeats(matrix: Array) -> int:
    """How often the (out, size) ``matrix`` repeats each element of an axis; 0 when it does something else."""
    out, size = matrix.shape
    if not size or out % size:
        return 0
    return out // size if np.array_equal(matrix, np.repeat(np.eye(size), out // size, axis=0)) else 0


def repeated(r: Rewriter, x: Value, factors: Mapping[int, int], origin: str) -> Value:
    """``x`` with each element repeated along the axes of ``factors``, that often."""
    axes = range(x.type.rank)
    apart = [d for k in axes for d in ((x.shape[k], 1) if k in factors else (x.shape[k],))]
    wide = [d for k in axes for d in ((x.shape[k], factors[k]) if k in factors else (x.shape[k],))]
    whole = tuple(x.shape[k] * factors.get(k, 1) for k in axes)
    split = r.add("reshape", [x], {"shape": tuple(apart)}, origin=origin)
    return r.add("reshape", [r.add("expand", [split], {"shape": tuple(wide)}, origin=origin)], {"shape": whole}, origin=origin)


def _decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    """One product with a small matrix per axis: exact for every mode, and what libraries are good at. Axes whose elements are
    just repeated come last, as copies."""
    (x,) = inputs
    shape = x.shape[2:]
    if not all(isinstance(d, int) for d in shape):
        raise ShapeError(f"{node.where()}: resizing needs known spatial extents, not {shape}")
    last = x.type.rank - 1
    factors = {}
    for k, m in enumerate(_matrices([int(d) for d in shape if isinstance(d, int)], node.attrs)):
        axis = 2 + k
        if repeats(m):
            factors[axis] = repeats(m)
            continue
        matrix = constant(r, m, x.dtype, node.origin)
        perm = [a for a in range(last + 1) if a != axis] + [axis]
        back = tuple(perm.index(a) for a in range(last + 1))
        moved = r.add("transpose", [x], {"perm": tuple(perm)}, origin=node.origin) if axis != last else x
        moved = r.add("matmul", [moved, matrix], {"transpose_b": True}, origin=node.origin)
        x = r.add("transpose", [moved], {"perm": back}, origin=node.origin) if axis != last else moved
    factors = {k: f for k, f in factors.items() if f > 1}
    return (repeated(r, x, factors, node.origin) if factors else x,)


def _samples() -> Iterable[Sample]:
    x = np.random.default_rng(21).normal(size=(2, 3, 5, 6)).astype(np.float32)
    for mode in MODES:
        yield Sample((x,), {"size": (8, 9), "mode": mode, "align_corners": False}, 1e-4)
        yield Sample((x,), {"size": (10, 18), "mode": mode, "align_corners": False}, 1e-4)
        yield Sample((x,), {"size": (3, 12), "mode": mode, "align_corners": False}, 1e-4)
    yield Sample((x,), {"size": (7, 11), "mode": "linear", "align_corners": True}, 1e-4)
    yield Sample((x,), {"size": (9, 13), "mode": "cubic", "align_corners": True}, 1e-4)


register(OpDef("resize", _infer, _ref, limit="io", decompositions={"matrices": _decompose}, samples=_samples))


# --- pixel shuffle ------------------------------------------------------------------------------------------------


def _shuffle_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, f = types[0], attrs["factor"]
    if x.rank != 4:
        raise ShapeError("needs x (N, C, H, W)")
    n, c, h, w = x.shape
    if isinstance(c, int) and c % (f * f):
        raise ShapeError(f"{c} channels do not divide by {f}^2")
    return (TensorType((n, c // (f * f), h * f, w * f), x.dtype),)


def _shuffle_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, f = xs[0], attrs["factor"]
    n, c, h, w = x.shape
    out = x.reshape(n, c // (f * f), f, f, h, w).transpose(0, 1, 4, 2, 5, 3)
    return (out.reshape(n, c // (f * f), h * f, w * f),)


def _shuffle_decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,), f, o = inputs, node.attrs["factor"], node.origin
    n, c, h, w = x.shape
    split = r.add("reshape", [x], {"shape": (n, c // (f * f), f, f, h, w)}, origin=o)
    moved = r.add("transpose", [split], {"perm": (0, 1, 4, 2, 5, 3)}, origin=o)
    return (r.add("reshape", [moved], {"shape": (n, c // (f * f), h * f, w * f)}, origin=o),)


def _unshuffle_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, f = types[0], attrs["factor"]
    if x.rank != 4:
        raise ShapeError("needs x (N, C, H, W)")
    n, c, h, w = x.shape
    if any(isinstance(d, int) and d % f for d in (h, w)):
        raise ShapeError(f"{h} x {w} does not divide by {f}")
    return (TensorType((n, c * f * f, h // f, w // f), x.dtype),)


def _unshuffle_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, f = xs[0], attrs["factor"]
    n, c, h, w = x.shape
    return (x.reshape(n, c, h // f, f, w // f, f).transpose(0, 1, 3, 5, 2, 4).reshape(n, c * f * f, h // f, w // f),)


def _unshuffle_decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,), f, o = inputs, node.attrs["factor"], node.origin
    n, c, h, w = x.shape
    split = r.add("reshape", [x], {"shape": (n, c, h // f, f, w // f, f)}, origin=o)
    moved = r.add("transpose", [split], {"perm": (0, 1, 3, 5, 2, 4)}, origin=o)
    return (r.add("reshape", [moved], {"shape": (n, c * f * f, h // f, w // f)}, origin=o),)


def _image(*shape: int) -> Array:
    return np.random.default_rng(22).normal(size=shape).astype(np.float32)


register(
    OpDef(
        "pixel_shuffle",
        _shuffle_infer,
        _shuffle_ref,
        limit="io",
        decompositions={"views": _shuffle_decompose},
        samples=lambda: [Sample((_image(2, 8, 3, 4),), {"factor": 2})],
    )
)
register(
    OpDef(
        "pixel_unshuffle",
        _unshuffle_infer,
        _unshuffle_ref,
        limit="io",
        decompositions={"views": _unshuffle_decompose},
        samples=lambda: [Sample((_image(2, 2, 6, 4),), {"factor": 2})],
    )
)
