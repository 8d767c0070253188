"""Calls that write to positions that a tensor gives: scatter and its relatives, ``index_put`` and ``x[index] = y``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnaccel_core.ir import Value, product
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.dtypes import TO_TORCH
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, as_value, axis_of, expanded, is_tensor, tensor, value_of
from nnaccel_frontend_torch.mapping.indexing import index_value, line_position, tensor_of
from nnaccel_frontend_torch.mapping.pointwise import TABLE as POINTWISE
from nnaccel_frontend_torch.refusal import Unmapped

_REDUCTIONS = {None: "none", "add": "add", "multiply": "mul", "sum": "add", "prod": "mul", "amax": "max", "amin": "min"}
#: What leaves the other operand of each reduction as it is.
_NEUTRAL = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "amax": -math.inf, "amin": math.inf}


def _scattered(b: Importer, x: Value, at: Value, updates: Value, axis: int, reduction: str = "none") -> Value:
    return b.emit("scatter_elements", [x, at, updates], axis=axis, reduction=reduction, negative=False)


def scatter(b: Importer, input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: Any = None) -> Ref:
    """``scatter`` of a tensor or a number, ``scatter_add``, ``scatter_reduce`` onto the tensor itself."""
    x, at = value_of(b, input), index_value(b, index)
    given = value if src is None else src
    if reduce not in _REDUCTIONS or given is None or x.type.rank == 0 or at.type.rank != x.type.rank or x.dtype == "bool":
        raise Unmapped(f"scatter of {x.dtype} with reduce={reduce!r}")
    if is_tensor(given):
        updates = value_of(b, given)
        if updates.dtype != x.dtype:
            raise Unmapped("scatter of another dtype")
    else:
        updates = expanded(b, b.constant(given, x.dtype), at.shape)
    return b.temp(_scattered(b, x, at, updates, axis_of(dim, x.type.rank), _REDUCTIONS[reduce]))


def scatter_reduce(b: Importer, input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Ref:
    """``scatter_reduce``; without the tensor itself, what is written to starts from the reduction's neutral element."""
    x, at = value_of(b, input), index_value(b, index)
    if include_self and reduce != "mean":
        return scatter(b, input, dim, index, src, reduce=reduce)
    if reduce not in _NEUTRAL or x.type.rank == 0 or at.type.rank != x.type.rank or not x.type.is_float:
        raise Unmapped(f"scatter_reduce of {x.dtype} with reduce={reduce!r} and include_self={include_self}")
    axis = axis_of(dim, x.type.rank)
    start = x
    if not include_self:
        start = _scattered(b, x, at, expanded(b, b.constant(_NEUTRAL[reduce], x.dtype), at.shape), axis)
    if reduce != "mean":
        return scatter(b, b.temp(start), dim, index, src, reduce=reduce)
    total = scatter(b, b.temp(start), dim, index, src, reduce="sum").read(b)
    one = b.constant(1.0, x.dtype)
    counted = _scattered(b, expanded(b, b.constant(0.0, x.dtype), x.shape), at, expanded(b, one, at.shape), axis, "add")
    # Where nothing was written the tensor is its own mean.
    parts = b.emit("add", [counted, one]) if include_self else b.emit("maximum", [counted, one])
    return b.temp(b.emit("div", [total, parts]))


def _along(b: Importer, input: Any, dim: int, index: Any) -> tuple[Value, Value, int]:
    """The tensor, positions on one axis shaped to broadcast against it, and the axis."""
    x, at = value_of(b, input), index_value(b, index)
    if at.type.rank == 0:
        at = b.emit("reshape", [at], shape=(1,))
    if x.type.rank == 0 or at.type.rank != 1:
        raise Unmapped("writing along an axis of a scalar")
    axis = axis_of(dim, x.type.rank)
    return x, b.emit("reshape", [at], shape=tuple(at.shape[0] if a == axis else 1 for a in range(x.type.rank))), axis


def index_add(b: Importer, input: Any, dim: int, index: Any, source: Any, *, alpha: float = 1) -> Ref:
    """``index_add``."""
    _, at, axis = _along(b, input, dim, index)
    updates = POINTWISE["mul"](b, source, alpha) if alpha != 1 else source
    return scatter(b, input, axis, b.temp(expanded(b, at, tensor(b, updates).type.shape)), updates, reduce="add")


