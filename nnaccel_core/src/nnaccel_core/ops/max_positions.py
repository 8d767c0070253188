"""Where maxima stand: positions in max pooling's windows, and adaptive max pooling with uneven windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, TensorType, ceil_div, dim_min, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Bound, Const, Index, Load, Nest, Scalar, Select, Unary
from nnaccel_core.ops.pool import pool_attrs, pooled_extent
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, lookup, register, require_equal

#: Beyond every position.
_NOWHERE = 1 << 62

Windows = list[list[tuple[int, int, int]]]  # for each axis, for each output: start, stop, step; inside the input


def _flat(at: Sequence[Dim], shape: Sequence[Dim]) -> Dim:
    out: Dim = 0
    for i, n in zip(at, shape, strict=True):
        out = out * n + i
    return out


def _beside(pooled: TensorType, given: TensorType) -> Sequence[TensorType]:
    if given.rank != pooled.rank or given.dtype != pooled.dtype:
        raise ShapeError(f"the second operand must be the pooled first, {pooled}")
    for k, (a, b) in enumerate(zip(pooled.shape, given.shape, strict=True)):
        require_equal(a, b, f"axis {k} of the pooled operand")
    return (TensorType(pooled.shape, "int64"),)


def _positions_nest(node: Node, at: Sequence[Dim], reduce: Sequence[tuple[str, Dim]], bounds: Sequence[Bound]) -> Nest:
    """The first position in a window whose element is the window's maximum, or, as in torch, the last one that is NaN."""
    x, top = node.inputs
    spatial = x.type.rank - 2
    names = ("n", "c", *(f"y{k}" for k in range(spatial)))
    point = tuple(sym(s) for s in names)
    here: Scalar = Index(_flat(at, x.shape[2:]))
    element = Load(x, (*point[:2], *at))
    found: Scalar = Select(Binary("eq", element, Load(top, point)), here, Const(_NOWHERE, "int64"))
    last: Scalar = Acc()
    if x.type.is_float:
        # Positions of NaN are counted down from -1, so that the smallest is the last.
        found = Select(Unary("isnan", element), Binary("sub", Const(-1, "int64"), here), found)
        last = Select(Binary("lt", last, Const(0, "int64")), Binary("sub", Const(-1, "int64"), last), last)
    return Nest(node.output, names, found, tuple(reduce), "min", last, tuple(bounds), "int64")


def _ref_positions(x: Array, windows: Windows) -> Array:
    spatial = x.shape[2:]
    out = np.zeros((*x.shape[:2], *(len(w) for w in windows)), np.int64)
    places = np.arange(int(np.prod(spatial))).reshape(spatial)
    for point in np.ndindex(*(len(w) for w in windows)):
        cut = tuple(slice(*windows[k][i]) for k, i in enumerate(point))
        inside = (slice(None), slice(None), *cut)
        part = x[inside].reshape(*x.shape[:2], -1)
        spots = places[cut].reshape(-1)
        first = np.argmax(part, axis=-1)
        if np.issubdtype(x.dtype, np.floating):
            nan = np.isnan(part)
            first = np.where(nan.any(-1), part.shape[-1] - 1 - np.argmax(nan[..., ::-1], axis=-1), first)
        place = (slice(None), slice(None), *point)
        out[place] = spots[first]
    return out


# --- positions of max_pool ----------------------------------------------------------------------------------------


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (pooled,) = lookup("max_pool").infer(types[:1], attrs)
    return _beside(pooled, types[1])


