"""Gathering, scattering and ordering elements."""

from __future__ import annotations

import math

import numpy as np

from nnaccel_core.ir import Value, dim_min
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.items import Known
from nnaccel_frontend_onnx.mapping import Call, Result, maps, positive
from nnaccel_frontend_onnx.mapping.shapes import cut

_REDUCTIONS = ("none", "add", "mul", "max", "min")


@maps("Gather")
def gather(n: Call) -> Value:
    x = n.x()
    axis = n.axis(x.type.rank, 0)
    item = n.item(1)
    if isinstance(item, Known) and item.array.size == 1 and n.c.told(x.shape[axis]):
        # One place is a slice, which costs nothing.
        at, extent = int(item.array.reshape(-1)[0]), x.shape[axis]
        least = at + 1 if at >= 0 else -at
        if not isinstance(extent, int) or extent >= least:
            n.c.assume(dim_min(extent, least), least)
            start = at if at >= 0 else extent + at
            return n.reshape(cut(n, x, axis, start, start + 1), (*x.shape[:axis], *item.array.shape, *x.shape[axis + 1 :]))
    return n.emit("gather", x, n.x(1), axis=axis)


@maps("GatherElements")
def gather_elements(n: Call) -> Value:
    x = n.x()
    return n.emit("gather_elements", x, n.x(1), axis=n.axis(x.type.rank, 0))


@maps("ScatterElements", "Scatter")
def scatter_elements(n: Call) -> Value:
    x = n.x()
    reduction = n.attr("reduction", "none")
    if reduction not in _REDUCTIONS:
        raise Unmapped(f"reduction {reduction!r}")
    return n.emit("scatter_elements", x, n.x(1), n.x(2), axis=n.axis(x.type.rank, 0), reduction=reduction)


def _rows(n: Call, index: Value, sizes: list[int]) -> Value:
    """Positions in the flattened leading axes: ``index`` (..., len(sizes)) becomes (...)."""
    lead = index.shape[:-1]
    out: Value | None = None
    for k, extent in enumerate(sizes):
        part = n.reshape(cut(n, index, index.type.rank - 1, k, k + 1), lead)
        wrapped = n.emit("add", part, n.number(extent, part))
        part = n.emit("where", n.emit("lt", part, n.number(0, part)), wrapped, part)
        out = part if out is None else n.emit("add", n.emit("mul", out, n.number(extent, part)), part)
    if out is None:
        raise Unmapped("indices of no axis")
    return out


@maps("GatherND")
def gather_nd(n: Call) -> Value:
    x, index = n.x(0), n.x(1)
    if n.attr("batch_dims", 0):
        raise Unmapped("batch_dims")
    depth = n.c.static(index.shape[-1])
    sizes = [n.c.static(d) for d in x.shape[:depth]]
    flat = n.reshape(x, (math.prod(sizes), *x.shape[depth:]))
    return n.emit("gather", flat, _rows(n, index, sizes), axis=0)


@maps("ScatterND")
def scatter_nd(n: Call) -> Value:
    x, index, updates = n.x(0), n.x(1), n.x(2)
    reduction = n.attr("reduction", "none")
    if reduction not in _REDUCTIONS:
        raise Unmapped(f"reduction {reduction!r}")
    depth = n.c.static(index.shape[-1])
    sizes = [n.c.static(d) for d in x.shape[:depth]]
    inner = math.prod(n.c.static(d) for d in x.shape[depth:])
    count = math.prod(n.c.static(d) for d in index.shape[:-1])
    rows = n.reshape(_rows(n, index, sizes), (count, 1))
    flat = n.reshape(x, (math.prod(sizes), inner))
    places = n.emit("expand", rows, shape=(count, inner))
    done = n.emit("scatter_elements", flat, places, n.reshape(updates, (count, inner)), axis=0, reduction=reduction)
    return n.reshape(done, x.shape)


@maps("OneHot")
def one_hot(n: Call) -> Value:
    index, values = n.x(0), n.x(2)
    depth = int(np.asarray(n.known(1, "the depth")).reshape(-1)[0])
    rank = index.type.rank + 1
    axis = positive(int(n.attr("axis", -1)), rank)
    index = n.c.cast(index, "int64")
    wrapped = n.emit("add", index, n.number(depth, index))
    index = n.emit("where", n.emit("lt", index, n.number(0, index)), wrapped, index)
    index = n.reshape(index, (*index.shape[:axis], 1, *index.shape[axis:]))
    places = np.arange(depth, dtype=np.int64).reshape([depth if k == axis else 1 for k in range(rank)])
    hot = n.emit("eq", index, n.c.constant(places, "int64"))
    off, on = (n.reshape(cut(n, values, 0, k, k + 1), ()) for k in (0, 1))
    return n.emit("where", hot, on, off)


@maps("TopK")
def top_k(n: Call) -> Result:
    x = n.x()
    found = n.ints(1, "k")
    if not found:
        raise Unmapped("k is absent")
    axis = n.axis(x.type.rank, -1)
    return n.c.emit_many("topk", [x], axis=axis, k=found[0], largest=bool(n.attr("largest", 1)))


@maps("CumSum")
def cumsum(n: Call) -> Value:
    x = n.x()
    given = n.known(1, "the axis")
    axis = positive(0 if given is None else int(given.reshape(-1)[0]), x.type.rank)
    back = bool(n.attr("reverse", 0))
    x = n.emit("flip", x, axes=(axis,)) if back else x
    out = n.emit("cumsum", x, axis=axis)
    if n.attr("exclusive", 0):
        pads = tuple((1, -1) if k == axis else (0, 0) for k in range(x.type.rank))
        out = n.emit("pad", out, pads=pads, mode="constant", value=0.0)
    return n.emit("flip", out, axes=(axis,)) if back else out


@maps("GridSample")
def grid_sample(n: Call) -> Value:
    modes = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}
    mode = modes.get(n.attr("mode", "linear"))
    if mode is None:
        raise Unmapped(f"mode {n.attr('mode')!r}")
    align, padding = bool(n.attr("align_corners", 0)), n.attr("padding_mode", "zeros")
    return n.emit("grid_sample", n.x(0), n.x(1), mode=mode, padding=padding, align_corners=align)