def index_copy(b: Importer, input: Any, dim: int, index: Any, source: Any) -> Ref:
    """``index_copy``."""
    _, at, axis = _along(b, input, dim, index)
    return scatter(b, input, axis, b.temp(expanded(b, at, tensor(b, source).type.shape)), source)


def index_fill(b: Importer, input: Any, dim: int, index: Any, value: Any) -> Ref:
    """``index_fill``."""
    x, at, axis = _along(b, input, dim, index)
    shape = tuple(at.shape[axis] if a == axis else d for a, d in enumerate(x.shape))
    fill = as_value(b, value, TO_TORCH[x.dtype]) if is_tensor(value) else b.constant(value, x.dtype)
    return scatter(b, input, axis, b.temp(expanded(b, at, shape)), b.temp(expanded(b, fill, shape)))


def index_put(b: Importer, input: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Ref:
    """``index_put``: ``x[indices] = values`` or ``+=``, with positions for some axes and None for those taken whole.

    Of elements that are written more than once torch leaves open which one stays; here it is the last.
    """
    x = value_of(b, input)
    items = [tensor_of(b, i) if isinstance(i, list) else i for i in indices]
    if len(items) == 1 and is_tensor(items[0]) and value_of(b, items[0]).dtype == "bool":
        return _masked(b, x, value_of(b, items[0]), values, accumulate)
    if len(items) > x.type.rank or not any(is_tensor(i) for i in items) or any(i is not None and not is_tensor(i) for i in items):
        raise Unmapped("index_put by what are no positions")
    picked = [a for a, i in enumerate(items) if i is not None]
    whole = [a for a in range(x.type.rank) if a not in picked]
    at = line_position(b, [index_value(b, items[a]) for a in picked], [x.shape[a] for a in picked])
    dtype = TO_TORCH[x.dtype]
    new = as_value(b, values, dtype) if is_tensor(values) else b.constant(values, x.dtype)
    if x.dtype == "bool":
        raise Unmapped("index_put of booleans")
    rest = tuple(x.shape[a] for a in whole)
    # The positions' axes stand where the picked axes stood, or in front when these are not side by side.
    side_by_side = picked == list(range(picked[0], picked[0] + len(picked)))
    before = sum(a < picked[0] for a in whole) if side_by_side else 0
    shape = (*rest[:before], *at.shape, *rest[before:])
    new = expanded(b, new, shape)
    inner = tuple(range(before, before + at.type.rank))
    order = (*inner, *(a for a in range(len(shape)) if a not in inner))
    new = b.emit("reshape", [b.emit("transpose", [new], perm=order)], shape=(product(at.shape), *rest))
    perm = (*picked, *whole)
    lines = b.emit("reshape", [b.emit("transpose", [x], perm=perm)], shape=(product(x.shape[a] for a in picked), *rest))
    column = b.emit("reshape", [at], shape=(product(at.shape), *([1] * len(rest))))
    done = _scattered(b, lines, expanded(b, column, new.shape), new, 0, "add" if accumulate else "none")
    done = b.emit("reshape", [done], shape=tuple(x.shape[a] for a in perm))
    return b.temp(b.emit("transpose", [done], perm=tuple(perm.index(a) for a in range(x.type.rank))))


def _masked(b: Importer, x: Value, mask: Value, values: Any, accumulate: bool) -> Ref:
    """A number, or a tensor of one element, where a mask of the leading axes is true."""
    if mask.type.rank > x.type.rank or (is_tensor(values) and any(d != 1 for d in tensor(b, values).type.shape)):
        raise Unmapped("writing several values by a mask")
    mask = b.emit("reshape", [mask], shape=(*mask.shape, *([1] * (x.type.rank - mask.type.rank))))
    new = as_value(b, values, TO_TORCH[x.dtype]) if is_tensor(values) else b.constant(values, x.dtype)
    if new.type.rank:
        new = b.emit("reshape", [new], shape=())
    return b.temp(b.emit("where", [mask, b.emit("add", [x, new]) if accumulate else new, x]))


TABLE: dict[str, Handler] = {
    "scatter": scatter,
    "scatter_add": lambda b, input, dim, index, src: scatter(b, input, dim, index, src, reduce="add"),
    "scatter_reduce": scatter_reduce,
    "index_add": index_add,
    "index_copy": index_copy,
    "index_fill": index_fill,
    "index_put": index_put,
}
