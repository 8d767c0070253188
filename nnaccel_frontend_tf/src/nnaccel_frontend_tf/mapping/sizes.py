"""Arithmetic on sizes that are expressions: what Keras and users write around reshapes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel_core.ir import Dim, dim_max, dim_min, product
from nnaccel_frontend_tf.items import Array, Host, Item, Known

if TYPE_CHECKING:
    from nnaccel_frontend_tf.mapping import Call

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add, "AddV2": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Minimum": dim_min, "Maximum": dim_max,
}  # fmt: skip


def host(dims: Any, dtype: str) -> Item:
    """Dims as an item: a constant where all are numbers."""
    array = np.empty(np.shape(dims), object)
    array[...] = dims
    if all(isinstance(d, (int, np.integer)) for d in array.reshape(-1)):
        return Known(array.astype(dtype))
    return Host(array, dtype)


def dims_of(item: Item | None) -> Array | None:
    """An operand as an array of dims; None where it is no host integers."""
    if isinstance(item, Host):
        return item.dims
    if isinstance(item, Known) and item.array.ndim <= 1 and item.array.dtype.kind in "iub" and item.array.size <= 64:
        out = np.empty(item.array.shape, object)
        out[...] = [int(v) for v in item.array] if item.array.ndim else int(item.array)
        return out
    return None


def _numbers(array: Array) -> bool:
    return all(isinstance(d, int) for d in array.reshape(-1))


def fold_sizes(n: Call) -> Item | None:
    """The result of an operation on sizes, as sizes; None where that is not known how."""
    op = n.op.type
    xs = [dims_of(i) for i in n.operands]
    if any(x is None for x in xs) or len(n.op.outputs) != 1:
        return None
    given: list[Array] = [x for x in xs if x is not None]
    dtype = n.op.outputs[0].dtype.name
    if dtype not in ("int32", "int64"):
        return None
    found = _result(n, op, given)
    return None if found is None else host(found, dtype)


def _result(n: Call, op: str, given: list[Array]) -> Any:
    first = given[0]
    if op in _BINARY:
        return np.frompyfunc(_BINARY[op], 2, 1)(given[0], given[1])
    if op in ("FloorDiv", "Div", "FloorMod") and _numbers(given[1]) and all(d > 0 for d in given[1].reshape(-1)):
        f = operator.floordiv if op != "FloorMod" else operator.mod
        return np.frompyfunc(f, 2, 1)(given[0], given[1])
    if op in ("Identity", "Cast", "StopGradient"):
        return first
    if op == "Pack" and all(x.ndim == 0 for x in given):
        return [x.item() for x in given]
    if op == "ConcatV2":
        return np.concatenate(given[:-1])
    if op == "Squeeze" and first.size == 1:
        return first.reshape(-1)[0]
    if op == "ExpandDims" and first.ndim == 0:
        return first.reshape(1)
    if op == "Reshape" and _numbers(given[1]) and given[1].size <= 1:
        return first.reshape([int(d) for d in given[1]])
    if op == "Prod" and first.ndim == 1:
        whole: Dim = product(first)
        return [whole] if n.attr("keep_dims") else whole
    if op == "GatherV2" and first.ndim == 1 and _numbers(given[1]):
        return first[given[1].astype(np.int64)]
    if op == "StridedSlice" and first.ndim == 1 and all(_numbers(g) for g in given[1:]):
        return _strided(n, first, given)
    if op == "Slice" and first.ndim == 1 and all(_numbers(g) for g in given[1:]):
        start, size = int(given[1][0]), int(given[2][0])
        return first[start : None if size < 0 else start + size]
    return None


def _strided(n: Call, x: Array, given: list[Array]) -> Any:
    start, end, step = (int(g[0]) for g in given[1:4])
    if n.attr("ellipsis_mask") or n.attr("new_axis_mask"):
        return None
    if n.attr("shrink_axis_mask") & 1:
        return x[start]
    return x[None if n.attr("begin_mask") & 1 else start : None if n.attr("end_mask") & 1 else end : step]


__all__ = ["dims_of", "fold_sizes", "host"]