def _windows(shape: Sequence[int], attrs: Attrs) -> Windows:
    out = []
    for k, n in enumerate(shape):
        kernel, step, pad, d = attrs["kernel"][k], attrs["stride"][k], attrs["padding"][k], attrs["dilation"][k]
        count = int(pooled_extent(n, kernel, step, pad, d, attrs["ceil_mode"]))  # type: ignore[arg-type]
        starts = [i * step - pad[0] for i in range(count)]
        out.append([(s + max(0, -(s // d)) * d if s < 0 else s, min(s + d * (kernel - 1) + 1, n), d) for s in starts])
    return out


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return (_ref_positions(xs[0], _windows(xs[0].shape[2:], attrs)),)


def _loop(node: Node) -> tuple[Nest]:
    a, shape = node.attrs, node.inputs[0].shape[2:]
    at = [sym(f"y{k}") * a["stride"][k] - a["padding"][k][0] + sym(f"k{k}") * a["dilation"][k] for k in range(len(shape))]
    reduce = [(f"k{k}", a["kernel"][k]) for k in range(len(shape))]
    return (_positions_nest(node, at, reduce, [Bound(i, n) for i, n in zip(at, shape, strict=True)]),)


def _samples() -> Iterable[Sample]:
    x = np.random.default_rng(25).normal(size=(2, 3, 7, 8)).astype(np.float32)
    x[0, 1, 2, 3] = x[1, 0, 5, 5] = x[1, 0, 5, 6] = np.nan
    x[0, 0, :4, :4] = 1.0
    for attrs in (
        pool_attrs((2, 2), dilation=(1, 1), ceil_mode=True),
        pool_attrs((3, 2), (2, 1), ((1, 1), (0, 0)), dilation=(1, 1), ceil_mode=False),
        pool_attrs((2, 3), (1, 2), ((1, 1), (1, 1)), dilation=(2, 1), ceil_mode=False),
    ):
        (top,) = lookup("max_pool").ref([x], attrs)
        yield Sample((x, top), attrs)


#: Inputs x (N, C, spatial...) and ``max_pool(x)``; the result is int64, positions in the flattened spatial axes of x.
register(OpDef("max_pool_positions", _infer, _ref, limit="io", loop=_loop, samples=_samples))


# --- adaptive max pooling -----------------------------------------------------------------------------------------


def _adaptive_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if len(attrs["output_size"]) != x.rank - 2:
        raise ShapeError(f"output_size {attrs['output_size']} needs one entry per spatial axis of {x}")
    if any(n == 0 for n in x.shape[2:]):
        raise ShapeError(f"{x} has no element to take a maximum of")
    return (TensorType((*x.shape[:2], *attrs["output_size"]), x.dtype),)


def _adaptive_windows(shape: Sequence[int], attrs: Attrs) -> Windows:
    sizes = attrs["output_size"]
    return [[(i * n // s, -(-(i + 1) * n // s), 1) for i in range(s)] for n, s in zip(shape, sizes, strict=True)]


def _adaptive_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    for k, windows in enumerate(_adaptive_windows(x.shape[2:], attrs)):
        parts = [x.take(range(*w), axis=2 + k).max(axis=2 + k, keepdims=True) for w in windows]
        x = np.concatenate(parts, axis=2 + k) if parts else x.take([], axis=2 + k)
    return (x,)


def _adaptive(node: Node) -> tuple[list[Dim], list[tuple[str, Dim]]]:
    """Positions read, and reduced axes: window ``i`` of ``s`` is ``[i * n // s, ceil((i + 1) * n / s))``.

    Windows differ in length; the shorter ones read their last element again, which changes no maximum.
    """
    at: list[Dim] = []
    reduce: list[tuple[str, Dim]] = []
    for k, (n, s) in enumerate(zip(node.inputs[0].shape[2:], node.attrs["output_size"], strict=True)):
        start, here = sym(f"y{k}") * n // s, sym(f"k{k}")
        even = isinstance(n, int) and n % s == 0
        at.append(start + here if even else dim_min(start + here, ceil_div((sym(f"y{k}") + 1) * n, s) - 1))
        reduce.append((f"k{k}", n // s if even else ceil_div(n + s - 1, s)))
    return at, reduce


def _adaptive_loop(node: Node) -> tuple[Nest]:
    at, reduce = _adaptive(node)
    x = node.inputs[0]
    names = ("n", "c", *(f"y{k}" for k in range(len(at))))
    return (Nest(node.output, names, Load(x, (sym("n"), sym("c"), *at)), tuple(reduce), "max"),)


def _adaptive_samples() -> Iterable[Sample]:
    x = np.random.default_rng(26).normal(size=(2, 3, 7, 8)).astype(np.float32)
    for size in ((1, 1), (3, 3), (7, 4), (2, 5)):
        yield Sample((x,), {"output_size": size})
    yield Sample((x[:, :, 0],), {"output_size": (3,)})


register(
    OpDef("adaptive_max_pool", _adaptive_infer, _adaptive_ref, limit="io", loop=_adaptive_loop, samples=_adaptive_samples)
)


def _adaptive_positions_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (pooled,) = _adaptive_infer(types[:1], attrs)
    return _beside(pooled, types[1])


def _adaptive_positions_samples() -> Iterable[Sample]:
    for s in _adaptive_samples():
        x = np.array(s.inputs[0])
        x[0, 0, ..., 2] = np.nan
        yield Sample((x, *_adaptive_ref([x], s.attrs)), s.attrs)


#: As ``max_pool_positions``, for ``adaptive_max_pool``.
register(
    OpDef(
        "adaptive_max_pool_positions",
        _adaptive_positions_infer,
        lambda xs, a: (_ref_positions(xs[0], _adaptive_windows(xs[0].shape[2:], a)),),
        limit="io",
        loop=lambda n: (_positions_nest(n, *_adaptive(n), ()),),
        samples=_adaptive_positions_samples,
    )
)
