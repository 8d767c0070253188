"""Operators that pick, order or move elements: gather and scatter, flip and roll, sort, top-k, argmax, cumulative sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError, UnsupportedError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, sym
from nnaccel_core.loopir.grammar import Load, Nest
from nnaccel_core.ops.elementwise import axis_names
from nnaccel_core.ops.reduce import reduced_shape
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, register, require_equal, unary_vjp


def _draw(*shape: int) -> Array:
    return np.random.default_rng(23).normal(size=shape).astype(np.float32)


def _check_axis(x: TensorType, axis: int) -> None:
    if not 0 <= axis < x.rank:
        raise ShapeError(f"axis {axis} is not in 0..{x.rank - 1}")


def _check_index(t: TensorType) -> None:
    if t.dtype not in ("int32", "int64"):
        raise ShapeError(f"indices must be int32 or int64, not {t.dtype}")


# --- gather and scatter -------------------------------------------------------------------------------------------


def in_range(index: Array, size: int, what: str, negative: bool = True) -> Array:
    """``index`` with negative entries, where they are allowed, counted from the end.

    Raises:
        ShapeError: an index outside ``-size .. size - 1``, or ``0 .. size - 1``.
    """
    first = -size if negative else 0
    if index.size and (index.min() < first or index.max() >= size):
        raise ShapeError(f"{what}: index {int(index.min())}..{int(index.max())} leaves {first}..{size - 1}")
    return np.where(index < 0, index + size, index)


# Indices count from the end where they are negative, unless ``attrs["negative"]`` is False. The first ``attrs["batch"]``
# axes (none by default) belong to x and the indices alike: each sample is gathered from by its own indices.


def _gather_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, i = types
    axis, batch = attrs["axis"], attrs.get("batch", 0)
    _check_axis(x, axis)
    _check_index(i)
    if not 0 <= batch <= min(axis, i.rank):
        raise ShapeError(f"{batch} batch axes for axis {axis} and indices of rank {i.rank}")
    for k in range(batch):
        require_equal(x.shape[k], i.shape[k], f"batch axis {k}")
    return (TensorType((*x.shape[:axis], *i.shape[batch:], *x.shape[axis + 1 :]), x.dtype),)


def _gather_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, axis, batch = xs[0], attrs["axis"], attrs.get("batch", 0)
    index = in_range(xs[1], x.shape[axis], "gather", attrs.get("negative", True))
    if not batch:
        return (np.take(x, index, axis=axis),)
    out = np.empty((*x.shape[:axis], *index.shape[batch:], *x.shape[axis + 1 :]), x.dtype)
    for at in np.ndindex(*x.shape[:batch]):
        out[at] = np.take(x[at], index[at], axis=axis - batch)
    return (out,)


def _gather_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    x, index = ins
    if not x.type.is_float:
        return (None, None)
    attrs = {**n.attrs, "extent": x.shape[n.attrs["axis"]]}
    return (r.add("gather_backward", [gs[0], index], attrs, origin=n.origin), None)


register(
    OpDef(
        "gather",
        _gather_infer,
        _gather_ref,
        _gather_vjp,
        host=True,
        samples=lambda: [
            Sample((_draw(5, 4), np.array([[0, 3], [4, -1]])), {"axis": 0}),
            Sample((_draw(2, 5, 3), np.array([1, 1, 4], np.int32)), {"axis": 1}),
            Sample((_draw(2, 5, 3), np.array([[1, 1, 4], [0, 2, -1]])), {"axis": 1, "batch": 1}),
        ],
    )
)


def _gather_backward_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    g, i = types
    axis, batch, extent = attrs["axis"], attrs.get("batch", 0), attrs["extent"]
    _check_index(i)
    after = axis + i.rank - batch
    if not 0 <= batch <= min(axis, i.rank) or after > g.rank:
        raise ShapeError(f"g {g} is no result of gathering along axis {axis} by {i} with {batch} batch axes")
    for k, (a, b) in enumerate(zip((*g.shape[:batch], *g.shape[axis:after]), i.shape, strict=True)):
        require_equal(a, b, f"axis {k} of the indices")
    return (TensorType((*g.shape[:axis], extent, *g.shape[after:]), g.dtype),)


def _gather_backward_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    g, axis, batch, extent = xs[0], attrs["axis"], attrs.get("batch", 0), int(attrs["extent"])
    index = in_range(xs[1], extent, "gather_backward", attrs.get("negative", True))
    lead, tail = g.shape[:axis], g.shape[axis + index.ndim - batch :]
    count = int(np.prod(index.shape[batch:]))
    out = np.zeros((*lead, extent, *tail), g.dtype)
    rows = out.reshape(*lead[:batch], int(np.prod(lead[batch:])), extent, int(np.prod(tail)))
    given = g.reshape(*rows.shape[:-2], count, rows.shape[-1])
    for at in np.ndindex(*lead[:batch]):
        np.add.at(rows[at], (np.arange(rows.shape[-3])[:, None], index[at].reshape(-1)), given[at])
    return (out,)


def _gather_backward_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]
) -> Sequence[Value | None]:
    attrs = {k: v for k, v in n.attrs.items() if k != "extent"}
    return (r.add("gather", [gs[0], ins[1]], attrs, origin=n.origin), None)


#: Inputs g, the gradient of a ``gather``'s result, and its indices; attributes of ``gather`` and ``extent``, what its x has
#: along the axis. The result is x's gradient: rows that were read several times get the sum.
register(
    OpDef(
        "gather_backward",
        _gather_backward_infer,
        _gather_backward_ref,
        _gather_backward_vjp,
        host=True,
        samples=lambda: [
            Sample((_draw(2, 2, 4), np.array([[0, 3], [3, -1]])), {"axis": 0, "extent": 5}),
            Sample((_draw(2, 3, 3), np.array([1, 1, 4], np.int32)), {"axis": 1, "extent": 5}),
            Sample((_draw(2, 4, 3, 2), np.array([[1, 1, 4], [0, 2, 2]])), {"axis": 2, "batch": 1, "extent": 6}),
        ],
    )
)


def _elements_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    _check_axis(types[0], attrs["axis"])
    _check_index(types[1])
    return (TensorType(types[1].shape, types[0].dtype),)


def _gather_elements_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, axis = xs[0], attrs["axis"]
    index = in_range(xs[1], x.shape[axis], "gather_elements", attrs.get("negative", True))
    grid: list[Array] = list(np.indices(index.shape, sparse=True))
    grid[axis] = index
    return (x[tuple(grid)],)


def _spread(e: Emitter, n: Node, x: Value, index: Value, g: Value) -> Value:
    """The gradient of ``x`` of which the elements at ``index`` were picked: the sum of what each gave."""
    attrs = {"axis": n.attrs["axis"], "reduction": "add", "negative": n.attrs.get("negative", True)}
    return e("scatter_elements", e.zeros(x.shape, x.dtype), index, g, **attrs)


def _gather_elements_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]
) -> Sequence[Value | None]:
    return (_spread(Emitter(r, n.origin), n, ins[0], ins[1], gs[0]) if ins[0].type.is_float else None, None)


register(
    OpDef(
        "gather_elements",
        _elements_infer,
        _gather_elements_ref,
        _gather_elements_vjp,
        host=True,
        samples=lambda: [Sample((_draw(3, 4), np.array([[0, 1], [3, 2], [1, 1]])), {"axis": 1})],
    )
)

REDUCTIONS: dict[str, Callable[[Array, tuple[Array, ...], Array], None]] = {
    "none": lambda out, at, v: out.__setitem__(at, v),
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _scatter_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, i, u = types
    _check_axis(x, attrs["axis"])
    _check_index(i)
    if u.dtype != x.dtype or u.rank != i.rank:
        raise ShapeError("updates need the dtype of x and the rank of the indices")
    if attrs.get("reduction", "none") not in REDUCTIONS:
        raise ShapeError(f"reduction {attrs['reduction']!r} is not known; known: {', '.join(REDUCTIONS)}")
    return (TensorType(x.shape, x.dtype),)


def _scatter_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    out, axis = np.array(xs[0]), attrs["axis"]
    index = in_range(xs[1], out.shape[axis], "scatter_elements", attrs.get("negative", True))
    grid: list[Array] = list(np.indices(index.shape))
    grid[axis] = index
    values = xs[2][tuple(slice(0, d) for d in index.shape)]
    REDUCTIONS[attrs.get("reduction", "none")](out, tuple(grid), values)
    return (out,)


def _scatter_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]
) -> Sequence[Value | None]:
    (x, index, u), e, g = ins, Emitter(r, n.origin), gs[0]
    reduction, where = n.attrs.get("reduction", "none"), {k: v for k, v in n.attrs.items() if k != "reduction"}
    if not x.type.is_float:
        return (None, None, None)
    if reduction not in ("none", "add"):
        raise UnsupportedError(f"{n.where()}: scattering by {reduction!r} has no gradient rule; 'none' and 'add' have one")
    du = e("gather_elements", g, index, **where)
    if u.shape != index.shape:  # the rest of the updates was not used
        slices = {"starts": (0,) * u.type.rank, "ends": index.shape, "steps": (1,) * u.type.rank}
        du = e("slice_update", e.zeros(u.shape, u.dtype), du, **slices)
    if reduction == "add":
        return (g, None, du)
    return (e("scatter_elements", g, index, e.zeros(index.shape, u.dtype), **where), None, du)


def _scatter_samples() -> Iterable[Sample]:
    index = np.array([[0, 1], [3, 2], [1, 1]])
    yield Sample((_draw(3, 4), index[:, :1], _draw(3, 1)), {"axis": 1, "reduction": "none"})
    yield Sample((_draw(3, 4), index, _draw(3, 2)), {"axis": 1, "reduction": "add"})
    yield Sample((_draw(3, 4), index[:2], _draw(3, 2)), {"axis": 1, "reduction": "add"})


register(OpDef("scatter_elements", _scatter_infer, _scatter_ref, _scatter_vjp, host=True, samples=_scatter_samples))


# --- flip and roll -----------------------------------------------------------------------------------------------


def _moved(node: Node, at: Callable[[int, Dim, Dim], Dim]) -> tuple[Nest]:
    x = node.inputs[0]
    names = axis_names(x.type.rank)
    index = tuple(at(k, sym(s), x.shape[k]) for k, s in enumerate(names))
    return (Nest(node.output, names, Load(x, index)),)


register(
    OpDef(
        "flip",
        lambda ts, a: (TensorType(ts[0].shape, ts[0].dtype),),
        lambda xs, a: (np.flip(xs[0], a["axes"]),),
        unary_vjp(lambda e, n, x, y, g: e("flip", g, **n.attrs)),
        "any",
        loop=lambda n: _moved(n, lambda k, i, d: d - 1 - i if k in n.attrs["axes"] else i),
        samples=lambda: [Sample((_draw(3, 4, 5),), {"axes": (0, 2)})],
    )
)


def _shift(node: Node, k: int) -> int:
    return int(sum(s for s, a in zip(node.attrs["shifts"], node.attrs["axes"], strict=True) if a == k))


register(
    OpDef(
        "roll",
        lambda ts, a: (TensorType(ts[0].shape, ts[0].dtype),),
        lambda xs, a: (np.roll(xs[0], a["shifts"], a["axes"]),),
        unary_vjp(lambda e, n, x, y, g: e("roll", g, shifts=tuple(-s for s in n.attrs["shifts"]), axes=n.attrs["axes"])),
        "any",
        loop=lambda n: _moved(n, lambda k, i, d: (i - _shift(n, k)) % d if _shift(n, k) else i),
        samples=lambda: [Sample((_draw(3, 4, 5),), {"shifts": (1, -2), "axes": (0, 2)})],
    )
)


# --- order --------------------------------------------------------------------------------------------------------


def _arg_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    _check_axis(types[0], attrs["axis"])
    return (TensorType(reduced_shape(types[0].shape, (attrs["axis"],), attrs["keepdims"]), "int64"),)


for _name, _ref in (("argmax", np.argmax), ("argmin", np.argmin)):
    register(
        OpDef(
            _name,
            _arg_infer,
            lambda xs, a, f=_ref: (np.asarray(f(xs[0], axis=a["axis"], keepdims=a["keepdims"])).astype(np.int64),),  # type: ignore[misc]
            host=True,
            samples=lambda: [Sample((_draw(3, 7),), {"axis": 1, "keepdims": k}) for k in (True, False)],
        )
    )


def _cumsum_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    _check_axis(types[0], attrs["axis"])
    return (TensorType(types[0].shape, types[0].dtype),)


def _cumsum_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    axis = n.attrs["axis"]
    return e("flip", e("cumsum", e("flip", g, axes=(axis,)), axis=axis), axes=(axis,))


register(
    OpDef(
        "cumsum",
        _cumsum_infer,
        lambda xs, a: (np.cumsum(xs[0], axis=a["axis"]).astype(xs[0].dtype),),
        unary_vjp(_cumsum_vjp),
        host=True,
        samples=lambda: [Sample((_draw(3, 5),), {"axis": 1})],
    )
)


def _ordered(x: Array, axis: int, descending: bool) -> Array:
    """Stable order of ``x`` along ``axis``; NaN counts as the largest, as in torch."""
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    # Sorting the reversed array ascending and reversing twice keeps equal elements in order.
    back = np.flip(x, axis)
    order = np.flip(np.argsort(back, axis=axis, kind="stable"), axis)
    return np.asarray(x.shape[axis] - 1 - order)


def _ordered_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value | None]
) -> Sequence[Value | None]:
    """Every value's gradient goes to where it came from, which the second result says."""
    g = gs[0]
    return (None if g is None or not g.type.is_float else _spread(Emitter(r, n.origin), n, ins[0], outs[1], g),)


