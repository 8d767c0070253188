"""The statistics of a batch (Ioffe and Szegedy 2015), by which ``batch_norm`` normalizes in training, and extents as numbers.

Sums are taken in stages, over rows, images and the batch: every image has tasks of its own, and sums are short. A row is read
once: its sum, and the sum of squares of what its elements differ from the first of them (Chan, Golub and LeVeque 1983, shifted
data: one of the values is close enough to the mean that squares cancel no more than a row is long). Parts are combined as by
Chan et al. 1979: the mean of their variances plus the variance of their means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, numpy_dtype, product
from nnaccel_core.loopir.grammar import Cast, Index, Nest
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, constant, register


def number(r: Rewriter, dim: Dim, dtype: str, origin: str) -> Value:
    """``dim`` as a value of rank 0: a constant where it is known."""
    if isinstance(dim, int):
        return constant(r, dim, dtype, origin)
    return r.add("extent", [], {"dim": dim, "dtype": dtype}, origin=origin)


#: No inputs; attributes ``dim`` and ``dtype``. The result, of rank 0, is the dimension as a number.
register(
    OpDef(
        "extent",
        lambda ts, a: (TensorType((), a["dtype"]),),
        lambda xs, a: (np.asarray(a["dim"], numpy_dtype(a["dtype"])),),
        lambda r, n, i, o, g: (),
        "any",
        loop=lambda n: (Nest(n.output, (), Cast(Index(n.attrs["dim"]), n.attrs["dtype"])),),
        samples=lambda: [Sample((), {"dim": 7, "dtype": "float32"}), Sample((), {"dim": 12, "dtype": "int64"})],
    )
)


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (x,) = types
    if x.rank < 2 or not x.is_float:
        raise ShapeError(f"needs a floating-point x of rank >= 2 (N, C, ...), not {x}")
    statistic = TensorType((x.shape[1],), x.dtype)
    return (statistic, statistic)


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0].astype(np.float64)
    axes = (0, *range(2, x.ndim))
    return x.mean(axis=axes).astype(xs[0].dtype), x.var(axis=axes).astype(xs[0].dtype)


def _decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    e, x = Emitter(r, node.origin), inputs[0]
    last = x.type.rank - 1
    mean, var = x, None
    if last > 1:  # rows, each in one pass
        first = e("slice", x, starts=(0,) * (last + 1), ends=(*x.shape[:last], 1), steps=(1,) * (last + 1))
        off = e("sub", x, first)
        mean = e("reduce_mean", x, axes=(last,), keepdims=True)
        moved = e("sub", mean, first)
        var = e("relu", e("sub", e("reduce_mean", e("mul", off, off), axes=(last,), keepdims=True), e("mul", moved, moved)))
    def deviations(parts: Value, axes: Sequence[int]) -> tuple[Value, Value]:
        """The mean of ``parts``, and what is to be averaged for their variance."""
        found = e("reduce_mean", parts, axes=tuple(axes), keepdims=True)
        off = e("sub", parts, found)
        square = e("mul", off, off)
        return found, square if var is None else e("add", square, var)

    rest = tuple(range(2, last))
    if rest:  # of an image
        mean, square = deviations(mean, rest)
        var = e("reduce_mean", square, axes=rest, keepdims=True)
    # The batch; axes of extent 1 go with it, so that no change of shape parts these kernels from what reads their results.
    parts, (_, square) = mean, deviations(mean, (0,))
    every = (0, *range(2, last + 1))
    return e("reduce_mean", parts, axes=every, keepdims=False), e("reduce_mean", square, axes=every, keepdims=False)


def _vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value | None]) -> Sequence[Value | None]:
    """A line in ``x`` whose numbers per channel come first, so that nothing of an image's size is stored on the way."""
    e, x, (mean, _), (g_mean, g_var) = Emitter(r, n.origin), ins[0], outs, gs
    count = number(r, product((x.shape[0], *x.shape[2:])), x.dtype, n.origin)

    def spread(v: Value) -> Value:
        return e("reshape", v, shape=(v.shape[0], *([1] * (x.type.rank - 2))))

    offset = None if g_mean is None else e("div", g_mean, count)
    if g_var is None:
        return (e("expand", spread(offset), shape=x.shape) if offset is not None else None,)
    slope = e("div", e("mul", g_var, 2.0), count)
    at_mean = e("mul", slope, mean)
    offset = e("neg", at_mean) if offset is None else e("sub", offset, at_mean)
    return (e("add", e("mul", x, spread(slope)), spread(offset)),)


def _samples() -> Iterable[Sample]:
    rng = np.random.default_rng(28)
    for shape in ((3, 5, 4, 6), (7, 4), (2, 3, 9), (1, 2, 3, 2, 4)):
        yield Sample(((rng.normal(size=shape) * 2 + 3).astype(np.float32),), {}, 1e-4)


#: Input x (N, C, ...); results: the mean and the biased variance of each channel, (C,) each.
register(OpDef("batch_norm_stats", _infer, _ref, _vjp, "io", decompositions={"moments": _decompose}, samples=_samples))
