"""Sampling images and volumes at positions that a grid gives (Jaderberg et al. 2015, "Spatial Transformer Networks")."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Node, Rewriter, TensorType, Value, numpy_dtype, product
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, register, require_equal, sum_dtype

MODES = ("nearest", "linear", "cubic")
PADDINGS = ("zeros", "border", "reflection")
#: Keys' cubic kernel with this parameter, as in `resize`.
_A = -0.75


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, grid = types
    spatial = x.rank - 2
    if attrs["mode"] not in MODES or attrs["padding"] not in PADDINGS:
        known = f"{', '.join(MODES)}; {', '.join(PADDINGS)}"
        raise ShapeError(f"mode {attrs['mode']!r} and padding {attrs['padding']!r}; known: {known}")
    if spatial not in (2, 3) or grid.rank != x.rank or grid.shape[-1] != spatial or (attrs["mode"] == "cubic" and spatial != 2):
        raise ShapeError("needs x (N, C, H, W) and grid (N, H', W', 2), or with a depth and 3, for which there is no cubic mode")
    if grid.dtype != x.dtype or not x.is_float:
        raise ShapeError(f"needs x and grid of one floating-point dtype, not {x.dtype} and {grid.dtype}")
    require_equal(x.shape[0], grid.shape[0], "batch of x and grid")
    return (TensorType((*x.shape[:2], *grid.shape[1:-1]), x.dtype),)


# --- reference ----------------------------------------------------------------------------------------------------


def _kept_inside(at: Array, size: int, attrs: Attrs) -> Array:
    """Positions with the padding's rule applied; unchanged for zeros."""
    if attrs["padding"] == "zeros":
        return at
    if attrs["padding"] == "reflection":
        low, span = (0.0, size - 1.0) if attrs["align_corners"] else (-0.5, float(size))
        if span == 0:
            at = np.zeros_like(at)
        else:
            beyond = np.abs(at - low) % (2 * span)
            at = np.minimum(beyond, 2 * span - beyond) + low
    return np.clip(at, 0, size - 1)


def _near(t: Array) -> Array:
    return ((_A + 2) * t - (_A + 3)) * t * t + 1


def _far(t: Array) -> Array:
    return ((_A * t - 5 * _A) * t + 8 * _A) * t - 4 * _A


def _ref_taps(at: Array, size: int, attrs: Attrs) -> list[tuple[Array, Array]]:
    """(position, weight) of the pixels that are read along one axis."""
    at = (at + 1) / 2 * (size - 1) if attrs["align_corners"] else ((at + 1) * size - 1) / 2
    if attrs["mode"] != "cubic":
        at = _kept_inside(at, size, attrs)
    if attrs["mode"] == "nearest":
        return [(np.round(at), np.ones_like(at))]
    low = np.floor(at)
    t = at - low
    if attrs["mode"] == "linear":
        return [(low, 1 - t), (low + 1, t)]
    weights = (_far(t + 1), _near(t), _near(1 - t), _far(2 - t))
    return [(_kept_inside(low + k - 1, size, attrs), w) for k, w in enumerate(weights)]


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, grid = xs[0].astype(np.float64), xs[1].astype(np.float64)
    n, spatial = x.shape[0], x.shape[2:]
    batch = np.arange(n).reshape(-1, *([1] * len(spatial)))
    # The grid's last axis counts from the innermost spatial axis outwards.
    axes = [_ref_taps(grid[..., len(spatial) - 1 - k], size, attrs) for k, size in enumerate(spatial)]
    out = np.zeros((n, *grid.shape[1:-1], x.shape[1]))
    for taps in itertools.product(*axes):
        inside = np.ones(grid.shape[:-1], bool)
        weight = np.ones(grid.shape[:-1])
        index = []
        for (at, w), size in zip(taps, spatial, strict=True):
            inside &= (at >= 0) & (at <= size - 1)
            weight = weight * w
            index.append(np.where(np.isnan(at), 0, np.clip(at, 0, size - 1)).astype(np.int64))
        places = (batch, *index)
        pixels = np.moveaxis(x, 1, -1)[places]
        out += np.where(inside[..., None], pixels, 0.0) * weight[..., None]
    return (np.moveaxis(out, -1, 1).astype(xs[0].dtype),)


# --- decomposition ------------------------------------------------------------------------------------------------


