"""Gathering and ordering elements."""

from __future__ import annotations

import math

import numpy as np

from nnaccel_core.ir import Value
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.items import Known
from nnaccel_frontend_tf.mapping import Call, Result, maps, positive
from nnaccel_frontend_tf.mapping.shapes import cut


@maps("ReadVariableOp")
def read_variable(n: Call) -> Value:
    return n.c.variable(n.item(0))


@maps("ResourceGather")
def resource_gather(n: Call) -> Value:
    if n.attr("batch_dims", 0):
        raise Unmapped("batch_dims")
    return n.emit("gather", n.c.variable(n.item(0)), n.x(1), axis=0)


@maps("GatherV2")
def gather(n: Call) -> Value:
    x = n.x()
    (axis,) = n.ints(2, "the axis")
    axis = positive(axis, x.type.rank)
    if n.attr("batch_dims", 0):
        raise Unmapped("batch_dims")
    item = n.item(1)
    if isinstance(item, Known) and item.array.size == 1 and isinstance(x.shape[axis], int):
        at = int(item.array.reshape(-1)[0])  # one place is a slice, which costs nothing
        if 0 <= at < n.c.static(x.shape[axis]):
            return n.reshape(cut(n, x, axis, at, at + 1), (*x.shape[:axis], *item.array.shape, *x.shape[axis + 1 :]))
    return n.emit("gather", x, n.x(1), axis=axis)


@maps("GatherNd")
def gather_nd(n: Call) -> Value:
    x, index = n.x(0), n.x(1)
    depth = n.c.static(index.shape[-1])
    sizes = [n.c.static(d) for d in x.shape[:depth]]
    lead = index.shape[:-1]
    rows: Value | None = None
    for k, extent in enumerate(sizes):
        part = n.reshape(cut(n, index, index.type.rank - 1, k, k + 1), lead)
        rows = part if rows is None else n.emit("add", n.emit("mul", rows, n.number(extent, part)), part)
    if rows is None:
        raise Unmapped("indices of no axis")
    return n.emit("gather", n.reshape(x, (math.prod(sizes), *x.shape[depth:])), rows, axis=0)


@maps("OneHot")
def one_hot(n: Call) -> Value:
    index, on, off = n.x(0), n.x(2), n.x(3)
    depth = int(n.known(1, "the depth").reshape(-1)[0])
    rank = index.type.rank + 1
    axis = positive(int(n.attr("axis", -1)), rank)
    index = n.c.cast(index, "int64")
    index = n.reshape(index, (*index.shape[:axis], 1, *index.shape[axis:]))
    places = np.arange(depth, dtype=np.int64).reshape([depth if k == axis else 1 for k in range(rank)])
    return n.emit("where", n.emit("eq", index, n.c.constant(places, "int64")), on, off)


@maps("ReverseV2")
def reverse(n: Call) -> Value:
    x = n.x()
    axes = tuple(sorted(positive(a, x.type.rank) for a in n.ints(1, "the axes")))
    return n.emit("flip", x, axes=axes) if axes else x


@maps("Cumsum")
def cumsum(n: Call) -> Value:
    x = n.x()
    axis = positive(n.ints(1, "the axis")[0], x.type.rank)
    turned = bool(n.attr("reverse"))
    x = n.emit("flip", x, axes=(axis,)) if turned else x
    out = n.emit("cumsum", x, axis=axis)
    if n.attr("exclusive"):
        pads = tuple((1, -1) if k == axis else (0, 0) for k in range(x.type.rank))
        out = n.emit("pad", out, pads=pads, mode="constant", value=0.0)
    return n.emit("flip", out, axes=(axis,)) if turned else out


@maps("TopKV2")
def top_k(n: Call) -> Result:
    x = n.x()
    (k,) = n.ints(1, "k")
    values, places = n.c.emit_many("topk", [x], axis=x.type.rank - 1, k=k, largest=True)
    return [values, n.c.cast(places, n.dtype(1))]