def _topk_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, axis, k = types[0], attrs["axis"], attrs["k"]
    _check_axis(x, axis)
    extent = x.shape[axis]
    if isinstance(extent, int) and not 0 <= k <= extent:
        raise ShapeError(f"k {k} is not in 0..{extent}")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return (TensorType(shape, x.dtype), TensorType(shape, "int64"))


def _topk_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, axis = xs[0], attrs["axis"]
    order = _ordered(x, axis, attrs.get("largest", True)).take(range(attrs["k"]), axis=axis)
    return (np.take_along_axis(x, order, axis), order.astype(np.int64))


register(
    OpDef(
        "topk",
        _topk_infer,
        _topk_ref,
        _ordered_vjp,
        host=True,
        samples=lambda: [Sample((_draw(3, 7),), {"axis": 1, "k": 3, "largest": big}) for big in (True, False)],
    )
)


def _sort_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    _check_axis(types[0], attrs["axis"])
    return (TensorType(types[0].shape, types[0].dtype), TensorType(types[0].shape, "int64"))


def _sort_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    order = _ordered(xs[0], attrs["axis"], attrs.get("descending", False))
    return (np.take_along_axis(xs[0], order, attrs["axis"]), order.astype(np.int64))


register(
    OpDef(
        "sort",
        _sort_infer,
        _sort_ref,
        _ordered_vjp,
        host=True,
        samples=lambda: [Sample((_draw(3, 7),), {"axis": 1, "descending": d}) for d in (True, False)],
    )
)