class _Arithmetic(Emitter):
    """Arithmetic on positions, whose derivatives are as torch has them."""

    def array(self, x: object, dtype: str) -> Value:
        return self("constant", value=np.asarray(x, numpy_dtype(dtype)))

    def clip(self, at: Value, size: int) -> Value:
        """At the outermost pixels, too, nothing moves any more."""
        return self("clip", at, min=0.0, max=size - 1.0, open=True)

    def kept_inside(self, at: Value, size: int, attrs: Attrs) -> Value:
        if attrs["padding"] == "zeros":
            return at
        if attrs["padding"] == "reflection":
            low, span = (0.0, size - 1.0) if attrs["align_corners"] else (-0.5, float(size))
            if span == 0:
                at = self("mul", at, 0.0)
            else:
                beyond = self("mod", self("abs", self("sub", at, low)), 2 * span)
                at = self("add", self("minimum", beyond, self("sub", 2 * span, beyond)), low)
        return self.clip(at, size)

    def polynomial(self, t: Value, factors: Sequence[float]) -> Value:
        """Horner's scheme, highest power first."""
        out = self("mul", t, factors[0])
        for f in factors[1:-1]:
            out = self("mul", self("add", out, f) if f else out, t)
        return self("add", out, factors[-1])

    def taps(self, at: Value, size: int, attrs: Attrs) -> tuple[Value, Value | None]:
        """Positions (N, taps, points) that are read along one axis for ``at`` (N, 1, points), and their weights; None is 1."""
        span, shift = (size - 1.0, 0.0) if attrs["align_corners"] else (float(size), -0.5)
        at = self("mul", self("add", at, 1.0), span / 2)
        at = self("add", at, shift) if shift else at
        if attrs["mode"] == "cubic":
            around = self("add", self("floor", at), self.array([[[-1], [0], [1], [2]]], at.dtype))
            t = self("abs", self("sub", at, around))
            near, far = (_A + 2, -(_A + 3), 0.0, 1.0), (_A, -5 * _A, 8 * _A, -4 * _A)
            weight = self("where", self("le", t, 1.0), self.polynomial(t, near), self.polynomial(t, far))
            return self.kept_inside(around, size, attrs), weight
        at = self.kept_inside(at, size, attrs)
        if attrs["mode"] == "nearest":
            return self("round", at), None
        low = self("floor", at)
        t = self("sub", at, low)
        signs, ones = self.array([[[-1], [1]]], at.dtype), self.array([[[1], [0]]], at.dtype)
        return self("add", low, self.array([[[0], [1]]], at.dtype)), self("add", self("mul", t, signs), ones)

    def index(self, at: Value, size: int) -> Value:
        """``at`` as an index that is in range whatever it is."""
        inside = self.clip(at, size)
        certain = self("where", self("eq", inside, inside), inside, 0.0)  # NaN is not equal
        return self("cast", certain, dtype="int64")


def _decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    """Positions and weights of all pixels that are read, one gather of these pixels, and one weighted sum."""
    x, grid = inputs
    attrs, rank = node.attrs, x.type.rank
    f = _Arithmetic(r, node.origin)
    sizes = [d for d in x.shape[2:] if isinstance(d, int)]
    if len(sizes) < rank - 2:
        raise ShapeError(f"{node.where()}: sampling by a grid needs known spatial extents, not {x.shape[2:]}")
    n, channels, points = x.shape[0], x.shape[1], product(grid.shape[1:-1])
    masked = attrs["padding"] == "zeros" or attrs["mode"] == "linear"
    flat = f("reshape", f.cast(grid, sum_dtype(grid.dtype)), shape=(n, points, rank - 2))
    index: Value | None = None
    weight: Value | None = None
    inside: Value | None = None
    for k, size in enumerate(sizes):
        # The grid's last axis counts from the innermost spatial axis outwards.
        c = rank - 3 - k
        at = f("slice", flat, starts=(0, 0, c), ends=(n, points, c + 1), steps=(1, 1, 1))
        around, w = f.taps(f("reshape", at, shape=(n, 1, points)), size, attrs)
        # Every spatial axis has its taps on an axis of its own.
        shape = (n, *(around.shape[1] if a == k else 1 for a in range(rank - 2)), points)
        around = f("reshape", around, shape=shape)
        here = f.index(around, size)
        index = here if index is None else f("add", f("mul", index, size), here)
        if w is not None:
            w = f("reshape", w, shape=shape)
            weight = w if weight is None else f("mul", weight, w)
        if masked:
            ok = f("bitwise_and", f("ge", around, 0.0), f("le", around, size - 1.0))
            inside = ok if inside is None else f("bitwise_and", inside, ok)
    assert index is not None
    count = product(index.shape[1:-1])
    rows = f("transpose", x, perm=(0, *range(2, rank), 1))
    rows = f("reshape", rows, shape=(n, product(x.shape[2:]), channels))
    pixels = f("gather", rows, f("reshape", index, shape=(n, count * points)), axis=1, batch=1, negative=False)
    pixels = f.cast(f("reshape", pixels, shape=(n, count, points, channels)), sum_dtype(x.dtype))
    if inside is not None:
        # Chosen before they are weighted: what lies outside may be infinite.
        pixels = f("where", f("reshape", inside, shape=(n, count, points, 1)), pixels, 0.0)
    if weight is not None:
        pixels = f("mul", pixels, f("reshape", weight, shape=(n, count, points, 1)))
    summed = f("reduce_sum", pixels, axes=(1,), keepdims=False)
    image = f("reshape", f.cast(summed, x.dtype), shape=(n, *grid.shape[1:-1], channels))
    return (f("transpose", image, perm=(0, rank - 1, *range(1, rank - 1))),)


def _samples() -> Iterable[Sample]:
    rng = np.random.default_rng(24)
    x, grid = rng.normal(size=(2, 3, 5, 6)).astype(np.float32), (rng.normal(size=(2, 4, 7, 2)) * 1.2).astype(np.float32)
    for mode in MODES:
        for padding in PADDINGS:
            for corners in (False, True):
                yield Sample((x, grid), {"mode": mode, "padding": padding, "align_corners": corners}, 1e-4)
    volume, grid = rng.normal(size=(1, 2, 3, 4, 5)).astype(np.float32), rng.normal(size=(1, 2, 3, 2, 3)).astype(np.float32)
    for mode, padding in (("linear", "zeros"), ("nearest", "reflection")):
        yield Sample((volume, grid), {"mode": mode, "padding": padding, "align_corners": False}, 1e-4)


#: Inputs: x (N, C, H, W) or (N, C, D, H, W), grid (N, H', W', 2) or (N, D', H', W', 3) with positions in -1..1, innermost
#: axis first. Attributes: ``mode`` one of `MODES` (of the pixels around a position), ``padding`` one of `PADDINGS`,
#: ``align_corners``: -1 and 1 are the centers of the outermost pixels, else their outer edges.
register(OpDef("grid_sample", _infer, _ref, limit="io", decompositions={"gather": _decompose}, samples=_samples))
